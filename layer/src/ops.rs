//! What bind, listen, connect and close mean for the session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mirrord_protocol::layer::{Listener, Message, Reply};

use crate::{
    names::canonical,
    state::{self, State},
    sys::{self, Errno, Identity},
    tables::{Bound, Tables, Told},
    twin,
};

/// Most addresses of other processes that a process remembers having connected to.
const MAX_ELSEWHERE: usize = 256;

/// Binds a TCP socket to a port that the program chose, or somewhere else if that is not to be had on this machine, which the
/// program is not told. `None`: nothing to do with us.
pub fn bind(fd: i32, asked: SocketAddr) -> Option<Result<(), Errno>> {
    state::with(|state| {
        let identity = sys::socket(fd).filter(|_| sys::is_tcp(fd))?;
        if asked.port() == 0 {
            state.tables(|tables| tables.note_unnamed(identity));
            return None;
        }
        // The kernel does not know that the address of a moved listener is taken.
        let moved = holder(state, asked, identity).filter(|listener| listener.asked != listener.bound);
        let result = match moved {
            Some(listener) => join(fd, listener),
            None => sys::bind(fd, asked).or_else(|errno| bind_elsewhere(state, fd, identity, asked, errno)),
        };
        if result.is_ok() {
            let bound = sys::local(fd).unwrap_or(asked);
            state.add(identity, Listener { asked, bound }, Told::Nothing);
        }
        Some(result)
    })?
}

// Another socket of this process that believes to have the address.
fn holder(state: &State, asked: SocketAddr, identity: Identity) -> Option<Listener> {
    let taken = |socket: &&Bound| socket.identity != identity && overlap(socket.listener.asked, asked);
    let found = state.tables(|tables| tables.sockets.iter().find(taken).copied())?;
    if holds(found.identity, |_| true) {
        return Some(found.listener);
    }
    state.tables(|tables| tables.sockets.retain(|socket| socket.identity != found.identity));
    None
}

// The session has the address already: taken, unless both share it.
fn join(fd: i32, listener: Listener) -> Result<(), Errno> {
    match sys::shares_port(fd) {
        true if listener.asked != listener.bound => sys::bind(fd, listener.bound),
        _ => Err(libc::EADDRINUSE),
    }
}

fn bind_elsewhere(state: &State, fd: i32, identity: Identity, asked: SocketAddr, errno: Errno) -> Result<(), Errno> {
    let loopback = match asked {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let candidates = match errno {
        // Loopback for one that was bound there as its own IP is not this machine's, and now has to move once more.
        libc::EADDRINUSE | libc::EACCES => vec![with_port_0(asked), SocketAddr::new(loopback, 0)],
        libc::EADDRNOTAVAIL => vec![SocketAddr::new(loopback, asked.port()), SocketAddr::new(loopback, 0)],
        _ => return Err(errno),
    };
    if let Some(listener) = holder(state, asked, identity) {
        return join(fd, listener);
    }
    match state.question(&Message::Find { asked }) {
        Ok(Reply::Moved(None)) => candidates.into_iter().find_map(|to| sys::bind(fd, to).ok()).ok_or(errno),
        Ok(Reply::Moved(Some(bound))) => join(fd, Listener { asked, bound }),
        // Without a session the program meets what it would meet without us.
        _ => Err(errno),
    }
}

fn with_port_0(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

/// The kernel lets several bind one port if all of them say SO_REUSEADDR, and refuses it to the second one that listens. If the
/// first is none of the session's, the program listens somewhere else, as at bind. Returns whether it does now.
///
/// What has a number of the old socket in this process gets the new one. Not so what knows the socket itself: an epoll set to which
/// it was added before it listened (libuv and asyncio add theirs after) loses it, and a process that was forked between bind and listen
/// keeps the old one, on which listen goes on failing: the session has the port by then.
pub fn listen_elsewhere(fd: i32, backlog: i32) -> bool {
    let moved = state::with(|state| {
        let old = sys::socket(fd)?;
        let asked = state.tables(|tables| tables.sockets.iter().find(|socket| socket.identity == old).map(|own| own.listener.asked))?;
        let twin = twin::of(fd)?;
        let moved = bind_elsewhere(state, twin, old, asked, libc::EADDRINUSE)
            .and_then(|()| twin::listen(twin, backlog))
            .and_then(|()| twin::put(twin, fd));
        let bound = sys::local(twin);
        sys::close(twin);
        moved.ok()?;
        for copy in sys::descriptors().into_iter().filter(|copy| sys::socket(*copy) == Some(old)) {
            // It is closed at worst, by another thread.
            let _ = twin::put(fd, copy);
        }
        state.tables(|tables| tables.sockets.retain(|socket| socket.identity != old));
        state.add(sys::socket(fd)?, Listener { asked, bound: bound? }, Told::Nothing);
        Some(())
    });
    moved.flatten().is_some()
}

/// Whether the kernel will choose a socket's port when it listens, or has chosen it: nobody can ask for that one.
pub fn is_unnamed(fd: i32) -> bool {
    let is_unnamed = state::with(|state| {
        let identity = sys::socket(fd)?;
        Some(state.tables(|tables| tables.is_unnamed(identity)) || sys::local(fd)?.port() == 0)
    });
    is_unnamed.flatten().unwrap_or(true)
}

/// A socket listens now. Returns once the target's traffic for its port can arrive, or will not.
pub fn listening(fd: i32, is_unnamed: bool) {
    state::with(|state| {
        let identity = sys::socket(fd).filter(|_| sys::is_tcp(fd))?;
        let local = sys::local(fd)?;
        if is_unnamed {
            state.tables(|tables| tables.set_local(local.port(), true));
            return None;
        }
        let find = |tables: &mut Tables| tables.sockets.iter().find(|socket| socket.identity == identity).map(|socket| socket.listener);
        let listener = state.tables(find).unwrap_or_else(|| {
            // Another process has bound it and handed it over (SCM_RIGHTS, exec).
            let listener = Listener { asked: local, bound: local };
            state.add(identity, listener, Told::Nothing);
            listener
        });
        let told = match state.change(&Message::Listen(listener)) {
            Ok(Reply::Done) => Told::Subscribed,
            Ok(_) => Told::Local,
            Err(_) => return None,
        };
        state.tables(|tables| {
            tables.sockets.iter_mut().filter(|socket| socket.identity == identity).for_each(|socket| socket.told = told);
            tables.set_local(local.port(), told == Told::Local);
        });
        Some(())
    });
}

/// Where a TCP connection to `asked` has to go: a listener of the session that is elsewhere than the program believes.
pub fn moved(fd: i32, asked: SocketAddr) -> Option<SocketAddr> {
    let state = state::get()?;
    let ip = asked.ip().to_canonical();
    let is_here = ip.is_loopback() || ip.is_unspecified();
    if asked.port() == 0 || !(is_here || state.has_sockets()) {
        return None;
    }
    state::with(|state| {
        if !sys::is_tcp(fd) {
            return None;
        }
        let wanted = canonical(asked);
        let here = state.tables(|tables| tables.sockets.iter().map(|socket| socket.listener).find(|own| covers(own.asked, wanted)));
        let bound = match here {
            Some(listener) => listener.bound,
            None if is_here => match state.question(&Message::Find { asked: wanted }) {
                Ok(Reply::Moved(Some(bound))) => bound,
                _ => return None,
            },
            None => return None,
        };
        let ip = if bound.ip().is_unspecified() { asked.ip() } else { bound.ip() };
        let to = sys::in_family_of(asked, SocketAddr::new(ip, bound.port()))?;
        if to == asked {
            return None;
        }
        state.tables(|tables| {
            tables.elsewhere.retain(|listener| listener.bound != to);
            tables.elsewhere.push_back(Listener { asked, bound: to });
            if tables.elsewhere.len() > MAX_ELSEWHERE {
                tables.elsewhere.pop_front();
            }
        });
        Some(to)
    })?
}

/// What is to become of a descriptor that the program closes.
#[derive(Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is the program's. When it is closed, [`closed`] takes the rest.
    Theirs(Gone),
    /// It is the layer's own: for the program it is not open.
    Ours,
}

/// Listeners that a process which has forked closes; whether a child still has them the kernel knows afterwards.
pub type Gone = Vec<SocketAddr>;

/// The program closes a descriptor. If it is the last one of a listener, the target has the traffic back before it is closed.
pub fn closing(fd: i32) -> Closing {
    let Some(state) = state::get() else { return Closing::Theirs(Gone::new()) };
    if state.owns(fd) && state::with(|state| state.descriptors().contains(&fd)) == Some(true) {
        return Closing::Ours;
    }
    if !state.has_sockets() {
        return Closing::Theirs(Gone::new());
    }
    let gone = state::with(|state| {
        let identity = sys::socket(fd)?;
        Some(forget(state, |other| other == identity, |other| other != fd))
    });
    Closing::Theirs(gone.flatten().unwrap_or_default())
}

/// Tells of what is closed by now.
pub fn closed(gone: Gone) {
    for bound in gone {
        state::with(|state| drop(state.change(&Message::Close { bound, is_closed: true })));
    }
}

/// `dup2` puts something else in a descriptor's place: that closes it.
pub fn replacing(old: i32, new: i32) -> Gone {
    let Some(state) = state::get() else { return Gone::new() };
    if old == new || !(state.owns(new) || state.has_sockets()) {
        return Gone::new();
    }
    let closes = state::with(|state| {
        state.make_way(new);
        sys::identity(old).is_some() && sys::socket(old) != sys::socket(new)
    });
    match closes.unwrap_or(false).then(|| closing(new)) {
        Some(Closing::Theirs(gone)) => gone,
        _ => Gone::new(),
    }
}

/// The program closes all descriptors from `first` to `last`. Returns the ranges without the layer's own, and what is for [`closed`].
pub fn closing_range(first: u32, last: u32) -> (Vec<(u32, u32)>, Gone) {
    let mut gone = Gone::new();
    let kept = state::with(|state| {
        let inside = |fd: i32| (first..=last).contains(&(fd as u32));
        if state.has_sockets() {
            gone = forget(state, |_| true, |fd| !inside(fd));
        }
        let mut kept: Vec<_> = state.descriptors().into_iter().filter(|fd| inside(*fd)).map(|fd| fd as u32).collect();
        kept.sort_unstable();
        kept
    });
    (around(first, last, &kept.unwrap_or_default()), gone)
}

fn around(first: u32, last: u32, kept: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    let mut from = Some(first);
    for fd in kept {
        match from {
            Some(start) if start < *fd => ranges.push((start, fd - 1)),
            _ => {}
        }
        from = fd.checked_add(1);
    }
    ranges.extend(from.filter(|start| *start <= last).map(|start| (start, last)));
    ranges
}

// Drops the sockets of which the process holds none of the descriptors that are to stay. Returns what is to be told afterwards.
fn forget(state: &State, which: impl Fn(Identity) -> bool, stays: impl Fn(i32) -> bool) -> Gone {
    let mut later = Gone::new();
    let candidates: Vec<_> = state.tables(|tables| tables.sockets.iter().filter(|socket| which(socket.identity)).copied().collect());
    for gone in candidates.into_iter().filter(|socket| !holds(socket.identity, &stays)) {
        let is_last = state.tables(|tables| {
            tables.sockets.retain(|socket| socket.identity != gone.identity);
            let mut others = tables.sockets.iter();
            !others.any(|socket| socket.told != Told::Nothing && socket.listener.bound == gone.listener.bound)
        });
        let bound = gone.listener.bound;
        if gone.told == Told::Nothing || !is_last {
            continue;
        }
        if state.has_forked() {
            later.push(bound);
        } else {
            // Without an answer it ends with the line, or when the kernel has no such listener any more.
            drop(state.change(&Message::Close { bound, is_closed: false }));
        }
    }
    later
}

fn holds(identity: Identity, which: impl Fn(i32) -> bool) -> bool {
    sys::descriptors().into_iter().any(|fd| which(fd) && sys::socket(fd) == Some(identity))
}

/// Whether two sockets cannot both have these addresses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (is_any || one.ip() == other.ip())
}

/// Whether a listener at `listener` gets connections to `to`, which is canonical.
fn covers(listener: SocketAddr, to: SocketAddr) -> bool {
    let listener = canonical(listener);
    let same_family = listener.is_ipv4() == to.is_ipv4();
    let any = listener.ip().is_unspecified() && (same_family || listener.is_ipv6());
    listener.port() == to.port() && (any || listener.ip() == to.ip() || same_family && to.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_leaves_out_what_is_ours() {
        assert_eq!(around(3, u32::MAX, &[]), [(3, u32::MAX)]);
        assert_eq!(around(3, u32::MAX, &[1000, 1001]), [(3, 999), (1002, u32::MAX)]);
        assert_eq!(around(1000, 1001, &[1000, 1001]), []);
        assert_eq!(around(5, 5, &[5]), []);
    }

    #[test]
    fn a_listener_on_all_addresses_covers_each_of_them() {
        let covered = |listener: &str, to: &str| covers(listener.parse().unwrap(), to.parse().unwrap());
        assert!(covered("0.0.0.0:80", "127.0.0.1:80"));
        assert!(covered("[::]:80", "127.0.0.1:80"));
        assert!(covered("127.0.0.1:80", "0.0.0.0:80"));
        assert!(!covered("0.0.0.0:80", "[::1]:80"));
        assert!(!covered("127.0.0.2:80", "127.0.0.1:80"));
        assert!(!covered("0.0.0.0:80", "127.0.0.1:81"));
    }
}
