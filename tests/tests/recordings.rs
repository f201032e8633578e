//! A recording is a test: what `mirrord inspect --har` writes while a live filter decides is HAR by the format's schema, has the verdicts
//! that `mirrord explain` tells, and replayed through `mirrord filter test` the same filter gives them again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mirrord_tests::{
    Exec, Pod, Program, http2,
    looking::{Inspect, explained},
    machine::{self, built, filter},
    pod::{WEB, WEB_H2},
    programs::{PYTHON, source},
    servers::in_pod,
    session::{ME, USER_ME},
};
use serde_json::Value;

const GRPC: u16 = 9090;

/// Everything that passes while `traffic` runs, in a file, once the last request has been seen. `verdicts` are all that must occur.
#[track_caller]
fn record(pod: &Pod, port: u16, last: &str, verdicts: &[&str], traffic: impl FnOnce()) -> PathBuf {
    let path = pod.folder.path().join(format!("{port}.{}.har", fs::read_dir(pod.folder.path()).unwrap().count()));
    let words = ["-p", &port.to_string(), "--body", "65536", "--show-credentials", "--har", path.to_str().unwrap()];
    let inspect = Inspect::start(pod, &words);
    traffic();
    inspect.wait_for(&[last]);
    inspect.end();
    let entries = entries(&path);
    let told: BTreeMap<_, _> = decisions(pod, port).into_iter().collect();
    for entry in &entries {
        let (client, ours) = (ours(entry, "client"), ours(entry, "verdict"));
        let path = entry["_mirrord"]["path"].as_str().unwrap_or_else(|| entry["request"]["url"].as_str().unwrap()).to_owned();
        // Explain masks the values of a query, and so knows the request by the client's address and the path before it.
        let known = told.iter().find(|((by, asked), _)| *by == client && path.split('?').next().unwrap().ends_with(asked.as_str()));
        assert_eq!(known.map(|(_, verdict)| verdict.as_str()), Some(ours.as_str()), "{entry}\n{told:?}");
    }
    for verdict in verdicts {
        assert!(entries.iter().any(|entry| ours(entry, "verdict") == *verdict), "no {verdict} in {}", path.display());
    }
    path
}

fn ours(entry: &Value, name: &str) -> String {
    entry["_mirrord"][name].as_str().unwrap_or_default().to_owned()
}

/// The entries of a file that the schema accepts.
#[track_caller]
fn entries(path: &Path) -> Vec<Value> {
    let check = "import json, sys, jsonschema; jsonschema.validate(json.load(open(sys.argv[1])), json.load(open(sys.argv[2])))";
    machine::run(Command::new(PYTHON).args(["-c", check]).arg(path).arg(source("har-1.2.schema.json")));
    let har: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    har["log"]["entries"].as_array().unwrap().clone()
}

/// What explain tells of requests on this port: client and path, without its query, and the verdict.
fn decisions(pod: &Pod, port: u16) -> Vec<((String, String), String)> {
    let lines = explained(pod, &["--json", "-n", "1000"]);
    let decisions = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["decision"].clone());
    let decisions = decisions.filter(|one| one["destination"].as_str().is_some_and(|to| to.ends_with(&format!(":{port}"))));
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let path = |one: &Value| text(one, "path").split('?').next().unwrap().to_owned();
    decisions.map(|one| ((text(&one, "client"), path(&one)), text(&one, "verdict"))).collect()
}

/// Replays a recording; the exit status and what was printed.
fn replay(module: &str, config: &str, recording: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(built().join("mirrord"));
    command.args(["filter", "test"]).arg(filter(module)).args(["--config", config, "--requests"]).arg(recording);
    let output = machine::output(&mut command);
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// The filter says again what it said, and another configuration does not.
#[track_caller]
fn assert_replays(module: &str, config: &str, other: &str, recording: &Path) {
    let count = entries(recording).len();
    let (status, output) = replay(module, config, recording);
    assert!(status == Some(0) && output.contains(&format!("; {count} as expected, 0 not")), "{output}");
    let (status, output) = replay(module, other, recording);
    assert!(status == Some(1) && output.contains("EXPECTED"), "{output}");
}

/// Requests of every kind that HTTP/1 knows, some of them with the header.
fn every_kind(pod: &Pod) {
    let mut client = pod.connect(WEB);
    for (number, method) in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "GET", "POST"].into_iter().enumerate() {
        let mine = if number % 3 == 0 { ME } else { "x-user: you" };
        let head = format!("{method} /{number}?q=%20a&token=t{number} HTTP/1.1\r\nHost: pod\r\n{mine}\r\nauthorization: Bearer s3cr3t\r\n");
        let body = if method.starts_with('P') { "Content-Length: 5\r\n\r\nh\u{fffd}i" } else { "\r\n" };
        client.send(format!("{head}{body}").as_bytes());
        client.response();
    }
    client.send("POST /chunks HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\0b\r\n2\r\n\u{e9}\r\n0\r\n\r\n".as_bytes());
    client.response();
    client.send(b"POST /binary HTTP/1.1\r\nHost: pod\r\nContent-Length: 3\r\n\r\n\xff\x00\xfe");
    client.response();
    // Targets that no URL can hold, or only in another form. The pod's server refuses some of them.
    for target in ["*", "http://pod/absolute?a={b}", "/odd%7B\"<>|{}^`"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let mut client = pod.connect(WEB);
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: pod\r\n{ME}\r\n\r\n").as_bytes());
        let _ = client.try_response();
    }
    client.get("/last", &[]);
}

#[test]
fn what_a_header_filter_decided_on_http1_it_decides_again_whatever_the_session_did_with_it() {
    let other = r#"{"name":"x-user","value":"you"}"#;
    for (mode, verdicts) in [("--steal", ["steal", "pass"]), ("--mirror", ["mirror", "pass"])] {
        let pod = Pod::new();
        let session = Exec::plain(&pod).option(mode).filter("header", USER_ME).run(&Program::c("one", &[WEB]));
        let recording = record(&pod, WEB, "/last", &verdicts, || every_kind(&pod));
        session.end();
        assert_replays("header", USER_ME, other, &recording);
        // With an agent, or the filter's name in the file, nothing is needed but the file.
        let said: Vec<_> = entries(&recording).iter().map(|entry| ours(entry, "filter")).filter(|name| !name.is_empty()).collect();
        assert!(said.len() >= 5 && said.iter().all(|name| name == "header.wasm"), "{said:?}");
        pod.assert_pristine();
    }
}

#[test]
fn over_http2_too() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::node_http2("two", &[WEB_H2]));
    let request = |number: usize| {
        let (method, body) = if number.is_multiple_of(2) { ("POST", vec![b'x'; number * 3000]) } else { ("GET", vec![]) };
        http2::Request { method, path: format!("/{number}?a=b"), mine: number.is_multiple_of(3), body }
    };
    let recording = record(&pod, WEB_H2, "/last", &["steal", "pass"], || {
        for answer in http2::exchange(&pod.clients, pod.address(WEB_H2), (0..20).map(request).collect()) {
            answer.unwrap();
        }
        let last = http2::Request { path: "/last".into(), ..request(1) };
        http2::exchange(&pod.clients, pod.address(WEB_H2), vec![last])[0].as_ref().unwrap();
    });
    session.end();
    assert!(entries(&recording).iter().all(|entry| entry["request"]["httpVersion"] == "HTTP/2"));
    assert_replays("header", USER_ME, r#"{"name":"x-user","value":"you"}"#, &recording);
    // A filter that knows hosts finds the one of HTTP/2.
    let host = format!(r#"{{"name":":authority","value":"{}"}}"#, pod.address(WEB_H2));
    let (_, output) = replay("header", &host.replace("\":authority\"", "\"x-none\""), &recording);
    assert!(output.contains("21 pass"), "{output}");
    pod.assert_pristine();
}

#[test]
fn grpc_calls_by_service_and_method() {
    let mut pod = Pod::new();
    let server = |name: &str| Program::new(&[PYTHON, &source("grpc_server.py")], name, &[GRPC]);
    in_pod(&mut pod, &server("pod"));
    let config = r#"{"service":"t.T","methods":["Unary","Chat"]}"#;
    let session = Exec::steal(&pod).filter("grpc-method", config).run(&server("one"));
    let recording = record(&pod, GRPC, "/t.T/Missing", &["steal", "pass"], || {
        let mut client = pod.clients.command(PYTHON);
        client.arg(source("grpc_client.py")).arg(pod.address(GRPC).to_string()).arg("few").stdin(Stdio::null());
        machine::output(&mut client);
    });
    session.end();
    let all = entries(&recording);
    assert!(
        all.iter().any(|entry| entry["_mirrord"]["grpc_status"] == 12) && all.iter().any(|entry| entry["_mirrord"]["grpc_status"] == 0)
    );
    assert!(all.iter().any(|entry| entry["request"]["postData"]["text"] == "\0\0\0\0\u{5}hello"), "no message is there");
    assert_replays("grpc-method", config, r#"{"service":"t.T","methods":["Sum"]}"#, &recording);
    pod.assert_pristine();
}

#[test]
fn a_filter_that_reads_bodies_finds_them_in_the_recording_or_is_told_that_they_are_missing() {
    let pod = Pod::new();
    let config = r#"{"operations":["AddToCart"],"path":"/graphql"}"#;
    let session = Exec::steal(&pod).filter("graphql", config).run(&Program::c("one", &[WEB]));
    let ask = |name: &str, more: usize| {
        let body = format!(r#"{{"query":"mutation {name} {{ a }}","operationName":"{name}","variables":{{"x":"{}"}}}}"#, "é".repeat(more));
        let answer = pod.request(pod.address(WEB), "POST", "/graphql").with("content-type: application/json").body(body.as_bytes()).send();
        answer.who()
    };
    let traffic = || {
        for more in [0, 100, 10_000] {
            assert_eq!((ask("AddToCart", more), ask("Cart", more)), ("program one".into(), "pod".into()));
        }
        pod.get("/last").send();
    };
    let recording = record(&pod, WEB, "/last", &["steal", "pass"], traffic);
    assert_replays("graphql", config, r#"{"operations":["Cart"],"path":"/graphql"}"#, &recording);
    // Without bodies the filter cannot know; what is missing is said beside what differs.
    let path = pod.folder.path().join("short.har");
    let inspect = Inspect::start(&pod, &["-p", "80", "--har", path.to_str().unwrap()]);
    traffic();
    inspect.wait_for(&["/last"]);
    inspect.end();
    session.end();
    let (status, output) = replay("graphql", config, &path);
    assert!(status == Some(1) && output.contains("4 as expected, 3 not") && output.contains("inspect --body BYTES"), "{output}");
    pod.assert_pristine();
}
