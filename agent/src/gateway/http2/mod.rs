//! HTTP/2 with prior knowledge: h2's server towards the client, h2's client towards the pod and the sessions' programs, and
//! between them one task for each request.
//!
//! ```text
//! client → Early, Gather → h2 server ─ Shared::steer ─ task ─ (hold) ─ exchange → Link → pod | session
//!                                                        │              └ Passage → filters that follow
//!                                                        └ Taps → copies → session | pod
//! ```
//!
//! The client sees the pod's connection: its limits in SETTINGS, its GOAWAY, its end. All that belongs to a client's
//! connection ends with it; only copies get a moment more.

mod copies;
mod exchange;
mod head;
mod held;
mod link;
mod passage;
mod pump;
mod queue;
mod route;
#[cfg(test)]
mod tests;
mod upstreams;
mod windows;
mod wire;

use std::{
    cell::Cell,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Reason, server};
use mirrord_tunnel::Outgoing;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};

use self::{
    copies::Copies,
    link::{LinkError, Opening, Signal, Spent},
    route::Shared,
    upstreams::{Key, Upstreams, pod_windows},
    windows::Windows,
    wire::{Early, Gather, PeerSettings},
};
use super::steer::{Flow, Surroundings, Upstream};

/// Length of `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
const PREFACE: usize = 24;
/// Streams of a client whose pod names no limit, and the most that is offered at all.
const MAX_STREAMS: u32 = 10_000;
/// Streams offered at least: what a pod does not take at a time waits here, and stalled stolen ones do not use up its few.
const MIN_STREAMS: u32 = 100;
/// What a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// What it may send ahead on all streams together, while none is stuck.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of one stream that wait to be written.
const SEND_BUFFER: usize = 256 << 10;
/// Heads up to here are the receiver's to judge.
const MAX_HEADER_LIST: u32 = 1 << 20;
/// h2's own budget of small DATA frames closes the connection on busy but honest peers; windows bound the memory.
const DATA_FRAME_BUDGET: usize = 1 << 40;
/// How long the pod's SETTINGS are waited for. Stolen requests do not depend on a pod that hangs.
const POD_GREETING: Duration = Duration::from_secs(1);
/// A client that has been told that no more requests are taken, and has none under way, has this long to say that it has heard so.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// How long what is left of a connection's responses may take once the pod has gone.
const BROKEN_LIMIT: Duration = Duration::from_secs(1);

/// Serves a client's connection to its end. `early` is what was read of it, beginning with the HTTP/2 preface; `pod` the
/// pod's connection if it could be had, and `heard` what was read of that. Runs within a `LocalSet`.
pub async fn serve<S: Surroundings>(
    surroundings: Rc<S>,
    flow: Flow,
    client: impl AsyncRead + AsyncWrite + Unpin + 'static,
    early: Vec<u8>,
    pod: Option<S::Stream>,
    heard: Vec<u8>,
) {
    let pod_spent = Rc::new(Signal::default());
    let on_pod_spent: Rc<dyn Fn(Spent)> = {
        let pod_spent = pod_spent.clone();
        Rc::new(move |spent| pod_spent.set(spent))
    };
    let upstreams = Upstreams::new(surroundings.clone(), flow, on_pod_spent.clone());
    let mut settings = PeerSettings::default();
    let pod = match pod {
        Some(pod) => Some(pod),
        // Not there, or not yet: its SETTINGS are worth one attempt.
        None => timeout(POD_GREETING, surroundings.open(&flow, Upstream::Pod)).await.ok().and_then(Result::ok),
    };
    if let Some(pod) = pod {
        match greet(pod, heard, on_pod_spent, &upstreams).await {
            Ok(greeted) => settings = greeted,
            Err(LinkError::NotHttp2 { io, seen }) => return pass_unread(client, early, io, seen).await,
            // The pod closed the connection, and so do we.
            Err(_) => return,
        }
    }
    let client = Gather::new(Early::new(client, early), None);
    let windows = Windows::new(CONNECTION_WINDOW, STREAM_WINDOW);
    let Some(connection) = handshake(client.clone(), &settings, &windows).await else { return };
    let copies = Copies::new(surroundings.clone(), upstreams.clone());
    let (stolen, parked) = (Cell::new(0), Cell::new(0));
    let shared = Rc::new(Shared { surroundings, flow, upstreams, copies, windows, stolen, parked, broken: Signal::default() });
    let mut serving =
        Serving { connection, client, shared, pod_spent, tasks: JoinSet::new(), closing: None, limit: None, parting: false, ending: false };
    poll_fn(|cx| serving.poll(cx)).await;
    serving.shared.upstreams.close();
}

/// Greets the pod; what its SETTINGS say, or the defaults if it keeps silent for now.
async fn greet<S: Surroundings>(
    pod: S::Stream,
    heard: Vec<u8>,
    on_spent: Rc<dyn Fn(Spent)>,
    upstreams: &Upstreams<S>,
) -> Result<PeerSettings, LinkError<S::Stream>> {
    let mut opening = Opening::start(pod, heard, pod_windows(), None, Box::new(move |spent| on_spent(spent))).await?;
    let settings = timeout(POD_GREETING, opening.greeting()).await.unwrap_or_else(|_| Ok(PeerSettings::default()))?;
    upstreams.put(Key::Pod, opening.link);
    Ok(settings)
}

/// The pod does not speak HTTP/2: the client gets what the pod says to its preface.
async fn pass_unread(
    client: impl AsyncRead + AsyncWrite + Unpin,
    mut early: Vec<u8>,
    pod: impl AsyncRead + AsyncWrite + Unpin,
    seen: Vec<u8>,
) {
    early.drain(..PREFACE.min(early.len()));
    let (mut from_client, mut to_client) = split(client);
    let (mut from_pod, mut to_pod) = split(pod);
    let up = async {
        to_pod.write_all(&early).await?;
        copy(&mut from_client, &mut to_pod).await?;
        to_pod.shutdown().await
    };
    let up = async {
        match up.await {
            Ok(()) => pending().await,
            // A pod that does not read any more may still have something to say.
            Err(_) => sleep(BROKEN_LIMIT).await,
        }
    };
    let down = async {
        to_client.write_all(&seen).await?;
        copy(&mut from_pod, &mut to_client).await?;
        to_client.shutdown().await
    };
    // Errors are the client's end of the connection.
    tokio::select! { () = up => {}, _ = down => {} }
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    client: Gather<Early<T>>,
    pod: &PeerSettings,
    windows: &Windows,
) -> Option<server::Connection<Gather<Early<T>>, Outgoing>> {
    let streams = pod.max_concurrent_streams.unwrap_or(MAX_STREAMS).clamp(MIN_STREAMS, MAX_STREAMS);
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .initial_window_size(windows.stream())
        .initial_connection_window_size(windows.own())
        .max_header_list_size(pod.max_header_list_size.unwrap_or(0).clamp(MAX_HEADER_LIST, 16 * MAX_HEADER_LIST))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(MAX_STREAMS as usize)
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(None)
        .data_frame_budget(DATA_FRAME_BUDGET);
    if pod.extended_connect {
        builder.enable_connect_protocol();
    }
    let mut handshake = pin!(builder.handshake(client.clone()));
    poll_fn(|cx| {
        let connection = handshake.as_mut().poll(cx);
        match client.send(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => connection.map(Result::ok),
        }
    })
    .await
}

/// A client's connection at work.
struct Serving<T: AsyncRead + AsyncWrite + Unpin, S: Surroundings> {
    // Dropped before the tasks: what they leave open is not reset but ends with the connection.
    connection: server::Connection<Gather<Early<T>>, Outgoing>,
    client: Gather<Early<T>>,
    shared: Rc<Shared<S>>,
    pod_spent: Rc<Signal<Spent>>,
    tasks: JoinSet<()>,
    /// The pod's connection broke, with this code if it gave one; the client's does once all that came is passed on.
    closing: Option<Reason>,
    limit: Option<Pin<Box<Sleep>>>,
    /// The client has been told that this connection takes no more requests, because the agent ends.
    parting: bool,
    /// The same, because the pod's takes no more.
    ending: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static, S: Surroundings> Serving<T, S> {
    /// Ready when the connection is done with.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.parting && self.shared.surroundings.is_parting() {
            self.parting = true;
            self.connection.graceful_shutdown();
        }
        while let Poll::Ready(spent) = self.pod_spent.poll(cx) {
            self.pod_is_spent(spent);
        }
        while self.shared.broken.poll(cx).is_ready() {
            self.closing.get_or_insert(Reason::NO_ERROR);
            self.limit.get_or_insert_with(|| Box::pin(sleep(BROKEN_LIMIT)));
        }
        if let Some(size) = self.shared.windows.poll(cx) {
            self.connection.set_target_window_size(size);
        }
        while let Poll::Ready(accepted) = self.connection.poll_accept(cx) {
            match accepted {
                Some(Ok((request, respond))) => {
                    // Boxed: the runtime moves what it runs five times, and takes what is large from the allocator's slow side.
                    self.tasks.spawn_local(Box::pin(self.shared.clone().steer(request, respond)));
                }
                Some(Err(_)) | None => {
                    // Whatever h2 had to say (GOAWAY) is gathered; it goes if the socket takes it now.
                    let _ = self.client.send(cx);
                    return Poll::Ready(());
                }
            }
        }
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
            if let Err(error) = ended {
                tracing::error!(%error, "a request's task ended early");
            }
        }
        if self.ending && self.tasks.is_empty() {
            self.limit.get_or_insert_with(|| Box::pin(sleep(FAREWELL_LIMIT)));
        }
        match self.client.send(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) if self.is_finished() => return self.close(cx),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if self.limit.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready()) {
            return self.close(cx);
        }
        Poll::Pending
    }

    fn pod_is_spent(&mut self, spent: Spent) {
        // A session that is answering on this connection is not disturbed; the next request to the pod gets a new one.
        if self.shared.stolen.get() > 0 {
            return;
        }
        match spent {
            Spent::GoAway(Reason::NO_ERROR) => self.end(),
            Spent::GoAway(reason) => self.closing = Some(reason),
            // Requests whose response is not complete break the connection, those that the pod never looked at do not.
            Spent::Closed => self.end(),
        }
    }

    fn end(&mut self) {
        self.connection.graceful_shutdown();
        self.ending = true;
    }

    /// The connection is to break, and no task has anything more to pass on.
    fn is_finished(&self) -> bool {
        self.closing.is_some() && self.shared.parked.get() == self.tasks.len()
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Says which requests were never looked at, so that those under way just now can be made again elsewhere.
        self.connection.abrupt_shutdown(self.closing.unwrap_or(Reason::NO_ERROR));
        // As far as the socket takes it now: the connection is broken anyway.
        let _ = self.connection.poll_accept(cx);
        let _ = self.client.send(cx);
        Poll::Ready(())
    }
}
