//! A filter that fails costs its own session, not the pod's clients: the request passes in time, the log says which filter and
//! why, and the next request gets a fresh instance.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::time::{Duration, Instant};

use mirrord_tests::{Client, Exec, Others, Pod, Program, eventually, pod::WEB};

/// In which a request must have passed to the pod and been answered, whatever the filter does.
const IN_TIME: Duration = Duration::from_millis(15);

#[test]
fn a_filter_that_loops_passes() {
    passes_in_time("loop", "/", &["10 ms", "deadline", "too long"]);
}

#[test]
fn a_filter_that_traps_passes() {
    passes_in_time("trap", "/", &["unreachable", "boom"]);
}

#[test]
fn a_filter_that_calls_itself_without_end_passes() {
    passes_in_time("stack", "/", &["stack"]);
}

#[test]
fn a_filter_that_allocates_without_end_passes() {
    passes_in_time("allocate", "/", &["memory"]);
}

#[test]
fn a_filter_with_pointers_out_of_bounds_passes() {
    for call in ["g", "h", "b", "i", "e", "l", "r", "a", "w"] {
        passes_in_time("out-of-bounds", &format!("/{call}"), &["memory", "out of bounds", "outside"]);
    }
}

#[test]
fn a_filter_with_a_verdict_that_is_none_passes() {
    passes_in_time("nonsense", "/", &["verdict", "4711"]);
}

#[test]
fn a_filter_that_logs_without_end_passes() {
    passes_in_time("flood-forever", "/", &["10 ms", "deadline", "too long"]);
}

fn passes_in_time(filter: &str, path: &str, reasons: &[&str]) {
    let pod = Pod::alone();
    let session = Exec::steal(&pod).filter(filter, "").run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    let mut times: Vec<_> = (0..5).map(|_| timed(&mut client, path, &[])).collect();
    times.sort();
    println!("{filter} {path}: {times:.1?}");
    // The median: a busy machine may let one request wait.
    assert!(times[2] <= IN_TIME, "{filter}: {times:?}");
    let name = format!("{filter}.wat");
    eventually(&format!("the agent's log names {name} and one of {reasons:?}; it says\n{}", pod.agent_log()), || {
        pod.agent_log().lines().any(|line| line.contains(&name) && reasons.iter().any(|reason| line.contains(reason))).then_some(())
    });
    eventually("the session's user reads it too", || session.output().contains(&name).then_some(()));
    assert!(session.seen().is_empty());
    session.end();
    drop(client);
    pod.assert_pristine();
}

#[test]
fn a_filter_that_fails_denies_or_steals_where_the_session_asks_for_it() {
    for (policy, who) in [("deny", "mirrord:"), ("steal", "program one")] {
        let pod = Pod::new();
        let exec = Exec::steal(&pod).filter("trap", "").option(&format!("--filter-on-failure {policy}"));
        let session = exec.run(&Program::c("one", &[WEB]));
        let mut client = pod.connect(WEB);
        // Also once it is set aside, after ten in a row; and a body does not get past it.
        for turn in 0..15 {
            let response = client.get("/", &[]);
            assert_eq!(response.who(), who, "{policy}, request {turn}");
            assert_eq!(response.status, if policy == "deny" { 503 } else { 200 });
        }
        let posted = pod.request(pod.address(WEB), "POST", "/").body(&[b'x'; 100_000]).send();
        assert_eq!(posted.who(), who, "{policy}");
        if policy == "deny" {
            assert!(posted.text().contains("trap.wat failed, and its failure policy is to deny"), "{}", posted.text());
            assert!(session.seen().is_empty());
        } else {
            assert_eq!(session.seen().len(), 16);
        }
        eventually("the user is told", || session.output().contains("is set aside for a while").then_some(()));
        // Who has no such filter is not refused by it.
        session.end();
        assert_eq!(pod.get("/").send().who(), "pod");
    }
}

#[test]
fn after_a_trap_the_next_request_meets_a_fresh_instance() {
    let pod = Pod::new();
    let _session = Exec::steal(&pod).filter("trap-once", "").run(&Program::c("one", &[WEB]));
    // One connection stays with one worker, and so with one instance, which steals the first request that it sees.
    let mut client = pod.connect(WEB);
    let mut who = |headers: &[&str]| client.get("/", headers).who();
    assert_eq!([who(&[]), who(&[])], ["program one", "pod"], "the first instance");
    assert_eq!(who(&["x-trap: 1"]), "pod", "it traps");
    assert_eq!([who(&[]), who(&[])], ["program one", "pod"], "a fresh instance");
}

#[test]
fn a_filter_that_loops_delays_nobody_else() {
    let pod = Pod::alone();
    let _session = Exec::steal(&pod).filter("loop-if-asked", "").run(&Program::c("one", &[WEB]));
    let others = Others::load(&pod);
    others.wait_for(2000);
    let before = others.stop();
    let others = Others::load(&pod);
    let mut client = pod.connect(WEB);
    for _ in 0..30 {
        timed(&mut client, "/", &["x-loop: 1"]);
    }
    others.wait_for(2000);
    let during = others.stop();
    println!("slowest of others: {:?} without, {:?} beside a filter that loops", before.slowest, during.slowest);
    during.assert_undisturbed(2000);
    assert!(during.slowest < before.slowest + Duration::from_millis(60), "{:?} against {:?}", during.slowest, before.slowest);
}

#[test]
fn header_and_bad_filter_in_one_chain_steal_still() {
    let pod = Pod::new();
    let session =
        Exec::steal(&pod).filter("nonsense", "").filter("header", mirrord_tests::session::USER_ME).run(&Program::c("one", &[WEB]));
    assert_eq!(pod.get("/").send().who(), "pod");
    let who = pod.get("/").with(mirrord_tests::session::ME).send().who();
    // A fault is a pass: the next link decides.
    assert_eq!(who, "program one");
    assert_eq!(pod.agent_log().matches("panicked").count(), 0);
    session.end();
    pod.assert_pristine();
}

fn timed(client: &mut Client, path: &str, headers: &[&str]) -> Duration {
    let start = Instant::now();
    assert_eq!(client.get(path, headers).who(), "pod");
    start.elapsed()
}
