//! Copies of requests for sessions that mirror, and for the pod of those that a session answers. A copy has a small queue of its own; a program that does not keep up loses
//! copies, and neither the client nor the pod ever waits for one.
//!
//! `client's request → Taps ─queue (bounded)→ copy task → session's program → answer thrown away`

use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{Reason, SendStream, client::ResponseFuture};
use http::Request;
use mirrord_tunnel::Outgoing;
use tokio::sync::watch;

use super::{
    queue::{Piece, Queue, Taps},
    upstreams::{Key, Upstreams},
};
use crate::gateway::steer::{Event, Surroundings, Upstream};

/// Copies that are under way when the client closes get so long.
const AFTERMATH: Duration = Duration::from_secs(5);

/// The copies of one client connection.
pub(super) struct Copies<S: Surroundings> {
    surroundings: Rc<S>,
    upstreams: Rc<Upstreams<S>>,
    /// Dropped with the client's connection.
    client_tx: watch::Sender<()>,
}

impl<S: Surroundings> Copies<S> {
    pub(super) fn new(surroundings: Rc<S>, upstreams: Rc<Upstreams<S>>) -> Self {
        Copies { surroundings, upstreams, client_tx: watch::channel(()).0 }
    }

    /// Starts a copy of a request as it came; what comes of its body goes through `taps`. `end_stream`: nothing does.
    pub(super) fn start(&self, upstream: Upstream, head: &Request<()>, end_stream: bool, taps: &mut Taps) {
        let surroundings = self.surroundings.clone();
        let count_dropped = Box::new(move || surroundings.count(Event::CopyDropped));
        let Some(queue) = Queue::new(upstream, head.headers(), count_dropped) else {
            return self.surroundings.count(Event::CopyDropped);
        };
        let queue = Rc::new(queue);
        if !end_stream {
            taps.0.push(queue.clone());
        }
        let copy = carry(self.upstreams.clone(), upstream, head_of(head), end_stream, queue.clone());
        let mut client_rx = self.client_tx.subscribe();
        let surroundings = self.surroundings.clone();
        tokio::task::spawn_local(async move {
            let aftermath = async {
                while client_rx.changed().await.is_ok() {}
                tokio::time::sleep(AFTERMATH).await;
            };
            let carried = tokio::select! { carried = copy => carried, () = aftermath => false };
            if !carried && !queue.is_overflown() {
                surroundings.count(Event::CopyDropped);
            }
        });
    }
}

/// A head once more, extensions (`:protocol`) included.
pub(super) fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    *head.extensions_mut() = request.extensions().clone();
    head
}

/// Carries one copy to its upstream. False if it did not get there.
async fn carry<S: Surroundings>(
    upstreams: Rc<Upstreams<S>>,
    upstream: Upstream,
    head: Request<()>,
    end_stream: bool,
    queue: Rc<Queue>,
) -> bool {
    let Ok(link) = upstreams.get(Key::Copies(upstream)).await else { return false };
    // The upstreams must not outlive the client's connection by copies alone: the link is enough from here.
    drop(upstreams);
    let Ok((response, mut to)) = link.send(head, end_stream) else { return false };
    let upload = async { if end_stream { true } else { upload(&queue, &mut to).await } };
    let (uploaded, answered) = tokio::join!(upload, discard(response));
    // A program may refuse the rest of a copy; that is its answer. Only what did not reach it is lost.
    answered && (uploaded || link.is_usable())
}

async fn upload(queue: &Queue, to: &mut SendStream<Outgoing>) -> bool {
    loop {
        match poll_fn(|cx| queue.poll_next(cx)).await {
            Some(Piece::Data(data)) => {
                let size = data.len();
                let sent = send_all(queue, to, data).await;
                queue.sent(size);
                if !sent {
                    if queue.is_overflown() {
                        to.send_reset(Reason::CANCEL);
                    }
                    return false;
                }
            }
            Some(Piece::Trailers(trailers)) => return to.send_trailers(trailers).is_ok(),
            Some(Piece::End) => return to.send_data(Bytes::new().into(), true).is_ok(),
            Some(Piece::Reset(reason)) => {
                to.send_reset(reason);
                return true;
            }
            None => {
                to.send_reset(Reason::CANCEL);
                return false;
            }
        }
    }
}

/// Sends one piece as the program grants; false if the program does not want it or fell too far behind.
async fn send_all(queue: &Queue, to: &mut SendStream<Outgoing>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let granted = poll_fn(|cx| {
            if queue.is_overflown() {
                return Poll::Ready(0);
            }
            if to.capacity() > 0 {
                return Poll::Ready(to.capacity());
            }
            queue.register(cx);
            match to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => Poll::Ready(to.capacity()),
                Poll::Ready(_) => Poll::Ready(0),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if granted == 0 || to.send_data(data.split_to(granted.min(data.len())).into(), false).is_err() {
            return false;
        }
    }
    true
}

/// Reads an answer to its end. False if the connection broke before it began.
async fn discard(response: ResponseFuture) -> bool {
    let mut body = match response.await {
        Ok(response) => response.into_body(),
        Err(error) => return error.is_reset(),
    };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    true
}
