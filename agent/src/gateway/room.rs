//! Bytes that a worker holds because a filter wants to see them before they go on, or because a session does not take them:
//! bounded, whoever's they are.

use std::cell::Cell;

use mirrord_tunnel::{Held, Purse};

/// Room for all of a worker's connections together.
pub const WORKER_ROOM: usize = 32 * 1024 * 1024;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// What one exchange holds of the room; given back when dropped.
#[derive(Debug, Default)]
pub struct Room(usize);

impl Room {
    /// Holds so many bytes from now on, if there is room for them. Less than before there always is.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let others = HELD.get() - self.0;
        let fits = bytes <= self.0 || others + bytes <= WORKER_ROOM;
        if fits {
            HELD.set(others + bytes);
            self.0 = bytes;
        }
        fits
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        HELD.set(HELD.get() - self.0);
    }
}

/// Read at a time for a session whose requests have as much under way here as they may. Not nothing: what the program takes is never
/// to wait for what it does not.
const LITTLE: usize = 4 * 1024;

/// One exchange's part of what its session's requests have under way here.
#[derive(Debug)]
pub struct Budget(Held);

impl Budget {
    /// For a request of which so many bytes are there; none if the session has as much under way as it may.
    pub fn begin(purse: &Purse, bytes: usize) -> Option<Self> {
        purse.has_room_for_new(bytes).then(|| Budget(purse.hold(bytes)))
    }

    /// So many bytes are held now.
    pub fn set(&mut self, bytes: usize) {
        self.0.set(bytes);
    }

    /// How much of the client's may be read at a time.
    pub fn bounds<'a>(&self, scratch: &'a mut [u8]) -> &'a mut [u8] {
        match scratch.get(..LITTLE) {
            Some(_) if !self.0.purse().has_room() => &mut scratch[..LITTLE],
            _ => scratch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holds_others_do_not_get() {
        let (mut one, mut other) = (Room::default(), Room::default());
        assert!(one.hold(WORKER_ROOM - 10) && other.hold(10));
        assert!(!other.hold(11), "full");
        assert!(one.hold(5) && other.hold(11), "less is held");
        drop(one);
        assert!(other.hold(WORKER_ROOM));
        drop(other);
        assert_eq!(HELD.get(), 0);
    }

    #[test]
    fn where_much_is_under_way_little_is_read_at_a_time_and_nothing_new_begins() {
        let purse = Purse::new(100);
        let mut scratch = vec![0; 2 * LITTLE];
        let mut one = Budget::begin(&purse, 99).unwrap();
        assert_eq!(one.bounds(&mut scratch).len(), 2 * LITTLE);
        one.set(100);
        let other = Budget::begin(&purse, 100).unwrap();
        assert_eq!(other.bounds(&mut scratch).len(), LITTLE);
        assert!(Budget::begin(&purse, 1).is_none());
        one.set(0);
        assert_eq!(one.bounds(&mut scratch).len(), LITTLE, "the other's counts");
        drop(other);
        assert_eq!(one.bounds(&mut scratch).len(), 2 * LITTLE);
    }
}
