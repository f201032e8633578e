//! Lines that a child of ours writes to its standard output, read without ever waiting longer than asked for.

use std::{
    io::{self, Read},
    os::fd::{AsRawFd, RawFd},
    time::Instant,
};

use mirrord_protocol::limits::MAX_CONTROL_BODY;

use crate::sys;

/// What there is to read.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// One whole line, without its end.
    Text(String),
    /// Nothing so far.
    NotYet,
    /// The child has closed its output, which it does by ending, or has written a line beyond all bounds.
    End,
}

/// A child's output.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: Read + AsRawFd> Lines<R> {
    pub fn new(source: R) -> io::Result<Self> {
        sys::set_nonblocking(source.as_raw_fd())?;
        Ok(Self { source, buffer: Vec::new(), ended: false })
    }

    /// The descriptor to wait on; `None` once the end has been seen (it would be readable for ever).
    pub fn fd(&self) -> Option<RawFd> {
        (!self.ended).then(|| self.source.as_raw_fd())
    }

    /// What is there now.
    pub fn next(&mut self) -> Line {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.drain(..=end).take(end).collect::<Vec<_>>();
                return Line::Text(String::from_utf8_lossy(&line).into_owned());
            }
            if self.ended {
                return Line::End;
            }
            let mut part = [0; 4096];
            match self.source.read(&mut part) {
                Ok(0) => self.ended = true,
                Ok(count) => self.buffer.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Line::NotYet,
                Err(_) => self.ended = true,
            }
            self.ended |= self.buffer.len() > MAX_CONTROL_BODY;
        }
    }

    /// The next line or the end, if it comes before the deadline.
    pub fn wait(&mut self, deadline: Instant) -> Line {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next() {
                Line::NotYet if !left.is_zero() => {
                    if sys::wait_readable(&[self.source.as_raw_fd()], Some(left)).is_err() {
                        return Line::End;
                    }
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use super::*;

    #[test]
    fn lines_come_whole_and_the_end_once_all_are_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::new(reader).unwrap();
        assert_eq!(lines.next(), Line::NotYet);
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!((lines.next(), lines.next()), (Line::Text("one".into()), Line::NotYet));
        writer.write_all(b"o\n\nrest").unwrap();
        drop(writer);
        assert_eq!((lines.next(), lines.next(), lines.next()), (Line::Text("two".into()), Line::Text("".into()), Line::End));
        assert_eq!(lines.fd(), None);
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(Lines::new(reader).unwrap().wait(Instant::now() + Duration::from_millis(5)), Line::NotYet);
    }

    #[test]
    fn a_line_without_end_is_an_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::new(reader).unwrap();
        let mut seen = Line::NotYet;
        while seen == Line::NotYet {
            writer.write_all(&[b'x'; 4096]).unwrap();
            seen = lines.next();
        }
        assert_eq!(seen, Line::End);
    }
}
