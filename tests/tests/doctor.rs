//! `mirrord doctor` finds what an agent that was killed has left in a namespace, and removes it; a living one's is left alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::process::{Command, Stdio};

use mirrord_tests::{Exec, Pod, Program, eventually, machine::built, pod::WEB, processes::Process, session::ME};
use serde_json::Value;

/// Its findings of a target, and whether it ended as if all were well.
fn doctor(pod: &Pod, words: &str) -> (Vec<Value>, bool) {
    let mut command = Command::new(built().join("mirrord"));
    command.args(["doctor", "-o", "json", "-t", &pod.target()]).args(words.split_whitespace()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let findings = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (findings, output.status.success())
}

fn states(findings: &[Value]) -> Vec<&str> {
    findings.iter().map(|finding| finding["state"].as_str().unwrap()).collect()
}

#[test]
fn what_dead_agents_leave_is_found_and_removed_and_a_living_ones_is_not() {
    let pod = Pod::alone();
    assert_eq!((states(&doctor(&pod, "").0), doctor(&pod, "").1), (vec!["ok"], true));
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    // Also not when it is asked to.
    assert_eq!(states(&doctor(&pod, "--fix --yes").0), ["ok"]);
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");

    let (agent, guard): (Process, Process) = (pod.agent(), pod.guard());
    guard.stop();
    agent.kill();
    guard.kill();
    drop(session);
    eventually("both are gone", || (!agent.is_alive() && !guard.is_alive()).then_some(()));
    let (findings, is_well) = doctor(&pod, "");
    assert!(!is_well && states(&findings) == ["leftover", "leftover"], "{findings:?}");
    assert!(findings[0]["what"].as_str().unwrap().contains("redirect rules"), "{findings:?}");
    // Nobody is there to be asked: nothing happens.
    assert_eq!(states(&doctor(&pod, "--fix").0), ["leftover", "leftover"]);
    assert_ne!(pod.leftovers(), "");

    let (findings, is_well) = doctor(&pod, "--fix --yes");
    assert!(is_well && states(&findings) == ["removed", "removed"], "{findings:?}");
    assert_eq!(states(&doctor(&pod, "").0), ["ok"]);
    pod.assert_pristine();
}

#[test]
fn what_this_machine_can_do_is_tried_out() {
    mirrord_tests::machine::ready();
    let output = Command::new(built().join("mirrord")).args(["doctor", "--only", "machine", "-o", "json"]).output().unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let what = |text: &str| {
        findings.iter().find(|finding| finding["what"].as_str().unwrap().contains(text)).unwrap_or_else(|| panic!("{findings:?}"))
    };
    assert_eq!((&what("the layer is")["state"], &what("the agent is")["state"]), (&Value::from("ok"), &Value::from("ok")));
    assert_eq!(what("ports can be redirected, by iptables")["state"], "ok");
}
