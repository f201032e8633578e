//! What one worker counts. Its own thread writes, and nobody else: an addition is a plain load and a plain store, and no
//! cache line travels between workers. [`crate::admin`] reads all workers' counters from the control thread when an operator asks,
//! so it gets an answer even if a worker is busy or stuck.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use mirrord_filters::FaultKind;

use crate::gateway::steer::{Ambiguity, Event, Target};

/// Series of requests that a worker keeps apart; what comes after shares one ([`OTHER`]).
pub const MAX_SERIES: usize = 256;
/// Longest name of a filter in a label, bytes.
const MAX_NAME: usize = 64;
/// Filter label of everything beyond [`MAX_SERIES`]; its port is 0.
pub const OTHER: &str = "other";

/// Upper ends of the buckets of a decision's duration; a filter's own limit is some milliseconds.
pub const DECISION_BOUNDS: &[Duration] = &[
    Duration::from_nanos(500),
    Duration::from_micros(1),
    Duration::from_micros(2),
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
];

/// Upper ends of the buckets of an upstream's duration.
pub const UPSTREAM_BOUNDS: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// All of `Ambiguity`, so that each reason has a series from the start.
pub const REASONS: [Ambiguity; 7] = [
    Ambiguity::NotHttp,
    Ambiguity::Head,
    Ambiguity::HeadTooLong,
    Ambiguity::HeadTooSlow,
    Ambiguity::Framing,
    Ambiguity::Chunk,
    Ambiguity::Response,
];

/// A number that one thread adds to and any may read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// To be called by the worker's thread alone: two writers would lose additions.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations by size.
#[derive(Debug)]
pub struct Histogram {
    pub bounds: &'static [Duration],
    /// One for each bound, and one for what is beyond the last.
    buckets: Box<[Count]>,
    nanoseconds: Count,
}

impl Histogram {
    fn new(bounds: &'static [Duration]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| Count::default()).collect(), nanoseconds: Count::default() }
    }

    pub fn observe(&self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.nanoseconds.add(took.as_nanos() as u64);
    }

    /// Observations by bucket, each on its own (not summed up).
    pub fn buckets(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Count::get)
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.get())
    }
}

/// What became of the requests of a port that one filter decided about (or none did).
#[derive(Debug, Default)]
pub struct Tally {
    pub passed: Count,
    /// The pod answered, and at least one session got a copy.
    pub mirrored: Count,
    pub stolen: Count,
    pub answered: Count,
    /// Reset in a filter's name.
    pub aborted: Count,
    /// Copies; one request may make several.
    pub copies: Count,
}

impl Tally {
    /// Counts a request once, by who answers it.
    #[inline]
    pub fn count(&self, target: &Target, is_copied: bool) {
        let count = match target {
            Target::Pod if is_copied => &self.mirrored,
            Target::Pod => &self.passed,
            Target::Session(_) => &self.stolen,
            Target::Respond(_) => &self.answered,
            Target::Abort => &self.aborted,
        };
        count.add(1);
    }
}

/// Port and filter of a [`Tally`].
pub type Series = (u16, Arc<str>);

/// Counters of one worker. Apart from its neighbours in memory, as other threads' caches would be troubled otherwise.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    accepted: Count,
    ended: Count,
    pub copies_dropped: Count,
    pub fell_back: Count,
    pub bad_gateway: Count,
    pub skipped: Count,
    /// Between a request's head and the verdict, of one request of some.
    pub decision: Histogram,
    /// Between the verdict and the answer's first byte, of the same requests.
    pub pod: Histogram,
    pub session: Histogram,
    opaque: [Count; REASONS.len()],
    /// The worker keeps what it adds to; the lock is taken when subscriptions change and when an operator asks.
    requests: Mutex<BTreeMap<Series, Arc<Tally>>>,
    /// Rare, so a lock does no harm.
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: Count::default(),
            ended: Count::default(),
            copies_dropped: Count::default(),
            fell_back: Count::default(),
            bad_gateway: Count::default(),
            skipped: Count::default(),
            decision: Histogram::new(DECISION_BOUNDS),
            pod: Histogram::new(UPSTREAM_BOUNDS),
            session: Histogram::new(UPSTREAM_BOUNDS),
            opaque: Default::default(),
            requests: Mutex::default(),
            faults: Mutex::default(),
        }
    }
}

/// One open client connection; dropped on the worker's thread.
pub struct OpenConnection(Arc<Counters>);

impl Counters {
    pub fn connection(self: &Arc<Self>) -> OpenConnection {
        self.accepted.add(1);
        OpenConnection(self.clone())
    }

    /// Client connections ever accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Client connections that are on the gateway now.
    pub fn open(&self) -> u64 {
        // In this order it may be one too many, never one too few: nobody may go while a connection is open.
        let ended = self.ended.get();
        self.accepted.get().saturating_sub(ended)
    }

    pub fn note(&self, event: Event) {
        let count = match event {
            Event::Opaque(why) => {
                return self.opaque.iter().zip(REASONS).filter(|(_, one)| *one == why).for_each(|(count, _)| count.add(1));
            }
            Event::CopyDropped => &self.copies_dropped,
            Event::FellBack => &self.fell_back,
            Event::BadGateway => &self.bad_gateway,
            Event::Skipped => &self.skipped,
        };
        count.add(1);
    }

    /// Connections that became opaque, by reason.
    pub fn opaque(&self) -> impl Iterator<Item = (Ambiguity, u64)> {
        REASONS.into_iter().zip(self.opaque.iter().map(Count::get))
    }

    pub fn fault(&self, kind: FaultKind) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.as_str()).or_default() += 1;
    }

    /// Filters' faults by kind.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where requests of a port are counted that this filter decides about; `""`: none did. The same for the same names, so that
    /// a developer who comes back a hundred times makes one series.
    pub fn tally(&self, port: u16, filter: &str) -> Arc<Tally> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut series: Series = (port, label(filter).into());
        if requests.len() >= MAX_SERIES && !requests.contains_key(&series) {
            series = (0, OTHER.into());
        }
        requests.entry(series).or_default().clone()
    }

    pub fn requests(&self) -> Vec<(Series, Arc<Tally>)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().map(|(series, tally)| (series.clone(), tally.clone())).collect()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.ended.add(1);
    }
}

/// A file name as a label: the beginning of it, if it is long.
fn label(name: &str) -> &str {
    name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_nothing_is_lost() {
        let counters = Counters::default();
        for number in 0..2 * MAX_SERIES {
            counters.tally(80, &format!("{number}.wasm")).count(&Target::Pod, false);
        }
        let requests = counters.requests();
        assert_eq!(requests.len(), MAX_SERIES + 1);
        assert_eq!(requests.iter().map(|(_, tally)| tally.passed.get()).sum::<u64>(), 2 * MAX_SERIES as u64);
        assert_eq!(counters.tally(9, "late.wasm").passed.get(), MAX_SERIES as u64);
    }

    #[test]
    fn who_comes_back_counts_on() {
        let counters = Counters::default();
        counters.tally(80, "a").count(&Target::Session(1), false);
        counters.tally(80, "a").count(&Target::Session(2), true);
        assert_eq!(counters.tally(80, "a").stolen.get(), 2);
        assert_eq!(counters.tally(81, "a").stolen.get(), 0);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(label("header.wasm"), "header.wasm");
        assert_eq!(label(&"é".repeat(40)), "é".repeat(32));
        assert_eq!(label(&format!("x{}", "é".repeat(40))).len(), 63);
    }

    #[test]
    fn a_duration_falls_into_the_bucket_that_ends_at_it() {
        let histogram = Histogram::new(DECISION_BOUNDS);
        for took in [Duration::ZERO, DECISION_BOUNDS[1], DECISION_BOUNDS[1] + Duration::from_nanos(1), Duration::from_secs(9)] {
            histogram.observe(took);
        }
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.sum(), Duration::from_nanos(9_000_002_001));
    }

    #[test]
    fn each_reason_has_its_count() {
        let counters = Counters::default();
        counters.note(Event::Opaque(Ambiguity::Chunk));
        assert_eq!(counters.opaque().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [(Ambiguity::Chunk, 1)]);
        assert_eq!(counters.opaque().count(), REASONS.len());
    }

    #[test]
    fn a_connection_is_open_while_its_guard_lives() {
        let counters = Arc::new(Counters::default());
        let first = counters.connection();
        drop(counters.connection());
        assert_eq!((counters.open(), counters.accepted()), (1, 2));
        drop(first);
        assert_eq!((counters.open(), counters.accepted()), (0, 2));
    }
}
