//! An agent that is told to stop, stands still or loses its guard: others notice nothing, new connections reach the pod, and what
//! is under way ends by itself as long as there is time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Exec, Others, Pod, Probe, Program, eventually,
    http::{Pieces, get, read_head},
    pod::{WEB, WEB_H2},
    probe::{recovery, story},
    session::ME,
    state,
    wait::PATIENCE,
};

/// Requests of others that each stage lasts for.
const STAGE: u64 = 3000;
/// Grace time of the tests that wait for its end.
const GRACE: Duration = Duration::from_secs(4);

/// Type of the HTTP/2 frame that tells a client to send no more requests on a connection.
const GOAWAY: u8 = 7;

fn with_grace(pod: &Pod) -> Exec<'_> {
    Exec::steal_mine(pod).variable("MIRRORD_AGENT_GRACE", &GRACE.as_secs().to_string())
}

#[test]
fn an_agent_that_is_told_to_stop_disturbs_nobody() {
    let pod = Pod::alone();
    let others = Others::load(&pod);
    let mut session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    others.wait_for(STAGE);
    let told = Instant::now();
    pod.agent().signal(libc::SIGTERM);
    eventually("the redirect has gone", || (!pod.redirects(WEB)).then_some(()));
    println!("no redirect {:?} after SIGTERM", told.elapsed());
    assert!(!session.wait().success(), "the command line says that it has lost its agent");
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    others.wait_for(STAGE);
    others.stop().assert_undisturbed(2 * STAGE);
    drop(session);
    pod.assert_pristine();
}

#[test]
fn connections_in_the_backlog_of_an_agent_that_stops_are_served() {
    let pod = Pod::alone();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    let agent = pod.agent();
    agent.stop();
    // The kernel makes the connection while the lease still holds; nobody accepts it.
    let mut clients: Vec<_> = (0..32).map(|_| pod.connect(WEB)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&get(&format!("/{number}"), &[]));
    }
    agent.signal(libc::SIGTERM);
    agent.signal(libc::SIGCONT);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().text(), format!("pod GET /{number}\n"));
    }
    drop((clients, session));
    pod.assert_pristine();
}

#[test]
fn clients_that_never_end_see_a_clean_end_between_two_responses() {
    let pod = Pod::alone();
    pod.add_file("long", 64 << 20);
    let mut session = with_grace(&pod).run(&Program::c("one", &[WEB]));
    let mut silent = pod.connect(WEB);
    assert_eq!(silent.get("/", &[]).who(), "pod");
    let mut fresh = pod.connect(WEB);
    let mut reading = pod.connect(WEB);
    reading.send(&get("/files/long", &[]));
    read_head(reading.reader()).unwrap();
    let busy = thread::spawn({
        let mut busy = pod.connect(WEB);
        move || {
            loop {
                if let Err(error) = busy.try_send(&get("/busy", &[]), Pieces::Whole).and_then(|()| busy.try_response()) {
                    return error.to_string();
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let told = Instant::now();
    pod.agent().signal(libc::SIGTERM);
    session.wait();
    assert_eq!(silent.ending(2 * GRACE), (Vec::new(), "closed"), "a kept connection ends");
    let ended = told.elapsed();
    assert!(ended > GRACE / 2 && ended < GRACE + Duration::from_secs(1), "ended after {ended:?}");
    assert_eq!(fresh.ending(2 * GRACE), (Vec::new(), "closed"), "one without a request too");
    // Under way when all others end: it gets its answer to the last byte.
    let mut body = vec![0; 64 << 20];
    reading.reader().read_exact(&mut body).unwrap();
    assert_eq!(reading.ending(GRACE), (Vec::new(), "closed"));
    let end = busy.join().unwrap();
    assert!(!end.contains("within"), "cut in the middle of an answer: {end}");
    drop(session);
    pod.assert_pristine();
}

#[test]
fn http2_connections_that_never_end_are_told_to_go_elsewhere() {
    let pod = Pod::alone();
    let mut session = with_grace(&pod).run(&Program::node_http2("one", &[WEB_H2]));
    let mut silent = pod.connect(WEB_H2);
    silent.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // Its settings say that somebody serves this connection.
    let mut frames = silent.read_up_to(9, PATIENCE);
    pod.agent().signal(libc::SIGTERM);
    session.wait();
    let (rest, ending) = silent.ending(2 * GRACE);
    frames.extend(rest);
    assert_eq!(ending, "closed");
    let mut kinds = Vec::new();
    let mut left = &frames[..];
    while let [a, b, c, kind, ..] = *left {
        kinds.push(kind);
        left = &left[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
    }
    assert!(kinds.contains(&GOAWAY), "frames of these kinds came: {kinds:?}");
    drop(session);
    pod.assert_pristine();
}

/// How long the agent is out of order.
const OUT_OF_ORDER: Duration = Duration::from_secs(5);

#[test]
fn an_agent_that_stands_still_loses_new_connections_to_the_pod_and_gets_them_back() {
    is_out_of_order("stopped", |pod| {
        let agent = pod.agent();
        agent.stop();
        let began = Instant::now();
        thread::sleep(OUT_OF_ORDER);
        assert_eq!(pod.get("/").with(ME).send().who(), "pod");
        agent.signal(libc::SIGCONT);
        began
    });
}

#[test]
fn an_agent_with_a_worker_that_is_stuck_loses_new_connections_to_the_pod_and_gets_them_back() {
    is_out_of_order("a worker held", |pod| {
        let held = pod.agent().hold_thread("worker-0");
        let began = Instant::now();
        thread::sleep(OUT_OF_ORDER);
        (0..8).for_each(|_| assert_eq!(pod.get("/").with(ME).send().who(), "pod"));
        drop(held);
        began
    });
}

#[test]
fn an_agent_that_is_starved_loses_new_connections_to_the_pod_and_gets_them_back() {
    is_out_of_order("starved", |pod| {
        let agent = pod.agent();
        agent.stop();
        let began = Instant::now();
        // A moment in each second, as with a quota that others have used up.
        while began.elapsed() < OUT_OF_ORDER {
            thread::sleep(Duration::from_millis(970));
            agent.signal(libc::SIGCONT);
            thread::sleep(Duration::from_millis(30));
            agent.stop();
        }
        assert_eq!(pod.get("/").with(ME).send().who(), "pod");
        agent.signal(libc::SIGCONT);
        began
    });
}

/// `disturb` puts the agent out of order and in order again, and says when it began.
fn is_out_of_order(what: &str, disturb: impl FnOnce(&Pod) -> Instant) {
    let pod = Pod::alone();
    assert!(state::has_recent(&pod.inside), "this kernel has no xt_recent, on which the lease of the rules stands");
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    // Some on each worker.
    let mut kept: Vec<_> = (0..16).map(|_| pod.connect(WEB)).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get("/kept", &[ME]).who(), "program one"));
    let probe = Probe::start(&pod);
    let began = disturb(&pod);
    let back = Instant::now();
    eventually("my requests are stolen again", || (pod.get("/").with(ME).send().who() == "program one").then_some(()));
    println!("{what}: stolen again {:?} after it", back.elapsed());
    for client in &mut kept {
        assert_eq!(client.get("/kept", &[ME]).who(), "program one", "what was on the agent goes on");
        assert_eq!(client.get("/kept", &[]).who(), "pod");
    }
    let attempts = probe.stop();
    let recovered = recovery(&attempts, began).expect("new connections reach the pod");
    println!("{what}: new connections served after {recovered:?}");
    assert!(recovered <= Duration::from_millis(1200), "{what}: the pod was back only after {recovered:?}:\n{}", story(&attempts, began));
    session.end();
    drop(kept);
    pod.assert_pristine();
}

#[test]
fn a_killed_guard_disturbs_nobody_and_another_takes_its_place() {
    let pod = Pod::alone();
    let others = Others::load(&pod);
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    others.wait_for(STAGE / 2);
    let first = pod.guard();
    first.kill();
    let second = eventually("there is another guard", || {
        let guards = pod.mirrord().into_iter().filter(|process| process.arguments().get(1).is_some_and(|word| word == "guard"));
        guards.filter(|guard| *guard != first).find(|guard| guard.is_alive())
    });
    assert_ne!(first, second);
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    others.wait_for(STAGE / 2);
    others.stop().assert_undisturbed(STAGE);
    // And it does what a guard is for.
    eventually("the second guard is alone", || (pod.guard() == second).then_some(()));
    pod.agent().kill();
    eventually("the rules are gone", || (!pod.redirects(WEB)).then_some(()));
    drop(session);
    pod.assert_pristine();
}
