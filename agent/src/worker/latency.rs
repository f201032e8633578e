//! How long decisions and upstreams take, measured on one request of [`EVERY`]: reading the clock costs some 35 ns here, and
//! two readings would be 0.6 % of what a passed request costs. What is slow often shows in the sample; what is slow once is
//! a filter's missed deadline, and those are counted one by one.
//!
//! ```text
//! request's head ─begin→ filters ─decided→ written to its upstream ─Timed→ first byte of the answer
//!                                 └ HTTP/2: Steering::decided → http2/exchange.rs → head of the answer
//! ```

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use mirrord_filters::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    counters::Counters,
    gateway::steer::{Flow, Target, Upstream},
};

/// One request of so many is measured, the first included.
pub const EVERY: u32 = 16;

/// A worker's measurements.
pub struct Stopwatch {
    counters: Arc<Counters>,
    until_next: Cell<u32>,
    decided: Cell<Option<Decided>>,
}

/// A measured request that has not been written to its upstream yet.
#[derive(Clone, Copy)]
struct Decided {
    client: SocketAddr,
    upstream: Upstream,
    at: Instant,
}

impl Stopwatch {
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters, until_next: Cell::new(0), decided: Cell::new(None) }
    }

    /// At a request's head; `Some`: this one is measured.
    #[inline]
    pub fn begin(&self) -> Option<Instant> {
        match self.until_next.get().checked_sub(1) {
            Some(left) => {
                self.until_next.set(left);
                None
            }
            None => {
                self.until_next.set(EVERY - 1);
                Some(Instant::now())
            }
        }
    }

    /// At the verdict about a request that is measured; how long that took. On HTTP/2 the caller is to keep when it was.
    #[cold]
    pub fn decided(&self, began: Instant, flow: &Flow, version: Version, target: &Target) -> (Duration, Option<Instant>) {
        let at = Instant::now();
        let took = at - began;
        self.counters.decision.observe(took);
        let upstream = match target {
            Target::Pod => Upstream::Pod,
            Target::Session(id) => Upstream::Session(*id),
            Target::Respond(_) | Target::Abort => return (took, None),
        };
        // On an HTTP/2 connection the next byte may belong to any request.
        if !matches!(version, Version::Http10 | Version::Http11) {
            return (took, Some(at));
        }
        self.decided.set(Some(Decided { client: flow.client, upstream, at }));
        (took, None)
    }

    /// An upstream has taken so long to answer.
    pub fn answered(&self, upstream: Upstream, took: Duration) {
        let histogram = if upstream == Upstream::Pod { &self.counters.pod } else { &self.counters.session };
        histogram.observe(took);
    }

    /// Watches a client connection's stream to an upstream.
    pub fn watch<T>(self: &Rc<Self>, stream: T, flow: &Flow, upstream: Upstream) -> Timed<T> {
        Timed { stream, stopwatch: self.clone(), client: flow.client, upstream, asked: None }
    }
}

/// A stream whose upstream's time to answer is measured.
pub struct Timed<T> {
    pub stream: T,
    stopwatch: Rc<Stopwatch>,
    client: SocketAddr,
    upstream: Upstream,
    /// When the measured request was decided that waits for its answer here.
    asked: Option<Instant>,
}

impl<T> Timed<T> {
    #[cold]
    #[inline(never)]
    fn take_request(&mut self) {
        if let Some(decided) = self.stopwatch.decided.get()
            && (decided.client, decided.upstream) == (self.client, self.upstream)
        {
            self.stopwatch.decided.set(None);
            self.asked = Some(decided.at);
        }
    }

    fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.stopwatch.answered(self.upstream, asked.elapsed());
        }
    }
}

impl<T: AsyncRead + Unpin> Timed<T> {
    /// A read while an answer is waited for. By itself, so that all other reads stay as small as they would be without us.
    #[cold]
    #[inline(never)]
    fn poll_answer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.answered();
        }
        polled
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Timed<T> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.asked.is_some() {
            return self.poll_answer(cx, buf);
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.stopwatch.decided.get().is_some() {
            self.take_request();
        }
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
