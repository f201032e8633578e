//! Unit tests for filters, without WebAssembly: build a request, run the filter on it, look at the outcome.
//!
//! What the agent refuses (a header edit with a line break, an answer with status 100) panics here.

use crate::abi::{answer_problem, edit_problem, limit, op};
use crate::source::Source;
use crate::{Filter, Verdict};

/// Makes the filter from a config, as the agent does.
///
/// # Errors
/// What the filter says about a config that it refuses.
pub fn configure<F: Filter>(config: impl AsRef<[u8]>) -> Result<F, String> {
    let config = config.as_ref();
    if config.len() > limit::CONFIG {
        return Err(format!("the config is longer than {} bytes", limit::CONFIG));
    }
    F::from_config(config)
}

/// One header edit that a filter made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Replace all headers of that name by one.
    Set(String, Vec<u8>),
    /// Add one more.
    Append(String, Vec<u8>),
    /// Remove all of that name.
    Remove(String),
}

impl Edit {
    pub(crate) fn new(op: i32, name: &str, value: &[u8]) -> Self {
        match op {
            op::SET => Edit::Set(name.into(), value.into()),
            op::APPEND => Edit::Append(name.into(), value.into()),
            _ => Edit::Remove(name.into()),
        }
    }

    /// For comparing: `Edit::set("x-a", "1")`.
    pub fn set(name: &str, value: impl AsRef<[u8]>) -> Self {
        Edit::Set(name.into(), value.as_ref().into())
    }

    /// For comparing: `Edit::append("x-a", "1")`.
    pub fn append(name: &str, value: impl AsRef<[u8]>) -> Self {
        Edit::Append(name.into(), value.as_ref().into())
    }

    /// For comparing: `Edit::remove("x-a")`.
    pub fn remove(name: &str) -> Self {
        Edit::Remove(name.into())
    }
}

/// What a filter made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Where the request goes.
    pub verdict: Verdict,
    /// Edits of the request's headers, in order.
    pub request_edits: Vec<Edit>,
    /// Edits of the response's headers, decided up front.
    pub response_edits: Vec<Edit>,
    /// The token, if the filter asked to see the response.
    pub token: Option<u64>,
    /// Why.
    pub reason: Option<String>,
}

/// A request to run a filter on.
pub struct Request(Source);

impl Request {
    /// A request from 192.0.2.7 to 192.0.2.1:80, over HTTP/1.1, without headers.
    pub fn new(method: &str, path: impl AsRef<[u8]>) -> Self {
        Request(Source {
            method: method.into(),
            path: path.as_ref().into(),
            client: "192.0.2.7:50312".into(),
            destination: "192.0.2.1:80".into(),
            protocol: "HTTP/1.1".into(),
            ..Source::default()
        })
    }

    /// `Request::new("GET", path)`.
    pub fn get(path: impl AsRef<[u8]>) -> Self {
        Self::new("GET", path)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.headers.push((name.into(), value.as_ref().into()));
        self
    }

    /// Replaces the client's address.
    #[must_use]
    pub fn client(mut self, address: &str) -> Self {
        self.0.client = address.into();
        self
    }

    /// Replaces the address that the client connected to.
    #[must_use]
    pub fn destination(mut self, address: &str) -> Self {
        self.0.destination = address.into();
        self
    }

    /// Replaces the protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.0.protocol = protocol.into();
        self
    }

    /// Runs the filter.
    ///
    /// # Panics
    /// Where the agent would count a failure of the filter.
    #[track_caller]
    pub fn run<F: Filter>(self, filter: &mut F) -> Outcome {
        let mut request = crate::Request::new(self.0);
        let verdict = filter.on_request(&mut request);
        if let Verdict::Respond(reply) = &verdict {
            let bad = reply.headers.iter().find_map(|(name, value)| edit_problem(name.as_bytes(), value));
            if let Some(problem) = bad.or(answer_problem(reply.status.into(), reply.body.len())) {
                panic!("the filter's answer: {problem}");
            }
        }
        let Source { request_edits, response_edits, token, reason, .. } = request.into_source();
        Outcome { verdict, request_edits, response_edits, token, reason }
    }
}

/// A response to run a filter's response hook on.
pub struct Response(Source);

impl Response {
    /// A response without headers.
    pub fn new(status: u16) -> Self {
        Response(Source { status, ..Source::default() })
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.headers.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs the filter's response hook and gives back its edits.
    pub fn run<F: Filter>(self, filter: &mut F, token: u64) -> Vec<Edit> {
        let mut response = crate::Response::new(self.0, token);
        filter.on_response(&mut response);
        response.into_source().response_edits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    /// Does what the config says.
    struct Script(String);

    impl Filter for Script {
        fn from_config(config: &[u8]) -> Result<Self, String> {
            String::from_utf8(config.into()).map(Script).map_err(|e| e.to_string())
        }

        fn on_request(&mut self, request: &mut crate::Request) -> Verdict {
            match self.0.as_str() {
                "values" => request.reason(format!("{:?}", request.header_values("A").collect::<Vec<_>>())),
                "all" => request.reason(request.headers().map(|(name, _)| String::from_utf8_lossy(name)).collect::<String>()),
                "who" => request.reason(format!("{} {} {}", request.client(), request.destination(), request.protocol())),
                "inject" => request.set_header("a", "b\r\nc: d"),
                "frame" => request.remove_response_header("Content-Length"),
                "edit" => {
                    request.set_header("a", "1");
                    request.append_header("a", b"2");
                    request.remove_response_header("b");
                    request.watch_response(7);
                }
                "teapot" => return Verdict::respond(418, "short and stout"),
                "101" => return Verdict::respond(101, ""),
                _ => return Verdict::Mirror,
            }
            Verdict::Pass
        }

        fn on_response(&mut self, response: &mut crate::Response) {
            let mark = format!("{} {}", response.token(), response.status());
            response.set_header("x-mark", mark);
        }
    }

    fn run(script: &str) -> Outcome {
        let mut filter = configure::<Script>(script).unwrap();
        Request::get("/").header("a", "1").header("b", "").header("A", "2").run(&mut filter)
    }

    #[test]
    fn a_filter_reads_what_was_sent() {
        assert_eq!(run("values").reason.unwrap(), "[[49], [50]]");
        assert_eq!(run("all").reason.unwrap(), "abA");
        assert_eq!(run("who").reason.unwrap(), "192.0.2.7:50312 192.0.2.1:80 HTTP/1.1");
    }

    #[test]
    fn its_edits_and_answers_come_out_in_order() {
        let outcome = run("edit");
        assert_eq!(outcome.request_edits, [Edit::set("a", "1"), Edit::append("a", "2")]);
        assert_eq!((outcome.response_edits, outcome.token), (vec![Edit::remove("b")], Some(7)));
        assert_eq!(run("teapot").verdict, Verdict::respond(418, "short and stout"));
        let marked = Response::new(404).header("a", "1").run(&mut configure::<Script>("").unwrap(), 9);
        assert_eq!(marked, [Edit::set("x-mark", "9 404")]);
    }

    #[test]
    #[should_panic(expected = "control character")]
    fn a_line_break_in_a_value_fails_the_test() {
        run("inject");
    }

    #[test]
    #[should_panic(expected = "frames the message")]
    fn an_edit_of_the_framing_fails_the_test() {
        run("frame");
    }

    #[test]
    #[should_panic(expected = "200..=599")]
    fn an_answer_that_is_not_final_fails_the_test() {
        run("101");
    }
}
