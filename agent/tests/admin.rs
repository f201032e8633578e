//! What an operator sees of a real agent with real sessions, asked with curl as an operator would.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mirrord_protocol::control::{Ambiguous, ErrorReply, METRICS, Mode, READY, STATE, State};
use mirrord_tests::{
    Exec, Pod, Program, eventually,
    machine::{filter, output},
    pod::{WEB, WEB_H2, WEB_TOO},
    session::ME,
    state,
};

/// One request of so many is measured.
const MEASURED_EVERY: u64 = mirrord_agent::worker::MEASURED_EVERY as u64;

/// An answer to curl.
struct Answer {
    status: u16,
    kind: String,
    body: String,
}

fn socket(pod: &Pod) -> PathBuf {
    PathBuf::from(format!("/run/mirrord/agent-{}.sock", pod.inside.inode))
}

fn curl(pod: &Pod, arguments: &[&str], path: &str) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "--unix-socket"]).arg(socket(pod)).args(["-w", "\n%{http_code} %{content_type}"]);
    output(curl.args(arguments).arg(format!("http://agent{path}")))
}

#[track_caller]
fn ask(pod: &Pod, path: &str) -> Answer {
    let output = curl(pod, &["--http2-prior-knowledge"], path);
    assert!(output.status.success(), "{path}: {}\n{}", String::from_utf8_lossy(&output.stderr), pod.agent_log());
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, last) = text.rsplit_once('\n').unwrap();
    let (status, kind) = last.split_once(' ').unwrap();
    Answer { status: status.parse().unwrap(), kind: kind.into(), body: body.into() }
}

#[track_caller]
fn ask_state(pod: &Pod) -> State {
    let answer = ask(pod, STATE);
    assert_eq!((answer.status, answer.kind.as_str()), (200, "application/json"));
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

/// Samples by name with labels, as they stand in the text.
#[track_caller]
fn ask_metrics(pod: &Pod) -> BTreeMap<String, f64> {
    let answer = ask(pod, METRICS);
    assert_eq!((answer.status, answer.kind.as_str()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    samples.map(sample).collect()
}

/// Waits until these samples have these values: an answer may reach the client before the worker has looked at its own part again.
#[track_caller]
fn expect_metrics(pod: &Pod, expected: &[(&str, u64)]) {
    let mut differ = String::new();
    let agrees = mirrord_tests::wait::within(Duration::from_secs(5), || {
        let metrics = ask_metrics(pod);
        differ = expected
            .iter()
            .filter(|(name, value)| metrics.get(*name) != Some(&(*value as f64)))
            .map(|(name, value)| format!("{name}: {:?}, not {value}\n", metrics.get(*name)))
            .collect();
        differ.is_empty().then_some(())
    });
    assert!(agrees.is_some(), "{differ}of\n{}", ask(pod, METRICS).body);
}

fn requests(port: u16, filter: &str, verdict: &str) -> String {
    format!(r#"mirrord_requests_total{{port="{port}",filter="{filter}",verdict="{verdict}"}}"#)
}

#[test]
fn the_state_names_agent_sessions_redirect_and_connections() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).variable("MIRRORD_AGENT_WORKERS", "2").run(&Program::python("one", &[WEB]));
    let second = Exec::mirror(&pod).option("--priority 3").run(&Program::python("two", &[WEB_TOO]));
    assert_eq!(ask(&pod, READY).status, 200);

    let state = ask_state(&pod);
    assert_eq!((state.version.as_str(), state.workers, state.draining), (env!("CARGO_PKG_VERSION"), 2, false));
    assert_eq!((state.pid, state.netns), (pod.agent().0, pod.inside.inode));
    let redirect = state.redirect.unwrap();
    assert_eq!((redirect.ports, redirect.guard_pid), (vec![WEB, WEB_TOO], Some(pod.guard().0)));
    assert_eq!(redirect.leased, state::has_recent(&pod.inside));

    let [one, two] = <[_; 2]>::try_from(state.sessions).unwrap();
    assert_eq!((one.mode, one.ambiguous, one.priority, one.ports, one.linked), (Mode::Steal, Ambiguous::Pass, 0, vec![WEB], vec![0, 1]));
    assert_eq!((two.mode, two.priority, two.ports, two.filters.len()), (Mode::Mirror, 3, vec![WEB_TOO], 0));
    assert_eq!((one.owner.pid, two.owner.pid), (session.cli().0, second.cli().0));
    assert!(one.id < two.id);
    let sum = output(Command::new("sha256sum").arg(filter("header"))).stdout;
    assert_eq!((one.filters[0].name.as_str(), one.filters.len()), ("header.wasm", 1));
    assert!(String::from_utf8(sum).unwrap().starts_with(&format!("{} ", one.filters[0].sha256)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 120..=now).contains(&one.since), "{} is not about {now}", one.since);

    let before = ask_state(&pod).connections.accepted;
    let mut client = pod.connect(WEB);
    assert_eq!(client.get("/", &[]).who(), "pod");
    let open = ask_state(&pod);
    assert_eq!((open.connections.open, open.connections.accepted), (1, before + 1));
    assert_eq!(open.redirect.unwrap().in_flight, 1);
    drop(client);
    eventually("the connection is closed", || (ask_state(&pod).connections.open == 0).then_some(()));

    second.end();
    eventually("one session is left", || (ask_state(&pod).sessions.len() == 1).then_some(()));
    assert_eq!(ask_state(&pod).redirect.unwrap().ports, [WEB]);
    session.end();
    pod.assert_pristine();
}

#[test]
fn requests_are_counted_by_port_filter_and_verdict() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).variable("MIRRORD_AGENT_WORKERS", "1").run(&Program::python("one", &[WEB]));
    let mut client = pod.connect(WEB);
    for number in 0..40 {
        let headers: &[&str] = if number % 4 == 0 { &[ME] } else { &[] };
        assert_eq!(client.get("/secret-path", headers).status, 200);
    }
    expect_metrics(
        &pod,
        &[
            (&requests(WEB, "header.wasm", "steal"), 10),
            (&requests(WEB, "", "pass"), 30),
            (r#"mirrord_copies_total{port="80",filter=""}"#, 0),
            ("mirrord_connections_total", 1),
            ("mirrord_connections_open", 1),
            ("mirrord_sessions", 1),
            ("mirrord_redirected_ports", 1),
            ("mirrord_redirected_connections", 1),
            ("mirrord_draining", 0),
            ("mirrord_fell_back_total", 0),
            ("mirrord_bad_gateway_total", 0),
            ("mirrord_decision_duration_seconds_count", 40_u64.div_ceil(MEASURED_EVERY)),
            // Requests 0, 16 and 32: all of them stolen.
            (r#"mirrord_upstream_duration_seconds_count{upstream="session"}"#, 40_u64.div_ceil(MEASURED_EVERY)),
            (r#"mirrord_upstream_duration_seconds_count{upstream="pod"}"#, 0),
        ],
    );
    // The next but eight is measured, and passes.
    for _ in 0..MEASURED_EVERY {
        client.get("/", &[]);
    }
    expect_metrics(&pod, &[(r#"mirrord_upstream_duration_seconds_count{upstream="pod"}"#, 1)]);
    let metrics = ask_metrics(&pod);
    let upstream = metrics[r#"mirrord_upstream_duration_seconds_sum{upstream="session"}"#];
    assert!(upstream > 1e-6 && upstream < 10.0, "{upstream} s");
    let decision = metrics["mirrord_decision_duration_seconds_sum"];
    assert!(decision > 0.0 && decision < upstream, "{decision} s");
    let text = ask(&pod, METRICS).body;
    assert!(!text.contains("secret-path") && !text.contains("x-user"), "{text}");

    // Whoever comes back counts on.
    session.end();
    drop(client);
    let keeper = Exec::mirror(&pod).variable("MIRRORD_AGENT_WORKERS", "1").run(&Program::python("two", &[WEB]));
    assert_eq!(pod.get("/").send().who(), "pod");
    eventually("the copy has been delivered", || (!keeper.seen().is_empty()).then_some(()));
    let metrics = ask_metrics(&pod);
    assert_eq!(metrics.get(&requests(WEB, "", "mirror")), Some(&1.0), "{}", ask(&pod, METRICS).body);
    assert_eq!(metrics.get(r#"mirrord_copies_total{port="80",filter=""}"#), Some(&1.0));
}

#[test]
fn what_went_wrong_is_counted_by_its_reason() {
    let pod = Pod::new();
    let session = Exec::steal(&pod)
        .filter("trap", "")
        .filter("header", mirrord_tests::session::USER_ME)
        .variable("MIRRORD_AGENT_WORKERS", "1")
        .run(&Program::python("one", &[WEB, WEB_H2]));
    expect_metrics(
        &pod,
        &[(r#"mirrord_opaque_connections_total{reason="not_http"}"#, 0), (r#"mirrord_opaque_connections_total{reason="framing"}"#, 0)],
    );
    assert_eq!(pod.get("/").send().who(), "pod");
    let mut odd = pod.connect(WEB);
    odd.send(b"\x00\x01\x02 no request at all\r\n\r\n");
    let mut smuggler = pod.connect(WEB);
    smuggler.send(b"POST / HTTP/1.1\r\nHost: pod\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    smuggler.response();
    expect_metrics(
        &pod,
        &[
            (r#"mirrord_filter_faults_total{kind="trap"}"#, 1),
            (r#"mirrord_opaque_connections_total{reason="not_http"}"#, 1),
            (r#"mirrord_opaque_connections_total{reason="framing"}"#, 1),
            (r#"mirrord_opaque_connections_total{reason="chunk"}"#, 0),
            (&requests(WEB, "", "pass"), 1),
        ],
    );
    drop((odd, smuggler));
    drop(session);
    pod.assert_pristine();
}

#[test]
fn a_draining_agent_is_not_ready_and_says_so() {
    let pod = Pod::new();
    let mut session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    // Keeps the agent from being drained.
    let mut client = pod.connect(WEB);
    assert_eq!(client.get("/", &[]).who(), "pod");
    assert_eq!(ask(&pod, READY).status, 200);

    pod.agent().signal(libc::SIGTERM);
    let answer = eventually("the agent is not ready", || Some(ask(&pod, READY)).filter(|answer| answer.status != 200));
    assert_eq!((answer.status, answer.kind.as_str()), (503, "application/json"));
    let why: ErrorReply = serde_json::from_str(&answer.body).unwrap();
    assert!(why.error.contains("draining") && !why.help.is_empty(), "{why}");
    session.wait();
    let state =
        eventually("the redirect has gone", || Some(ask_state(&pod)).filter(|state| state.redirect.as_ref().unwrap().ports.is_empty()));
    assert!(state.draining && state.sessions.is_empty() && state.connections.open == 1, "{state:?}");
    // The connection that it waits for is served to the end.
    assert_eq!(client.get("/again", &[]).who(), "pod");
    drop(client);
    pod.assert_pristine();
}

#[test]
fn a_session_that_comes_while_the_agent_drains_gets_the_next_agent() {
    let pod = Pod::new();
    let mut first = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let mut client = pod.connect(WEB);
    assert_eq!(client.get("/", &[]).who(), "pod");
    let old = pod.agent();
    old.signal(libc::SIGTERM);
    first.wait();
    let second = Exec::steal_mine(&pod).start(&Program::python("two", &[WEB]));
    eventually("the second session is running or waiting", || (pod.mirrord().len() > 3).then_some(()));
    assert!(old.is_alive());
    drop(client);
    eventually("the second session steals", || (pod.redirects(WEB) && pod.get("/").with(ME).send().who() == "program two").then_some(()));
    assert_ne!(ask_state(&pod).pid, old.0);
    second.end();
    pod.assert_pristine();
}

#[test]
fn an_operator_who_keeps_asking_does_not_keep_the_agent() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::UnixStream::connect(socket(&pod)).await.unwrap();
        let (mut operator, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get(format!("http://agent{READY}")).body(()).unwrap();
        let (answer, _) = operator.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        session.end();
        // The agent ends, and with it the operator's connection, which is still open here.
        let ended = tokio::time::timeout(Duration::from_secs(10), connection).await;
        assert!(ended.is_ok(), "the agent goes on for an operator:\n{}", pod.agent_log());
    });
    pod.assert_pristine();
}

#[test]
fn only_http2_is_spoken_and_only_known_questions_are_answered() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let http1 = curl(&pod, &["--http1.1", "--http0.9"], READY);
    assert!(!String::from_utf8_lossy(&http1.stdout).ends_with("200 application/json"), "{http1:?}");
    let unknown = ask(&pod, "/v1/no-such-thing");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("/v1/no-such-thing"), "{}", unknown.body);
    let posted = curl(&pod, &["--http2-prior-knowledge", "-X", "POST"], STATE);
    assert!(String::from_utf8_lossy(&posted.stdout).contains("404"), "{posted:?}");
    assert_eq!(ask(&pod, READY).status, 200);
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    session.end();
    pod.assert_pristine();
}
