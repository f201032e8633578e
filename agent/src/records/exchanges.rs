//! Exchanges as they pass, for sessions that only look. A request on a port that is inspected gets an [`Observer`], which the
//! gateway tells what it moves; when the last of its holders lets go, each [`Inspector`] writes a line into its batch.
//!
//! ```text
//! Observer ─ over → Inspector: batch ── full, or every 100 ms ──► Lines (bounded in bytes) ─► control thread ─► the user
//! ```
//!
//! A batch that does not fit is dropped and counted; the counts themselves always get there with a later one.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mirrord_filters::{Field, LocalResponse, RequestParts, ResponseParts, Version};
use mirrord_protocol::{
    limits::WORKER_BITS,
    records::{End, InspectLine, MASK, Tally, Verdict, Would},
};
use tokio::sync::mpsc;

use super::{
    body::{Body, Room},
    json::Object,
    mask,
};
use crate::gateway::steer::SessionId;

/// A batch of this size is sent at once.
const BATCH: usize = 64 << 10;
/// A smaller one waits so long.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Bytes of all workers' batches of one session that may wait for its user.
const MAX_WAITING: usize = 8 << 20;
/// Batches that may wait, however small.
const MAX_BATCHES: usize = 4096;

/// What an inspecting session wants to see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub headers: bool,
    /// Bytes of each body.
    pub body: usize,
    pub credentials: bool,
}

/// workers --batches of lines--> an inspecting session's user
#[derive(Clone, Debug)]
pub struct Lines {
    batches: mpsc::Sender<Batch>,
    waiting: Arc<AtomicUsize>,
}

/// Lines that one worker has written.
#[derive(Debug)]
pub struct Batch {
    pub lines: Bytes,
    waiting: Arc<AtomicUsize>,
}

/// One worker's side of an inspecting session.
pub struct Inspector {
    wanted: Wanted,
    batch: RefCell<Vec<u8>>,
    /// Lines in `batch`.
    lines: Cell<u64>,
    tally: Cell<Tally>,
    /// What the user was last told of it.
    told: Cell<Tally>,
    /// `None` once the session has ended.
    out: RefCell<Option<Lines>>,
}

/// What became of a request, and who said so.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    pub verdict: Verdict,
    pub session: Option<SessionId>,
    pub filter: Option<String>,
    pub reason: Option<String>,
    /// The chain's own verdict, where it is another.
    pub said: Option<Verdict>,
}

/// Is told what the gateway moves for one request; its clones are the same.
#[derive(Clone, Debug)]
pub struct Observer(Rc<RefCell<Watched>>);

struct Watched {
    inspectors: Vec<Look>,
    wants_headers: bool,
    began: Instant,
    answered: Option<Instant>,
    ended: Option<Instant>,
    client: SocketAddr,
    destination: SocketAddr,
    version: Version,
    /// Method and target, one behind the other.
    line: Vec<u8>,
    method: usize,
    decided: Decided,
    status: Option<u16>,
    grpc_status: Option<u32>,
    end: End,
    request_headers: Headers,
    response_headers: Headers,
    request: Body,
    response: Body,
}

/// Who looks, and what its own chain says about the request.
pub type Look = (Rc<Inspector>, Option<Would>);
type Headers = Vec<(String, String)>;

impl Lines {
    /// Both ends.
    pub fn new() -> (Self, mpsc::Receiver<Batch>) {
        let (batches, waiting_lines) = mpsc::channel(MAX_BATCHES);
        (Self { batches, waiting: Arc::default() }, waiting_lines)
    }

    /// `false`: it did not fit.
    fn send(&self, lines: Vec<u8>) -> bool {
        let size = lines.len();
        if self.waiting.load(Relaxed) + size > MAX_WAITING {
            return false;
        }
        self.batches.try_send(self.batch(lines)).is_ok()
    }

    /// However much waits.
    async fn send_last(self, lines: Vec<u8>) {
        // Nobody is there to be told if this fails.
        let _ = self.batches.send(self.batch(lines)).await;
    }

    fn batch(&self, lines: Vec<u8>) -> Batch {
        self.waiting.fetch_add(lines.len(), Relaxed);
        Batch { lines: lines.into(), waiting: self.waiting.clone() }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.lines.len(), Relaxed);
    }
}

impl Inspector {
    /// Within a `LocalSet`: a task of its own sends what waits.
    pub fn start(worker: u16, wanted: Wanted, out: Lines) -> Rc<Self> {
        let inspector = Rc::new(Self {
            wanted,
            batch: RefCell::default(),
            lines: Cell::new(0),
            tally: Cell::new(Tally { worker, ..Tally::default() }),
            told: Cell::new(Tally { worker, ..Tally::default() }),
            out: RefCell::new(Some(out)),
        });
        tokio::task::spawn_local(flush(Rc::downgrade(&inspector)));
        inspector
    }

    /// The session has ended: what was seen is sent, and nothing more comes. Within a `LocalSet`, as [`Inspector::start`].
    pub fn end(&self) {
        self.send();
        let Some(out) = self.out.borrow_mut().take() else { return };
        let tally = self.tally.get();
        if self.told.get() == tally {
            return;
        }
        // The lines did not fit. There is no later batch with the counts: these few bytes wait for room, or for the user's end.
        if let Ok(mut line) = serde_json::to_vec(&InspectLine::Tally(tally)) {
            line.push(b'\n');
            tokio::task::spawn_local(out.send_last(line));
        }
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }

    fn write(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut batch = self.batch.borrow_mut();
        if batch.capacity() == 0 {
            batch.reserve_exact(BATCH + BATCH / 8);
        }
        write(&mut batch);
        batch.push(b'\n');
        self.lines.set(self.lines.get() + 1);
    }

    /// Sends the batch, and the counts with it.
    fn send(&self) {
        let out = self.out.borrow();
        let Some(out) = &*out else { return };
        if self.lines.get() == 0 && self.told.get() == self.tally.get() {
            return;
        }
        let exchanges = self.lines.replace(0);
        let mut lines = self.batch.take();
        let tally = self.tally.get();
        let with_tally = serde_json::to_writer(&mut lines, &InspectLine::Tally(tally)).is_ok();
        lines.push(b'\n');
        if with_tally && out.send(lines) {
            self.told.set(tally);
        } else {
            self.count(|tally| tally.dropped += exchanges);
        }
    }
}

async fn flush(inspector: Weak<Inspector>) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        match inspector.upgrade() {
            Some(inspector) if inspector.out.borrow().is_some() => inspector.send(),
            _ => return,
        }
    }
}

impl Observer {
    /// At a request's head; `inspectors` is not empty.
    pub fn new(inspectors: Vec<Look>, request: &RequestParts<'_>, decided: Decided, room: &Room) -> Self {
        let began = Instant::now();
        let mut wanted = Wanted::default();
        for (inspector, _) in &inspectors {
            inspector.count(|tally| tally.begun += 1);
            wanted.headers |= inspector.wanted.headers;
            wanted.body = wanted.body.max(inspector.wanted.body);
        }
        let mut line = Vec::with_capacity(request.method.len() + request.path.len());
        line.extend_from_slice(request.method);
        line.extend_from_slice(request.path);
        let mut watched = Watched {
            inspectors,
            wants_headers: wanted.headers,
            began,
            answered: None,
            ended: None,
            client: request.client,
            destination: request.destination,
            version: request.version,
            line,
            method: request.method.len(),
            decided,
            status: None,
            grpc_status: None,
            end: End::Cut,
            request_headers: if wanted.headers { headers(request.headers) } else { Vec::new() },
            response_headers: Vec::new(),
            request: Body::default(),
            response: Body::default(),
        };
        if wanted.body > 0 {
            watched.request.keep(wanted.body, room);
            watched.response.keep(wanted.body, room);
        }
        if is_chunked(request.headers) {
            watched.request.set_chunked();
        }
        Self(Rc::new(RefCell::new(watched)))
    }

    /// A piece of the request's body, as it is on the wire.
    pub fn request_body(&self, piece: &[u8]) {
        self.0.borrow_mut().request.push(piece);
    }

    /// The final response's head, as it goes to the client.
    pub fn response_head(&self, response: &ResponseParts<'_>) {
        let mut watched = self.0.borrow_mut();
        watched.answered = Some(Instant::now());
        watched.status = Some(response.status);
        if is_chunked(response.headers) {
            watched.response.set_chunked();
        }
        if watched.wants_headers {
            watched.response_headers = headers(response.headers);
        }
        watched.look_for_grpc(response.headers);
    }

    /// The response's trailers.
    pub fn trailers(&self, fields: &[Field<'_>]) {
        self.0.borrow_mut().look_for_grpc(fields);
    }

    /// A piece of the response's body, as it is on the wire.
    pub fn response_body(&self, piece: &[u8]) {
        self.0.borrow_mut().response.push(piece);
    }

    /// A filter answers.
    pub fn local(&self, response: &LocalResponse) {
        let fields: Vec<_> = response.headers.iter().map(|(name, value)| Field { name, value }).collect();
        self.response_head(&ResponseParts { status: response.status, headers: &fields });
        let mut watched = self.0.borrow_mut();
        if &watched.line[..watched.method] != b"HEAD" {
            watched.response.push(&response.body);
        }
    }

    /// The gateway itself answers with this status.
    pub fn own(&self, status: u16) {
        self.response_head(&ResponseParts { status, headers: &[] });
    }

    /// The session could not take it: the pod gets it.
    pub fn fell_back(&self) {
        let mut watched = self.0.borrow_mut();
        let said = watched.decided.said.or(Some(watched.decided.verdict)).filter(|said| *said != Verdict::Pass);
        watched.decided = Decided { reason: Some("the session could not take it".to_owned()), said, ..Decided::default() };
    }

    /// It is over. Without this word it was cut off.
    pub fn end(&self, end: End) {
        let mut watched = self.0.borrow_mut();
        watched.end = end;
        watched.ended = Some(Instant::now());
    }
}

impl Watched {
    fn look_for_grpc(&mut self, fields: &[Field<'_>]) {
        let status = fields.iter().find(|field| field.name.eq_ignore_ascii_case(b"grpc-status"));
        if let Some(status) = status {
            self.grpc_status = std::str::from_utf8(status.value).ok().and_then(|status| status.parse().ok());
        }
    }

    /// Writes what `protocol::records::Exchange` reads.
    fn write(&self, out: &mut Vec<u8>, inspector: &Inspector, would: Option<&Would>) {
        let (Wanted { headers, body, credentials }, Tally { worker, ended, .. }) = (inspector.wanted, inspector.tally.get());
        let micros = |time: Duration| time.as_micros() as u64;
        let (method, path) = self.line.split_at(self.method);
        out.extend_from_slice(b"{\"exchange\":");
        let mut line = Object::begin(out);
        line.number("id", ended << WORKER_BITS | u64::from(worker));
        line.number("at", micros(since_1970(self.began)));
        line.address("client", self.client);
        line.address("destination", self.destination);
        line.word("protocol", self.version.as_str());
        line.text("method", method);
        line.text("path", &if credentials { Cow::Borrowed(path) } else { mask::target(path) });
        self.status.inspect(|status| line.number("status", (*status).into()));
        self.grpc_status.inspect(|status| line.number("grpc_status", (*status).into()));
        line.number("request_bytes", self.request.bytes());
        line.number("response_bytes", self.response.bytes());
        self.answered.inspect(|at| line.number("wait", micros(*at - self.began)));
        line.number("took", micros(self.ended.unwrap_or(self.began) - self.began));
        line.word("verdict", self.decided.verdict.as_str());
        self.decided.session.inspect(|session| line.number("session", *session));
        for (name, words) in [("filter", &self.decided.filter), ("reason", &self.decided.reason)] {
            words.as_ref().inspect(|words| line.text(name, words.as_bytes()));
        }
        self.decided.said.inspect(|said| line.word("said", said.as_str()));
        would.inspect(|would| line.value("would", would));
        line.word(
            "end",
            match self.end {
                End::Complete => "complete",
                End::Cut => "cut",
                End::Upgraded => "upgraded",
            },
        );
        if headers {
            line.value("request_headers", &told(&self.request_headers, credentials));
            line.value("response_headers", &told(&self.response_headers, credentials));
        }
        if body > 0 {
            self.request.captured(body).inspect(|body| line.value("request_body", body));
            self.response.captured(body).inspect(|body| line.value("response_body", body));
        }
        line.end();
        out.push(b'}');
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.ended.get_or_insert_with(Instant::now);
        for (inspector, would) in &self.inspectors {
            inspector.count(|tally| tally.ended += 1);
            if inspector.out.borrow().is_some() {
                inspector.write(|batch| self.write(batch, inspector, would.as_ref()));
                if inspector.batch.borrow().len() >= BATCH {
                    inspector.send();
                }
            }
        }
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("client", &self.client).finish_non_exhaustive()
    }
}

/// The two clocks are compared once a thread: exchanges of one run keep their order.
fn since_1970(at: Instant) -> Duration {
    thread_local! {
        static CLOCKS: (Instant, Duration) =
            (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    }
    CLOCKS.with(|(instant, since_1970)| match at.checked_duration_since(*instant) {
        Some(after) => *since_1970 + after,
        None => since_1970.saturating_sub(*instant - at),
    })
}

fn is_chunked(fields: &[Field<'_>]) -> bool {
    fields.iter().any(|field| field.name.eq_ignore_ascii_case(b"transfer-encoding"))
}

fn headers(fields: &[Field<'_>]) -> Vec<(String, String)> {
    fields.iter().map(|field| (text(field.name), text(field.value))).collect()
}

/// As they may be told.
fn told(headers: &Headers, credentials: bool) -> Vec<(&str, &str)> {
    let is_told = |name: &str| credentials || !mask::is_credential(name.as_bytes());
    headers.iter().map(|(name, value)| (name.as_str(), if is_told(name) { value } else { MASK })).collect()
}

/// What is no UTF-8 is read as Latin-1, as browsers do: each byte can be told from the others.
pub fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| byte as char).collect(),
    }
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::records::Exchange;

    use super::*;

    /// What a session that wants this is told of one exchange.
    fn told(wanted: Wanted, look: impl FnOnce(&Observer)) -> (Exchange, Tally) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (lines, mut batches) = Lines::new();
            let inspector = Inspector::start(3, wanted, lines);
            let headers = [
                Field { name: b"Authorization", value: b"secret" },
                Field { name: b"Transfer-Encoding", value: b"chunked" },
                Field { name: b"x-odd", value: b"\xe9\"" },
            ];
            let request = RequestParts {
                method: b"POST",
                path: b"/a?token=1&b=2",
                headers: &headers,
                client: ([10, 0, 0, 1], 5).into(),
                destination: ([10, 0, 0, 2], 80).into(),
                version: Version::Http11,
                end: false,
            };
            let decided = Decided { verdict: Verdict::Steal, session: Some(2), filter: Some("f.wasm".into()), ..Decided::default() };
            let would = Would { verdict: Verdict::Steal, ..Would::default() };
            let observer = Observer::new(vec![(inspector.clone(), Some(would))], &request, decided, &Room::default());
            look(&observer);
            drop(observer);
            inspector.end();
            let batch = batches.recv().await.unwrap();
            let mut lines = batch.lines.split(|byte| *byte == b'\n').map(serde_json::from_slice);
            match (lines.next(), lines.next()) {
                (Some(Ok(InspectLine::Exchange(exchange))), Some(Ok(InspectLine::Tally(tally)))) => (*exchange, tally),
                other => panic!("{other:?}"),
            }
        })
    }

    #[test]
    fn what_did_not_fit_at_the_end_is_counted_all_the_same() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (lines, mut batches) = Lines::new();
            lines.waiting.store(MAX_WAITING, Relaxed);
            let inspector = Inspector::start(3, Wanted::default(), lines);
            inspector.count(|tally| tally.begun += 1);
            inspector.write(|batch| batch.extend(b"a line"));
            inspector.end();
            let last = batches.recv().await.unwrap();
            let tally = match serde_json::from_slice(&last.lines) {
                Ok(InspectLine::Tally(tally)) => tally,
                other => panic!("{other:?}"),
            };
            assert_eq!((tally.worker, tally.begun, tally.dropped), (3, 1, 1));
            assert!(batches.recv().await.is_none());
        });
    }

    #[test]
    fn what_is_told_is_what_was_wanted() {
        let answer = |observer: &Observer| {
            observer.request_body(b"2\r\nhi\r\n0\r\n\r\n");
            let headers = [Field { name: b"Set-Cookie", value: b"secret" }, Field { name: b"grpc-status", value: b"5" }];
            observer.response_head(&ResponseParts { status: 201, headers: &headers });
            observer.response_body(b"hello");
            observer.end(End::Complete);
        };
        let (little, tally) = told(Wanted::default(), answer);
        assert_eq!((tally.worker, tally.begun, tally.ended, tally.dropped), (3, 1, 1, 0));
        assert_eq!((little.method.as_str(), little.path.as_str(), little.client.as_str()), ("POST", "/a?token=…&b=2", "10.0.0.1:5"));
        assert_eq!((little.status, little.grpc_status, little.end), (Some(201), Some(5), End::Complete));
        assert_eq!((little.request_bytes, little.response_bytes), (2, 5));
        assert_eq!(
            (little.session, little.filter.as_deref(), little.would.map(|would| would.verdict)),
            (Some(2), Some("f.wasm"), Some(Verdict::Steal))
        );
        assert_eq!((little.request_headers.len(), little.request_body), (0, None));

        let (masked, _) = told(Wanted { headers: true, body: 3, credentials: false }, answer);
        assert_eq!(masked.request_headers[0].1, MASK);
        assert_eq!((masked.request_headers[2].1.as_str(), masked.response_headers[0].1.as_str()), ("é\"", MASK));
        assert_eq!(masked.response_body.map(|body| (body.text, body.cut)), Some(("hel".into(), true)));

        let (all, _) = told(Wanted { headers: true, body: 9, credentials: true }, answer);
        assert_eq!(
            (all.path.as_str(), all.request_headers[0].1.as_str(), all.response_headers[0].1.as_str()),
            ("/a?token=1&b=2", "secret", "secret")
        );
    }

    #[test]
    fn what_nobody_ended_was_cut() {
        let (exchange, _) = told(Wanted::default(), |_| {});
        assert_eq!((exchange.status, exchange.wait, exchange.end), (None, None, End::Cut));
    }
}
