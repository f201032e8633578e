//! Follows one session's requests through several services: marks them where they come in, and steals what carries the mark.
//!
//! Config: `{"session": "me", "entry": {"header": "x-user", "value": "me"}}`; see README.md.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::{baggage, filter, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"session": "me", "entry": {"header": "x-user", "value": "me"}}"#;

/// The mark, and which requests get it.
pub struct Baggage {
    key: String,
    session: String,
    /// A header and its value.
    entry: Option<(String, String)>,
    verdict: Verdict,
}

impl Filter for Baggage {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let key = fields.optional_text("key")?.unwrap_or_else(|| "mirrord-session".into());
        let session = fields.text("session")?;
        let entry = fields.value("entry");
        let verdict = match fields.optional_text("then")?.as_deref() {
            None | Some("steal") => Verdict::Steal,
            Some("mirror") => Verdict::Mirror,
            Some("pass") => Verdict::Pass,
            Some(_) => return Err(fields.wrong("\"then\" is none of \"steal\", \"mirror\" and \"pass\"")),
        };
        fields.no_others()?;
        if baggage::with([], &key, &session).is_err() {
            return Err(fields.wrong("\"key\" is not an HTTP token, or \"session\" is longer than baggage may be"));
        }
        let entry = match entry {
            None => None,
            Some(entry) => {
                let mut fields = Fields::read(entry.raw().as_bytes(), EXAMPLE)?;
                let entry = (fields.text("header")?, fields.text("value")?);
                fields.no_others()?;
                Some(entry)
            }
        };
        Ok(Baggage { key, session, entry, verdict })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        if baggage::get(request, &self.key).is_some_and(|session| session == self.session) {
            request.reason("its baggage names the session");
            return self.verdict.clone();
        }
        let enters = self.entry.as_ref().is_some_and(|(name, value)| request.header_values(name).any(|own| own == value.as_bytes()));
        if !enters {
            return Verdict::Pass;
        }
        // Whoever gets it, program or pod, carries baggage on to the services that it calls, as OpenTelemetry's libraries do.
        // The config was tried at the start, and what does not fit is cut: this does not fail.
        let Ok(marked) = baggage::with(request.header_values("baggage"), &self.key, &self.session) else { return Verdict::Pass };
        request.set_header("baggage", marked);
        request.reason("it enters the session, and its baggage says so from here on");
        self.verdict.clone()
    }
}

filter!(Baggage);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing::{self, Edit};

    fn run(config: &str, request: testing::Request) -> testing::Outcome {
        request.run(&mut testing::configure::<Baggage>(config).unwrap())
    }

    #[test]
    fn what_enters_is_marked_and_stolen() {
        let request = testing::Request::get("/").header("baggage", "region=eu;p").header("X-User", "me").header("Baggage", "a=1");
        let outcome = run(EXAMPLE, request);
        assert_eq!(outcome.verdict, Verdict::Steal);
        assert_eq!(outcome.request_edits, [Edit::set("baggage", "mirrord-session=me,region=eu;p,a=1")]);
    }

    #[test]
    fn what_is_marked_is_stolen_unchanged() {
        for baggage in ["mirrord-session=me", "a=1, mirrord-session = me ;ttl=1", "mirrord-session=%6de"] {
            let outcome = run(r#"{"session": "me"}"#, testing::Request::get("/").header("baggage", baggage));
            assert_eq!((outcome.verdict, outcome.request_edits), (Verdict::Steal, vec![]), "{baggage}");
        }
    }

    #[test]
    fn everything_else_passes_untouched() {
        for request in [
            testing::Request::get("/"),
            testing::Request::get("/").header("baggage", "mirrord-session=you"),
            testing::Request::get("/").header("baggage", "x-mirrord-session=me"),
            testing::Request::get("/").header("x-user", "you"),
        ] {
            let outcome = run(EXAMPLE, request);
            assert_eq!((outcome.verdict, outcome.request_edits), (Verdict::Pass, vec![]));
        }
    }

    #[test]
    fn at_the_edge_a_request_may_be_marked_and_go_to_the_pod() {
        let config = r#"{"session": "a b", "key": "dev", "entry": {"header": "x-user", "value": "me"}, "then": "pass"}"#;
        let outcome = run(config, testing::Request::get("/").header("x-user", "me"));
        assert_eq!((outcome.verdict, outcome.request_edits), (Verdict::Pass, vec![Edit::set("baggage", "dev=a%20b")]));
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            ("{}", "lacks \"session\""),
            (r#"{"session": "a", "key": "b c"}"#, "HTTP token"),
            (r#"{"session": "a", "then": "stop"}"#, "none of"),
            (r#"{"session": "a", "entry": {"header": "x"}}"#, "lacks \"value\""),
            (r#"{"session": "a", "entry": "x"}"#, "not a JSON object"),
        ] {
            let why = testing::configure::<Baggage>(config).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
        }
    }
}
