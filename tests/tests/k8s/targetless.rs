//! Sessions without a target: an agent that serves nobody.

use mirrord_tests::{
    cluster::{Exec, Space},
    programs::Program,
};

#[test]
fn without_a_target_the_program_runs_and_its_ports_stay_here() {
    let space = Space::new();
    // Nothing is asked for that anybody could forbid.
    space.kubectl(&format!("label namespace {} pod-security.kubernetes.io/enforce=restricted", space.name));
    let port = 18090;
    let mut session = Exec::plain(&space, "targetless").run(&Program::python("alone", &[port]));
    let agents = || space.pods("app=mirrord");
    let agent = agents().remove(0);
    assert_eq!(agent.phase, "Running");
    assert!(agent.object["spec"].get("hostPID").is_none() && agent.object["metadata"]["labels"].get("mirrord/pod-uid").is_none());
    assert!(session.output().contains("there is no target: ports that the program opens stay on this machine"), "{}", session.output());
    let log = space.kubectl(&format!("logs {}", agent.name));
    assert!(log.contains("a session begins") && !log.contains("WARN") && !log.contains("ERROR"), "{log}");
    // Another one is made if it goes.
    space.kubectl(&format!("delete pod {} --wait=false", agent.name));
    space.eventually("there is another agent", || agents().iter().find(|pod| pod.name != agent.name && pod.phase == "Running").map(|_| ()));
    assert!(!session.has_ended(), "{}", session.output());
    session.end();
    space.eventually("nothing is left", || space.kubectl("get jobs,pods,secrets -l app=mirrord -o name").trim().is_empty().then_some(()));
}

#[test]
fn what_means_nothing_without_a_target_is_said() {
    let space = Space::new();
    let mut session = Exec::plain(&space, "targetless").option("--steal").start("steals", &["/bin/true".to_owned()]);
    assert_eq!(session.wait().code(), Some(2), "{}", session.output());
    assert!(session.output().contains("there is no target whose traffic could be stolen"), "{}", session.output());
    let show = ["/usr/bin/env".to_owned()];
    let mut session = Exec::plain(&space, "targetless").option("-e -a elsewhere").start("env", &show);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    let output = session.output();
    assert!(output.contains("`agent.ephemeral`, `agent.namespace` means nothing for an agent without a target"), "{output}");
    assert!(output.contains("\nHOST_ONLY=of this machine\n") && !output.contains("KUBERNETES_SERVICE_HOST"), "{output}");
}
