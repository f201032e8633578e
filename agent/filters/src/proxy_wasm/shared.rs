//! What all instances of a filter share, on whatever thread they are: data with compare-and-swap, queues, metrics. All of it
//! is bounded: the oldest data and queue items give way to new ones, since SDKs panic at a refusal.
//!
//! A filter that uses none of it touches none of its locks.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use super::abi::metric;
use crate::series::{self, Histogram, MetricValue};

/// Entries and bytes of the shared data, and of one value.
const MAX_KEYS: usize = 1024;
const MAX_DATA: usize = 1 << 20;
pub(crate) const MAX_VALUE: usize = 64 << 10;
pub(crate) const MAX_KEY: usize = 256;
/// Queues, and the items and bytes of each.
const MAX_QUEUES: usize = 16;
const MAX_ITEMS: usize = 1024;
const MAX_QUEUE_BYTES: usize = 256 << 10;
/// Metrics of a filter.
const MAX_METRICS: usize = 64;
/// Who is told about items of one queue.
const MAX_LISTENERS: usize = 256;

/// One filter's shared state.
#[derive(Default)]
pub(crate) struct Shared {
    data: Mutex<Data>,
    queues: Mutex<Vec<Queue>>,
    metrics: Metrics,
    /// Serializes definitions; values are changed without it.
    defining: Mutex<()>,
}

/// In the order of their definition.
struct Metrics([OnceLock<Metric>; MAX_METRICS]);

impl Default for Metrics {
    fn default() -> Self {
        Metrics([const { OnceLock::new() }; MAX_METRICS])
    }
}

#[derive(Default)]
struct Data {
    entries: HashMap<Vec<u8>, Entry>,
    bytes: usize,
    /// The last compare-and-swap number given, which is also the age of an entry.
    cas: u32,
}

struct Entry {
    value: Vec<u8>,
    cas: u32,
}

struct Queue {
    name: Vec<u8>,
    items: VecDeque<Vec<u8>>,
    bytes: usize,
    listeners: Vec<Weak<Mailbox>>,
}

/// A counter, gauge or histogram that a filter defined.
pub(crate) struct Metric {
    name: String,
    kind: i32,
    /// A histogram's last value.
    value: AtomicI64,
    observed: Histogram,
}

/// How one instance hears of items in queues that it registered.
#[derive(Default)]
pub(crate) struct Mailbox {
    /// Queues with new items, once for each item.
    ready: Mutex<VecDeque<u32>>,
    waker: Mutex<Option<Waker>>,
}

/// Why a change did not happen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Cas,
    Unknown,
    Invalid,
    /// More than may be; SDKs have no answer for this.
    Full,
}

impl Shared {
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        lock(&self.data).entries.get(key).map(|entry| (entry.value.clone(), entry.cas))
    }

    /// With `cas` 0, whatever it was before; as in Envoy, a key that is not there takes any.
    pub(crate) fn set(&self, key: &[u8], value: &[u8], cas: u32) -> Result<(), Refused> {
        if key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(Refused::Full);
        }
        let mut data = lock(&self.data);
        let data = &mut *data;
        if let Some(entry) = data.entries.get(key)
            && cas != 0
            && cas != entry.cas
        {
            return Err(Refused::Cas);
        }
        data.cas = data.cas.checked_add(1).unwrap_or(1);
        let entry = Entry { value: value.to_vec(), cas: data.cas };
        data.bytes += key.len() + value.len();
        if let Some(old) = data.entries.insert(key.to_vec(), entry) {
            data.bytes -= key.len() + old.value.len();
        }
        while data.entries.len() > MAX_KEYS || data.bytes > MAX_DATA {
            let Some(oldest) = data.entries.iter().min_by_key(|(_, entry)| entry.cas).map(|(key, _)| key.clone()) else { break };
            if let Some(entry) = data.entries.remove(&oldest) {
                data.bytes -= oldest.len() + entry.value.len();
            }
        }
        Ok(())
    }

    /// The queue's number; made if it is not there. The mailbox hears of its items.
    pub(crate) fn register_queue(&self, name: &[u8], mailbox: &Arc<Mailbox>) -> Result<u32, Refused> {
        let mut queues = lock(&self.queues);
        let index = match queues.iter().position(|queue| queue.name == name) {
            Some(index) => index,
            None if queues.len() >= MAX_QUEUES || name.len() > MAX_KEY => return Err(Refused::Full),
            None => {
                queues.push(Queue { name: name.to_vec(), items: VecDeque::new(), bytes: 0, listeners: Vec::new() });
                queues.len() - 1
            }
        };
        let listeners = &mut queues[index].listeners;
        listeners.retain(|listener| listener.strong_count() > 0);
        if listeners.len() < MAX_LISTENERS && !listeners.iter().any(|listener| listener.as_ptr() == Arc::as_ptr(mailbox)) {
            listeners.push(Arc::downgrade(mailbox));
        }
        Ok(number(index))
    }

    pub(crate) fn resolve_queue(&self, name: &[u8]) -> Option<u32> {
        lock(&self.queues).iter().position(|queue| queue.name == name).map(number)
    }

    /// Adds an item and tells one listener, `own` if it is one.
    pub(crate) fn enqueue(&self, id: u32, item: &[u8], own: &Arc<Mailbox>) -> Result<(), Refused> {
        if item.len() > MAX_VALUE {
            return Err(Refused::Full);
        }
        let listener = {
            let mut queues = lock(&self.queues);
            let queue = queues.get_mut((id as usize).wrapping_sub(1)).ok_or(Refused::Unknown)?;
            queue.items.push_back(item.to_vec());
            queue.bytes += item.len();
            while queue.items.len() > MAX_ITEMS || queue.bytes > MAX_QUEUE_BYTES {
                let Some(oldest) = queue.items.pop_front() else { break };
                queue.bytes -= oldest.len();
            }
            let mut alive = queue.listeners.iter().filter_map(Weak::upgrade);
            alive.find(|listener| Arc::ptr_eq(listener, own)).or_else(|| queue.listeners.iter().find_map(Weak::upgrade))
        };
        if let Some(listener) = listener {
            listener.tell(id);
        }
        Ok(())
    }

    pub(crate) fn dequeue(&self, id: u32) -> Result<Option<Vec<u8>>, Refused> {
        let mut queues = lock(&self.queues);
        let queue = queues.get_mut((id as usize).wrapping_sub(1)).ok_or(Refused::Unknown)?;
        let item = queue.items.pop_front();
        queue.bytes -= item.as_ref().map_or(0, Vec::len);
        Ok(item)
    }

    /// The metric's number; one of that name and kind that is there is taken.
    pub(crate) fn define_metric(&self, kind: i32, name: &str) -> Result<u32, Refused> {
        if !matches!(kind, metric::COUNTER | metric::GAUGE | metric::HISTOGRAM) {
            return Err(Refused::Invalid);
        }
        let _defining = lock(&self.defining);
        for (index, slot) in self.metrics.0.iter().enumerate() {
            let metric = slot.get_or_init(|| Metric { name: name.into(), kind, value: AtomicI64::new(0), observed: Histogram::default() });
            if metric.name == name && metric.kind == kind {
                return Ok(number(index));
            }
        }
        Err(Refused::Full)
    }

    pub(crate) fn metric(&self, id: u32) -> Option<&Metric> {
        self.metrics.0.get((id as usize).wrapping_sub(1))?.get()
    }

    pub(crate) fn metrics(&self) -> Vec<series::Metric> {
        self.metrics.0.iter().map_while(OnceLock::get).map(Metric::read).collect()
    }
}

impl Metric {
    pub(crate) fn increment(&self, by: i64) -> Result<(), Refused> {
        if self.kind == metric::HISTOGRAM || (self.kind == metric::COUNTER && by < 0) {
            return Err(Refused::Invalid);
        }
        self.value.fetch_add(by, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn record(&self, value: u64) {
        self.value.store(value.cast_signed(), Ordering::Relaxed);
        if self.kind == metric::HISTOGRAM {
            self.observed.observe(value);
        }
    }

    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed).cast_unsigned()
    }

    fn read(&self) -> series::Metric {
        let value = match self.kind {
            metric::COUNTER => MetricValue::Counter(self.value()),
            metric::GAUGE => MetricValue::Gauge(self.value.load(Ordering::Relaxed)),
            _ => self.observed.read(),
        };
        series::Metric { name: self.name.clone(), value }
    }
}

impl Mailbox {
    fn tell(&self, queue: u32) {
        {
            let mut ready = lock(&self.ready);
            if ready.len() >= MAX_ITEMS * MAX_QUEUES {
                return;
            }
            ready.push_back(queue);
        }
        self.wake();
    }

    /// Wakes who looks after the instance's ticks, queues and callouts.
    pub(crate) fn wake(&self) {
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }

    pub(crate) fn wait(&self, waker: &Waker) {
        let mut own = lock(&self.waker);
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    pub(crate) fn take(&self) -> Option<u32> {
        lock(&self.ready).pop_front()
    }
}

/// Numbers of queues and metrics begin with 1: a guest that forgot to ask for one has 0.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 1) + 1
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_changes_only_for_who_saw_the_last_one() {
        let shared = Shared::default();
        assert_eq!(shared.get(b"k"), None);
        shared.set(b"k", b"1", 0).unwrap();
        let (value, cas) = shared.get(b"k").unwrap();
        assert_eq!(value, b"1");
        shared.set(b"k", b"2", cas).unwrap();
        assert_eq!(shared.set(b"k", b"3", cas), Err(Refused::Cas));
        assert_eq!(shared.get(b"k").unwrap().0, b"2");
    }

    #[test]
    fn a_flood_of_data_pushes_out_the_oldest_and_never_grows() {
        let shared = Shared::default();
        for index in 0..5_000_u32 {
            shared.set(&index.to_le_bytes(), &[7; 2_000], 0).unwrap();
            let data = lock(&shared.data);
            assert!(data.entries.len() <= MAX_KEYS && data.bytes <= MAX_DATA);
        }
        assert!(shared.get(&4_999_u32.to_le_bytes()).is_some() && shared.get(&0_u32.to_le_bytes()).is_none());
        assert_eq!(shared.set(b"k", &[0; MAX_VALUE + 1], 0), Err(Refused::Full));
        let data = lock(&shared.data);
        assert_eq!(data.bytes, data.entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum::<usize>());
    }

    #[test]
    fn items_come_out_in_order_and_one_listener_hears_of_each() {
        let (shared, mine, other) = (Shared::default(), Arc::default(), Arc::default());
        let id = shared.register_queue(b"q", &mine).unwrap();
        assert_eq!(shared.register_queue(b"q", &other), Ok(id));
        assert_eq!((shared.resolve_queue(b"q"), shared.resolve_queue(b"p")), (Some(id), None));
        shared.enqueue(id, b"1", &other).unwrap();
        shared.enqueue(id, b"2", &Arc::default()).unwrap();
        assert_eq!((other.take(), other.take(), mine.take(), mine.take()), (Some(id), None, Some(id), None));
        assert_eq!(shared.dequeue(id), Ok(Some(b"1".to_vec())));
        assert_eq!(shared.dequeue(id), Ok(Some(b"2".to_vec())));
        assert_eq!(
            (shared.dequeue(id), shared.dequeue(0), shared.enqueue(9, b"", &mine)),
            (Ok(None), Err(Refused::Unknown), Err(Refused::Unknown))
        );
        for _ in 0..3 * MAX_ITEMS {
            shared.enqueue(id, &[1; 100], &mine).unwrap();
        }
        assert_eq!((0..).map_while(|_| shared.dequeue(id).unwrap()).count(), MAX_ITEMS);
        drop(mine);
        drop(other);
        shared.enqueue(id, b"nobody listens", &Arc::default()).unwrap();
    }

    #[test]
    fn metrics_are_counted_for_all_and_end_at_a_limit() {
        let shared = Shared::default();
        let counter = shared.define_metric(metric::COUNTER, "c").unwrap();
        assert_eq!(shared.define_metric(metric::COUNTER, "c"), Ok(counter));
        let histogram = shared.define_metric(metric::HISTOGRAM, "h").unwrap();
        shared.metric(counter).unwrap().increment(3).unwrap();
        assert_eq!(shared.metric(counter).unwrap().increment(-1), Err(Refused::Invalid));
        shared.metric(histogram).unwrap().record(5);
        shared.metric(histogram).unwrap().record(7);
        let [c, h] = &shared.metrics()[..] else { panic!() };
        assert_eq!(c.value, MetricValue::Counter(3));
        assert!(matches!(h.value, MetricValue::Histogram { buckets, sum: 12 } if buckets[3] == 1 && buckets[4] == 1));
        assert!(shared.metric(0).is_none() && shared.metric(99).is_none());
        assert!((0..100).any(|index| shared.define_metric(metric::GAUGE, &index.to_string()) == Err(Refused::Full)));
        assert_eq!(shared.define_metric(7, "x"), Err(Refused::Invalid));
    }
}
