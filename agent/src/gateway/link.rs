//! The connection to an upstream, from the moment we ask for it: while it is being opened it takes nothing and says
//! nothing, and if that fails, reading and writing fail with the reason. So the state machines know one kind of peer.

use std::{
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use super::{
    sock::{self, Sock},
    steer::{Flow, Surroundings, Upstream},
};

/// A connection to an upstream.
pub enum Link<T> {
    Opening(Pin<Box<dyn Future<Output = io::Result<T>>>>),
    Open(T),
    /// It was never opened, for this reason, or has been let go of.
    Closed(io::ErrorKind),
}

impl<T> Link<T> {
    /// Asks for a connection; it is opened as soon as it is polled.
    pub fn open<S: Surroundings<Stream = T>>(surroundings: &Rc<S>, flow: &Flow, upstream: Upstream) -> Self {
        Link::Opening(Box::pin(surroundings.open(flow, upstream)))
    }

    /// The same for the pod; for a session, which may not take the connection, nothing yet.
    pub fn open_if_pod<S: Surroundings<Stream = T>>(surroundings: &Rc<S>, flow: &Flow, upstream: Upstream) -> Self {
        match upstream {
            Upstream::Pod => Link::open(surroundings, flow, upstream),
            Upstream::Session(_) => Link::Closed(io::ErrorKind::NotConnected),
        }
    }

    /// Whether it can be written to.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx).map_ok(|_| ())
    }

    /// Takes the connection out, leaving none.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Link::Closed(io::ErrorKind::NotConnected))
    }

    #[inline]
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut T>> {
        if let Link::Opening(opening) = self {
            *self = match opening.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(stream)) => Link::Open(stream),
                Poll::Ready(Err(error)) => Link::Closed(error.kind()),
            };
        }
        match self {
            Link::Open(stream) => Poll::Ready(Ok(stream)),
            Link::Closed(kind) => Poll::Ready(Err((*kind).into())),
            Link::Opening(_) => Poll::Pending,
        }
    }
}

macro_rules! ready_stream {
    ($link:expr, $cx:expr) => {
        match $link.poll_stream($cx) {
            Poll::Ready(Ok(stream)) => stream,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    };
}

impl<T: tokio::io::AsyncRead + AsyncWrite + Unpin> Sock for Link<T> {
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        sock::read(ready_stream!(self, cx), cx, buf)
    }

    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(ready_stream!(self, cx)).poll_write(cx, buf)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready_stream!(self, cx)).poll_shutdown(cx)
    }
}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Link::Opening(_) => "Opening",
            Link::Open(_) => "Open",
            Link::Closed(_) => "Closed",
        })
    }
}
