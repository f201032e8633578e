//! Kept, pipelined and multiplexed connections: each request reaches the right side, each answer comes in the right order, and
//! a body of any length streams without being held.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Client, Exec, Pod, Program,
    http::{get, read_head},
    http2,
    pod::{WEB, WEB_H2},
    processes::Process,
    session::{Delivery, ME},
};

const GIB: u64 = 1 << 30;
/// How much a process may grow while a body of any length goes through.
const GROWTH: u64 = 16 << 20;

#[test]
fn stolen_and_passed_requests_take_turns_on_a_kept_connection() {
    Delivery::ALL.into_iter().for_each(take_turns);
}

fn take_turns(delivery: Delivery) {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).delivery(delivery).run(&Program::python("one", &[WEB]));
    let mut client = pod.connect(WEB);
    for number in 0..200 {
        let mine = number % 3 == 0;
        let path = format!("/{number}");
        let answer = client.get(&path, if mine { &[ME] } else { &[] });
        assert_eq!(answer.who(), if mine { "program one" } else { "pod" }, "request {number}");
        assert!(answer.text().contains(&path), "request {number} got {}", answer.text());
        assert_eq!(answer.header("x-mirrord-filter").as_deref(), mine.then_some("header"));
    }
    let seen = session.seen();
    assert_eq!(seen.len(), 67);
    assert!(seen.iter().all(|one| one.user == "me" && one.peer == pod.client_v4 && one.local == WEB), "{:?}", seen[0]);
}

#[test]
fn pipelined_requests_are_answered_in_order_whoever_answers() {
    Delivery::ALL.into_iter().for_each(pipeline);
}

fn pipeline(delivery: Delivery) {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).delivery(delivery).run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    let mut bytes = Vec::new();
    for number in 0..60 {
        let user = if number % 2 == 0 { "x-user: me\r\n" } else { "" };
        bytes.extend(
            match number % 3 {
                0 => format!("GET /{number} HTTP/1.1\r\nHost: pod\r\n{user}\r\n"),
                1 => format!("POST /{number} HTTP/1.1\r\nHost: pod\r\n{user}Content-Length: 5\r\n\r\nabcde"),
                // A body that looks like a request must not become one.
                _ => format!(
                    "PUT /{number} HTTP/1.1\r\nHost: pod\r\n{user}Content-Length: 38\r\n\r\nGET /evil HTTP/1.1\r\nx-user: me\r\n\r\n1234"
                ),
            }
            .into_bytes(),
        );
    }
    client.send(&bytes);
    for number in 0..60 {
        let answer = client.response();
        let method = ["GET", "POST", "PUT"][number % 3];
        let who = if number % 2 == 0 { "program one" } else { "pod" };
        assert!(answer.text().starts_with(&format!("{who} {method} /{number}")), "answer {number}: {}", answer.text());
    }
    let paths: Vec<_> = session.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, (0..60).step_by(2).map(|number| format!("/{number}")).collect::<Vec<_>>());
}

#[test]
fn http2_streams_of_one_connection_reach_the_right_side_with_bodies_and_trailers() {
    Delivery::ALL.into_iter().for_each(multiplex);
}

fn multiplex(delivery: Delivery) {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).delivery(delivery).run(&Program::node_http2("one", &[WEB_H2]));
    let requests: Vec<_> = (0..100)
        .map(|number: usize| {
            let body = if number.is_multiple_of(5) { vec![b'x'; 40_000] } else { Vec::new() };
            let method = if body.is_empty() { "GET" } else { "POST" };
            http2::Request { method, path: format!("/{number}"), mine: number.is_multiple_of(2), body }
        })
        .collect();
    for (number, answer) in http2::exchange(&pod.clients, pod.address(WEB_H2), requests.clone()).into_iter().enumerate() {
        let (answer, request) = (answer.unwrap(), &requests[number]);
        assert_eq!(answer.status, 200);
        if request.mine {
            assert_eq!(answer.text, format!("program one {} /{number} body={}\n", request.method, request.body.len()));
            assert_eq!(answer.headers.get("x-mirrord-filter").unwrap(), "header");
            assert_eq!(answer.trailers.get("x-trailer").unwrap(), "one");
        } else {
            assert_eq!(answer.text, format!("pod {} /{number}\n", request.method));
            assert!(!answer.headers.contains_key("x-mirrord-filter"));
        }
    }
    let seen = session.seen();
    assert_eq!(seen.len(), 50);
    assert!(seen.iter().all(|one| one.user == "me" && one.peer == pod.client_v4 && one.local == WEB_H2), "{:?}", seen[0]);
}

#[test]
fn curl_and_h2load_find_nothing_wrong_with_http2() {
    let pod = Pod::new();
    let _session = Exec::steal_mine(&pod).run(&Program::node_http2("one", &[WEB_H2]));
    let url = format!("http://{}/x", pod.address(WEB_H2));
    assert_eq!(pod.curl(&format!("--http2-prior-knowledge {url}")), "pod GET /x\n");
    assert_eq!(pod.curl(&format!("--http2-prior-knowledge -H x-user:me {url}")), "program one GET /x body=0\n");
    let report = pod.clients.sh(&format!("h2load -n 5000 -c 8 -m 16 {url}"));
    assert!(report.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
}

#[test]
fn a_gibibyte_streams_in_any_direction_with_flat_memory() {
    stream_a_gibibyte(Delivery::Socket);
}

#[test]
fn a_gibibyte_streams_in_any_direction_with_flat_memory_through_the_tunnel() {
    stream_a_gibibyte(Delivery::Tunnel);
}

fn stream_a_gibibyte(delivery: Delivery) {
    let pod = Pod::alone();
    pod.add_file("gib", GIB);
    let session = Exec::steal_mine(&pod).delivery(delivery).run(&Program::c("one", &[WEB]));
    // One small request each way first: what is allocated once is not growth.
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    assert_eq!(pod.get("/").send().who(), "pod");
    let watched = [("agent", pod.agent()), ("intproxy", session.intproxy())];
    grows_little("stolen response", &watched, || download(&mut pod.connect(WEB), &format!("/bytes/{GIB}"), &[ME]));
    grows_little("passed response", &watched, || download(&mut pod.connect(WEB), "/files/gib", &[]));
    grows_little("stolen request", &watched, || {
        assert!(upload(&mut pod.connect(WEB), &[ME]).starts_with("program one POST /upload body=1073741824"));
    });
    grows_little("passed request", &watched, || assert!(upload(&mut pod.connect(WEB), &[]).starts_with("pod POST")));
}

#[test]
fn a_reader_of_one_megabyte_a_second_holds_back_its_own_stream_and_nothing_else() {
    read_beside_slow_ones(Delivery::Socket);
}

#[test]
fn a_reader_of_one_megabyte_a_second_holds_back_its_own_stream_and_nothing_else_through_the_tunnel() {
    read_beside_slow_ones(Delivery::Tunnel);
}

fn read_beside_slow_ones(delivery: Delivery) {
    let pod = Pod::alone();
    pod.add_file("gib", GIB);
    let session = Exec::steal_mine(&pod).delivery(delivery).run(&Program::c("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    let watched = [("agent", pod.agent()), ("intproxy", session.intproxy())];
    grows_little("slow readers", &watched, || {
        thread::scope(|scope| {
            let slow = [(format!("/bytes/{GIB}"), vec![ME]), ("/files/gib".to_owned(), vec![])];
            let readers: Vec<_> = slow
                .into_iter()
                .map(|(path, headers)| {
                    let mut client = pod.connect(WEB);
                    scope.spawn(move || read_slowly(&mut client, &path, &headers, 4_000_000))
                })
                .collect();
            let mut slowest = Duration::ZERO;
            while readers.iter().any(|reader| !reader.is_finished()) {
                let start = Instant::now();
                assert_eq!(pod.get("/").with(ME).send().who(), "program one");
                assert_eq!(pod.get("/").send().who(), "pod");
                slowest = slowest.max(start.elapsed());
            }
            println!("beside the slow readers, a stolen and a passed request took at most {slowest:?}");
            assert!(slowest < Duration::from_millis(500), "{slowest:?}");
        });
    });
}

fn grows_little(what: &str, watched: &[(&str, Process)], work: impl FnOnce()) {
    let before: Vec<_> = watched.iter().map(|(_, process)| process.memory()).collect();
    watched.iter().for_each(|(_, process)| process.reset_peak_memory());
    let start = Instant::now();
    work();
    let took = start.elapsed();
    for ((name, process), before) in watched.iter().zip(before) {
        let growth = process.peak_memory().saturating_sub(before);
        println!("{what}: {took:.1?}, {name} grew by {:.1} MiB from {:.1}", growth as f64 / 1048576.0, before as f64 / 1048576.0);
        assert!(process.is_alive(), "{what}: the {name} is gone");
        assert!(growth < GROWTH, "{what}: the {name} grew by {growth} bytes");
    }
}

fn download(client: &mut Client, path: &str, headers: &[&str]) {
    client.send(&get(path, headers));
    let head = read_head(client.reader()).unwrap();
    assert_eq!(head.header("content-length").unwrap(), GIB.to_string());
    let mut buffer = vec![0; 1 << 20];
    let mut left = GIB;
    while left > 0 {
        let part = buffer.len().min(left as usize);
        let read = client.reader().read(&mut buffer[..part]).unwrap();
        assert!(read > 0, "cut with {left} bytes to go");
        left -= read as u64;
    }
}

fn upload(client: &mut Client, headers: &[&str]) -> String {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    client.send(format!("POST /upload HTTP/1.1\r\nHost: pod\r\n{lines}Content-Length: {GIB}\r\n\r\n").as_bytes());
    let block = vec![b'u'; 1 << 20];
    let mut socket = client.socket();
    for _ in 0..GIB >> 20 {
        socket.write_all(&block).unwrap();
    }
    client.response().text()
}

/// Reads so many bytes at 1 MB/s and then hangs up.
fn read_slowly(client: &mut Client, path: &str, headers: &[&str], amount: usize) {
    client.send(&get(path, headers));
    read_head(client.reader()).unwrap();
    let start = Instant::now();
    let mut buffer = vec![0; 50_000];
    let mut read = 0;
    while read < amount {
        client.reader().read_exact(&mut buffer).unwrap();
        read += buffer.len();
        thread::sleep(Duration::from_micros(read as u64).saturating_sub(start.elapsed()));
    }
}
