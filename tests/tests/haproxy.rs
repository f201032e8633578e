//! A pod whose server is haproxy, in front of nginx and by itself, over HTTP/1 and HTTP/2 with prior knowledge: what nobody picked
//! reaches it, what somebody picked does not, and no client notices sessions that begin and end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{fs, thread, time::Duration};

use mirrord_tests::{Exec, Pod, Program, http2, servers, session::ME};

/// haproxy before nginx, for HTTP/1 and for HTTP/2 (it tells them apart by the first bytes), and haproxy that answers itself.
const HTTP1: u16 = 9000;
const HTTP2: u16 = 9001;
const ITSELF: u16 = 9002;
/// How long the load lasts, seconds: longer than two sessions take to begin and end twice.
const LOAD: u32 = 20;

const CONFIG: &str = r#"
global
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend relaying
    bind :9000
    bind :9001
    default_backend nginx
backend nginx
    server nginx 127.0.0.1:80
frontend itself
    bind :9002
    http-request return status 200 content-type text/plain lf-string "pod %[method] %[path]\n"
"#;

fn with_haproxy() -> Pod {
    let mut pod = Pod::new();
    let config = pod.folder.path().join("haproxy.cfg");
    fs::write(&config, CONFIG).unwrap();
    let mut command = pod.inside.command("haproxy");
    pod.start("haproxy", command.arg("-db").arg("-f").arg(config));
    [HTTP1, HTTP2, ITSELF].iter().for_each(|&port| servers::wait_for_listener(&pod, port));
    pod
}

/// Requests on one connection, two of each kind. haproxy itself answers without reading a body.
fn bundle(port: u16, mine: bool) -> Vec<http2::Request> {
    let request = |number: usize| {
        let body = if port == ITSELF || number.is_multiple_of(2) { Vec::new() } else { vec![b'b'; 20_000] };
        http2::Request { method: if body.is_empty() { "GET" } else { "POST" }, path: format!("/{number}"), mine, body }
    };
    (0..4).map(request).collect()
}

/// All of a bundle are answered by this one.
#[track_caller]
fn assert_answered(pod: &Pod, port: u16, mine: bool, who: &str) {
    for answer in http2::exchange(&pod.clients, pod.address(port), bundle(port, mine)) {
        let answer = answer.unwrap();
        assert!(answer.text.starts_with(who), "{port}: {} for {}, not {who}", answer.text, answer.path);
    }
}

/// Passed and stolen requests of both protocols go where they are to, with bodies.
fn assert_right(pod: &Pod) {
    for (port, mine) in [(HTTP1, true), (HTTP1, false), (ITSELF, true), (ITSELF, false)] {
        let mut client = pod.connect(port);
        for number in 0..3 {
            let who = if mine { "program one" } else { "pod" };
            assert_eq!(client.get(&format!("/{number}"), if mine { &[ME] } else { &[] }).who(), who, "{port}");
        }
        if port == ITSELF {
            continue;
        }
        let request = pod.request(pod.address(port), "POST", "/body").body(&[b'b'; 100_000]);
        let answer = if mine { request.with(ME) } else { request }.send();
        assert_eq!((answer.status, answer.who().as_str()), (200, if mine { "program one" } else { "pod" }), "{port}");
    }
    assert_answered(pod, HTTP2, true, "program two");
    for port in [HTTP1, HTTP2, ITSELF] {
        assert_answered(pod, port, false, "pod");
    }
}

#[test]
fn haproxys_clients_notice_no_session_that_begins_or_ends() {
    let pod = with_haproxy();
    thread::scope(|scope| {
        let loads: Vec<_> = [(HTTP1, "--h1"), (ITSELF, "--h1"), (HTTP2, ""), (ITSELF, "")]
            .into_iter()
            .map(|(port, way)| {
                let words = format!("h2load {way} -c 4 --rps 40 -D {LOAD} --warm-up-time 0 http://{}/load", pod.address(port));
                let pod = &pod;
                (port, way, scope.spawn(move || pod.clients.sh(&words)))
            })
            .collect();
        for _ in 0..2 {
            // Some of it before, some between.
            thread::sleep(Duration::from_millis(500));
            let one = Exec::steal_mine(&pod).run(&Program::c("one", &[HTTP1, ITSELF]));
            let two = Exec::steal_mine(&pod).run(&Program::node_http2("two", &[HTTP2]));
            assert_right(&pod);
            one.end();
            two.end();
            assert_answered(&pod, HTTP2, true, "pod");
        }
        assert!(loads.iter().all(|(_, _, load)| !load.is_finished()), "the sessions took longer than the load");
        for (port, way, load) in loads {
            let report = load.join().unwrap();
            let line = |name: &str| report.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            println!("{port} {way}: {} / {}", line("requests:"), line("status codes:"));
            assert!(report.contains(" 0 failed, 0 errored, 0 timeout"), "{port} {way}: {report}");
            assert!(line("status codes:").contains(" 0 3xx, 0 4xx, 0 5xx"), "{port} {way}: {report}");
        }
    });
    pod.assert_pristine();
}
