//! What goes over a delivery connection of [`crate::deliver::Kind::Sockets`]: the agent asks for connections to the program by
//! number, the intproxy makes them and hands them over as file descriptors (`SCM_RIGHTS`), in whatever order they come about.
//!
//! ```text
//! agent --Ask::Open(1)--> intproxy        each Open is answered exactly once; Connected carries one descriptor, with its first byte
//! agent <--Answer::Connected(1) + fd--
//! agent --Ask::Closed(1)--> intproxy      whose connection it was may be forgotten; if it is still being made, it is given up
//! ```

use std::net::{IpAddr, SocketAddr};

use crate::layer::Origin;

/// Most connections that may be asked for and not yet answered on one delivery connection.
pub const MAX_ASKED: usize = 4096;
/// Longest reason of a refusal, bytes.
pub const MAX_REASON: usize = u8::MAX as usize;

/// agent → intproxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Connect to the program.
    Open {
        /// Names the connection until it is [`Ask::Closed`].
        id: u32,
        /// The subscribed port.
        port: u16,
        /// Who is behind it.
        origin: Origin,
    },
    /// The connection has ended, or is wanted no more.
    Closed {
        /// Its name.
        id: u32,
    },
}

/// intproxy → agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The program is connected; the socket comes with this.
    Connected {
        /// From [`Ask::Open`].
        id: u32,
    },
    /// It does not take it.
    Refused {
        /// From [`Ask::Open`].
        id: u32,
        /// Why, in at most [`MAX_REASON`] bytes.
        reason: String,
    },
}

/// The peer does not speak this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message on a delivery connection cannot be read; use an agent and a command line of the same version")]
pub struct Malformed;

const OPEN: u8 = 1;
const CLOSED: u8 = 2;
const CONNECTED: u8 = 1;
const REFUSED: u8 = 2;
const ADDRESS: usize = 1 + 16 + 2;

impl Ask {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open { id, port, origin } => {
                out.push(OPEN);
                out.extend(id.to_be_bytes());
                out.extend(port.to_be_bytes());
                write_address(out, origin.client);
                write_address(out, origin.destination);
            }
            Self::Closed { id } => {
                out.push(CLOSED);
                out.extend(id.to_be_bytes());
            }
        }
    }

    /// Takes the first message out of `bytes`; `None`: more bytes are needed.
    pub fn decode(bytes: &mut &[u8]) -> Result<Option<Self>, Malformed> {
        let mut rest = *bytes;
        let Some(kind) = take::<1>(&mut rest) else { return Ok(None) };
        let Some(id) = take(&mut rest).map(u32::from_be_bytes) else { return known(kind).map(|()| None) };
        let message = match kind {
            [OPEN] => {
                let (Some(port), Some(client), Some(destination)) =
                    (take(&mut rest), take::<ADDRESS>(&mut rest), take::<ADDRESS>(&mut rest))
                else {
                    return Ok(None);
                };
                let origin = Origin { client: read_address(&client)?, destination: read_address(&destination)? };
                Self::Open { id, port: u16::from_be_bytes(port), origin }
            }
            [CLOSED] => Self::Closed { id },
            _ => return Err(Malformed),
        };
        *bytes = rest;
        Ok(Some(message))
    }
}

impl Answer {
    /// Its bytes; a reason that is too long is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connected { id } => [&[CONNECTED][..], &id.to_be_bytes()].concat(),
            Self::Refused { id, reason } => {
                let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
                [&[REFUSED][..], &id.to_be_bytes(), &[reason.len() as u8], reason.as_bytes()].concat()
            }
        }
    }

    /// Takes the first message out of `bytes`; `None`: more bytes are needed.
    pub fn decode(bytes: &mut &[u8]) -> Result<Option<Self>, Malformed> {
        let mut rest = *bytes;
        let Some(kind) = take::<1>(&mut rest) else { return Ok(None) };
        let Some(id) = take(&mut rest).map(u32::from_be_bytes) else { return known(kind).map(|()| None) };
        let message = match kind {
            [CONNECTED] => Self::Connected { id },
            [REFUSED] => {
                let Some([length]) = take(&mut rest) else { return Ok(None) };
                let Some((reason, after)) = rest.split_at_checked(usize::from(length)) else { return Ok(None) };
                rest = after;
                Self::Refused { id, reason: String::from_utf8(reason.to_owned()).map_err(|_| Malformed)? }
            }
            _ => return Err(Malformed),
        };
        *bytes = rest;
        Ok(Some(message))
    }
}

/// A kind that nobody knows is refused at its first byte.
fn known([kind]: [u8; 1]) -> Result<(), Malformed> {
    if matches!(kind, 1 | 2) { Ok(()) } else { Err(Malformed) }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => (6, ip),
    };
    out.push(family);
    out.extend(ip.octets());
    out.extend(address.port().to_be_bytes());
}

fn read_address(bytes: &[u8; ADDRESS]) -> Result<SocketAddr, Malformed> {
    let mut rest = &bytes[..];
    let (Some([family]), Some(ip), Some(port)) = (take(&mut rest), take::<16>(&mut rest), take(&mut rest)) else { return Err(Malformed) };
    let ip = std::net::Ipv6Addr::from(ip);
    let ip = match family {
        4 => ip.to_ipv4_mapped().ok_or(Malformed)?.into(),
        6 => ip.into(),
        _ => return Err(Malformed),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(client: &str) -> Ask {
        let origin = Origin { client: client.parse().unwrap(), destination: "10.0.0.1:80".parse().unwrap() };
        Ask::Open { id: 7, port: 80, origin }
    }

    #[test]
    fn asks_survive_the_wire_in_any_cut() {
        let asks = [open("10.0.0.9:5000"), Ask::Closed { id: u32::MAX }, open("[::ffff:10.0.0.9]:1"), open("[fd00::1]:65535")];
        let mut bytes = Vec::new();
        asks.iter().for_each(|ask| ask.encode(&mut bytes));
        for cut in 0..=bytes.len() {
            let (mut held, mut read) = (bytes[..cut].to_vec(), Vec::new());
            for more in [&[], &bytes[cut..]] {
                held.extend(more);
                let mut rest = &held[..];
                while let Some(ask) = Ask::decode(&mut rest).unwrap() {
                    read.push(ask);
                }
                held = rest.to_vec();
            }
            assert_eq!((read.as_slice(), held.len()), (asks.as_slice(), 0), "cut at {cut}");
        }
    }

    #[test]
    fn answers_survive_the_wire() {
        let long = "é".repeat(200);
        let answers =
            [Answer::Connected { id: 1 }, Answer::Refused { id: 2, reason: "nobody listens".into() }, Answer::Connected { id: 3 }];
        let bytes = answers.iter().flat_map(Answer::encode).collect::<Vec<_>>();
        let mut rest = &bytes[..];
        let read: Vec<_> = std::iter::from_fn(|| Answer::decode(&mut rest).unwrap()).collect();
        assert_eq!(read, answers);
        let cut = Answer::Refused { id: 4, reason: long }.encode();
        let Ok(Some(Answer::Refused { reason, .. })) = Answer::decode(&mut &cut[..]) else { panic!("{cut:?}") };
        assert_eq!(reason, "é".repeat(127));
    }

    #[test]
    fn what_nobody_says_is_an_error_at_its_first_byte() {
        for kind in [0, 3, b'P', 255] {
            assert_eq!(Ask::decode(&mut &[kind][..]), Err(Malformed));
            assert_eq!(Answer::decode(&mut &[kind, 0, 0, 0, 0, 0][..]), Err(Malformed));
        }
        let mut bytes = Vec::new();
        open("10.0.0.9:5000").encode(&mut bytes);
        bytes[7] = 5;
        assert_eq!(Ask::decode(&mut &bytes[..]), Err(Malformed));
        assert_eq!(Answer::decode(&mut &[REFUSED, 0, 0, 0, 1, 1, 0xff][..]), Err(Malformed));
    }
}
