//! The agent's interface for sessions that are not on its machine: TLS 1.3 on a TCP port, both sides with keys that were made for this
//! one agent. Behind it is what the control socket offers; the bytes outlive the connections that carry them
//! ([`mirrord_tunnel::lasting`]).

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use mirrord_protocol::control::ErrorReply;
use mirrord_tunnel::lasting::Streams;
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};

use super::Place;
use crate::app::{App, failure};

/// A handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many at once; who comes then tries again.
const STRANGERS: usize = 64;
/// How long a session whose connection broke may take to come back; as long as one that is silent gets.
const COME_BACK: Duration = super::heartbeat::GONE_AFTER;

/// The port and its keys.
pub struct TlsPort {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// Handshakes under way.
    strangers: Cell<usize>,
    streams: Streams<TlsStream<TcpStream>>,
}

impl TlsPort {
    /// Listens; `key` reads `ca.crt` (who may come), `tls.crt` and `tls.key` (who we are), as they are in a Secret.
    pub fn bind(address: SocketAddr, key: impl Fn(&str) -> io::Result<Vec<u8>>) -> Result<Self, ErrorReply> {
        let help = "the command line makes them: run it again";
        let config = config(key).map_err(|error| failure(format!("the agent's keys cannot be used: {error}"), help))?;
        let listener = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        let listener = listener.map_err(|error| failure(format!("cannot listen on {address}: {error}"), "run the command again"))?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), strangers: Cell::new(0), streams: Streams::default() })
    }

    /// The next connection, of whom nothing is known so far.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        self.listener.accept().await.map(|(socket, _)| socket)
    }

    /// Serves a connection: it carries a new stream, or goes on with one that had broken off.
    pub async fn serve(self: Rc<Self>, app: Rc<App>, socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        if self.strangers.get() >= STRANGERS {
            return tracing::debug!("too many handshakes at once: a connection was refused");
        }
        self.strangers.set(self.strangers.get() + 1);
        let shaken = timeout(HANDSHAKE, self.acceptor.accept(socket)).await;
        self.strangers.set(self.strangers.get() - 1);
        let carrier = match shaken {
            Ok(Ok(carrier)) => carrier,
            Ok(Err(error)) => return tracing::debug!(%error, "a connection without our keys was refused"),
            Err(_) => return tracing::debug!("a connection did not shake hands"),
        };
        // The rest of the agent knows unix sockets: deliveries move between threads with their descriptor alone.
        let carried = Rc::new(Cell::new(true));
        let open = || {
            let (ours, theirs) = UnixStream::pair()?;
            tokio::task::spawn_local(super::serve(app.clone(), theirs, Place::Elsewhere, carried.clone()));
            Ok(ours.into_split())
        };
        if let Err(error) = self.streams.take(carrier, COME_BACK, carried.clone(), open).await {
            tracing::debug!(%error, "a session's connection has ended");
        }
    }
}

fn config(key: impl Fn(&str) -> io::Result<Vec<u8>>) -> io::Result<ServerConfig> {
    let read = |name: &str| key(name).map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")));
    let certificates = |name: &str| {
        CertificateDer::pem_slice_iter(&read(name)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| io::Error::other(format!("{name}: {error}")))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.crt")? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")?).map_err(|error| io::Error::other(format!("tls.key: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).and_then(|builder| {
        builder
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates("tls.crt").map_err(|error| rustls::Error::General(error.to_string()))?, key)
    });
    config.map_err(io::Error::other)
}
