//! The same filter in several languages: one table of requests and configs for all.

use mirrord_filters::{Chain, Edit, ResponseParts, Step, Verdict};

use crate::common::{Decision, fields, get};
use crate::{instance, load, set, verdict};

const CONFIG: &str = r#"{"name": "x-user", "value": "me"}"#;
/// The same filter in five languages.
const VARIANTS: [&str; 5] = ["header", "header-c", "header-go", "header-assemblyscript", "header-zig"];

#[test]
fn every_language_steals_and_marks_the_same_requests() {
    let long = "m".repeat(100_000);
    for name in VARIANTS {
        let mut instance = instance(name, CONFIG);
        for mine in [&[("Host", "shop"), ("X-User", "me")][..], &[("x-user", ""), ("x-user", &long), ("X-USER", "me")]] {
            let decision = instance.on_request(&get(&fields(mine)));
            let reason = Some("header x-user has the configured value".to_owned());
            let expected =
                Decision { verdict: Verdict::Steal, response_edits: vec![set("x-mirrord-filter", "header")], reason, ..Decision::pass() };
            assert_eq!(decision, expected, "{name}");
        }
        for others in [
            &[][..],
            &[("x-user", "you")],
            &[("x-user", "ME")],
            &[("x-users", "me")],
            &[("x-user", "")],
            &[("x-user", "me, too")],
            &[("x-user", &long)],
        ] {
            assert_eq!(instance.on_request(&get(&fields(others))), Decision::pass(), "{name}: {others:.40?}");
        }
    }
}

#[test]
fn every_language_refuses_the_same_configs_and_says_how_one_looks() {
    for name in VARIANTS {
        for config in [
            "",
            "x-user=me",
            "[]",
            "{}",
            "{",
            r#"{"name": "x-user"}"#,
            r#"{"value": "me"}"#,
            r#"{"name": "x-user", "value": 3}"#,
            r#"{"name": "x user", "value": "me"}"#,
            r#"{"name": "", "value": "me"}"#,
            r#"{"name": "x-user", "value": "me", "vlaue": ""}"#,
            r#"{"name": "x-user", "value": "me"} x"#,
            r#"{"name": "x-user", "value": "me"#,
        ] {
            let message = load(name, config).err().unwrap_or_else(|| panic!("{name} takes {config:?}")).to_string();
            assert!(message.contains(CONFIG), "{name}, {config:?}: {message}");
        }
        assert!(load(name, " {\"value\" : \"a\\\"b\\\\\" ,\n\t\"name\":\"x-user\" } ").is_ok(), "{name}");
    }
}

#[test]
fn every_language_runs_on_within_its_memory() {
    for name in VARIANTS {
        let mut instance = instance(name, CONFIG);
        let value = "v".repeat(30_000);
        for _ in 0..2_000 {
            assert_eq!(verdict(&mut instance, "/", &[("x-user", &value), ("x-user", "me")]), Verdict::Steal, "{name}");
        }
    }
}

/// It gets a map with names in lower case and marks the response when that comes.
#[test]
fn the_stock_proxy_wasm_crate_makes_the_same_verdicts() {
    let mut chain = Chain::new(vec![load("header-proxy-wasm", CONFIG).unwrap()]);
    for (headers, expected) in [
        (&[("Host", "shop"), ("X-User", "me")][..], Verdict::Steal),
        (&[("x-user", "you"), ("x-user", "me")], Verdict::Steal),
        (&[], Verdict::Pass),
        (&[("x-user", "ME"), ("x-users", "me")], Verdict::Pass),
    ] {
        let Step::Decided(outcome) = chain.on_request(&get(&fields(headers))) else { panic!("it waits") };
        assert_eq!((outcome.verdict, outcome.faults), (expected.clone(), vec![]), "{headers:?}");
        let Some(mut followers) = outcome.followers else { panic!("its response hook is not called") };
        let decision = chain.on_response(&mut followers, &ResponseParts { status: 200, headers: &[] });
        let marks: Vec<&[u8]> = decision.edits.iter().map(Edit::name).collect();
        if expected == Verdict::Steal {
            assert_eq!(outcome.reason.as_deref(), Some("header x-user has the configured value"));
            assert_eq!(marks, [&b"x-mirrord-filter"[..]]);
        } else {
            assert_eq!(marks, [&b""[..]; 0]);
        }
        assert_eq!((decision.faults, chain.on_end(*followers)), (vec![], vec![]));
    }
    for config in ["", "[]", r#"{"name": "x-user"}"#, r#"{"name": "x-user", "value": "me", "vlaue": ""}"#] {
        let message = load("header-proxy-wasm", config).err().unwrap_or_else(|| panic!("it takes {config:?}")).to_string();
        assert!(message.contains(CONFIG), "{config:?}: {message}");
    }
}
