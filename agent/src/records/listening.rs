//! On which ports a network namespace is listened to.

use std::{collections::BTreeSet, fs, io};

/// `TCP_LISTEN` as /proc/net writes it.
const LISTEN: &str = "0A";

/// The ports that others can reach, in the namespace of the calling thread.
pub fn ports() -> io::Result<BTreeSet<u16>> {
    let mut ports = of(&fs::read_to_string("/proc/thread-self/net/tcp")?);
    // Absent where IPv6 is switched off.
    ports.append(&mut of(&fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default()));
    Ok(ports)
}

fn of(table: &str) -> BTreeSet<u16> {
    table.lines().skip(1).filter_map(port).collect()
}

/// The port of one line, if it is a listener that is not bound to the loopback.
fn port(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != LISTEN || is_loopback(address) {
        return None;
    }
    u16::from_str_radix(port, 16).ok().filter(|port| *port != 0)
}

/// The kernel writes addresses as 32-bit words in the machine's own order.
fn is_loopback(address: &str) -> bool {
    let word = |at: usize| address.get(at..at + 8).and_then(|word| u32::from_str_radix(word, 16).ok()).map(u32::to_ne_bytes);
    match (address.len(), word(0), word(8), word(16), word(24)) {
        (8, Some(v4), ..) => v4[0] == 127,
        (32, Some(first), Some(second), Some(third), Some(last)) => {
            let mapped = third == [0, 0, 0xff, 0xff] && last[0] == 127;
            first == [0; 4] && second == [0; 4] && ((third == [0; 4] && last == [0, 0, 0, 1]) || mapped)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_found_and_the_loopback_is_nobody_elses() {
        let (open, closed) = (TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let six = TcpListener::bind("[::1]:0").ok();
        let found = ports().unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert!(found.contains(&port(&open)), "{found:?}");
        assert!(!found.contains(&port(&closed)), "{found:?}");
        assert!(six.is_none_or(|six| !found.contains(&port(&six))));
    }
}
