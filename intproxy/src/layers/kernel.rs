//! What only the kernel knows: which TCP addresses have a listener on this machine, and who we are.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
};

/// The state that both tables list first.
const LISTEN: &str = "0A";

/// All addresses with a listener, in this network namespace; `None` if the kernel does not tell.
pub(super) fn listening() -> Option<HashSet<SocketAddr>> {
    let mut all = HashSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        // Without IPv6 there is no second table.
        let Ok(file) = File::open(table) else { continue };
        let lines = BufReader::new(file).lines().skip(1).map_while(Result::ok);
        all.extend(lines.map_while(|line| listener(&line)));
    }
    (!all.is_empty()).then_some(all).or_else(|| File::open("/proc/self/net/tcp").ok().map(|_| HashSet::new()))
}

/// The local address of a line of those tables; `None` if it is no listener's.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    (state == LISTEN).then_some(SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?))
}

/// Words of 32 bits, each printed as a number of this machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The user that this process runs as.
pub(super) fn own_uid() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|meta| meta.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_tables() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0";
        assert_eq!(listener(line), Some("127.0.0.1:8080".parse().unwrap()));
        let six = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1";
        assert_eq!(listener(six), Some("[::1]:80".parse().unwrap()));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener("garbage"), None);
    }

    #[test]
    fn a_listener_is_seen_while_it_is_there() {
        for any in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(socket) = std::net::TcpListener::bind(any) else { continue };
            let address = socket.local_addr().unwrap();
            assert!(listening().unwrap().contains(&address));
            drop(socket);
            assert!(!listening().unwrap().contains(&address));
        }
    }
}
