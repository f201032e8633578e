//! What a filter can do beyond the request's head: bodies, responses, ends, connections, and what its instances share.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;
#[path = "common/wat.rs"]
mod wat;

use std::time::{Duration, Instant};

use common::{engine, get, request, response};
use mirrord_filters::{
    BUCKETS, Chain, ConnectionParts, Edit, Failed, FaultKind, Filter, Followers, Isolation, Limits, MetricValue, Outcome, Pending, Policy,
    RequestParts, Said, Settings, Side, Step, Verdict,
};

fn filter(hooks: &str) -> Filter {
    wat::filter(&engine(), "own", hooks, Settings::default())
}

fn chain<const N: usize>(hooks: [&str; N]) -> Chain {
    let engine = engine();
    Chain::new(hooks.iter().enumerate().map(|(n, hooks)| wat::filter(&engine, &format!("link{n}"), hooks, Settings::default())).collect())
}

fn decided(step: Step) -> Outcome {
    match step {
        Step::Decided(outcome) => outcome,
        step => panic!("{step:?}"),
    }
}

fn held(step: Step) -> Pending {
    match step {
        Step::NeedsBody(pending) => pending,
        step => panic!("{step:?}"),
    }
}

fn post() -> RequestParts<'static> {
    RequestParts { end: false, ..request("POST", "/upload", &[]) }
}

fn followers(outcome: Outcome) -> Followers {
    *outcome.followers.expect("somebody follows")
}

/// Steals bodies that begin with X, once it has seen 8 bytes.
const BODY: &str = r#"
    (func (export "mirrord_on_request") (result i32)
      (call $watch_request_body (i32.const 8)) (call $set_token (i64.const 7)) (i32.const 6))
    (func (export "mirrord_on_request_body") (param $token i64) (param $end i32) (result i32)
      (call $say (i32.add (i32.wrap_i64 (local.get $token)) (i32.mul (i32.const 10) (local.get $end))))
      (i32.store8 (i32.const 5000) (i32.const 0))
      (drop (call $get_body (i32.const 0) (i32.const 5000) (i32.const 1)))
      (i32.eq (i32.load8_u (i32.const 5000)) (i32.const 88)))"#;

#[test]
fn an_undecided_request_is_decided_by_its_body() {
    let mut chain = chain([BODY]);
    for (body, end, verdict, reason) in [
        (&b"XYZ"[..], true, Verdict::Steal, Some("17")),
        (b"XYZ45678", false, Verdict::Steal, Some("07")),
        (b"", true, Verdict::Pass, None),
    ] {
        let pending = held(chain.on_request(&post()));
        assert_eq!(pending.window(), 8);
        let outcome = decided(chain.on_request_body(pending, &post(), body, end));
        assert_eq!((&outcome.verdict, outcome.reason.as_deref()), (&verdict, reason), "{body:?}");
        assert!(outcome.followers.is_none() && outcome.faults.is_empty(), "{outcome:?}");
    }
    // A request without a body is not held.
    assert_eq!(decided(chain.on_request(&get(&[]))).verdict, Verdict::Pass);
}

#[test]
fn links_before_and_after_an_undecided_one_keep_their_word() {
    let mark = r#"(func (export "mirrord_on_request") (result i32)
        (call $edit_header (i32.const 0) (i32.const 1) @name @value ) (i32.const 0))"#;
    let steal = r#"(func (export "mirrord_on_request") (result i32) (i32.const 1))"#;
    let mut chain = chain([mark, BODY, mark, BODY, steal]);
    let edit = Edit::Append { name: b"x-mark".to_vec(), value: b"seen".to_vec() };
    let pending = held(chain.on_request(&post()));
    let pending = held(chain.on_request_body(pending, &post(), b"no", true));
    let outcome = decided(chain.on_request_body(pending, &post(), b"X", true));
    assert_eq!((outcome.verdict, outcome.link, outcome.request_edits.len()), (Verdict::Steal, Some(3), 2));
    // Without the undecided ones: who has waited too long.
    let pending = held(chain.on_request(&post()));
    let outcome = chain.skip(pending, &post());
    assert_eq!((outcome.verdict, outcome.link), (Verdict::Steal, Some(4)));
    assert_eq!(outcome.request_edits, [edit.clone(), edit]);
}

#[test]
fn what_each_link_says_by_itself_is_noted_and_its_time_when_asked_for() {
    let (trap, why) = (
        r#"(func (export "mirrord_on_request") (result i32) unreachable)"#,
        r#"(func (export "mirrord_on_request") (result i32) (call $say (i32.const 42)) (i32.const 0))"#,
    );
    let (pass, steal) = (
        r#"(func (export "mirrord_on_request") (result i32) (i32.const 0))"#,
        r#"(func (export "mirrord_on_request") (result i32) (call $say (i32.const 1)) (i32.const 1))"#,
    );
    let mut chain = chain([pass, why, trap, BODY, steal, pass]);
    for is_timed in [false, true, false] {
        chain.set_timed(is_timed);
        let pending = held(chain.on_request(&post()));
        let outcome = decided(chain.on_request_body(pending, &post(), b"no", true));
        assert_eq!((outcome.verdict, outcome.link, outcome.reason.as_deref()), (Verdict::Steal, Some(4), Some("01")));
        let told = |said: &Said| (said.link, said.failed.map(Failed::as_str), said.reason.as_deref().map(str::to_owned));
        let mut expected = vec![(1, None, Some("42".to_owned())), (2, Some("trap"), None), (3, None, Some("17".to_owned()))];
        if is_timed {
            expected.insert(0, (0, None, None));
            expected.push((4, None, None));
        }
        assert_eq!(outcome.said.iter().map(told).collect::<Vec<_>>(), expected);
        assert!(outcome.said.iter().all(|said| said.ns.is_some_and(|ns| ns > 0) == is_timed), "{:?}", outcome.said);
    }
    // Who is not waited for is noted; and who is set aside, after ten failures.
    let pending = held(chain.on_request(&post()));
    assert_eq!(chain.skip(pending, &post()).said.last().map(|said| (said.link, said.failed)), Some((3, Some(Failed::Skipped))));
    (0..10).for_each(|_| drop(chain.on_request(&get(&[]))));
    assert_eq!(decided(chain.on_request(&get(&[]))).said[1].failed, Some(Failed::SetAside));
}

#[test]
fn a_runtime_may_take_its_time_to_start_and_what_started_quickly_may_not() {
    let limits = || Limits { call: Duration::from_millis(3), configure: Duration::from_secs(10), ..Limits::default() };
    let slow = r#"
        (func (export "mirrord_configure") (result i32) (local $i i32)
          (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 200000000))))
          (i32.const 0))
        (func (export "mirrord_on_request") (result i32) (i32.const 1))"#;
    let filter = wat::filter(&engine(), "slow", slow, Settings { limits: limits(), ..Settings::default() });
    let outcome = decided(Chain::new(vec![filter]).on_request(&get(&[])));
    assert_eq!((outcome.verdict, outcome.faults), (Verdict::Steal, vec![]));
    // Only its first start ends.
    let later = r#"
        (func (export "mirrord_configure") (result i32)
          (if (i64.gt_s (call $add_state @key (i64.const 1) (i32.const 0)) (i64.const 1)) (then (loop $again (br $again))))
          (i32.const 0))"#;
    let filter = wat::filter(&engine(), "later", later, Settings { limits: limits(), ..Settings::default() });
    let (mut chain, began) = (Chain::new(vec![filter]), Instant::now());
    let outcome = decided(chain.on_request(&get(&[])));
    assert_eq!((outcome.verdict, outcome.faults[0].kind), (Verdict::Pass, FaultKind::Deadline));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn who_does_not_decide_with_the_body_has_failed() {
    let mut chain = chain([r#"
        (func (export "mirrord_on_request") (result i32) (i32.const 6))
        (func (export "mirrord_on_request_body") (param i64 i32) (result i32) (i32.const 6))"#]);
    let pending = held(chain.on_request(&post()));
    assert_eq!(pending.window(), 64 << 10, "the usual window");
    let outcome = decided(chain.on_request_body(pending, &post(), b"", true));
    assert_eq!(outcome.verdict, Verdict::Pass);
    assert!(outcome.faults[0].message.contains("does not decide"), "{:?}", outcome.faults);
}

/// Follows both bodies in pieces of 4 bytes, and puts `X` and the piece's length before each of a request, behind each of a
/// response; replaces `drop` by nothing.
const FOLLOW: &str = r#"
    (func (export "mirrord_on_request") (result i32)
      (call $watch_request_body (i32.const 4)) (call $watch_response_body (i32.const 4)) (call $watch_end) (call $set_token (i64.const 3))
      (i32.const 1))
    (func $length (result i32) (call $get_body (i32.const 0) (i32.const 5000) (i32.const 64)))
    (func $mark (param $length i32)
      (i32.store8 (i32.const 4999) (i32.add (i32.const 48) (local.get $length)))
      (call $replace_body (i32.const 4999) (i32.const 1)))
    (func (export "mirrord_on_request_body") (param $token i64) (param $end i32) (result i32)
      (call $mark (call $length))
      (call $replace_body (i32.const 5000) (call $length)) (i32.const 0))
    (func (export "mirrord_on_response_body") (param $token i64) (param $end i32) (local $n i32)
      (local.set $n (call $length))
      (if (i32.eq (i32.load (i32.const 5000)) (i32.const 0x706f7264)) (then (call $replace_body (i32.const 0) (i32.const 0)) (return)))
      (if (i32.eqz (local.get $n)) (then (return)))
      (call $replace_body (i32.const 5000) (local.get $n)) (call $mark (local.get $n)))
    (func (export "mirrord_on_end") (param $token i64)
      (call $count @counter (local.get $token)))"#;

#[test]
fn bodies_pass_through_the_links_that_follow_them() {
    let filter = filter(FOLLOW);
    let mut chain = Chain::new(vec![filter.clone()]);
    let mut own = followers(decided(chain.on_request(&post())));
    assert_eq!((own.window(Side::Request), own.window(Side::Response), own.want_response()), (Some(4), Some(4), false));
    let passed = chain.on_body(&mut own, Side::Request, b"abcd", false);
    assert_eq!(passed.replaced.as_deref(), Some(&b"4abcd"[..]));
    // More than a window comes in windows; the end may be empty.
    assert_eq!(chain.on_body(&mut own, Side::Request, b"abcdef", false).replaced.unwrap(), b"4abcd2ef");
    assert_eq!(chain.on_body(&mut own, Side::Request, b"", true).replaced.unwrap(), b"0");
    assert_eq!(own.window(Side::Request), None, "it has ended");
    assert_eq!(chain.on_response_body(&mut own, b"drop", false).replaced.unwrap(), b"");
    assert_eq!(chain.on_response_body(&mut own, b"keep", false).replaced.unwrap(), b"keep4");
    assert_eq!(chain.on_response_body(&mut own, b"", true).replaced, None, "as it came");
    let hits = || filter.metrics().into_iter().find(|metric| metric.name == "hits").map(|metric| metric.value);
    assert_eq!(hits(), None);
    assert_eq!(chain.on_end(own), []);
    assert_eq!(hits(), Some(MetricValue::Counter(3)));
    // Dropping says the same, at the chain's next call.
    drop(decided(chain.on_request(&post())));
    let _ = decided(chain.on_request(&post()));
    assert_eq!(hits(), Some(MetricValue::Counter(6)));
}

#[test]
fn a_response_goes_through_the_links_backwards() {
    let pass =
        |verdict: &str| FOLLOW.replacen("(i32.const 1))\n    (func $length", &format!("(i32.const {verdict}))\n    (func $length"), 1);
    let mut chain = chain([&pass("0"), FOLLOW]);
    let mut own = followers(decided(chain.on_request(&post())));
    assert_eq!(chain.on_body(&mut own, Side::Request, b"ab", true).replaced.unwrap(), b"32ab");
    // The second link's 2 becomes part of what the first one sees: 3 bytes.
    assert_eq!(chain.on_response_body(&mut own, b"ab", true).replaced.unwrap(), b"ab23");
}

#[test]
fn a_response_can_be_edited_replaced_or_cut() {
    let hooks = r#"
        (func (export "mirrord_on_request") (result i32)
          (call $watch_response (i64.extend_i32_s (call $get (i32.const 2) (i32.const 5000) (i32.const 64)))) (i32.const 0))
        (func (export "mirrord_on_response") (param $token i64)
          (call $edit_header (i32.const 1) (i32.const 0) @name @value )
          (if (i64.eq (local.get $token) (i64.const 2)) (then (call $respond (i32.const 451) @value )))
          (if (i64.eq (local.get $token) (i64.const 3)) (then (call $abort)))
          (if (i64.eq (local.get $token) (i64.const 4)) (then (call $watch_response_body (i32.const 100)))))
        (func (export "mirrord_on_response_body") (param i64 i32) (call $abort))"#;
    let mut chain = chain([hooks]);
    let mut respond = |path: &str| {
        let mut own = followers(decided(chain.on_request(&request("GET", path, &[]))));
        let decision = chain.on_response(&mut own, &response(200, &[]));
        let aborts_later = own.window(Side::Response).is_some() && chain.on_response_body(&mut own, b"a", false).abort;
        (decision, aborts_later)
    };
    let (plain, later) = respond("/");
    assert_eq!((plain.edits.len(), plain.replace.is_none(), plain.abort, later), (1, true, false, false));
    let replace = respond("/2").0.replace.unwrap();
    assert_eq!((replace.status, &replace.body[..]), (451, &b"seen"[..]));
    assert_eq!(replace.headers, [(b"x-mark".to_vec(), b"seen".to_vec())]);
    assert!(respond("/33").0.abort);
    assert!(respond("/444").1);
}

#[test]
fn a_verdict_comes_with_a_path_a_delay_and_edits() {
    let hooks = |verdict: i32| {
        format!(
            r#"(func (export "mirrord_on_request") (result i32)
            (call $set_path @path ) (call $delay (i32.const 20000)) (i32.const {verdict}))"#
        )
    };
    for (number, verdict) in
        [(0, Verdict::Pass), (1, Verdict::Steal), (2, Verdict::Mirror), (4, Verdict::StealAndMirror), (5, Verdict::Abort)]
    {
        let outcome = decided(chain([&hooks(number)]).on_request(&post()));
        assert_eq!(outcome.verdict, verdict);
        assert_eq!((outcome.path.as_deref(), outcome.delay), (Some(&b"/other?a=b"[..]), Some(Duration::from_secs(20))));
    }
    let two = decided(chain([&hooks(0), &hooks(1)]).on_request(&post()));
    assert_eq!(two.delay, Some(Duration::from_secs(30)), "both, up to the limit");
}

/// Counts its requests in a global, and says so.
const COUNTS: &str = r#"(global $n (mut i32) (i32.const 0))
    (func (export "mirrord_on_request") (result i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1))) (call $say (global.get $n)) (call $watch_response (i64.const 0)) (i32.const 1))
    (func (export "mirrord_on_response") (param i64)
      (global.set $n (i32.add (global.get $n) (i32.const 10))) (call $say (global.get $n)))"#;

#[test]
fn requests_share_an_instance_or_have_one_each() {
    for (isolation, reasons) in [(Isolation::Shared, ["01", "02", "12", "22"]), (Isolation::Fresh, ["01", "01", "11", "11"])] {
        let mut chain = Chain::new(vec![wat::filter(&engine(), "own", COUNTS, Settings { isolation, ..Settings::default() })]);
        let mut begin = || {
            let outcome = decided(chain.on_request(&get(&[])));
            (outcome.reason.clone().unwrap().to_string(), followers(outcome))
        };
        let ((one, mut first), (two, mut second)) = (begin(), begin());
        let mut respond = |own: &mut Followers| chain.on_response(own, &response(200, &[])).reason.unwrap().to_string();
        assert_eq!([one, two, respond(&mut first), respond(&mut second)], reasons, "{isolation:?}");
    }
}

#[test]
fn instances_of_their_own_are_few_and_end_with_their_exchange() {
    let settings = Settings { isolation: Isolation::Fresh, ..Settings::default() };
    let mut chain = Chain::new(vec![wat::filter(&engine(), "own", COUNTS, settings)]);
    let mut all: Vec<_> = (0..256).map(|_| followers(decided(chain.on_request(&get(&[]))))).collect();
    let outcome = decided(chain.on_request(&get(&[])));
    assert!(outcome.faults[0].message.contains("too many requests"), "{outcome:?}");
    let _ = chain.on_end(all.pop().unwrap());
    all.pop();
    for _ in 0..1000 {
        assert_eq!(decided(chain.on_request(&get(&[]))).verdict, Verdict::Steal, "each is dropped again");
    }
}

#[test]
fn a_failure_is_answered_for_by_its_policy_also_while_set_aside() {
    let engine = engine();
    let trap = r#"(func (export "mirrord_on_request") (result i32) unreachable)"#;
    let mirror = r#"(func (export "mirrord_on_request") (result i32) (i32.const 2))"#;
    for policy in [Policy::Pass, Policy::Steal, Policy::Deny] {
        let bad = wat::filter(&engine, "bad", trap, Settings { policy, ..Settings::default() });
        let mut chain = Chain::new(vec![bad, wat::filter(&engine, "good", mirror, Settings::default())]);
        let mut faults = 0;
        for _ in 0..30 {
            let outcome = decided(chain.on_request(&get(&[])));
            faults += outcome.faults.len();
            match (policy, outcome.verdict) {
                (Policy::Pass, Verdict::Mirror) => assert_eq!(outcome.link, Some(1)),
                (Policy::Steal, Verdict::Steal) => assert_eq!(outcome.link, Some(0)),
                (Policy::Deny, Verdict::Respond(answer)) => assert_eq!((answer.status, outcome.link), (503, Some(0))),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(faults, 10, "then it is set aside");
    }
}

#[test]
fn a_body_that_a_denying_filter_failed_on_goes_nowhere() {
    let hooks = r#"
        (func (export "mirrord_on_request") (result i32) (call $watch_response_body (i32.const 10)) (i32.const 0))
        (func (export "mirrord_on_response_body") (param i64 i32) unreachable)"#;
    for (policy, abort) in [(Policy::Pass, false), (Policy::Deny, true)] {
        let mut chain = Chain::new(vec![wat::filter(&engine(), "own", hooks, Settings { policy, ..Settings::default() })]);
        let mut own = followers(decided(chain.on_request(&get(&[]))));
        let decision = chain.on_response_body(&mut own, b"secret", false);
        assert_eq!((decision.replaced.as_deref(), decision.abort, decision.faults.len()), (None, abort, 1));
        assert_eq!(own.window(Side::Response), None, "it follows no longer");
    }
}

#[test]
fn a_filter_that_fails_in_a_later_hook_only_is_set_aside_too() {
    let hooks = r#"
        (func (export "mirrord_on_request") (result i32) (call $watch_response (i64.const 0)) (i32.const 1))
        (func (export "mirrord_on_response") (param i64) unreachable)"#;
    let mut chain = chain([hooks]);
    for n in 1..=10 {
        let mut own = followers(decided(chain.on_request(&get(&[]))));
        let decision = chain.on_response(&mut own, &response(200, &[]));
        assert_eq!(decision.faults[0].set_aside, n == 10);
    }
    assert_eq!(decided(chain.on_request(&get(&[]))).verdict, Verdict::Pass);
}

#[test]
fn instances_share_a_state_that_ends() {
    let hooks = r#"(func (export "mirrord_on_request") (result i32)
        (i32.store8 (i32.const 5001) (i32.const 0))
        (drop (call $get (i32.const 2) (i32.const 5000) (i32.const 64)))
        (if (i32.eq (i32.load8_u (i32.const 5001)) (i32.const 115)) (then (call $set_state @key @value (i32.const 50))))
        (if (i32.eq (i32.load8_u (i32.const 5001)) (i32.const 114)) (then (call $remove_state @key )))
        (if (i32.eq (i32.load8_u (i32.const 5001)) (i32.const 97))
          (then (call $say (i32.wrap_i64 (call $add_state @name (i64.const 5) (i32.const 60000)))) (return (i32.const 1))))
        (call $say (call $get_state @key (i32.const 6000) (i32.const 64))) (i32.const 1))"#;
    let engine = engine();
    let filter = wat::filter(&engine, "own", hooks, Settings::default());
    let say = |chain: &mut Chain, path: &str| decided(chain.on_request(&request("GET", path, &[]))).reason.unwrap().to_string();
    let (mut one, mut other) = (Chain::new(vec![filter.clone()]), Chain::new(vec![filter.clone()]));
    let absent = say(&mut one, "/");
    assert_eq!((say(&mut one, "/s"), say(&mut other, "/")), ("04".into(), "04".into()));
    assert_eq!(say(&mut other, "/r"), absent);
    let start = std::time::Instant::now();
    say(&mut one, "/s");
    while say(&mut other, "/") != absent {
        assert!(start.elapsed() < Duration::from_secs(10), "it never ends");
    }
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!((say(&mut one, "/a"), say(&mut other, "/a")), ("05".into(), "10".into()));
    // Another filter has its own; a new version of this one has this one's.
    let next = |replaces| Chain::new(vec![wat::filter(&engine, "own", hooks, Settings { replaces, ..Settings::default() })]);
    assert_eq!((say(&mut next(None), "/a"), say(&mut next(Some(filter)), "/a")), ("05".into(), "15".into()));
}

#[test]
fn a_filter_counts_and_observes() {
    let filter = filter(
        r#"(func (export "mirrord_on_request") (result i32)
        (call $count @counter (i64.const 2)) (call $observe @histogram (i64.const 7)) (i32.const 0))"#,
    );
    for mut chain in [Chain::new(vec![filter.clone()]), Chain::new(vec![filter.clone()])] {
        let _ = (chain.on_request(&get(&[])), chain.on_request(&get(&[])));
    }
    let [hits, sizes] = &filter.metrics()[..] else { panic!() };
    assert_eq!((&*hits.name, &hits.value), ("hits", &MetricValue::Counter(8)));
    let MetricValue::Histogram { buckets, sum } = &sizes.value else { panic!() };
    assert_eq!((buckets[BUCKETS.iter().position(|bound| *bound == 10).unwrap()], *sum), (4, 28));
}

#[test]
fn random_numbers_come_again_with_their_seed() {
    let hooks = r#"(func (export "mirrord_on_request") (result i32)
        (i64.store (i32.const 5000) (call $random)) (call $set_state @key (i32.const 5000) (i32.const 8) (i32.const 1000))
        (call $say (i32.and (i32.load (i32.const 5000)) (i32.const 0x7fffffff))) (i32.const 1))"#;
    let sequence = |seed| {
        let mut chain = Chain::new(vec![wat::filter(&engine(), "own", hooks, Settings { seed, ..Settings::default() })]);
        (0..20).map(|_| decided(chain.on_request(&get(&[]))).reason.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(sequence(Some(1)), sequence(Some(1)));
    assert_ne!(sequence(Some(1)), sequence(Some(2)));
    assert_ne!(sequence(None), sequence(None));
}

#[test]
fn a_filter_knows_its_sessions_properties_and_the_time() {
    let hooks = r#"(func (export "mirrord_on_request") (result i32)
        (drop (call $get_property @property (i32.const 5000) (i32.const 64)))
        (call $reason (i32.const 5000) (i32.const 4))
        (i64.gt_s (call $now) (i64.const 1700000000000)))"#;
    let properties = vec![("user".to_owned(), b"jane".to_vec())];
    let mut chain = Chain::new(vec![wat::filter(&engine(), "own", hooks, Settings { properties, ..Settings::default() })]);
    let outcome = decided(chain.on_request(&get(&[])));
    assert_eq!((outcome.verdict, outcome.reason.as_deref()), (Verdict::Steal, Some("jane")));
}

#[test]
fn a_connection_that_is_not_http_is_judged_by_what_is_known_of_it() {
    let hooks = |verdict: i32| {
        format!(
            r#"(func (export "mirrord_on_connection") (result i32)
        (drop (call $get (i32.const 6) (i32.const 5000) (i32.const 4)))
        (drop (call $get (i32.const 7) (i32.const 5004) (i32.const 7)))
        (drop (call $get (i32.const 8) (i32.const 5011) (i32.const 2)))
        (call $reason (i32.const 5000) (i32.const 13))
        (i32.const {verdict}))"#
        )
    };
    let parts = ConnectionParts {
        client: ([192, 0, 2, 7], 50312).into(),
        destination: ([192, 0, 2, 1], 443).into(),
        sni: Some(b"shop"),
        alpn: &[b"h2", b"http"],
        first_bytes: b"\x16\x03\x01",
    };
    let judge = |verdict| {
        let mut chain = chain([r#"(func (export "mirrord_on_end") (param i64))"#, &hooks(verdict)]);
        assert!(chain.wants_connections());
        chain.on_connection(&parts)
    };
    let decision = judge(1);
    assert_eq!((decision.verdict, decision.link), (Verdict::Steal, Some(1)));
    assert_eq!(decision.reason.as_deref(), Some("shoph2,http\\u{16}\\u{3}"));
    for nonsense in [3, 6] {
        let decision = judge(nonsense);
        assert_eq!((decision.verdict, decision.faults.len()), (Verdict::Pass, 1));
    }
    assert!(!chain([BODY]).wants_connections());
}
