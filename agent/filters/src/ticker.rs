//! The clock of the deadlines: a thread that looks at calls now and then, and raises the engine's epoch only while one of
//! them takes long.
//!
//! ```text
//!   resting ◄──(no call for `quiet`)── glancing, each 4 ms ──(a call is under way)──► watching, each 1 ms
//!      └──(a call starts: unpark)──────►   ▲   └──(the call has ended)─────────────────────┘  │
//!                                                                    still the same one: epoch += 1
//! ```
//!
//! A thread that wakes each millisecond takes the core from a worker as often, which was a twentieth of a busy gateway's
//! time. A call only counts up where it starts and ends, in a place of its own that no other thread writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Length of a tick, while a call is watched.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// How often the ticker looks whether a call is under way. A call is watched this late at most.
const GLANCE: Duration = Duration::from_millis(4);
/// Ticks after which a call's first tick comes at the latest.
pub(crate) const NOTICED: u64 = 5;
/// Without a call for so long, the ticker rests.
const QUIET: Duration = Duration::from_millis(100);

/// A time in ticks, rounded down.
pub(crate) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX / 4)
}

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Of all instances that live, each with its count at the last look.
    calls: Mutex<Vec<(Weak<AtomicU64>, u64)>>,
    resting: AtomicBool,
    stop: AtomicBool,
}

/// An instance's calls: odd while one is under way. Only the instance's thread writes it.
pub(crate) struct Calls {
    count: Arc<AtomicU64>,
    shared: Arc<Shared>,
    ticker: Thread,
}

impl Ticker {
    pub(crate) fn start(engine: &wasmtime::Engine) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let (own, engine) = (shared.clone(), engine.clone());
        let join = std::thread::Builder::new()
            .name("filter-ticker".into())
            .stack_size(64 << 10)
            .spawn(move || own.run(|| engine.increment_epoch()))?;
        Ok(Ticker { shared, thread: join.thread().clone(), join: Some(join) })
    }

    /// A place for the calls of one instance.
    pub(crate) fn calls(&self) -> Calls {
        let count = Arc::new(AtomicU64::new(0));
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::downgrade(&count), 0));
        Calls { count, shared: self.shared.clone(), ticker: self.thread.clone() }
    }

    #[cfg(test)]
    fn is_resting(&self) -> bool {
        self.shared.resting.load(Ordering::SeqCst)
    }
}

impl Calls {
    /// A call, in which the guest runs.
    pub(crate) fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        self.start();
        let result = run();
        self.end();
        result
    }

    /// A call starts. Must come before the guest runs.
    fn start(&self) {
        // SeqCst, both here and in `rest`: either this thread sees that the ticker rests, or the ticker sees the call.
        self.count.fetch_add(1, Ordering::SeqCst);
        if self.shared.resting.load(Ordering::SeqCst) {
            self.ticker.unpark();
        }
    }

    /// It has ended, in whichever way.
    fn end(&self) {
        self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Release);
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

/// What a look at all calls has found.
#[derive(Default, PartialEq, Eq, Debug)]
struct Look {
    /// A call is under way.
    is_busy: bool,
    /// One is under way that was so at the last look.
    is_late: bool,
    /// Calls began since the last look.
    is_new: bool,
}

impl Shared {
    fn run(&self, tick: impl Fn()) {
        let mut last_call = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            let look = self.look();
            if look.is_late {
                tick();
            }
            if look.is_busy || look.is_new {
                last_call = Instant::now();
            } else if last_call.elapsed() > QUIET {
                self.rest();
                last_call = Instant::now();
            }
            std::thread::sleep(if look.is_busy { TICK } else { GLANCE });
        }
    }

    fn look(&self) -> Look {
        let mut look = Look::default();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|(calls, before)| {
            let Some(calls) = calls.upgrade() else { return false };
            let now = calls.load(Ordering::SeqCst);
            let is_busy = now % 2 == 1;
            look.is_busy |= is_busy;
            look.is_late |= is_busy && now == *before;
            look.is_new |= now != *before;
            *before = now;
            true
        });
        look
    }

    /// Parks until a call starts.
    fn rest(&self) {
        self.resting.store(true, Ordering::SeqCst);
        // A loop: park may return for no reason.
        while self.look() == Look::default() && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_ticker_rests_and_the_next_call_wakes_it() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::start(&engine).unwrap();
        let calls = ticker.calls();
        for _ in 0..3 {
            let give_up = Instant::now() + Duration::from_secs(10);
            while !ticker.is_resting() {
                assert!(Instant::now() < give_up, "it never rests");
                std::thread::yield_now();
            }
            calls.start();
            while ticker.is_resting() {
                assert!(Instant::now() < give_up, "it never wakes");
                std::thread::yield_now();
            }
            calls.end();
        }
    }

    #[test]
    fn only_a_call_that_is_still_the_same_is_late() {
        let ticker = Ticker::start(&wasmtime::Engine::default()).unwrap();
        let shared = Shared::default();
        let [gone, quick, slow] = [(); 3].map(|()| Calls { count: Arc::default(), shared: Arc::default(), ticker: ticker.thread.clone() });
        shared.calls.lock().unwrap().extend([&gone, &quick, &slow].map(|calls| (Arc::downgrade(&calls.count), 0)));
        assert_eq!(shared.look(), Look::default());
        for calls in [&gone, &quick, &slow] {
            calls.start();
        }
        assert_eq!(shared.look(), Look { is_busy: true, is_late: false, is_new: true });
        drop(gone);
        quick.end();
        quick.start();
        assert_eq!(shared.look(), Look { is_busy: true, is_late: true, is_new: true });
        slow.end();
        quick.end();
        quick.start();
        assert_eq!(shared.look(), Look { is_busy: true, is_late: false, is_new: true });
        quick.end();
        assert_eq!(shared.look(), Look { is_busy: false, is_late: false, is_new: true });
        assert_eq!(shared.look(), Look::default());
    }
}
