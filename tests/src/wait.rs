//! Waiting for what must come true, with a deadline and a reason in the panic.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::watchdog;

/// Longest time that anything which must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Polls until `probe` gives a value; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    let _waiting = watchdog::waiting(what);
    match within(PATIENCE, probe) {
        Some(value) => value,
        None => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Polls until `probe` gives a value or the time is over.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Tells threads of a scope that they can end. Also when the test fails before it says so: a scope waits for all of its threads,
/// and one that goes on for ever would keep the failure from being seen.
#[derive(Debug, Default)]
pub struct Over(AtomicBool);

impl Over {
    /// Whether it is over.
    pub fn is(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// It is over when this is dropped.
    pub fn when_dropped(&self) -> impl Drop + '_ {
        struct Dropped<'a>(&'a AtomicBool);
        impl Drop for Dropped<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        Dropped(&self.0)
    }
}
