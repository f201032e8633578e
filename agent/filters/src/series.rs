//! Counters and histograms that filters name: few for each filter, added up across its instances and versions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::abi::limit;

/// Upper bounds of a histogram's buckets; one more has the rest.
pub const BUCKETS: [u64; 20] =
    [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];

/// One series as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    pub name: String,
    pub value: MetricValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricValue {
    Counter(u64),
    /// Of proxy-wasm filters.
    Gauge(i64),
    /// How many observations fell into each bucket of [`BUCKETS`] and the last one above, and their sum.
    Histogram {
        buckets: [u64; BUCKETS.len() + 1],
        sum: u64,
    },
}

/// All series of a filter.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<Vec<Arc<Series>>>);

pub(crate) struct Series {
    pub(crate) name: String,
    cells: Cells,
}

enum Cells {
    Counter(AtomicU64),
    Histogram(Box<Histogram>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeriesKind {
    Counter,
    Histogram,
}

#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, number: u64) {
        self.buckets[BUCKETS.partition_point(|bound| *bound < number)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> MetricValue {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        MetricValue::Histogram { buckets: self.buckets.each_ref().map(load), sum: load(&self.sum) }
    }
}

impl Metrics {
    /// The series of that name, made if need be; none: it is of the other kind, or there are too many.
    pub(crate) fn series(&self, name: &str, kind: SeriesKind) -> Option<Arc<Series>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.iter().find(|series| series.name == name) {
            return (found.kind() == kind).then(|| found.clone());
        }
        if all.len() >= limit::METRICS {
            return None;
        }
        let cells = match kind {
            SeriesKind::Counter => Cells::Counter(AtomicU64::new(0)),
            SeriesKind::Histogram => Cells::Histogram(Box::default()),
        };
        let series = Arc::new(Series { name: name.into(), cells });
        all.push(series.clone());
        Some(series)
    }

    pub(crate) fn all(&self) -> Vec<Metric> {
        let value = |series: &Series| match &series.cells {
            Cells::Counter(count) => MetricValue::Counter(count.load(Ordering::Relaxed)),
            Cells::Histogram(histogram) => histogram.read(),
        };
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|series| Metric { name: series.name.clone(), value: value(series) }).collect()
    }
}

impl Series {
    pub(crate) fn kind(&self) -> SeriesKind {
        match self.cells {
            Cells::Counter(_) => SeriesKind::Counter,
            Cells::Histogram(_) => SeriesKind::Histogram,
        }
    }

    /// Adds to a counter, or observes.
    pub(crate) fn take(&self, number: u64) {
        match &self.cells {
            Cells::Counter(count) => {
                count.fetch_add(number, Ordering::Relaxed);
            }
            Cells::Histogram(histogram) => histogram.observe(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_few_and_of_one_kind() {
        let metrics = Metrics::default();
        let (counter, histogram) = (SeriesKind::Counter, SeriesKind::Histogram);
        metrics.series("a", counter).unwrap().take(2);
        metrics.series("a", counter).unwrap().take(3);
        assert!(metrics.series("a", histogram).is_none());
        for number in [0, 1, 3, 1_000_000, 1_000_001] {
            metrics.series("b", histogram).unwrap().take(number);
        }
        let [a, b] = &metrics.all()[..] else { panic!() };
        assert_eq!((&*a.name, &a.value), ("a", &MetricValue::Counter(5)));
        let MetricValue::Histogram { buckets, sum } = &b.value else { panic!() };
        assert_eq!((buckets[0], buckets[1], buckets[2], buckets[3], buckets[19], buckets[20], *sum), (1, 1, 0, 1, 1, 1, 2_000_005));
        for n in 0..10_000 {
            let _ = metrics.series(&format!("c{n}"), counter);
        }
        assert_eq!(metrics.all().len(), limit::METRICS);
    }
}
