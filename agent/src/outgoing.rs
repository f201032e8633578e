//! Connections that sessions make from the target's network (`mirrord port-forward -L`): on a connection of a session's own, the
//! intproxy opens a stream for each, and the agent connects to where its head says. All of it is on one thread in the namespace, apart
//! from the workers: other people's traffic has no part in it.
//!
//! ```text
//! control --Order--> thread: a connection a session --stream--> connect, past the redirect --bytes both ways--> host
//! ```

use std::{collections::HashMap, io, os::unix::net::UnixStream, sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode};
use mirrord_protocol::{deliver, limits::HELLO_TIMEOUT};
use mirrord_tunnel::{Offer, Quiet, Server};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet, LocalSet},
    time::timeout,
};

use crate::{
    gateway::steer::SessionId,
    netns::{NetNs, NetNsError},
    socket::PodConnector,
};

/// Most connections at a time, of one session and of all.
const EACH: usize = 256;
const ALL: usize = 1024;
/// How long a look-up and a connect may take together.
const CONNECT: Duration = Duration::from_secs(15);
/// Threads for look-ups, which block.
const LOOKING_UP: usize = 16;

/// What the thread is told.
pub enum Order {
    /// A session's connection; it takes the place of one before.
    Serve(SessionId, UnixStream),
    /// The session has ended, and its connections with it.
    End(SessionId),
}

/// The thread; it ends with this value.
pub struct Outgoing(mpsc::UnboundedSender<Order>);

impl Outgoing {
    /// Starts it.
    pub fn start(netns: &NetNs, pod: PodConnector) -> Result<Self, NetNsError> {
        // control --Order--> thread; bounded by the number of sessions.
        let (orders, inbox) = mpsc::unbounded_channel();
        netns.spawn("outgoing", move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(LOOKING_UP).build() {
                Ok(runtime) => LocalSet::new().block_on(&runtime, obey(inbox, pod)),
                Err(error) => tracing::error!(%error, "no connections from the target's network"),
            }
        })?;
        Ok(Self(orders))
    }

    /// Tells the thread.
    pub fn order(&self, order: Order) {
        let _ = self.0.send(order);
    }
}

async fn obey(mut inbox: mpsc::UnboundedReceiver<Order>, pod: PodConnector) {
    let all = Arc::new(Semaphore::new(ALL));
    let mut sessions: HashMap<SessionId, AbortHandle> = HashMap::new();
    while let Some(order) = inbox.recv().await {
        let former = match order {
            Order::Serve(id, socket) => {
                let all = all.clone();
                let serving = tokio::task::spawn_local(async move {
                    if let Err(error) = serve(socket, pod, all).await {
                        tracing::debug!(%error, session = id, "a session's connection for outgoing ones has ended");
                    }
                });
                sessions.insert(id, serving.abort_handle())
            }
            Order::End(id) => sessions.remove(&id),
        };
        if let Some(former) = former {
            former.abort();
        }
    }
}

/// Serves a session's connection to its end; its streams end with it.
async fn serve(socket: UnixStream, pod: PodConnector, all: Arc<Semaphore>) -> io::Result<()> {
    let mut server = timeout(HELLO_TIMEOUT, Server::accept(Quiet::new(socket)?)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let own = Arc::new(Semaphore::new(EACH));
    let mut streams = JoinSet::new();
    loop {
        let offer = tokio::select! {
            offer = server.next() => match offer? {
                Some(offer) => offer,
                None => return Ok(()),
            },
            Some(_) = streams.join_next() => continue,
        };
        match (own.clone().try_acquire_owned(), all.clone().try_acquire_owned()) {
            (Ok(own), Ok(all)) => {
                streams.spawn_local(async move {
                    let _permits = (own, all);
                    if let Err(error) = carry(offer, pod).await {
                        tracing::debug!(%error, "an outgoing connection has ended");
                    }
                });
            }
            _ => refuse(offer, "there are as many connections from the target's network as there may be"),
        }
    }
}

async fn carry(offer: Offer, pod: PodConnector) -> io::Result<()> {
    let to = offer.head.headers().get(deliver::TO).and_then(|to| to.to_str().ok()).and_then(deliver::host_and_port);
    let connected = match to {
        Some((host, port)) if offer.head.uri().path() == deliver::OUTGOING => {
            timeout(CONNECT, connect(host, port, pod)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the agent cannot read where to")),
    };
    match connected {
        Ok(stream) => mirrord_tunnel::copy(offer.accept().map_err(io::Error::other)?, stream).await,
        Err(error) => {
            refuse(offer, &error.to_string());
            Ok(())
        }
    }
}

fn refuse(offer: Offer, why: &str) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    if let Ok(why) = HeaderValue::from_str(why) {
        response.headers_mut().insert(deliver::ERROR, why);
    }
    let _ = offer.refuse(response);
}

/// Looks the name up anew each time, and takes the first of its addresses that answers.
async fn connect(host: &str, port: u16, pod: PodConnector) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    let addresses = tokio::net::lookup_host((host, port)).await;
    for address in addresses.map_err(|error| io::Error::new(error.kind(), format!("{host}: {error}")))? {
        match pod.connect_plainly(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}
