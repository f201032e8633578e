//! A transport whose writes are gathered: h2 writes each DATA frame of 256 bytes and more with a system call of its own; here
//! they collect in a buffer that [`Gathered::flush_now`] writes once the connection has nothing more to do. Reads are large.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes at which a writer has to wait for the transport.
const HIGH_WATER: usize = 256 << 10;
const READ_BUFFER: usize = 64 << 10;
/// A buffer that grew beyond this is given back when it is empty.
const KEEP: usize = 64 << 10;

struct Inner<T> {
    io: T,
    out: Vec<u8>,
    written: usize,
    /// A writer was told to wait: whoever flushes all must have it come again, since nothing else will.
    waited: bool,
    input: Box<[u8]>,
    input_range: std::ops::Range<usize>,
}

/// A shared handle: h2 owns one and reads and writes through it, the driver owns the other and flushes.
pub(crate) struct Gathered<T>(Rc<RefCell<Inner<T>>>);

impl<T: AsyncRead + AsyncWrite + Unpin> Gathered<T> {
    pub(crate) fn new(io: T) -> (Self, Self) {
        let input = vec![0; READ_BUFFER].into_boxed_slice();
        let inner = Rc::new(RefCell::new(Inner { io, out: Vec::new(), written: 0, waited: false, input, input_range: 0..0 }));
        (Self(inner.clone()), Self(inner))
    }

    /// Writes what has been gathered; ready when nothing is left.
    pub(crate) fn flush_now(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().flush(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Inner<T> {
    fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        self.written = 0;
        self.out.clear();
        self.out.shrink_to(KEEP);
        if std::mem::take(&mut self.waited) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.input_range.is_empty() {
            if buf.remaining() >= inner.input.len() {
                return Pin::new(&mut inner.io).poll_read(cx, buf);
            }
            let mut input = ReadBuf::new(&mut inner.input);
            ready!(Pin::new(&mut inner.io).poll_read(cx, &mut input))?;
            inner.input_range = 0..input.filled().len();
        }
        let n = buf.remaining().min(inner.input_range.len());
        let start = inner.input_range.start;
        buf.put_slice(&inner.input[start..start + n]);
        inner.input_range.start += n;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        if inner.pending() >= HIGH_WATER {
            let flushed = inner.flush(cx);
            inner.waited = flushed.is_pending();
            ready!(flushed)?;
        }
        // With something always pending `flush` never gets to clear the buffer: what is written must not stay in it.
        if inner.written >= KEEP {
            let written = std::mem::take(&mut inner.written);
            inner.out.drain(..written);
        }
        inner.out.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    /// The driver flushes, not h2: that is the point.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.flush(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

    use super::*;
    use crate::tests::Wakes;

    /// Takes nothing at first, and all the next time.
    #[derive(Default)]
    struct Late(bool);

    impl AsyncRead for Late {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Late {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(Ok(data.len())) } else { Poll::Pending }
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_writer_that_had_to_wait_comes_again_when_all_went_out_just_after() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let (mut writer, flusher) = Gathered::new(Late::default());
        assert!(Pin::new(&mut writer).poll_write(&mut cx, &vec![0; HIGH_WATER]).is_ready());
        assert!(Pin::new(&mut writer).poll_write(&mut cx, b"more").is_pending());
        assert!(flusher.flush_now(&mut cx).is_ready(), "there is room by now: the transport wakes nobody");
        assert_eq!(wakes.count(), 1);
        assert!(Pin::new(&mut writer).poll_write(&mut cx, b"more").is_ready() && flusher.flush_now(&mut cx).is_ready());
        assert_eq!(wakes.count(), 1, "and only then");
    }
}
