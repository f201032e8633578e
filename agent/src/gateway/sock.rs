//! The three things that the gateway's state machines ask of a connection, and the buffer into which a thread reads.
//! The machines run the same on sockets, on streams of the tunnel, and in tests on memory, byte by byte.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes read at a time. Whatever a slow peer does not take of them is held, so this bounds a connection's memory, too.
pub const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_OF_THREAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `with` on this thread's scratch buffer. A connection that waits owns no buffer at all: a thousand idle ones share it.
pub fn with_scratch<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH_OF_THREAD.with(|cell| {
        // Taken, not borrowed: a nested use would find none and make its own.
        let mut scratch = cell.take();
        if scratch.is_empty() {
            scratch = vec![0; SCRATCH];
        }
        let result = with(&mut scratch);
        cell.set(scratch);
        result
    })
}

/// A connection. `Pending` means that the waker is armed; whoever polls a state machine arms the wakers of both its sides.
pub trait Sock {
    /// 0 is the peer's end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// What it takes is on its way: no flush is needed.
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;

    /// Tells the peer that nothing more comes. Reading goes on.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Makes dropping it abrupt (a reset rather than an end), if it can.
    fn abort(&mut self) {}
}

/// A TCP connection.
#[derive(Debug)]
pub struct Tcp(pub TcpStream);

impl Sock for Tcp {
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        read(&mut self.0, cx, buf)
    }

    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn abort(&mut self) {
        // A socket that lingers for zero seconds is closed with RST. If it cannot be set the peer sees an end: no worse.
        let _ = socket2::SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// One read from tokio's trait.
#[inline]
pub fn read<T: AsyncRead + Unpin>(stream: &mut T, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buf);
    Pin::new(stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
}

/// Writes `bytes` after what is `pending`, and keeps in `pending` what the peer does not take now.
/// `Ready` if nothing is left.
#[inline]
pub fn send(sock: &mut impl Sock, cx: &mut Context<'_>, pending: &mut Vec<u8>, bytes: &[u8]) -> Poll<io::Result<()>> {
    if !pending.is_empty() {
        pending.extend_from_slice(bytes);
        return flush(sock, cx, pending);
    }
    let mut sent = 0;
    while sent < bytes.len() {
        match sock.poll_write(cx, &bytes[sent..]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => sent += written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                pending.extend_from_slice(&bytes[sent..]);
                return Poll::Pending;
            }
        }
    }
    Poll::Ready(Ok(()))
}

/// Writes what is pending, and gives its memory back when all is written.
pub fn flush(sock: &mut impl Sock, cx: &mut Context<'_>, pending: &mut Vec<u8>) -> Poll<io::Result<()>> {
    let mut sent = 0;
    while sent < pending.len() {
        match sock.poll_write(cx, &pending[sent..]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => sent += written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                pending.drain(..sent);
                return Poll::Pending;
            }
        }
    }
    *pending = Vec::new();
    Poll::Ready(Ok(()))
}
