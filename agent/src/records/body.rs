//! A body that passes: counted without the framing of its chunks, its beginning kept if that was asked for.

use std::{cell::Cell, rc::Rc};

use mirrord_protocol::records::Captured;

/// Bytes of bodies that one worker keeps at a time for all exchanges under way; beyond, they are counted only.
const ROOM: usize = 16 << 20;

/// What all bodies of a worker hold.
#[derive(Clone, Debug, Default)]
pub struct Room(Rc<Cell<usize>>);

/// A body.
#[derive(Debug, Default)]
pub struct Body {
    bytes: u64,
    limit: usize,
    kept: Vec<u8>,
    chunks: Option<Chunks>,
    room: Option<Room>,
}

/// Where in the chunks we are. The gateway has read them before us: they are well-formed.
#[derive(Clone, Copy, Debug)]
enum Chunks {
    Size(u64),
    /// The rest of a chunk's first line.
    Line(u64),
    Data(u64),
    /// The line end behind a chunk.
    End,
    Trailers,
}

impl Body {
    /// Keeps up to `limit` bytes.
    pub fn keep(&mut self, limit: usize, room: &Room) {
        (self.limit, self.room) = (limit, Some(room.clone()));
    }

    /// What passes is in chunks (HTTP/1.1).
    pub fn set_chunked(&mut self) {
        self.chunks = Some(Chunks::Size(0));
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A piece, as it is on the wire.
    pub fn push(&mut self, mut piece: &[u8]) {
        let Some(mut chunks) = self.chunks else { return self.data(piece) };
        while let Some((&first, rest)) = piece.split_first() {
            if let Chunks::Data(left) = chunks {
                let taken = left.min(piece.len() as u64);
                let (data, after) = piece.split_at(taken as usize);
                self.data(data);
                piece = after;
                chunks = if taken == left { Chunks::End } else { Chunks::Data(left - taken) };
                continue;
            }
            chunks = chunks.step(first);
            piece = rest;
        }
        self.chunks = Some(chunks);
    }

    fn data(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        let Some(Room(used)) = &self.room else { return };
        let more = data.len().min(self.limit - self.kept.len()).min(ROOM - used.get());
        used.set(used.get() + more);
        self.kept.extend_from_slice(&data[..more]);
    }

    /// What was kept, at most so many bytes.
    pub fn captured(&self, most: usize) -> Option<Captured> {
        let kept = &self.kept[..self.kept.len().min(most)];
        if kept.is_empty() {
            return None;
        }
        let cut = (kept.len() as u64) < self.bytes;
        let text = match std::str::from_utf8(kept) {
            Ok(text) => Some(text),
            // Cut within a character.
            Err(error) if cut && error.error_len().is_none() => std::str::from_utf8(&kept[..error.valid_up_to()]).ok(),
            Err(_) => None,
        };
        Some(match text {
            Some(text) => Captured { text: text.to_owned(), base64: false, cut },
            None => Captured { text: base64(kept), base64: true, cut },
        })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(Room(used)) = &self.room {
            used.set(used.get() - self.kept.len());
        }
    }
}

impl Chunks {
    fn step(self, byte: u8) -> Self {
        match (self, byte) {
            (Chunks::Size(size) | Chunks::Line(size), b'\n') => {
                if size == 0 {
                    Chunks::Trailers
                } else {
                    Chunks::Data(size)
                }
            }
            (Chunks::Size(size), _) => match (byte as char).to_digit(16) {
                Some(digit) => Chunks::Size(size << 4 | u64::from(digit)),
                None => Chunks::Line(size),
            },
            (Chunks::End, b'\n') => Chunks::Size(0),
            (same, _) => same,
        }
    }
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let number = part.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place > part.len() { '=' } else { digit as char });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(limit: usize, pieces: &[&[u8]]) -> (u64, Option<Captured>) {
        let (mut body, room) = (Body::default(), Room::default());
        body.keep(limit, &room);
        pieces.iter().for_each(|piece| body.push(piece));
        (body.bytes(), body.captured(limit))
    }

    #[test]
    fn chunks_are_counted_without_their_framing_however_they_are_cut() {
        let wire = b"5;a=b\r\nhello\r\n00A\r\n0123456789\r\n0\r\nx: 5\r\n\r\n";
        for cut in 0..wire.len() {
            let mut body = Body::default();
            body.keep(9, &Room::default());
            body.set_chunked();
            body.push(&wire[..cut]);
            body.push(&wire[cut..]);
            assert_eq!((body.bytes(), body.captured(9).unwrap().text.as_str()), (15, "hello0123"), "{cut}");
        }
    }

    #[test]
    fn what_is_kept_is_text_or_base64_and_says_whether_it_goes_on() {
        let text = |text: &str, base64, cut| Some(Captured { text: text.into(), base64, cut });
        assert_eq!(captured(0, &[b"abc"]), (3, None));
        assert_eq!(captured(9, &[b"ab", b"c"]), (3, text("abc", false, false)));
        assert_eq!(captured(3, &["ab\u{e9}".as_bytes()]), (4, text("ab", false, true)));
        assert_eq!(captured(9, &[b"\xff\xfe"]), (2, text("//4=", true, false)));
        assert_eq!(base64(b"\x00"), "AA==");
        assert_eq!(base64(b"Man"), "TWFu");
    }

    #[test]
    fn a_worker_keeps_a_bounded_amount() {
        let room = Room::default();
        let mut first = Body::default();
        first.keep(usize::MAX, &room);
        first.push(&vec![0; ROOM - 1]);
        let mut second = Body::default();
        second.keep(10, &room);
        second.push(b"hello");
        assert_eq!((second.bytes(), second.kept.len()), (5, 1));
        drop(first);
        second.push(b"hello");
        assert_eq!(second.kept.len(), 6);
        drop(second);
        assert_eq!(room.0.get(), 0);
    }
}
