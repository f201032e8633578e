//! Copies of requests for sessions that mirror. A copy has a small queue of its own; a program that does not keep up loses
//! copies, and neither the client nor the pod ever waits for one.
//!
//! `client's request → Taps ─queue (bounded)→ copy task → session's program → answer thrown away`

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, Request};
use tokio::sync::watch;

use super::upstreams::{Key, Upstreams};
use crate::gateway::steer::{Event, SessionId, Surroundings};

/// Body bytes that wait for a program, for each copy.
const QUEUE_LIMIT: usize = 256 * 1024;
/// The same for all copies that one session gets from a worker thread, heads and tasks included.
const SESSION_LIMIT: usize = 8 * 1024 * 1024;
/// What a copy costs beside its bytes: task, stream, queue (measured: 2.4 KB with a head of 200 bytes).
const COPY_COST: usize = 2048;
/// What a piece of a body costs beside its bytes.
const PIECE_COST: usize = 64;
/// Copies that are under way when the client closes get so long.
const AFTERMATH: Duration = Duration::from_secs(5);

/// The copies of one client connection.
pub(super) struct Copies<S: Surroundings> {
    surroundings: Rc<S>,
    upstreams: Rc<Upstreams<S>>,
    /// Dropped with the client's connection.
    client_tx: watch::Sender<()>,
}

thread_local! {
    /// What each session's copies hold on this worker thread. A session with nothing under way has no entry.
    static HELD: RefCell<HashMap<SessionId, usize>> = RefCell::default();
}

/// Takes bytes of a session's share; false if that would be too much.
fn hold(session: SessionId, bytes: usize) -> bool {
    HELD.with_borrow_mut(|held| {
        let now = held.get(&session).copied().unwrap_or(0) + bytes;
        let fits = now <= SESSION_LIMIT;
        if fits {
            held.insert(session, now);
        }
        fits
    })
}

fn give_back(session: SessionId, bytes: usize) {
    HELD.with_borrow_mut(|held| {
        let left = held.get(&session).copied().unwrap_or(0).saturating_sub(bytes);
        match left {
            0 => held.remove(&session),
            left => held.insert(session, left),
        };
    });
}

/// Where a request's body is copied to as it passes. Empty for almost all.
#[derive(Default)]
pub(super) struct Taps(Vec<Rc<Queue>>);

struct Queue {
    pieces: RefCell<VecDeque<Piece>>,
    waiting: Cell<usize>,
    /// The bytes of the head and of the copy itself.
    held: usize,
    waker: RefCell<Option<Waker>>,
    session: SessionId,
    /// The program is too slow: tells the task, once.
    overflow: Cell<bool>,
    ended: Cell<bool>,
    count_dropped: Box<dyn Fn()>,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Reset(Reason),
}

impl<S: Surroundings> Copies<S> {
    pub(super) fn new(surroundings: Rc<S>, upstreams: Rc<Upstreams<S>>) -> Self {
        Copies { surroundings, upstreams, client_tx: watch::channel(()).0 }
    }

    /// Starts copies of a request as it came.
    pub(super) fn start(&self, sessions: &[SessionId], request: &Request<RecvStream>) -> Taps {
        let mut taps = Taps::default();
        for &session in sessions {
            let held = COPY_COST + head_size(request.headers());
            if !hold(session, held) {
                self.surroundings.count(Event::CopyDropped);
                continue;
            }
            let end_stream = request.body().is_end_stream();
            let queue = Rc::new(self.queue(session, held));
            if !end_stream {
                taps.0.push(queue.clone());
            }
            let copy = carry(self.upstreams.clone(), session, head_of(request), end_stream, queue.clone());
            let mut client_rx = self.client_tx.subscribe();
            let surroundings = self.surroundings.clone();
            tokio::task::spawn_local(async move {
                let aftermath = async {
                    while client_rx.changed().await.is_ok() {}
                    tokio::time::sleep(AFTERMATH).await;
                };
                let carried = tokio::select! { carried = copy => carried, () = aftermath => false };
                if !carried && !queue.overflow.get() {
                    surroundings.count(Event::CopyDropped);
                }
            });
        }
        taps
    }

    fn queue(&self, session: SessionId, held: usize) -> Queue {
        let surroundings = self.surroundings.clone();
        Queue {
            pieces: RefCell::default(),
            waiting: Cell::new(0),
            held,
            waker: RefCell::default(),
            session,
            overflow: Cell::new(false),
            ended: Cell::new(false),
            count_dropped: Box::new(move || surroundings.count(Event::CopyDropped)),
        }
    }
}

impl Taps {
    pub(super) fn data(&mut self, data: &Bytes) {
        for queue in &self.0 {
            queue.data(data);
        }
    }

    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        for queue in self.0.drain(..) {
            queue.end(Piece::Trailers(trailers.clone()));
        }
    }

    /// The client gave up.
    pub(super) fn reset(&mut self, reason: Option<Reason>) {
        for queue in self.0.drain(..) {
            queue.end(Piece::Reset(reason.unwrap_or(Reason::CANCEL)));
        }
    }

    /// The body is complete.
    pub(super) fn end(&mut self) {
        for queue in self.0.drain(..) {
            queue.end(Piece::End);
        }
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        self.reset(None);
    }
}

impl Queue {
    fn data(&self, data: &Bytes) {
        if !data.is_empty() {
            // A copy of the bytes: a slice would keep all of the buffer that the client's connection reads into.
            self.push(PIECE_COST + data.len(), || Piece::Data(Bytes::copy_from_slice(data)));
        }
    }

    fn end(&self, piece: Piece) {
        let size = match &piece {
            Piece::Trailers(trailers) => head_size(trailers),
            Piece::Data(_) | Piece::End | Piece::Reset(_) => 0,
        };
        self.push(PIECE_COST + size, || piece);
        self.ended.set(true);
    }

    /// Queues a piece, or gives the copy up.
    fn push(&self, size: usize, piece: impl FnOnce() -> Piece) {
        if self.overflow.get() || self.ended.get() {
            return;
        }
        let waiting = self.waiting.get() + size;
        if waiting > QUEUE_LIMIT || !hold(self.session, size) {
            self.overflow.set(true);
            (self.count_dropped)();
            self.give_back(self.waiting.get());
            self.pieces.borrow_mut().clear();
        } else {
            self.waiting.set(waiting);
            self.pieces.borrow_mut().push_back(piece());
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn give_back(&self, bytes: usize) {
        self.waiting.set(self.waiting.get() - bytes);
        give_back(self.session, bytes);
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if self.overflow.get() {
            return Poll::Ready(None);
        }
        match self.pieces.borrow_mut().pop_front() {
            Some(piece) => Poll::Ready(Some(piece)),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        give_back(self.session, self.waiting.get() + self.held);
    }
}

fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// A head once more, extensions (`:protocol`) included.
pub(super) fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    *head.extensions_mut() = request.extensions().clone();
    head
}

/// Carries one copy to its program. False if it did not get there.
async fn carry<S: Surroundings>(
    upstreams: Rc<Upstreams<S>>,
    session: SessionId,
    head: Request<()>,
    end_stream: bool,
    queue: Rc<Queue>,
) -> bool {
    let Ok(link) = upstreams.get(Key::Copies(session)).await else { return false };
    // The upstreams must not outlive the client's connection by copies alone: the link is enough from here.
    drop(upstreams);
    let Ok((response, mut to)) = link.send(head, end_stream) else { return false };
    let upload = async { if end_stream { true } else { upload(&queue, &mut to).await } };
    let (uploaded, answered) = tokio::join!(upload, discard(response));
    // A program may refuse the rest of a copy; that is its answer. Only what did not reach it is lost.
    answered && (uploaded || link.is_usable())
}

async fn upload(queue: &Queue, to: &mut SendStream<Bytes>) -> bool {
    loop {
        match poll_fn(|cx| queue.poll_next(cx)).await {
            Some(Piece::Data(data)) => {
                let size = PIECE_COST + data.len();
                let sent = send_all(queue, to, data).await;
                if !queue.overflow.get() {
                    queue.give_back(size);
                }
                if !sent {
                    if queue.overflow.get() {
                        to.send_reset(Reason::CANCEL);
                    }
                    return false;
                }
            }
            Some(Piece::Trailers(trailers)) => return to.send_trailers(trailers).is_ok(),
            Some(Piece::End) => return to.send_data(Bytes::new(), true).is_ok(),
            Some(Piece::Reset(reason)) => {
                to.send_reset(reason);
                return true;
            }
            None => {
                to.send_reset(Reason::CANCEL);
                return false;
            }
        }
    }
}

/// Sends one piece as the program grants; false if the program does not want it or fell too far behind.
async fn send_all(queue: &Queue, to: &mut SendStream<Bytes>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let granted = poll_fn(|cx| {
            if queue.overflow.get() {
                return Poll::Ready(0);
            }
            if to.capacity() > 0 {
                return Poll::Ready(to.capacity());
            }
            *queue.waker.borrow_mut() = Some(cx.waker().clone());
            match to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => Poll::Ready(to.capacity()),
                Poll::Ready(_) => Poll::Ready(0),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if granted == 0 || to.send_data(data.split_to(granted.min(data.len())), false).is_err() {
            return false;
        }
    }
    true
}

/// Reads an answer to its end. False if the connection broke before it began.
async fn discard(response: ResponseFuture) -> bool {
    let mut body = match response.await {
        Ok(response) => response.into_body(),
        Err(error) => return error.is_reset(),
    };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    true
}
