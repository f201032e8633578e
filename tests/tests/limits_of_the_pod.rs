//! The pod's own limits and time-outs decide as they would without us: the same client meets the same pod twice, without mirrord
//! and with a session on the port, and what comes of it is compared: what was answered, how it ended, and after how long.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Exec, Pod, Program,
    h2raw::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, LAST, RST_STREAM, frame, get_head, opening, post_head, remembered,
    },
    servers,
};

const HTTP1: u16 = 9000;
const HTTP2: u16 = 9001;
/// The pod's patience, seconds.
const PATIENCE: u64 = 3;
/// An error code of HTTP/2.
const REFUSED_STREAM: u32 = 7;
/// Who is still served after this is not closed at all.
const FOREVER: Duration = Duration::from_secs(PATIENCE * 4);
/// How much earlier or later the same may happen, on a machine that has other things to do, too.
const TOLERANCE: Duration = Duration::from_millis(1500);

/// A client that sends this, a piece a second, and then says nothing more.
struct Attack {
    what: &'static str,
    port: u16,
    pieces: Vec<Vec<u8>>,
}

/// What came of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Statuses of HTTP/1, or the frames of HTTP/2 that mean something.
    said: Vec<String>,
    ended: bool,
    after: Duration,
}

fn http1(what: &'static str, pieces: &[&str]) -> Attack {
    Attack { what, port: HTTP1, pieces: pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect() }
}

fn http2(what: &'static str, frames: Vec<u8>) -> Attack {
    Attack { what, port: HTTP2, pieces: vec![[opening(), frames].concat()] }
}

fn attacks() -> Vec<Attack> {
    const GET: &str = "GET / HTTP/1.1\r\nHost: pod\r\n\r\n";
    let long = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: pod\r\nA: {}\r\n\r\n", "a".repeat(bytes));
    let path = format!("GET /{} HTTP/1.1\r\nHost: pod\r\n\r\n", "a".repeat(20_000));
    let many: String = (0..2000).map(|number| format!("A{number}: aaaaaaaaaaaaaa\r\n")).collect();
    let drip: Vec<_> = std::iter::once("GET / HTTP/1.1\r\nHost: pod\r\n").chain(["A: b\r\n"; 8]).collect();
    let slow_body: Vec<_> = std::iter::once("POST /read HTTP/1.1\r\nHost: pod\r\nContent-Length: 1000\r\n\r\n").chain(["b"; 2]).collect();
    let head = |stream: u32, more: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[&get_head(), more].concat());
    let bomb = [remembered("x-bomb", &[b'b'; 3900]), vec![LAST; 10_000]].concat();
    let long_list = [
        frame(HEADERS, END_STREAM, 1, &[&get_head()[..], &remembered("x", &[b'x'; 12_000])].concat()),
        frame(CONTINUATION, 0, 1, &remembered("y", &[b'y'; 12_000])),
        frame(CONTINUATION, END_HEADERS, 1, &remembered("z", &[b'z'; 12_000])),
    ]
    .concat();
    let endless =
        [frame(HEADERS, END_STREAM, 1, &get_head()), frame(CONTINUATION, 0, 1, &remembered("x", &[b'y'; 10_000])).repeat(300)].concat();
    vec![
        http1("a connection that says nothing", &[]),
        http1("a head that stops", &["GET / HTTP/1.1\r\nHost: p"]),
        http1("a head that drips", &drip),
        http1("a body that stops", &slow_body),
        http1("a kept connection", &[GET]),
        http1("a kept connection with a second head that stops", &[GET, "GET / HTTP/1.1\r\nHost: p"]),
        http1("more requests than a connection may have", &[&GET.repeat(7)]),
        http1("a header too long", &[&long(20_000)]),
        http1("a path too long", &[&path]),
        http1("headers too many", &[&format!("GET / HTTP/1.1\r\nHost: pod\r\n{many}\r\n")]),
        http1("a body too large", &["POST /small HTTP/1.1\r\nHost: pod\r\nContent-Length: 100000\r\n\r\n"]),
        http2("a connection that asks nothing", Vec::new()),
        http2("a connection that asks no more", head(1, &[])),
        http2("an upload that stops", [frame(HEADERS, END_HEADERS, 1, &post_head()), frame(DATA, 0, 1, &[b'b'; 100])].concat()),
        http2("a header list too long", long_list),
        http2("an HPACK bomb", head(1, &bomb)),
        http2("CONTINUATION without end", endless),
        http2("more requests than a connection may have", (0..7).flat_map(|index| head(2 * index + 1, &[])).collect()),
    ]
}

impl Attack {
    /// Meets the pod, and reads until it is closed or forgotten.
    fn meet(&self, pod: &Pod) -> Outcome {
        let mut stream = pod.clients.run(|| TcpStream::connect(pod.address(self.port)).unwrap());
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let (began, mut heard, mut buffer) = (Instant::now(), Vec::new(), vec![0; 64 << 10]);
        let mut pieces = self.pieces.iter().enumerate().peekable();
        loop {
            let after = began.elapsed();
            if let Some((_, piece)) = pieces.next_if(|(number, _)| after >= Duration::from_secs(*number as u64)) {
                // Whoever does not read it has said why, or closed.
                let _ = stream.write_all(piece);
            }
            let ended = match stream.read(&mut buffer) {
                Ok(0) => true,
                Ok(read) => {
                    heard.extend_from_slice(&buffer[..read]);
                    false
                }
                Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
            };
            if ended || after > FOREVER {
                let said = if self.port == HTTP1 { statuses(&heard) } else { frames(&heard) };
                return Outcome { said, ended, after };
            }
        }
    }
}

/// The status lines in what was heard.
fn statuses(heard: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(heard).into_owned();
    text.split("HTTP/1.1 ").skip(1).map(|rest| rest.split("\r\n").next().unwrap_or_default().to_owned()).collect()
}

/// Responses, resets and the connection's end, as far as they mean something to a client.
fn frames(mut heard: &[u8]) -> Vec<String> {
    let mut said = Vec::new();
    while let [high, middle, low, kind, _, a, b, c, d, ..] = *heard {
        let (length, stream) = (u32::from_be_bytes([0, high, middle, low]) as usize, u32::from_be_bytes([a, b, c, d]));
        let payload = heard.get(9..9 + length).unwrap_or_default();
        let code = |at: usize| payload.get(at..at + 4).map_or(0, |code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]));
        match kind {
            HEADERS => said.push(format!("response on {stream}")),
            // That it was not looked at, GOAWAY says of all that come after its last stream (RFC 9113 section 6.8).
            RST_STREAM if code(0) == REFUSED_STREAM => {}
            RST_STREAM => said.push(format!("reset {} of {stream}", code(0))),
            GOAWAY => said.push(format!("goaway {}", code(4))),
            _ => {}
        }
        heard = heard.get(9 + length..).unwrap_or_default();
    }
    said.sort();
    // A last word may come in two steps (RFC 9113 section 6.8).
    said.dedup();
    said
}

fn meet_all(pod: &Pod, attacks: &[Attack]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let meetings: Vec<_> = attacks.iter().map(|attack| scope.spawn(|| attack.meet(pod))).collect();
        meetings.into_iter().map(|meeting| meeting.join().unwrap()).collect()
    })
}

#[test]
fn the_pods_limits_and_time_outs_are_what_clients_meet() {
    let mut pod = Pod::alone();
    start_impatient_nginx(&mut pod);
    let attacks = attacks();
    let without = meet_all(&pod, &attacks);
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[HTTP1, HTTP2]));
    let with = meet_all(&pod, &attacks);
    let mut wrong = Vec::new();
    for ((attack, without), with) in attacks.iter().zip(&without).zip(&with) {
        let same = (&without.said, without.ended) == (&with.said, with.ended) && without.after.abs_diff(with.after) <= TOLERANCE;
        let line = format!("{} ({}): without {without:?}, with {with:?}", attack.what, attack.port);
        println!("{} {line}", if same { "same:" } else { "DIFFERENT:" });
        if !same {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), attacks.len(), wrong.join("\n"));
    session.end();
    pod.assert_pristine();
}

/// An nginx that has little patience and small limits.
fn start_impatient_nginx(pod: &mut Pod) {
    let folder = pod.folder.path().join("impatient");
    fs::create_dir(&folder).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {name};")).concat();
    let limits = format!(
        "client_header_timeout {PATIENCE}s; client_body_timeout {PATIENCE}s; keepalive_timeout {PATIENCE}s; lingering_timeout 1s;
        keepalive_requests 5; large_client_header_buffers 4 8k; client_max_body_size 50k;"
    );
    let web = pod.folder.path().join("plain.sock");
    let conf = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log error.log; events {{ worker_connections 1000; }}
        http {{ access_log off; {temporary} {limits} default_type text/plain;
        server {{ listen {HTTP1}; listen {HTTP2} http2; location / {{ return 200 \"pod\"; }}
        location /read {{ proxy_pass http://unix:{}; }} location /small {{ proxy_pass http://unix:{}; }} }} }}",
        web.display(),
        web.display()
    );
    fs::write(folder.join("nginx.conf"), conf).unwrap();
    let mut nginx = pod.inside.command("nginx");
    let nginx = nginx.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
    pod.start("impatient-nginx", nginx);
    [HTTP1, HTTP2].iter().for_each(|&port| servers::wait_for_listener(pod, port));
}
