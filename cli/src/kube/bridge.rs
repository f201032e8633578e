//! The connections to an agent in a cluster: a unix socket on this machine, behind which each connection goes through the API server's
//! port-forward and TLS to the agent. They survive an API server that restarts ([`mirrord_tunnel::lasting`]).

use std::{
    io,
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
    io::DuplexStream,
    net::{UnixListener, UnixStream},
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

/// The way to an agent.
pub struct Way {
    pub pods: Api<KubePod>,
    pub pod: String,
    pub port: u16,
    pub tls: Arc<ClientConfig>,
}

impl Way {
    async fn connect(&self) -> io::Result<TlsStream<DuplexStream>> {
        let connected = async {
            let mut forward: Portforwarder =
                self.pods.portforward(&self.pod, &[self.port]).await.map_err(|error| io::Error::other(chain(&error)))?;
            let stream = forward.take_stream(self.port).ok_or_else(|| io::Error::other("the port is not forwarded"))?;
            let name = ServerName::try_from(AGENT_NAME).map_err(io::Error::other)?;
            TlsConnector::from(self.tls.clone()).connect(name, stream).await
        };
        timeout(CONNECT, connected).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// A unix socket behind which the agent is; it goes with this value, and with it all connections.
pub struct Bridge {
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl Bridge {
    /// Opens the socket. Nothing is dialled before somebody connects.
    pub fn open(way: Way) -> Result<Self, KubeError> {
        let (listener, path) = private("mirrord-agent").map_err(|error| KubeError::Connection(error.to_string()))?;
        Ok(Self { path, serving: tokio::task::spawn_local(serve(listener, Rc::new(way))) })
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

async fn serve(listener: UnixListener, way: Rc<Way>) {
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
        }
    }
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
