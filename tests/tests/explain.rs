//! `mirrord explain`: which decision was made about a request, by whom and why, without anything that the request carried as a
//! secret; and a filter that is set aside says so wherever one looks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{os::unix::process::ExitStatusExt, process::Command};

use mirrord_tests::{
    Exec, Pod, Program, eventually, http2,
    looking::{Inspect, explain, explained},
    machine::{built, filter, run},
    pod::{WEB, WEB_H2},
    session::{ME, USER_ME},
};
use serde_json::Value;

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
    assert!(
        json.contains(r#""filter":"header.wasm","sha256":""#) && json.contains(r#""verdict":"steal""#) && !json.contains("/other"),
        "{json}"
    );
    let unknown = explain(&pod, &["--id", "999999"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("not among those that are kept"), "{unknown:?}");
    // The agent's log at its usual level, too.
    assert!(![output, in_full, json, pod.agent_log()].concat().contains("s3cr3t"), "a secret was kept");
    session.end();
    drop(client);
    pod.assert_pristine();
}

/// The decisions that this `--json` output holds about a path, oldest first.
fn decisions(output: &str, path: &str) -> Vec<Value> {
    let all = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["decision"]["path"] == path).map(|mut line| line["decision"].take()).collect()
}

#[test]
fn of_a_chain_each_link_says_its_own_verdict_why_and_how_long_it_took() {
    let pod = Pod::new();
    let exec = Exec::steal(&pod).filter("jwt-tenant", r#"{"tenant": "acme"}"#).filter("trap", "");
    let session = exec.filter("header", USER_ME).filter("header", r#"{"name":"x-never","value":"x"}"#).run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    // One of sixteen is measured without anybody who follows, the first among them.
    for number in 0..16 {
        assert_eq!(client.get(&format!("/{number}"), &[ME, "authorization: Bearer s3cr3t"]).who(), "program one");
    }
    let follow = Inspect::follow(&pod, &["--json"]);
    eventually("a decision is shown", || {
        client.get("/followed", &[ME]);
        follow.output().contains("/followed").then_some(())
    });
    client.get("/passed", &[]);
    let followed = follow.wait_for(&["/passed"]);

    let kept = explained(&pod, &["--json", "--last", "1000"]);
    let one = |output: &str, path: &str| decisions(output, path).pop().unwrap_or_else(|| panic!("nothing about {path} in\n{output}"));
    let (measured, other) = (one(&kept, "/0"), one(&kept, "/1"));
    let words = |decision: &Value| -> Vec<[String; 4]> {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let links = decision["asked"][0]["links"].as_array().unwrap().iter();
        links.map(|link| [&link["filter"], &link["verdict"], &link["fault"], &link["reason"]].map(text)).collect()
    };
    let (jwt, header) = ("not a JSON Web Token", "header x-user has the configured value");
    let said = [["jwt-tenant.wasm", "pass", "-", jwt], ["trap.wat", "pass", "trap", "-"], ["header.wasm", "steal", "-", header]];
    assert_eq!((words(&measured), words(&other)), (said.map(|link| link.map(str::to_owned)).to_vec(), words(&measured)));
    // Behind the one that decided nobody was asked; and each time is of one link.
    let took = |decision: &Value| -> Vec<u64> {
        decision["asked"][0]["links"].as_array().unwrap().iter().map(|link| link["ns"].as_u64().unwrap_or(0)).collect()
    };
    assert_eq!(took(&other), [0; 3], "{other}");
    for (decision, links) in [(&measured, 3), (&one(&followed, "/passed"), 4)] {
        let (took, all) = (took(decision), decision["ns"].as_u64().unwrap());
        assert!(took.len() == links && took.iter().all(|ns| *ns > 0) && took.iter().sum::<u64>() <= all, "{decision}");
    }
    let in_full = explained(&pod, &["--id", &measured["id"].to_string()]);
    for (name, part) in [("1. jwt-tenant.wasm", jwt), ("2. trap.wat", "failed (trap)"), ("3. header.wasm", header)] {
        let line = line(&in_full, name);
        assert!(line.contains(part) && (line.contains(" µs") || line.contains(" ns")), "{in_full}");
    }
    assert!(![kept, followed, in_full].concat().contains("s3cr3t"), "a secret was kept");
    session.end();
}

#[test]
fn after_a_swap_each_decision_is_told_by_the_version_that_made_it() {
    let pod = Pod::new();
    let mine = pod.folder.path().join("mine.wasm");
    let install = |name: &str| std::fs::copy(filter(name), &mine).unwrap();
    install("header");
    let exec = Exec::steal(&pod).option("--filter").word(mine.to_str().unwrap()).option("--filter-config").word(USER_ME);
    let session = exec.run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    assert_eq!(client.get("/swap", &[ME]).who(), "program one");
    install("header-c");
    let pid = session.cli().0.to_string();
    run(Command::new(built().join("mirrord")).args(["filter", "push", "--session", &pid, mine.to_str().unwrap(), "--config", USER_ME]));
    assert_eq!(client.get("/swap", &[ME]).who(), "program one");
    let told = decisions(&explained(&pod, &["--json"]), "/swap");
    let sha256 = |name: &str| run(Command::new("sha256sum").arg(filter(name)))[..12].to_owned();
    let versions: Vec<_> = told.iter().map(|decision| decision["asked"][0]["links"][0]["sha256"].as_str().unwrap()).collect();
    assert_eq!(versions, [sha256("header"), sha256("header-c")]);
    session.end();
}

#[test]
fn who_follows_sees_decisions_as_they_are_made_and_what_they_took() {
    let pod = Pod::new();
    let session = Exec::mirror(&pod).filter("header", USER_ME).run(&Program::c("one", &[WEB, WEB_H2]));
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
    let told = |path: &str| -> Value { serde_json::from_str(line(&output, path)).unwrap() };
    for number in 0..20 {
        let decision = told(&format!("\"/h1/{number}\""));
        assert_eq!((&decision["decision"]["verdict"], decision["decision"]["ns"].is_u64()), (&"mirror".into(), true), "{decision}");
    }
    assert_eq!(told("/h2")["decision"]["protocol"], "HTTP/2");
    session.end();
}

#[test]
fn following_ends_with_its_reader_or_by_ctrl_c_as_any_command_does() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    let mut piped = Inspect::piped(&pod, &["explain", "--follow", "--json"], "head -1", "");
    // Until it follows and has shown one.
    let status = eventually("it ends after one line", || {
        pod.get("/once").send();
        piped.ended()
    });
    assert!(status.success() && piped.output().lines().count() == 1 && piped.errors().is_empty(), "{status}: {}", piped.errors());
    let mut follow = Inspect::follow(&pod, &[]);
    eventually("it follows", || {
        pod.get("/again").send();
        follow.output().contains("/again").then_some(())
    });
    follow.process().signal(libc::SIGINT);
    let status = follow.wait();
    assert_eq!((status.signal(), follow.errors().as_str()), (Some(libc::SIGINT), ""));
    session.end();
    pod.assert_pristine();
}

#[test]
fn over_http2_only_a_sessions_own_requests_tell_what_became_of_them() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).option("--show-decision").run(&Program::node_http2("two", &[WEB_H2]));
    let exchange = || {
        let request = |mine: bool| http2::Request { method: "GET", path: format!("/{mine}"), mine, body: Vec::new() };
        let answers = http2::exchange(&pod.clients, pod.address(WEB_H2), vec![request(true), request(false)]);
        answers.into_iter().map(|answer| answer.unwrap().headers.get("x-mirrord-decision").map(|value| value.to_str().unwrap().to_owned()))
    };
    let told: Vec<_> = exchange().collect();
    let own = told[0].as_deref().expect("a decision");
    assert!(own.starts_with("steal; filter=header") && own.contains("reason="), "{own}");
    assert_eq!(told[1], None, "another's");
    session.end();
    let quiet = Exec::steal_mine(&pod).run(&Program::node_http2("two", &[WEB_H2]));
    assert_eq!(exchange().collect::<Vec<_>>(), [None, None], "not asked for");
    quiet.end();
    pod.assert_pristine();
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
