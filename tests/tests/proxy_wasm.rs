//! Filters made with the stock proxy-wasm SDK for Rust, in sessions on a real pod: one steals by a header, one makes HTTP
//! calls of its own to a host in the pod's network.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use mirrord_tests::{
    Exec, Others, Pod, Program, Session, eventually,
    machine::{built, manifest, run},
    pod::WEB,
};

/// Where the other host's stand-in listens in the pod.
const AUTH: u16 = 9191;

/// The guest of the host's own tests, which holds all patterns; built by the script that builds filters.
fn patterns() -> PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let (root, out) = (manifest().join(".."), built().parent().unwrap().join("proxy-wasm-guests"));
        run(Command::new(root.join("scripts/build-filters.sh")).arg(&out).arg(root.join("agent/filters/tests/guests-proxy-wasm")));
        out
    });
    out.join("patterns-rust.wasm")
}

fn with_filter<'a>(exec: Exec<'a>, config: &str) -> Exec<'a> {
    let path = patterns();
    exec.word("--filter").word(path.to_str().unwrap()).word("--filter-config").word(config)
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
