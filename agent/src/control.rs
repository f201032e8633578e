//! The agent's interface: its control socket takes HTTP/2 connections (the `/v1` service) and delivery connections, told apart
//! by their first bytes.

mod events;
mod explain;
mod heartbeat;
mod inspect;
mod links;
mod service;
pub mod socket;
pub mod tls;

use std::{cell::Cell, io, rc::Rc};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mirrord_protocol::{
    deliver::{HELLO_LEN, Hello, Kind, MAGIC},
    limits::HELLO_TIMEOUT,
};
use tokio::{io::AsyncReadExt, net::UnixStream};

use crate::app::App;
pub(crate) use events::Reply;
use heartbeat::{GONE_AFTER, Heard, PING_EVERY};
use service::Connection;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This machine: descriptors may be passed.
    Here,
    /// Another one, by TLS.
    Elsewhere,
}

/// Serves one connection to its end; `carried`: whether anything joins it to its other end now.
pub async fn serve(app: Rc<App>, mut socket: UnixStream, place: Place, carried: Rc<Cell<bool>>) {
    let caller = app.caller();
    let mut first = [0; MAGIC.len()];
    match tokio::time::timeout(HELLO_TIMEOUT, socket.read_exact(&mut first)).await {
        Ok(Ok(_)) if Kind::of(&first) == Some(Kind::Sockets) && place == Place::Elsewhere => {
            tracing::warn!("a delivery connection from another machine cannot pass sockets");
        }
        Ok(Ok(_)) if Kind::of(&first).is_some() => {
            if let Err(error) = deliveries(&app, socket, first).await {
                tracing::warn!(%error, "a delivery connection was refused");
            }
        }
        Ok(Ok(_)) => {
            app.was_asked();
            let connection = Rc::new(Connection::new(app, caller, place));
            return exchanges(connection, socket, first, carried).await;
        }
        // A caller that only looked whether we are here.
        Ok(Err(_)) => {}
        Err(_) => tracing::debug!("a control connection said nothing"),
    }
    drop(caller);
}

/// Finds the session by the hello's token and hands the socket to the worker.
async fn deliveries(app: &App, mut socket: UnixStream, first: [u8; MAGIC.len()]) -> io::Result<()> {
    let mut hello = [0; HELLO_LEN];
    hello[..MAGIC.len()].copy_from_slice(&first);
    let rest = tokio::time::timeout(HELLO_TIMEOUT, socket.read_exact(&mut hello[MAGIC.len()..])).await;
    rest.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let hello = Hello::decode(&hello).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let id = app.sessions.borrow().by_token(&hello.token).map(|session| session.spec.id);
    let id = id.ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "no session has this token"))?;
    if hello.kind == Kind::Outgoing {
        return app.serve_outgoing(id, socket.into_std()?);
    }
    app.link(id, hello.worker, hello.kind, socket.into_std()?).await;
    Ok(())
}

async fn exchanges(connection: Rc<Connection>, socket: UnixStream, first: [u8; MAGIC.len()], carried: Rc<Cell<bool>>) {
    let (prefix, rest) = (io::Cursor::new(first), socket);
    let (read, write) = rest.into_split();
    let heard = Rc::new(Cell::new(true));
    let io = TokioIo::new(Heard::new(tokio::io::join(prefix.chain(read), write), heard.clone()));
    let mut builder = hyper::server::conn::http2::Builder::new(LocalTasks);
    builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(GONE_AFTER).max_concurrent_streams(256);
    let watched = heartbeat::watch(connection.clone(), heard, carried);
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, std::convert::Infallible>(connection.answer(request).await) }
    });
    let served = tokio::select! {
        served = builder.serve_connection(io, service) => served,
        never = watched => match never {},
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a control connection ended");
    }
}

/// hyper's tasks stay on the control thread.
#[derive(Clone, Copy)]
struct LocalTasks;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}
