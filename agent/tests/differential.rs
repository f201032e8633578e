//! The gateway's HTTP/1 framing against hyper's, over generated messages, valid and odd: where both read a message they must
//! agree on where it ends, what its body is, and whether the connection goes on after it. What hyper refuses must be
//! ambiguous to us, but for the reasons listed in [`hyper_is_stricter`].
//!
//! ```text
//! bytes of a connection ─┬─► head::request, Body       ─► requests, how it ended ─┐
//!                        └─► hyper's server on memory  ─► requests               ─┴─► compared one by one
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use mirrord_agent::gateway::http1::{
    framing::Body,
    head::{self, Asks, Read},
};
use mirrord_filters::Field;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const CONNECTIONS: u64 = 60_000;
const RESPONSES: u64 = 60_000;
/// Polls after which a machine that works in memory alone has done all that it can.
const POLLS: usize = 50;

#[test]
fn requests_end_where_hyper_says() {
    let mut seen = Seen::default();
    for seed in 1..=CONNECTIONS {
        let bytes = Generator::new(seed).connection();
        let (ours, end) = read_requests(&bytes);
        let theirs = serve(&bytes);
        compare_requests(&bytes, &ours, end, &theirs, &mut seen).unwrap_or_else(|why| {
            panic!("seed {seed}: {why}\n{}\nours: {ours:#?} {end:?}\nhyper: {theirs:#?}", bytes.escape_ascii());
        });
    }
    eprintln!("{seen:?}");
    // A generator that makes nothing but nonsense, or nothing odd, shows nothing.
    assert!(seen.agreed > CONNECTIONS && seen.ambiguous > CONNECTIONS / 10 && seen.closed > CONNECTIONS / 20, "{seen:?}");
}

#[test]
fn responses_end_where_hyper_says() {
    let mut seen = Seen::default();
    for seed in 1..=RESPONSES {
        let mut generator = Generator::new(seed);
        let (method, bytes) = (generator.pick(&["GET", "GET", "POST", "HEAD"]), generator.response());
        let ours = read_response(method, &bytes);
        let theirs = ask(method, &bytes);
        compare_responses(&ours, &theirs, &mut seen).unwrap_or_else(|why| {
            panic!("seed {seed}: {why}\n{method} {}\nours: {ours:#?}\nhyper: {theirs:#?}", bytes.escape_ascii());
        });
    }
    eprintln!("{seen:?}");
    assert!(seen.agreed > RESPONSES / 4 && seen.ambiguous > RESPONSES / 10 && seen.closed > RESPONSES / 20, "{seen:?}");
}

/// What was compared, so that a test that compares nothing fails.
#[derive(Debug, Default)]
struct Seen {
    agreed: u64,
    ambiguous: u64,
    /// Hyper refused as well.
    refused: u64,
    closed: u64,
    stricter: BTreeMap<&'static str, u64>,
}

/// A request as either side read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    method: String,
    target: String,
    /// `None`: it broke, or its end never came.
    body: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All bytes are read, the last message is complete.
    Done,
    /// The last message has no end.
    Cut,
    /// The connection is not kept.
    Closed,
    /// What follows is opaque.
    Ambiguous,
    /// Hyper has its own reasons to stop here.
    HyperIsStricter(&'static str),
}

fn read_requests(bytes: &[u8]) -> (Vec<Message>, End) {
    let (mut at, mut messages) = (0, Vec::new());
    while at < bytes.len() {
        let seen = head::request(&bytes[at..], |view| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            // Hyper keeps the parts of a target, not its text.
            let target = text(view.target).parse::<http::Uri>().map_or_else(|_| text(view.target), |uri| uri.to_string());
            (text(view.method), target, hyper_is_stricter(view))
        });
        let (request, (method, target, stricter)) = match seen {
            Read::Partial => return (messages, End::Cut),
            Read::Ambiguous(_) => return (messages, End::Ambiguous),
            Read::Head(read) => read,
        };
        if let Some(why) = stricter {
            return (messages, End::HyperIsStricter(why));
        }
        at += request.len;
        let followed = follow(request.body, &bytes[at..]);
        at += followed.taken;
        messages.push(Message { method, target, body: followed.content });
        match followed.state {
            State::Bad => return (messages, End::Ambiguous),
            State::More => return (messages, End::Cut),
            State::Done if followed.odd_trailer => return (messages, End::HyperIsStricter("a trailer that is no header field")),
            State::Done if request.asks.close => return (messages, End::Closed),
            State::Done => {}
        }
    }
    (messages, End::Done)
}

/// What hyper (the `http` crate, rather) refuses in a head that is framed beyond doubt.
fn hyper_is_stricter(view: &head::RequestView<'_>) -> Option<&'static str> {
    let target = std::str::from_utf8(view.target).ok();
    // Browsers and curl send some of these bytes; servers take them. Where the head ends is not in question.
    if target.is_none_or(|target| target.parse::<http::Uri>().is_err()) {
        return Some("a target that is no URI");
    }
    // Hyper does not look for tokens in what is no ASCII, and so misses the `keep-alive` beside it.
    if has_odd_connection(view.fields) {
        return Some("a Connection that is no text");
    }
    // Switches hyper into a tunnel, whatever we answer.
    (view.method == b"CONNECT").then_some("CONNECT")
}

fn has_odd_connection(fields: &[Field<'_>]) -> bool {
    fields.iter().any(|field| field.name.eq_ignore_ascii_case(b"connection") && !field.value.is_ascii())
}

enum State {
    Done,
    More,
    Bad,
}

struct Followed {
    taken: usize,
    content: Option<Vec<u8>>,
    state: State,
    odd_trailer: bool,
}

fn follow(mut body: Body, bytes: &[u8]) -> Followed {
    let chunked = matches!(body, Body::Chunked(_));
    let Ok(taken) = body.take(bytes) else { return Followed { taken: 0, content: None, state: State::Bad, odd_trailer: false } };
    if !body.is_done() && body != Body::UntilClose {
        return Followed { taken, content: None, state: State::More, odd_trailer: false };
    }
    let (content, odd_trailer) = if chunked { decode(&bytes[..taken]) } else { (bytes[..taken].to_vec(), false) };
    Followed { taken, content: Some(content), state: State::Done, odd_trailer }
}

/// The content of a chunked body that is complete and well-formed, and whether a trailer is no field.
fn decode(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    loop {
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..digits]).unwrap(), 16).unwrap();
        let line = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        bytes = &bytes[line..];
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            return (content, !matches!(httparse::parse_headers(bytes, &mut fields), Ok(httparse::Status::Complete(_))));
        }
        content.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

fn compare_requests(bytes: &[u8], ours: &[Message], end: End, theirs: &[Message], seen: &mut Seen) -> Result<(), String> {
    for (index, message) in ours.iter().enumerate() {
        let last = index + 1 == ours.len();
        match (theirs.get(index), &message.body) {
            (Some(theirs), Some(_)) if theirs == message => seen.agreed += 1,
            (Some(theirs), _) if last && matches!(end, End::HyperIsStricter(_)) && theirs.body.is_none() => {}
            // A body without end, or one that breaks: nobody has read it to its end.
            (Some(theirs), None) if theirs.body.is_none() && theirs.target == message.target => seen.agreed += 1,
            // Broken to us, and not to hyper: it was not stolen, which is all that matters.
            (Some(_), None) if end == End::Ambiguous && last => {}
            _ => return Err(format!("request {index} differs")),
        }
    }
    match end {
        End::Done | End::Cut if theirs.len() > ours.len() => return Err("hyper reads more requests".into()),
        End::Closed if theirs.len() > ours.len() => return Err("hyper goes on where the connection ends".into()),
        End::Closed => seen.closed += 1,
        End::Ambiguous if theirs.len() > ours.len() => seen.ambiguous += 1,
        End::Ambiguous => (seen.ambiguous, seen.refused) = (seen.ambiguous + 1, seen.refused + 1),
        End::HyperIsStricter(why) => *seen.stricter.entry(why).or_default() += 1,
        End::Done | End::Cut => {}
    }
    debug_assert!(!bytes.is_empty());
    Ok(())
}

/// Serves a connection that says these bytes and ends, to its end.
fn serve(bytes: &[u8]) -> Vec<Message> {
    let messages = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let messages = messages.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            messages.borrow_mut().push(Message { method: head.method.to_string(), target: head.uri.to_string(), body });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let peer = Peer::default();
    peer.say(bytes);
    peer.end();
    let connection = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(peer), service);
    let mut connection = pin!(connection);
    poll_out(|cx| connection.as_mut().poll(cx).is_ready());
    messages.take()
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// No response that both would read.
    Unreadable,
    /// The head or the body has no end yet.
    Cut,
    Whole {
        status: u16,
        body: Vec<u8>,
        ends: Ends,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Ends {
    Kept,
    /// Complete, and the connection is not used again.
    Closes,
    /// With the connection's end.
    WithTheConnection,
}

fn read_response(method: &str, bytes: &[u8]) -> Answer {
    let asks = Asks { head: method == "HEAD", ..Asks::default() };
    let mut at = 0;
    loop {
        let response = match head::response(&bytes[at..], asks, Some(|_, fields: &[Field<'_>]| has_odd_connection(fields))) {
            Read::Partial => return Answer::Cut,
            Read::Ambiguous(_) => return Answer::Unreadable,
            // As with requests: hyper misses the tokens in it.
            Read::Head((_, Some(true))) => return Answer::Unreadable,
            Read::Head((response, _)) => response,
        };
        at += response.len;
        if response.is_interim() {
            continue;
        }
        // An upgrade that nobody asked for.
        if response.status == 101 {
            return Answer::Unreadable;
        }
        let followed = follow(response.body, &bytes[at..]);
        return match (followed.state, followed.content) {
            (State::Bad, _) => Answer::Unreadable,
            // hyper refuses the trailers after it has given the content; none of the clients that we know looks at them.
            (State::Done, _) if followed.odd_trailer => Answer::Unreadable,
            (State::Done, Some(body)) => {
                let surplus = at + followed.taken < bytes.len();
                let ends = match response.body {
                    Body::UntilClose => Ends::WithTheConnection,
                    // What comes after the end is no answer to anything: neither side goes on.
                    _ if response.close || surplus => Ends::Closes,
                    _ => Ends::Kept,
                };
                Answer::Whole { status: response.status, body, ends }
            }
            _ => Answer::Cut,
        };
    }
}

/// What hyper's client makes of the answer to a request.
fn ask(method: &str, bytes: &[u8]) -> Answer {
    let peer = Peer::default();
    let (mut sender, connection) = {
        let mut handshake = pin!(hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(peer.clone())));
        ready(poll_value(|cx| handshake.as_mut().poll(cx))).expect("no I/O is done yet")
    };
    let mut connection = Box::pin(connection);
    let request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri("/").body(Empty::new()).unwrap();
    let mut answer = Box::pin(sender.send_request(request));
    let over = Cell::new(false);
    let mut turn = |cx: &mut Context<'_>| {
        if !over.get() && connection.as_mut().poll(cx).is_ready() {
            over.set(true);
        }
    };
    // The request goes out before its answer comes.
    poll_out(|cx| {
        let _ = answer.as_mut().poll(cx);
        turn(cx);
        false
    });
    peer.say(bytes);
    let mut response = None;
    poll_out(|cx| {
        turn(cx);
        if let Poll::Ready(result) = answer.as_mut().poll(cx) {
            response = Some(result);
        }
        response.is_some()
    });
    let (head, body) = match response {
        None => return Answer::Cut,
        Some(Err(_)) => return Answer::Unreadable,
        Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => return Answer::Unreadable,
        Some(Ok(response)) => response.into_parts(),
    };
    let mut body = Box::pin(body.collect());
    let mut collected = None;
    let mut collect = |turn: &mut dyn FnMut(&mut Context<'_>)| {
        poll_out(|cx| {
            turn(cx);
            if let Poll::Ready(result) = body.as_mut().poll(cx) {
                collected = Some(result);
            }
            collected.is_some()
        });
        collected.take()
    };
    let mut ends = Ends::Kept;
    let mut result = collect(&mut turn);
    if result.is_none() {
        peer.end();
        ends = Ends::WithTheConnection;
        result = collect(&mut turn);
    }
    let body = match result {
        // It was read as far as it came: its end is what is missing.
        Some(Err(_)) if ends == Ends::WithTheConnection => return Answer::Cut,
        Some(Err(_)) | None => return Answer::Unreadable,
        Some(Ok(body)) => body.to_bytes().to_vec(),
    };
    // Kept is what takes another request.
    poll_out(|cx| {
        turn(cx);
        false
    });
    if ends == Ends::Kept && over.get() {
        ends = Ends::Closes;
    }
    Answer::Whole { status: head.status.as_u16(), body, ends }
}

fn compare_responses(ours: &Answer, theirs: &Answer, seen: &mut Seen) -> Result<(), String> {
    match (ours, theirs) {
        (Answer::Unreadable, _) => {
            seen.ambiguous += 1;
            seen.refused += u64::from(*theirs == Answer::Unreadable);
        }
        (Answer::Whole { ends, .. }, _) if ours == theirs => {
            seen.agreed += 1;
            seen.closed += u64::from(*ends != Ends::Kept);
        }
        (Answer::Cut, Answer::Cut) => seen.agreed += 1,
        _ => return Err("they differ".into()),
    }
    Ok(())
}

/// A connection in memory.
#[derive(Clone, Default)]
struct Peer(Rc<RefCell<Said>>);

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    ended: bool,
    waker: Option<Waker>,
}

impl Peer {
    fn say(&self, bytes: &[u8]) {
        self.0.borrow_mut().bytes.extend_from_slice(bytes);
        self.wake();
    }

    fn end(&self) {
        self.0.borrow_mut().ended = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.0.borrow_mut().waker.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut said = self.0.borrow_mut();
        if said.bytes.is_empty() && !said.ended {
            said.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = said.bytes.len().min(buf.remaining());
        buf.put_slice(&said.bytes[..taken]);
        said.bytes.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls until it says that it is done, or nothing can come any more: nobody else is at work.
fn poll_out(mut poll: impl FnMut(&mut Context<'_>) -> bool) {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..POLLS {
        if poll(&mut cx) {
            return;
        }
    }
}

fn poll_value<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let mut value = None;
    poll_out(|cx| {
        if let Poll::Ready(ready) = poll(cx) {
            value = Some(ready);
        }
        value.is_some()
    });
    value
}

fn ready<T>(value: Option<T>) -> T {
    value.expect("ready at once")
}

/// Makes messages from a seed: mostly plain ones, with something odd here and there.
struct Generator(u64);

impl Generator {
    fn new(seed: u64) -> Self {
        Generator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// One to three requests, and a last one by which all can see where they ended.
    fn connection(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..=self.below(3) {
            let request = self.request();
            bytes.extend(request);
        }
        if self.one_in(8) {
            bytes.truncate(1 + self.below(bytes.len()));
        } else {
            bytes.extend(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        if self.one_in(12) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn request(&mut self) -> Vec<u8> {
        let method = if self.one_in(30) {
            self.pick(&["CONNECT", "get", "G!T", "PRI"])
        } else {
            self.pick(&["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "BREW"])
        };
        let target = if self.one_in(25) {
            self.pick(&["*", "a", "http://a/x", "/a#b", "/\"x", "/{x}|^", "//a", "/%zz", "http://a", "/\u{e9}"])
        } else {
            self.pick(&["/", "/x?y=1&z", "/a/b.html"])
        };
        let version = if self.one_in(40) {
            self.pick(&["HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 "])
        } else {
            self.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"])
        };
        let mut head = format!("{method} {target} {version}");
        let end = self.line_end();
        head.push_str(end);
        let body = self.framed(&mut head, &["Host: a"]);
        [head.into_bytes(), body].concat()
    }

    fn response(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.one_in(12) {
            bytes.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let version = if self.one_in(40) {
            self.pick(&["HTTP/1.2", "http/1.1", "ICY"])
        } else {
            self.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"])
        };
        let status = if self.one_in(20) {
            self.pick(&["099", "20", "2000", "200x", "101"])
        } else {
            self.pick(&["200 OK", "200", "200 ", "204 No Content", "304 Not Modified", "404 Not Found", "500 \u{e9}", "999 odd"])
        };
        let mut head = format!("{version} {status}");
        let end = self.line_end();
        head.push_str(end);
        let body = self.framed(&mut head, &["Server: x"]);
        bytes.extend(head.into_bytes());
        bytes.extend(body);
        if self.one_in(10) {
            bytes.truncate(1 + self.below(bytes.len()));
        }
        if self.one_in(12) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn line_end(&mut self) -> &'static str {
        if self.one_in(60) { self.pick(&["\n", " \r\n", "\r\r\n"]) } else { "\r\n" }
    }

    /// Ends the head with fields that frame a body, and makes the body.
    fn framed(&mut self, head: &mut String, first: &[&str]) -> Vec<u8> {
        let mut fields: Vec<String> = first.iter().map(|field| field.to_string()).collect();
        let content: Vec<u8> = (0..self.below(30)).map(|_| self.below(256) as u8).collect();
        let mut body = Vec::new();
        match self.below(10) {
            0..=2 => {}
            3..=5 => {
                fields.push(format!("Content-Length: {}", content.len()));
                body = content;
            }
            6..=8 => {
                let coding = if self.one_in(8) {
                    self.pick(&["gzip, chunked", "identity", "chunked, gzip", "xchunked", "\"chunked\"", "chunked,"])
                } else {
                    self.pick(&["chunked", "Chunked", "chunked "])
                };
                fields.push(format!("Transfer-Encoding: {coding}"));
                body = self.chunks(&content);
            }
            _ => {
                // Both, twice, or no number.
                for _ in 0..=self.below(2) {
                    let odd = ["05", "+5", "5, 5", "5,6", "", "x", "5 5", "18446744073709551616", "0x5", "-0"];
                    let length = if self.one_in(2) { self.pick(&odd).to_owned() } else { content.len().to_string() };
                    let name = self.pick(&["Content-Length", "content-length", "Content_Length", "Content-Length "]);
                    fields.push(format!("{name}: {length}"));
                }
                if self.one_in(2) {
                    fields.push("Transfer-Encoding: chunked".into());
                    body = self.chunks(&content);
                } else {
                    body = content;
                }
            }
        }
        if self.one_in(5) {
            let value = self.pick(&["close", "Keep-Alive", "keep-alive, close", "x,Close", "closed", "\"close\"", "close;", ""]);
            fields.push(format!("Connection: {value}"));
        }
        if self.one_in(8) {
            let odd = [
                "X-A: b\r\n c",
                "X A: b",
                "X-A : b",
                ": b",
                "X-A",
                "X-A:\t b \t",
                "Host: b",
                "Expect: 100-continue",
                "X-\u{e9}: b",
                "X-A: \u{e9}",
                "X-A: \x01",
                "TE: trailers",
            ];
            fields.push(self.pick(&odd).into());
        }
        for index in (1..fields.len()).rev() {
            fields.swap(index, self.below(index + 1));
        }
        for field in fields {
            head.push_str(&field);
            let end = self.line_end();
            head.push_str(end);
        }
        let end = self.line_end();
        head.push_str(end);
        body
    }

    fn chunks(&mut self, mut content: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while !content.is_empty() {
            let (chunk, rest) = content.split_at(1 + self.below(content.len()));
            content = rest;
            let size = match self.below(12) {
                0 => format!("{:X}", chunk.len()),
                1 => format!("000{:x}", chunk.len()),
                2 => format!("{:x};a=\"b\"", chunk.len()),
                3 if self.one_in(4) => format!("{:x} ", chunk.len()),
                4 if self.one_in(4) => format!("0x{:x}", chunk.len()),
                5 if self.one_in(4) => format!("{:x};\u{e9}", chunk.len()),
                _ => format!("{:x}", chunk.len()),
            };
            let ends = [self.line_end(), self.line_end()];
            body.extend([size.as_bytes(), ends[0].as_bytes(), chunk, ends[1].as_bytes()].concat());
        }
        body.extend(
            self.pick(&["0\r\n\r\n", "0\r\n\r\n", "00;x\r\n\r\n", "0\r\nA: b\r\n\r\n", "0\r\nA: b\r\nC:\r\n\r\n", "0\r\nno colon\r\n\r\n"])
                .as_bytes(),
        );
        body
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(4) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, b" \t\r\n\0:;,x"[self.below(9)]),
            2 => bytes[at] ^= 1 << self.below(8),
            _ => bytes[at] = self.below(256) as u8,
        }
        if bytes.is_empty() {
            bytes.push(b'x');
        }
    }
}
