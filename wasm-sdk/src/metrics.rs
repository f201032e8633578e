//! Counters and histograms of the filter's own. The agent's `/v1/metrics` shows them as `mirrord_filter_counter_total` and
//! `mirrord_filter_histogram` with the filter's and the metric's name. There are at most 64: name kinds of things, never
//! clients or requests. Names are letters, digits and `_`.

use crate::source;

/// Adds to a counter.
pub fn count(name: &str, delta: u32) {
    source::count(name, delta.into());
}

/// An observation of a histogram, whose bounds are 0, 1, 2, 5, 10, … 1,000,000: choose the unit accordingly.
pub fn observe(name: &str, value: u64) {
    source::observe(name, i64::try_from(value).unwrap_or(i64::MAX));
}
