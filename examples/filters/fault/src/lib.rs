//! Makes a share of one's own requests slow, refuses them or breaks them off, to see what clients make of that.
//!
//! Config: `{"header": "x-user", "value": "me", "percent": 20, "delay_ms": 500, "then": "abort"}`; see README.md.

use std::time::Duration;

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::{abi, filter, host, metrics, query, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"header": "x-user", "value": "me", "path": "/pay*", "percent": 20, "delay_ms": 500, "then": "abort"}"#;

/// What happens to whose requests, and how often.
pub struct Fault {
    header: String,
    value: String,
    /// With a `*` at its end, all that begin so; nothing for all.
    path: Option<String>,
    percent: f64,
    delay: Option<Duration>,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Pass,
    Steal,
    Abort,
    Status(u16),
}

impl Filter for Fault {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let (header, value, path) = (fields.text("header")?, fields.text("value")?, fields.optional_text("path")?);
        let percent = fields.number("percent")?;
        let delay = fields.optional_u64("delay_ms")?.map(Duration::from_millis);
        let then = fields.value("then");
        fields.no_others()?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(fields.wrong("\"percent\" is not between 0 and 100"));
        }
        if delay.is_some_and(|delay| delay > abi::limit::DELAY) {
            return Err(fields.wrong("\"delay_ms\" is over 30,000, which no request is held"));
        }
        let then = match then.map(|then| (then.as_str(), then.as_u64())) {
            None => Then::Pass,
            Some((Some(word), _)) if word == "pass" => Then::Pass,
            Some((Some(word), _)) if word == "steal" => Then::Steal,
            Some((Some(word), _)) if word == "abort" => Then::Abort,
            Some((_, Some(status @ 200..=599))) => Then::Status(status as u16),
            Some(_) => return Err(fields.wrong("\"then\" is none of \"pass\", \"steal\", \"abort\" and a status from 200 to 599")),
        };
        Ok(Fault { header, value, path, percent, delay, then })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        let mine = request.header_values(&self.header).any(|value| value == self.value.as_bytes());
        if !mine || !self.path_fits(query::path(request.path())) || !host::chance(self.percent) {
            return Verdict::Pass;
        }
        metrics::count("faults", 1);
        request.reason("it is among those that get a fault");
        if let Some(delay) = self.delay {
            request.delay(delay);
        }
        match self.then {
            Then::Pass => Verdict::Pass,
            Then::Steal => Verdict::Steal,
            Then::Abort => Verdict::Abort,
            // Some statuses have no body.
            Then::Status(status @ (204 | 205 | 304)) => Verdict::respond(status, ""),
            Then::Status(status) => Verdict::respond(status, "a fault, as configured\n"),
        }
    }
}

impl Fault {
    fn path_fits(&self, path: &[u8]) -> bool {
        self.path.as_ref().is_none_or(|own| match own.strip_suffix('*') {
            Some(start) => path.starts_with(start.as_bytes()),
            None => path == own.as_bytes(),
        })
    }
}

filter!(Fault);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    fn mine() -> testing::Request {
        testing::Request::get("/pay?x").header("X-User", "me")
    }

    fn fault(percent: &str, more: &str) -> Fault {
        testing::configure(format!(r#"{{"header": "x-user", "value": "me", "percent": {percent}{more}}}"#)).unwrap()
    }

    #[test]
    fn faults_are_what_the_config_says() {
        let slow = mine().run(&mut fault("100", r#", "delay_ms": 250"#));
        assert_eq!((slow.verdict, slow.delay), (Verdict::Pass, Some(Duration::from_millis(250))));
        assert_eq!(mine().run(&mut fault("100", r#", "then": "abort""#)).verdict, Verdict::Abort);
        assert_eq!(mine().run(&mut fault("100", r#", "then": "steal""#)).verdict, Verdict::Steal);
        assert_eq!(mine().run(&mut fault("100", r#", "then": 503"#)).verdict, Verdict::respond(503, "a fault, as configured\n"));
        assert_eq!(mine().run(&mut fault("100", r#", "then": 204"#)).verdict, Verdict::respond(204, ""));
    }

    #[test]
    fn about_so_many_of_a_hundred_get_one_and_they_are_counted() {
        let mut fifth = fault("20", r#", "then": "abort""#);
        let broken = (0..2_000).filter(|_| mine().run(&mut fifth).verdict == Verdict::Abort).count();
        assert!((320..480).contains(&broken), "{broken}");
        assert_eq!(testing::metric("faults").len(), broken);
        assert_eq!(mine().run(&mut fault("0", r#", "then": "abort""#)).verdict, Verdict::Pass);
    }

    #[test]
    fn nobody_elses_request_gets_one() {
        let mut all = fault("100", r#", "delay_ms": 250, "then": "abort", "path": "/pay*""#);
        for request in [
            testing::Request::get("/pay"),
            testing::Request::get("/pay").header("x-user", "you"),
            testing::Request::get("/").header("x-user", "me"),
            testing::Request::get("/?/pay").header("x-user", "me"),
        ] {
            let outcome = request.run(&mut all);
            assert_eq!((outcome.verdict, outcome.delay), (Verdict::Pass, None));
        }
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            (r#"{"percent": 5}"#, "lacks \"header\""),
            (r#"{"header": "a", "value": "b", "percent": 101}"#, "not between 0 and 100"),
            (r#"{"header": "a", "value": "b", "percent": 5, "delay_ms": 30001}"#, "over 30,000"),
            (r#"{"header": "a", "value": "b", "percent": 5, "then": "crash"}"#, "none of"),
            (r#"{"header": "a", "value": "b", "percent": 5, "then": 100}"#, "none of"),
            (r#"{"header": "a", "value": "b", "percent": 5, "delay": 1}"#, "unknown field \"delay\""),
        ] {
            let why = testing::configure::<Fault>(config).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
        }
    }
}
