//! The agent as an ephemeral container of the target's pod.

use std::{collections::BTreeSet, fs};

use mirrord_tests::{
    cluster::{Container, Exec, PodObject, Space},
    programs::Program,
    session::ME,
    state::rules,
};

/// The program's port, which stands for the pods' port 80.
const LOCAL: u16 = 18081;

fn app(name: &str) -> Program {
    Program::python(name, &[LOCAL])
}

fn steal(space: &Space) -> Exec<'_> {
    Exec::steal_mine(space, "deployment/shop").option(&format!("-e -p 80:{LOCAL}"))
}

/// The agents in a pod that run.
fn guests(pod: &PodObject) -> Vec<Container> {
    let list = pod.object["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
    let running: Vec<_> = list.iter().filter(|one| one["state"].get("running").is_some()).map(|one| one["name"].clone()).collect();
    pod.containers
        .iter()
        .filter(|one| one.name.starts_with("mirrord-agent-") && running.contains(&one.name.as_str().into()))
        .cloned()
        .collect()
}

fn all_rules(pods: &[PodObject]) -> Vec<String> {
    pods.iter().flat_map(|pod| ["iptables", "ip6tables"].map(|family| rules(&pod.network(), family)).concat()).collect()
}

#[test]
fn guests_of_all_replicas_take_what_the_filter_picks_and_leave_nothing() {
    let space = Space::new();
    space.shop(3);
    let before = all_rules(&space.pods("app=shop"));
    let others = space.others("shop", 4);
    let session = steal(&space).option("--agent-ttl 9").run(&app("app"));
    assert!(session.output().contains("`agent.ttl` means nothing for an agent in the target's own pod"), "{}", session.output());
    println!("from start to listening: {:.2} s", session.began.elapsed().as_secs_f32());
    let pods = space.pods("app=shop");
    assert!(space.pods("app=mirrord").is_empty(), "no pod of its own");
    for pod in &pods {
        let [guest] = guests(pod).try_into().unwrap();
        // If the pod runs out of memory, the kernel chooses the agent and not who works there.
        for process in guest.processes() {
            assert_eq!(fs::read_to_string(format!("/proc/{}/oom_score_adj", process.0)).unwrap().trim(), "1000");
        }
    }
    let names: BTreeSet<_> = pods.iter().map(|pod| format!("pod {}", pod.name)).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..30 {
        assert!(space.ask("shop", "/", &[ME]).starts_with("program app"));
        seen.insert(space.ask("shop", "/", &[]).split(" GET").next().unwrap().to_owned());
    }
    assert_eq!(seen, names);
    session.end();
    for _ in 0..10 {
        assert!(space.ask("shop", "/", &[ME]).starts_with("pod shop-"));
    }
    others.stop().assert_undisturbed(300);
    // By themselves: nobody can remove them.
    space.eventually("the agents have ended", || space.pods("app=shop").iter().all(|pod| guests(pod).is_empty()).then_some(()));
    let pods = space.pods("app=shop");
    assert_eq!(all_rules(&pods), before);
    assert!(pods.iter().all(|pod| pod.ready && pod.containers.iter().all(|container| container.restarts == 0)));
}

#[test]
fn a_second_session_joins_the_guest_and_a_later_one_brings_another() {
    let space = Space::new();
    space.shop(1);
    let file = space.folder.path().join("agent.json");
    fs::write(&file, r#"{"agent": {"ephemeral": true, "communication_timeout": 1, "disabled_capabilities": ["SYS_ADMIN"]}}"#).unwrap();
    let run = |name: &str, user: &str, port: u16| {
        let exec = Exec::plain(&space, "deployment/shop").option(&format!("--steal --header-filter ^x-user:.{user} -p 80:{port}"));
        exec.word("-f").word(file.to_str().unwrap()).run(&Program::python(name, &[port]))
    };
    let names = || space.pods("app=shop").iter().flat_map(guests).map(|guest| guest.name).collect::<Vec<_>>();
    let first = run("first", "me", LOCAL);
    let there = names();
    assert_eq!(there.len(), 1);
    let second = run("second", "you", LOCAL + 1);
    assert_eq!(names(), there, "it was joined");
    assert!(space.ask("shop", "/", &[ME]).starts_with("program first"));
    assert!(space.ask("shop", "/", &["x-user: you"]).starts_with("program second"));
    // Whoever wants an agent of its own kind gets the one that is there.
    let third = Exec::plain(&space, "deployment/shop")
        .option(&format!("--steal --header-filter ^x-user:.she -p 80:{}", LOCAL + 2))
        .run(&Program::python("third", &[LOCAL + 2]));
    assert!(space.ask("shop", "/", &["x-user: she"]).starts_with("program third"));
    assert!(space.pods("app=mirrord").is_empty());
    for session in [first, second, third] {
        session.end();
    }
    space.eventually("the agent has ended", || names().is_empty().then_some(()));
    let later = run("later", "me", LOCAL);
    assert!(space.ask("shop", "/", &[ME]).starts_with("program later"));
    assert_eq!(names().len(), 1);
    assert_ne!(names(), there);
    // Its keys are those of the one before, and go with the pod.
    let secrets = || space.kubectl("get secrets -l app=mirrord -o name");
    assert_eq!(secrets().lines().count(), 1);
    later.end();
    space.kubectl("delete deployment shop");
    space.eventually("the Secret is gone", || secrets().trim().is_empty().then_some(()));
}

#[test]
fn the_program_has_the_environment_of_the_container_whose_guest_the_agent_is() {
    let space = Space::new();
    space.shop(1);
    let mut session = Exec::plain(&space, "deployment/shop").option("-e").start("env", &["/usr/bin/env".to_owned()]);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    let output = session.output();
    for line in ["GREETING=hello from the config map", "API_KEY=s3cret value", "STAGE=production"] {
        assert!(output.lines().any(|one| one == line), "no {line} in {output}");
    }
    // The agent's own, its keys among it, is nobody's.
    assert!(!output.contains("MIRRORD_AGENT_TLS") && !output.contains("PRIVATE KEY"), "{output}");
}

#[test]
fn a_guest_whose_container_starts_again_is_replaced() {
    let space = Space::new();
    space.shop(1);
    let mut session = steal(&space).run(&app("app"));
    let guest = || space.pods("app=shop").iter().flat_map(guests).next().map(|guest| guest.name);
    let first = guest().unwrap();
    // Process 1 of the namespace that both share.
    space.pods("app=shop")[0].process("shop").kill();
    space.eventually("there is another agent", || guest().filter(|name| *name != first));
    space.eventually("it is stolen from again", || {
        let response = space.pods("app=shop")[0].ready.then(|| space.ask("shop", "/", &[ME]))?;
        response.starts_with("program app").then_some(())
    });
    assert!(!session.has_ended(), "{}", session.output());
    session.end();
}

#[test]
fn where_guests_are_forbidden_it_is_said_with_the_way_out() {
    let space = Space::new();
    space.shop(1);
    let fails = |exec: Exec, why: &str, help: &str| {
        let mut session = exec.option("-e").start("fails", &["/bin/true".to_owned()]);
        assert_eq!(session.wait().code(), Some(1), "{}", session.output());
        let output = session.output();
        assert!(output.contains(why) && output.contains(help), "{output}");
    };
    space.apply(&Space::manifest("developer"));
    fails(Exec::plain(&space, "deployment/shop").user("developer"), "you are not allowed to", "mirrord rbac --ephemeral-container");
    // What is printed is enough.
    let mut rbac = space.dev(mirrord_tests::machine::built().join("mirrord").to_str().unwrap());
    let roles = mirrord_tests::machine::run(rbac.args(["rbac", "-e", "-g", "no-one", "-n", &space.name]));
    space.apply(&roles.replace("kind: Group", "kind: User").replace("name: no-one", "name: developer"));
    let mut session = Exec::plain(&space, "deployment/shop").option("-e").user("developer").start("works", &["/bin/true".to_owned()]);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    space.kubectl(&format!("label namespace {} pod-security.kubernetes.io/enforce=baseline", space.name));
    space.kubectl("delete pod -l app=shop --wait=false");
    space.rolled_out("deployment/shop");
    fails(Exec::plain(&space, "deployment/shop"), "violates PodSecurity", "leave out --ephemeral-container");
    assert!(space.kubectl("get secrets -l app=mirrord -o name").lines().count() <= 1, "what was made in vain is gone");
}
