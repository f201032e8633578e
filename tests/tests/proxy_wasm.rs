//! Filters made with the stock proxy-wasm SDKs, in sessions on a real pod: they steal by a header, see and change bodies and
//! trailers, and make HTTP calls of their own to a host in the pod's network.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use mirrord_tests::{
    Exec, Others, Pod, Program, Recorder, Session, eventually,
    http::Pieces,
    machine::{built, manifest, output, run},
    pod::WEB,
    programs::{PYTHON, seen, source},
    recorder::Step,
    servers::in_pod,
    wait::within,
};

/// Of servers that tests start in the pod.
const PORT: u16 = 9000;
/// Where the other host's stand-in listens in the pod.
const AUTH: u16 = 9191;

/// Where the guests of the host's own tests are, which hold all patterns; built by the script that builds filters.
fn patterns() -> PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let (root, out) = (manifest().join(".."), built().parent().unwrap().join("proxy-wasm-guests"));
        run(Command::new(root.join("scripts/build-filters.sh")).arg(&out).arg(root.join("agent/filters/tests/guests-proxy-wasm")));
        out
    });
    out.clone()
}

/// The SDKs.
const GUESTS: [&str; 3] = ["rust", "go", "assemblyscript"];

/// The filter of that SDK, with its config.
fn with_guest<'a>(exec: Exec<'a>, guest: &str, config: &str) -> Exec<'a> {
    static COMPILED: OnceLock<()> = OnceLock::new();
    if guest == "go" {
        // Go's runtime is large: compiling it takes seconds, once, on a busy machine many.
        COMPILED.get_or_init(|| {
            let is_compiled = (0..4).any(|_| {
                let pod = Pod::new();
                let session = with_module(Exec::steal(&pod), guest, config).start(&Program::raw("warm", &[PORT]));
                let listens = || session.log().iter().any(|line| line.starts_with("listening")).then_some(());
                within(Duration::from_secs(60), listens).is_some()
            });
            assert!(is_compiled, "Go's runtime was not compiled within four minutes");
        });
    }
    with_module(exec, guest, config)
}

fn with_module<'a>(exec: Exec<'a>, guest: &str, config: &str) -> Exec<'a> {
    let path = patterns().join(format!("patterns-{guest}.wasm"));
    exec.word("--filter").word(path.to_str().unwrap()).word("--filter-config").word(config)
}

fn with_filter<'a>(exec: Exec<'a>, config: &str) -> Exec<'a> {
    with_guest(exec, "rust", config)
}

/// A host that answers each request by who asks: `x-user: NAME` in the head gives NAME's verdict.
struct Auth {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
    inside: mirrord_tests::netns::Handle,
}

impl Auth {
    fn start(pod: &Pod) -> Self {
        let listener = pod.inside.run(|| TcpListener::bind(("127.0.0.1", AUTH)).unwrap());
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        let thread = pod.inside.spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_request(&mut stream);
                let (status, body) = match &head {
                    stop if stop.starts_with("STOP") => return,
                    mine if mine.contains("x-user: me\r\n") => ("200 OK", "steal"),
                    slow if slow.contains("x-user: slow\r\n") => {
                        std::thread::sleep(Duration::from_millis(200));
                        ("200 OK", "pass")
                    }
                    bad if bad.contains("x-user: bad\r\n") => ("403 Forbidden", ""),
                    _ => ("200 OK", "pass"),
                };
                seen.lock().unwrap().push(head);
                let answer = format!("HTTP/1.1 {status}\r\nx-answer: yes\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Auth { address, heads, thread: Some(thread), inside: pod.inside.handle() }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Auth {
    fn drop(&mut self) {
        let address = self.address;
        self.inside.run(|| TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"STOP\r\n\r\n")).unwrap());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The head, and as much of the body as its content-length says.
fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return String::from_utf8(bytes).unwrap();
            }
        }
        assert!(count > 0, "a request ends early: {text}");
    }
}

#[test]
fn a_stock_filter_steals_by_header_and_disturbs_nobody() {
    let pod = Pod::new();
    let others = Others::load(&pod);
    let session: Session = with_filter(Exec::steal(&pod), "steal x-user=me").run(&Program::python("mine", &[WEB]));
    assert_eq!(pod.get("/").with("x-user: me").send().who(), "program mine");
    assert_eq!(pod.get("/").with("x-user: you").send().who(), "pod");
    assert_eq!(pod.get("/").send().who(), "pod");
    others.wait_for(1000);
    session.end();
    assert_eq!(pod.get("/").with("x-user: me").send().who(), "pod");
    others.stop().assert_undisturbed(1000);
    pod.assert_pristine();
}

#[test]
fn every_sdks_filter_sees_bodies_and_trailers_and_changes_none_by_looking() {
    let request = b"POST /all HTTP/1.1\r\nHost:  pod\r\nTransfer-Encoding:  chunked\r\n\r\n3;n=1\r\nabc\r\n0\r\nX-T: t\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nServer:  x\r\nTransfer-Encoding: chunked\r\n\r\n4;n=2\r\ndefg\r\n0\r\nGrpc-Status: 0\r\n";
    for guest in GUESTS {
        let pod = Pod::new();
        let recorder = Recorder::new(&pod.inside, PORT);
        let session = with_guest(Exec::steal(&pod), guest, "phases").run(&Program::raw("one", &[PORT]));
        for pieces in Pieces::ALL {
            let step = Step { after: request.len(), answer: format!("{answer}\r\n").into_bytes(), pieces, close: false };
            recorder.play(vec![step]);
            let mut client = pod.connect(PORT);
            client.send_in(request, pieces);
            // One trailer more, and no other byte changed.
            let expected = format!("{answer}x-trailer: 1\r\n\r\n");
            let got = client.read_up_to(expected.len(), Duration::from_secs(10));
            assert_eq!(String::from_utf8_lossy(&got), expected, "{guest}, {pieces:?}");
            client.finish();
            drop(client);
            let got: Vec<u8> = recorder.seen().into_iter().flat_map(|one| one.bytes).collect();
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(request), "{guest}, {pieces:?}");
        }
        let output = eventually("the last callback", || Some(session.output()).filter(|output| output.contains("log /all")));
        let mut rest = output.as_str();
        for callback in [
            "request headers false",
            "request body ",
            "request trailers 1",
            "response headers",
            "response body 4 true",
            "response trailers 1",
        ] {
            let at = rest.find(callback).unwrap_or_else(|| panic!("{guest}: no {callback} in its place in\n{output}"));
            rest = &rest[at..];
        }
        session.end();
        drop(recorder);
        pod.assert_pristine();
    }
}

#[test]
fn trailers_of_grpc_are_shown_and_edited() {
    let mut pod = Pod::new();
    let server = |name: &str| Program::new(&[PYTHON, &source("grpc_server.py")], name, &[PORT]);
    in_pod(&mut pod, &server("pod"));
    let client = || {
        let mut command = pod.clients.command(PYTHON);
        command.arg(source("grpc_client.py")).arg(pod.address(PORT).to_string()).arg("few").stdin(Stdio::null());
        let output = output(&mut command);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let bare = client();
    assert!(bare.contains("UNIMPLEMENTED") && !bare.contains("x-trailer"), "{bare}");
    for guest in GUESTS {
        // A filter that denies when it fails holds up no conversation either.
        let session = with_guest(Exec::steal(&pod), guest, "phases").option("--filter-on-failure deny").run(&server("one"));
        let marked = client();
        // Four calls have a head and trailers; the fifth is refused with a head alone.
        assert_eq!(marked.matches("'x-trailer': '1'").count(), 4, "{guest}: {marked}");
        let unmarked = marked.replace(", 'x-trailer': '1'", "").replace("'x-trailer': '1'", "");
        assert_eq!(unmarked, bare, "{guest}: nothing else is changed, and conversations go on");
        session.end();
    }
}

#[test]
fn a_filter_that_says_so_at_the_head_changes_bodies() {
    for guest in ["rust", "go"] {
        let pod = Pod::new();
        let session = with_guest(Exec::steal(&pod), guest, "body").run(&Program::c("mine", &[WEB]));
        let body = [b"small letters ", &[b'x'; 200_000][..]].concat();
        for _ in 0..2 {
            let got = pod.request(pod.address(WEB), "POST", "/echo").body(&body).send();
            assert_eq!((got.status, got.who(), got.header("x-request-size").as_deref()), (200, "pod".into(), Some("200014")), "{guest}");
        }
        session.end();
        pod.assert_pristine();
    }
}

#[test]
fn a_body_that_a_filter_would_change_without_having_said_so_goes_on_and_what_it_refuses_ends() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = with_filter(Exec::steal(&pod), "eager").run(&Program::raw("one", &[PORT]));
    let request = b"POST / HTTP/1.1\r\nHost: pod\r\nContent-Length: 3\r\n\r\nabc";
    for (body, ends) in [("all fine.", false), ("forbidden", true)] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{body}");
        recorder.play(vec![Step { after: request.len(), answer: answer.clone().into_bytes(), pieces: Pieces::Whole, close: false }]);
        let mut client = pod.connect(PORT);
        client.send(request);
        if ends {
            let (_, end) = client.ending(Duration::from_secs(10));
            assert_eq!(end, "reset");
        } else {
            let got = client.read_up_to(answer.len(), Duration::from_secs(10));
            assert_eq!(String::from_utf8_lossy(&got), answer);
        }
        let got: Vec<u8> = recorder.seen().into_iter().flat_map(|one| one.bytes).collect();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(request));
    }
    eventually("its author is told", || session.output().contains("removes content-length").then_some(()));
    session.end();
}

#[test]
fn a_callout_reaches_a_host_that_speaks_http_2() {
    let mut pod = Pod::new();
    let log = in_pod(&mut pod, &Program::node_http2("auth", &[PORT]));
    let session = with_filter(Exec::steal(&pod), "callout auth")
        .word("--filter-upstream")
        .word(&format!("auth=http2://127.0.0.1:{PORT}"))
        .run(&Program::c("mine", &[WEB]));
    // Its answer is no verdict, which is a fault; but it came, by HTTP/2, with the call's path and body.
    assert_eq!(pod.get("/echo").with("x-user: me").send().who(), "pod");
    let seen = eventually("the host was asked", || seen(&log).pop());
    assert_eq!((seen.path.as_str(), seen.user.as_str(), seen.body), ("/echo", "me", 10));
    eventually("the filter hears the answer", || session.output().contains(" headers, Some(\"200\")").then_some(()));
    session.end();
}

#[test]
fn a_filter_makes_calls_on_its_ticks_to_declared_hosts_only() {
    let pod = Pod::new();
    let auth = Auth::start(&pod);
    let upstream = format!("auth={}", auth.address);
    let session =
        with_filter(Exec::steal(&pod), "tick-call").word("--filter-upstream").word(&upstream).run(&Program::python("mine", &[WEB]));
    let heads = eventually("the host hears of a tick", || Some(auth.heads()).filter(|heads| !heads.is_empty()));
    assert!(heads[0].starts_with("GET /tick HTTP/1.1\r\nhost: auth\r\n"), "{heads:?}");
    eventually("the filter hears the answer", || session.output().contains("the tick's call: 3 headers").then_some(()));
    assert_eq!(pod.get("/").send().who(), "pod");
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_callout_decides_and_only_that_request_waits() {
    let pod = Pod::new();
    let auth = Auth::start(&pod);
    let others = Others::load_with(&pod, 16, &["x-no-call: 1"]);
    let upstream = format!("auth={}", auth.address);
    let session =
        with_filter(Exec::steal(&pod), "callout auth").word("--filter-upstream").word(&upstream).run(&Program::python("mine", &[WEB]));
    for _ in 0..3 {
        assert_eq!(pod.get("/").with("x-user: me").send().who(), "program mine");
        assert_eq!(pod.get("/").with("x-user: you").send().who(), "pod");
        assert_eq!(pod.get("/").with("x-user: slow").send().who(), "pod");
        let refused = pod.get("/").with("x-user: bad").send();
        assert_eq!((refused.status, refused.text().as_str()), (403, "the other one says no"));
    }
    // A body is held with its request.
    let stolen = pod.request(pod.address(WEB), "POST", "/echo").with("x-user: me").body(&[b'x'; 100_000]).send();
    assert_eq!(stolen.who(), "program mine");
    assert!(session.seen().iter().any(|seen| seen.body == 100_000 && seen.user == "me"), "{:?}", session.seen());
    let heads = auth.heads();
    assert!(
        heads[0].starts_with("POST / HTTP/1.1\r\nhost: auth.svc\r\nx-user: me\r\n") && heads[0].ends_with("who is it?"),
        "{:?}",
        heads[0]
    );
    others.wait_for(1000);
    session.end();
    others.stop().assert_undisturbed(2000);
    pod.assert_pristine();
}

#[test]
fn an_upstream_that_is_gone_costs_the_requests_that_ask_it_and_no_others() {
    let pod = Pod::new();
    let session = with_filter(Exec::steal(&pod), "callout auth")
        .word("--filter-upstream")
        .word(&format!("auth=127.0.0.1:{AUTH}"))
        .run(&Program::python("mine", &[WEB]));
    assert_eq!(pod.get("/").with("x-user: me").send().status, 403);
    assert_eq!(pod.get("/").with("x-no-call: 1").send().who(), "pod");
    session.end();
    pod.assert_pristine();
}
