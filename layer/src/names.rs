//! Whom a connection is from and whom it is to, as the program is to believe it: the pod's client and the address that the client
//! asked for, where the kernel knows only the intproxy on this machine.

use std::net::SocketAddr;

use mirrord_protocol::layer::{Message, Origin, Reply};

use crate::{
    state::{self, State},
    sys,
};

/// The peer of a connection that was accepted just now, if it is another than the kernel says.
pub fn accepted(fd: i32) -> Option<SocketAddr> {
    if !state::get()?.has_sockets() {
        return None;
    }
    state::with(|state| {
        let ends = Ends::of(state, fd)?;
        let origin = ends.ask(state)?;
        sys::in_family_of(ends.peer, origin.client)
    })?
}

/// Likewise of any socket: a delivered connection, or one to the session's own listener elsewhere.
pub fn peer(fd: i32) -> Option<SocketAddr> {
    if !state::get()?.has_names() {
        return None;
    }
    state::with(|state| match Ends::of(state, fd) {
        Some(ends) => sys::in_family_of(ends.peer, ends.recall(state)?.client),
        None => {
            let peer = sys::peer(fd)?;
            let asked =
                state.tables(|tables| tables.elsewhere.iter().find(|listener| listener.bound == peer).map(|listener| listener.asked));
            sys::in_family_of(peer, asked?)
        }
    })?
}

/// The own address of a socket, if it is another than the kernel says.
pub fn local(fd: i32) -> Option<SocketAddr> {
    if !state::get()?.has_names() {
        return None;
    }
    state::with(|state| {
        if let Some(ends) = Ends::of(state, fd) {
            if let Some(origin) = ends.recall(state) {
                return sys::in_family_of(ends.local, origin.destination);
            }
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
        let peer = sys::peer(fd)?;
        let local = sys::local(fd)?;
        let is_ours = peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip();
        (is_ours && sys::is_tcp(fd)).then_some(Ends { local, peer })
    }

    // Only at a listener that the session's traffic reaches, or one that was asked about before.
    fn of(state: &State, fd: i32) -> Option<Ends> {
        let ends = Ends::from_here(fd)?;
        let is_known = state.tables(|tables| tables.is_subscribed(ends.local.port()) || tables.origin(ends.local, ends.peer).is_some());
        is_known.then_some(ends)
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
