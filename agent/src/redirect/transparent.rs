//! The pod keeps seeing its clients' own addresses, ports included.
//!
//! ```text
//! client C:p ──► pod:80 ─REDIRECT─► gateway ── socket bound to C:p, marked, on lo ──► pod's process, which sees C:p
//!                                      ▲                                                 │ answers to C:p
//!                                      └──── lo ◄── rule: our mark → local ◄── its socket took the mark over
//! ```
//! Three things make the answers come back: `tcp_fwmark_accept` gives the pod's accepted socket the mark of the SYN,
//! `fwmark_reflect` does so for a refusal, and a routing rule keeps what has our mark in the namespace. Packets without our
//! mark (everybody else's) fare as before. The connections are not tracked (rule in `raw`), as conntrack knows the same
//! addresses and ports already: as the client's connection to the gateway. That very identity is what makes it safe: a client
//! uses a port towards the pod once at a time, so no connection of its own can ever meet one of ours.

use super::{
    iptables::RulesSnapshot,
    netlink::{self, Entry},
    plan::Family,
};
use crate::socket;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

/// The routing table, and the priority of the rule that leads to it: before any that a mesh or CNI might have.
const TABLE: u32 = 0x6d69;
const PRIORITY: u32 = 9;

/// Whether other people's rules put marks on packets: with `tcp_fwmark_accept` these would reach the pod's sockets.
pub fn marks_are_used(rules: &RulesSnapshot) -> bool {
    let marking = ["-j MARK", "-j CONNMARK", "-j TPROXY"];
    rules.values().flatten().any(|rule| marking.iter().any(|target| rule.contains(target)))
}

/// Keeps packets of a family that have the mark in the namespace, whatever address they go to.
pub fn add_routing(family: Family, mark: u32) -> io::Result<()> {
    netlink::local_default(Entry::Present, family, TABLE)?;
    netlink::rule(Entry::Present, family, mark, TABLE, PRIORITY)
}

/// Removes the rule and the route of both families, as far as they are there.
pub fn remove_routing(mark: u32) -> io::Result<()> {
    let mut result = Ok(());
    for family in Family::ALL {
        result = result.and(netlink::rule(Entry::Absent, family, mark, TABLE, PRIORITY));
        result = result.and(netlink::local_default(Entry::Absent, family, TABLE));
    }
    result
}

/// Tries it out: a listener on the loopback address, called from an address that nobody has (RFC 5737, RFC 3849). A firewall
/// or a kernel without what we need shows here, and not at the pod's clients.
pub fn works(family: Family, mark: u32) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_millis(200);
    let (own, foreign): (SocketAddr, SocketAddr) = match family {
        Family::V4 => ((Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::new(192, 0, 2, 77), 40_077).into()),
        Family::V6 => ((Ipv6Addr::LOCALHOST, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77), 40_077).into()),
    };
    let listener = TcpListener::bind(own)?;
    listener.set_nonblocking(true)?;
    let socket = socket::new_socket(own, mark)?;
    socket::assume_address(&socket, foreign, mark)?;
    // A plain bind must be refused: else local clients and foreign ones cannot be told apart (ip_nonlocal_bind).
    if TcpListener::bind(foreign).is_ok() {
        return Err(io::Error::other("the kernel lets any address be bound"));
    }
    socket.set_nonblocking(false)?;
    socket.connect_timeout(&listener.local_addr()?.into(), PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((_, peer)) if (peer.ip(), peer.port()) == (foreign.ip(), foreign.port()) => return Ok(()),
            Ok((_, peer)) => return Err(io::Error::other(format!("the listener saw {peer}"))),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock || Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
