//! What a session cannot be started for: said as it happens, with the next step, and nothing of ours stays in the cluster.

use std::time::{Duration, Instant};

use mirrord_tests::cluster::{Exec, Space};

const TRUE: &str = "/bin/true";

#[test]
fn what_keeps_a_session_from_starting_is_said_with_the_next_step() {
    let space = Space::new();
    space.shop(1);
    let fails = |exec: Exec, why: &str, help: &str| {
        let mut session = exec.start("fails", &[TRUE.to_owned()]);
        assert_eq!(session.wait().code(), Some(1), "{}", session.output());
        let output = session.output();
        assert!(output.contains(why) && output.contains(help), "{output}");
    };
    fails(Exec::plain(&space, "deployment/shopp"), "there is no deployment `shopp`", "kubectl get deployment");
    fails(Exec::plain(&space, "deployment/shop/container/db"), "has no container `db`", "it has istio-proxy, shop");
    fails(Exec::plain(&space, "deployment/shop").user("developer"), "you are not allowed to", "mirrord rbac");
    fails(Exec::plain(&space, "deployment/shop").option("-i local/none:1"), "image cannot be had", "--agent-image");
    space.kubectl("scale deployment/shop --replicas=0");
    space.eventually("it has none", || space.pods("app=shop").is_empty().then_some(()));
    fails(Exec::plain(&space, "deployment/shop"), "has no pod that could be used", "kubectl get pods");
}

#[test]
fn a_namespace_that_forbids_agents_says_so_and_another_one_may_have_them() {
    let (space, strict) = (Space::new(), Space::new());
    space.shop(1);
    strict.kubectl(&format!("label namespace {} pod-security.kubernetes.io/enforce=restricted", strict.name));
    let mut session = Exec::plain(&space, "deployment/shop").option(&format!("-a {}", strict.name)).start("fails", &[TRUE.to_owned()]);
    assert_eq!(session.wait().code(), Some(1), "{}", session.output());
    let output = session.output();
    assert!(output.contains("violates PodSecurity") && output.contains("--agent-namespace"), "{output}");
    strict.kubectl(&format!("label namespace {} pod-security.kubernetes.io/enforce-", strict.name));
    let mut session = Exec::plain(&space, "deployment/shop").option(&format!("-a {}", strict.name)).start("works", &[TRUE.to_owned()]);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    assert_eq!((space.agents().len(), strict.agents().len()), (0, 1));
}

#[test]
fn an_agent_that_its_node_has_no_room_for_is_told_at_once_and_removed() {
    let space = Space::new();
    space.shop(1);
    let file = space.config(r#"{"agent": {"resources": {"requests": {"cpu": "1000"}}, "startup_timeout": 300}}"#);
    let began = Instant::now();
    let mut session = Exec::plain(&space, "deployment/shop").word("-f").word(&file).start("fails", &[TRUE.to_owned()]);
    assert_eq!(session.wait().code(), Some(1), "{}", session.output());
    let output = session.output();
    assert!(output.contains("the node has no place for it") && output.contains("Insufficient cpu"), "{output}");
    assert!(output.contains("agent.resources"), "{output}");
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    space.agents_gone();
}

#[test]
fn pods_that_are_not_ready_are_named_with_their_reason() {
    let space = Space::new();
    space.shop(1);
    space.kubectl(&format!("scale deployment/shop --replicas={}", 0));
    space.eventually("it has none", || space.pods("app=shop").is_empty().then_some(()));
    space.kubectl("set image deployment/shop shop=local/none:1");
    space.kubectl("scale deployment/shop --replicas=1");
    space.eventually("its image is missed", || space.kubectl("get pods -l app=shop").contains("ImagePull").then_some(()));
    let mut session = Exec::plain(&space, "deployment/shop").start("fails", &[TRUE.to_owned()]);
    assert_eq!(session.wait().code(), Some(1), "{}", session.output());
    let output = session.output();
    assert!(output.contains("deployment/shop has no pod that could be used: shop-") && output.contains("ImagePull"), "{output}");
    space.agents_gone();
}

#[test]
fn whoever_gives_up_while_an_agent_starts_leaves_none_behind() {
    let space = Space::new();
    space.shop(1);
    let session = Exec::plain(&space, "deployment/shop").start("gives-up", &[TRUE.to_owned()]);
    space.eventually("there is a job", || (!space.kubectl("get jobs -o name").trim().is_empty()).then_some(()));
    let began = Instant::now();
    session.signal(libc::SIGINT);
    space.agents_gone();
    // One that runs would wait half a minute for the next session.
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
}

#[test]
fn the_role_that_mirrord_rbac_prints_is_enough_for_a_session() {
    let space = Space::new();
    space.shop(1);
    let mut command = space.dev(mirrord_tests::machine::built().join("mirrord").to_str().unwrap());
    let role = mirrord_tests::machine::run(command.args(["rbac", "-n", &space.name, "-a", &space.name, "-g", "developers"]));
    space.apply(&role);
    let mut session = Exec::plain(&space, "deployment/shop").user("developer").start("works", &[TRUE.to_owned()]);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
}
