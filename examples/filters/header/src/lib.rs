//! Steals the requests that carry a given header with a given value, and marks their responses.
//!
//! Config: `{"name": "x-user", "value": "me"}`. The name is compared without regard to case, the value exactly.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::{filter, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"name": "x-user", "value": "me"}"#;

/// Which header marks a request as ours.
pub struct Header {
    name: String,
    value: String,
    reason: String,
}

impl Filter for Header {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let (name, value) = (fields.text("name")?, fields.text("value")?);
        fields.no_others()?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(fields.wrong(format_args!("\"{name}\" cannot be a header's name")));
        }
        let reason = format!("header {name} has the configured value");
        Ok(Header { name, value, reason })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        // A client may send the header more than once; any of them counts.
        if !request.header_values(&self.name).any(|value| value == self.value.as_bytes()) {
            return Verdict::Pass;
        }
        request.set_response_header("x-mirrord-filter", "header");
        request.reason(&self.reason);
        Verdict::Steal
    }
}

filter!(Header);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing::{self, Edit};

    fn mine() -> Header {
        testing::configure(EXAMPLE).unwrap()
    }

    #[test]
    fn a_request_with_the_header_is_stolen_and_its_response_marked() {
        for name in ["x-user", "X-User", "X-USER"] {
            let outcome = testing::Request::get("/").header("host", "shop").header(name, "me").run(&mut mine());
            assert_eq!(outcome.verdict, Verdict::Steal, "{name}");
            assert_eq!(outcome.response_edits, [Edit::set("x-mirrord-filter", "header")]);
            assert_eq!(outcome.request_edits, []);
            assert_eq!(outcome.reason.as_deref(), Some("header x-user has the configured value"));
        }
    }

    #[test]
    fn any_of_several_headers_of_that_name_counts() {
        let outcome = testing::Request::get("/").header("x-user", "you").header("X-User", "me").run(&mut mine());
        assert_eq!(outcome.verdict, Verdict::Steal);
    }

    #[test]
    fn everything_else_passes_untouched() {
        for request in [
            testing::Request::get("/"),
            testing::Request::get("/").header("x-user", "you"),
            testing::Request::get("/").header("x-user", "ME"),
            testing::Request::get("/").header("x-user", "me, too"),
            testing::Request::get("/").header("x-users", "me"),
            testing::Request::get("/").header("x-user", b"\xff\xfe"),
        ] {
            let outcome = request.run(&mut mine());
            assert_eq!(outcome.verdict, Verdict::Pass);
            assert_eq!(outcome.response_edits, []);
        }
    }

    #[test]
    fn a_bad_config_is_refused_with_what_is_wrong_and_how_it_looks() {
        for (config, expected) in [
            ("", "needs a config"),
            ("x-user=me", "not JSON"),
            ("[]", "not a JSON object"),
            (r#"{"name": "x-user"}"#, "lacks \"value\""),
            (r#"{"name": "x-user", "value": 3}"#, "\"value\" in the config is not a string"),
            (r#"{"name": "x-user", "value": "me", "vlaue": ""}"#, "unknown field \"vlaue\""),
            (r#"{"name": "x user", "value": "me"}"#, "cannot be a header's name"),
            (r#"{"name": "", "value": "me"}"#, "cannot be a header's name"),
        ] {
            let why = testing::configure::<Header>(config).err().unwrap_or_default();
            assert!(why.contains(expected) && why.contains(EXAMPLE), "{config:?}: {why}");
        }
    }
}
