//! Whom a connection is from and whom it is to, as the program is to believe it: the pod's client and the address that the client
//! asked for, where the kernel knows only the intproxy on this machine.

use std::net::SocketAddr;

use mirrord_protocol::layer::{Message, Origin, Reply};

use crate::{
    state::{self, State},
    sys,
    tables::Tables,
};

/// The peer of a connection that `listener` has just accepted, if it is another than the kernel says.
pub fn accepted(listener: i32, fd: i32) -> Option<SocketAddr> {
    state::with(|state| {
        let ends = Ends::of(state, fd)?;
        let origin = ends.ask(state)?;
        state.adopt_one(listener);
        sys::in_family_of(ends.peer, origin.client)
    })?
}

/// Likewise of any socket: a delivered connection, or one to the session's own listener elsewhere.
pub fn peer(fd: i32) -> Option<SocketAddr> {
    state::with(|state| {
        let ends = Ends::of(state, fd)?;
        let elsewhere = |tables: &mut Tables| tables.elsewhere.iter().find(|listener| listener.bound == ends.peer).copied();
        match state.tables(elsewhere) {
            Some(listener) => sys::in_family_of(ends.peer, listener.asked),
            None => sys::in_family_of(ends.peer, ends.recall(state)?.client),
        }
    })?
}

/// The own address of a socket, if it is another than the kernel says.
pub fn local(fd: i32) -> Option<SocketAddr> {
    state::with(|state| {
        if let Some(origin) = Ends::of(state, fd).and_then(|ends| ends.recall(state)) {
            return sys::in_family_of(sys::local(fd)?, origin.destination);
        }
        if !state.has_sockets() {
            return None;
        }
        let local = sys::local(fd)?;
        let moved = state.tables(|tables| {
            let mut listeners = tables.sockets.iter().map(|socket| socket.listener);
            listeners.find(|listener| listener.bound != listener.asked && listener.bound.port() == local.port())
        })?;
        // A connection at a listener on all addresses has the one that was reached; only its port has moved.
        let ip = if moved.bound.ip() == local.ip() { moved.asked.ip() } else { local.ip() };
        sys::in_family_of(local, SocketAddr::new(ip, moved.asked.port()))
    })?
}

/// Asks about a connection that the process was born with.
pub fn learn(state: &State, fd: i32) {
    if let Some(ends) = Ends::from_here(fd) {
        ends.ask(state);
    }
}

/// The two ends of a connection from this machine to this machine: what is delivered is one.
struct Ends {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Ends {
    fn from_here(fd: i32) -> Option<Ends> {
        let (peer, local) = (sys::peer(fd)?, sys::local(fd)?);
        let is_from_here = peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip();
        (is_from_here && sys::is_tcp(fd)).then_some(Ends { local, peer })
    }

    // Not at a listener that is known to be a local one.
    fn of(state: &State, fd: i32) -> Option<Ends> {
        Ends::from_here(fd).filter(|ends| !state.tables(|tables| tables.is_local(ends.local.port())))
    }

    fn ask(&self, state: &State) -> Option<Origin> {
        let origin = match state.question(&Message::Origin { peer: canonical(self.peer) }) {
            Ok(Reply::Origin(origin)) => origin,
            _ => None,
        };
        state.tables(|tables| tables.remember(self.local, self.peer, origin));
        origin
    }

    fn recall(&self, state: &State) -> Option<Origin> {
        let known = state.tables(|tables| tables.origin(self.local, self.peer));
        known.unwrap_or_else(|| self.ask(state))
    }
}

/// IPv4 as IPv4, also where a socket of IPv6 speaks of it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
