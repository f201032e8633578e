//! Does a session's machine answer? The control connection pings it every second, which its HTTP/2 answers without being asked;
//! if nothing at all has come for some seconds, the machine is stopped, asleep or cut off. Sooner, if the connection that carries
//! it has broken and no other comes.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::service::Connection;

/// How often a silent peer is pinged.
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// A peer that answers no ping for so long has gone for good.
pub const GONE_AFTER: Duration = Duration::from_secs(60);
/// Counted, not measured: if it is us who stood still, what has come meanwhile is read before the next tick.
const TICK: Duration = Duration::from_millis(500);
/// So many ticks in a row without a byte: between three and four seconds.
const SILENT: u32 = 7;
/// So many with nothing that could carry one: less than a second. Who only dials again is back by then.
const CUT_OFF: u32 = 2;

/// A connection that notes when bytes come.
pub struct Heard<T> {
    io: T,
    heard: Rc<Cell<bool>>,
}

impl<T> Heard<T> {
    pub fn new(io: T, heard: Rc<Cell<bool>>) -> Self {
        Self { io, heard }
    }
}

/// Tells the connection whether its other end answers, as long as it is polled.
pub async fn watch(connection: Rc<Connection>, heard: Rc<Cell<bool>>, carried: Rc<Cell<bool>>) -> Infallible {
    let (mut silent, mut cut_off) = (0, 0);
    loop {
        tokio::time::sleep(TICK).await;
        silent = if heard.replace(false) { 0 } else { silent + 1 };
        cut_off = if carried.get() { 0 } else { cut_off + 1 };
        connection.set_answers(silent < SILENT && cut_off < CUT_OFF);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.heard.set(true);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
