//! The two ends of a tunnel connection, with the settings that matter on both, and the driver that flushes gathered writes.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{client, server};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    CONNECTION_WINDOW, MAX_HEAD, MAX_STREAMS, Outgoing, Purse, SEND_BUFFER, SEND_PURSE, STREAM_WINDOW, gather::Gathered, stream::Stream,
};

/// h2's default counts a thousand small DATA frames in a row as an attack and ends the connection; deliveries are small frames.
const DATA_FRAME_BUDGET: usize = 1 << 40;
/// Cancelled flows are ordinary here: each is a client that went away.
const MAX_RESETS: usize = 10_000;

/// The end that opens streams: the agent's.
#[derive(Clone)]
pub struct Client {
    send: client::SendRequest<Outgoing>,
    purse: Purse,
}

/// Why a stream was not opened.
#[derive(Debug)]
pub enum Refusal {
    /// The peer answered with a status other than 200; its head says why.
    Answered(Response<()>),
    /// The connection or the stream failed.
    Failed(h2::Error),
}

impl Client {
    /// Shakes hands; the second value drives the connection and must be polled (spawned) until it ends.
    pub async fn connect<T>(io: T) -> io::Result<(Self, impl Future<Output = io::Result<()>>)>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (gathered, flusher) = Gathered::new(io);
        let mut builder = client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(MAX_STREAMS as usize)
            .max_header_list_size(MAX_HEAD)
            .max_concurrent_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .header_table_size(0)
            .enable_push(false);
        let mut handshake = Box::pin(builder.handshake::<_, Outgoing>(gathered));
        let (send, mut connection) =
            poll_fn(|cx| flushed(&flusher, cx, |cx| handshake.as_mut().poll(cx))).await?.map_err(io::Error::other)?;
        drop(handshake);
        let driver = async move {
            let ended = poll_fn(|cx| flushed(&flusher, cx, |cx| Pin::new(&mut connection).poll(cx))).await?;
            poll_fn(|cx| flusher.flush_now(cx)).await?;
            ended.map_err(io::Error::other)
        };
        Ok((Self { send, purse: Purse::new(SEND_PURSE) }, driver))
    }

    /// Opens a stream; resolves once the peer has answered its head.
    pub async fn open(&self, head: Request<()>) -> Result<Stream, Refusal> {
        let mut send = self.send.clone().ready().await.map_err(Refusal::Failed)?;
        let (response, stream) = send.send_request(head, false).map_err(Refusal::Failed)?;
        let mut guard = Cancel(Some(stream));
        let (head, recv) = response.await.map_err(Refusal::Failed)?.into_parts();
        match guard.0.take() {
            Some(stream) if head.status == StatusCode::OK => Ok(Stream::new(stream, recv, &self.purse)),
            _ => Err(Refusal::Answered(Response::from_parts(head, ()))),
        }
    }
}

/// Resets a stream whose opener gave up waiting.
struct Cancel(Option<h2::SendStream<Outgoing>>);

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            stream.send_reset(h2::Reason::CANCEL);
        }
    }
}

/// The end that takes streams: the intproxy's.
pub struct Server<T> {
    connection: server::Connection<Gathered<T>, Outgoing>,
    flusher: Gathered<T>,
    purse: Purse,
}

/// A stream that the peer has opened and that nobody has answered yet.
pub struct Offer {
    /// The head that it came with.
    pub head: Request<()>,
    recv: h2::RecvStream,
    respond: server::SendResponse<Outgoing>,
    purse: Purse,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Server<T> {
    /// Shakes hands.
    pub async fn accept(io: T) -> io::Result<Self> {
        let (gathered, flusher) = Gathered::new(io);
        let mut builder = server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .max_concurrent_reset_streams(MAX_RESETS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(DATA_FRAME_BUDGET);
        let mut handshake = Box::pin(builder.handshake::<_, Outgoing>(gathered));
        let connection = poll_fn(|cx| flushed(&flusher, cx, |cx| handshake.as_mut().poll(cx))).await?.map_err(io::Error::other)?;
        drop(handshake);
        Ok(Self { connection, flusher, purse: Purse::new(SEND_PURSE) })
    }

    /// The next stream; drives the connection, so it must be awaited all the time. `None` when the peer is gone.
    pub async fn next(&mut self) -> io::Result<Option<Offer>> {
        let Self { connection, flusher, purse } = self;
        match poll_fn(|cx| flushed(flusher, cx, |cx| connection.poll_accept(cx))).await? {
            None => Ok(None),
            Some(offer) => {
                let (request, respond) = offer.map_err(io::Error::other)?;
                let (head, recv) = request.into_parts();
                Ok(Some(Offer { head: Request::from_parts(head, ()), recv, respond, purse: purse.clone() }))
            }
        }
    }
}

impl Offer {
    /// Answers 200: from now on both bodies are the flow.
    pub fn accept(mut self) -> Result<Stream, h2::Error> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(Stream::new(send, self.recv, &self.purse))
    }

    /// Answers with a head that says why not.
    pub fn refuse(mut self, head: Response<()>) -> Result<(), h2::Error> {
        self.respond.send_response(head, true).map(drop)
    }
}

/// Polls, and writes what the poll has gathered if there is nothing more to do.
fn flushed<T, R>(flusher: &Gathered<T>, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<R>) -> Poll<io::Result<R>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let polled = poll(cx);
    if polled.is_pending() {
        // Not written in full: the transport wakes this task when it can go on.
        if let Poll::Ready(Err(error)) = flusher.flush_now(cx) {
            return Poll::Ready(Err(error));
        }
    }
    Poll::Ready(Ok(ready!(polled)))
}
