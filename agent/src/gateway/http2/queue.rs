//! What waits for a program that gets copies: bounded for each copy and for each upstream, and filled without ever waiting.
//!
//! `Body → Taps → Queue → the copy's task`

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;

use crate::gateway::steer::Upstream;

/// Body bytes that wait for a program, for each copy.
const QUEUE_LIMIT: usize = 256 * 1024;
/// The same for all copies that one upstream gets from a worker thread, heads and tasks included.
const UPSTREAM_LIMIT: usize = 8 * 1024 * 1024;
/// What a copy costs beside its bytes: task, stream, queue (measured: 2.4 KB with a head of 200 bytes).
const COPY_COST: usize = 2048;
/// What a piece of a body costs beside its bytes.
const PIECE_COST: usize = 64;

/// Where a request's body is copied to as it passes. Empty for almost all.
#[derive(Default)]
pub(super) struct Taps(pub(super) Vec<Rc<Queue>>);

/// One copy's bytes on their way.
pub(super) struct Queue {
    pieces: RefCell<VecDeque<Piece>>,
    waiting: Cell<usize>,
    /// The bytes of the head and of the copy itself.
    held: usize,
    waker: RefCell<Option<Waker>>,
    upstream: Upstream,
    /// The program is too slow: tells the task, once.
    overflow: Cell<bool>,
    ended: Cell<bool>,
    count_dropped: Box<dyn Fn()>,
}

pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Reset(Reason),
}

thread_local! {
    /// What each upstream's copies hold on this worker thread. One with nothing under way has no entry.
    static HELD: RefCell<HashMap<Upstream, usize>> = RefCell::default();
}

/// Takes bytes of an upstream's share; false if that would be too much.
fn hold(upstream: Upstream, bytes: usize) -> bool {
    HELD.with_borrow_mut(|held| {
        let now = held.get(&upstream).copied().unwrap_or(0) + bytes;
        let fits = now <= UPSTREAM_LIMIT;
        if fits {
            held.insert(upstream, now);
        }
        fits
    })
}

fn give_back(upstream: Upstream, bytes: usize) {
    HELD.with_borrow_mut(|held| {
        let left = held.get(&upstream).copied().unwrap_or(0).saturating_sub(bytes);
        match left {
            0 => held.remove(&upstream),
            left => held.insert(upstream, left),
        };
    });
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
    /// A queue for a copy with this head; `None` if its upstream has too much under way already. `count_dropped` is called
    /// if the program falls too far behind.
    pub(super) fn new(upstream: Upstream, head: &HeaderMap, count_dropped: Box<dyn Fn()>) -> Option<Self> {
        let held = COPY_COST + head_size(head);
        hold(upstream, held).then(|| Queue {
            pieces: RefCell::default(),
            waiting: Cell::new(0),
            held,
            waker: RefCell::default(),
            upstream,
            overflow: Cell::new(false),
            ended: Cell::new(false),
            count_dropped,
        })
    }

    /// Whether the copy was given up.
    pub(super) fn is_overflown(&self) -> bool {
        self.overflow.get()
    }

    /// Lets the task know of what happens to the queue while it waits for something else.
    pub(super) fn register(&self, cx: &Context<'_>) {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }

    /// A piece of that many bytes was sent, or thrown away.
    pub(super) fn sent(&self, bytes: usize) {
        // On overflow all was given back at once.
        if !self.overflow.get() {
            self.give_back(PIECE_COST + bytes);
        }
    }

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
        if waiting > QUEUE_LIMIT || !hold(self.upstream, size) {
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
        give_back(self.upstream, bytes);
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if self.overflow.get() {
            return Poll::Ready(None);
        }
        match self.pieces.borrow_mut().pop_front() {
            Some(piece) => Poll::Ready(Some(piece)),
            None => {
                self.register(cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        give_back(self.upstream, self.waiting.get() + self.held);
    }
}

fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}
