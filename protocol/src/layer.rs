//! Messages between the layer (one connection for each process that has it loaded) and the intproxy, over an abstract unix socket.
//!
//! A frame is a little-endian u32 length and that many bytes of postcard. The layer asks, the intproxy answers each message
//! with exactly one [`Reply`], in order. Both are of one build: the layer's [`Hello`] carries the version and a mismatch is refused.
//! What a process has said ends with its connection: its listeners count as closed.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::limits::MAX_LAYER_FRAME;

/// Variable with the intproxy's address for the layer: `NAME,TOKEN`, NAME an abstract unix socket (without the leading NUL).
pub const ADDRESS_VARIABLE: &str = "MIRRORD_LAYER_INTPROXY_ADDR";
/// Variable with the host name that the program is to see, if it is another than this machine's.
pub const HOSTNAME_VARIABLE: &str = "MIRRORD_OVERRIDE_HOSTNAME";
/// Version of these messages; a layer of another build is refused.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the layer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First message of a connection. Answered with [`Reply::Done`] or [`Reply::Refused`].
    Hello {
        /// [`VERSION`] of the layer.
        version: String,
        /// The secret of [`ADDRESS_VARIABLE`].
        token: String,
        /// The process.
        pid: u32,
    },
    /// The process listens (TCP). Answered once the port's traffic can arrive: [`Reply::Done`], or [`Reply::Refused`] if it stays local.
    Listen(Listener),
    /// The process closes its last descriptor of a listener. [`Reply::Done`] once the pod has its traffic back, unless others listen.
    Close {
        /// [`Listener::bound`].
        bound: SocketAddr,
        /// Whether it is closed already. So it is with a process that has forked: the kernel then knows whether a child still has
        /// it, which may not yet have said so.
        is_closed: bool,
    },
    /// After fork or exec: the process holds these listening sockets. Answered with [`Reply::Adopted`]: those that the session knows.
    Adopt {
        /// The kernel's own addresses of the sockets.
        bound: Vec<SocketAddr>,
    },
    /// Who is behind a connection that the process has accepted? Answered with [`Reply::Origin`].
    Origin {
        /// The accepted socket's peer, as the kernel says.
        peer: SocketAddr,
    },
    /// Where does this session listen for what a program would reach at `asked`? Answered with [`Reply::Moved`].
    Find {
        /// Where the program wants to connect to.
        asked: SocketAddr,
    },
}

/// A listening socket of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// The address that the program asked for; its port is what the program believes.
    pub asked: SocketAddr,
    /// Where the kernel has bound it: differs from `asked` if that was not to be had on this machine.
    pub bound: SocketAddr,
}

/// What the intproxy answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done as asked.
    Done,
    /// Not done, and why; the program goes on without.
    Refused(String),
    /// The listeners of [`Message::Adopt`] that belong to the session, as they were first told.
    Adopted(Vec<Listener>),
    /// The real client and the address it connected to; `None`: the connection is a local one.
    Origin(Option<Origin>),
    /// Where the session's listener is that covers the address (as asked for, if it was not moved); `None`: it has none there.
    Moved(Option<SocketAddr>),
}

/// The two ends of a delivered flow, as the pod would have seen them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// A message as one frame. Fails with `InvalidInput` if it is longer than the limit.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let frame = postcard::to_extend(message, vec![0; 4]).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    seal(frame)
}

fn seal(mut frame: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = frame.len() - 4;
    if length > MAX_LAYER_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a layer message of {length} bytes is over the limit")));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Length of the payload behind a frame's first four bytes. Fails with `InvalidData` above the limit.
pub fn frame_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_LAYER_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a layer frame of {length} bytes is over the limit")));
    }
    Ok(length)
}

/// Reads a payload; leftover bytes are an error.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(invalid(&"bytes left over after a layer message")),
        Err(error) => Err(invalid(&error)),
    }
}

/// Writes one frame to a blocking stream.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Reads one frame from a blocking stream.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut payload = vec![0; frame_length(prefix)?];
    stream.read_exact(&mut payload)?;
    decode(&payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let messages = [
            Message::Hello { version: VERSION.into(), token: "t".into(), pid: 1 },
            Message::Listen(Listener { asked: "0.0.0.0:80".parse().unwrap(), bound: "127.0.0.1:40000".parse().unwrap() }),
            Message::Adopt { bound: vec!["[::1]:8080".parse().unwrap()] },
        ];
        let mut wire = Vec::new();
        for message in &messages {
            write(&mut wire, message).unwrap();
        }
        let mut wire = wire.as_slice();
        for message in messages {
            assert_eq!(read::<Message>(&mut wire).unwrap(), message);
        }
        assert!(wire.is_empty());
    }

    #[test]
    fn golden_bytes() {
        let listen = Message::Close { bound: "1.2.3.4:80".parse().unwrap(), is_closed: true };
        assert_eq!(encode(&listen).unwrap(), [8, 0, 0, 0, 2, 0, 1, 2, 3, 4, 80, 1]);
    }

    #[test]
    fn a_hostile_frame_is_refused() {
        assert!(frame_length([0xff; 4]).is_err());
        assert!(decode::<Message>(&[]).is_err());
        assert!(decode::<Message>(&[99]).is_err());
        assert!(decode::<Reply>(&[0, 0]).is_err(), "leftover bytes");
        // A list that claims to be longer than what is there.
        assert!(decode::<Message>(&[3, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
