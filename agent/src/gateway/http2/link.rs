//! One HTTP/2 connection to an upstream: made, greeted, driven by a task of its own, and ended when its last user is gone.
//!
//! `exchange → Link → h2 client → driver → pod, or a session's program`

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use h2::{
    Reason, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::Request;
use mirrord_tunnel::{Outgoing, Purse};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Sleep, sleep},
};

use super::{
    DATA_FRAME_BUDGET, MAX_HEADER_LIST, MAX_STREAMS, SEND_BUFFER,
    windows::Windows,
    wire::{Gather, Greeted, Greeting, PeerSettings},
};

/// How long a connection that nobody uses any more may take to end its last streams.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The use of one connection; it closes when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Link(Rc<Shared>);

struct Shared {
    sender: RefCell<SendRequest<Outgoing>>,
    windows: Rc<Windows>,
    /// What bounds the bytes that wait to be written: a session's.
    purse: Option<Purse>,
    /// No new streams: the peer said GOAWAY, or the connection is gone.
    spent: Cell<bool>,
}

/// How a connection came to take no more streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// GOAWAY, with this code.
    GoAway(Reason),
    /// Closed without a word.
    Closed,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError<T> {
    #[error("its first bytes are no HTTP/2 (check that the program serves HTTP/2 without TLS on this port)")]
    NotHttp2 { io: T, seen: Vec<u8> },
    #[error("it closed the connection at once (check that the program serves HTTP/2 without TLS on this port)")]
    Closed,
    #[error("the connection broke: {0} (check that the program is still running)")]
    Io(#[from] io::Error),
    #[error("HTTP/2: {0} (check the program's own log)")]
    Http2(#[from] h2::Error),
}

/// A connection that is being greeted.
pub(super) struct Opening<T> {
    pub(super) link: Link,
    greeting_rx: oneshot::Receiver<Greeting<T>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Opening<T> {
    /// Sends the preface and starts the driver. `heard` was read of the upstream before. `spent` is called once, when the
    /// connection takes no more streams.
    pub(super) async fn start(
        io: T,
        heard: Vec<u8>,
        windows: Rc<Windows>,
        purse: Option<Purse>,
        spent: Box<dyn FnOnce(Spent)>,
    ) -> Result<Self, LinkError<T>> {
        let (greeted, greeting_rx) = Greeted::new(io, heard);
        let gather = Gather::new(greeted, purse.as_ref().map(|purse| purse.hold(0)));
        // Only fills the gather buffer, so it does not wait.
        let (sender, connection) = builder(&windows).handshake(gather.clone()).await?;
        let shared = Rc::new(Shared { sender: RefCell::new(sender), windows: windows.clone(), purse, spent: Cell::new(false) });
        let driver = Driver { connection, gather, windows, shared: Rc::downgrade(&shared), spent: Some(spent), last_words: None };
        tokio::task::spawn_local(driver);
        Ok(Opening { link: Link(shared), greeting_rx })
    }

    /// Waits for the upstream's first frame.
    pub(super) async fn greeting(&mut self) -> Result<PeerSettings, LinkError<T>> {
        match (&mut self.greeting_rx).await {
            Ok(Greeting::Http2(settings)) => Ok(settings),
            Ok(Greeting::Other { seen, .. }) if seen.is_empty() => Err(LinkError::Closed),
            Ok(Greeting::Other { io, seen }) => Err(LinkError::NotHttp2 { io, seen }),
            Ok(Greeting::Failed(error)) => Err(LinkError::Io(error)),
            Err(_) => Err(LinkError::Closed),
        }
    }
}

fn builder(windows: &Windows) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(windows.stream())
        .initial_connection_window_size(windows.own())
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .max_concurrent_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(None)
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}

impl Link {
    /// What the upstream may send ahead.
    pub(super) fn windows(&self) -> Rc<Windows> {
        self.0.windows.clone()
    }

    /// What bounds the bytes that wait to be written to it.
    pub(super) fn purse(&self) -> Option<&Purse> {
        self.0.purse.as_ref()
    }

    /// Whether it takes more streams.
    pub(super) fn is_usable(&self) -> bool {
        !self.0.spent.get()
    }

    /// Whether its peer knows what the request asks for: an extended CONNECT may be sent only to those that offer it (RFC 8441).
    pub(super) fn understands(&self, head: &Request<()>) -> bool {
        head.extensions().get::<h2::ext::Protocol>().is_none() || self.0.sender.borrow().is_extended_connect_protocol_enabled()
    }

    /// Opens a stream. More than the peer allows at a time wait within h2.
    pub(super) fn send(&self, mut head: Request<()>, end_stream: bool) -> Result<(ResponseFuture, SendStream<Outgoing>), h2::Error> {
        if head.uri().authority().is_none() {
            // h2 takes a request without `:authority` only as one translated from HTTP/1; it sends it as it came.
            *head.version_mut() = http::Version::HTTP_11;
        }
        self.0.sender.borrow_mut().clone().send_request(head, end_stream)
    }
}

/// Polls a connection to its end.
struct Driver<T: AsyncRead + AsyncWrite + Unpin> {
    connection: client::Connection<Gather<Greeted<T>>, Outgoing>,
    gather: Gather<Greeted<T>>,
    windows: Rc<Windows>,
    shared: Weak<Shared>,
    spent: Option<Box<dyn FnOnce(Spent)>>,
    /// Runs once no user is left: streams that they left behind get a moment to be flushed.
    last_words: Option<Pin<Box<Sleep>>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn spend(&mut self, how: Spent) {
        if let Some(shared) = self.shared.upgrade() {
            shared.spent.set(true);
        }
        if let Some(spent) = self.spent.take() {
            spent(how);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(size) = this.windows.poll(cx) {
            this.connection.set_target_window_size(size);
        }
        let ended = match Pin::new(&mut this.connection).poll(cx) {
            Poll::Ready(Ok(())) => Some(Spent::Closed),
            Poll::Ready(Err(error)) => Some(how_spent(&error)),
            Poll::Pending => None,
        };
        let flushed = this.gather.send(cx);
        if let Some(how) = ended {
            this.spend(how);
            return Poll::Ready(());
        }
        if let Poll::Ready(Err(_)) = flushed {
            this.spend(Spent::Closed);
            return Poll::Ready(());
        }
        match this.shared.upgrade() {
            // h2 has no other sign of a GOAWAY while streams are still open.
            Some(shared) => {
                let refused = shared.sender.borrow_mut().poll_ready(cx);
                if let (Poll::Ready(Err(error)), Some(_)) = (refused, &this.spent) {
                    this.spend(how_spent(&error));
                }
                Poll::Pending
            }
            None => {
                let limit = this.last_words.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS)));
                limit.as_mut().poll(cx)
            }
        }
    }
}

fn how_spent(error: &h2::Error) -> Spent {
    match error.reason() {
        Some(reason) if error.is_go_away() && error.is_remote() => Spent::GoAway(reason),
        _ => Spent::Closed,
    }
}

/// Lets the connections' tasks run, so that what was queued reaches the wire before what comes next cuts it off.
pub(super) async fn let_flush() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// A waker and a value that one task leaves for another of the same thread.
pub(super) struct Signal<V> {
    value: Cell<Option<V>>,
    waker: RefCell<Option<std::task::Waker>>,
}

impl<V> Default for Signal<V> {
    fn default() -> Self {
        Signal { value: Cell::new(None), waker: RefCell::new(None) }
    }
}

impl<V> Signal<V> {
    pub(super) fn set(&self, value: V) {
        self.value.set(Some(value));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<V> {
        match self.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
