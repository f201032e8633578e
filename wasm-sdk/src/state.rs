//! A small key-value state that all instances of the filter share, whichever thread of the agent they serve, and that a new
//! version of the filter takes over. Each entry ends: give it the time after which nobody misses it.
//!
//! Keys have at most 256 bytes, values 8 KiB; there are at most 8192 entries of 2 MiB together. At the bound those go first
//! that would have ended first.

use std::time::Duration;

use crate::source;

/// The value under that key, if it has not ended.
pub fn get(key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    source::get_state(key.as_ref())
}

/// Keeps a value under that key, for at most a day.
pub fn set(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) {
    source::set_state(key.as_ref(), value.as_ref(), millis(ttl));
}

/// Adds to the number under that key and returns the sum; other instances never come in between. A number begins as 0 and
/// ends `ttl` after that, however often it is added to: `state::add(client, 1, minute) > 100` is a rate limit.
pub fn add(key: impl AsRef<[u8]>, delta: i64, ttl: Duration) -> i64 {
    source::add_state(key.as_ref(), delta, millis(ttl))
}

/// Forgets what is under that key.
pub fn remove(key: impl AsRef<[u8]>) {
    source::remove_state(key.as_ref());
}

fn millis(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX)
}
