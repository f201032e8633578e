//! HTTP/2 frames as bytes, for clients that no library would be.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Frame types (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// A request's head.
pub const HEADERS: u8 = 1;
/// Ends a stream early.
pub const RST_STREAM: u8 = 3;
/// Limits of the sender.
pub const SETTINGS: u8 = 4;
/// Wants an answer.
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// Grants bytes.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;
/// On DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// On HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// The preface with empty SETTINGS: how each connection begins.
pub fn opening() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat()
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /` of `http` at `pod`, in HPACK's static table where it has it.
pub fn get_head() -> Vec<u8> {
    [&[0x82, 0x84, 0x86, 0x01, 3][..], b"pod"].concat()
}

/// `POST`, else the same.
pub fn post_head() -> Vec<u8> {
    [&[0x83, 0x84, 0x86, 0x01, 3][..], b"pod"].concat()
}

/// A header as a literal that goes into HPACK's dynamic table, where it is [`LAST`] next.
pub fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.bytes());
    // An integer with a prefix of seven bits.
    let mut rest = value.len();
    if rest < 127 {
        bytes.push(rest as u8);
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend(value);
    bytes
}

/// The header that went into the dynamic table last, once more: one byte that stands for all of it.
pub const LAST: u8 = 0x80 | 62;

/// Sends as much as the peer takes while its answers are read and thrown away, until it closes, says GOAWAY, answers a PING
/// (which the caller puts last), or time is over. How much went, and the frame types that came last.
pub fn push(stream: &TcpStream, bytes: &[u8], limit: Duration) -> (usize, Vec<u8>) {
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut heard, deadline) = (0, Vec::new(), Instant::now() + limit);
    let mut buffer = vec![0; 64 << 10];
    let mut socket = stream;
    while Instant::now() < deadline {
        let mut idle = true;
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                heard.extend_from_slice(&buffer[..read]);
                idle = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        match socket.write(&bytes[sent..]) {
            Ok(written) if written > 0 => {
                sent += written;
                idle = false;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
        if sent == bytes.len() && frames(&heard).iter().any(|kind| matches!(*kind, PING | GOAWAY)) {
            break;
        }
    }
    let kinds = frames(&heard);
    (sent, kinds[kinds.len().saturating_sub(3)..].to_vec())
}

/// The types of the frames in what a peer sent.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, ..] = *bytes {
        kinds.push(kind);
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let Some(rest) = bytes.get(9 + length..) else { break };
        bytes = rest;
    }
    kinds
}
