//! The connections to an agent in a cluster: a unix socket on this machine, behind which each connection goes through the API server's
//! port-forward, or from within the cluster straight to the agent's pod, and TLS to the agent. They survive an API server that restarts ([`mirrord_tunnel::lasting`]).

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::{Api, api::Portforwarder};
use mirrord_intproxy::private;
use mirrord_tunnel::lasting;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixListener, UnixStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::ClientConfig, rustls::pki_types::ServerName};

use super::{
    error::{KubeError, chain},
    keys::AGENT_NAME,
};

/// How long a session goes on without a connection to its agent; the agent waits as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// One attempt to reach the agent.
const CONNECT: Duration = Duration::from_secs(15);
/// One attempt without the API server: within a cluster it takes milliseconds, or a policy forbids it.
const STRAIGHT: Duration = Duration::from_secs(1);

/// The way to an agent.
#[derive(Clone)]
pub struct Way {
    pub pods: Api<KubePod>,
    pub pod: String,
    pub port: u16,
    /// Where it may be reached without the API server.
    pub straight: Option<SocketAddr>,
    pub tls: Arc<ClientConfig>,
}

/// What TLS goes over.
trait Carrier: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Carrier for T {}

impl Way {
    /// Why the agent cannot be reached; nothing, if it can.
    pub async fn obstacle(&self) -> Option<io::Error> {
        self.connect().await.err()
    }

    async fn connect(&self) -> io::Result<TlsStream<Box<dyn Carrier>>> {
        if let Some(address) = self.straight {
            let straight = timeout(STRAIGHT, async { self.shake_hands(Box::new(TcpStream::connect(address).await?)).await }).await;
            match straight.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    crate::kube::process::trace(&format_args!("{} is not reached at {address} ({error}): by port-forward", self.pod));
                }
            }
        }
        let connected = async {
            let mut forward: Portforwarder = self
                .pods
                .portforward(&self.pod, &[self.port])
                .await
                .map_err(|error| io::Error::other(format!("port-forward: {}", chain(&error))))?;
            let stream = forward.take_stream(self.port).ok_or_else(|| io::Error::other("the port is not forwarded"))?;
            self.shake_hands(Box::new(stream)).await
        };
        timeout(CONNECT, connected).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn shake_hands(&self, carrier: Box<dyn Carrier>) -> io::Result<TlsStream<Box<dyn Carrier>>> {
        let name = ServerName::try_from(AGENT_NAME).map_err(io::Error::other)?;
        TlsConnector::from(self.tls.clone()).connect(name, carrier).await
    }
}

/// A unix socket behind which the agent is; it goes with this value, and with it all connections.
pub struct Bridge {
    path: PathBuf,
    serving: JoinHandle<()>,
    ending: Rc<Notify>,
}

impl Bridge {
    /// Opens the socket. Nothing is dialled before somebody connects.
    pub fn open(way: Way) -> Result<Self, KubeError> {
        let (listener, path) = private("mirrord-agent").map_err(|error| KubeError::Connection(error.to_string()))?;
        let ending = Rc::new(Notify::new());
        Ok(Self { path, serving: tokio::task::spawn_local(serve(listener, Rc::new(way), ending.clone())), ending })
    }

    /// Takes nobody any more, and resolves once all connections have ended: until an agent has heard of that, it waits for them.
    pub async fn finish(mut self) {
        self.ending.notify_one();
        let _ = (&mut self.serving).await;
    }

    /// Where an intproxy connects.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An abstract socket, which leaves nothing behind, with a name that nobody guesses.
pub fn private(name: &str) -> io::Result<(UnixListener, PathBuf)> {
    let name = format!("{name}-{}", private::word()?);
    let listener = UnixListener::from_std(private::listener(&name)?)?;
    Ok((listener, PathBuf::from(format!("\0{name}"))))
}

async fn serve(listener: UnixListener, way: Rc<Way>, ending: Rc<Notify>) {
    // Aborted with this task.
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) if is_ours(&socket) => {
                    streams.spawn_local(carry(socket, way.clone()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = streams.join_next() => {}
            () = ending.notified() => break,
        }
    }
    while streams.join_next().await.is_some() {}
}

/// An abstract socket has no mode: whoever is another user is sent away here.
pub fn is_ours(socket: &UnixStream) -> bool {
    private::is_users(socket, crate::sys::identity().effective_user)
}

async fn carry(socket: UnixStream, way: Rc<Way>) {
    let Ok(id) = private::random() else { return };
    if let Err(error) = lasting::dial(socket.into_split(), id, PATIENCE, async || way.connect().await).await {
        crate::kube::process::trace(&format_args!("a connection to the agent in {} has ended: {error}", way.pod));
    }
}
