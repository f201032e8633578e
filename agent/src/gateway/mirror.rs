//! Copies for sessions that mirror, and for the pod of requests that a session answers. The relay puts what a client sends
//! into a bounded pipe (a [`Tap`] for each client connection and upstream); a task of its own plays it to the upstream,
//! request by request, and throws the answers away. The path between the client and who answers never waits for it: what
//! finds no room is dropped, a request as a whole if at all possible, and counted.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use super::{
    http1::head::Asks,
    player,
    steer::{Flow, Surroundings, Upstream},
};

/// Room in one connection's pipe.
const ROOM: usize = 256 * 1024;
/// Room in all pipes of an upstream on this thread.
const UPSTREAM_ROOM: usize = 32 * 1024 * 1024;
/// Up to here what has been sent is kept, so that it can be sent again if the program closed an idle stream meanwhile.
const REPLAYABLE: usize = 64 * 1024;

thread_local! {
    static HELD_FOR: RefCell<HashMap<Upstream, Weak<Cell<usize>>>> = RefCell::new(HashMap::new());
}

/// One thing to play.
#[derive(Debug)]
pub(super) struct Entry {
    bytes: Vec<u8>,
    /// Bytes of it that have been let go of after sending.
    released: usize,
    /// Bytes of it that have been sent.
    sent: usize,
    pub kind: Kind,
    /// All of it is here.
    pub complete: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request(Asks),
    /// A connection's bytes that nobody reads.
    Raw,
}

/// What lies between a tap and its player.
#[derive(Debug)]
pub(super) struct Pipe {
    entries: VecDeque<Entry>,
    held: usize,
    upstream_held: Rc<Cell<usize>>,
    /// The player is at work on the first entry.
    playing: bool,
    /// The first entry cannot be completed.
    broken: bool,
    /// The client is gone: no more comes.
    pub closed: bool,
    waker: Option<Waker>,
}

impl Pipe {
    fn new(upstream: Upstream) -> Self {
        let upstream_held = HELD_FOR.with_borrow_mut(|held| {
            let weak = held.entry(upstream).or_default();
            weak.upgrade().unwrap_or_else(|| {
                let fresh = Rc::new(Cell::new(0));
                *weak = Rc::downgrade(&fresh);
                fresh
            })
        });
        Pipe { entries: VecDeque::new(), held: 0, upstream_held, playing: false, broken: false, closed: false, waker: None }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.held + bytes <= ROOM && self.upstream_held.get() + bytes <= UPSTREAM_ROOM
    }

    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        self.upstream_held.set(self.upstream_held.get() + bytes);
    }

    fn release(&mut self, bytes: usize) {
        self.held -= bytes;
        self.upstream_held.set(self.upstream_held.get() - bytes);
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next entry to play; `None`: there will be none.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Kind>> {
        if let Some(entry) = self.entries.front() {
            self.playing = true;
            return Poll::Ready(Some(entry.kind));
        }
        if self.closed {
            return Poll::Ready(None);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What of the entry that is played can be sent now, and whether that is all of it. `None`: it broke.
    pub fn unsent(&mut self, cx: &mut Context<'_>) -> Option<(&[u8], bool)> {
        self.waker = Some(cx.waker().clone());
        if self.broken {
            return None;
        }
        let entry = self.entries.front()?;
        Some((&entry.bytes[entry.sent - entry.released..], entry.complete))
    }

    pub fn sent(&mut self, bytes: usize) {
        let Some(entry) = self.entries.front_mut() else { return };
        entry.sent += bytes;
        let unreleased = entry.sent - entry.released;
        if unreleased > REPLAYABLE || entry.kind == Kind::Raw {
            entry.bytes.drain(..unreleased);
            entry.released = entry.sent;
            self.release(unreleased);
        }
    }

    /// Back to the entry's first byte, if it is still here.
    pub fn rewind(&mut self) -> bool {
        let Some(entry) = self.entries.front_mut().filter(|entry| entry.released == 0) else { return false };
        entry.sent = 0;
        true
    }

    /// The player has done with the first entry.
    pub fn done(&mut self) {
        (self.playing, self.broken) = (false, false);
        if let Some(entry) = self.entries.pop_front() {
            self.release(entry.bytes.len());
        }
        if self.entries.is_empty() {
            // An idle connection keeps no buffers.
            self.entries = VecDeque::new();
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.upstream_held.set(self.upstream_held.get() - self.held);
    }
}

/// Where the relay puts copies for one upstream. Dropping it lets the player finish what is there.
#[derive(Debug)]
pub struct Tap {
    upstream: Upstream,
    pipe: Rc<RefCell<Pipe>>,
    /// An entry is being filled.
    open: bool,
}

impl Tap {
    /// Starts the player for copies of `flow` that `upstream` gets.
    pub fn new<S: Surroundings>(surroundings: &Rc<S>, flow: Flow, upstream: Upstream) -> Self {
        let pipe = Rc::new(RefCell::new(Pipe::new(upstream)));
        tokio::task::spawn_local(player::play(surroundings.clone(), flow, upstream, pipe.clone()));
        Tap { upstream, pipe, open: false }
    }

    /// A tap without a player, for tests of what it holds.
    #[cfg(test)]
    pub(super) fn unplayed(session: u64) -> (Self, Rc<RefCell<Pipe>>) {
        let upstream = Upstream::Session(session);
        let pipe = Rc::new(RefCell::new(Pipe::new(upstream)));
        (Tap { upstream, pipe: pipe.clone(), open: false }, pipe)
    }

    pub fn upstream(&self) -> Upstream {
        self.upstream
    }

    /// A request begins with `head`. `false`: there is no room, and nothing of it is copied.
    pub fn begin(&mut self, head: &[u8], asks: Asks) -> bool {
        self.open(head, Kind::Request(asks))
    }

    /// A connection's bytes begin.
    pub fn begin_raw(&mut self) {
        self.open(&[], Kind::Raw);
    }

    fn open(&mut self, head: &[u8], kind: Kind) -> bool {
        let mut pipe = self.pipe.borrow_mut();
        self.open = pipe.has_room(head.len()) && !pipe.broken;
        if self.open {
            pipe.hold(head.len());
            pipe.entries.push_back(Entry { bytes: head.to_vec(), released: 0, sent: 0, kind, complete: false });
            pipe.wake();
        }
        self.open
    }

    /// More of what began. `false`: it does not fit, and what began is no longer copied.
    pub fn more(&mut self, bytes: &[u8]) -> bool {
        if !self.open || bytes.is_empty() {
            return true;
        }
        let fits = self.pipe.borrow().has_room(bytes.len());
        if fits {
            let mut pipe = self.pipe.borrow_mut();
            // The player may be done with it already: the program did not want the rest.
            if let Some(entry) = pipe.entries.back_mut().filter(|entry| !entry.complete) {
                entry.bytes.extend_from_slice(bytes);
                pipe.hold(bytes.len());
                pipe.wake();
            }
        } else {
            self.cut();
        }
        fits
    }

    /// What began is complete.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            let mut pipe = self.pipe.borrow_mut();
            if let Some(entry) = pipe.entries.back_mut() {
                entry.complete = true;
            }
            pipe.wake();
        }
    }

    /// What began will not be complete: it is forgotten, or its stream cut if the program has seen a part of it.
    pub fn cut(&mut self) {
        if std::mem::take(&mut self.open) {
            let mut pipe = self.pipe.borrow_mut();
            if pipe.entries.len() > 1 || !pipe.playing {
                if let Some(entry) = pipe.entries.pop_back() {
                    pipe.release(entry.bytes.len());
                }
            } else {
                pipe.broken = true;
            }
            pipe.wake();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let raw = self.pipe.borrow().entries.back().is_some_and(|entry| entry.kind == Kind::Raw);
        if raw {
            self.end()
        } else {
            self.cut()
        }
        let mut pipe = self.pipe.borrow_mut();
        pipe.closed = true;
        pipe.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_request_without_room_is_dropped_as_a_whole_and_the_next_has_room_again() {
        let (mut tap, pipe) = Tap::unplayed(1001);
        let large = vec![0; ROOM - 2 * HEAD.len()];
        assert!(tap.begin(HEAD, Asks::default()) && tap.more(&large));
        tap.end();
        assert!(tap.begin(HEAD, Asks::default()));
        assert!(!tap.more(b"x"), "no room for its body");
        assert!(tap.more(b"x"), "said once");
        tap.end();
        assert!(tap.begin(HEAD, Asks::default()), "the dropped one's room is free");
        tap.end();
        let mut pipe = pipe.borrow_mut();
        for _ in 0..2 {
            assert!(pipe.poll_next(&mut now()).is_ready());
            let (bytes, complete) = pipe.unsent(&mut now()).unwrap();
            assert!(complete && bytes.starts_with(HEAD));
            pipe.done();
        }
        assert!(pipe.poll_next(&mut now()).is_pending());
        assert_eq!((pipe.held, pipe.upstream_held.get()), (0, 0));
    }

    #[test]
    fn a_request_that_is_being_played_breaks_when_it_outgrows_the_room() {
        let (mut tap, pipe) = Tap::unplayed(1002);
        assert!(tap.begin(HEAD, Asks::default()));
        assert!(pipe.borrow_mut().poll_next(&mut now()).is_ready());
        assert!(!tap.more(&vec![0; ROOM]));
        assert!(pipe.borrow_mut().unsent(&mut now()).is_none());
        assert!(!tap.begin(HEAD, Asks::default()), "not before the player has seen it");
        pipe.borrow_mut().done();
        assert!(tap.begin(HEAD, Asks::default()));
    }

    #[test]
    fn what_a_player_has_no_use_for_takes_no_room() {
        let (mut tap, pipe) = Tap::unplayed(1003);
        assert!(tap.begin(HEAD, Asks::default()));
        assert!(pipe.borrow_mut().poll_next(&mut now()).is_ready());
        pipe.borrow_mut().done();
        assert!(tap.more(b"the rest"));
        tap.end();
        assert_eq!(pipe.borrow().held, 0);
        assert!(pipe.borrow_mut().poll_next(&mut now()).is_pending());
    }

    #[test]
    fn all_connections_of_a_session_share_its_room() {
        let full: Vec<_> = (0..UPSTREAM_ROOM / ROOM)
            .map(|_| {
                let (mut tap, pipe) = Tap::unplayed(1004);
                assert!(tap.begin(&vec![0; ROOM], Asks::default()));
                tap.end();
                (tap, pipe)
            })
            .collect();
        let (mut tap, _pipe) = Tap::unplayed(1004);
        assert!(!tap.begin(HEAD, Asks::default()));
        assert!(Tap::unplayed(1005).0.begin(HEAD, Asks::default()), "another session's");
        drop(full);
        assert!(tap.begin(HEAD, Asks::default()));
    }

    #[test]
    fn what_has_been_sent_can_be_sent_again_while_it_is_small() {
        let (mut tap, pipe) = Tap::unplayed(1006);
        assert!(tap.begin(HEAD, Asks::default()));
        let mut pipe = pipe.borrow_mut();
        assert!(pipe.poll_next(&mut now()).is_ready());
        pipe.sent(HEAD.len());
        assert!(pipe.unsent(&mut now()).unwrap().0.is_empty());
        assert!(pipe.rewind());
        assert_eq!(pipe.unsent(&mut now()).unwrap().0, HEAD);
        drop(pipe);
        assert!(tap.more(&[0; REPLAYABLE]));
        let pipe = tap.pipe.clone();
        pipe.borrow_mut().sent(HEAD.len() + REPLAYABLE);
        assert!(!pipe.borrow_mut().rewind());
        assert_eq!(pipe.borrow().held, 0);
    }
}
