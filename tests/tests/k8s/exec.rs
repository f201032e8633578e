//! `mirrord exec` on workloads of a cluster, from the developer's machine.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mirrord_tests::{
    cluster::{Exec, Space, component},
    processes::Process,
    programs::Program,
    session::ME,
};

/// The program's port, which stands for the pods' port 80.
const LOCAL: u16 = 18080;

fn app(name: &str) -> Program {
    Program::python(name, &[LOCAL])
}

#[test]
fn requests_that_the_filter_picks_reach_the_program_whichever_replica_they_hit() {
    let space = Space::new();
    space.shop(3);
    let others = space.others("shop", 4);
    let session = Exec::steal_mine(&space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&app("app"));
    println!("from start to listening: {:.2} s", session.began.elapsed().as_secs_f32());
    assert_eq!(space.agents().len(), 3);
    let (mine, theirs) = space.answers(30);
    assert_eq!(mine, BTreeSet::from(["program app".to_owned()]));
    let pods: BTreeSet<_> = space.pods("app=shop").into_iter().map(|pod| format!("pod {}", pod.name)).collect();
    assert_eq!(theirs, pods);
    // What the program itself ends with when it is told to.
    assert_eq!(session.end().code(), Some(5));
    let (mine, _) = space.answers(10);
    assert!(mine.is_subset(&pods), "{mine:?}");
    others.stop().assert_undisturbed(300);
    space.agents_gone();
}

#[test]
fn others_notice_nothing_while_pods_come_and_go_under_a_session() {
    let space = Space::alone();
    space.shop(3);
    let others = space.others("shop", 4);
    let mut session = Exec::steal_mine(&space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&app("app"));
    space.kubectl("rollout restart deployment/shop");
    space.rolled_out("deployment/shop");
    space.eventually("the new pods are stolen from", || (space.answers(12).0.len() == 1 && space.agents().len() == 3).then_some(()));
    let name = space.pods("app=shop").remove(0).name;
    space.kubectl(&format!("delete pod {name} --wait=false"));
    space.rolled_out("deployment/shop");
    for replicas in [5, 1] {
        space.kubectl(&format!("scale deployment/shop --replicas={replicas}"));
        space.eventually("it has so many", || (space.pods("app=shop").len() == replicas).then_some(()));
        space.rolled_out("deployment/shop");
        let all_mine =
            || (space.answers(12).0 == BTreeSet::from(["program app".to_owned()]) && space.agents().len() == replicas).then_some(());
        space.eventually("each pod has its agent, and no other", all_mine);
    }
    assert!(!session.has_ended());
    session.end();
    others.stop().assert_undisturbed(1000);
    space.agents_gone();
}

#[test]
fn the_program_has_the_containers_environment() {
    let space = Space::new();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0);
    let show = ["/usr/bin/env".to_owned()];
    let mut session = Exec::plain(&space, "deployment/shop").start("env", &show);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    let output = session.output();
    let has = |line: &str| output.lines().any(|one| one == line);
    for line in ["GREETING=hello from the config map", "API_KEY=s3cret value", "STAGE=production", "HOST_ONLY=of this machine"] {
        assert!(has(line), "no {line} in {output}");
    }
    assert!(has(&format!("POD_NAME={}", pod.name)) && has(&format!("POD_IP={}", pod.ip.unwrap())), "{output}");

    let file = space.folder.path().join("mirrord.json");
    std::fs::write(&file, r#"{"feature": {"env": {"include": "G*;STAGE;API_KEY", "override": {"STAGE": "mine"}, "unset": "api_key"}}}"#)
        .unwrap();
    let mut session = Exec::plain(&space, "deployment/shop").word("-f").word(file.to_str().unwrap()).start("env2", &show);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    let output = session.output();
    assert!(output.contains("\nGREETING=hello") && output.contains("\nSTAGE=mine") && !output.contains("API_KEY"), "{output}");
    assert!(!output.contains("POD_NAME="), "{output}");
}

#[test]
fn a_second_session_joins_the_agents_that_there_are() {
    let space = Space::new();
    space.shop(2);
    let first = Exec::steal_mine(&space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&app("first"));
    let jobs = space.kubectl("get jobs -o name");
    let second = Exec::plain(&space, "deployment/shop")
        .option(&format!("--steal --header-filter ^x-user:.you -p 80:{}", LOCAL + 1))
        .run(&Program::python("second", &[LOCAL + 1]));
    assert_eq!(space.kubectl("get jobs -o name"), jobs);
    for _ in 0..6 {
        assert!(space.ask("shop", "/", &[ME]).starts_with("program first"));
        assert!(space.ask("shop", "/", &["x-user: you"]).starts_with("program second"));
        assert!(space.ask("shop", "/", &[]).starts_with("pod shop-"));
    }
    first.end();
    assert!(space.ask("shop", "/", &["x-user: you"]).starts_with("program second"));
    assert!(space.ask("shop", "/", &[ME]).starts_with("pod shop-"));
    second.end();
    space.agents_gone();
}

#[test]
fn a_session_outlives_a_restart_of_the_api_server() {
    let space = Space::alone();
    space.shop(1);
    let others = space.others("shop", 2);
    let mut session = Exec::steal_mine(&space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&app("app"));
    component("kill", "apiserver");
    std::thread::sleep(Duration::from_secs(2));
    component("start", "apiserver");
    space.eventually("the API server answers", || space.try_kubectl("get nodes").ok());
    let again = || space.ask("shop", "/", &[ME]).starts_with("program app").then_some(());
    space.eventually("the session goes on", again);
    assert!(!session.has_ended(), "{}", session.output());
    session.end();
    others.stop().assert_undisturbed(100);
}

#[test]
fn the_kubelets_probes_go_to_the_pod_though_everything_is_stolen() {
    let space = Space::new();
    space.shop(1);
    let session = Exec::plain(&space, "deployment/shop").option(&format!("--steal -p 80:{LOCAL}")).run(&app("app"));
    assert!(space.ask("shop", "/", &[]).starts_with("program app"));
    std::thread::sleep(Duration::from_secs(5));
    assert!(space.pods("app=shop")[0].ready);
    assert!(session.seen().iter().all(|seen| seen.path != "/ready"), "{:?}", session.seen());
}

#[test]
fn what_could_be_a_target_is_listed() {
    let space = Space::new();
    space.shop(2);
    let list = |words: &str| {
        let mut command = space.dev(mirrord_tests::machine::built().join("mirrord").to_str().unwrap());
        mirrord_tests::machine::run(command.arg("ls").args(words.split_whitespace()))
    };
    let all: Vec<String> = serde_json::from_str(&list("")).unwrap();
    assert!(
        all.contains(&"deployment/shop".into()) && all.contains(&"service/shop".into()) && all.contains(&"pod/client".into()),
        "{all:?}"
    );
    assert_eq!(list("-t deployment -o table").trim(), "deployment/shop  available");
}

#[test]
fn what_was_the_sessions_is_the_pods_soon_after_the_developers_machine_has_died() {
    let space = Space::alone();
    space.shop(1);
    let session = Exec::plain(&space, "deployment/shop").option(&format!("--steal -p 80:{LOCAL}")).run(&app("app"));
    assert!(space.ask("shop", "/", &[]).starts_with("program app"));
    session.processes().into_iter().for_each(Process::kill);
    let killed = Instant::now();
    // This one is the session's still: what is under way with it goes to the pod as well.
    assert!(space.ask("shop", "/", &[]).starts_with("pod shop-"));
    println!("answered by the pod {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_millis(2500), "{:?}", killed.elapsed());
}
