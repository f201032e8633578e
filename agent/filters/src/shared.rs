//! What the instances of a filter share across threads, and what a new version of it takes over: a bounded key-value state
//! whose entries end, and metrics. Nobody takes a lock who does not use it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::abi::limit;
use crate::series::Metrics;

#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) metrics: Metrics,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the next one begins; a panic in between would leave nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries by key, and in the order in which they end: at the bound, those go that would have ended first.
#[derive(Default)]
pub(crate) struct State {
    entries: HashMap<Arc<[u8]>, Entry>,
    ends: BTreeMap<(Instant, u64), Arc<[u8]>>,
    bytes: usize,
    /// Makes ends unique.
    serial: u64,
}

struct Entry {
    value: Vec<u8>,
    end: (Instant, u64),
}

impl State {
    pub(crate) fn get(&self, key: &[u8], now: Instant) -> Option<&[u8]> {
        self.entries.get(key).filter(|entry| entry.end.0 > now).map(|entry| entry.value.as_slice())
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8], ttl: u64, now: Instant) {
        self.remove(key);
        self.expire(now);
        let size = key.len() + value.len();
        while self.entries.len() >= limit::STATE_ENTRIES || self.bytes + size > limit::STATE_BYTES {
            let Some((_, first)) = self.ends.pop_first() else { return };
            self.forget(&first);
        }
        self.serial += 1;
        let end = (now + Duration::from_millis(ttl.clamp(1, limit::STATE_TTL)), self.serial);
        let key: Arc<[u8]> = key.into();
        self.ends.insert(end, key.clone());
        self.entries.insert(key, Entry { value: value.into(), end });
        self.bytes += size;
    }

    /// Adds to a number of 8 bytes, little-endian. A new one ends after `ttl`, an old one when it would have.
    pub(crate) fn add(&mut self, key: &[u8], delta: i64, ttl: u64, now: Instant) -> i64 {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.end.0 > now)
            && let Ok(old) = <[u8; 8]>::try_from(entry.value.as_slice())
        {
            let sum = i64::from_le_bytes(old).wrapping_add(delta);
            entry.value.copy_from_slice(&sum.to_le_bytes());
            return sum;
        }
        self.set(key, &delta.to_le_bytes(), ttl, now);
        delta
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.forget(key) {
            self.ends.remove(&entry.end);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(first) = self.ends.first_entry()
            && first.key().0 <= now
        {
            let key = first.remove();
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= key.len() + entry.value.len();
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_and_are_replaced() {
        let (mut state, start) = (State::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        state.set(b"a", b"1", 100, at(0));
        state.set(b"a", b"22", 50, at(0));
        assert_eq!((state.get(b"a", at(49)), state.get(b"a", at(50)), state.get(b"b", at(0))), (Some(&b"22"[..]), None, None));
        assert_eq!(state.add(b"n", 2, 100, at(0)), 2);
        assert_eq!(state.add(b"n", -5, 100, at(99)), -3, "it keeps its time");
        assert_eq!(state.add(b"n", 1, 100, at(100)), 1, "and begins anew");
        state.remove(b"n");
        assert_eq!(state.get(b"n", at(100)), None);
        state.set(b"c", b"", 1, at(1000));
        assert_eq!((state.entries.len(), state.ends.len(), state.bytes), (1, 1, 1), "what has ended is gone");
    }

    #[test]
    fn a_flood_displaces_what_would_end_first_and_stays_within_its_bounds() {
        let (mut state, now) = (State::default(), Instant::now());
        state.set(b"kept", b"long", limit::STATE_TTL, now);
        for n in 0..100_000_u32 {
            state.set(&n.to_le_bytes(), b"x", 1000, now);
            assert!(state.entries.len() <= limit::STATE_ENTRIES);
        }
        assert_eq!((state.get(b"kept", now), state.get(&0_u32.to_le_bytes(), now)), (Some(&b"long"[..]), None));
        for n in 0..10_000_u32 {
            state.set(&n.to_le_bytes(), &[0; limit::STATE_VALUE], 1000, now);
            assert!(state.bytes <= limit::STATE_BYTES);
        }
        assert_eq!(state.bytes, state.entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum::<usize>());
        assert_eq!(state.entries.len(), state.ends.len());
    }
}
