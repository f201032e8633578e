//! What a filter may ask of the agent besides the message: the session's properties, random numbers, the time.

use crate::source;

/// A property of the session that the filter belongs to, by name (docs/abi.md has the list). Natively
/// `testing::set_property` sets it.
pub fn property(name: &str) -> Option<Vec<u8>> {
    source::property(name)
}

/// 64 random bits. The sequence is the same for the same seed, so that `mirrord filter test` repeats itself; not for secrets.
pub fn random() -> u64 {
    source::random()
}

/// True in so many of a hundred cases. For the same answer to the same client each time use [`crate::percent`].
pub fn chance(percent: f64) -> bool {
    // 53 bits are what an f64 holds exactly.
    ((random() >> 11) as f64) * 100.0 < percent * (1_u64 << 53) as f64
}

/// Milliseconds since 1970. There is no finer clock.
pub fn now_ms() -> u64 {
    source::now_ms()
}
