//! A connection to the intproxy, and one question at a time over it. Opened at the first question; when it is lost, once more at
//! the next. A process has two, so that a question on an accepted connection never waits for a port that is being opened.
//!
//! The descriptor is the program's to see and to close. So before each use the kernel is asked whether it still is ours.

use std::{
    sync::{
        atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
        Arc, Mutex, PoisonError,
    },
    time::{Duration, Instant},
};

use mirrord_protocol::layer::{self, Message, Reply};

use crate::sys;

/// After a question that was not answered in time, others are not asked for as long: a stopped intproxy delays nobody twice.
const PAUSE: Duration = Duration::from_secs(5);

/// Who to ask.
pub struct Address {
    /// Name of the abstract socket.
    pub name: String,
    /// The right to ask.
    pub token: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nobody is there, or has answered in time.
    Gone,
    /// The intproxy will not speak with this layer, and why.
    Refused(String),
}

/// Whose turn it is to ask on a line, and until when nobody's. Not in the line itself: another thread may hold it across a fork,
/// and is not there in the child to give it back.
pub type Turn = Arc<Mutex<Option<Instant>>>;

/// See the module.
pub struct Line {
    fd: AtomicI32,
    inode: AtomicU64,
    patience: Duration,
}

impl Line {
    /// A line on which an answer may take as long as `patience`.
    pub fn new(patience: Duration) -> Line {
        Line { fd: AtomicI32::new(-1), inode: AtomicU64::new(0), patience }
    }

    /// Whether a descriptor is the line's, as far as its number goes.
    pub fn is_at(&self, fd: i32) -> bool {
        fd >= 0 && self.fd.load(Relaxed) == fd
    }

    /// The descriptor, if it still is ours.
    pub fn descriptor(&self) -> Option<i32> {
        let fd = self.fd.load(Relaxed);
        (fd >= 0 && sys::socket(fd)?.inode == self.inode.load(Relaxed)).then_some(fd)
    }

    /// Goes to another number, as the program wants this one.
    pub fn make_way(&self) {
        if let Some(copy) = self.descriptor().and_then(sys::move_high) {
            self.fd.store(copy, Relaxed);
        }
    }

    /// Lets go of the descriptor without closing what is not ours.
    pub fn close(&self) {
        if let Some(fd) = self.descriptor() {
            self.fd.store(-1, Relaxed);
            sys::close(fd);
        }
        self.fd.store(-1, Relaxed);
    }

    /// Asks. If the line has to be opened for it, `greeting` is said first; its replies are dropped.
    pub fn ask(&self, turn: &Turn, to: &Address, greeting: &dyn Fn() -> Vec<Message>, message: &Message) -> Result<Reply, Lost> {
        let mut silent_until = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(Lost::Gone);
        }
        *silent_until = None;
        if self.descriptor().is_some() {
            match self.exchange(message) {
                Err(Failure::Slow) => {}
                // The intproxy may have closed a line that it took for dead: once more, on a new one.
                Err(Failure::Closed) => self.close(),
                Ok(reply) => return Ok(reply),
            }
        }
        let answer = if self.descriptor().is_some() { Err(Lost::Gone) } else { self.open(to, greeting, message) };
        if answer.is_err() {
            self.close();
            *silent_until = Some(Instant::now() + PAUSE);
        }
        answer
    }

    fn open(&self, to: &Address, greeting: &dyn Fn() -> Vec<Message>, message: &Message) -> Result<Reply, Lost> {
        let low = sys::connect_abstract(to.name.as_bytes(), self.patience).ok_or(Lost::Gone)?;
        let fd = sys::move_high(low).inspect(|_| sys::close(low)).unwrap_or(low);
        self.inode.store(sys::socket(fd).map_or(0, |identity| identity.inode), Relaxed);
        self.fd.store(fd, Relaxed);
        let hello = Message::Hello { version: layer::VERSION.into(), token: to.token.clone(), pid: sys::pid() as u32 };
        if let Reply::Refused(why) = self.exchange(&hello)? {
            return Err(Lost::Refused(why));
        }
        for before in greeting() {
            self.exchange(&before)?;
        }
        Ok(self.exchange(message)?)
    }

    fn exchange(&self, message: &Message) -> Result<Reply, Failure> {
        let fd = self.descriptor().ok_or(Failure::Closed)?;
        let deadline = Instant::now() + self.patience;
        let frame = layer::encode(message).map_err(|_| Failure::Closed)?;
        let mut sent = 0;
        while sent < frame.len() {
            sent += until(deadline, || sys::send(fd, &frame[sent..]))?;
        }
        let mut answer = [0; 512];
        let mut long = Vec::new();
        let received = until(deadline, || sys::receive(fd, &mut answer))?;
        // Most replies are one short packet. The rest is read piece by piece.
        long.extend_from_slice(&answer[..received]);
        while long.len() < 4 || long.len() < 4 + frame_length(&long)? {
            match until(deadline, || sys::receive(fd, &mut answer))? {
                0 => return Err(Failure::Closed),
                more => long.extend_from_slice(&answer[..more]),
            }
        }
        layer::decode(&long[4..]).map_err(|_| Failure::Closed)
    }
}

enum Failure {
    Slow,
    Closed,
}

impl From<Failure> for Lost {
    fn from(_: Failure) -> Lost {
        Lost::Gone
    }
}

fn frame_length(bytes: &[u8]) -> Result<usize, Failure> {
    let prefix = bytes.first_chunk().ok_or(Failure::Closed)?;
    layer::frame_length(*prefix).map_err(|_| Failure::Closed)
}

// A signal's handler interrupts a call on a socket with a time-out; it starts anew, within the same deadline.
fn until(deadline: Instant, mut call: impl FnMut() -> Result<usize, sys::Errno>) -> Result<usize, Failure> {
    loop {
        match call() {
            Ok(0) => return Err(Failure::Closed),
            Ok(count) => return Ok(count),
            Err(libc::EINTR) if Instant::now() < deadline => {}
            Err(libc::EINTR | libc::EAGAIN) => return Err(Failure::Slow),
            Err(_) => return Err(Failure::Closed),
        }
    }
}
