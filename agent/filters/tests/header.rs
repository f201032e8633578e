//! The header filter as users get it: built by the script, run by the host.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;

use common::{Decision, Instance, engine, example, fields, get, logged_engine, request};
use mirrord_filters::{Edit, Filter, Limits, Verdict};

const CONFIG: &[u8] = br#"{"name": "x-user", "value": "me"}"#;

fn header() -> Filter {
    engine().load("header", &example("header")).unwrap().configure(CONFIG, Limits::default()).unwrap()
}

#[test]
fn it_steals_what_carries_the_header_and_marks_the_response() {
    let mut instance = Instance::of(&header());
    for name in ["x-user", "X-User"] {
        let decision = instance.on_request(&get(&fields(&[("Host", "shop"), (name, "me")])));
        let mark = Edit::Set { name: b"x-mirrord-filter".to_vec(), value: b"header".to_vec() };
        let reason = Some("header x-user has the configured value".to_owned());
        assert_eq!(decision, Decision { verdict: Verdict::Steal, response_edits: vec![mark], reason, ..Decision::pass() });
    }
}

#[test]
fn everything_else_passes_untouched() {
    let mut instance = Instance::of(&header());
    let long = "m".repeat(100_000);
    for headers in [&[][..], &[("x-user", "you")], &[("x-users", "me")], &[("x-user", ""), ("x-user", "ME")], &[("x-user", &long)]] {
        assert_eq!(instance.on_request(&get(&fields(headers))), Decision::pass());
    }
    // More than the guest's scratch memory takes at once, found at the very end.
    let mut many = vec![("x-user", &*long); 20];
    many.push(("x-user", "me"));
    assert_eq!(instance.on_request(&request("GET", &long, &fields(&many))).verdict, Verdict::Steal);
    assert_eq!(instance.on_request(&get(&[])), Decision::pass());
}

#[test]
fn a_bad_config_is_refused_in_the_filters_own_words() {
    let module = engine().load("header.wasm", &example("header")).unwrap();
    for (config, says) in [(&b""[..], "needs a config"), (b"{", "not JSON"), (br#"{"name": "x-user"}"#, "lacks \"value\"")] {
        let message = module.configure(config, Limits::default()).err().unwrap().to_string();
        assert!(message.starts_with("header.wasm refuses its config: ") && message.contains(says), "{message}");
        assert!(message.contains("--filter-config"), "{message}");
    }
}

#[test]
fn it_stays_within_its_memory_over_many_requests() {
    let (engine, lines) = logged_engine();
    let module = engine.load("header", &example("header")).unwrap();
    let filter = module.configure(CONFIG, Limits { memory: 2 << 20, ..Limits::default() }).unwrap();
    let mut instance = Instance::of(&filter);
    let value = "v".repeat(30_000);
    for _ in 0..2_000 {
        let decision = instance.on_request(&get(&fields(&[("x-user", &value), ("x-user", "me")])));
        assert_eq!((decision.verdict, decision.fault), (Verdict::Steal, None));
    }
    assert_eq!(*lines.lock().unwrap(), []);
}
