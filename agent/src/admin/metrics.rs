//! The workers' counters under their public names. Names, labels and their meaning are an interface: dashboards and alerts are
//! built on them. Labels are a port, a filter's file name, or one of a few words; never anything that a request carries.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    counters::{Count, Counters, Histogram, Series, Tally},
    gateway::steer::Ambiguity,
};

/// What the control thread sets when it is asked; the rest is read from the workers.
#[derive(Debug)]
pub struct Metrics {
    pub sessions: Gauge,
    pub redirected_ports: Gauge,
    pub in_flight: Gauge,
    pub draining: Gauge,
    pub set_aside: Gauge,
}

/// All workers' counters, added up when they are asked for.
#[derive(Debug)]
struct Workers(Vec<Arc<Counters>>);

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry, workers: Vec<Arc<Counters>>) -> Self {
        registry.register("agent", "The agent's version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register_collector(Box::new(Workers(workers)));
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Metrics {
            sessions: gauge("sessions", "Open sessions"),
            redirected_ports: gauge("redirected_ports", "Ports whose new connections reach the gateway"),
            in_flight: gauge("redirected_connections", "Connections on the gateway's port as the kernel counts them"),
            set_aside: gauge("filters_set_aside", "Filters that are not asked for now, because they failed too often in a row"),
            draining: gauge("draining", "1 once the agent was told to stop"),
        }
    }
}

/// A number of one worker.
type Get = fn(&Counters) -> u64;

const COUNTERS: [(&str, &str, Get); 5] = [
    ("connections", "Clients' connections accepted", Counters::accepted),
    ("copies_dropped", "Copies that a session missed, or a part of which", |counters| counters.copies_dropped.get()),
    ("fell_back", "Picked requests and connections that the pod got because the session could not take them", |counters| {
        counters.fell_back.get()
    }),
    ("bad_gateway", "Picked requests answered 502 because the session failed amid them", |counters| counters.bad_gateway.get()),
    ("skipped", "Requests that were not held any longer for a filter that had not decided", |counters| counters.skipped.get()),
];

/// A number of a series.
type Part = fn(&Tally) -> &Count;

const VERDICTS: [(&str, Part); 5] = [
    ("pass", |tally| &tally.passed),
    ("mirror", |tally| &tally.mirrored),
    ("steal", |tally| &tally.stolen),
    ("respond", |tally| &tally.answered),
    ("abort", |tally| &tally.aborted),
];

/// Durations of one worker.
type Durations = fn(&Counters) -> &Histogram;

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, get) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter(&self.sum(get), NO_EXEMPLAR)?;
        }
        let mut open = encoder.encode_descriptor("connections_open", "Clients' connections now", None, MetricType::Gauge)?;
        open.encode_gauge(&(self.sum(Counters::open) as i64))?;
        self.requests(&mut encoder)?;
        self.reasons(&mut encoder)?;
        self.latencies(&mut encoder)
    }
}

impl Workers {
    fn sum(&self, get: Get) -> u64 {
        self.0.iter().map(|counters| get(counters)).sum()
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut all: BTreeMap<Series, Vec<Arc<Tally>>> = BTreeMap::new();
        for (series, tally) in self.0.iter().flat_map(|counters| counters.requests()) {
            all.entry(series).or_default().push(tally);
        }
        let sum = |tallies: &[Arc<Tally>], count: Part| tallies.iter().map(|tally| count(tally).get()).sum::<u64>();

        let help = "Requests read, by who answered, and the filter that picked them (none: nobody did, or a session without filters)";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for ((port, filter), tallies) in &all {
            for (verdict, count) in VERDICTS {
                let value = sum(tallies, count);
                // A filter never passes a request by itself: what nobody picks is nobody's.
                if value > 0 || (verdict == "pass") == filter.is_empty() {
                    let labels = [("port", port.to_string()), ("filter", filter.to_string()), ("verdict", verdict.to_owned())];
                    metric.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor("copies", "Copies of requests for sessions", None, MetricType::Counter)?;
        for ((port, filter), tallies) in &all {
            let labels = [("port", port.to_string()), ("filter", filter.to_string())];
            metric.encode_family(&labels)?.encode_counter(&sum(tallies, |tally| &tally.copies), NO_EXEMPLAR)?;
        }
        Ok(())
    }

    fn reasons(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut opaque: BTreeMap<&str, u64> = BTreeMap::new();
        let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
        for counters in &self.0 {
            counters.opaque().for_each(|(why, count)| *opaque.entry(reason(why)).or_default() += count);
            counters.faults().into_iter().for_each(|(kind, count)| *faults.entry(kind).or_default() += count);
        }
        let all = [
            ("opaque_connections", "Connections of which the rest was copied unread, by what could not be read", "reason", opaque),
            ("filter_faults", "Calls of a filter that failed; the request passed", "kind", faults),
        ];
        for (name, help, label, counts) in all {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in counts {
                metric.encode_family(&[(label, value)])?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let every = crate::worker::MEASURED_EVERY;
        let help = format!("From a request's head to the verdict; one request of {every} is measured");
        let mut metric = encoder.encode_descriptor("decision_duration", &help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let (sum, count, buckets) = self.histogram(|counters| &counters.decision);
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;

        let help = format!("From the verdict to the answer's first byte, or its head on HTTP/2; one request of {every} is measured");
        let mut metric = encoder.encode_descriptor("upstream_duration", &help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let upstreams: [(&str, Durations); 2] = [("pod", |counters| &counters.pod), ("session", |counters| &counters.session)];
        for (upstream, get) in upstreams {
            let (sum, count, buckets) = self.histogram(get);
            metric.encode_family(&[("upstream", upstream)])?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    /// Sum in seconds, number, and the buckets, each on its own.
    fn histogram(&self, get: Durations) -> (f64, u64, Vec<(f64, u64)>) {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let mut sum = 0.0;
        for histogram in self.0.iter().map(|counters| get(counters)) {
            let bounds = histogram.bounds.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
            buckets.resize(histogram.bounds.len() + 1, (0.0, 0));
            for (bucket, (bound, count)) in buckets.iter_mut().zip(bounds.zip(histogram.buckets())) {
                *bucket = (bound, bucket.1 + count);
            }
            sum += histogram.sum().as_secs_f64();
        }
        (sum, buckets.iter().map(|(_, count)| count).sum(), buckets)
    }
}

pub(super) const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

fn reason(why: Ambiguity) -> &'static str {
    match why {
        Ambiguity::NotHttp => "not_http",
        Ambiguity::Head => "head",
        Ambiguity::HeadTooLong => "head_too_long",
        Ambiguity::HeadTooSlow => "head_too_slow",
        Ambiguity::Framing => "framing",
        Ambiguity::Chunk => "chunk",
        Ambiguity::Response => "response",
    }
}
