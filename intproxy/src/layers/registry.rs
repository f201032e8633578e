//! What the session's processes listen on, counted over all of them, and whom the connections are from that the intproxy makes.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
};

use mirrord_protocol::layer::{Listener, Origin};

use super::lock;

/// Most listeners of one process, and most connections under way to the program.
const MAX_LISTENERS: usize = 256;
const MAX_ORIGINS: usize = 65_536;

/// Shared by the layers' connections and the deliveries.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    /// In the order in which they came; by their kernel's address, which sockets of one SO_REUSEPORT group share.
    listeners: Vec<Held>,
    /// With the number of the guard: a port may be used again before the agent says that its last connection has ended.
    origins: HashMap<SocketAddr, (u64, Origin)>,
    last_guard: u64,
}

#[derive(Debug)]
struct Held {
    listener: Listener,
    /// Numbers of the connections whose processes have it.
    holders: HashSet<u64>,
}

impl Registry {
    /// Where to connect for the program's port: a listener on all addresses is reached on loopback of its family. If there are
    /// several, one of IPv4: more clients have such an address, which a socket of IPv4 can tell.
    pub fn bound(&self, port: u16) -> Option<SocketAddr> {
        self.bound_for(port, Ipv4Addr::LOCALHOST.into())
    }

    /// Likewise, preferably a listener of the client's family.
    pub fn bound_for(&self, port: u16, client: IpAddr) -> Option<SocketAddr> {
        let is_other = |bound: SocketAddr| bound.is_ipv4() != client.to_canonical().is_ipv4();
        let tables = lock(&self.0);
        let bound = tables.listeners.iter().map(|held| held.listener).filter(|listener| listener.asked.port() == port);
        bound.map(|listener| listener.bound).min_by_key(|bound| is_other(*bound)).map(reachable)
    }

    /// Notes whom a connection is from, before it is made: `local` is the intproxy's own end of it. Forgotten when the guard is dropped.
    pub fn origin(&self, local: SocketAddr, origin: Origin) -> OriginGuard {
        let local = canonical(local);
        let mut tables = lock(&self.0);
        tables.last_guard += 1;
        let number = tables.last_guard;
        if tables.origins.len() < MAX_ORIGINS || tables.origins.contains_key(&local) {
            tables.origins.insert(local, (number, origin));
        }
        OriginGuard { registry: self.clone(), local, number }
    }

    pub(super) fn find_origin(&self, peer: SocketAddr) -> Option<Origin> {
        lock(&self.0).origins.get(&canonical(peer)).map(|(_, origin)| *origin)
    }

    /// A process has a listener. Fails if it has too many.
    pub(super) fn hold(&self, connection: u64, listener: Listener) -> Result<(), String> {
        let mut tables = lock(&self.0);
        let has = tables.listeners.iter().filter(|held| held.holders.contains(&connection)).count();
        if has >= MAX_LISTENERS {
            return Err(format!("a process may have {MAX_LISTENERS} listeners; this one stays local"));
        }
        match tables.listeners.iter_mut().find(|held| held.listener == listener) {
            Some(held) => {
                held.holders.insert(connection);
            }
            None => tables.listeners.push(Held { listener, holders: HashSet::from([connection]) }),
        }
        Ok(())
    }

    /// Of these sockets, those that the session knows; the process has them now.
    pub(super) fn adopt(&self, connection: u64, bound: &[SocketAddr]) -> Vec<Listener> {
        let mut tables = lock(&self.0);
        let known = tables.listeners.iter_mut().filter(|held| bound.contains(&held.listener.bound)).take(MAX_LISTENERS);
        known
            .map(|held| {
                held.holders.insert(connection);
                held.listener
            })
            .collect()
    }

    /// A process has a listener no more. The ports that this may have closed.
    pub(super) fn release(&self, connection: u64, bound: SocketAddr) -> Vec<u16> {
        self.drop_holders(bound, |holders| {
            holders.remove(&connection);
        })
    }

    /// Nobody has a listener any more. The ports that this may have closed.
    pub(super) fn release_all(&self, bound: SocketAddr) -> Vec<u16> {
        self.drop_holders(bound, HashSet::clear)
    }

    fn drop_holders(&self, bound: SocketAddr, change: impl Fn(&mut HashSet<u64>)) -> Vec<u16> {
        let mut tables = lock(&self.0);
        let mut ports = Vec::new();
        tables.listeners.retain_mut(|held| {
            if held.listener.bound == bound {
                change(&mut held.holders);
                ports.push(held.listener.asked.port());
            }
            !held.holders.is_empty()
        });
        ports
    }

    /// What a process has, and whether nobody else has it.
    pub(super) fn held_by(&self, connection: u64) -> Vec<(Listener, bool)> {
        let tables = lock(&self.0);
        let held = tables.listeners.iter().filter(|held| held.holders.contains(&connection));
        held.map(|held| (held.listener, held.holders.len() == 1)).collect()
    }

    pub(super) fn all_bound(&self) -> Vec<SocketAddr> {
        lock(&self.0).listeners.iter().map(|held| held.listener.bound).collect()
    }

    pub(super) fn is_open(&self, port: u16) -> bool {
        lock(&self.0).listeners.iter().any(|held| held.listener.asked.port() == port)
    }

    /// The session's listener that gets what is sent to `asked`, the nearest first: same address, same family, IPv6 for both.
    pub(super) fn find(&self, asked: SocketAddr) -> Option<SocketAddr> {
        let asked = canonical(asked);
        let tables = lock(&self.0);
        let matching = tables.listeners.iter().filter_map(|held| Some((nearness(canonical(held.listener.asked), asked)?, held)));
        matching.min_by_key(|(nearness, _)| *nearness).map(|(_, held)| held.listener.bound)
    }
}

fn nearness(listener: SocketAddr, asked: SocketAddr) -> Option<u8> {
    let any = listener.ip().is_unspecified();
    match (listener.port() == asked.port(), listener.is_ipv4() == asked.is_ipv4()) {
        (true, _) if listener.ip() == asked.ip() => Some(0),
        (true, true) if any || asked.ip().is_unspecified() => Some(1),
        (true, false) if any && listener.is_ipv6() => Some(2),
        _ => None,
    }
}

/// An origin is known while this lives.
#[derive(Debug)]
pub struct OriginGuard {
    registry: Registry,
    local: SocketAddr,
    number: u64,
}

impl Drop for OriginGuard {
    fn drop(&mut self) {
        let mut tables = lock(&self.registry.0);
        if tables.origins.get(&self.local).is_some_and(|(number, _)| *number == self.number) {
            tables.origins.remove(&self.local);
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // A machine may have IPv6 sockets and no IPv6 address; what listens on all of them hears IPv4 too.
        IpAddr::V6(ip) if ip.is_unspecified() => match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
            Ok(_) => Ipv6Addr::LOCALHOST.into(),
            Err(_) => Ipv4Addr::LOCALHOST.into(),
        },
        ip => ip,
    };
    match bound {
        SocketAddr::V6(mut v6) if v6.ip() == &ip => {
            v6.set_flowinfo(0);
            v6.into()
        }
        _ => SocketAddr::new(ip, bound.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(asked: &str, bound: &str) -> Listener {
        Listener { asked: asked.parse().unwrap(), bound: bound.parse().unwrap() }
    }

    #[test]
    fn a_port_is_open_while_any_process_has_a_listener() {
        let registry = Registry::default();
        let one = listener("0.0.0.0:80", "0.0.0.0:4000");
        registry.hold(1, one).unwrap();
        registry.hold(2, one).unwrap();
        registry.hold(2, one).unwrap();
        assert_eq!(registry.bound(80), Some("127.0.0.1:4000".parse().unwrap()));
        assert_eq!(registry.release(1, one.bound), [80]);
        assert!(registry.is_open(80));
        registry.hold(3, listener("[::]:80", "[::]:4000")).unwrap();
        assert_eq!(registry.bound(80), Some("127.0.0.1:4000".parse().unwrap()));
        assert_eq!(registry.bound_for(80, "2001:db8::1".parse().unwrap()).map(|bound| bound.port()), Some(4000));
        registry.release(3, "[::]:4000".parse().unwrap());
        assert_eq!(registry.release(1, one.bound), [80]);
        assert_eq!(registry.held_by(2), [(one, true)]);
        registry.release(2, one.bound);
        assert!(!registry.is_open(80));
        assert_eq!(registry.bound(80), None);
    }

    #[test]
    fn the_nearest_listener_is_found() {
        let registry = Registry::default();
        registry.hold(1, listener("[::]:80", "[::]:4000")).unwrap();
        let find = |asked: &str| registry.find(asked.parse().unwrap()).map(|found| found.to_string());
        assert_eq!(find("127.0.0.1:80").as_deref(), Some("[::]:4000"));
        registry.hold(1, listener("0.0.0.0:80", "0.0.0.0:4001")).unwrap();
        assert_eq!(find("[::ffff:127.0.0.1]:80").as_deref(), Some("0.0.0.0:4001"));
        assert_eq!(find("127.0.0.1:81"), None);
    }

    #[test]
    fn an_origin_ends_with_its_guard() {
        let registry = Registry::default();
        let origin = Origin { client: "10.0.0.9:5".parse().unwrap(), destination: "10.0.0.1:80".parse().unwrap() };
        let guard = registry.origin("127.0.0.1:6000".parse().unwrap(), origin);
        assert_eq!(registry.find_origin("[::ffff:127.0.0.1]:6000".parse().unwrap()), Some(origin));
        drop(guard);
        assert_eq!(registry.find_origin("127.0.0.1:6000".parse().unwrap()), None);

        // A port that is used again belongs to the later one.
        let earlier = registry.origin("127.0.0.1:6000".parse().unwrap(), Origin { client: "10.0.0.8:1".parse().unwrap(), ..origin });
        let _later = registry.origin("127.0.0.1:6000".parse().unwrap(), origin);
        drop(earlier);
        assert_eq!(registry.find_origin("127.0.0.1:6000".parse().unwrap()), Some(origin));
    }

    #[test]
    fn listeners_of_a_process_are_bounded() {
        let registry = Registry::default();
        let at = |port: usize| Listener { asked: ([0, 0, 0, 0], port as u16).into(), bound: ([0, 0, 0, 0], port as u16).into() };
        for port in 1..=MAX_LISTENERS {
            registry.hold(1, at(port)).unwrap();
        }
        assert!(registry.hold(1, at(9999)).is_err());
        assert!(registry.hold(2, at(9999)).is_ok());
    }
}
