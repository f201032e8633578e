//! What one session may cost others: nothing that they notice. A session whose machine stands still loses its requests to the pod
//! in bounded time, and a thousand connections at once into one session are a thousand answers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::{ErrorKind, Write},
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, Scope},
    time::{Duration, Instant},
};

use mirrord_tests::{
    Client, Exec, Pod, Program, Session, eventually,
    http::get,
    pod::WEB,
    session::{Delivery, ME},
    wait::{Over, within},
};

/// Times that a session stands still, each between two times that it does not.
const ROUNDS: usize = 3;
/// How long the load is measured while nothing stands still, and while something does.
const CALM: Duration = Duration::from_secs(4);
const STILL: Duration = Duration::from_secs(7);
/// The time in which a session that stands still must have lost what it has not answered.
const BOUND: Duration = Duration::from_secs(6);
/// Differences below this are this machine's own.
const NOISE: Duration = Duration::from_millis(3);

/// How long requests took, by phase: the even ones are calm.
type Latencies = [Vec<Duration>; 2 * ROUNDS + 1];

/// A client with a kept connection at a pace of its own, until it is over.
fn paced(pod: &Pod, headers: &[&str], who: &str, phase: &AtomicUsize, over: &Over) -> Latencies {
    let mut took = Latencies::default();
    let mut client = pod.connect(WEB);
    while !over.is() {
        let (start, phase) = (Instant::now(), phase.load(Ordering::Relaxed));
        assert_eq!(client.get("/paced", headers).who(), who);
        took[phase].push(start.elapsed());
        thread::sleep(Duration::from_millis(4));
    }
    took
}

/// What 99 of 100 took at most.
fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() * 99 / 100]
}

#[test]
fn a_session_that_stands_still_loses_its_requests_in_bounded_time_and_touches_nobody() {
    let pod = Pod::alone();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    let other = Exec::steal(&pod).filter("header", r#"{"name":"x-user","value":"two"}"#).run(&Program::c("two", &[WEB]));
    let (phase, over) = (AtomicUsize::new(0), Over::default());
    thread::scope(|scope| {
        let over_at_the_end = over.when_dropped();
        let clients = |headers: &'static [&str], who: &'static str| -> Vec<_> {
            let (pod, phase, over) = (&pod, &phase, &over);
            (0..12).map(|_| scope.spawn(move || paced(pod, headers, who, phase, over))).collect()
        };
        let all = [("unmatched", clients(&[], "pod")), ("another session's", clients(&["x-user: two"], "program two"))];
        for round in 0..ROUNDS {
            thread::sleep(CALM);
            stand_still_once(scope, &pod, &session, || phase.store(2 * round + 1, Ordering::Relaxed));
            phase.store(2 * round + 2, Ordering::Relaxed);
        }
        thread::sleep(CALM);
        drop(over_at_the_end);
        for (what, clients) in all {
            let mut took = Latencies::default();
            for client in clients {
                took.iter_mut().zip(client.join().unwrap()).for_each(|(all, one)| all.extend(one));
            }
            // Each time beside what was before and behind it: this machine's own ups and downs are longer than that.
            let beside = |round: usize| (p99([&took[2 * round][..], &took[2 * round + 2]].concat()), p99(took[2 * round + 1].clone()));
            let compared: Vec<_> = (0..ROUNDS).map(beside).collect();
            println!("{what}: p99 while calm and while a session stands still: {compared:?}");
            let touched = compared.iter().filter(|(calm, still)| *still > (*calm * 6 / 5).max(*calm + NOISE)).count();
            assert!(touched <= ROUNDS / 2, "{what}: p99 while calm and while a session stands still: {compared:?}");
        }
    });
    eventually("the user is told", || session.output().contains("did not answer").then_some(()));
    session.end();
    other.end();
    pod.assert_pristine();
}

/// A session with 120 requests and an upload under way stands still for a time. `begins` is called as it does.
fn stand_still_once<'scope>(scope: &'scope Scope<'scope, '_>, pod: &Pod, session: &Session<'_>, begins: impl FnOnce()) {
    let (intproxy, program) = (session.intproxy(), session.program());
    // Requests that the program has on its connections and does not answer.
    let mut reads: Vec<_> = (0..100).map(|_| pod.connect(WEB)).collect();
    let mut writes: Vec<_> = (0..20).map(|_| pod.connect(WEB)).collect();
    reads.iter_mut().chain(&mut writes).for_each(|client| assert_eq!(client.get("/first", &[ME]).who(), "program one"));
    program.stop();
    reads.iter_mut().for_each(|client| client.send(&get("/mine", &[ME])));
    writes.iter_mut().for_each(|client| client.send(b"POST /mine HTTP/1.1\r\nHost: pod\r\nx-user: me\r\nContent-Length: 5\r\n\r\nhello"));
    let upload = pod.connect(WEB);
    let ending = scope.spawn(move || upload_until_it_ends(upload));
    // A debugger stops programs, too: this costs the session nothing, only the machine that stands still does.
    thread::sleep(Duration::from_millis(500));
    let stopped = Instant::now();
    begins();
    intproxy.stop();
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
    // The quickest of three: this machine may be busy with other things once.
    let quickest = (0..3).map(|_| {
        let start = Instant::now();
        assert_eq!(pod.get("/new").with(ME).send().who(), "pod");
        start.elapsed()
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < Duration::from_millis(200), "what is new does not wait, but took {quickest:?}");
    assert!(state(pod).contains(r#""set_aside":true"#), "an operator is told: {}", state(pod));
    thread::sleep(STILL.saturating_sub(stopped.elapsed()));
    [program, intproxy].iter().for_each(|process| process.signal(libc::SIGCONT));
    let back = Instant::now();
    let stolen = within(BOUND, || (pod.get("/").with(ME).send().who() == "program one").then_some(()));
    println!("stolen again {:?} after the machine went on", back.elapsed());
    assert!(stolen.is_some(), "my requests are not stolen again");
    assert!(!state(pod).contains(r#""set_aside":true"#), "{}", state(pod));
}

/// What an operator sees.
fn state(pod: &Pod) -> String {
    let socket = format!("/run/mirrord/agent-{}.sock", pod.inside.inode);
    pod.curl_inside(&format!("-s --http2-prior-knowledge --unix-socket {socket} http://agent/v1/state"))
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
    // A connection that is not there within its time is answered by the pod, and three tries are for a machine that is busy with
    // other things: what a session cannot take at all, it does not take then either.
    let mut tries = (1..=3).map(|number| (number, a_thousand_at_once(&pod)));
    let (tried, mut clients) = tries
        .find_map(|(number, (who, clients))| {
            let missed: Vec<_> = who.into_iter().filter(|who| who != "program one").collect();
            assert!(missed.iter().all(|who| who == "pod"), "none is lost: {missed:?}");
            println!("{} were answered by the pod", missed.len());
            missed.is_empty().then_some((number, clients))
        })
        .expect("a thousand at once are answered by the program in one of three tries");
    assert!(session.seen().len() >= 1000 && (tried > 1 || session.seen().len() == 1000), "{}", session.seen().len());
    // And each goes on.
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.get(&format!("/again/{number}"), &[ME]).who(), "program one");
    }
    drop(clients);
    session.end();
    pod.assert_pristine();
}

/// A thousand connections, each with a request of mine before any answer is read; and who answered.
fn a_thousand_at_once(pod: &Pod) -> (Vec<String>, Vec<Client>) {
    let start = Instant::now();
    let mut clients: Vec<_> = (0..1000).map(|_| pod.connect(WEB)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&get(&format!("/{number}"), &[ME]));
    }
    let who = clients.iter_mut().map(|client| client.response().who()).collect();
    println!("a thousand connections answered within {:?}", start.elapsed());
    (who, clients)
}

/// Uploads at once into a session that takes nothing.
const UPLOADS: usize = 1000;
/// The length of each, and how much of it is brought while nothing is taken.
const UPLOAD: usize = 1 << 20;
const STALLED: usize = 512 << 10;
/// How much the agent may grow for them: a session has 8 MiB of each of the two workers for what its requests bring, as much again for
/// requests that are new, and 8 MiB for what waits in its tunnel. Each upload by itself may have 64 KiB and 256 KiB more in the tunnel.
const HELD: [(Delivery, u64); 2] = [(Delivery::Socket, 40 << 20), (Delivery::Tunnel, 56 << 20)];

#[test]
fn a_session_that_takes_nothing_holds_a_bounded_amount_of_what_it_is_sent() {
    for (delivery, most) in HELD {
        let pod = Pod::alone();
        let session = Exec::steal_mine(&pod).delivery(delivery).run(&Program::c("one", &[WEB]));
        assert_eq!(pod.get("/").with(ME).send().who(), "program one");
        let mut uploads: Vec<_> = (0..UPLOADS).map(|_| Upload::new(&pod)).collect();
        let agent = pod.agent();
        let before = agent.memory();
        agent.reset_peak_memory();
        // A tunnel is full as soon as nobody reads it; a program's own connections are when the program does not.
        let stalled = match delivery {
            Delivery::Socket => session.program(),
            Delivery::Tunnel => session.intproxy(),
        };
        stalled.stop();
        let stopped = Instant::now();
        // Less than it takes to notice that a machine stands still, which would end what is under way.
        let is_over = || stopped.elapsed() > Duration::from_secs(2);
        while !is_over() {
            uploads.iter_mut().take_while(|_| !is_over()).for_each(|upload| upload.push(STALLED));
            let start = Instant::now();
            assert_eq!(pod.get("/others").send().who(), "pod");
            assert!(start.elapsed() < Duration::from_secs(1), "somebody else's request took {:?}", start.elapsed());
        }
        let (growth, taken) = (agent.peak_memory().saturating_sub(before), uploads.iter().map(|upload| upload.sent).sum::<usize>());
        println!("{delivery:?}: {} MiB of {UPLOADS} uploads have gone; the agent grew by {} MiB", taken >> 20, growth >> 20);
        assert!(growth < most, "{delivery:?}: the agent grew by {growth} bytes");
        stalled.signal(libc::SIGCONT);
        // And they go on, where they had to wait too.
        for upload in uploads.iter_mut().step_by(UPLOADS / 20) {
            // Behind all that the others have under way.
            let gone = within(Duration::from_secs(60), || {
                upload.push(UPLOAD);
                (upload.sent == UPLOAD).then_some(())
            });
            assert!(gone.is_some(), "{delivery:?}: an upload does not go on after {} bytes", upload.sent);
            upload.client.socket().set_nonblocking(false).unwrap();
            assert_eq!(upload.client.response().status, 200);
        }
        println!("{delivery:?}: and went on within {:?}", stopped.elapsed());
        drop(uploads);
        session.end();
        pod.assert_pristine();
    }
}

/// A request with a long body, on a connection that the program has, which goes as far as it is taken.
struct Upload {
    client: Client,
    sent: usize,
}

impl Upload {
    fn new(pod: &Pod) -> Self {
        let mut client = pod.connect(WEB);
        assert_eq!(client.get("/first", &[ME]).who(), "program one");
        client.send(format!("POST /upload HTTP/1.1\r\nHost: pod\r\n{ME}\r\nContent-Length: {UPLOAD}\r\n\r\n").as_bytes());
        client.socket().set_nonblocking(true).unwrap();
        Self { client, sent: 0 }
    }

    /// Brings as much as is taken, up to so many bytes of it all.
    fn push(&mut self, most: usize) {
        static BLOCK: [u8; 64 << 10] = [b'u'; 64 << 10];
        while self.sent < most {
            match self.client.socket().write(&BLOCK[..BLOCK.len().min(most - self.sent)]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("an upload broke: {error}"),
            }
        }
    }
}
