//! Clients that mean harm: ambiguous messages in every spelling, HTTP/2 bombs and floods, slowloris, crowds. Nothing of it is
//! stolen, the pod decides as it would without mirrord, the agent's memory is bounded, and others are served as ever.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use mirrord_tests::{
    Client, Exec, Others, Pod, Program, Recorder, eventually,
    h2raw::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, LAST, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, get_head, opening,
        post_head, push, remembered,
    },
    http::{Pieces, get, shown},
    http2,
    pod::{WEB, WEB_H2},
    recorder::Step,
    servers,
    session::ME,
};

const PORT: u16 = 9000;
const QUIET: Duration = Duration::from_secs(3);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npod";
/// How much an attack may make the agent grow.
const GROWTH: u64 = 64 << 20;

/// Content-Length and Transfer-Encoding in one head, in every order and spelling: each pair can be read in two ways.
fn smuggled() -> Vec<(String, Vec<u8>)> {
    const LENGTHS: [&str; 9] = [
        "Content-Length: 6",
        "content-length:6",
        "CONTENT-LENGTH: 6",
        "Content-Length:  06 ",
        "Content-Length: 6\r\nContent-Length: 6",
        "Content-Length: 6, 6",
        "Content-Length: +6",
        "Content-Length: 6\t",
        "Content-Length: 6;",
    ];
    const CODINGS: [&str; 13] = [
        "Transfer-Encoding: chunked",
        "transfer-encoding:chunked",
        "TRANSFER-ENCODING: CHUNKED",
        "Transfer-Encoding: \tchunked ",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \"chunked\"",
    ];
    let mut all = Vec::new();
    let mut add = |what: String, lines: &str, body: &str| {
        let number = all.len();
        all.push((what, format!("POST /case{number}. HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n{lines}\r\n\r\n{body}").into_bytes()));
    };
    for length in LENGTHS {
        for coding in CODINGS {
            for lines in [format!("{length}\r\n{coding}"), format!("{coding}\r\nX: y\r\n{length}")] {
                add(lines.clone(), &lines, "0\r\n\r\nX");
            }
        }
    }
    for lines in ["Host: other", "HOST: pod", "host:", "A: b\r\r", "A: b\rC: d", "A\0: b", "A: b\0", "A: b\n c"] {
        add(lines.into(), lines, "");
    }
    for length in [64 << 10, 65 << 10, 128 << 10, 300 << 10] {
        add(format!("a head of {length}"), &format!("A: {}\r\nA b: c", "z".repeat(length)), "");
    }
    all
}

/// Sends each on a connection of its own, with a request behind it that would be stolen, and ends. What each client got.
fn send_all(pod: &Pod, cases: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    cases
        .chunks(64)
        .flat_map(|cases| {
            thread::scope(|scope| {
                let talks: Vec<_> = cases
                    .iter()
                    .map(|(_, bytes)| {
                        scope.spawn(move || {
                            let mut client = pod.connect(PORT);
                            let _ = client.try_send(&[bytes, &get("/behind", &[ME])[..]].concat(), Pieces::Halves);
                            client.finish();
                            client.ending(QUIET).0
                        })
                    })
                    .collect();
                talks.into_iter().map(|talk| talk.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect()
}

#[test]
fn length_and_coding_in_every_order_and_spelling_are_the_pods() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[PORT]));
    let cases = smuggled();
    recorder.play(vec![Step { after: 1, answer: ANSWER.to_vec(), pieces: Pieces::Whole, close: false }]);
    let answers = send_all(&pod, &cases);
    let seen: BTreeMap<String, Vec<u8>> = recorder.finished().into_iter().map(|one| (case_of(&one.bytes), one.bytes)).collect();
    let mut wrong = Vec::new();
    for (number, ((what, bytes), answer)) in cases.iter().zip(&answers).enumerate() {
        let sent = [bytes, &get("/behind", &[ME])[..]].concat();
        let got = seen.get(&number.to_string()).map_or(&[][..], |got| got);
        if got != sent || answer != ANSWER {
            wrong.push(format!("{}: pod {}, client {}", shown(what.as_bytes()), shown(got), shown(answer)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let reached: Vec<_> = session.log().into_iter().filter(|line| !line.starts_with("listening")).collect();
    assert!(reached.is_empty(), "the program was reached: {reached:?}");
    println!("{} messages", cases.len());
}

#[test]
fn with_refuse_none_of_them_reaches_the_pod() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal_mine(&pod).option("--ambiguous refuse").run(&Program::raw("one", &[PORT]));
    let cases = smuggled();
    let answers = send_all(&pod, &cases);
    let wrong: Vec<_> = cases
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| !answer.starts_with(b"HTTP/1.1 400 "))
        .map(|((what, _), answer)| format!("{}: {}", shown(what.as_bytes()), shown(answer)))
        .collect();
    assert!(wrong.is_empty(), "{} of {} were not refused:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let got: Vec<_> = recorder.seen().into_iter().filter(|seen| !seen.bytes.is_empty()).collect();
    assert!(got.is_empty(), "the pod got {}", shown(&got[0].bytes));
    assert!(session.log().iter().all(|line| line.starts_with("listening")));
}

/// The number in `POST /case17. …`.
fn case_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]).into_owned();
    text.split_once("case").and_then(|(_, rest)| rest.split_once('.')).map(|(number, _)| number.to_owned()).unwrap_or_default()
}

/// Runs an attack beside others' traffic; the agent's memory and the others' answers are looked at.
fn withstood(pod: &Pod, what: &str, attack: impl FnOnce()) {
    let others = Others::load_with(pod, 16, &[]);
    let agent = pod.agent();
    let before = agent.memory();
    agent.reset_peak_memory();
    attack();
    let growth = agent.peak_memory().saturating_sub(before);
    println!("{what}: the agent grew by {:.1} MiB from {:.1}", growth as f64 / 1048576.0, before as f64 / 1048576.0);
    assert_eq!(pod.agent(), agent, "{what}");
    others.wait_for(100);
    others.stop().assert_undisturbed(100);
    assert!(growth < GROWTH, "{what}: the agent grew by {growth} bytes");
    assert_eq!(pod.get("/").with(ME).send().who(), "program one", "{what}");
}

/// Streams of a client, each made of frames for its number, with the opening before them and a PING behind.
fn flood(count: u32, frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let streams: Vec<u8> = (0..count).flat_map(|index| frames(2 * index + 1)).collect();
    [opening(), streams, frame(PING, 0, 0, &[7; 8])].concat()
}

#[test]
fn http2_bombs_and_floods_cost_the_agent_little_and_others_nothing() {
    let pod = Pod::alone();
    let _session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB, WEB_H2]));
    let head = |stream: u32, more: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[&get_head(), more].concat());
    let bomb = [remembered("x-bomb", &[b'b'; 3900]), vec![LAST; 10_000]].concat();
    let endless =
        [frame(HEADERS, END_STREAM, 1, &get_head()), frame(CONTINUATION, 0, 1, &remembered("x", &[b'y'; 10_000])).repeat(3000)].concat();
    let attacks: [(&str, Vec<u8>); 8] = [
        ("HPACK bombs, 40 MB each", flood(50, |stream| head(stream, &bomb))),
        ("30 MB of CONTINUATION", flood(1, |_| endless.clone())),
        ("rapid reset", flood(10_000, |stream| [head(stream, &[]), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat())),
        ("PINGs", flood(50_000, |_| frame(PING, 0, 0, &[1; 8]))),
        ("SETTINGS", flood(50_000, |_| frame(SETTINGS, 0, 0, &[]))),
        ("WINDOW_UPDATEs", flood(50_000, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        (
            "empty DATA",
            [opening(), frame(HEADERS, END_HEADERS, 1, &post_head()), frame(DATA, 0, 1, &[]).repeat(100_000), frame(PING, 0, 0, &[7; 8])]
                .concat(),
        ),
        (
            "an upload that is never ended, on 1,000 streams",
            flood(1000, |stream| [frame(HEADERS, END_HEADERS, stream, &post_head()), frame(DATA, 0, stream, &[0; 60])].concat()),
        ),
    ];
    for (what, bytes) in &attacks {
        withstood(&pod, what, || {
            let stream = pod.clients.run(|| TcpStream::connect(pod.address(WEB_H2)).unwrap());
            let (sent, last) = push(&stream, bytes, Duration::from_secs(8));
            println!("{what}: {sent} of {} bytes taken, last heard {last:?}", bytes.len());
        });
        let request = http2::Request { method: "GET", path: "/".into(), mine: false, body: Vec::new() };
        assert_eq!(http2::exchange(&pod.clients, pod.address(WEB_H2), vec![request]).remove(0).unwrap().text, "pod GET /\n", "{what}");
    }
}

#[test]
fn slowloris_takes_from_the_pod_what_it_takes_without_mirrord() {
    let pod = Pod::alone();
    let _session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    withstood(&pod, "slow heads and slow bodies, 500 each", || {
        thread::scope(|scope| {
            let slow: Vec<_> = ["-H", "-B"]
                .map(|way| {
                    let words = format!("slowhttptest {way} -c 500 -r 250 -i 2 -l 8 -p 3 -u http://{}/", pod.v4);
                    let pod = &pod;
                    scope.spawn(move || pod.clients.sh(&words))
                })
                .into();
            for test in slow {
                let report = test.join().unwrap();
                let line = |name: &str| report.lines().rev().find(|line| line.contains(name)).unwrap_or_default().to_owned();
                println!("{} {}", line("closed:"), line("service available:"));
                assert!(line("service available:").contains("YES"), "{report}");
                // The pod's own patience is a minute: nobody is closed within these seconds.
                assert!(line("closed:").ends_with(" 0"), "{report}");
            }
        });
    });
}

#[test]
fn a_thousand_half_open_connections_and_ten_thousand_whole_ones() {
    let mut pod = Pod::alone();
    start_big_nginx(&mut pod);
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB, PORT]));
    let address = pod.address(PORT);
    withstood(&pod, "1,000 half-open connections", || {
        // What the pod answers to their SYNs does not arrive.
        pod.clients.sh("iptables -A INPUT -p tcp --sport 9000 --tcp-flags SYN,ACK SYN,ACK -j DROP");
        let sockets: Vec<_> = pod.clients.run(|| (0..1000).map(|_| half_open(address)).collect());
        let waiting = || pod.inside.sh("ss -Htn state syn-recv").lines().count();
        eventually("the pod has half-open connections", || (waiting() > 100).then_some(()));
        println!("{} are waiting", waiting());
        drop(sockets);
        pod.clients.sh("iptables -F INPUT");
    });
    let count = crowd_that_fits();
    let mut crowd = Vec::new();
    let before = pod.agent().memory();
    withstood(&pod, &format!("{count} connections"), || {
        crowd = pod
            .clients
            .run(|| (0..count).map(|number| (number, Client::over(TcpStream::connect(address).unwrap()).unwrap())).collect::<Vec<_>>());
        for (number, client) in &mut crowd {
            if *number % 10 == 0 {
                let mine = *number % 20 == 0;
                let who = client.get("/", if mine { &[ME] } else { &[] }).who();
                assert_eq!(who, if mine { "program one" } else { "pod" }, "connection {number}");
            }
        }
        let now = pod.agent().memory();
        println!("{} bytes of the agent's memory for each", now.saturating_sub(before) / count);
    });
    drop(crowd);
    session.end();
    pod.assert_pristine();
}

/// Ten thousand, or as many as this machine lets the agent have: two descriptors each, three for some.
fn crowd_that_fits() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap_or(u64::MAX);
    (hard.saturating_sub(1000) / 21 * 10).min(10_000)
}

#[test]
fn who_comes_when_the_agent_has_no_descriptor_left_is_served_by_the_pod() {
    let mut pod = Pod::alone();
    start_big_nginx(&mut pod);
    let _session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB, PORT]));
    pod.clients.sh(&format!("prlimit --pid {} --nofile=500", pod.agent().0));
    let crowd = pod.clients.run(|| (0..600).map(|_| TcpStream::connect(pod.address(PORT)).unwrap()).collect::<Vec<_>>());
    // One that came within the lease's second waits with the crowd: the next ones do not.
    let url = format!("http://{}/", pod.address(PORT));
    let newcomer = || pod.clients.command("curl").args(["-s", "-m", "1", &url]).output().is_ok_and(|answer| answer.stdout == b"pod");
    eventually("newcomers are served", || newcomer().then_some(()));
    for _ in 0..20 {
        assert!(newcomer(), "and stay so");
    }
    for stream in crowd {
        assert_eq!(Client::over(stream).unwrap().get("/", &[]).who(), "pod");
    }
}

/// A connection that has been asked for.
fn half_open(to: SocketAddr) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&to.into());
    socket
}

/// A second nginx in the pod, with room for all of them.
fn start_big_nginx(pod: &mut Pod) {
    let folder = pod.folder.path().join("big");
    fs::create_dir(&folder).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {name};")).concat();
    let conf = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log error.log; events {{ worker_connections 16000; }}
        http {{ access_log off; {temporary} keepalive_timeout 600s; default_type text/plain; client_header_timeout 600s;
        server {{ listen {PORT} backlog=4096; location / {{ return 200 \"pod\"; }} }} }}"
    );
    fs::write(folder.join("nginx.conf"), conf).unwrap();
    let mut nginx = pod.inside.command("nginx");
    pod.start("big-nginx", nginx.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log")));
    servers::wait_for_listener(pod, PORT);
}
