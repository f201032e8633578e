//! Mirror mode: the pod answers, the program gets a copy of each request, and what the program does with it is nobody's concern.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Exec, Others, Pod, Program, Recorder, eventually,
    http::Pieces,
    http2,
    pod::{WEB, WEB_H2},
    programs::Seen,
    recorder::Step,
    session::{ME, USER_ME},
};

#[test]
fn of_ten_thousand_requests_the_pod_answers_all_and_the_program_sees_all() {
    let pod = Pod::alone();
    let session = Exec::mirror(&pod).run(&Program::c("copy", &[WEB]));
    let took = ask(&pod, 10_000, "/m");
    let seen = session.wait_for_requests(10_000);
    println!("10,000 mirrored requests in {took:.1?}");
    let paths: HashSet<_> = seen.iter().map(|seen| &seen.path).collect();
    assert_eq!((seen.len(), paths.len()), (10_000, 10_000), "each request once");
    assert!(seen.iter().all(|seen| seen.peer == pod.client_v4 && seen.local == WEB), "{:?}", seen[0]);
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_stopped_program_slows_nobody() {
    let pod = Pod::alone();
    let session = Exec::mirror(&pod).run(&Program::c("copy", &[WEB]));
    ask(&pod, 2000, "/warm");
    let running = ask(&pod, 10_000, "/running");
    session.program().stop();
    let stopped = ask(&pod, 10_000, "/stopped");
    session.program().signal(libc::SIGCONT);
    println!("10,000 requests with the program running {running:.2?}, stopped {stopped:.2?}");
    assert!(stopped < running.mul_f64(1.3) + Duration::from_millis(100), "{stopped:?} with the program stopped, {running:?} without");
    assert_eq!(pod.get("/").send().who(), "pod");
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_program_that_dies_in_mirror_mode_disturbs_nobody() {
    let pod = Pod::alone();
    let mut session = Exec::mirror(&pod).run(&Program::c("copy", &[WEB]));
    let others = Others::load(&pod);
    others.wait_for(2000);
    session.program().kill();
    session.wait();
    others.wait_for(2000);
    others.stop().assert_undisturbed(4000);
    drop(session);
    pod.assert_pristine();
}

#[test]
fn mirror_is_the_default_and_a_filter_picks_what_is_mirrored() {
    let pod = Pod::new();
    let session = Exec::plain(&pod).filter("header", USER_ME).run(&Program::python("copy", &[WEB]));
    for number in 0..20 {
        let path = format!("/{number}");
        let request = if number % 2 == 0 { pod.get(&path).with(ME) } else { pod.get(&path) };
        let answer = request.send();
        assert_eq!(answer.text(), format!("pod GET {path}\n"));
    }
    let seen = session.wait_for_requests(10);
    assert!(seen.iter().all(|seen| seen.user == "me"), "{seen:?}");
    // The last to pass is behind all others; when its neighbour has come, none that was not picked is still under way.
    assert_eq!(seen.len(), 10);
}

#[test]
fn bodies_and_kept_connections_are_mirrored_whole() {
    let pod = Pod::new();
    let session = Exec::mirror(&pod).run(&Program::python("copy", &[WEB]));
    let mut client = pod.connect(WEB);
    client.send_in(b"POST /length HTTP/1.1\r\nHost: pod\r\nContent-Length: 10\r\n\r\n0123456789", Pieces::Bytes);
    assert_eq!(client.response().who(), "pod");
    client.send(b"POST /chunks HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\ndefg\r\n0\r\nT: t\r\n\r\n");
    assert_eq!(client.response().who(), "pod");
    client.send(b"HEAD /head HTTP/1.1\r\nHost: pod\r\n\r\nGET /last HTTP/1.1\r\nHost: pod\r\n\r\n");
    assert_eq!(mirrord_tests::http::read_head(client.reader()).unwrap().status, 200);
    assert_eq!(client.response().text(), "pod GET /last\n");
    let mut seen: Vec<_> =
        session.wait_for_requests(4).into_iter().map(|Seen { method, path, body, .. }| format!("{method} {path} {body}")).collect();
    seen.sort();
    assert_eq!(seen, ["GET /last 0", "HEAD /head 0", "POST /chunks 7", "POST /length 10"]);
}

#[test]
fn http2_is_mirrored_too() {
    let pod = Pod::new();
    let session = Exec::mirror(&pod).run(&Program::node_http2("copy", &[WEB_H2]));
    let requests: Vec<_> =
        (0..50).map(|number| http2::Request { method: "POST", path: format!("/{number}"), mine: false, body: vec![b'x'; 3000] }).collect();
    for (number, answer) in http2::exchange(&pod.clients, pod.address(WEB_H2), requests).into_iter().enumerate() {
        assert_eq!(answer.unwrap().text, format!("pod POST /{number}\n"));
    }
    let seen = session.wait_for_requests(50);
    assert!(seen.iter().all(|seen| seen.body == 3000), "{seen:?}");
}

#[test]
fn what_is_no_http_is_mirrored_as_it_came() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, 9000);
    let session = Exec::mirror(&pod).run(&Program::raw("copy", &[9000]));
    recorder.play(vec![
        Step { after: 0, answer: b"welcome to the pod\n".to_vec(), pieces: Pieces::Whole, close: false },
        Step { after: 6, answer: b"bye\n".to_vec(), pieces: Pieces::Whole, close: false },
    ]);
    let mut client = pod.connect(9000);
    let start = Instant::now();
    assert_eq!(client.read_up_to(19, Duration::from_secs(5)), b"welcome to the pod\n");
    assert!(start.elapsed() < Duration::from_millis(500), "a server that speaks first was kept waiting for {:?}", start.elapsed());
    client.send(b"\x00\x01bin\xff");
    assert_eq!(client.read_up_to(4, Duration::from_secs(5)), b"bye\n");
    client.finish();
    eventually("the program has the same bytes", || {
        let received: String = session.log().iter().filter_map(|line| line.strip_prefix("received ").map(str::to_owned)).collect();
        (received == "000162696eff").then_some(())
    });
    assert_eq!(recorder.finished()[0].bytes, b"\x00\x01bin\xff");
}

/// So many requests on 16 kept connections; each must be answered by the pod. How long they took.
fn ask(pod: &Pod, count: usize, prefix: &str) -> Duration {
    const CONNECTIONS: usize = 16;
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| pod.connect(WEB)).collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                for request in 0..count / CONNECTIONS {
                    let path = format!("{prefix}/{number}/{request}");
                    assert_eq!(client.get(&path, &[]).text(), format!("pod GET {path}\n"));
                }
            });
        }
    });
    start.elapsed()
}
