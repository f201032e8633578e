//! How far a message's body reaches in a stream of bytes: none, a length, chunks, or until the stream ends. Pure: told
//! bytes in pieces of any size, it says how many belong to the body, and that at the same byte however they are cut.
//!
//! ```text
//! chunks:  Size → (Extension) → SizeLf → Data → DataCr → DataLf → Size …
//!                                └ size 0 → Line ─CR→ EndLf → Done
//!                                            └ other → Trailer → TrailerLf → Line …
//! ```

/// A chunk's line or a trailer section over this is not a chunk that everybody reads.
const MAX_EXTENSION: u32 = 4096;
const MAX_TRAILERS: u32 = 64 * 1024;

/// A piece of a body as it lies in the bytes, without what frames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Data(&'a [u8]),
    /// What follows the last chunk's line: trailers, if any, and the empty line.
    Trailers(&'a [u8]),
}

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Empty,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// A chunk that cannot be read for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

/// Where in the chunks we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    digits: u8,
    /// Bytes in the chunk's line or in the trailers so far.
    line: u32,
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Body {
    pub fn length(bytes: u64) -> Self {
        if bytes == 0 { Body::Empty } else { Body::Length(bytes) }
    }

    pub fn chunked() -> Self {
        Body::Chunked(Chunks { state: State::Size, digits: 0, line: 0, left: 0 })
    }

    pub fn is_done(&self) -> bool {
        match self {
            Body::Empty | Body::Length(0) => true,
            Body::Chunked(chunks) => chunks.state == State::Done,
            Body::Length(_) | Body::UntilClose => false,
        }
    }

    /// How many of these bytes belong to the body. The rest, if any, is the next message's.
    #[inline]
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        self.read(bytes, |_| {})
    }

    /// The same; `with` gets what they carry. Before a broken chunk it gets what came well.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], mut with: impl FnMut(Part<'_>)) -> Result<usize, BadChunk> {
        let taken = match self {
            Body::Empty => 0,
            Body::UntilClose => bytes.len(),
            Body::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                taken as usize
            }
            Body::Chunked(chunks) => return chunks.read(bytes, with),
        };
        if taken > 0 {
            with(Part::Data(&bytes[..taken]));
        }
        Ok(taken)
    }
}

impl Chunks {
    fn read(&mut self, bytes: &[u8], mut with: impl FnMut(Part<'_>)) -> Result<usize, BadChunk> {
        let (mut at, mut trailers) = (0, None);
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let taken = self.left.min((bytes.len() - at) as u64);
                self.left -= taken;
                with(Part::Data(&bytes[at..at + taken as usize]));
                at += taken as usize;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            if trailers.is_none() && matches!(self.state, State::Line | State::Trailer | State::TrailerLf | State::EndLf) {
                trailers = Some(at);
            }
            self.state = self.step(bytes[at]).ok_or(BadChunk)?;
            at += 1;
        }
        if let Some(from) = trailers {
            with(Part::Trailers(&bytes[from..at]));
        }
        Ok(at)
    }

    /// The state after one byte outside of data.
    fn step(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        let after = match self.state {
            State::Size => return self.size(byte),
            State::Extension => match byte {
                b'\r' => State::SizeLf,
                byte if is_text(byte) && self.line <= MAX_EXTENSION => State::Extension,
                _ => return None,
            },
            State::SizeLf if byte == b'\n' => {
                (self.digits, self.line) = (0, 0);
                if self.left == 0 { State::Line } else { State::Data }
            }
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => {
                self.line = 0;
                State::Size
            }
            State::Line => match byte {
                b'\r' => State::EndLf,
                // A folded trailer, or one without a name.
                b' ' | b'\t' | b':' => return None,
                byte if is_text(byte) => State::Trailer,
                _ => return None,
            },
            State::Trailer => match byte {
                b'\r' => State::TrailerLf,
                byte if is_text(byte) && self.line <= MAX_TRAILERS => State::Trailer,
                _ => return None,
            },
            State::TrailerLf if byte == b'\n' => State::Line,
            State::EndLf if byte == b'\n' => State::Done,
            _ => return None,
        };
        Some(after)
    }

    /// Hex digits, at most 15 of them (more overflows somewhere), then CR or an extension; no white space, which some skip
    /// and some refuse.
    fn size(&mut self, byte: u8) -> Option<State> {
        match (byte as char).to_digit(16) {
            Some(digit) if self.digits < 15 => {
                self.digits += 1;
                self.left = self.left << 4 | u64::from(digit);
                Some(State::Size)
            }
            None if self.digits > 0 && byte == b'\r' => Some(State::SizeLf),
            None if self.digits > 0 && byte == b';' => Some(State::Extension),
            _ => None,
        }
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
