//! What the agent tells about requests, for the command line: decisions (`explain`) and exchanges (`inspect`). A thread of its own
//! keeps the connection, so that a slow terminal is no silent peer; what it does not take waits at the agent, up to a bound there.
//!
//! `agent --lines--> thread --bounded channel--> command line`

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    time::{Duration, Instant},
};

use mirrord_protocol::{control::ErrorReply, records::InspectRequest};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    agent::{Agent, Lines, failure, gone},
    session::upload,
    settings::FilterFile,
};

/// Pieces of lines that wait for the command line.
const ROOM: usize = 64;
/// How often it is tried again to hand over a piece.
const AGAIN: Duration = Duration::from_millis(5);
/// How a process ends that was told to for the second time, as shells write it.
const INTERRUPTED: i32 = 128 + 2;
/// What was seen is told so long after the end was asked for.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Lines of the agent's.
pub struct Feed(Receiver<Result<Vec<u8>, ErrorReply>>);

/// What comes of waiting.
#[derive(Debug)]
pub enum Next {
    /// One or more whole lines.
    Lines(Vec<u8>),
    /// Nothing within the time.
    NotYet,
    /// Nothing more, and why if that is a failure.
    End(Option<ErrorReply>),
}

impl Feed {
    /// What comes next.
    pub fn next(&self, within: Duration) -> Next {
        match self.0.recv_timeout(within) {
            Ok(Ok(lines)) => Next::Lines(lines),
            Ok(Err(error)) => Next::End(Some(error)),
            Err(RecvTimeoutError::Timeout) => Next::NotYet,
            Err(RecvTimeoutError::Disconnected) => Next::End(None),
        }
    }
}

/// Asks for decisions; `query` as `GET /v1/explain` takes it.
pub fn explain(agent: PathBuf, query: String) -> Result<Feed, ErrorReply> {
    start(async move |out| {
        let agent = Agent::connect(&agent).await?;
        let mut lines = agent.decisions(&query).await?;
        while let Some(piece) = lines.piece().await {
            hand(&out, &mut Some(piece)).await;
        }
        Ok(None)
    })
}

/// Opens an inspecting session; SIGINT, SIGTERM or SIGHUP ends it in order, a second one at once, also where a reader who stands
/// still keeps the command line from writing its last words.
pub fn inspect(agent: PathBuf, filters: Vec<FilterFile>, mut request: InspectRequest) -> Result<Feed, ErrorReply> {
    start(async move |out| {
        let mut signals = Signals::watch()?;
        let agent = Agent::connect(&agent).await?;
        request.chain = upload(&agent, &filters).await?;
        let mut lines = agent.inspect(&request).await?;
        // What is on its way to the command line when a signal comes is not lost.
        let mut held = None;
        loop {
            tokio::select! {
                piece = lines.piece(), if held.is_none() => match piece {
                    Some(piece) => held = Some(piece),
                    None => return Ok(None),
                },
                () = hand(&out, &mut held), if held.is_some() => {}
                () = signals.next() => break,
            }
        }
        let deadline = Instant::now() + LAST_WORDS;
        let rest = async {
            agent.end_inspection().await?;
            hand(&out, &mut held).await;
            while let Some(piece) = lines.piece().await {
                hand(&out, &mut Some(piece)).await;
            }
            Ok(())
        };
        tokio::select! {
            rest = tokio::time::timeout_at(deadline.into(), rest) => rest.unwrap_or(Ok(())).map(|()| Some(signals)),
            () = signals.next() => std::process::exit(INTERRUPTED),
        }
    })
}

/// The signals by which a user ends a command.
struct Signals([Signal; 3]);

impl Signals {
    fn watch() -> Result<Self, ErrorReply> {
        let watch = |kind| signal(kind).map_err(|error| failure(error, ""));
        Ok(Self([watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
    }
}

type Out = SyncSender<Result<Vec<u8>, ErrorReply>>;

/// Does the work on a thread of its own. It gives back the signals that it has taken from their usual effect: the next one ends the
/// process if that has not come to its end meanwhile.
fn start(work: impl AsyncFnOnce(Out) -> Result<Option<Signals>, ErrorReply> + Send + 'static) -> Result<Feed, ErrorReply> {
    let (out, feed) = sync_channel(ROOM);
    let run = move || {
        let failed = out.clone();
        let ended =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failure(error, "")).and_then(|runtime| {
                let signals = tokio::task::LocalSet::new().block_on(&runtime, work(out))?;
                Ok(signals.map(|signals| (runtime, signals)))
            });
        match ended {
            Ok(None) => {}
            Ok(Some((runtime, mut signals))) => {
                // Only then the feed ends.
                drop(failed);
                runtime.block_on(signals.next());
                std::process::exit(INTERRUPTED);
            }
            Err(error) => {
                let _ = failed.send(Err(error));
            }
        }
    };
    std::thread::Builder::new()
        .name("agent".into())
        .spawn(run)
        .map_err(|error| failure(error, "raise the limit of processes (ulimit -u)"))?;
    Ok(Feed(feed))
}

/// Waits for room without holding up the connection's own work; the piece stays with the caller until it is taken.
async fn hand(out: &Out, held: &mut Option<Vec<u8>>) {
    while let Some(piece) = held.take() {
        match out.try_send(Ok(piece)) {
            Err(TrySendError::Full(Ok(again))) => *held = Some(again),
            _ => return,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Agent {
    async fn decisions(&self, query: &str) -> Result<Lines, ErrorReply> {
        self.lines(http::Method::GET, &format!("{}?{query}", mirrord_protocol::records::EXPLAIN), Vec::new()).await
    }

    async fn inspect(&self, request: &InspectRequest) -> Result<Lines, ErrorReply> {
        let body = serde_json::to_vec(request).map_err(gone)?;
        self.lines(http::Method::POST, mirrord_protocol::records::INSPECT, body).await
    }

    async fn end_inspection(&self) -> Result<(), ErrorReply> {
        self.simple(http::Method::DELETE, mirrord_protocol::records::INSPECT, Vec::new()).await
    }
}
