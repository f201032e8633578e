//! One HTTP/2 stream as a byte stream: reads give capacity back as they are taken, writes take what the peer's window allows.
//! Dropped before both ends are done, it resets the stream (CANCEL): the peer learns that nobody listens.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Outgoing, Purse, Turn};

/// Asked of the windows ahead of need, bytes: many small messages then go out without asking anew. Idle streams keep it, so all
/// of them together must stay a small part of the connection's window.
const RESERVE: usize = 16 << 10;
/// Bytes read that are given back to the windows at a time; a small part of a stream's window, which the peer never sees shut.
const RELEASE: usize = 32 << 10;

/// A two-way byte stream inside a tunnel connection.
pub struct Stream {
    send: SendStream<Outgoing>,
    recv: RecvStream,
    /// Of what waits to be written on this connection.
    turn: Turn,
    /// The rest of a DATA frame of which a part has been read.
    left: Bytes,
    /// Read, but not yet given back to the windows.
    unreleased: usize,
    sent_end: bool,
    read_end: bool,
}

impl Stream {
    pub(crate) fn new(send: SendStream<Outgoing>, recv: RecvStream, purse: &Purse) -> Self {
        Self { send, recv, turn: purse.turn(), left: Bytes::new(), unreleased: 0, sent_end: false, read_end: false }
    }
}

/// A reset by the peer is what a TCP reset would be; the rest keeps h2's words.
fn io_error(error: h2::Error) -> io::Error {
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        Some(Reason::REFUSED_STREAM) => io::Error::new(io::ErrorKind::ConnectionRefused, error),
        _ if error.is_io() => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        _ => io::Error::new(io::ErrorKind::ConnectionAborted, error),
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.left.is_empty() {
            if this.read_end {
                return Poll::Ready(Ok(()));
            }
            match ready!(this.recv.poll_data(cx)) {
                Some(data) => this.left = data.map_err(io_error)?,
                None => this.read_end = true,
            }
        }
        let n = buf.remaining().min(this.left.len());
        buf.put_slice(&this.left[..n]);
        this.left.advance(n);
        this.unreleased += n;
        if this.unreleased >= RELEASE {
            let released = std::mem::take(&mut this.unreleased);
            this.recv.flow_control().release_capacity(released).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.sent_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.turn.poll_room(cx));
        // `poll_capacity` reports changes only: look at what is there first.
        let mut capacity = self.send.capacity();
        if capacity < data.len() {
            self.send.reserve_capacity(data.len().max(RESERVE));
            capacity = self.send.capacity();
        }
        while capacity == 0 {
            capacity = match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(io_error)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = capacity.min(data.len());
        let piece = self.turn.bring(Bytes::copy_from_slice(&data[..n]));
        self.send.send_data(piece, false).map_err(io_error)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.sent_end {
            self.sent_end = true;
            self.send.send_data(Bytes::new().into(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !(self.sent_end && self.read_end) {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}
