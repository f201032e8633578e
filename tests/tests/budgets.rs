//! What one session may cost others: nothing that they notice. A session whose machine stands still loses its requests to the pod
//! in bounded time, and a thousand connections at once into one session are a thousand answers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::Write,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{Client, Exec, Pod, Program, eventually, http::get, pod::WEB, session::ME};

/// How long the load is measured before a session stands still, and while it does.
const MEASURED: Duration = Duration::from_secs(7);
/// The time in which a session that stands still must have lost what it has not answered.
const BOUND: Duration = Duration::from_secs(6);
/// Differences below this are this machine's own.
const NOISE: Duration = Duration::from_millis(3);

/// How long requests took, before and after.
#[derive(Default)]
struct Latencies([Vec<Duration>; 2]);

impl Latencies {
    fn p99(&self, phase: usize) -> Duration {
        let mut all = self.0[phase].clone();
        all.sort();
        all[all.len() * 99 / 100]
    }
}

/// A client with a kept connection at a pace of its own, until told to end.
fn paced(pod: &Pod, headers: &[&str], who: &str, phase: &AtomicUsize, over: &AtomicBool) -> Latencies {
    let mut took = Latencies::default();
    let mut client = pod.connect(WEB);
    while !over.load(Ordering::Relaxed) {
        let (start, phase) = (Instant::now(), phase.load(Ordering::Relaxed));
        assert_eq!(client.get("/paced", headers).who(), who);
        took.0[phase].push(start.elapsed());
        thread::sleep(Duration::from_millis(4));
    }
    took
}

#[test]
fn a_session_that_stands_still_loses_its_requests_in_bounded_time_and_touches_nobody() {
    let pod = Pod::alone();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    let other = Exec::steal(&pod).filter("header", r#"{"name":"x-user","value":"two"}"#).run(&Program::c("two", &[WEB]));
    let (phase, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (intproxy, program) = (session.intproxy(), session.program());
    thread::scope(|scope| {
        let unmatched: Vec<_> = (0..12).map(|_| scope.spawn(|| paced(&pod, &[], "pod", &phase, &over))).collect();
        let stolen: Vec<_> = (0..12).map(|_| scope.spawn(|| paced(&pod, &["x-user: two"], "program two", &phase, &over))).collect();
        thread::sleep(MEASURED);

        // Requests that the program has on its connections and does not answer.
        let mut reads: Vec<_> = (0..100).map(|_| pod.connect(WEB)).collect();
        let mut writes: Vec<_> = (0..20).map(|_| pod.connect(WEB)).collect();
        reads.iter_mut().chain(&mut writes).for_each(|client| assert_eq!(client.get("/first", &[ME]).who(), "program one"));
        program.signal(libc::SIGSTOP);
        reads.iter_mut().for_each(|client| client.send(&get("/mine", &[ME])));
        writes
            .iter_mut()
            .for_each(|client| client.send(b"POST /mine HTTP/1.1\r\nHost: pod\r\nx-user: me\r\nContent-Length: 5\r\n\r\nhello"));
        let upload = pod.connect(WEB);
        let ending = scope.spawn(move || upload_until_it_ends(upload));
        // A debugger stops programs, too: this costs the session nothing, only the machine that stands still does.
        thread::sleep(Duration::from_millis(500));
        let stopped = Instant::now();
        phase.store(1, Ordering::Relaxed);
        intproxy.signal(libc::SIGSTOP);
        for client in &mut reads {
            assert_eq!(client.response().text(), "pod GET /mine\n", "the pod answers what does no harm twice");
        }
        for client in &mut writes {
            let answer = client.response();
            assert_eq!(answer.status, 502);
            assert!(answer.text().contains("before it answered"), "{}", answer.text());
        }
        let lost = stopped.elapsed();
        let (status, ended) = ending.join().unwrap();
        println!("lost what was under way after {lost:?}, the upload after {:?} (status {status:?})", ended - stopped);
        assert!(lost < BOUND && ended - stopped < BOUND, "{lost:?} {:?}", ended - stopped);
        let start = Instant::now();
        assert_eq!(pod.get("/new").with(ME).send().who(), "pod", "what is new does not wait");
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        thread::sleep(MEASURED.saturating_sub(stopped.elapsed()));
        over.store(true, Ordering::Relaxed);

        for (what, clients) in [("unmatched", unmatched), ("another session's", stolen)] {
            let mut all = Latencies::default();
            for client in clients {
                let one = client.join().unwrap();
                all.0.iter_mut().zip(one.0).for_each(|(all, one)| all.extend(one));
            }
            let (before, during) = (all.p99(0), all.p99(1));
            println!("{what}: p99 {before:?} before, {during:?} while a session stands still ({} requests)", all.0[1].len());
            assert!(during <= (before * 6 / 5).max(before + NOISE), "{what}: p99 {before:?} became {during:?}");
        }
    });
    let back = Instant::now();
    [program, intproxy].iter().for_each(|process| process.signal(libc::SIGCONT));
    eventually("my requests are stolen again", || (pod.get("/").with(ME).send().who() == "program one").then_some(()));
    println!("stolen again {:?} after the machine went on", back.elapsed());
    eventually("the user is told", || session.output().contains("did not answer").then_some(()));
    session.end();
    other.end();
    pod.assert_pristine();
}

/// Uploads as much as anybody takes; the status of the answer, if there is one, and when it was over.
fn upload_until_it_ends(mut client: Client) -> (Option<u16>, Instant) {
    client.send(format!("POST /upload HTTP/1.1\r\nHost: pod\r\nx-user: me\r\nContent-Length: {}\r\n\r\n", 64 << 20).as_bytes());
    let block = vec![b'u'; 1 << 20];
    let mut socket = client.socket();
    for _ in 0..64 {
        if socket.write_all(&block).is_err() {
            break;
        }
    }
    (client.try_response().ok().map(|answer| answer.status), Instant::now())
}

#[test]
fn a_thousand_connections_at_once_into_one_session_are_a_thousand_answers() {
    let pod = Pod::alone();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    let start = Instant::now();
    let mut clients: Vec<_> = (0..1000).map(|_| pod.connect(WEB)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&get(&format!("/{number}"), &[ME]));
    }
    let who: Vec<_> = clients.iter_mut().map(|client| client.response().who()).collect();
    println!("a thousand connections answered within {:?}", start.elapsed());
    let missed = who.iter().filter(|who| *who != "program one").count();
    assert_eq!(missed, 0, "answered by others: {:?}", who.iter().find(|who| *who != "program one"));
    assert_eq!(session.seen().len(), 1000);
    // And each goes on.
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.get(&format!("/again/{number}"), &[ME]).who(), "program one");
    }
    drop(clients);
    session.end();
    pod.assert_pristine();
}
