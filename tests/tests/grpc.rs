//! gRPC through the gateway: Go's own interoperability tests untouched beside a filter, and each kind of call, with its
//! trailers, deadline, cancellation, and its server's GOAWAY, to the pod and to a session on one connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{process::Stdio, thread};

use mirrord_tests::{
    Exec, Others, Pod, Program, Session, eventually, interop, machine,
    programs::{PYTHON, source},
    servers::{self, in_pod},
};

const PORT: u16 = 9090;

fn server(name: &str) -> Program {
    Program::new(&[PYTHON, &source("grpc_server.py")], name, &[PORT])
}

/// What grpc_client.py has to tell.
fn client(pod: &Pod, scenario: &str, user: Option<&str>) -> String {
    let mut command = pod.clients.command(PYTHON);
    command.arg(source("grpc_client.py")).arg(pod.address(PORT).to_string()).arg(scenario).args(user).stdin(Stdio::null());
    let output = machine::output(&mut command);
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn calls(session: &Session<'_>) -> usize {
    session.log().iter().filter(|line| line.starts_with("call")).count()
}

#[test]
fn gos_interoperability_tests_pass_beside_a_filter_that_wants_none_of_it() {
    const CASES: [&str; 16] = [
        "empty_unary",
        "large_unary",
        "client_streaming",
        "server_streaming",
        "ping_pong",
        "empty_stream",
        "timeout_on_sleeping_server",
        "cancel_after_begin",
        "cancel_after_first_response",
        "status_code_and_message",
        "special_status_message",
        "custom_metadata",
        "unimplemented_method",
        "unimplemented_service",
        "rpc_soak",
        "channel_soak",
    ];
    let mut pod = Pod::new();
    let address = pod.address(PORT);
    let mut go = pod.inside.command(interop::server());
    pod.start("interop", go.args(["--use_tls=false", &format!("--port={PORT}")]));
    servers::wait_for_listener(&pod, PORT);
    let test = |case: &str, more: &[&str]| {
        let (host, port) = (format!("--server_host={}", address.ip()), format!("--server_port={PORT}"));
        let words = ["--use_tls=false", &host, &port, &format!("--test_case={case}"), "--soak_iterations=100"];
        let output = machine::output(pod.clients.command(interop::client()).args(words).args(more));
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let session = Exec::steal_mine(&pod).run(&server("one"));
    let failed: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = CASES.map(|case| (case, scope.spawn(|| test(case, &["--additional_metadata=x-user:you"])))).into();
        let ended = running.into_iter().map(|(case, test)| (case, test.join().unwrap()));
        ended.filter(|(_, (passed, _))| !passed).map(|(case, (_, says))| format!("{case}: {says}")).collect()
    });
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), CASES.len(), failed.join("\n"));
    assert!(session.log()[1..].is_empty(), "the program was reached: {:?}", session.log());

    // They did go by the agent, as those of `me` are stolen: by a program that does not know that service, and says so.
    let (passed, says) = test("empty_unary", &["--additional_metadata=x-user:me"]);
    assert!(!passed && says.contains("Unimplemented"), "{says}");
    session.end();
    assert!(test("empty_unary", &["--additional_metadata=x-user:me"]).0);
    pod.assert_pristine();
}

#[test]
fn each_kind_of_call_passes_or_is_stolen_with_its_trailers_deadline_and_cancellation() {
    let mut pod = Pod::new();
    let in_pod_log = in_pod(&mut pod, &server("pod"));
    let bare = client(&pod, "every-kind", None);
    assert!(bare.contains("FAILED_PRECONDITION") && bare.ends_with("DEADLINE_EXCEEDED True\nTrue CANCELLED\n"), "{bare}");
    let session = Exec::steal_mine(&pod).run(&server("one"));
    assert_eq!(client(&pod, "every-kind", None), bare);
    assert_eq!(client(&pod, "every-kind", Some("you")), bare);
    assert_eq!(calls(&session), 0);
    let stolen = client(&pod, "every-kind", Some("me"));
    // The session's answers say by which filter, which is the one thing more.
    let marks = [", 'x-mirrord-filter': 'header'", "'x-mirrord-filter': 'header'"];
    let unmarked = marks.iter().fold(stolen.clone(), |text, mark| text.replace(mark, ""));
    assert_eq!(unmarked, bare.replace("pod", "one"), "{stolen}");
    // By the deadline, and by the client.
    let cancelled = |lines: Vec<String>| lines.iter().filter(|line| *line == "cancelled Sleep").count();
    eventually("the program sees two calls cancelled", || (cancelled(session.log()) == 2).then_some(()));
    eventually("so does the pod's", || (cancelled(servers::lines(&in_pod_log)) == 6).then_some(()));
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_thousand_calls_on_one_connection_are_open_at_once_half_of_them_stolen() {
    let mut pod = Pod::new();
    in_pod(&mut pod, &server("pod"));
    let session = Exec::steal_mine(&pod).run(&server("one"));
    assert_eq!(client(&pod, "thousand", None), "[500, 0, 0, 500] 1000\n");
    assert_eq!(calls(&session), 500);
}

#[test]
fn calls_whose_reader_has_stopped_hold_up_no_other_call_of_their_connection() {
    let mut pod = Pod::new();
    in_pod(&mut pod, &server("pod"));
    let session = Exec::steal_mine(&pod).run(&server("one"));
    let before = pod.agent().memory();
    pod.agent().reset_peak_memory();
    assert_eq!(client(&pod, "stalled", None), "40 b'one x' b'pod x' slowest below 1 s: True\n");
    let growth = pod.agent().peak_memory().saturating_sub(before);
    println!("40 stalled streams: the agent grew by {:.1} MiB", growth as f64 / 1048576.0);
    assert!(growth < 64 << 20, "the agent grew by {growth} bytes");
    assert_eq!(calls(&session), 20 + 100);
}

#[test]
fn a_server_that_is_stopped_ends_its_calls_as_without_mirrord() {
    let stopped = |session_too: bool| {
        let mut pod = Pod::new();
        in_pod(&mut pod, &server("pod"));
        let session = session_too.then(|| Exec::steal_mine(&pod).run(&server("one")));
        let told = client(&pod, "stop", None);
        assert!(session.is_none_or(|session| calls(&session) == 0));
        told
    };
    let bare = stopped(false);
    assert!(bare.contains("b'pod after' True OK") && bare.ends_with("UNAVAILABLE\n"), "{bare}");
    assert_eq!(stopped(true), bare);
}

#[test]
fn a_session_whose_server_is_stopped_ends_its_calls_and_gives_the_next_to_the_pod() {
    let mut pod = Pod::new();
    in_pod(&mut pod, &server("pod"));
    let others = Others::load_with(&pod, 8, &[]);
    let mut session = Exec::steal_mine(&pod).run(&server("one"));
    let told = client(&pod, "stop", Some("me"));
    assert!(told.starts_with("b'one before'\nb'one'\nb'one after' True OK") && told.ends_with("b'pod new'\n"), "{told}");
    session.wait();
    assert!(client(&pod, "every-kind", Some("me")).starts_with("b'pod hello'"));
    others.stop().assert_undisturbed(10);
    drop(session);
    pod.assert_pristine();
}
