//! What lies between an HTTP/2 connection and its socket: bytes that were read before, a look at the peer's first frame, and
//! writes gathered into few system calls.
//!
//! `client socket → Early → Gather → h2 server`, `h2 client → Gather → Greeted → upstream`

use std::{
    cell::{Cell, RefCell},
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use mirrord_tunnel::Held;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// Gathered bytes above which a connection waits for its socket.
const GATHER_LIMIT: usize = 128 * 1024;
/// A gather buffer that grew beyond this is handed on once it is empty: idle connections hold little.
const GATHER_KEEP: usize = 512;
/// What a thread keeps of those for whoever gathers next: one poll's frames, not what a slow peer left behind.
const SPARE_KEEP: usize = 2 * GATHER_LIMIT;
/// A SETTINGS frame holds six bytes a setting; nobody sends a thousand.
const MAX_SETTINGS: usize = 6 * 1000;
const FRAME_HEAD: usize = 9;

/// A stream some of whose bytes have been read already.
pub(super) struct Early<T> {
    io: T,
    early: Vec<u8>,
    at: usize,
}

impl<T> Early<T> {
    pub(super) fn new(io: T, early: Vec<u8>) -> Self {
        Early { io, early, at: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Early<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.at < self.early.len() {
            let n = buf.remaining().min(self.early.len() - self.at);
            buf.put_slice(&self.early[self.at..self.at + n]);
            self.at += n;
            if self.at == self.early.len() {
                (self.early, self.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Early<T> {
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

/// h2 writes (and flushes) each larger frame on its own. Here writes only collect; whoever drives the connection calls
/// [`Gather::send`] after each poll of it.
pub(super) struct Gather<T>(Rc<RefCell<Gathered<T>>>);

thread_local! {
    /// A connection gathers within one poll and has usually written all at its end: one buffer serves a thread's connections in turn.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

struct Gathered<T> {
    io: T,
    out: Vec<u8>,
    at: usize,
    /// Counts what the socket does not take, where somebody bounds that.
    held: Option<Held>,
}

impl<T> Clone for Gather<T> {
    fn clone(&self) -> Self {
        Gather(self.0.clone())
    }
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    pub(super) fn new(io: T, held: Option<Held>) -> Self {
        Gather(Rc::new(RefCell::new(Gathered { io, out: Vec::new(), at: 0, held })))
    }

    /// Writes what was gathered; `Pending` while the socket would not take all of it.
    pub(super) fn send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().send(cx)
    }
}

impl<T> Gathered<T> {
    fn note_held(&mut self) {
        if let Some(held) = &mut self.held {
            held.set(self.out.len() - self.at);
        }
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.at < self.out.len() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.out[self.at..]);
            if written.is_pending() {
                self.note_held();
            }
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.at += n,
            }
        }
        self.at = 0;
        self.out.clear();
        self.note_held();
        if self.out.capacity() > GATHER_KEEP {
            let out = mem::take(&mut self.out);
            if out.capacity() <= SPARE_KEEP {
                SPARE.set(out);
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.borrow_mut();
        if gathered.out.len() >= GATHER_LIMIT {
            ready!(gathered.send(cx))?;
        }
        if gathered.out.capacity() == 0 {
            gathered.out = SPARE.take();
        }
        gathered.out.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.send(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

/// What an upstream's SETTINGS say, in so far as a client is to be told the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PeerSettings {
    pub(super) max_concurrent_streams: Option<u32>,
    pub(super) max_header_list_size: Option<u32>,
    /// RFC 8441.
    pub(super) extended_connect: bool,
}

/// How an upstream greets.
pub(super) enum Greeting<T> {
    /// With a SETTINGS frame, as RFC 9113 section 3.4 demands.
    Http2(PeerSettings),
    /// With anything else, or not at all before it closed: the stream, and what it said.
    Other { io: T, seen: Vec<u8> },
    /// The stream broke.
    Failed(io::Error),
}

/// An upstream's stream whose first frame is looked at before h2 sees it.
pub(super) struct Greeted<T> {
    io: Option<T>,
    seen: Vec<u8>,
    at: usize,
    tell: Option<oneshot::Sender<Greeting<T>>>,
}

impl<T> Greeted<T> {
    /// `seen` was read of it before.
    pub(super) fn new(io: T, seen: Vec<u8>) -> (Self, oneshot::Receiver<Greeting<T>>) {
        let (greeting_tx, greeting_rx) = oneshot::channel();
        (Greeted { io: Some(io), seen, at: 0, tell: Some(greeting_tx) }, greeting_rx)
    }

    fn tell(&mut self, greeting: Greeting<T>) {
        if let Some(tell) = self.tell.take() {
            // Nobody waits any more: the stream goes with the greeting, which closes it.
            let _ = tell.send(greeting);
        }
    }

    fn tell_other(&mut self) -> io::Error {
        if let Some(io) = self.io.take() {
            let seen = std::mem::take(&mut self.seen);
            self.tell(Greeting::Other { io, seen });
        }
        io::Error::new(io::ErrorKind::InvalidData, "the first bytes are no HTTP/2")
    }
}

impl<T: AsyncRead + Unpin> Greeted<T> {
    /// Reads the first frame into `seen`.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match first_frame(&self.seen) {
                First::Partial(wanted) => {
                    let mut chunk = [0; 64];
                    let room = wanted.min(chunk.len());
                    let mut chunk = ReadBuf::new(&mut chunk[..room]);
                    let Some(io) = &mut self.io else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
                    if let Err(error) = ready!(Pin::new(io).poll_read(cx, &mut chunk)) {
                        let kind = error.kind();
                        self.tell(Greeting::Failed(error));
                        return Poll::Ready(Err(kind.into()));
                    }
                    if chunk.filled().is_empty() {
                        return Poll::Ready(Err(self.tell_other()));
                    }
                    self.seen.extend_from_slice(chunk.filled());
                }
                First::Settings(settings) => {
                    self.tell(Greeting::Http2(settings));
                    return Poll::Ready(Ok(()));
                }
                First::Other => return Poll::Ready(Err(self.tell_other())),
            }
        }
    }
}

enum First {
    /// So many bytes more.
    Partial(usize),
    Settings(PeerSettings),
    Other,
}

fn first_frame(bytes: &[u8]) -> First {
    let prefix_fits = bytes.get(3).is_none_or(|kind| *kind == 4) && bytes.get(4).is_none_or(|flags| flags & 1 == 0);
    if !prefix_fits {
        return First::Other;
    }
    let Some(head) = bytes.get(..FRAME_HEAD) else { return First::Partial(FRAME_HEAD - bytes.len()) };
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    if length > MAX_SETTINGS || !length.is_multiple_of(6) || head[5..9] != [0; 4] {
        return First::Other;
    }
    let Some(payload) = bytes.get(FRAME_HEAD..FRAME_HEAD + length) else {
        return First::Partial(FRAME_HEAD + length - bytes.len());
    };
    let mut settings = PeerSettings::default();
    for setting in payload.chunks_exact(6) {
        let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
        match u16::from_be_bytes([setting[0], setting[1]]) {
            3 => settings.max_concurrent_streams = Some(value),
            6 => settings.max_header_list_size = Some(value),
            8 => settings.extended_connect = value == 1,
            _ => {}
        }
    }
    First::Settings(settings)
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.tell.is_some() {
            ready!(self.poll_greeting(cx))?;
        }
        if self.at < self.seen.len() {
            let n = buf.remaining().min(self.seen.len() - self.at);
            buf.put_slice(&self.seen[self.at..self.at + n]);
            self.at += n;
            if self.at == self.seen.len() {
                (self.seen, self.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Some(io) => Pin::new(io).poll_read(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
