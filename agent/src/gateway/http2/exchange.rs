//! One request and its response, carried between the client's stream and an upstream's: heads edited, bodies pumped both
//! ways at once, resets passed on with their reason.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use h2::{Reason, RecvStream, SendStream, client::ResponseFuture, server::SendResponse};
use http::{HeaderMap, Request, Response, header};
use mirrord_filters::{Edit, LocalResponse, Side};
use mirrord_protocol::records::End;
use mirrord_tunnel::Outgoing;

use super::{
    head,
    link::{Link, let_flush},
    passage::{Following, Passage},
    pump::{Body, Stop},
    windows::Windows,
};
use crate::records::exchanges::Observer;

/// The client's side of a request, without its head.
pub(super) struct Incoming {
    pub(super) body: Body,
    pub(super) respond: SendResponse<Outgoing>,
    /// Looks at the exchange, if somebody inspects.
    pub(super) observer: Option<Observer>,
    /// If its upstream's time to answer is measured.
    pub(super) clock: Clock,
}

/// The time from a request's verdict to the head of its response.
#[derive(Default)]
pub(super) struct Clock {
    pub(super) decided: Option<Instant>,
    took: Option<Duration>,
}

impl Clock {
    fn stop(&mut self) {
        if let Some(decided) = self.decided.take() {
            self.took = Some(decided.elapsed());
        }
    }

    /// What was measured, once.
    pub(super) fn take(&mut self) -> Option<Duration> {
        self.took.take()
    }
}

/// Why an exchange did not come to its end.
pub(super) enum Failed {
    /// The client reset its stream or is gone. The upstream has been told.
    ClientGone,
    /// The upstream failed before the client got a response.
    Unanswered(h2::Error),
    /// The upstream failed within the response. The stream is the client's, still open.
    CutOff(h2::Error, SendStream<Outgoing>),
    /// A filter that follows the exchange gives this answer instead of the upstream's.
    Replaced(LocalResponse),
    /// A filter that follows the exchange wants it reset.
    Aborted,
}

/// What filters do to a response.
#[derive(Default)]
pub(super) struct Edits {
    pub(super) response: Vec<Edit>,
    pub(super) follow: Option<Following>,
}

impl Edits {
    /// Edits a response's head, or has something else become of it.
    fn judge(&self, response: &mut Response<()>) -> Result<(), Down> {
        head::edit_headers(response.headers_mut(), &self.response);
        let Some(mut follow) = self.follow.as_ref().map(|follow| follow.borrow_mut()).filter(|follow| follow.wants_response()) else {
            return Ok(());
        };
        let decision = head::with_response(response, |parts| follow.on_response(parts));
        head::edit_headers(response.headers_mut(), &decision.edits);
        match decision.replace {
            _ if decision.abort => Err(Down::Aborted),
            Some(local) => Err(Down::Replaced(local)),
            None => Ok(()),
        }
    }
}

/// What an upstream's failure means for the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The upstream reset the stream (or h2 did, for what the upstream sent on it).
    Reset(Reason),
    /// The upstream said GOAWAY before it looked at the request.
    Unprocessed,
    /// The connection broke.
    Broken,
}

pub(super) fn fault(error: &h2::Error) -> Fault {
    match error.reason() {
        Some(reason) if error.is_reset() => Fault::Reset(reason),
        Some(_) if error.is_go_away() && error.is_remote() => Fault::Unprocessed,
        // h2 would not send it: the connection is well.
        None if !error.is_io() => Fault::Reset(Reason::INTERNAL_ERROR),
        _ => Fault::Broken,
    }
}

/// Carries a request to its end.
pub(super) async fn exchange(link: &Link, mut head: Request<()>, incoming: &mut Incoming, edits: &Edits) -> Result<(), Failed> {
    let Incoming { body, respond, observer, clock } = incoming;
    if let Some(follow) = &edits.follow {
        Box::pin(pass_through(follow, Side::Request, body, head.headers_mut())).await.map_err(|stop| match stop {
            Stop::Aborted => Failed::Aborted,
            Stop::Source(_) | Stop::Sink => Failed::ClientGone,
        })?;
    }
    let mut uploading = !body.is_end_stream();
    let (response, mut to_upstream) = link.send(head, !uploading).map_err(Failed::Unanswered)?;
    let mut downloading = true;
    let ended = {
        let mut upload = pin!(body.pump(&mut to_upstream, link.purse()));
        let mut download = pin!(download(response, respond, link.windows(), observer.as_ref(), edits, clock));
        loop {
            tokio::select! {
                biased;
                downloaded = &mut download, if downloading => match downloaded {
                    Ok(()) => downloading = false,
                    Err(stop) => break Err(stop),
                },
                uploaded = &mut upload, if uploading => match uploaded {
                    Ok(()) => uploading = false,
                    // Why, and whether it matters, the response tells: an upstream may answer without reading all.
                    Err(Stop::Sink) => uploading = false,
                    Err(Stop::Source(error)) => break Err(Down::Client(error.reason())),
                    Err(Stop::Aborted) => break Err(Down::Aborted),
                },
                else => break Ok(()),
            }
        }
    };
    ended.map_err(|down| match down {
        Down::Client(reason) => {
            to_upstream.send_reset(reason.unwrap_or(Reason::CANCEL));
            Failed::ClientGone
        }
        Down::BeforeHead(error) => Failed::Unanswered(error),
        Down::InBody(error, to_client) => Failed::CutOff(error, to_client),
        Down::Replaced(local) => {
            to_upstream.send_reset(Reason::CANCEL);
            Failed::Replaced(local)
        }
        Down::Aborted => {
            to_upstream.send_reset(Reason::CANCEL);
            Failed::Aborted
        }
    })
}

enum Down {
    Client(Option<Reason>),
    BeforeHead(h2::Error),
    InBody(h2::Error, SendStream<Outgoing>),
    Replaced(LocalResponse),
    Aborted,
}

/// Has a body go through the filters that look at it. Where they may change its length, the head waits for the first of it, if it
/// says a length.
async fn pass_through(follow: &Following, side: Side, body: &mut Body, headers: &mut HeaderMap) -> Result<(), Stop> {
    if body.follow(Passage::new(follow, side)) && headers.contains_key(header::CONTENT_LENGTH) {
        head::set_length(headers, body.judge_first().await?);
    }
    Ok(())
}

async fn download(
    mut response: ResponseFuture,
    respond: &mut SendResponse<Outgoing>,
    windows: Rc<Windows>,
    observer: Option<&Observer>,
    edits: &Edits,
    clock: &mut Clock,
) -> Result<(), Down> {
    let (parts, stream) = poll_fn(|cx| poll_head(cx, &mut response, respond)).await?.into_parts();
    clock.stop();
    let mut head = Response::from_parts(parts, ());
    if let Some(observer) = observer {
        head::with_response(&head, |parts| observer.response_head(parts));
    }
    let is_edited = !edits.response.is_empty() || edits.follow.is_some();
    if is_edited {
        edits.judge(&mut head)?;
    }
    let mut body = Body::new(stream, windows);
    body.observe(observer, Side::Response);
    if let Some(follow) = &edits.follow {
        let first = Box::pin(pass_through(follow, Side::Response, &mut body, head.headers_mut()));
        let judged = tokio::select! {
            judged = first => judged,
            reset = poll_fn(|cx| respond.poll_reset(cx)) => return Err(Down::Client(reset.ok())),
        };
        judged.map_err(|stop| match stop {
            Stop::Source(error) => Down::BeforeHead(error),
            Stop::Sink => Down::Client(None),
            Stop::Aborted => Down::Aborted,
        })?;
    }
    let ends = body.is_end_stream();
    let mut to_client = respond.send_response(head, ends).map_err(|error| Down::Client(error.reason()))?;
    let end = || observer.inspect(|observer| observer.end(End::Complete));
    if ends {
        end();
        return Ok(());
    }
    match body.pump(&mut to_client, None).await {
        Ok(()) => {
            end();
            Ok(())
        }
        Err(Stop::Source(error)) => {
            // A reset would overtake what is still queued.
            let_flush().await;
            Err(Down::InBody(error, to_client))
        }
        Err(Stop::Aborted) => Err(Down::Aborted),
        Err(Stop::Sink) => Err(Down::Client(poll_fn(|cx| Poll::Ready(reset_reason(to_client.poll_reset(cx)))).await)),
    }
}

/// Passes informational responses on until the final one comes.
fn poll_head(
    cx: &mut Context<'_>,
    response: &mut ResponseFuture,
    respond: &mut SendResponse<Outgoing>,
) -> Poll<Result<Response<RecvStream>, Down>> {
    while let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
        match informational {
            Ok(informational) => {
                if let Err(error) = respond.send_informational(informational) {
                    return Poll::Ready(Err(Down::Client(error.reason())));
                }
            }
            Err(error) => return Poll::Ready(Err(Down::BeforeHead(error))),
        }
    }
    if let Poll::Ready(head) = Pin::new(response).poll(cx) {
        return Poll::Ready(head.map_err(Down::BeforeHead));
    }
    match respond.poll_reset(cx) {
        Poll::Pending => Poll::Pending,
        reset => Poll::Ready(Err(Down::Client(reset_reason(reset)))),
    }
}

fn reset_reason(reset: Poll<Result<Reason, h2::Error>>) -> Option<Reason> {
    match reset {
        Poll::Ready(Ok(reason)) => Some(reason),
        Poll::Ready(Err(_)) | Poll::Pending => None,
    }
}
