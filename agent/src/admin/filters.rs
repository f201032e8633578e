//! What filters count under names of their own, in the sessions that are open: `mirrord_filter_counter_total`, `…_gauge` (modules of
//! proxy-wasm) and `…_histogram`, by the filter's name and the metric's. A filter has at most 64 of them.

use std::{collections::BTreeMap, fmt};

use mirrord_filters::{BUCKETS, Filter, MetricValue};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};

use super::metrics::NO_EXEMPLAR;

/// By filter and metric.
type Key = (String, String);

/// As they stood when somebody asked.
#[derive(Debug, Default)]
struct OfFilters {
    counters: BTreeMap<Key, u64>,
    gauges: BTreeMap<Key, i64>,
    /// Buckets and sum.
    histograms: BTreeMap<Key, ([u64; BUCKETS.len() + 1], u64)>,
}

/// A registry of them, for one answer. Filters of the same name in several sessions are added up.
pub(super) fn registry<'a>(filters: impl Iterator<Item = &'a Filter>) -> Registry {
    let mut all = OfFilters::default();
    for filter in filters {
        for metric in filter.metrics() {
            let key = (filter.name().to_owned(), metric.name);
            match metric.value {
                MetricValue::Counter(count) => {
                    let sum = all.counters.entry(key).or_default();
                    *sum = sum.saturating_add(count);
                }
                MetricValue::Gauge(value) => {
                    let sum = all.gauges.entry(key).or_default();
                    *sum = sum.saturating_add(value);
                }
                MetricValue::Histogram { buckets, sum } => {
                    let entry = all.histograms.entry(key).or_default();
                    entry.0.iter_mut().zip(buckets).for_each(|(all, one)| *all = all.saturating_add(one));
                    entry.1 = entry.1.saturating_add(sum);
                }
            }
        }
    }
    let mut registry = Registry::with_prefix("mirrord");
    registry.register_collector(Box::new(all));
    registry
}

impl Collector for OfFilters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if !self.counters.is_empty() {
            let mut family = encoder.encode_descriptor("filter_counter", "What filters count", None, MetricType::Counter)?;
            for ((filter, name), count) in &self.counters {
                family.encode_family(&[("filter", filter), ("name", name)])?.encode_counter(count, NO_EXEMPLAR)?;
            }
        }
        if !self.gauges.is_empty() {
            let mut family = encoder.encode_descriptor("filter_gauge", "What filters gauge", None, MetricType::Gauge)?;
            for ((filter, name), value) in &self.gauges {
                family.encode_family(&[("filter", filter), ("name", name)])?.encode_gauge(value)?;
            }
        }
        if !self.histograms.is_empty() {
            let mut family = encoder.encode_descriptor("filter_histogram", "What filters observe", None, MetricType::Histogram)?;
            for ((filter, name), (counts, sum)) in &self.histograms {
                let bounds = BUCKETS.iter().map(|bound| *bound as f64).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
                let count = counts.iter().sum();
                family.encode_family(&[("filter", filter), ("name", name)])?.encode_histogram::<NoLabelSet>(
                    *sum as f64,
                    count,
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mirrord_filters::{Chain, Engine, EngineSettings, Limits, RequestParts, Version};

    use super::*;

    const WAT: &[u8] = br#"(module
        (import "mirrord" "count" (func $count (param i32 i32 i64)))
        (import "mirrord" "observe" (func $observe (param i32 i32 i64)))
        (memory (export "memory") 1) (data (i32.const 0) "hitssizes")
        (func (export "mirrord_abi_version_1"))
        (func (export "mirrord_configure") (result i32) i32.const 0)
        (func (export "mirrord_on_request") (result i32)
          (call $count (i32.const 0) (i32.const 4) (i64.const 2))
          (call $observe (i32.const 4) (i32.const 5) (i64.const 3)) i32.const 0))"#;

    #[test]
    fn what_filters_count_is_added_up_over_sessions() {
        let engine = Engine::new(EngineSettings { log: Some(Arc::new(|_, _, _| ())), ..EngineSettings::default() }).unwrap();
        let module = engine.load("mine", WAT).unwrap();
        let filters = [(); 2].map(|()| module.configure(b"", Limits::default()).unwrap());
        let address = ([192, 0, 2, 7], 80).into();
        let request = RequestParts {
            method: b"GET",
            path: b"/",
            headers: &[],
            client: address,
            destination: address,
            version: Version::Http11,
            end: true,
        };
        for filter in &filters {
            let _ = Chain::new(vec![filter.clone()]).on_request(&request);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, &registry(filters.iter())).unwrap();
        assert!(text.contains("mirrord_filter_counter_total{filter=\"mine\",name=\"hits\"} 4\n"), "{text}");
        assert!(text.contains("mirrord_filter_histogram_sum{filter=\"mine\",name=\"sizes\"} 6.0\n"), "{text}");
        assert!(text.contains("mirrord_filter_histogram_bucket{le=\"2.0\",filter=\"mine\",name=\"sizes\"} 0\n"), "{text}");
        assert!(text.contains("mirrord_filter_histogram_bucket{le=\"5.0\",filter=\"mine\",name=\"sizes\"} 2\n"), "{text}");
    }
}
