//! Waiting for what must come true, with a deadline and a reason in the panic.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longest time that anything which must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Polls until `probe` gives a value; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
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
