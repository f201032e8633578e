//! What this process has: its TCP sockets that were bound to a port, and whom its connections are from. Plain data.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
};

use mirrord_protocol::layer::{Listener, Origin};

use crate::{line::Turn, sys::Identity};

/// Most connections whose origin is remembered; the intproxy is asked again for older ones.
const MAX_ORIGINS: usize = 4096;
/// Most sockets that are remembered to have a port of the kernel's choice.
const MAX_UNNAMED: usize = 64;
/// From here on, sockets that were closed behind our back are looked for.
const MANY_SOCKETS: usize = 256;
/// Most ports that are remembered not to need the question.
const MAX_LOCAL_PORTS: usize = 1024;

/// What a socket is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Bound, not listening.
    Nothing,
    /// Listens, but its port's traffic stays away.
    Local,
    /// Listens, and is sent the port's traffic.
    Subscribed,
}

/// A TCP socket that the program has bound to a port of its choice.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Which socket, whatever its descriptors.
    pub identity: Identity,
    /// What was asked for, and what the kernel gave.
    pub listener: Listener,
    /// What the intproxy knows of it.
    pub told: Told,
}

/// All that changes.
#[derive(Default)]
pub struct Tables {
    /// See [`Bound`].
    pub sockets: Vec<Bound>,
    /// Listeners of other processes of the session that this one has connected to, under the address that it asked for.
    pub elsewhere: VecDeque<Listener>,
    /// The latest sockets whose port the kernel has chosen.
    unnamed: VecDeque<Identity>,
    /// From so many sockets on, those are looked for that were closed behind our back.
    many: usize,
    /// Ports of listeners of this process that no traffic of the session reaches.
    local_ports: HashSet<u16>,
    origins: HashMap<(SocketAddr, SocketAddr), Option<Origin>>,
    origins_by_age: VecDeque<(SocketAddr, SocketAddr)>,
    /// The turn on each line.
    pub changes_turn: Turn,
    /// See above.
    pub questions_turn: Turn,
}

impl Tables {
    /// What is known of the connection between two addresses.
    pub fn origin(&self, local: SocketAddr, peer: SocketAddr) -> Option<Option<Origin>> {
        self.origins.get(&(local, peer)).copied()
    }

    /// Remembers whom a connection is from.
    pub fn remember(&mut self, local: SocketAddr, peer: SocketAddr, origin: Option<Origin>) {
        if self.origins.insert((local, peer), origin).is_none() {
            self.origins_by_age.push_back((local, peer));
        }
        if self.origins_by_age.len() > MAX_ORIGINS {
            if let Some(oldest) = self.origins_by_age.pop_front() {
                self.origins.remove(&oldest);
            }
        }
    }

    /// Notes a socket whose port the kernel has chosen; whoever listens on it does so soon.
    pub fn note_unnamed(&mut self, identity: Identity) {
        self.unnamed.push_back(identity);
        if self.unnamed.len() > MAX_UNNAMED {
            self.unnamed.pop_front();
        }
    }

    /// Whether the kernel has chosen the socket's port.
    pub fn is_unnamed(&self, identity: Identity) -> bool {
        self.unnamed.contains(&identity)
    }

    /// Whether it is time to look for sockets that are gone.
    pub fn are_many(&self) -> bool {
        self.sockets.len() >= self.many.max(MANY_SOCKETS)
    }

    /// Drops all sockets that the process does not hold. Next time when there are twice as many.
    pub fn keep(&mut self, held: &HashSet<Identity>) {
        self.sockets.retain(|socket| held.contains(&socket.identity));
        self.many = self.sockets.len() * 2;
    }

    /// Notes whether traffic of the session reaches a listener's port.
    pub fn set_local(&mut self, port: u16, is_local: bool) {
        if !is_local {
            self.local_ports.remove(&port);
        } else if self.local_ports.len() < MAX_LOCAL_PORTS {
            self.local_ports.insert(port);
        }
    }

    /// Whether no traffic of the session can arrive at a port of this machine.
    pub fn is_local(&self, port: u16) -> bool {
        self.local_ports.contains(&port)
    }
}
