//! Filters that mean harm, or are as broken as can be: in each hook the outcome is the one that the failure policy says,
//! time and memory stay within their bounds, and other filters do not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;
#[path = "common/wat.rs"]
mod wat;

use std::time::{Duration, Instant};

use common::{engine, get, logged_engine, request, response};
use mirrord_filters::{
    Chain, ConnectionParts, Engine, Fault, FaultKind, Field, FilterError, Isolation, Limits, Module, Policy, RequestParts, Settings, Side,
    Step, Verdict,
};

/// What a hook does that does not end well, and how the host calls it.
const ENDS: [(&str, FaultKind); 9] = [
    ("(loop $l (br $l))", FaultKind::Deadline),
    ("(loop $l (drop (call $random)) (br $l))", FaultKind::Deadline),
    ("(call $recurse)", FaultKind::Stack),
    ("unreachable", FaultKind::Trap),
    ("(i32.store (i32.const -4) (i32.const 0))", FaultKind::Trap),
    ("(call_indirect (i32.const 3))", FaultKind::Trap),
    // Refused growth is -1, which a program may live with; this one does not.
    ("(loop $l (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br $l))", FaultKind::Memory),
    ("(loop $l (if (i32.eq (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)) (then unreachable)) (br $l))", FaultKind::Memory),
    ("(call $log (i32.const 0) (i32.const 131000) (i32.const 1000))", FaultKind::OutOfBounds),
];

/// What no hook may call, or not with this.
const CALLS: [(&str, FaultKind); 25] = [
    ("(drop (call $get (i32.const 0) (i32.const 131072) (i32.const 1)))", FaultKind::OutOfBounds),
    ("(drop (call $get (i32.const 0) (i32.const -1) (i32.const -1)))", FaultKind::OutOfBounds),
    ("(drop (call $get_property (i32.const 131071) (i32.const 2) (i32.const 0) (i32.const 0)))", FaultKind::OutOfBounds),
    ("(call $reason (i32.const 131071) (i32.const 2))", FaultKind::OutOfBounds),
    ("(call $set_path (i32.const 131071) (i32.const 2))", FaultKind::OutOfBounds),
    ("(call $set_path @evil )", FaultKind::BadEdit),
    ("(call $set_path @key )", FaultKind::BadEdit),
    ("(call $set_path (i32.const 0) (i32.const 0))", FaultKind::BadEdit),
    ("(call $edit_header (i32.const 0) (i32.const 0) @frame @value )", FaultKind::BadEdit),
    ("(call $edit_header (i32.const 0) (i32.const 2) @te @value )", FaultKind::BadEdit),
    ("(call $edit_header (i32.const 1) (i32.const 1) @hop @value )", FaultKind::BadEdit),
    ("(call $edit_header (i32.const 0) (i32.const 0) @evil @value )", FaultKind::BadEdit),
    ("(call $edit_header (i32.const 0) (i32.const 0) @name @evil )", FaultKind::BadEdit),
    ("(call $edit_header (i32.const 7) (i32.const 0) @name @value )", FaultKind::BadCall),
    ("(call $respond (i32.const 99) (i32.const 0) (i32.const 0))", FaultKind::BadAnswer),
    ("(call $respond (i32.const 200) (i32.const 0) (i32.const 131073))", FaultKind::OutOfBounds),
    ("(call $respond (i32.const -1) (i32.const 0) (i32.const 0))", FaultKind::BadAnswer),
    ("(drop (call $get_body (i32.const 0) (i32.const 0) (i32.const 9)))", FaultKind::BadCall),
    ("(call $replace_body @value )", FaultKind::BadCall),
    ("(call $abort)", FaultKind::BadCall),
    ("(call $set_state (i32.const 0) (i32.const 257) @value (i32.const 1))", FaultKind::BadCall),
    ("(call $set_state @key (i32.const 0) (i32.const 8193) (i32.const 1))", FaultKind::BadCall),
    ("(drop (call $get_state @key (i32.const 131072) (i32.const 1)))", FaultKind::OutOfBounds),
    ("(call $count @path (i64.const 1))", FaultKind::BadCall),
    ("(call $count @counter (i64.const -1))", FaultKind::BadCall),
];

/// All hooks, all asked for, the one of the given number with `body` in it.
fn hooks(which: usize, body: &str) -> String {
    let at = |hook: usize| if hook == which { body } else { "" };
    format!(
        r#"(table 4 funcref) (func $recurse (call $recurse))
        (func (export "mirrord_on_request") (result i32) {}
          (call $watch_request_body (i32.const 8)) (i32.const 6))
        (func (export "mirrord_on_request_body") (param i64 i32) (result i32)
          (if (i32.eq (call $get (i32.const 1) (i32.const 0) (i32.const 0)) (i32.const -1)) (then {} (return (i32.const 0))))
          {}
          (call $watch_request_body (i32.const 8)) (call $watch_response (i64.const 0)) (call $watch_response_body (i32.const 8))
          (call $watch_end) (i32.const 2))
        (func (export "mirrord_on_response") (param i64) (call $watch_response_body (i32.const 8)) {})
        (func (export "mirrord_on_response_body") (param i64 i32) {})
        (func (export "mirrord_on_end") (param i64) {})
        (func (export "mirrord_on_connection") (result i32) {} (i32.const 0))"#,
        at(0),
        at(2),
        at(1),
        at(3),
        at(4),
        at(5),
        at(6)
    )
}

/// Takes one exchange and one connection through all hooks, a filter that does well behind the bad one.
fn all_faults(chain: &mut Chain) -> (Verdict, Vec<Fault>, bool) {
    let post = RequestParts { end: false, ..request("POST", "/", &[]) };
    let mut outcome = match chain.on_request(&post) {
        Step::NeedsBody(pending) => match chain.on_request_body(pending, &post, b"body", true) {
            Step::Decided(outcome) => outcome,
            step => panic!("{step:?}"),
        },
        Step::Decided(outcome) => outcome,
        step => panic!("{step:?}"),
    };
    let (mut faults, mut aborts) = (std::mem::take(&mut outcome.faults), false);
    if let Some(mut followers) = outcome.followers {
        let mut body = |chain: &mut Chain, followers: &mut _, side| {
            let decision = chain.on_body(followers, side, b"body", true);
            assert_eq!(decision.replaced, None);
            aborts |= decision.abort;
            decision.faults
        };
        faults.extend(body(chain, &mut followers, Side::Request));
        let decision = chain.on_response(&mut followers, &response(200, &[]));
        faults.extend(decision.faults);
        faults.extend(body(chain, &mut followers, Side::Response));
        aborts |= decision.abort;
        faults.extend(chain.on_end(*followers));
    }
    let (client, destination) = (post.client, post.destination);
    let connection = ConnectionParts { client, destination, sni: None, alpn: &[], first_bytes: b"SSH-" };
    faults.extend(chain.on_connection(&connection).faults);
    (outcome.verdict, faults, aborts)
}

const GOOD: &str = r#"(func (export "mirrord_on_request") (result i32) (i32.const 1))"#;

/// The bad module, and one that does well.
fn modules(engine: &Engine, bad: &str) -> [Module; 2] {
    [bad, GOOD].map(|hooks| engine.load("a filter", &wat::module(hooks)).unwrap_or_else(|error| panic!("{error}")))
}

fn chain([bad, good]: &[Module; 2], policy: Policy, isolation: Isolation) -> Chain {
    let limits = Limits { faults_in_a_row: u32::MAX, memory: 1 << 20, table_elements: 5000, ..Limits::default() };
    let settings = Settings { limits, policy, isolation, ..Settings::default() };
    Chain::new(vec![bad.configure_with(settings).unwrap(), good.configure(b"", Limits::default()).unwrap()])
}

#[test]
fn each_end_in_each_hook_is_one_fault_with_the_outcome_of_its_policy() {
    let (engine, _lines) = logged_engine();
    for (body, kind) in ENDS {
        for hook in 0..7 {
            let modules = modules(&engine, &hooks(hook, body));
            for (policy, isolation) in [
                (Policy::Pass, Isolation::Shared),
                (Policy::Pass, Isolation::Fresh),
                (Policy::Steal, Isolation::Shared),
                (Policy::Deny, Isolation::Shared),
                (Policy::Deny, Isolation::Fresh),
            ] {
                let mut chain = chain(&modules, policy, isolation);
                let start = Instant::now();
                let (verdict, faults, aborts) = all_faults(&mut chain);
                let what = format!("{body} in hook {hook}, {policy:?}, {isolation:?}: {verdict:?} {faults:?}");
                assert!(start.elapsed() < Duration::from_secs(2), "{what}: {:?}", start.elapsed());
                assert_eq!(faults.iter().map(|fault| (fault.kind, fault.policy)).collect::<Vec<_>>(), [(kind, policy)], "{what}");
                match (hook, policy) {
                    (0 | 1, Policy::Pass | Policy::Steal) => assert_eq!(verdict, Verdict::Steal, "{what}"),
                    (0 | 1, Policy::Deny) => assert!(matches!(verdict, Verdict::Respond(answer) if answer.status == 503), "{what}"),
                    _ => assert_eq!(verdict, Verdict::Mirror, "{what}"),
                }
                assert_eq!(aborts, policy == Policy::Deny && (2..=4).contains(&hook), "{what}");
            }
        }
    }
}

#[test]
fn calls_that_make_no_sense_or_name_what_is_not_there_are_faults() {
    let engine = engine();
    for (call, kind) in CALLS {
        let mut chain = chain(&modules(&engine, &hooks(0, call)), Policy::Pass, Isolation::Shared);
        let (verdict, faults, _) = all_faults(&mut chain);
        assert_eq!((verdict, faults.len()), (Verdict::Steal, 1), "{call}: {faults:?}");
        assert_eq!(faults[0].kind, kind, "{call}: {faults:?}");
    }
    // What belongs to a request that is undecided is nobody else's to say.
    for call in [
        "(call $edit_header (i32.const 0) (i32.const 0) @name @value )",
        "(call $set_path @path )",
        "(call $delay (i32.const 1))",
        "(call $watch_end)",
        "(call $watch_request_body (i32.const 1))",
        "(call $watch_response (i64.const 1))",
        "(call $set_token (i64.const 1))",
    ] {
        for hook in 2..7 {
            let mut chain = chain(&modules(&engine, &hooks(hook, call)), Policy::Pass, Isolation::Shared);
            let (_, faults, _) = all_faults(&mut chain);
            assert_eq!(faults.iter().map(|fault| fault.kind).collect::<Vec<_>>(), [FaultKind::BadCall], "{call} in hook {hook}");
        }
    }
}

#[test]
fn a_start_function_or_configure_hook_that_misbehaves_is_refused_before_anything_is_redirected() {
    let engine = engine();
    let start = |hooks: &str| {
        let limits = Limits { configure: Duration::from_millis(20), memory: 1 << 20, ..Limits::default() };
        engine.load("bad", &wat::module(hooks)).unwrap().configure(b"", limits).err().expect(hooks)
    };
    for (body, kind) in ENDS {
        if body.contains("table") || body.contains("indirect") {
            continue;
        }
        let hooks = format!(r#"(func $recurse (call $recurse)) (func (export "mirrord_configure") (result i32) {body} (i32.const 0))"#);
        assert!(matches!(start(&hooks), FilterError::Start(fault) if fault.kind == kind), "{body}");
    }
    // The host is not there yet: no call gets in before the memory is known.
    for call in ["(call $count @counter (i64.const 1))", "(call $watch_end)", "(drop (call $random))", "(call $abort)"] {
        let hooks = format!("(func $start {call}) (start $start)");
        assert!(matches!(start(&hooks), FilterError::Start(fault) if fault.message.contains("start function")), "{call}");
    }
}

#[test]
fn a_million_headers_are_walked_or_cut_off_and_do_no_harm() {
    let walk = r#"(func (export "mirrord_on_request") (result i32) (local $n i32)
        (loop $l (if (i64.ge_s (call $get_header_at (local.get $n) (i32.const 5000) (i32.const 100)) (i64.const 0))
          (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $l))))
        (i32.eq (local.get $n) (i32.const 1000000)))"#;
    // Quadratic: each look-up by name goes through all of them.
    let search = r#"(func (export "mirrord_on_request") (result i32) (local $n i32)
        (loop $l (if (i32.ge_s (call $get_header @name (local.get $n) (i32.const 5000) (i32.const 100)) (i32.const 0))
          (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $l))))
        (i32.const 1))"#;
    let limits = Limits { call: Duration::from_millis(500), ..Limits::default() };
    let many = vec![Field { name: b"x-mark", value: b"1" }; 1_000_000];
    let engine = engine();
    for (hooks, least) in [(walk, 1), (search, 0)] {
        let mut chain = Chain::new(vec![wat::filter(&engine, "own", hooks, Settings { limits: limits.clone(), ..Settings::default() })]);
        let start = Instant::now();
        let Step::Decided(outcome) = chain.on_request(&get(&many)) else { panic!() };
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        match outcome.faults.first() {
            None => assert_eq!((outcome.verdict, least), (Verdict::Steal, 1)),
            Some(fault) => assert_eq!(fault.kind, FaultKind::Deadline, "{fault}"),
        }
        // And the next request meets a filter as good as new.
        let Step::Decided(outcome) = chain.on_request(&get(&[])) else { panic!() };
        assert_eq!(outcome.faults, []);
    }
}

/// Bytes that this process has in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn floods_of_state_metrics_logs_and_bodies_stay_within_their_bounds() {
    let (engine, lines) = logged_engine();
    let number = "(i64.store (i32.const 5000) (call $random))";
    let name =
        "(i32.store (i32.const 5000) (i32.add (i32.const 0x61616161) (i32.wrap_i64 (i64.and (call $random) (i64.const 0x0f0f0f0f)))))";
    let floods = [
        format!("{number} (call $set_state (i32.const 5000) (i32.const 8) (i32.const 0) (i32.const 8000) (i32.const -1))"),
        format!("{number} (drop (call $add_state (i32.const 5000) (i32.const 8) (i64.const 1) (i32.const -1)))"),
        format!("{name} (call $count (i32.const 5000) (i32.const 4) (i64.const 1))"),
        format!("{name} (call $observe (i32.const 5000) (i32.const 4) (i64.const 9223372036854775807))"),
        "(call $log (i32.const 2) (i32.const 0) (i32.const 100000))".into(),
        "(call $reason (i32.const 0) (i32.const 100000))".into(),
        "(call $respond (i32.const 200) (i32.const 0) (i32.const 100000))".into(),
    ];
    for flood in &floods {
        let hooks = format!(
            r#"(func (export "mirrord_on_request") (result i32) (local $n i32)
            (loop $l {flood} (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 2000))))
            (i32.const 1))"#
        );
        let limits = Limits { call: Duration::from_secs(5), ..Limits::default() };
        let filter = wat::filter(&engine, "flood", &hooks, Settings { limits, ..Settings::default() });
        let mut chain = Chain::new(vec![filter.clone()]);
        let before = resident();
        for _ in 0..10 {
            let Step::Decided(outcome) = chain.on_request(&get(&[])) else { panic!() };
            assert_eq!((outcome.verdict, outcome.faults.len()), (Verdict::Steal, 0), "{flood}: {:?}", outcome.faults);
            // Each byte of the 256 may have become an escape.
            assert!(outcome.reason.is_none_or(|reason| reason.len() <= 6 * 256 + 3));
        }
        assert!(filter.metrics().len() <= 64, "{flood}");
        // Other tests run beside this one.
        let grown = resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{flood}: {grown} bytes");
    }
    assert!(lines.lock().unwrap().iter().all(|(_, _, line)| line.len() <= 6 * 1024 + 3));
    let flood = r#"
        (func (export "mirrord_on_request") (result i32) (call $watch_response_body (i32.const 100)) (i32.const 1))
        (func (export "mirrord_on_response_body") (param i64 i32) (loop $l (call $replace_body (i32.const 0) (i32.const 100000)) (br $l)))"#;
    let mut chain = Chain::new(vec![wat::filter(&engine, "flood", flood, Settings::default())]);
    let Step::Decided(outcome) = chain.on_request(&get(&[])) else { panic!() };
    let decision = chain.on_response_body(&mut outcome.followers.unwrap(), b"body", true);
    assert_eq!((decision.replaced, decision.faults[0].kind), (None, FaultKind::BadEdit));
}

#[test]
fn a_guest_that_recurses_fits_a_small_thread_and_leaves_nothing_behind() {
    // The host calls back into no guest, so the deepest that one gets is its own stack.
    let run = || {
        let mut chain = chain(&modules(&engine(), &hooks(0, "(call $recurse)")), Policy::Pass, Isolation::Shared);
        for _ in 0..100 {
            assert_eq!(all_faults(&mut chain).1[0].kind, FaultKind::Stack);
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn names_that_only_look_like_ours_are_refused_with_their_name() {
    let engine = engine();
    for (hooks, says) in [
        (r#"(func (export "mirrord_on_websocket"))"#, "mirrord_on_websocket"),
        (r#"(func (export "mirrord_on_end") (param i32))"#, "its type is another one"),
        (r#"(func (export "mirrord_on_request_body") (param i64 i32))"#, "its type is another one"),
    ] {
        let error = engine.load("bad", &wat::module(hooks)).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
