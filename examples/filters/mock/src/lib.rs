//! Answers some requests itself: neither the pod nor your program sees them.
//!
//! Config: `{"mocks": [{"method": "GET", "path": "/stock/*", "status": 200, "body": {"left": 3}}]}`; see README.md.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::json::{Kind, Value};
use mirrord_filter_sdk::{abi, filter, query, Filter, Reply, Request, Verdict};

const EXAMPLE: &str =
    r#"{"mocks": [{"method": "GET", "path": "/stock/*", "status": 200, "headers": {"cache-control": "no-store"}, "body": {"left": 3}}]}"#;

/// What is answered, the first that fits.
pub struct Mocks(Vec<Mock>);

struct Mock {
    /// Nothing for any.
    method: Option<String>,
    /// With a `*` at its end, all that begin so.
    path: String,
    reply: Reply,
}

impl Filter for Mocks {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let mocks = fields.value("mocks").filter(|mocks| mocks.kind() == Kind::Array).ok_or_else(|| fields.lacks("mocks"))?;
        fields.no_others()?;
        mocks.items().map(Mock::read).collect::<Result<_, _>>().map(Mocks)
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        let (method, path) = (request.method(), query::path(request.path()));
        let Some(mock) = self.0.iter().find(|mock| mock.fits(method, path)) else { return Verdict::Pass };
        request.reason("answered by a mock");
        Verdict::Respond(mock.reply.clone())
    }
}

impl Mock {
    fn read(mock: Value<'_>) -> Result<Self, String> {
        let mut fields = Fields::read(mock.raw().as_bytes(), EXAMPLE)?;
        let (method, path) = (fields.optional_text("method")?, fields.text("path")?);
        let status = fields.optional_u64("status")?.unwrap_or(200);
        let (headers, body) = (fields.value("headers"), fields.value("body"));
        fields.no_others()?;
        // A JSON value is sent as JSON, a string as it is.
        let (body, is_json) = match body.map(|body| (body, body.as_str())) {
            None => (Vec::new(), false),
            Some((_, Some(text))) => (text.into_owned().into_bytes(), false),
            Some((value, None)) => (value.raw().as_bytes().to_vec(), true),
        };
        let status = u16::try_from(status).unwrap_or_default();
        if let Some(problem) = abi::answer_problem(status.into(), body.len()) {
            return Err(fields.wrong(format_args!("a mock for \"{path}\" cannot be sent: {problem}")));
        }
        let mut reply = Reply::new(status).body(body);
        for (name, value) in headers.into_iter().flat_map(Value::members) {
            let value = value.as_str().ok_or_else(|| fields.wrong(format_args!("the header \"{name}\" of a mock is not a string")))?;
            if let Some(problem) = abi::edit_problem(name.as_bytes(), value.as_bytes()) {
                return Err(fields.wrong(format_args!("the header \"{name}\" of a mock: {problem}")));
            }
            reply = reply.header(name, value.as_bytes());
        }
        if is_json && !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            reply = reply.header("content-type", "application/json");
        }
        Ok(Mock { method, path, reply })
    }

    fn fits(&self, method: &str, path: &[u8]) -> bool {
        self.method.as_ref().is_none_or(|own| own == method)
            && match self.path.strip_suffix('*') {
                Some(start) => path.starts_with(start.as_bytes()),
                None => path == self.path.as_bytes(),
            }
    }
}

filter!(Mocks);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    fn run(config: &str, method: &str, path: &str) -> Verdict {
        testing::Request::new(method, path).run(&mut testing::configure::<Mocks>(config).unwrap()).verdict
    }

    #[test]
    fn what_fits_is_answered_and_the_rest_passes() {
        let answer = Reply::new(200).body(r#"{"left": 3}"#).header("cache-control", "no-store").header("content-type", "application/json");
        assert_eq!(run(EXAMPLE, "GET", "/stock/7?full"), Verdict::Respond(answer));
        for (method, path) in [("POST", "/stock/7"), ("GET", "/stock"), ("GET", "/a/stock/7"), ("GET", "/?/stock/7")] {
            assert_eq!(run(EXAMPLE, method, path), Verdict::Pass, "{method} {path}");
        }
    }

    #[test]
    fn the_first_that_fits_counts() {
        let config = r#"{"mocks": [{"path": "/a", "status": 204}, {"path": "*", "status": 503, "body": "down"}]}"#;
        assert_eq!(run(config, "DELETE", "/a"), Verdict::Respond(Reply::new(204)));
        assert_eq!(run(config, "GET", "/b"), Verdict::respond(503, "down"));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_at_the_start() {
        for (mock, says) in [
            (r#"{"path": "/", "status": 100}"#, "200..=599"),
            (r#"{"path": "/", "status": 70000}"#, "200..=599"),
            (r#"{"path": "/", "status": 204, "body": "x"}"#, "has no body"),
            (r#"{"path": "/", "headers": {"content-length": "3"}}"#, "frames the message"),
            (r#"{"path": "/", "headers": {"a": "b\r\nc: d"}}"#, "control character"),
            (r#"{"path": "/", "headers": {"a": 1}}"#, "not a string"),
            (r#"{"status": 200}"#, "lacks \"path\""),
            (r#"{"path": "/", "code": 200}"#, "unknown field \"code\""),
            ("7", "not a JSON object"),
        ] {
            let why = testing::configure::<Mocks>(format!("{{\"mocks\": [{mock}]}}")).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{mock}: {why}");
        }
        assert!(testing::configure::<Mocks>(r#"{"mocks": {}}"#).is_err());
    }
}
