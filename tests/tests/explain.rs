//! `mirrord explain`: which decision was made about a request, by whom and why, without anything that the request carried as a
//! secret; and a filter that is set aside says so wherever one looks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use mirrord_tests::{
    Exec, Pod, Program, eventually,
    looking::{Inspect, explain, explained},
    pod::{WEB, WEB_H2},
    session::ME,
};

/// The line about this request.
#[track_caller]
fn line<'a>(output: &'a str, request: &str) -> &'a str {
    output.lines().find(|line| line.contains(request)).unwrap_or_else(|| panic!("nothing about {request} in\n{output}"))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn each_decision_says_who_decided_and_why() {
    let pod = Pod::new();
    let refused = explain(&pod, &[]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nobody has a session"), "{refused:?}");
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    assert_eq!(client.get("/cart?item=s3cr3t&b=s3cr3t", &[ME]).who(), "program one");
    assert_eq!(client.get("/other", &["authorization: s3cr3t", "x-s3cr3t: 1"]).who(), "pod");
    let output = explained(&pod, &[]);
    let stolen = words(line(&output, "/cart?item=…&b=…"));
    assert_eq!((stolen[3], &stolen[6..8]), ("steal", &["header.wasm", "of"][..]), "{output}");
    let passed = line(&output, "GET /other");
    assert!(passed.contains(" pass ") && passed.contains("the filter of ") && passed.contains(" passed it"), "{output}");

    let in_full = explained(&pod, &["--id", stolen[1]]);
    for part in ["GET /cart?item=…&b=… HTTP/1.1", "from 10.", ", steals: steal", "1. header.wasm", "session 1 answered"] {
        assert!(in_full.contains(part), "{part} is not in\n{in_full}");
    }
    let json = explained(&pod, &["--json", "--picked"]);
    assert!(json.contains(r#""filter":"header.wasm","verdict":"steal""#) && !json.contains("/other"), "{json}");
    let unknown = explain(&pod, &["--id", "999999"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("not among those that are kept"), "{unknown:?}");
    // The agent's log at its usual level, too.
    assert!(![output, in_full, json, pod.agent_log()].concat().contains("s3cr3t"), "a secret was kept");
    session.end();
    drop(client);
    pod.assert_pristine();
}

#[test]
fn who_follows_sees_decisions_as_they_are_made_and_what_they_took() {
    let pod = Pod::new();
    let session = Exec::mirror(&pod).filter("header", mirrord_tests::session::USER_ME).run(&Program::c("one", &[WEB, WEB_H2]));
    let follow = Inspect::follow(&pod, &["--json"]);
    let mut client = pod.connect(WEB);
    // Until it follows.
    eventually("a decision is shown", || {
        client.get("/first", &[]);
        follow.output().contains("/first").then_some(())
    });
    for number in 0..20 {
        client.get(&format!("/h1/{number}"), &[ME]);
    }
    let request = mirrord_tests::http2::Request { method: "POST", path: "/h2".into(), mine: true, body: vec![b'x'; 10] };
    mirrord_tests::http2::exchange(&pod.clients, pod.address(WEB_H2), vec![request])[0].as_ref().unwrap();
    let output = follow.wait_for(&["/h1/19", "/h2"]);
    let told = |path: &str| -> serde_json::Value { serde_json::from_str(line(&output, path)).unwrap() };
    for number in 0..20 {
        let decision = told(&format!("\"/h1/{number}\""));
        assert_eq!((&decision["decision"]["verdict"], decision["decision"]["ns"].is_u64()), (&"mirror".into(), true), "{decision}");
    }
    assert_eq!(told("/h2")["decision"]["protocol"], "HTTP/2");
    session.end();
}

#[test]
fn a_filter_that_is_set_aside_says_so_everywhere() {
    let pod = Pod::new();
    let session = Exec::steal(&pod).filter("trap", "").run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    // More than may fail in a row, within the second in which the user is told of one fault only.
    for _ in 0..15 {
        assert_eq!(client.get("/", &[]).who(), "pod");
    }
    let output = explained(&pod, &[]);
    assert!(output.contains("filter trap.wat of session 1 is set aside"), "{output}");
    assert!(output.contains("trap.wat failed (trap)"), "{output}");
    eventually("the user is told", || session.output().contains("is set aside for a while").then_some(()));
    let socket = format!("/run/mirrord/agent-{}.sock", pod.inside.inode);
    let metrics = pod.curl_inside(&format!("-s --http2-prior-knowledge --unix-socket {socket} http://agent/v1/metrics"));
    assert!(metrics.contains("mirrord_filters_set_aside 1\n"), "{metrics}");
    session.end();
}
