//! Bytes that a worker holds because a filter wants to see them before they go on: bounded, whoever's they are.

use std::cell::Cell;

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
}
