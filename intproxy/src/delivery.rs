//! Delivery connections: dialled to the agent, one for each of its workers; each stream that the agent opens on them is
//! connected to the program's port and copied ([`Delivery::Tunnel`]), or each connection is passed ([`crate::passing`]).
//! Nothing here knows what the bytes mean.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    rc::Rc,
    str::FromStr,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode};
use mirrord_protocol::{
    deliver::{self, Hello, Kind},
    layer::Origin,
    limits::HELLO_TIMEOUT,
};
use mirrord_tunnel::{Client, Offer, Passing, Quiet, Server};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    agent::dial,
    layers::{OriginGuard, Registry},
    settings::PortMap,
};

/// How long the program's listener may take to accept; it is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where flows of the pod's ports go.
pub struct Program {
    registry: Registry,
    ports: Option<Vec<PortMap>>,
    /// Ports whose traffic goes to whoever listens here, though no program of the session's does.
    reverse: Vec<PortMap>,
}

impl Program {
    pub fn new(registry: Registry, ports: Option<Vec<PortMap>>, reverse: Vec<PortMap>) -> Self {
        Self { registry, ports, reverse }
    }

    /// The pod's ports that the program's port stands for; empty: it stays local.
    pub fn pod_ports(&self, local: u16) -> Vec<u16> {
        match &self.ports {
            None => vec![local],
            Some(maps) => maps.iter().filter(|map| map.local == local).map(|map| map.pod).collect(),
        }
    }

    fn local_port(&self, pod: u16) -> Option<u16> {
        match &self.ports {
            None => Some(pod),
            Some(maps) => maps.iter().find(|map| map.pod == pod).map(|map| map.local),
        }
    }

    /// Connects to the program in the name of the flow's client; the guard keeps that name as long as the connection lives.
    pub async fn connect(&self, flow: Flow) -> io::Result<(TcpStream, OriginGuard)> {
        let nobody = || io::Error::new(io::ErrorKind::ConnectionRefused, "the program does not listen on that port");
        let mut origin = flow.origin;
        let (port, bound) = match self.reverse.iter().find(|map| map.pod == flow.port) {
            Some(map) => (map.local, SocketAddr::from((Ipv4Addr::LOCALHOST, map.local))),
            None => {
                let port = self.local_port(flow.port).ok_or_else(nobody)?;
                (port, self.registry.bound_for(port, origin.client.ip()).ok_or_else(nobody)?)
            }
        };
        // The program knows the port that it asked for, not the pod's.
        origin.destination.set_port(port);
        let (socket, any) = match bound {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
        };
        socket.set_nodelay(true)?;
        // Our own end is known, and told to the registry, before the program can see the connection.
        socket.bind(any)?;
        let origin = self.registry.origin(socket.local_addr()?, origin);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(bound)).await;
        let stream = stream.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the program does not accept connections"))??;
        Ok((stream, origin))
    }
}

/// What the agent says about a flow.
#[derive(Clone, Copy)]
pub struct Flow {
    pub port: u16,
    pub origin: Origin,
}

impl Flow {
    fn read(head: &Request<()>) -> Option<Self> {
        fn header<T: FromStr>(head: &Request<()>, name: &str) -> Option<T> {
            head.headers().get(name)?.to_str().ok()?.parse().ok()
        }
        let origin = Origin { client: header(head, deliver::CLIENT)?, destination: header(head, deliver::DESTINATION)? };
        (head.uri().path() == deliver::PATH).then_some(Self { port: header(head, deliver::PORT)?, origin })
    }
}

/// Dials the connection on which the session asks for others from the target's network; the second value drives it.
pub async fn outgoing(agent: &Path, token: [u8; 16]) -> io::Result<(Client, impl Future<Output = io::Result<()>> + use<>)> {
    let mut socket = dial(agent).await?;
    socket.write_all(&Hello { kind: Kind::Outgoing, token, worker: 0 }.encode()).await?;
    let connected = async { Client::connect(Quiet::new(socket.into_std()?)?).await };
    // An agent of before does not know such connections.
    tokio::time::timeout(HELLO_TIMEOUT, connected).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A delivery connection.
pub enum Delivery {
    Tunnel(Box<Server<Quiet>>),
    Sockets(Passing),
}

/// Dials a delivery connection for one worker and shakes hands.
pub async fn connect(agent: &Path, kind: Kind, token: [u8; 16], worker: u16) -> io::Result<Delivery> {
    let mut socket = dial(agent).await?;
    socket.write_all(&Hello { kind, token, worker }.encode()).await?;
    Ok(match kind {
        Kind::Outgoing => return Err(io::ErrorKind::InvalidInput.into()),
        Kind::Tunnel => Delivery::Tunnel(Box::new(Server::accept(Quiet::new(socket.into_std()?)?).await?)),
        Kind::Sockets => Delivery::Sockets(Passing::new(socket)),
    })
}

/// Serves a delivery connection to its end.
pub async fn serve(delivery: Delivery, program: Rc<Program>) {
    match delivery {
        Delivery::Tunnel(server) => serve_tunnel(*server, program).await,
        Delivery::Sockets(passing) => {
            if let Err(error) = crate::passing::serve(passing, program).await {
                tracing::debug!(%error, "a delivery connection ended");
            }
        }
    }
}

async fn serve_tunnel(mut server: Server<Quiet>, program: Rc<Program>) {
    loop {
        match server.next().await {
            Ok(Some(offer)) => {
                tokio::task::spawn_local(deliver(offer, program.clone()));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a delivery connection ended");
                return;
            }
        }
    }
}

async fn deliver(offer: Offer, program: Rc<Program>) {
    let connected = match Flow::read(&offer.head) {
        Some(flow) => program.connect(flow).await,
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the intproxy cannot read the flow's head")),
    };
    let ended = match connected {
        Ok((local, _origin)) => match offer.accept() {
            Ok(stream) => mirrord_tunnel::copy(stream, local).await,
            Err(error) => Err(io::Error::other(error)),
        },
        Err(error) => offer.refuse(refusal(&error)).map_err(io::Error::other),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a delivered flow ended");
    }
}

fn refusal(error: &io::Error) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    if let Ok(why) = HeaderValue::from_str(&error.to_string()) {
        response.headers_mut().insert(deliver::ERROR, why);
    }
    response
}
