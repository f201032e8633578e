//! Exchanges as they pass, for sessions that only look. A request on a port that is inspected gets an [`Observer`], which the
//! gateway tells what it moves; when the last of its holders lets go, each [`Inspector`] writes a line into its batch.
//!
//! ```text
//! Observer ─ over → Inspector: batch ── full, or every 100 ms ──► Lines (bounded in bytes) ─► control thread ─► the user
//! ```
//!
//! A batch that does not fit is dropped and counted; the counts themselves always get there with a later one.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mirrord_filters::{Field, LocalResponse, RequestParts, ResponseParts};
use mirrord_protocol::records::{End, Exchange, InspectLine, MASK, Tally, Verdict, Would};
use tokio::sync::mpsc;

use super::{
    body::{Body, Room},
    mask,
};
use crate::gateway::steer::SessionId;

/// A batch of this size is sent at once.
const BATCH: usize = 16 << 10;
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
    pub session: SessionId,
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
}

/// Is told what the gateway moves for one request; its clones are the same.
#[derive(Clone, Debug)]
pub struct Observer(Rc<RefCell<Watched>>);

struct Watched {
    inspectors: Vec<(Rc<Inspector>, Option<Would>)>,
    wants_headers: bool,
    began: Instant,
    answered: Option<Instant>,
    ended: Option<Instant>,
    exchange: Exchange,
    request: Body,
    response: Body,
}

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
        self.waiting.fetch_add(size, Relaxed);
        self.batches.try_send(Batch { lines: lines.into(), waiting: self.waiting.clone() }).is_ok()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.lines.len(), Relaxed);
    }
}

impl Inspector {
    /// Within a `LocalSet`: a task of its own sends what waits.
    pub fn start(session: SessionId, worker: u16, wanted: Wanted, out: Lines) -> Rc<Self> {
        let inspector = Rc::new(Self {
            session,
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

    /// The session has ended: what was seen is sent, and nothing more comes.
    pub fn end(&self) {
        self.send();
        self.out.borrow_mut().take();
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }

    fn write(&self, line: &InspectLine) {
        let mut batch = self.batch.borrow_mut();
        if batch.capacity() == 0 {
            batch.reserve_exact(BATCH + BATCH / 8);
        }
        let start = batch.len();
        if serde_json::to_writer(&mut *batch, line).is_err() {
            return batch.truncate(start);
        }
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
    pub fn new(inspectors: Vec<(Rc<Inspector>, Option<Would>)>, request: &RequestParts<'_>, decided: Decided, room: &Room) -> Self {
        let began = Instant::now();
        let wants = |wants: fn(&Wanted) -> bool| inspectors.iter().any(|(inspector, _)| wants(&inspector.wanted));
        let wants_headers = wants(|wanted| wanted.headers);
        let body = inspectors.iter().map(|(inspector, _)| inspector.wanted.body).max().unwrap_or(0);
        inspectors.iter().for_each(|(inspector, _)| inspector.count(|tally| tally.begun += 1));
        let exchange = Exchange {
            client: request.client.to_string(),
            destination: request.destination.to_string(),
            protocol: request.version.as_str().to_owned(),
            method: text(request.method),
            path: text(request.path),
            request_headers: if wants_headers { headers(request.headers) } else { Vec::new() },
            verdict: decided.verdict,
            session: decided.session,
            filter: decided.filter,
            reason: decided.reason,
            ..Exchange::default()
        };
        let mut watched = Watched {
            inspectors,
            wants_headers,
            began,
            answered: None,
            ended: None,
            exchange,
            request: Body::default(),
            response: Body::default(),
        };
        if body > 0 {
            watched.request.keep(body, room);
            watched.response.keep(body, room);
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
        watched.exchange.status = Some(response.status);
        if is_chunked(response.headers) {
            watched.response.set_chunked();
        }
        if watched.wants_headers {
            watched.exchange.response_headers = headers(response.headers);
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
        if watched.exchange.method != "HEAD" {
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
        (watched.exchange.verdict, watched.exchange.session, watched.exchange.filter) = (Verdict::Pass, None, None);
        watched.exchange.reason = Some("the session could not take it".to_owned());
    }

    /// It is over. Without this word it was cut off.
    pub fn end(&self, end: End) {
        let mut watched = self.0.borrow_mut();
        watched.exchange.end = end;
        watched.ended = Some(Instant::now());
    }
}

impl Watched {
    fn look_for_grpc(&mut self, fields: &[Field<'_>]) {
        let status = fields.iter().find(|field| field.name.eq_ignore_ascii_case(b"grpc-status"));
        if let Some(status) = status {
            self.exchange.grpc_status = std::str::from_utf8(status.value).ok().and_then(|status| status.parse().ok());
        }
    }

    fn tell(&mut self, inspector: &Inspector, would: Option<Would>, id: u64) {
        let mut exchange = self.exchange.clone();
        (exchange.id, exchange.would) = (id, would);
        let wanted = &inspector.wanted;
        if !wanted.headers {
            (exchange.request_headers, exchange.response_headers) = (Vec::new(), Vec::new());
        }
        if wanted.body == 0 {
            (exchange.request_body, exchange.response_body) = (None, None);
        }
        if !wanted.credentials {
            if let std::borrow::Cow::Owned(masked) = mask::target(exchange.path.as_bytes()) {
                exchange.path = text(&masked);
            }
            mask_headers(&mut exchange.request_headers);
            mask_headers(&mut exchange.response_headers);
        }
        inspector.write(&InspectLine::Exchange(Box::new(exchange)));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.exchange.at = micros(since_1970(self.began));
        self.exchange.took = micros(now - self.began);
        self.exchange.wait = self.answered.map(|at| micros(at - self.began));
        (self.exchange.request_bytes, self.exchange.response_bytes) = (self.request.bytes(), self.response.bytes());
        (self.exchange.request_body, self.exchange.response_body) = (self.request.captured(), self.response.captured());
        for (inspector, would) in std::mem::take(&mut self.inspectors) {
            inspector.count(|tally| tally.ended += 1);
            if inspector.out.borrow().is_some() {
                let id = inspector.tally.get();
                self.tell(&inspector, would, id.ended << 6 | u64::from(id.worker));
                if inspector.batch.borrow().len() >= BATCH {
                    inspector.send();
                }
            }
        }
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("path", &self.exchange.path).finish_non_exhaustive()
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

fn mask_headers(headers: &mut [(String, String)]) {
    headers.iter_mut().filter(|(name, _)| mask::is_credential(name.as_bytes())).for_each(|(_, value)| *value = MASK.to_owned());
}

/// What is no UTF-8 is read as Latin-1, as browsers do: each byte can be told from the others.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| byte as char).collect(),
    }
}
