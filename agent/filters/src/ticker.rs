//! The clock of the deadlines: a thread that raises the engine's epoch each millisecond while filters run.
//!
//! ```text
//!   call starts: calls += 1 ──► ticking ──(no call for `quiet` ticks)──► parked ──(a call starts: unpark)──► ticking
//! ```
//!
//! A call only counts up and looks at one flag; it never says that it ended. Since no call outlives its deadline, none
//! can be running when `quiet` (more than the longest deadline) ticks went by without a new one. So an idle agent has a
//! sleeping thread, and a busy one pays one atomic addition a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Length of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// A time in ticks, rounded down.
pub(crate) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// A late wake-up makes up for the ticks that it missed, but not for a machine that was asleep.
const MAX_CATCH_UP: u32 = 100;

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

struct Shared {
    calls: AtomicU64,
    parked: AtomicBool,
    stop: AtomicBool,
    /// In ticks; grows with the longest deadline in use.
    quiet: AtomicU64,
}

impl Ticker {
    pub(crate) fn start(engine: &wasmtime::Engine) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared {
            calls: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            quiet: AtomicU64::new(10),
        });
        let (own, engine) = (shared.clone(), engine.clone());
        let join = std::thread::Builder::new()
            .name("filter-ticker".into())
            .stack_size(64 << 10)
            .spawn(move || own.run(|| engine.increment_epoch()))?;
        Ok(Ticker { shared, thread: join.thread().clone(), join: Some(join) })
    }

    /// A call starts. Must come before the guest runs.
    pub(crate) fn call_starts(&self) {
        // SeqCst, both here and in `rest`: either this thread sees `parked`, or the ticker sees the new count.
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// Calls of this length will come.
    pub(crate) fn allow(&self, deadline: Duration) {
        self.shared.quiet.fetch_max(2 * ticks(deadline) + 10, Ordering::Relaxed);
    }

    #[cfg(test)]
    fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(join) = self.join.take() {
            // It panics nowhere; and nobody waits for its result.
            let _ = join.join();
        }
    }
}

impl Shared {
    fn run(&self, tick: impl Fn()) {
        let (mut seen, mut idle) = (self.calls.load(Ordering::SeqCst), 0);
        let mut next = Instant::now() + TICK;
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let mut caught_up = 0;
            while next <= Instant::now() && caught_up < MAX_CATCH_UP {
                tick();
                next += TICK;
                caught_up += 1;
            }
            let calls = self.calls.load(Ordering::SeqCst);
            idle = if calls == seen { idle + 1 } else { 0 };
            seen = calls;
            if idle > self.quiet.load(Ordering::Relaxed) {
                self.rest(seen);
                idle = 0;
            }
            next = next.max(Instant::now());
        }
    }

    /// Parks until a call starts.
    fn rest(&self, seen: u64) {
        self.parked.store(true, Ordering::SeqCst);
        // A loop: park may return for no reason.
        while self.calls.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_ticker_parks_and_the_next_call_wakes_it() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::start(&engine).unwrap();
        for _ in 0..3 {
            let give_up = Instant::now() + Duration::from_secs(10);
            while !ticker.is_parked() {
                assert!(Instant::now() < give_up, "it never parks");
                std::thread::yield_now();
            }
            ticker.call_starts();
            while ticker.is_parked() {
                assert!(Instant::now() < give_up, "it never wakes");
                std::thread::yield_now();
            }
        }
    }
}
