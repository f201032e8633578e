//! Unit tests for filters, without WebAssembly: build a request, run the filter on it, look at the outcome.
//!
//! What the agent refuses (a header edit with a line break, an answer with status 100) panics here.

use std::time::Duration;

use crate::abi::{answer_problem, edit_problem, limit, op};
use crate::source::{Said, Source, WORLD};
use crate::{Filter, Reply, Verdict};

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
    /// The token, if the filter set one or asked to see the response.
    pub token: Option<u64>,
    /// What the request target becomes.
    pub path: Option<Vec<u8>>,
    /// How long it is held.
    pub delay: Option<Duration>,
    /// What the filter asked to see after the verdict.
    pub watches: Watches,
    /// Why.
    pub reason: Option<String>,
}

/// What a filter asked to see after the verdict, with the windows of the bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watches {
    /// [`Filter::on_request_body`].
    pub request_body: Option<usize>,
    /// [`Filter::on_response`].
    pub response: bool,
    /// [`Filter::on_response_body`].
    pub response_body: Option<usize>,
    /// [`Filter::on_end`].
    pub end: bool,
}

/// What a filter made of a whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// What came out.
    pub bytes: Vec<u8>,
    /// It reset the exchange; what came after is not in `bytes`.
    pub aborted: bool,
}

/// Gives the session a property, for the rest of the test (of its thread).
pub fn set_property(name: &str, value: impl AsRef<[u8]>) {
    WORLD.with_borrow_mut(|world| world.properties.insert(name.into(), value.as_ref().into()));
}

/// Begins the random numbers anew. They begin with the seed 0.
pub fn set_seed(seed: u64) {
    WORLD.with_borrow_mut(|world| world.seed = seed);
}

/// Lets time pass, of which there is none else: entries of the state end.
pub fn advance(time: Duration) {
    WORLD.with_borrow_mut(|world| world.now += u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2));
}

/// What a counter was given, or a histogram observed, in order.
pub fn metric(name: &str) -> Vec<u64> {
    WORLD.with_borrow(|world| world.metrics.get(name).cloned().unwrap_or_default())
}

/// Passes a request's body through [`Filter::on_request_body`], in pieces of `window` bytes.
pub fn request_body<F: Filter>(filter: &mut F, token: u64, window: usize, body: impl AsRef<[u8]>) -> Passed {
    pass(body.as_ref(), window, token, |body| filter.on_request_body(body))
}

/// The same with a response's body.
pub fn response_body<F: Filter>(filter: &mut F, token: u64, window: usize, body: impl AsRef<[u8]>) -> Passed {
    pass(body.as_ref(), window, token, |body| filter.on_response_body(body))
}

fn pass(body: &[u8], window: usize, token: u64, mut hook: impl FnMut(&mut crate::Body)) -> Passed {
    let mut passed = Passed { bytes: Vec::new(), aborted: false };
    let mut left = body;
    loop {
        let (piece, rest) = left.split_at(left.len().min(window.clamp(1, limit::BODY_WINDOW)));
        let mut body = crate::Body::new(Source { body: piece.into(), ..Source::default() }, token, rest.is_empty());
        hook(&mut body);
        let said = body.into_source().said;
        if said.aborts {
            return Passed { aborted: true, ..passed };
        }
        passed.bytes.extend_from_slice(said.replaced.as_deref().unwrap_or(piece));
        if rest.is_empty() {
            return passed;
        }
        left = rest;
    }
}

#[track_caller]
pub(crate) fn check_reply(reply: &Reply) {
    let bad = reply.headers.iter().find_map(|(name, value)| edit_problem(name.as_bytes(), value));
    if let Some(problem) = bad.or(answer_problem(reply.status.into(), reply.body.len())) {
        panic!("the filter's answer: {problem}");
    }
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

    /// Gives it a body, for filters that decide by it.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.0.body = body.as_ref().into();
        self
    }

    /// Runs the filter, also on the body if it asks for that.
    ///
    /// # Panics
    /// Where the agent would count a failure of the filter.
    #[track_caller]
    pub fn run<F: Filter>(self, filter: &mut F) -> Outcome {
        let mut request = crate::Request::new(self.0, 0);
        let mut verdict = filter.on_request(&mut request);
        if verdict == Verdict::NeedBody {
            let token = request.token();
            let mut source = request.into_source();
            let window = source.said.request_window.unwrap_or(limit::USUAL_WINDOW);
            source.said = Said { token: source.said.token, ..Said::default() };
            let body = source.body.get(..window).unwrap_or(&source.body).to_vec();
            let end = body.len() == source.body.len();
            request = crate::Request::new(source, token);
            verdict = filter.decide_by_body(&mut request, &body, end);
            assert_ne!(verdict, Verdict::NeedBody, "it has seen the body that it asked for, and does not decide");
        }
        if let Verdict::Respond(reply) = &verdict {
            check_reply(reply);
        }
        let said = request.into_source().said;
        let watches = Watches {
            request_body: said.request_window,
            response: said.watches_response,
            response_body: said.response_window,
            end: said.watches_end,
        };
        let delay = said.delay.map(|delay| Duration::from_millis(delay.into()).min(limit::DELAY));
        let Said { request_edits, response_edits, token, path, reason, .. } = said;
        Outcome { verdict, request_edits, response_edits, token, path, delay, watches, reason }
    }
}

/// A connection that is not HTTP, to run a filter on.
pub struct Connection(Source);

impl Connection {
    /// From 192.0.2.7 to 192.0.2.1:443, with these first bytes.
    pub fn new(first_bytes: impl AsRef<[u8]>) -> Self {
        Connection(Source {
            client: "192.0.2.7:50312".into(),
            destination: "192.0.2.1:443".into(),
            body: first_bytes.as_ref().into(),
            ..Source::default()
        })
    }

    /// Of TLS: the name that it asks for and the protocols that it offers, separated by commas.
    #[must_use]
    pub fn tls(mut self, sni: &str, alpn: &str) -> Self {
        (self.0.sni, self.0.alpn) = (Some(sni.into()), alpn.into());
        self
    }

    /// Runs the filter: its verdict, and why.
    ///
    /// # Panics
    /// On a verdict that makes no sense for a connection.
    #[track_caller]
    pub fn run<F: Filter>(self, filter: &mut F) -> (Verdict, Option<String>) {
        let mut connection = crate::Connection::new(self.0);
        let verdict = filter.on_connection(&mut connection);
        assert!(!matches!(verdict, Verdict::Respond(_) | Verdict::NeedBody), "{verdict:?} is no verdict on a connection");
        (verdict, connection.into_source().said.reason)
    }
}

/// What a filter made of a response's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseOutcome {
    /// Edits of its headers.
    pub edits: Vec<Edit>,
    /// What is sent in its place.
    pub replaced: Option<Reply>,
    /// It resets the exchange.
    pub aborted: bool,
    /// The window of the body, if it asked for that.
    pub body: Option<usize>,
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
        self.outcome(filter, token).edits
    }

    /// Runs the filter's response hook and gives back all that it said.
    pub fn outcome<F: Filter>(self, filter: &mut F, token: u64) -> ResponseOutcome {
        let mut response = crate::Response::new(self.0, token);
        filter.on_response(&mut response);
        let said = response.into_source().said;
        ResponseOutcome { edits: said.response_edits, replaced: said.reply, aborted: said.aborts, body: said.response_window }
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
                "body" => return request.need_body(4),
                "more" => {
                    request.set_path("/other");
                    request.delay(Duration::from_secs(60));
                    request.watch_request_body(3);
                    request.watch_response_body(2_000_000);
                    request.watch_end();
                    crate::metrics::count("seen", 2);
                    let seen = crate::state::add("seen", 1, Duration::from_secs(1));
                    let user = crate::host::property("user").unwrap_or_default();
                    request.reason(format!("{seen} {}", String::from_utf8_lossy(&user)));
                }
                "teapot" => return Verdict::respond(418, "short and stout"),
                "101" => return Verdict::respond(101, ""),
                _ => return Verdict::Mirror,
            }
            Verdict::Pass
        }

        fn decide_by_body(&mut self, request: &mut crate::Request, body: &[u8], end: bool) -> Verdict {
            request.reason(format!("{} {} {}", request.path().len(), body.len(), end));
            Verdict::StealAndMirror
        }

        fn on_request_body(&mut self, body: &mut crate::Body) {
            match body.bytes() {
                b"cut" => body.abort(),
                b"" => {}
                bytes => {
                    let mut bytes = bytes.to_ascii_uppercase();
                    bytes.push(if body.is_end() { b'.' } else { b'-' });
                    body.replace(bytes);
                }
            }
        }

        fn on_connection(&mut self, connection: &mut crate::Connection) -> Verdict {
            connection.reason(format!("{} {} {}", connection.client(), connection.alpn().count(), connection.first_bytes().len()));
            if connection.sni() == Some("mine.example") {
                Verdict::Steal
            } else {
                Verdict::Pass
            }
        }

        fn on_response(&mut self, response: &mut crate::Response) {
            if response.status() == 500 {
                response.respond(&crate::Reply::new(503));
                return;
            }
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
    fn bodies_connections_and_what_the_agent_keeps() {
        let mut filter = configure::<Script>("body").unwrap();
        let decide = |filter: &mut Script, body: &str| Request::get("/a").body(body).run(filter);
        assert_eq!(decide(&mut filter, "12345").reason.unwrap(), "2 4 false");
        let outcome = decide(&mut filter, "");
        assert_eq!(
            (outcome.reason.as_deref(), outcome.verdict, outcome.watches),
            (Some("2 0 true"), Verdict::StealAndMirror, Watches::default())
        );
        assert_eq!(request_body(&mut filter, 0, 2, "abcde"), Passed { bytes: b"AB-CD-E.".to_vec(), aborted: false });
        assert_eq!(request_body(&mut filter, 0, 3, "abccut"), Passed { bytes: b"ABC-".to_vec(), aborted: true });
        assert_eq!(response_body(&mut filter, 0, 3, "as it came").bytes, b"as it came");
        let tls = Connection::new("\x16\x03").tls("mine.example", "h2,http/1.1").run(&mut filter);
        assert_eq!(tls, (Verdict::Steal, Some("192.0.2.7:50312 2 2".into())));
        let replaced = Response::new(500).outcome(&mut filter, 0).replaced.map(|reply| reply.status);
        assert_eq!(replaced, Some(503));

        set_property("user", "jane");
        let more = run("more");
        assert_eq!((more.path.as_deref(), more.delay), (Some(&b"/other"[..]), Some(Duration::from_secs(30))));
        assert_eq!(more.watches, Watches { request_body: Some(3), response: false, response_body: Some(1 << 20), end: true });
        assert_eq!((more.reason.as_deref(), run("more").reason.as_deref()), (Some("1 jane"), Some("2 jane")));
        advance(Duration::from_secs(1));
        assert_eq!((run("more").reason.as_deref(), metric("seen")), (Some("1 jane"), vec![2, 2, 2]));
        set_seed(7);
        let first = crate::host::random();
        set_seed(7);
        assert_eq!((crate::host::random(), crate::host::chance(0.0), crate::host::chance(100.0)), (first, false, true));
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
