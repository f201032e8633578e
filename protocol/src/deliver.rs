//! Delivery connections: the intproxy dials them and says [`Hello`], which tells the [`Kind`].
//!
//! [`Kind::Tunnel`]: the intproxy is then the HTTP/2 server. Each picked flow is a stream `POST /v1/deliver` whose head has the
//! headers below; the intproxy answers 200 once it has connected to the program, or 502 with [`ERROR`]; then both bodies are
//! the flow's bytes. [`Kind::Sockets`]: see [`crate::passing`].
//! [`Kind::Outgoing`]: the other way round, one for a session: the agent is the HTTP/2 server, each connection that the session makes
//! from the target's network is a stream `POST /v1/outgoing` with [`TO`], answered likewise.

use std::fmt;

/// Path of a delivery stream.
pub const PATH: &str = "/v1/deliver";
/// The subscribed port, decimal.
pub const PORT: &str = "mirrord-port";
/// The client's address as `IP:PORT`.
pub const CLIENT: &str = "mirrord-client";
/// The address that the client connected to, as `IP:PORT`.
pub const DESTINATION: &str = "mirrord-destination";
/// Why the flow cannot be delivered; on a 502.
pub const ERROR: &str = "mirrord-error";

/// Path of an outgoing stream.
pub const OUTGOING: &str = "/v1/outgoing";
/// Where an outgoing stream goes, as `HOST:PORT`.
pub const TO: &str = "mirrord-to";

/// Longest name of a host, bytes.
const LONGEST_HOST: usize = 253;

/// [`TO`]'s value: a name or an address of IPv4, and a port.
pub fn host_and_port(to: &str) -> Option<(&str, u16)> {
    let (host, port) = to.rsplit_once(':')?;
    let is_host =
        (1..=LONGEST_HOST).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    port.parse().ok().filter(|port| *port != 0 && is_host).map(|port| (host, port))
}

/// Length of [`Hello`] on the wire, bytes.
pub const HELLO_LEN: usize = MAGIC.len() + 16 + 2;
/// First bytes of a delivery connection; a control connection begins with HTTP/2's preface (`PRI * …`).
pub const MAGIC: &[u8; 8] = b"MRDLVR/1";
/// The same of one that passes sockets.
pub const SOCKETS_MAGIC: &[u8; 8] = b"MRSOCK/1";

/// The same of one for outgoing connections.
pub const OUTGOING_MAGIC: &[u8; 8] = b"MROUTG/1";

/// How flows travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As streams of an HTTP/2 connection, whose bytes the intproxy copies.
    Tunnel,
    /// The intproxy passes its connection to the program itself: both ends are on one machine, and this is a unix socket.
    Sockets,
    /// They are the session's own, from the target's network.
    Outgoing,
}

impl Kind {
    /// What its first bytes say; `None`: it is no delivery connection.
    #[must_use]
    pub fn of(first: &[u8; 8]) -> Option<Self> {
        match first {
            MAGIC => Some(Self::Tunnel),
            SOCKETS_MAGIC => Some(Self::Sockets),
            OUTGOING_MAGIC => Some(Self::Outgoing),
            _ => None,
        }
    }

    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Tunnel => MAGIC,
            Self::Sockets => SOCKETS_MAGIC,
            Self::Outgoing => OUTGOING_MAGIC,
        }
    }
}

/// The first bytes of a delivery connection: magic, session token (16 bytes), worker index (u16, big-endian).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// How flows travel on it.
    pub kind: Kind,
    /// The session's secret, from `Event::Opened`.
    pub token: [u8; 16],
    /// Which of the agent's workers this connection serves, from 0.
    pub worker: u16,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("kind", &self.kind).field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Hello {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[..8].copy_from_slice(self.kind.magic());
        bytes[8..24].copy_from_slice(&self.token);
        bytes[24..].copy_from_slice(&self.worker.to_be_bytes());
        bytes
    }

    /// Reads what [`Hello::encode`] wrote; `None` if the magic differs.
    #[must_use]
    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (token, rest) = rest.split_first_chunk::<16>()?;
        let worker = u16::from_be_bytes(*rest.first_chunk::<2>()?);
        Some(Self { kind: Kind::of(magic)?, token: *token, worker })
    }
}

/// Reads a token of 32 hex digits, as `Event::Opened` carries it.
#[must_use]
pub fn token_from_hex(hex: &str) -> Option<[u8; 16]> {
    let mut token = [0; 16];
    if hex.len() != 32 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in token.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(token)
}

/// A token as 32 lower-case hex digits.
#[must_use]
pub fn token_to_hex(token: &[u8; 16]) -> String {
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_survives_the_wire() {
        let hello = Hello { kind: Kind::Tunnel, token: *b"0123456789abcdef", worker: 258 };
        let bytes = hello.encode();
        assert_eq!(&bytes, b"MRDLVR/10123456789abcdef\x01\x02");
        assert_eq!(Hello::decode(&bytes), Some(hello));
        let hello = Hello { kind: Kind::Sockets, ..hello };
        assert_eq!(&hello.encode(), b"MRSOCK/10123456789abcdef\x01\x02");
        let hello = Hello { kind: Kind::Outgoing, ..hello };
        assert_eq!(&hello.encode(), b"MROUTG/10123456789abcdef\x01\x02");
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        let mut wrong = bytes;
        wrong[0] = b'P';
        assert_eq!(Hello::decode(&wrong), None);
    }

    #[test]
    fn tokens_are_hex_and_nothing_else() {
        let token = *b"\x00\x01\xfe\xff456789abcdef";
        assert_eq!(token_from_hex(&token_to_hex(&token)), Some(token));
        for bad in ["", "0", "zz112233445566778899aabbccddeeff", "+0112233445566778899aabbccddeef", "é0112233445566778899aabbccddeef"] {
            assert_eq!(token_from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn where_to_is_a_host_and_a_port_and_nothing_else() {
        assert_eq!(host_and_port("db.shop:5432"), Some(("db.shop", 5432)));
        assert_eq!(host_and_port("10.0.0.1:80"), Some(("10.0.0.1", 80)));
        for bad in ["", ":80", "db", "db:0", "db:65536", "a b:80", "[::1]:80", "a/b:80", &format!("{}:80", "x".repeat(254))] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }
}
