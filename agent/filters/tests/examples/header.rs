//! The same filter in several languages: one table of requests and configs for all.

use mirrord_filters::Verdict;

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
