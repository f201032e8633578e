//! Sessions on a workload that do not steal from all of it: mirror mode, one pod of several, and those that only look.

use std::collections::BTreeSet;

use mirrord_tests::{
    cluster::{Exec, Space},
    programs::Program,
    session::ME,
};

/// The program's port, which stands for the pods' port 80.
const LOCAL: u16 = 18080;

#[test]
fn in_mirror_mode_pods_answer_and_the_program_sees_what_all_of_them_see() {
    let space = Space::alone();
    space.shop(3);
    let others = space.others("shop", 4);
    let session = Exec::plain(&space, "deployment/shop").option(&format!("--mirror -p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]));
    let asked: BTreeSet<_> = (0..30).map(|number| format!("/mine/{number}")).collect();
    let answers: Vec<_> = asked.iter().map(|path| space.ask("shop", path, &[ME])).collect();
    let who: BTreeSet<_> = answers.iter().map(|answer| answer.split(" GET").next().unwrap().to_owned()).collect();
    let pods: BTreeSet<_> = space.pods("app=shop").into_iter().map(|pod| format!("pod {}", pod.name)).collect();
    assert_eq!(who, pods, "30 requests meet each of three replicas");
    space.eventually("the program has seen each of them", || {
        let seen: Vec<_> = session.seen().into_iter().filter(|seen| seen.path.starts_with("/mine/")).map(|seen| seen.path).collect();
        assert!(seen.len() <= asked.len(), "some came twice: {seen:?}");
        (seen.into_iter().collect::<BTreeSet<_>>() == asked).then_some(())
    });
    assert!(session.seen().iter().any(|seen| seen.path.starts_with("/others/")));
    session.end();
    others.wait_for(50);
    others.stop().assert_undisturbed(300);
    space.agents_gone();
}

#[test]
fn with_one_a_session_is_at_one_pod_and_the_others_have_no_agent() {
    let space = Space::alone();
    space.shop(3);
    let others = space.others("shop", 4);
    let mut session =
        Exec::steal_mine(&space, "deployment/shop").option(&format!("--one -p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]));
    let agents = space.agents();
    assert_eq!(agents.len(), 1);
    let chosen = agents[0].label("mirrord/pod-uid").unwrap();
    let pods = space.pods("app=shop");
    let (mine, theirs) = space.answers(40);
    let expected: BTreeSet<_> =
        pods.iter().map(|pod| if pod.uid() == chosen { "program app".to_owned() } else { format!("pod {}", pod.name) }).collect();
    assert_eq!(mine, expected);
    assert_eq!(theirs, pods.iter().map(|pod| format!("pod {}", pod.name)).collect());
    // When it goes, another one is taken in its place.
    let name = &pods.iter().find(|pod| pod.uid() == chosen).unwrap().name;
    space.kubectl(&format!("delete pod {name} --wait=false"));
    space.eventually("another pod has the session", || space.answers(12).0.contains("program app").then_some(()));
    assert!(!session.has_ended());
    session.end();
    others.wait_for(50);
    others.stop().assert_undisturbed(300);
    space.agents_gone();
}

#[test]
fn inspect_shows_requests_of_a_cluster_and_changes_nothing() {
    let space = Space::alone();
    space.shop(1);
    let others = space.others("shop", 2);
    let mut session = Exec::inspect(&space, "deployment/shop").option("-p 80 --json --all").start("inspect", &[]);
    session.wait_for_output("/others/");
    assert!(space.ask("shop", "/looked/at?token=secret", &[ME]).starts_with("pod shop-"));
    let output = session.wait_for_output("/looked/at");
    assert!(!output.contains("secret"), "a token was shown: {output}");
    session.signal(libc::SIGINT);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    others.stop().assert_undisturbed(100);
    space.agents_gone();
}
