//! Ports of this machine that lead into the target's network (`mirrord port-forward -L`): each connection becomes a stream to one of the
//! session's agents, which connects from there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::Request;
use mirrord_protocol::{
    control::{ErrorReply, Level},
    deliver,
};
use mirrord_tunnel::{Client, Refusal};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};

use crate::{
    agent::failure,
    agents::Agents,
    settings::{Mapping, Report},
};

/// Most connections at a time, as many as an agent makes for a session; more wait in the backlog.
const MOST: usize = 256;
/// What went wrong is told once in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// The listeners, and where each leads.
pub struct Forwards(Vec<(TcpListener, Mapping)>);

impl Forwards {
    /// Listens on loopback.
    pub async fn bind(mappings: &[Mapping]) -> Result<Self, ErrorReply> {
        let mut listeners = Vec::new();
        for mapping in mappings {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, mapping.local));
            let listener = TcpListener::bind(address).await;
            let help = "choose another port of this machine: LOCAL:HOST:PORT";
            listeners.push((listener.map_err(|error| failure(format!("cannot listen on {address}: {error}"), help))?, mapping.clone()));
        }
        Ok(Self(listeners))
    }

    /// Serves until dropped.
    pub async fn run(self, agents: Agents, report: impl Fn(Report) + Clone + 'static) {
        let room = Arc::new(Semaphore::new(MOST));
        let mut listening = tokio::task::JoinSet::new();
        for (listener, mapping) in self.0 {
            listening.spawn_local(accept(listener, mapping.to, agents.clone(), room.clone(), report.clone()));
        }
        while listening.join_next().await.is_some() {}
    }
}

async fn accept(listener: TcpListener, to: String, agents: Agents, room: Arc<Semaphore>, report: impl Fn(Report) + Clone + 'static) {
    // They end with this task.
    let mut carrying = tokio::task::JoinSet::new();
    let mut told: Option<Instant> = None;
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = carrying.join_next() => {
                if let Ok(Err(error)) = ended && told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    report(Report::Notice { level: Level::Warn, message: format!("no connection to {to} from the target: {error}") });
                }
                continue;
            }
        };
        let Ok((local, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (agents, to) = (agents.clone(), to.clone());
        carrying.spawn_local(async move {
            let _permit = permit;
            let stream = match agents.outgoing() {
                Some(client) => open(&client, &to).await?,
                None => return Err(io::Error::new(io::ErrorKind::NotConnected, "the session is at no agent just now")),
            };
            // From here on it is the two ends' business.
            if let Err(error) = carry(local, stream).await {
                tracing::debug!(%error, to, "a forwarded connection has ended");
            }
            Ok(())
        });
    }
}

async fn open(client: &Client, to: &str) -> io::Result<mirrord_tunnel::Stream> {
    let head = Request::post(format!("http://mirrord{}", deliver::OUTGOING)).header(deliver::TO, to).body(()).map_err(io::Error::other)?;
    match client.open(head).await {
        Ok(stream) => Ok(stream),
        Err(Refusal::Answered(response)) => {
            let why = response.headers().get(deliver::ERROR).and_then(|why| why.to_str().ok()).unwrap_or("the agent refuses it");
            Err(io::Error::other(why.to_owned()))
        }
        Err(Refusal::Failed(error)) => Err(io::Error::other(error)),
    }
}

async fn carry(local: TcpStream, stream: mirrord_tunnel::Stream) -> io::Result<()> {
    local.set_nodelay(true)?;
    mirrord_tunnel::copy(local, stream).await
}
