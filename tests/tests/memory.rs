//! What the agent and the local proxy hold: little for an idle connection, nothing after it, a bounded amount for bodies of any
//! length however slow somebody is, and the same after an hour as after a second.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Client, Exec, Others, Pod, Program, eventually,
    http::{get, read_head},
    pod::WEB,
    processes::Process,
    session::ME,
    wait::within,
    watchdog,
};

const MIB: u64 = 1 << 20;
/// How much a process may grow while a body of any length goes through.
const GROWTH: u64 = 16 * MIB;
/// Idle connections at once.
const IDLE: u64 = 2000;
/// Set: ten minutes at 10,000 requests a second instead of twenty seconds at 5,000.
const LONG: &str = "MIRRORD_TESTS_LONG";

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// Files that a process has open.
fn files(process: Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.0)).map_or(0, Iterator::count)
}

#[test]
fn an_idle_agent_is_small_also_after_compiling_filters() {
    let pod = Pod::alone();
    let cache = pod.folder.path().join("cache");
    // Four filters, compiled by this very process.
    let start = |name: &str| {
        let exec = Exec::steal(&pod).variable("MIRRORD_AGENT_CACHE", cache.to_str().unwrap());
        let config = format!(r#"{{"name":"x-user","value":"{name}"}}"#);
        exec.filter("header", &config).filter("header", &config).run(&Program::c(name, &[WEB]))
    };
    let sessions: Vec<_> = ["one", "two"].map(start).into();
    for session in &sessions {
        let mine = format!("x-user: {}", session.name);
        assert_eq!(pod.get("/").with(&mine).send().who(), format!("program {}", session.name));
    }
    let agent = pod.agent();
    let small = within(Duration::from_secs(5), || (agent.memory() <= 14 * MIB).then_some(()));
    println!("idle agent with two sessions and filters just compiled: {:.1} MiB", mib(agent.memory()));
    assert!(small.is_some(), "an idle agent takes {:.1} MiB", mib(agent.memory()));
    drop(sessions);
    pod.assert_pristine();
}

#[test]
fn idle_connections_cost_little_and_give_it_back() {
    let pod = Pod::alone();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    let agent = pod.agent();
    let connect = |count: u64| -> Vec<Client> {
        (0..count)
            .map(|_| {
                let mut client = pod.connect(WEB);
                assert_eq!(client.get("/", &[]).who(), "pod");
                client
            })
            .collect()
    };
    // What is allocated once is no connection's.
    drop(connect(64));
    eventually("the first have gone", || (files(agent) < 60).then_some(()));
    let (before, files_before) = (agent.memory(), files(agent));
    // Twice: what stays is the allocator's (pages of which a part is in use), and does not become more.
    for round in ["first", "second"] {
        let (clients, since) = (connect(IDLE), Instant::now());
        // The agent looks once a second at how many there are.
        eventually("they are idle", || (since.elapsed() > Duration::from_secs(2)).then_some(()));
        let taken = agent.memory().saturating_sub(before);
        let each = taken as f64 / IDLE as f64 / 1024.0;
        println!("{round} {IDLE} idle connections: {each:.2} KiB each in the agent, from {:.1} MiB", mib(before));
        assert!(files(agent) >= 2 * IDLE as usize, "they are on the agent");
        assert!(each <= 4.0, "{each:.2} KiB for an idle connection");
        drop(clients);
        eventually("all have gone", || (files(agent) <= files_before.max(64)).then_some(()));
        let bound = before + taken / 4;
        let left = within(Duration::from_secs(5), || (agent.memory() <= bound).then_some(()));
        println!("after they have closed: {:.1} MiB", mib(agent.memory()));
        assert!(left.is_some(), "{:.1} MiB before, {:.1} after", mib(before), mib(agent.memory()));
    }
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_server_that_does_not_read_holds_back_the_upload_and_nothing_else() {
    const SIZE: u64 = 48 * MIB;
    let mut pod = Pod::alone();
    let reader = pod.folder.path().join("sink.py");
    fs::write(&reader, SINK).unwrap();
    let mut command = pod.inside.command("/usr/bin/python3");
    let slow_pod = pod.start("sink", command.arg(&reader));
    let port = 9000;
    eventually("the pod's reader listens", || Client::try_connect(&pod.clients, pod.address(port)).ok());
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[port]));
    let program = session.program();
    assert_eq!(pod.request(pod.address(port), "GET", "/").with(ME).send().who(), "program one");
    let watched = [("agent", pod.agent()), ("intproxy", session.intproxy())];
    for (what, server, header) in [("stolen", program, format!("{ME}\r\n")), ("passed", slow_pod, String::new())] {
        let before = watched.map(|(_, process)| process.memory());
        watched.iter().for_each(|(_, process)| process.reset_peak_memory());
        server.stop();
        thread::scope(|scope| {
            let uploads: Vec<_> = (0..4)
                .map(|_| {
                    let mut client = pod.connect(port);
                    let head = format!("POST /upload HTTP/1.1\r\nHost: pod\r\n{header}Content-Length: {SIZE}\r\n\r\n");
                    scope.spawn(move || {
                        client.send(head.as_bytes());
                        let mut socket = client.socket();
                        (0..SIZE / MIB).for_each(|_| socket.write_all(&[b'u'; MIB as usize]).unwrap());
                        client.response().status
                    })
                })
                .collect();
            // As much as anybody takes has been taken.
            let mut last = (0, Instant::now());
            eventually("nothing moves", || {
                let ticks = watched.iter().map(|(_, process)| process.ticks()).sum();
                if ticks != last.0 {
                    last = (ticks, Instant::now());
                }
                (last.1.elapsed() > Duration::from_millis(500)).then_some(())
            });
            assert!(uploads.iter().all(|upload| !upload.is_finished()), "nobody has swallowed an upload");
            server.signal(libc::SIGCONT);
            assert!(uploads.into_iter().all(|upload| upload.join().unwrap() == 200));
        });
        for ((name, process), before) in watched.iter().zip(before) {
            let growth = process.peak_memory().saturating_sub(before);
            println!("four {what} uploads to a server that does not read: {name} grew by {:.1} MiB", mib(growth));
            assert!(growth < GROWTH, "{what}: the {name} grew by {growth} bytes");
        }
    }
    session.end();
}

/// Reads requests with a length, one a connection, and answers when it has all of it.
const SINK: &str = r#"
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        length = 0
        while line := self.rfile.readline().strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while length > 0:
            length -= len(self.rfile.read(min(length, 1 << 16)))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npod\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("0.0.0.0", 9000), Handler).serve_forever()
"#;

#[test]
fn a_client_that_does_not_read_holds_back_its_own_download_and_nothing_else() {
    const SIZE: u64 = 48 * MIB;
    let pod = Pod::alone();
    pod.add_file("long", SIZE);
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    let watched = [("agent", pod.agent()), ("intproxy", session.intproxy())];
    let before = watched.map(|(_, process)| process.memory());
    watched.iter().for_each(|(_, process)| process.reset_peak_memory());
    let begin = |path: String, headers: &[&str]| {
        let mut client = pod.connect(WEB);
        client.send(&get(&path, headers));
        read_head(client.reader()).unwrap();
        client
    };
    let mut clients: Vec<_> = (0..4).flat_map(|_| [begin(format!("/bytes/{SIZE}"), &[ME]), begin("/files/long".into(), &[])]).collect();
    // Somebody else's requests meanwhile.
    for _ in 0..500 {
        assert_eq!(pod.get("/").send().who(), "pod");
        assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    }
    let mut body = vec![0; SIZE as usize];
    clients.iter_mut().for_each(|client| client.reader().read_exact(&mut body).unwrap());
    for ((name, process), before) in watched.iter().zip(before) {
        let growth = process.peak_memory().saturating_sub(before);
        println!("eight downloads by clients that do not read: {name} grew by {:.1} MiB", mib(growth));
        assert!(growth < GROWTH, "the {name} grew by {growth} bytes");
    }
    session.end();
}

#[test]
fn nothing_grows_while_requests_pass() {
    let (seconds, rate) = if std::env::var_os(LONG).is_some() { (600_u64, 156) } else { (20, 78) };
    let pod = Pod::alone();
    watchdog::allow(watchdog::LIMIT + Duration::from_secs(seconds));
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    // New connections too: they are what could use up ports.
    let others = Others::load_with(&pod, 16, &[]);
    let agent = pod.agent();
    let url = format!("http://{}/load", pod.address(WEB));
    let state = || (files(agent), agent.memory(), pod.inside.sh("ss -Hant").lines().filter(|line| !line.starts_with("TIME-WAIT")).count());
    let (first, last, report) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut command = pod.clients.command("h2load");
            command.args(["--h1", "-c", "64", "-D", &seconds.to_string(), "--rps", &rate.to_string(), "--warm-up-time", "0", &url]);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        });
        let began = Instant::now();
        let after = |part: f64| {
            thread::sleep(Duration::from_secs(seconds).mul_f64(part).saturating_sub(began.elapsed()));
            state()
        };
        let (first, last) = (after(0.25), after(0.9));
        (first, last, load.join().unwrap())
    });
    let lines: Vec<_> = report.lines().filter(|line| line.starts_with("requests:") || line.starts_with("finished")).collect();
    println!("{lines:?}");
    println!("files {} → {}, memory {:.1} → {:.1} MiB, sockets {} → {}", first.0, last.0, mib(first.1), mib(last.1), first.2, last.2);
    assert!(report.contains(" 0 failed, 0 errored, 0 timeout"), "{report}");
    assert!(last.0 <= first.0 + 32, "open files grew from {} to {}", first.0, last.0);
    assert!(last.1 <= first.1 + MIB, "memory grew from {:.1} to {:.1} MiB", mib(first.1), mib(last.1));
    assert!(last.2 <= first.2 * 5 / 4 + 64, "sockets in the pod grew from {} to {}", first.2, last.2);
    others.stop().assert_undisturbed(seconds * 50);
    session.end();
    pod.assert_pristine();
}
