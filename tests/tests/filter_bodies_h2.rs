//! What filters may ask of requests over HTTP/2, with a filter that does what each request says (`programs/obedient.c`), a real
//! pod and a real program: who answered, and which bytes the client and the servers got.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Exec, Pod, Program, Session, eventually, machine,
    programs::{self, PYTHON, source},
    servers::{self, in_pod},
};

const PORT: u16 = 9000;

/// The filter, built.
fn obedient() -> &'static str {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    let module = MODULE.get_or_init(|| {
        let module = machine::scratch().join("obedient.wasm");
        let options = "--target=wasm32 -std=c17 -O2 -fno-builtin -nostdlib -Wl,--no-entry -Wl,--strip-debug -o";
        machine::run(Command::new("clang").args(options.split(' ')).arg(&module).arg(source("obedient.c")));
        module
    });
    module.to_str().unwrap()
}

/// A session whose filter is that one.
fn steal<'a>(pod: &'a Pod, program: &Program) -> Session<'a> {
    Exec::steal(pod).option("--filter").option(obedient()).run(program)
}

/// A pod and a session's program on node:http2, which echo what is posted to `/echo`; and the pod's log.
fn echoing(pod: &mut Pod) -> PathBuf {
    in_pod(pod, &Program::node_http2("pod", &[PORT]))
}

/// What curl tells of an exchange: the head and the body.
struct Got {
    /// Lines without their ends; the status line first.
    head: Vec<String>,
    body: Vec<u8>,
    /// Whether curl was content.
    whole: bool,
}

impl Got {
    fn status(&self) -> &str {
        self.head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn who(&self) -> Option<&str> {
        self.header("x-program")
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request over HTTP/2 with these orders for the filter; a body is posted.
fn ask(pod: &Pod, path: &str, orders: &str, body: Option<&[u8]>) -> Got {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = pod.clients.command("curl");
    command.args(["-s", "-i", "-m", "20", "--http2-prior-knowledge", &format!("http://{}{path}", pod.address(PORT))]);
    if !orders.is_empty() {
        command.args(["-H", &format!("x-do: {orders}")]);
    }
    if let Some(body) = body {
        std::fs::write(file.path(), body).unwrap();
        command.args(["-H", "Expect:", "--data-binary", &format!("@{}", file.path().display())]);
    }
    let output = machine::output(command.stdin(Stdio::null()));
    let end = output.stdout.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(output.stdout.len());
    let (head, body) = output.stdout.split_at(end);
    let head = String::from_utf8_lossy(head).lines().map(str::to_owned).collect();
    let mut body = body.get(4..).unwrap_or_default().to_vec();
    // curl shows trailers behind the body.
    for trailers in [&b"x-trailer: pod\r\n"[..], b"x-trailer: one\r\n"] {
        if body.ends_with(trailers) {
            body.truncate(body.len() - trailers.len());
        }
    }
    Got { head, body, whole: output.status.success() }
}

/// Bodies that a server was posted, by length.
fn lengths(log: &Path) -> Vec<u64> {
    programs::seen(log).iter().map(|seen| seen.body).collect()
}

#[test]
fn a_request_is_decided_by_its_body_which_whoever_answers_gets_whole() {
    let mut pod = Pod::new();
    echoing(&mut pod);
    let session = steal(&pod, &Program::node_http2("one", &[PORT]));
    let large = |word: &[u8]| [&[b'x'; 900_000], word, &[b'y'; 2_000_000]].concat();
    for (orders, body, who) in [
        ("need:1000", b"to steal".to_vec(), "one"),
        ("need:1000", b"to pass".to_vec(), "pod"),
        ("need:5", b"to steal, but later than it looks".to_vec(), "pod"),
        ("need:1048576", large(b"steal"), "one"),
        ("need:1048576", large(b"pass"), "pod"),
        ("need:65536", large(b"steal"), "pod"),
        ("", b"to steal, but nobody looks".to_vec(), "pod"),
    ] {
        let got = ask(&pod, "/echo", orders, Some(&body));
        assert_eq!((got.who(), got.whole), (Some(who), true), "{orders}: {:?}", got.head);
        assert!(got.body == body, "{orders}: {} of {} bytes came back", got.body.len(), body.len());
        assert_eq!(got.header("content-length"), Some(&*body.len().to_string()));
    }
    session.end();
    pod.assert_pristine();
}

#[test]
fn an_undecided_or_delayed_request_holds_no_other_and_not_for_ever() {
    let mut pod = Pod::new();
    echoing(&mut pod);
    let _session = steal(&pod, &Program::node_http2("one", &[PORT]));
    // Half a body, and then nothing for a while.
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let began = Instant::now();
            let url = format!("http://{}/echo", pod.address(PORT));
            let words = format!(
                "(printf half; sleep 8; printf ' rest') | curl -s -m 20 --http2-prior-knowledge -H 'x-do: need:1000' -T - -X POST {url}"
            );
            let output = machine::output(pod.clients.command("sh").args(["-c", &words]));
            (String::from_utf8_lossy(&output.stdout).into_owned(), began.elapsed())
        });
        let delayed = scope.spawn(|| {
            let began = Instant::now();
            (ask(&pod, "/late", "delay:1500 steal", None), began.elapsed())
        });
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(ask(&pod, "/others", "", None).who(), Some("pod"));
            assert_eq!(ask(&pod, "/mine", "steal", None).who(), Some("one"));
            assert!(began.elapsed() < Duration::from_millis(1500), "they were held for {:?}", began.elapsed());
        }
        let (late, after) = delayed.join().unwrap();
        assert_eq!(late.who(), Some("one"));
        assert!(after >= Duration::from_millis(1500), "{after:?}");
        let (body, after) = slow.join().unwrap();
        // The filter was not waited for any longer: it says nothing, so the pod had it before the rest came.
        assert_eq!(body, "half rest");
        assert!(after >= Duration::from_secs(8));
    });
}

#[test]
fn paths_are_rewritten_and_requests_reset() {
    let mut pod = Pod::new();
    let log = echoing(&mut pod);
    let session = steal(&pod, &Program::node_http2("one", &[PORT]));
    assert_eq!(ask(&pod, "/old?q=1", "path:/new?q=2 steal", None).text(), "program one GET /new?q=2 body=0\n");
    assert_eq!(ask(&pod, "/old", "path:/newer", None).text(), "program pod GET /newer body=0\n");
    for orders in ["abort", "reset", "reset steal"] {
        let got = ask(&pod, "/gone", orders, None);
        assert!(!got.whole && got.head.is_empty(), "{orders}: {:?}", got.head);
    }
    // At the request nobody hears of it, at the response it was answered already.
    eventually("the pod has answered one of them", || (paths(&log, "/gone") == 1).then_some(()));
    assert_eq!(session.seen().iter().filter(|seen| seen.path == "/gone").count(), 1);
    assert_eq!(ask(&pod, "/still", "", None).who(), Some("pod"));
}

fn paths(log: &Path, path: &str) -> usize {
    programs::seen(log).iter().filter(|seen| seen.path == path).count()
}

#[test]
fn the_pod_gets_a_copy_of_what_the_session_answers() {
    let mut pod = Pod::new();
    let log = echoing(&mut pod);
    let session = steal(&pod, &Program::node_http2("one", &[PORT]));
    let body = vec![b'c'; 100_000];
    let got = ask(&pod, "/echo", "both", Some(&body));
    assert_eq!((got.who(), &got.body), (Some("one"), &body));
    let got = ask(&pod, "/echo", "need:10 steal", Some(b"steal it"));
    assert_eq!(got.who(), Some("one"));
    eventually("the pod has its copy", || (lengths(&log) == [100_000]).then_some(()));
    assert_eq!(session.seen().len(), 2);
}

#[test]
fn bodies_are_replaced_with_the_right_lengths_and_trailers() {
    let mut pod = Pod::new();
    let log = echoing(&mut pod);
    let session = steal(&pod, &Program::node_http2("one", &[PORT]));
    let (body, replaced) = (b"abc".repeat(50_000), b"bbbbc".repeat(50_000));
    for (to, who) in [("", "pod"), (" steal", "one")] {
        for window in [1000, 65_536, 1 << 20] {
            let got = ask(&pod, "/echo", &format!("up:{window}{to}"), Some(&body));
            assert_eq!((got.who(), got.whole), (Some(who), true), "up, {window}");
            assert!(got.body == replaced, "up, {window}: {} bytes came back", got.body.len());
            let got = ask(&pod, "/echo", &format!("down:{window}{to}"), Some(&body));
            assert_eq!((got.who(), got.whole), (Some(who), true), "down, {window}");
            assert!(got.body == replaced, "down, {window}: {} bytes came back", got.body.len());
            // Said anew where it is known before the body goes on.
            let length = got.header("content-length");
            assert!(length.is_none() || length == Some(&*replaced.len().to_string()), "{length:?}");
            let got = ask(&pod, "/echo", &format!("up:{window} down:{window} end{to}"), Some(b"ac"));
            assert_eq!((got.text(), got.header("content-length")), ("bbbc".into(), Some("4")));
        }
    }
    let expected = [replaced.len() as u64, body.len() as u64, 4].repeat(3);
    assert_eq!(lengths(&log), expected);
    assert_eq!(session.seen().iter().map(|seen| seen.body).collect::<Vec<_>>(), expected);
    eventually("the filter is told of each end", || {
        (session.output().lines().filter(|line| line.contains("obedient: over")).count() == 6).then_some(())
    });
}

#[test]
fn responses_are_marked_or_replaced() {
    let mut pod = Pod::new();
    echoing(&mut pod);
    let _session = steal(&pod, &Program::node_http2("one", &[PORT]));
    for to in ["", " steal"] {
        let got = ask(&pod, "/", &format!("mark{to}"), None);
        assert_eq!((got.status(), got.header("x-marked"), got.whole), ("200", Some("yes"), true));
        for body in [None, Some(&[b'x'; 500_000][..])] {
            let got = ask(&pod, "/echo", &format!("instead{to}"), body);
            assert_eq!((got.status(), got.text(), got.who()), ("503", "instead".into(), None));
        }
    }
}

#[test]
fn grpc_goes_through_a_filter_that_looks_at_every_byte() {
    let mut pod = Pod::new();
    let server = |name: &str| Program::new(&[PYTHON, &source("grpc_server.py")], name, &[PORT]);
    in_pod(&mut pod, &server("pod"));
    let client = |orders: &[&str]| {
        let mut command = pod.clients.command(PYTHON);
        command.arg(source("grpc_client.py")).arg(pod.address(PORT).to_string()).arg("few").args(orders);
        let output = machine::output(command.stdin(Stdio::null()));
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let bare = client(&[]);
    assert!(bare.contains("UNIMPLEMENTED") && bare.contains("pod 49"), "{bare}");
    let session = steal(&pod, &server("one"));
    assert_eq!(client(&[]), bare);
    // None of its messages holds an `a`; windows of a byte hold nothing back in a conversation.
    assert_eq!(client(&["x-do=up:1 down:1 end"]), bare);
    assert_eq!(client(&["x-do=up:1 down:1 steal"]), bare.replace("pod", "one"));
    let marked = client(&["x-do=mark"]);
    assert!(marked.matches("'x-marked': 'yes'").count() >= 2, "{marked}");
    let unmarked = marked.replace(", 'x-marked': 'yes'", "").replace("'x-marked': 'yes', ", "").replace("'x-marked': 'yes'", "");
    assert_eq!(unmarked, bare, "trailers, and responses of trailers only");
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_crowd_goes_through_body_filters_beside_one_that_does_not() {
    let mut pod = Pod::new();
    echoing(&mut pod);
    let _session = steal(&pod, &Program::node_http2("one", &[PORT]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'a'; 20_000]).unwrap();
    let load = |orders: &str| {
        let mut command = pod.clients.command("h2load");
        command.args(["-n", "1000", "-c", "4", "-m", "16", "-d", file.path().to_str().unwrap()]);
        if !orders.is_empty() {
            command.args(["-H", &format!("x-do: {orders}")]);
        }
        machine::run(command.arg(format!("http://{}/echo", pod.address(PORT))))
    };
    thread::scope(|scope| {
        let all = ["", "need:30000", "up:7000 down:7000 steal", "both"].map(|orders| (orders, scope.spawn(move || load(orders))));
        for (orders, load) in all {
            let report = load.join().unwrap();
            assert!(report.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{orders}: {report}");
            let bytes = if orders.contains("up") { "60000000" } else { "20000000" };
            assert!(report.contains(&format!("({bytes}) data")), "{orders}: {report}");
        }
    });
    servers::wait_for_listener(&pod, PORT);
}
