//! The worker's thread: its accept loops and the orders that it takes from the control thread.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mirrord_filters::Filter;
use mirrord_protocol::deliver::Kind;
use mirrord_tunnel::{Client, Passing, Quiet};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use super::{
    passed::{Passed, Sockets},
    room::Room,
    table::{Delivery, Worker},
};
use crate::{
    counters::Counters,
    gateway::{
        connection,
        steer::{Flow, SessionId},
    },
    netns::{NetNs, NetNsError},
    records::decisions::{Kept, News, Query},
    sessions::SessionSpec,
    socket::{self, Destination, Listeners, PodConnector},
};

/// After an accept that failed for want of descriptors or memory, wait: the kernel keeps the connection in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// What the control thread tells a worker. Orders are taken in sequence.
pub enum Order {
    /// A session exists.
    AddSession(SessionSpec),
    /// A session's intproxy has dialled a delivery connection for this worker; answered once it is in use.
    Link(SessionId, Kind, std::os::unix::net::UnixStream, oneshot::Sender<()>),
    /// A session's machine stands still, or does so no more.
    SetAside(SessionId, bool),
    /// A session has other filters; answered once every request that comes after meets them.
    SwapChain(SessionId, u16, Vec<Filter>, oneshot::Sender<()>),
    /// Connections end as soon as nothing is under way on them.
    Part,
    /// All connections end now, and the thread.
    Quit,
    /// The last decisions are asked for.
    Explain(Query, oneshot::Sender<Vec<Kept>>),
    /// Decisions are to be told as they are made; `true`: only those about requests that somebody picked.
    Follow(mpsc::Sender<News>, bool),
    /// Answered as soon as the worker gets to it: so that it is seen whether it does.
    Answer(std::sync::mpsc::Sender<()>),
    /// A session has ended.
    RemoveSession(SessionId),
    /// Who subscribes which port, in order; answered once it holds for every request that comes after.
    SetPorts(Arc<HashMap<u16, Vec<SessionId>>>, oneshot::Sender<()>),
}

/// A running worker; dropping it ends the thread after its orders.
pub struct Handle {
    pub orders: mpsc::UnboundedSender<Order>,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    #[error("cannot start a worker: {0}. Raise the limits of processes and open files (ulimit -u, ulimit -n)")]
    Io(#[from] io::Error),
}

/// A stream to an upstream: the pod's TCP connection, one to a session's program, or one inside a session's tunnel.
pub enum Stream {
    Tcp(TcpStream),
    Passed(Passed),
    Tunnel(mirrord_tunnel::Stream),
}

/// Starts a worker in `netns` on listeners that are open already.
pub fn start(
    index: u16,
    netns: &NetNs,
    listeners: Listeners,
    (pod, spares_probes): (PodConnector, bool),
    counters: Arc<Counters>,
    room: Room,
) -> Result<Handle, StartError> {
    // control --Order--> worker; bounded by the number of sessions and ports, which are bounded.
    let (orders, inbox) = mpsc::unbounded_channel();
    let (started, result) = std::sync::mpsc::channel();
    netns.spawn(&format!("worker-{index}"), move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        LocalSet::new().block_on(&runtime, async move {
            let listeners: io::Result<Vec<_>> = std::iter::once(listeners.v4).chain(listeners.v6).map(TcpListener::from_std).collect();
            let listeners = match listeners {
                Ok(listeners) => listeners,
                Err(error) => return drop(started.send(Err(error))),
            };
            let worker = Rc::new(Worker::new(index, pod, spares_probes, counters));
            for listener in listeners {
                tokio::task::spawn_local(accept(worker.clone(), listener, room.clone()));
            }
            let _ = started.send(Ok(()));
            obey(worker, inbox).await;
        });
    })?;
    result.recv().map_err(|_| io::Error::other("the worker ended at once"))??;
    Ok(Handle { orders })
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, room: Room) {
    let mut is_full = false;
    loop {
        if is_full {
            room.wait(&listener).await;
        }
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                is_full = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_full = room.is_full_after(&client).await;
        let destination = match socket::original_destination(&client) {
            Ok(Destination::Redirected(destination)) => destination,
            // Somebody dialled the gateway's own port: nobody's traffic, and passing it on would make a loop.
            Ok(Destination::Direct) => continue,
            Err(error) => {
                tracing::warn!(%error, %peer, "cannot tell where a connection wanted to go; it is closed");
                continue;
            }
        };
        let open = worker.counters().connection();
        let flow = Flow { client: peer, destination };
        let parting = worker.parting().clone();
        let worker = worker.clone();
        tokio::task::spawn_local(parting.watch(async move {
            connection::serve(worker, flow, client).await;
            drop(open);
        }));
    }
}

async fn obey(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = inbox.recv().await {
        match order {
            Order::AddSession(spec) => worker.add_session(spec),
            Order::RemoveSession(id) => worker.remove_session(id),
            Order::SetAside(id, is_aside) => worker.set_aside(id, is_aside),
            Order::SwapChain(id, version, filters, done) => {
                worker.swap_chain(id, version, filters);
                let _ = done.send(());
            }
            Order::Answer(answer) => {
                let _ = answer.send(());
            }
            Order::Part => worker.parting().begin(),
            Order::Quit => return,
            Order::Explain(query, answer) => {
                let _ = answer.send(worker.decisions.read(query));
            }
            Order::Follow(news, picked) => worker.decisions.follow(news, picked),
            Order::SetPorts(ports, done) => {
                worker.set_ports(&ports);
                let _ = done.send(());
            }
            Order::Link(id, Kind::Tunnel, socket, done) => {
                // A slow handshake must not hold up other orders.
                tokio::task::spawn_local(link(worker.clone(), id, socket, done));
            }
            Order::Link(id, Kind::Sockets, socket, done) => {
                tokio::task::spawn_local(link_sockets(worker.clone(), id, socket, done));
            }
            // Nothing that a worker has to do with.
            Order::Link(_, Kind::Outgoing, ..) => {}
        }
    }
}

async fn link(worker: Rc<Worker>, id: SessionId, socket: std::os::unix::net::UnixStream, done: oneshot::Sender<()>) {
    let connected = async { Client::connect(Quiet::new(socket)?).await };
    match tokio::time::timeout(mirrord_protocol::limits::HELLO_TIMEOUT, connected).await {
        Ok(Ok((client, driver))) => {
            if worker.link(id, Delivery::Tunnel(client)) {
                let _ = done.send(());
            }
            if let Err(error) = driver.await {
                tracing::debug!(%error, session = id, "a delivery connection ended");
            }
            worker.unlink(id);
        }
        Ok(Err(error)) => tracing::warn!(%error, session = id, "a delivery connection did not shake hands"),
        Err(_) => tracing::warn!(session = id, "a delivery connection did not shake hands in time"),
    }
}

async fn link_sockets(worker: Rc<Worker>, id: SessionId, socket: std::os::unix::net::UnixStream, done: oneshot::Sender<()>) {
    let sockets = Sockets::default();
    let passing = match UnixStream::from_std(socket) {
        Ok(socket) => Passing::new(socket),
        Err(error) => return tracing::warn!(%error, session = id, "a delivery connection cannot be used"),
    };
    if !worker.link(id, Delivery::Sockets(sockets.clone())) {
        return;
    }
    let _ = done.send(());
    if let Err(error) = sockets.drive(passing).await {
        tracing::debug!(%error, session = id, "a delivery connection ended");
    }
    worker.unlink(id);
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($inner) => $call,
            Stream::Passed($inner) => $call,
            Stream::Tunnel($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}
