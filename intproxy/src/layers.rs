//! The layers' side of the intproxy: processes connect to an abstract unix socket, say what they listen on and ask whom an
//! accepted connection is from. Out go the ports to open and to close; in come, from the deliveries, the origins of the
//! connections that they are about to make.
//!
//! ```text
//! layer --Message--> connection --hold, release--> Registry <--bound, origin-- deliveries
//!       <--Reply---             --settle--> ports  --PortChange--> session
//! ```

mod connection;
mod kernel;
mod ports;
mod registry;

use std::{
    collections::HashMap,
    io,
    os::unix::net,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};

pub use self::registry::{OriginGuard, Registry};
use self::{connection::Connection, ports::Ports};
use crate::private;

/// Most connections of layers at a time, each process has one or two; and most that have not yet shown their token, for each user.
const MAX_CONNECTIONS: usize = 4096;
const MAX_UNKNOWN: usize = 64;
/// How often listeners are looked for that were closed without a word (io_uring, a system call of the program's own).
const SWEEP: Duration = Duration::from_millis(500);

/// What is to happen with a port of the program, as the program believes it.
#[derive(Debug)]
pub enum PortChange {
    /// The program listens: `done` once traffic can arrive, or why it will not. May come again for an open port, if the answer took too long.
    Opened {
        /// The port.
        port: u16,
        /// layer's connection <--outcome-- session
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Nobody listens any more: `done` once the target has its traffic back.
    Closed {
        /// The port.
        port: u16,
        /// layer's connection <--outcome-- session
        done: oneshot::Sender<()>,
    },
}

/// The socket that layers connect to.
#[derive(Debug)]
pub struct Layers {
    listener: net::UnixListener,
    name: String,
    token: String,
    registry: Registry,
}

impl Layers {
    /// Binds an abstract unix socket with a random name; makes a random token.
    pub fn bind() -> io::Result<Layers> {
        let (name, token) = (format!("mirrord-{}", private::word()?), private::word()?);
        let listener = private::listener(&name)?;
        Ok(Layers { listener, name, token, registry: Registry::default() })
    }

    /// `NAME,TOKEN`: value of `MIRRORD_LAYER_INTPROXY_ADDR` for the program.
    pub fn address(&self) -> String {
        format!("{},{}", self.name, self.token)
    }

    /// Where the deliveries look up listeners and leave origins.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Serves layers until dropped. Port changes go out through `changes`, of one port one at a time.
    pub async fn run(self, changes: mpsc::Sender<PortChange>) {
        let Ok(listener) = UnixListener::from_std(self.listener) else { return };
        let ports = Ports::new(self.registry.clone(), changes);
        let token: Arc<str> = self.token.into();
        let unknown = Unknown::default();
        let mut connections = JoinSet::new();
        connections.spawn(sweep(self.registry.clone(), ports.clone()));
        for number in 1.. {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of descriptors, for a moment.
                    Err(_) => { tokio::time::sleep(Duration::from_millis(20)).await; continue }
                },
                Some(_) = connections.join_next() => continue,
            };
            let Some(visit) = admit(&stream, &unknown).filter(|_| connections.len() < MAX_CONNECTIONS) else { continue };
            let connection = Connection::new(number, stream, self.registry.clone(), ports.clone());
            connections.spawn(connection.run(token.clone(), visit));
        }
    }
}

async fn sweep(registry: Registry, ports: Ports) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let held = registry.all_bound();
        if held.is_empty() {
            continue;
        }
        let Some(listening) = kernel::listening() else { continue };
        for bound in held.into_iter().filter(|bound| !listening.contains(bound)) {
            for port in registry.release_all(bound) {
                drop(ports.settle(port).await);
            }
        }
    }
}

/// Connections without a token yet, by user: anybody on this machine can open some.
#[derive(Clone, Debug, Default)]
struct Unknown(Arc<Mutex<HashMap<u32, usize>>>);

/// One of them; counted until dropped.
struct Visit(Unknown, u32);

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = lock(&self.0.0);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

// Root's session is for the program it runs under whatever user; any other user's for that user and root.
fn admit(stream: &tokio::net::UnixStream, unknown: &Unknown) -> Option<Visit> {
    let uid = stream.peer_cred().ok()?.uid();
    let own = kernel::own_uid()?;
    if own != 0 && uid != 0 && uid != own {
        return None;
    }
    let mut counts = lock(&unknown.0);
    let count = counts.entry(uid).or_default();
    if *count >= MAX_UNKNOWN {
        return None;
    }
    *count += 1;
    Some(Visit(unknown.clone(), uid))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
