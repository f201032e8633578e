//! A filter's record of failures, shared by its instances: after too many in a row it is not called for a while.
//!
//! ```text
//!   fine ──fault × limit──► aside ──rest over──► one more try ──ok──► fine
//!                             ▲────────fault────────┘
//! ```
//!
//! In the usual state a call reads two words that nobody writes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Health {
    born: Instant,
    /// Failures in a row.
    strikes: AtomicU32,
    /// Milliseconds since `born` until which the filter is left alone; 0 when it is fine.
    aside_until: AtomicU64,
    limit: u32,
    rest: Duration,
}

impl Health {
    pub(crate) fn new(limit: u32, rest: Duration) -> Self {
        Health { born: Instant::now(), strikes: AtomicU32::new(0), aside_until: AtomicU64::new(0), limit, rest }
    }

    /// May the filter be called now? When the rest is over exactly one caller gets a yes, as a trial.
    pub(crate) fn may_run(&self) -> bool {
        let until = self.aside_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.now();
        let next = now + millis(self.rest);
        now >= until && self.aside_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn succeeded(&self) {
        if self.strikes.load(Ordering::Relaxed) != 0 {
            self.strikes.store(0, Ordering::Relaxed);
            self.aside_until.store(0, Ordering::Relaxed);
        }
    }

    /// Returns whether the filter is set aside with this failure.
    pub(crate) fn failed(&self) -> bool {
        let strikes = self.strikes.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if strikes < self.limit {
            return false;
        }
        // One more: `now` was rounded down.
        self.aside_until.store(self.now() + millis(self.rest) + 1, Ordering::Relaxed);
        true
    }

    /// How much longer it is left alone. Zero: until the next request, which is the trial.
    pub(crate) fn set_aside_for(&self) -> Option<Duration> {
        match self.aside_until.load(Ordering::Relaxed) {
            0 => None,
            until => Some(Duration::from_millis(until.saturating_sub(self.now()))),
        }
    }

    fn now(&self) -> u64 {
        millis(self.born.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
