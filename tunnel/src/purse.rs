//! How many bytes may wait somewhere at a time, all who bring some together, and who waits for room. A peer that takes nothing makes
//! us keep what its windows promise for each of its streams: a purse bounds them together, and holds up nobody else.
//!
//! `Turn (waits for room) → Purse ← Held (is counted until dropped) ← Outgoing (within h2 until it is written)`

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};

/// Clones are the same purse.
#[derive(Clone, Debug)]
pub struct Purse(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes from which on those under way have to wait.
    limit: usize,
    held: Cell<usize>,
    last_key: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waker>>,
}

/// Bytes that count; no more once dropped.
#[derive(Debug)]
pub struct Held {
    purse: Purse,
    bytes: usize,
}

/// One who brings bytes again and again, and may have to wait.
#[derive(Debug)]
pub struct Turn {
    purse: Purse,
    /// Given when it first has to wait.
    key: Option<u64>,
}

/// Bytes on their way out, counted until they have gone or are given up.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Bytes,
    _held: Option<Held>,
}

impl Purse {
    /// A purse of which those under way may have so many bytes.
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(Shared { limit, held: Cell::default(), last_key: Cell::default(), waiting: RefCell::default() }))
    }

    /// Counts bytes that are there already.
    pub fn hold(&self, bytes: usize) -> Held {
        let mut held = Held { purse: self.clone(), bytes: 0 };
        held.set(bytes);
        held
    }

    /// Whether something new may begin, with so many bytes. For that there is as much again as for what is under way: however
    /// much that brings, a little can still be asked.
    pub fn has_room_for_new(&self, bytes: usize) -> bool {
        self.0.held.get() + bytes <= 2 * self.0.limit
    }

    /// Whether those under way may bring more.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.0.held.get() < self.0.limit
    }

    /// A place among those who wait.
    pub fn turn(&self) -> Turn {
        Turn { purse: self.clone(), key: None }
    }
}

impl Held {
    /// Of what it counts.
    pub fn purse(&self) -> &Purse {
        &self.purse
    }

    /// It is so many now.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if before == bytes {
            return;
        }
        let shared = &self.purse.0;
        let held = shared.held.get() - before + bytes;
        shared.held.set(held);
        // Not at each byte that is given back: whoever wakes is to get a good deal done.
        if bytes < before && held <= shared.limit / 2 && !shared.waiting.borrow().is_empty() {
            let waiting = shared.waiting.take();
            waiting.into_values().for_each(Waker::wake);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Turn {
    /// Ready while there is room. What they bring then counts, also where it is more than there is room for.
    #[inline]
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.purse.has_room() {
            return Poll::Ready(());
        }
        self.wait(cx);
        Poll::Pending
    }

    /// Brings bytes.
    pub fn bring(&self, bytes: Bytes) -> Outgoing {
        let held = self.purse.hold(bytes.len());
        Outgoing { bytes, _held: Some(held) }
    }

    #[cold]
    fn wait(&mut self, cx: &Context<'_>) {
        let shared = &self.purse.0;
        let key = *self.key.get_or_insert_with(|| {
            shared.last_key.set(shared.last_key.get() + 1);
            shared.last_key.get()
        });
        shared.waiting.borrow_mut().insert(key, cx.waker().clone());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.purse.0.waiting.borrow_mut().remove(&key);
        }
    }
}

impl From<Bytes> for Outgoing {
    /// Bytes that nobody counts.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, _held: None }
    }
}

impl Buf for Outgoing {
    #[inline]
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tests::Wakes;

    #[test]
    fn who_waits_is_woken_once_there_is_room_and_counts_no_more_when_gone() {
        let purse = Purse::new(100);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let cx = Context::from_waker(&waker);
        let (mut one, mut other) = (purse.turn(), purse.turn());
        assert!(one.poll_room(&cx).is_ready());
        let mut held = purse.hold(99);
        assert!(one.poll_room(&cx).is_ready(), "not full");
        let more = other.bring(Bytes::from_static(&[0; 60]));
        assert!(one.poll_room(&cx).is_pending() && one.poll_room(&cx).is_pending() && other.poll_room(&cx).is_pending());
        assert_eq!(purse.0.waiting.borrow().len(), 2, "each once");
        drop(other);
        drop(more);
        assert_eq!(wakes.count(), 0, "more than half is still held");
        held.set(50);
        assert_eq!(wakes.count(), 1, "who is there no more is not woken");
        assert!(one.poll_room(&cx).is_ready());
        drop(held);
        assert_eq!(purse.0.held.get(), 0);
    }

    #[test]
    fn something_new_has_room_beside_what_is_under_way() {
        let purse = Purse::new(100);
        let _under_way = purse.hold(120);
        assert!(purse.turn().poll_room(&Context::from_waker(Waker::noop())).is_pending());
        assert!(purse.has_room_for_new(80) && !purse.has_room_for_new(81));
    }
}
