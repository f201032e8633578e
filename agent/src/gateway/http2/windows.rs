//! How much a peer may send ahead on one connection, all its streams together, and all connections of a worker together.
//!
//! Each connection has a window of its own, wide enough for streams whose bytes go on. A stream that is *stuck*, because
//! nobody takes its bytes, sits on up to a whole stream's window; the connection's grows by as much for it, so that it holds
//! up no other stream. What connections have beyond their own comes out of one purse. Nobody can empty it: there is never more
//! to have than half of what is left. A connection that does not get all that its stuck streams ask for is as slow as they are.
//!
//! `Body (stuck, moved on) → Windows → whoever drives the connection → WINDOW_UPDATE`

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
};

/// What all connections of a worker have together beyond their own windows.
const PURSE: u32 = 256 << 20;

thread_local! {
    static SPENT: Cell<u32> = const { Cell::new(0) };
}

/// One direction of one connection: what its peer may send.
pub(super) struct Windows {
    own: u32,
    stream: u32,
    stuck: Cell<u32>,
    /// What the connection's window is to be.
    target: Cell<u32>,
    /// What the peer may send or has under way to us; a window once granted is not taken back, it is used up.
    granted: Cell<u32>,
    /// Bytes that went on since that was last looked at.
    moved: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Windows {
    /// For a connection whose window is `own`, with streams of a window of `stream` bytes.
    pub(super) fn new(own: u32, stream: u32) -> Rc<Self> {
        let (target, granted) = (Cell::new(own), Cell::new(own));
        Rc::new(Windows { own, stream, stuck: Cell::default(), target, granted, moved: Cell::default(), waker: RefCell::default() })
    }

    pub(super) fn own(&self) -> u32 {
        self.own
    }

    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    /// Bytes of a stream went on.
    pub(super) fn moved(&self, bytes: usize) {
        self.moved.set(self.moved.get().saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    /// The connection's new window, if it is to have another one. Whoever calls is woken when that changes for the larger.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Option<u32> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        let wanted = self.wanted();
        if wanted == self.target.get() && self.granted.get() == wanted {
            return None;
        }
        let unused = self.granted.get().saturating_sub(self.moved.take()).max(self.own);
        let target = wanted.min(unused.saturating_add(PURSE.saturating_sub(SPENT.get()) / 2));
        self.grant(unused.max(target));
        (self.target.replace(target) != target).then_some(target)
    }

    fn wanted(&self) -> u32 {
        self.stuck.get().saturating_mul(self.stream).saturating_add(self.own).min(PURSE)
    }

    fn grant(&self, granted: u32) {
        let before = self.granted.replace(granted);
        SPENT.set((SPENT.get() - (before - self.own)).saturating_add(granted - self.own));
    }

    fn is_stuck(&self) {
        self.stuck.set(self.stuck.get() + 1);
        if self.wanted() > self.target.get()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.grant(self.own);
    }
}

/// One stream's part in it.
pub(super) struct Share {
    windows: Rc<Windows>,
    stuck: bool,
}

impl Share {
    pub(super) fn new(windows: Rc<Windows>) -> Self {
        Share { windows, stuck: false }
    }

    /// Whether its bytes wait for somebody to take them.
    pub(super) fn set_stuck(&mut self, stuck: bool) {
        match (self.stuck, stuck) {
            (false, true) => self.windows.is_stuck(),
            (true, false) => self.windows.stuck.set(self.windows.stuck.get() - 1),
            _ => {}
        }
        self.stuck = stuck;
    }

    pub(super) fn moved(&self, bytes: usize) {
        self.windows.moved(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_stuck(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1 << 20;
    const STREAM: u32 = 256 << 10;

    fn poll(windows: &Windows) -> Option<u32> {
        windows.poll(&Context::from_waker(Waker::noop()))
    }

    fn stuck(windows: &Rc<Windows>, count: usize) -> Vec<Share> {
        let mut shares: Vec<_> = (0..count).map(|_| Share::new(windows.clone())).collect();
        shares.iter_mut().for_each(|share| share.set_stuck(true));
        shares
    }

    #[test]
    fn streams_that_flow_cost_nothing_and_a_stuck_one_its_window() {
        let windows = Windows::new(OWN, STREAM);
        let mut share = Share::new(windows.clone());
        share.moved(100);
        assert_eq!(poll(&windows), None);
        share.set_stuck(true);
        share.set_stuck(true);
        assert_eq!(poll(&windows), Some(OWN + STREAM));
        assert_eq!((poll(&windows), SPENT.get()), (None, STREAM));
        drop(share);
        assert_eq!((poll(&windows), SPENT.get()), (Some(OWN), STREAM), "the peer still has it");
        windows.moved(STREAM as usize);
        assert_eq!((poll(&windows), SPENT.get()), (None, 0), "it has used it up");
    }

    #[test]
    fn the_purse_holds_whatever_connections_ask_for() {
        let connections: Vec<_> = (0..1000).map(|_| Windows::new(OWN, STREAM)).collect();
        let stalled: Vec<_> = connections.iter().map(|windows| stuck(windows, 2000)).collect();
        let granted: u64 = connections.iter().filter_map(|windows| poll(windows)).map(|target| u64::from(target - OWN)).sum();
        assert!(granted <= u64::from(PURSE) && granted > u64::from(PURSE) / 2, "{granted}");
        assert_eq!(u64::from(SPENT.get()), granted);
        drop((stalled, connections));
        assert_eq!(SPENT.get(), 0);
    }

    #[test]
    fn who_takes_all_and_goes_on_leaves_half_to_the_next() {
        let (first, second) = (Windows::new(OWN, STREAM), Windows::new(OWN, STREAM));
        let _first = stuck(&first, 2000);
        assert_eq!(poll(&first), Some(OWN + PURSE / 2));
        let _second = stuck(&second, 10);
        assert_eq!(poll(&second), Some(OWN + 10 * STREAM));
    }
}
