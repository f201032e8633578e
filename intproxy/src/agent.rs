//! The control connection to the agent: uploads, the session and its events, subscriptions.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use mirrord_protocol::{
    control::{self, ErrorReply, Event, FilterLink, FilterReply, SessionRequest, SwapRequest},
    limits::MAX_CONTROL_BODY,
};
use tokio::net::UnixStream;

/// An answer that needs no more than the agent's own work. Compiling a filter is the longest of it: some 10 s of a processor for one
/// made with Go, which may not be the only one's. An agent that is gone is noticed by its pings, long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// An agent that does not answer pings for this long (stopped, starved) is given up.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// A handle on the control connection.
#[derive(Clone)]
pub struct Agent {
    exchanges: http2::SendRequest<Full<Bytes>>,
}

/// The events of an open session; dropping it ends the session.
pub struct Events {
    body: Incoming,
    /// The part of a line that has come so far.
    partial: Vec<u8>,
}

pub(crate) fn failure(error: impl ToString, help: &str) -> ErrorReply {
    ErrorReply { error: error.to_string(), help: help.to_owned() }
}

pub(crate) fn gone(error: impl std::fmt::Display) -> ErrorReply {
    failure(format!("the agent does not answer: {error}"), "run the command again; MIRRORD_AGENT_LOG=FILE keeps the agent's log")
}

impl Agent {
    /// Connects to the agent's socket.
    pub async fn connect(path: &Path) -> Result<Self, ErrorReply> {
        let socket = dial(path).await.map_err(gone)?;
        let mut builder = http2::Builder::new(LocalTasks);
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT).keep_alive_while_idle(true);
        let (exchanges, connection) = builder.handshake(TokioIo::new(socket)).await.map_err(gone)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the control connection ended");
            }
        });
        Ok(Self { exchanges })
    }

    /// Uploads a filter; its hash names it afterwards.
    pub async fn upload(&self, name: &str, module: Vec<u8>) -> Result<FilterReply, ErrorReply> {
        let request = Request::post(uri(control::FILTERS)).header(control::FILTER_NAME, name).body(Full::from(module)).map_err(gone)?;
        let bytes = self.ask(request).await?;
        serde_json::from_slice(&bytes).map_err(gone)
    }

    /// Opens the session.
    pub async fn open(&self, session: &SessionRequest) -> Result<Events, ErrorReply> {
        let body = serde_json::to_vec(session).map_err(gone)?;
        Ok(Events { body: self.send(request(Method::POST, control::SESSION, body)?).await?, partial: Vec::new() })
    }

    /// Gives the open session other filters; returns once they are in use. Their modules were uploaded.
    pub async fn swap(&self, chain: Vec<FilterLink>) -> Result<(), ErrorReply> {
        let body = serde_json::to_vec(&SwapRequest { chain }).map_err(gone)?;
        self.simple(Method::PUT, control::SESSION_FILTERS, body).await
    }

    /// `PUT` begins, `DELETE` ends a subscription of a port; returns once it has taken effect.
    pub async fn subscription(&self, method: Method, port: u16) -> Result<(), ErrorReply> {
        self.simple(method, &format!("{}{port}", control::SUBSCRIPTIONS), Vec::new()).await
    }

    /// A request that has no answer but that it is done.
    pub(crate) async fn simple(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(), ErrorReply> {
        self.ask(request(method, path, body)?).await.map(drop)
    }

    /// A request that is answered at once.
    pub(crate) async fn bytes(&self, method: Method, path: &str) -> Result<Bytes, ErrorReply> {
        self.ask(request(method, path, Vec::new())?).await
    }

    /// A request that is answered by lines without an end.
    pub(crate) async fn lines(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Lines, ErrorReply> {
        Ok(Lines { body: self.send(request(method, path, body)?).await?, partial: Vec::new() })
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ErrorReply> {
        read(self.send(request).await?).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Incoming, ErrorReply> {
        let mut exchanges = self.exchanges.clone();
        let answer = async {
            exchanges.ready().await?;
            exchanges.send_request(request).await
        };
        let (head, body) = tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(gone)?.map_err(gone)?.into_parts();
        if head.status == StatusCode::OK {
            return Ok(body);
        }
        let bytes = read(body).await?;
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| gone(head.status)))
    }
}

impl Events {
    /// The next event; `None` when the session is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(event) => return Some(event),
                    // A newer agent may say things that we do not know.
                    Err(error) => tracing::debug!(%error, "an event that cannot be read"),
                }
                continue;
            }
            if self.partial.len() > MAX_CONTROL_BODY {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.partial.extend_from_slice(&data);
            }
        }
    }
}

/// Longest line: an exchange with two bodies of a MiB in base64, and its headers.
const MAX_LINE: usize = 8 << 20;

/// A reply that comes line by line.
pub(crate) struct Lines {
    body: Incoming,
    /// The part of a line that has come so far.
    partial: Vec<u8>,
}

impl Lines {
    /// One or more whole lines; `None` at the end. Cancel-safe.
    pub(crate) async fn piece(&mut self) -> Option<Vec<u8>> {
        loop {
            let frame = self.body.frame().await?.ok()?;
            let Ok(data) = frame.into_data() else { continue };
            let Some(end) = data.iter().rposition(|byte| *byte == b'\n') else {
                self.partial.extend_from_slice(&data);
                if self.partial.len() > MAX_LINE {
                    return None;
                }
                continue;
            };
            let mut piece = std::mem::take(&mut self.partial);
            piece.extend_from_slice(&data[..=end]);
            self.partial.extend_from_slice(&data[end + 1..]);
            return Some(piece);
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, ErrorReply> {
    let collected = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(body, MAX_CONTROL_BODY).collect()).await;
    Ok(collected.map_err(gone)?.map_err(gone)?.to_bytes())
}

fn request(method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, ErrorReply> {
    Request::builder().method(method).uri(uri(path)).body(Full::from(body)).map_err(gone)
}

fn uri(path: &str) -> String {
    format!("http://agent{path}")
}

/// A connection to the agent's socket.
pub async fn dial(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// hyper's tasks stay on this thread.
#[derive(Clone, Copy)]
struct LocalTasks;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}
