//! When a guest's call has taken too long. The ticker counts wall time, which goes on while the thread waits for a core; so
//! a call that is late is first looked at, and then ended by the processor time that it goes on to use.
//!
//! ```text
//!   start ──noticed by the ticker──► first look ──each tick──► used half the limit, less the time to notice it? ──► end
//!                                                              as many looks as the limit has ticks?             ──► end
//! ```
//!
//! A guest that loops ends after some half of the limit, and holds up its thread no longer; a quick guest that lost its core twice in
//! one call is not taken for one that loops.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::ticker::{NOTICED, TICK};

/// One call's state.
#[derive(Default)]
pub(crate) struct Deadline {
    limit: u64,
    looks: u64,
    /// The thread's processor time at the first look.
    first_look: Duration,
}

impl Deadline {
    /// A call begins that may take `limit` ticks.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, looks: 0, first_look: Duration::ZERO }
    }

    /// Looks at a call that is still running: whether it has to end.
    pub(crate) fn is_over(&mut self) -> bool {
        self.is_over_at(thread_time())
    }

    fn is_over_at(&mut self, now: Duration) -> bool {
        self.looks += 1;
        if self.looks == 1 {
            self.first_look = now;
        }
        let used = now.saturating_sub(self.first_look);
        let most = (self.limit / 2).saturating_sub(NOTICED / 2 + 1).max(2);
        used >= TICK * u32::try_from(most).unwrap_or(u32::MAX) || self.looks > self.limit
    }
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_call_that_computes_ends_after_half_the_limit() {
        let mut deadline = Deadline::new(10);
        assert!(!deadline.is_over_at(ms(503)));
        assert!(!deadline.is_over_at(ms(504)));
        assert!(deadline.is_over_at(ms(505)));
    }

    #[test]
    fn a_call_that_waits_for_a_core_goes_on_but_not_for_ever() {
        let mut deadline = Deadline::new(10);
        assert!((0..10).all(|_| !deadline.is_over_at(ms(500))));
        assert!(deadline.is_over_at(ms(500)));
    }
}
