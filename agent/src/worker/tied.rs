//! Streams to a session's program that can be let go of all at once: when the session's machine stands still, whoever waits for an
//! answer is told so instead of waiting with it. And their number and bytes, which are bounded: a session costs the agent only so much.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most streams of one session on one worker; what comes beyond goes to the pod.
pub const MAX_STREAMS: usize = 4096;
/// What its requests may have here that it has not taken, bytes: beyond it little of each is read at a time. At twice as much, what is
/// new goes to the pod. Its delivery connection has as much again (`mirrord_tunnel::SEND_PURSE`).
pub const UNDER_WAY: usize = 8 << 20;

/// All streams of a session on one worker.
#[derive(Debug, Default)]
pub struct Ties {
    last_key: Cell<u64>,
    held: RefCell<HashMap<u64, Rc<Knot>>>,
}

/// What a stream and those who may cut it share.
#[derive(Debug, Default)]
struct Knot {
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One stream's place among its session's.
#[derive(Debug)]
pub struct Tie {
    ties: Rc<Ties>,
    key: u64,
    knot: Rc<Knot>,
}

/// A stream, which fails once its tie is cut. The pod's has none.
#[derive(Debug)]
pub struct Tied<T> {
    pub stream: T,
    pub tie: Option<Tie>,
}

impl Ties {
    /// A place for one more stream; none: the session has as many as it may.
    pub fn tie(self: &Rc<Self>) -> Option<Tie> {
        let mut held = self.held.borrow_mut();
        if held.len() >= MAX_STREAMS {
            return None;
        }
        let (key, knot) = (self.last_key.get() + 1, Rc::new(Knot::default()));
        self.last_key.set(key);
        held.insert(key, knot.clone());
        Some(Tie { ties: self.clone(), key, knot })
    }

    /// All streams fail, those that are being opened included.
    pub fn cut(&self) {
        for knot in self.held.borrow().values() {
            knot.is_cut.set(true);
            if let Some(waker) = knot.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Tie {
    /// Opens a stream, unless this is cut meanwhile.
    pub async fn hold<T>(self, opening: impl Future<Output = io::Result<T>>) -> io::Result<Tied<T>> {
        let mut opening = pin!(opening);
        let stream = poll_fn(|cx| self.while_held(cx, |cx| opening.as_mut().poll(cx))).await?;
        Ok(Tied { stream, tie: Some(self) })
    }

    fn while_held<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.knot.is_cut.get() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the session's machine stands still")));
        }
        let polled = poll(cx);
        if polled.is_pending() {
            let mut waker = self.knot.waker.borrow_mut();
            // One task drives a stream: almost always it is the same again.
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        polled
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.ties.held.borrow_mut().remove(&self.key);
    }
}

impl<T: Unpin> Tied<T> {
    #[inline]
    fn poll<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let Self { stream, tie } = self.get_mut();
        match tie {
            None => poll(Pin::new(stream), cx),
            Some(tie) => tie.while_held(cx, |cx| poll(Pin::new(stream), cx)),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tied<T> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tied<T> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, |stream, cx| stream.poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, task::LocalSet};

    fn run(test: impl Future<Output = ()>) {
        LocalSet::new().block_on(&tokio::runtime::Builder::new_current_thread().build().unwrap(), test);
    }

    #[test]
    fn a_cut_wakes_whoever_waits_and_later_streams_are_not_cut() {
        run(async {
            let ties = Rc::new(Ties::default());
            let (one, _other) = tokio::io::duplex(8);
            let mut held = ties.tie().unwrap().hold(async { Ok(one) }).await.unwrap();
            let opening = ties.tie().unwrap().hold(std::future::pending::<io::Result<()>>());
            let reading = tokio::task::spawn_local(async move { held.read(&mut [0; 8]).await });
            let opening = tokio::task::spawn_local(opening);
            tokio::task::yield_now().await;
            assert_eq!(ties.held.borrow().len(), 2);
            ties.cut();
            assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(opening.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert!(ties.held.borrow().is_empty());
            let (one, mut other) = tokio::io::duplex(8);
            let mut later = ties.tie().unwrap().hold(async { Ok(one) }).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut other, b"x").await.unwrap();
            assert_eq!(later.read(&mut [0; 8]).await.unwrap(), 1);
        });
    }

    #[test]
    fn a_session_has_only_so_many_streams() {
        let ties = Rc::new(Ties::default());
        let mut all: Vec<_> = (0..MAX_STREAMS).map(|_| ties.tie().unwrap()).collect();
        assert!(ties.tie().is_none());
        all.pop();
        assert!(ties.tie().is_some());
    }
}
