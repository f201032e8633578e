//! Whatever a filter does, the request passes to the pod in time, the fault says who and why, and the next request
//! meets a fresh instance.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{Decision, Instance, engine, fields, filter, get, logged_engine, request, response};
use mirrord_filters::{Edit, Engine, Fault, FaultKind, Filter, FilterError, Limits, Verdict};

/// The least of several runs: one of them is not disturbed by what else the machine does.
fn least(runs: usize, mut run: impl FnMut()) -> Duration {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap()
}

/// Never set aside.
fn patient(engine: &Engine, name: &str) -> Filter {
    let limits = Limits { faults_in_a_row: u32::MAX, ..Limits::default() };
    engine.load(name, &common::guest(name)).unwrap().configure(b"", limits).unwrap()
}

fn assert_passes_with(decision: Decision, kind: FaultKind) -> Fault {
    let fault = decision.fault.clone().expect("a fault");
    assert_eq!(fault.kind, kind, "{fault}");
    assert_eq!(decision, Decision { fault: Some(fault.clone()), ..Decision::pass() });
    fault
}

#[test]
fn a_guest_that_does_not_return_is_stopped_within_15_ms() {
    for name in ["loop", "flood-forever"] {
        let (engine, _log) = logged_engine();
        let mut instance = Instance::of(&patient(&engine, name));
        // A busy machine may take the processor away from any single run, not from all of them.
        let elapsed = least(50, || {
            let fault = assert_passes_with(instance.on_request(&get(&[])), FaultKind::Deadline);
            assert_eq!(fault.filter, name);
        });
        assert!(elapsed < Duration::from_millis(15), "{name}: {elapsed:?}");
        // Half of the limit, less the part of a tick that was over when the call began.
        assert!(elapsed > Duration::from_millis(3), "{name}: {elapsed:?} is less than a filter was promised");
    }
}

#[test]
fn a_trap_tells_the_last_words_and_where() {
    let (engine, lines) = logged_engine();
    let mut instance = Instance::of(&filter(&engine, "trap"));
    let fault = assert_passes_with(instance.on_request(&get(&[])), FaultKind::Trap);
    assert!(fault.message.contains("it said: panicked at src/lib.rs:7: boom"), "{fault}");
    assert!(fault.message.contains("in deep < on_request"), "{fault}");
    assert!(fault.to_string().starts_with("filter trap failed (trap): "), "{fault}");
    assert_eq!(lines.lock().unwrap()[0].0, "trap");
}

#[test]
fn stack_and_memory_have_an_end() {
    let engine = engine();
    assert_passes_with(Instance::of(&filter(&engine, "stack")).on_request(&get(&[])), FaultKind::Stack);
    let mut instance = Instance::of(&patient(&engine, "allocate"));
    let elapsed = least(50, || {
        assert_passes_with(instance.on_request(&get(&[])), FaultKind::Memory);
    });
    assert!(elapsed < Duration::from_millis(15), "{elapsed:?}");
}

#[test]
fn memory_that_the_guest_does_not_have_is_neither_read_nor_written() {
    let engine = engine();
    let filter = patient(&engine, "out-of-bounds");
    let host = fields(&[("Host", "shop")]);
    let mut fine = Instance::of(&filter);
    assert_eq!(fine.on_request(&request("GET", "/", &host)).verdict, Verdict::Steal);
    for path in ["/g", "/h", "/b", "/i", "/e", "/l", "/r", "/a", "/w"] {
        let fault = assert_passes_with(Instance::of(&filter).on_request(&request("GET", path, &host)), FaultKind::OutOfBounds);
        assert!(fault.message.contains("outside the filter's memory"), "{path}: {fault}");
    }
}

#[test]
fn a_verdict_that_is_none_is_a_fault() {
    let fault = assert_passes_with(Instance::of(&filter(&engine(), "nonsense")).on_request(&get(&[])), FaultKind::BadVerdict);
    assert!(fault.message.starts_with("4711 is not a verdict"), "{fault}");
}

#[test]
fn edits_that_would_break_the_message_never_leave_the_guest() {
    let filter = patient(&engine(), "edits");
    let run = |name: &str, value: &str, op: &str, repeat: &str| {
        Instance::of(&filter).on_request(&get(&fields(&[("n", name), ("v", value), ("o", op), ("r", repeat)])))
    };
    let (name, value) = (b"x-a".to_vec(), b"b c".to_vec());
    let set = Edit::Set { name: name.clone(), value: value.clone() };
    assert_eq!(run("x-a", "b c", "0", "1").request_edits, [set]);
    assert_eq!(run("x-a", "b c", "1", "1").request_edits, [Edit::Append { name: name.clone(), value }]);
    assert_eq!(run("x-a", "", "2", "1").request_edits, [Edit::Remove { name }]);
    for (name, value, op, repeat) in [
        ("x-a", "b%evil: 1", "0", "1"),
        ("x a", "b", "0", "1"),
        ("x:a", "b", "1", "1"),
        ("", "b", "0", "1"),
        (":path", "/", "0", "1"),
        ("Content-Length", "0", "0", "1"),
        ("transfer-encoding", "", "2", "1"),
        ("x-a", "b", "7", "1"),
        ("x-a", "b", "1", &"r".repeat(65)),
        ("x-a", &"v".repeat(17_000), "1", "rrrr"),
    ] {
        assert_passes_with(run(name, value, op, repeat), FaultKind::BadEdit);
    }
    assert_eq!(run("x-a", "b", "1", &"r".repeat(64)).request_edits.len(), 64);
}

#[test]
fn an_answer_is_whole_or_a_fault() {
    let filter = filter(&engine(), "respond");
    let decision = Instance::of(&filter).on_request(&get(&[]));
    assert_eq!((&decision.fault, &decision.response_edits[..]), (&None, &[][..]));
    let Verdict::Respond(answer) = decision.verdict else { panic!("{decision:?}") };
    assert_eq!((answer.status, &answer.body[..]), (403, &b"no"[..]));
    let headers = [("content-type", "text/plain"), ("x-by", "the filter")];
    assert_eq!(answer.headers, headers.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
    for path in ["/teapot", "/101"] {
        assert_passes_with(Instance::of(&filter).on_request(&request("GET", path, &[])), FaultKind::BadAnswer);
    }
}

#[test]
fn after_a_fault_the_next_request_meets_a_fresh_instance() {
    let filter = filter(&engine(), "trap-once");
    let mut instance = Instance::of(&filter);
    let verdict = |decision: Decision| (decision.verdict, decision.fault.map(|fault| fault.kind));
    let trap = fields(&[("X-Trap", "")]);
    assert_eq!(verdict(instance.on_request(&get(&[]))), (Verdict::Steal, None));
    assert_eq!(verdict(instance.on_request(&get(&[]))), (Verdict::Pass, None));
    assert_eq!(verdict(instance.on_request(&get(&trap))), (Verdict::Pass, Some(FaultKind::Trap)));
    assert_eq!(verdict(instance.on_request(&get(&[]))), (Verdict::Steal, None));
}

#[test]
fn a_filter_that_fails_again_and_again_is_set_aside_and_tried_again_later() {
    let limits = Limits { faults_in_a_row: 3, rest: Duration::from_millis(200), ..Limits::default() };
    let module = engine().load("trap-once", &common::guest("trap-once")).unwrap();
    let filter = module.configure(b"", limits).unwrap();
    // The record is the filter's, not one instance's.
    let (mut one, mut other) = (Instance::of(&filter), Instance::of(&filter));
    let trap = fields(&[("x-trap", "")]);
    let aside = |decision: Decision| decision.fault.map(|fault| fault.set_aside);
    assert_eq!(aside(one.on_request(&get(&trap))), Some(false));
    assert_eq!(aside(other.on_request(&get(&trap))), Some(false));
    let said_so = Instant::now();
    assert_eq!(aside(one.on_request(&get(&trap))), Some(true));
    assert_eq!(other.on_request(&get(&[])), Decision::pass(), "set aside: not called, and said once");
    assert_eq!(one.on_request(&get(&trap)), Decision::pass());

    let mut tried = loop {
        let decision = one.on_request(&get(&trap));
        if decision.fault.is_some() {
            break decision;
        }
        assert!(said_so.elapsed() < Duration::from_secs(10), "it is never tried again");
        std::thread::yield_now();
    };
    assert!(said_so.elapsed() >= Duration::from_millis(200));
    assert_eq!(tried.fault.take().map(|fault| fault.set_aside), Some(true), "one failure more, and it rests again");
    assert_eq!(other.on_request(&get(&[])), Decision::pass());
    while other.on_request(&get(&[])).verdict != Verdict::Steal {
        assert!(said_so.elapsed() < Duration::from_secs(10), "a good answer does not bring it back");
        std::thread::yield_now();
    }
    assert_eq!(aside(one.on_request(&get(&trap))), Some(false), "its record is clean again");
}

#[test]
fn a_success_in_between_keeps_a_filter_in_use() {
    let filter = filter(&engine(), "trap-once");
    let mut instance = Instance::of(&filter);
    let trap = fields(&[("x-trap", "")]);
    for _ in 0..40 {
        assert!(instance.on_request(&get(&trap)).fault.is_some_and(|fault| !fault.set_aside));
        assert_eq!(instance.on_request(&get(&[])).verdict, Verdict::Steal);
    }
}

#[test]
fn other_threads_filters_are_not_delayed_by_one_that_loops() {
    let engine = engine();
    let (bad, good) = (filter(&engine, "loop"), filter(&engine, "trap-once"));
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut instance = Instance::of(&bad);
            start.wait();
            for _ in 0..5 {
                assert_passes_with(instance.on_request(&get(&[])), FaultKind::Deadline);
            }
        });
        let mut instance = Instance::of(&good);
        instance.0.warm_up();
        start.wait();
        let typical = {
            let mut all: Vec<_> = (0..1000).map(|_| least(1, || assert_eq!(instance.on_request(&get(&[])).fault, None))).collect();
            all.sort();
            all[500]
        };
        assert!(typical < Duration::from_millis(1), "{typical:?}");
    });
}

#[test]
fn a_flood_of_log_lines_is_cut_and_cannot_forge_lines() {
    let (engine, lines) = logged_engine();
    let mut instance = Instance::of(&filter(&engine, "flood"));
    assert_eq!(instance.on_request(&get(&[])).verdict, Verdict::Steal);
    let lines = lines.lock().unwrap();
    assert!((1..=41).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|(filter, _, line)| filter == "flood" && line == "again\\nand again"), "{lines:?}");
}

#[test]
fn the_response_hook_gets_the_token_of_its_request() {
    let mut instance = Instance::of(&filter(&engine(), "response"));
    assert!(instance.on_request(&request("GET", "/", &[])).followers.is_none());
    let follow = |instance: &mut Instance, method| {
        let followers = instance.on_request(&request(method, "/", &[])).followers.expect("it watches");
        assert!(followers.want_response());
        followers
    };
    // Two interleaved requests.
    let mut four = follow(&mut instance, "POST");
    let mut six = follow(&mut instance, "DELETE");
    let edit = |value: &str| Edit::Set { name: b"x-token".to_vec(), value: value.into() };
    assert_eq!(instance.on_response(&mut six, &response(200, &[])).edits, [edit("6")]);
    let edits = instance.on_response(&mut four, &response(404, &[])).edits;
    assert_eq!(edits, [edit("4"), Edit::Append { name: b"x-token".to_vec(), value: b"4".to_vec() }]);
    assert!(!four.want_response(), "a response comes once");
    let mut six = follow(&mut instance, "DELETE");
    let mut nine = follow(&mut instance, "UNHEARDOF");
    let failed = instance.on_response(&mut nine, &response(200, &[]));
    assert_eq!((failed.edits.len(), failed.faults[0].kind), (0, FaultKind::Trap));
    assert_eq!(instance.on_response(&mut six, &response(200, &[])).edits, [edit("6")], "a fresh instance");
}

#[test]
fn a_start_that_fails_is_told_before_anything_is_redirected() {
    let engine = engine();
    let start = |name: &str| engine.load(name, &common::guest(name)).unwrap().configure(b"", Limits::default()).err().unwrap();
    let elapsed = least(3, || {
        let FilterError::Start(fault) = start("loop-configure") else { panic!() };
        assert_eq!(fault.kind, FaultKind::Deadline);
    });
    assert!((45..200).contains(&elapsed.as_millis()), "{elapsed:?}");
    let FilterError::Start(fault) = start("allocate-start") else { panic!() };
    assert_eq!(fault.kind, FaultKind::Memory);
    let FilterError::ConfigRefused { name, words } = start("refuses") else { panic!() };
    assert_eq!((&*name, &*words), ("refuses", "the moon is not full"));
}

/// Everything here must be movable to a worker thread and shareable between sessions.
#[test]
fn filters_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<mirrord_filters::Engine>();
    check::<mirrord_filters::Filter>();
}
