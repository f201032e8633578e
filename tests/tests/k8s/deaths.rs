//! What others, the session and the pod see when an agent, a container or a pod ends under a session.

use std::time::{Duration, Instant};

use mirrord_tests::{
    cluster::{Exec, PodObject, Session, Space},
    http::Request,
    load::{Failure, Others},
    processes::Process,
    programs::Program,
    session::ME,
    state::Snapshot,
};

/// The program's port, which stands for the pods' port 80.
const LOCAL: u16 = 18080;

/// New connections are the pod's again.
const BACK: Duration = Duration::from_millis(1200);

fn session(space: &Space) -> Session<'_> {
    Exec::steal_mine(space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]))
}

/// The only pod of the deployment, and its network as it is without us.
fn only_pod(space: &Space) -> (PodObject, Snapshot) {
    let pod = space.pods("app=shop").remove(0);
    let network = pod.network();
    space.eventually("the pod has its own addresses", || (!network.sh("ip addr").contains("tentative")).then_some(()));
    let before = Snapshot::of(&network);
    (pod, before)
}

/// Nothing of ours is left in the pod's network, nor in the namespace.
#[track_caller]
fn assert_clean(space: &Space, pod: &PodObject, before: &Snapshot) {
    space.agents_gone();
    let after = Snapshot::of(&pod.network());
    assert!(before.difference(&after).is_empty(), "{}", before.difference(&after));
}

#[track_caller]
fn stolen_again(space: &Space) {
    space.eventually("the session goes on with another agent", || {
        space.try_ask("shop", "/", &[ME]).is_some_and(|text| text.starts_with("program app")).then_some(())
    });
}

#[test]
fn a_deleted_agent_disturbs_nobody_and_is_replaced() {
    let space = Space::alone();
    space.shop(1);
    let (pod, before) = only_pod(&space);
    let others = space.others("shop", 4);
    let mut session = session(&space);
    let agent = space.agents().remove(0).name;
    space.kubectl(&format!("delete pod {agent}"));
    session.wait_for_output("the agent of the pod");
    stolen_again(&space);
    session.wait_for_output("has an agent again");
    assert!(space.agents().iter().all(|other| other.name != agent));
    others.wait_for(100);
    others.stop().assert_undisturbed(300);
    assert!(!session.has_ended());
    session.end();
    assert_clean(&space, &pod, &before);
}

#[test]
fn a_deleted_pod_takes_its_agent_along_and_the_next_one_gets_another() {
    let space = Space::alone();
    space.shop(2);
    let others = space.others("shop", 4);
    let mut session = session(&space);
    let (pod, agents) = (space.pods("app=shop").remove(0), space.agents());
    space.kubectl(&format!("delete pod {} --wait=false", pod.name));
    space.eventually("the next pod has its agent", || {
        let pods = space.pods("app=shop");
        let theirs: Vec<_> = space.agents().into_iter().filter_map(|agent| agent.label("mirrord/pod-uid")).collect();
        (pods.len() == 2 && pods.iter().all(|pod| pod.ready && theirs.contains(&pod.uid()))).then_some(())
    });
    space.eventually("both are stolen from", || (0..8).all(|_| space.ask("shop", "/", &[ME]).starts_with("program app")).then_some(()));
    others.wait_for(100);
    others.stop().assert_undisturbed(300);
    assert!(!session.has_ended());
    // That of the pod that is gone ends without being told: it has nobody any more.
    let lonely = agents.iter().find(|agent| agent.label("mirrord/pod-uid") == Some(pod.uid())).unwrap();
    space.eventually("the agent of the deleted pod is gone", || {
        space.pods("app=mirrord").iter().all(|agent| agent.name != lonely.name).then_some(())
    });
    session.end();
    space.agents_gone();
}

#[test]
fn a_session_on_a_pod_that_is_deleted_ends_and_says_so() {
    let space = Space::new();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0);
    let target = format!("pod/{}", pod.name);
    let mut session = Exec::steal_mine(&space, &target).option(&format!("-p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]));
    space.kubectl(&format!("delete pod {} --wait=false", pod.name));
    let status = session.wait();
    assert_eq!(status.code(), Some(1), "{}", session.output());
    assert!(session.output().contains("the session is lost"), "{}", session.output());
    space.agents_gone();
}

/// Ends all of an agent's container at once, which no guard survives.
fn kill_all(agent: &PodObject) {
    let container = agent.containers.iter().find(|container| container.name == "mirrord-agent").unwrap();
    let processes = container.processes();
    assert!(processes.len() >= 2, "agent and guard are {processes:?}");
    // The guard first: it must not see the agent end.
    processes.iter().rev().copied().for_each(Process::kill);
}

/// The session goes on; of the others only those failed who were there when the agent was killed, or came a moment later; nothing of
/// ours is left.
#[track_caller]
fn assert_over(space: &Space, session: Session<'_>, (others, killed_at): (Others, Duration), (pod, before): (&PodObject, &Snapshot)) {
    others.wait_for(100);
    let late = too_late(others, killed_at);
    assert!(late.is_empty(), "killed at {killed_at:?}: {late:#?}");
    session.end();
    assert_clean(space, pod, before);
}

/// Those who connected later than they should have had to wait.
fn too_late(others: Others, killed_at: Duration) -> Vec<Failure> {
    let report = others.stop();
    println!("others: {} answered, {} failed, the slowest took {:?}", report.answered, report.failures.len(), report.slowest);
    assert!(report.failures.iter().all(|failure| failure.at > killed_at), "{:#?}", report.failures);
    report.failures.into_iter().filter(|failure| failure.connected > killed_at + BACK).collect()
}

#[test]
fn with_everything_in_the_agents_container_killed_the_pod_answers_within_1200_ms() {
    let space = Space::alone();
    space.shop(1);
    let (pod, before) = only_pod(&space);
    let others = space.others("shop", 6);
    let mut session = session(&space);
    others.wait_for(200);
    let (agent, client, address) = (space.agents().remove(0), space.client(), space.service("shop", 80));
    let (killed, killed_at) = (Instant::now(), others.now());
    kill_all(&agent);
    let mut failed = Duration::ZERO;
    while killed.elapsed() < 2 * BACK {
        let began = killed.elapsed();
        match Request::new(&client, address, "GET", "/new").try_send() {
            Ok(answer) if answer.text().starts_with("pod ") => {}
            _ => failed = began,
        }
    }
    println!("the last new connection that was not served began {failed:?} after the kill");
    assert!(failed < BACK, "the pod was back only after {failed:?}");
    // The next agent finds what is left of the one before.
    session.wait_for_output("the agent of the pod");
    stolen_again(&space);
    assert_over(&space, session, (others, killed_at), (&pod, &before));
}

#[test]
fn an_agent_that_crashes_gives_the_pod_back_at_once_and_is_replaced() {
    let space = Space::alone();
    space.shop(1);
    let (pod, before) = only_pod(&space);
    let others = space.others("shop", 4);
    let mut session = session(&space);
    others.wait_for(100);
    let killed_at = others.now();
    space.agents().remove(0).process("mirrord-agent").kill();
    session.wait_for_output("the agent of the pod");
    stolen_again(&space);
    session.wait_for_output("has an agent again");
    assert_over(&space, session, (others, killed_at), (&pod, &before));
}

#[test]
fn a_container_of_the_pod_that_starts_again_is_stolen_from_as_before() {
    let space = Space::new();
    space.shop(1);
    let (pod, before) = only_pod(&space);
    let mut session = session(&space);
    let restarts = |pod: &PodObject| pod.containers.iter().find(|container| container.name == "shop").unwrap().restarts;
    assert_eq!(restarts(&pod), 0);
    assert!(space.ask("shop", "/exit", &[]).starts_with("pod "));
    space.eventually("the container has started again", || {
        let pod = space.pod(&pod.name);
        (restarts(&pod) == 1 && pod.ready).then_some(())
    });
    // It was in no Service meanwhile.
    space.reachable(&space.client(), space.service("shop", 80));
    let others = space.others("shop", 2);
    stolen_again(&space);
    assert!(space.ask("shop", "/", &[]).starts_with("pod "));
    // Whoever comes now joins the same agent, which is at the pod and not at one of its containers.
    let second = Exec::plain(&space, "deployment/shop")
        .option(&format!("--steal --header-filter ^x-user:.you -p 80:{}", LOCAL + 1))
        .run(&Program::python("second", &[LOCAL + 1]));
    assert!(space.ask("shop", "/", &["x-user: you"]).starts_with("program second"));
    assert_eq!(space.agents().len(), 1);
    others.wait_for(50);
    others.stop().assert_undisturbed(50);
    assert!(!session.has_ended());
    second.end();
    session.end();
    assert_clean(&space, &space.pod(&pod.name), &before);
}
