//! proxy-wasm filters that mean harm, or are as broken as can be: the request passes in time, the fault says what happened, and
//! what others see of it is bounded.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;
mod proxy_wasm_host;

use std::task::Poll;
use std::time::{Duration, Instant};

use common::{fields, get, request};
use mirrord_filters::{Chain, FaultKind, Isolation, Limits, Outcome, Policy, Settings, Step, Verdict};
use proxy_wasm_host::{Woken, decided, filter, filter_with, lines, set};

fn patient(config: &str) -> Settings {
    let limits = Limits { faults_in_a_row: u32::MAX, memory: 4 << 20, ..Limits::default() };
    let upstreams = vec![mirrord_filters::Upstream { name: "auth".into(), address: "127.0.0.1:9".into() }];
    Settings { config: config.into(), limits, upstreams, ..Settings::default() }
}

fn ask(chain: &mut Chain, what: &str) -> Outcome {
    decided(chain.on_request(&get(&fields(&[("x-do", what)]))))
}

#[test]
fn whatever_it_does_the_request_passes_in_time_with_a_fault_that_says_so() {
    let (filter, _) = filter_with("rust", patient("evil"));
    let mut chain = Chain::new(vec![filter]);
    for (what, kind, says) in [
        ("loop", FaultKind::Deadline, "did not return in time"),
        ("recurse", FaultKind::Stack, "call stack"),
        ("memory", FaultKind::Memory, "more memory than its limit"),
        ("name", FaultKind::BadEdit, "not an HTTP token"),
        ("split", FaultKind::BadEdit, "control character"),
        ("path", FaultKind::BadEdit, "a path begins with /"),
        ("edits", FaultKind::BadEdit, "too many edits"),
        ("verdict", FaultKind::BadVerdict, "\"stael\"; it can be pass, steal"),
        ("status", FaultKind::BadAnswer, "the status is not in 200..=599"),
        ("properties", FaultKind::BadCall, "too many properties"),
        ("queues", FaultKind::BadCall, "too many queues"),
        ("metrics", FaultKind::BadCall, "too many metrics"),
    ] {
        // A busy machine may take the processor away from any single run, not from all of them.
        let mut least = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            let outcome = ask(&mut chain, what);
            least = least.min(start.elapsed());
            let [fault] = &outcome.faults[..] else { panic!("{what}: {outcome:?}") };
            assert_eq!((fault.kind, outcome.verdict), (kind, Verdict::Pass), "{what}: {fault}");
            assert!(fault.message.contains(says), "{what}: {fault}");
            assert!(outcome.request_edits.is_empty() && outcome.path.is_none() && outcome.followers.is_none(), "{what}");
        }
        assert!(least < Duration::from_millis(20), "{what}: {least:?}");
        assert_eq!(ask(&mut chain, "nothing").faults, [], "after {what}");
    }
    // A million headers are more than its memory holds, or more than is taken.
    let outcome = ask(&mut chain, "million");
    assert_eq!((outcome.faults.len(), outcome.request_edits.len()), (1, 0), "{outcome:?}");
}

#[test]
fn floods_of_what_is_shared_stay_within_bounds() {
    let (filter, log) = filter_with("rust", patient("evil"));
    let mut chain = Chain::new(vec![filter]);
    // The oldest give way; the deadline may end it first.
    for what in ["state", "queue", "log"] {
        for fault in ask(&mut chain, what).faults {
            assert_eq!(fault.kind, FaultKind::Deadline, "{what}: {fault}");
        }
    }
    assert!(log.lock().unwrap().len() < 100, "{} lines", log.lock().unwrap().len());
    let outcome = ask(&mut chain, "calls");
    assert_eq!((outcome.faults, outcome.request_edits), (vec![], vec![set("x-calls", "enough")]));
    assert!((1..=16).contains(&chain.take_callouts().len()));
}

#[test]
fn edits_of_what_frames_the_message_have_no_effect() {
    let (filter, _) = filter("rust", "evil");
    let outcome = ask(&mut Chain::new(vec![filter]), "frame");
    assert_eq!((outcome.request_edits, outcome.faults), (vec![], vec![]));
}

#[test]
fn a_panic_tells_its_words_and_place_and_costs_its_own_request_only() {
    for guest in proxy_wasm_host::GUESTS {
        let (filter, _) = filter(guest, "panic");
        let mut chain = Chain::new(vec![filter]);
        // One that is under way when the guest is lost.
        let mut followers = decided(chain.on_request(&get(&[]))).followers.unwrap();
        let outcome = decided(chain.on_request(&get(&fields(&[("x-boom", "now")]))));
        let [fault] = &outcome.faults[..] else { panic!("{guest}: {outcome:?}") };
        assert_eq!(fault.kind, FaultKind::Trap, "{guest}: {fault}");
        assert!(fault.message.contains("boom: now"), "{guest}: {fault}");
        if guest == "rust" {
            assert!(fault.message.contains("src/patterns.rs:"), "{fault}");
        }
        assert_eq!(chain.on_response(&mut followers, &common::response(200, &[])), Default::default(), "{guest}");
        assert_eq!(chain.on_end(*followers), []);
        assert_eq!(decided(chain.on_request(&get(&[]))).faults, [], "{guest}");
    }
}

#[test]
fn a_filter_that_fails_is_answered_for_by_its_policy_and_set_aside() {
    for (policy, verdict) in [(Policy::Pass, "Pass"), (Policy::Steal, "Steal"), (Policy::Deny, "Respond")] {
        let limits = Limits { faults_in_a_row: 3, ..Limits::default() };
        let (filter, _) = filter_with("rust", Settings { config: b"panic".into(), limits, policy, ..Settings::default() });
        let mut chain = Chain::new(vec![filter]);
        let boom = fields(&[("x-boom", "now")]);
        for n in 1..6 {
            let outcome = decided(chain.on_request(&get(&boom)));
            assert!(format!("{:?}", outcome.verdict).starts_with(verdict), "{outcome:?}");
            assert_eq!(outcome.faults.len(), usize::from(n <= 3), "not called any more");
        }
    }
}

#[test]
fn a_million_headers_are_read_in_bounded_time() {
    let (filter, log) = filter("rust", "headers");
    let mut chain = Chain::new(vec![filter]);
    let many = vec![("x-many", "v"); 1_000_000];
    let headers = fields(&many);
    let start = Instant::now();
    let outcome = decided(chain.on_request(&request("GET", "/", &headers)));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // It sees as many as a head may have and takes longer than it may, or does with those.
    assert!(outcome.faults.iter().all(|fault| fault.kind == FaultKind::Deadline), "{:?}", outcome.faults);
    assert!(lines(&log).len() < 50);
    assert_eq!(decided(chain.on_request(&get(&[]))).faults, []);
}

#[test]
fn a_request_that_is_never_let_go_is_taken_back() {
    let (filter, _) = filter("rust", "hold");
    let mut chain = Chain::new(vec![filter]);
    let woken = Woken::default();
    let Step::Waits(mut pending) = chain.on_request(&get(&[])) else { panic!() };
    assert!(chain.poll(&mut woken.context(), &mut pending, &get(&[])).is_pending());
    let next = chain.background(&mut Woken::default().context()).next.expect("somebody has to look again");
    assert!((Duration::from_secs(9)..=Duration::from_secs(10)).contains(&next), "{next:?}");
    std::thread::sleep(next);
    chain.background(&mut Woken::default().context());
    assert!(woken.take(), "nobody is told that it is overdue");
    let Poll::Ready(Step::Decided(outcome)) = chain.poll(&mut woken.context(), &mut pending, &get(&[])) else { panic!() };
    assert_eq!((outcome.verdict, outcome.faults[0].kind), (Verdict::Pass, FaultKind::Deadline));
    assert!(outcome.faults[0].message.contains("did not let it go on within 10s"), "{}", outcome.faults[0]);
}

#[test]
fn too_many_requests_at_once_are_refused_and_no_more() {
    let (filter, _) = filter_with("rust", patient("hold"));
    let mut chain = Chain::new(vec![filter]);
    let mut held: Vec<_> = (0..4096)
        .map(|_| match chain.on_request(&get(&[])) {
            Step::Waits(pending) => pending,
            step => panic!("{step:?}"),
        })
        .collect();
    let outcome = decided(chain.on_request(&get(&[])));
    assert!(outcome.faults[0].message.contains("4096 requests at once"), "{}", outcome.faults[0]);
    held.pop();
    assert!(matches!(chain.on_request(&get(&[])), Step::Waits(_)));
}

#[test]
fn where_each_request_has_its_own_guest_they_share_nothing_in_it() {
    let settings = Settings { isolation: Isolation::Fresh, ..patient("callout auth") };
    let (filter, _) = filter_with("rust", settings);
    let mut chain = Chain::new(vec![filter]);
    let mut waiting: Vec<_> = (0..3)
        .map(|_| match chain.on_request(&get(&[])) {
            Step::Waits(pending) => pending,
            step => panic!("{step:?}"),
        })
        .collect();
    let callouts = chain.take_callouts();
    assert_eq!(callouts.len(), 3);
    for callout in &callouts {
        let steal = mirrord_filters::CalloutResponse { status: 200, body: b"steal".to_vec(), ..Default::default() };
        assert_eq!(chain.on_callout(callout.id, Some(steal)), None);
    }
    for pending in &mut waiting {
        let Poll::Ready(step) = chain.poll(&mut Woken::default().context(), pending, &get(&[])) else { panic!() };
        assert_eq!(decided(step).verdict, Verdict::Steal);
    }
}
