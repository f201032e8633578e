//! What all exchanges were together: how many, how fast, by route. Bounded, however long it goes on.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    time::Instant,
};

use mirrord_protocol::records::{End, Exchange, Tally};
use serde_json::{Value, json};

use super::line::fit;
use crate::{
    paint::{Colour, Paint, plain},
    when,
};

/// Routes that are kept apart; what comes after shares one.
const MAX_ROUTES: usize = 512;
/// Routes that are shown.
const SHOWN: usize = 15;
/// Buckets of durations for each power of two: an error of at most 3 %.
const PER_OCTAVE: u64 = 32;
const OTHER: &str = "other";
/// Columns before a route.
const BEFORE: usize = 9 + 8 * (2 + 8) + 2;

/// Everything so far.
pub struct Summary {
    began: Instant,
    /// By pod and worker.
    tallies: BTreeMap<(usize, u16), Tally>,
    all: Route,
    routes: HashMap<String, Route>,
}

#[derive(Default)]
struct Route {
    count: u64,
    /// By hundreds; 0: no response.
    statuses: [u64; 6],
    failures: u64,
    up: u64,
    down: u64,
    took: Durations,
}

/// Microseconds by size.
#[derive(Default)]
struct Durations {
    buckets: Vec<u32>,
    count: u64,
    longest: u64,
}

impl Summary {
    pub fn new() -> Self {
        Self { began: Instant::now(), tallies: BTreeMap::new(), all: Route::default(), routes: HashMap::new() }
    }

    pub fn tally(&mut self, pod: usize, tally: Tally) {
        self.tallies.insert((pod, tally.worker), tally);
    }

    pub fn exchange(&mut self, exchange: &Exchange) {
        self.all.add(exchange);
        let mut route = route(exchange);
        if self.routes.len() >= MAX_ROUTES && !self.routes.contains_key(&route) {
            route = OTHER.into();
        }
        self.routes.entry(route).or_default().add(exchange);
    }

    fn total(&self) -> Tally {
        self.tallies.values().fold(Tally::default(), |sum, tally| Tally {
            worker: 0,
            begun: sum.begun + tally.begun,
            ended: sum.ended + tally.ended,
            dropped: sum.dropped + tally.dropped,
        })
    }

    fn by_count(&self) -> Vec<(&String, &Route)> {
        let mut routes: Vec<_> = self.routes.iter().collect();
        routes.sort_by(|(a, one), (b, other)| (other.count, a).cmp(&(one.count, b)));
        routes
    }

    /// For people.
    pub fn print(&self, out: &mut impl Write, paint: Paint) -> io::Result<()> {
        let total = self.total();
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = |count: u64| format!("{:.*}/s", if count as f64 >= 10.0 * seconds { 0 } else { 1 }, count as f64 / seconds);
        let mut parts = vec![format!("{} requests in {seconds:.1} s ({})", when::count(total.begun), rate(total.begun))];
        let names = ["without a response", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let statuses = names.iter().zip(self.all.statuses).filter(|(_, count)| *count > 0);
        parts.extend(statuses.map(|(name, count)| format!("{} {name}", when::count(count))));
        if total.begun > total.ended {
            parts.push(format!("{} not over yet", when::count(total.begun - total.ended)));
        }
        writeln!(out, "\n{}", parts.join(", "))?;
        if total.dropped > 0 {
            let text = format!("{} of them were counted only: they came faster than they could be shown here", when::count(total.dropped));
            writeln!(out, "{}", paint.text(Colour::Yellow, &text))?;
        }
        if self.all.count == 0 {
            return Ok(());
        }
        let head = format!(
            "{:>9}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  ROUTE",
            "REQUESTS", "RATE", "FAILED", "P50", "P90", "P99", "MAX", "UP", "DOWN"
        );
        writeln!(out, "{}", paint.text(Colour::Dim, &head))?;
        let routes = self.by_count();
        for (name, route) in routes.iter().take(SHOWN) {
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| when::short(route.took.percentile(part) * 1000));
            let failed = format!("{:>8}", when::count(route.failures));
            writeln!(
                out,
                "{:>9}  {:>8}  {}  {p50:>8}  {p90:>8}  {p99:>8}  {:>8}  {:>8}  {:>8}  {}",
                when::count(route.count),
                rate(route.count),
                paint.text(if route.failures > 0 { Colour::Red } else { Colour::Dim }, &failed),
                when::short(route.took.longest * 1000),
                when::bytes(route.up),
                when::bytes(route.down),
                fit(paint, &plain(name), BEFORE),
            )?;
        }
        match routes.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(out, "{}", paint.text(Colour::Dim, &format!("{:>9}  more routes", more))),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let total = self.total();
        let route = |(name, route): (&String, &Route)| {
            let mut value = route.json();
            value["route"] = name.as_str().into();
            value
        };
        let mut summary = self.all.json();
        summary["seconds"] = self.began.elapsed().as_secs_f64().into();
        summary["begun"] = total.begun.into();
        summary["ended"] = total.ended.into();
        summary["dropped"] = total.dropped.into();
        summary["routes"] = self.by_count().into_iter().map(route).collect();
        json!({ "summary": summary })
    }
}

impl Route {
    fn add(&mut self, exchange: &Exchange) {
        self.count += 1;
        let hundreds = usize::from(exchange.status.unwrap_or(0) / 100);
        if let Some(count) = self.statuses.get_mut(hundreds.min(5)) {
            *count += 1;
        }
        let failed = exchange.status.is_none_or(|status| status >= 500) || exchange.end == End::Cut;
        self.failures += u64::from(failed || exchange.grpc_status.is_some_and(|status| status > 0));
        self.up += exchange.request_bytes;
        self.down += exchange.response_bytes;
        // A tunnel is open as long as it pleases: that is no latency.
        self.took.add(if exchange.end == End::Upgraded { exchange.wait.unwrap_or(0) } else { exchange.took });
    }

    fn json(&self) -> Value {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| self.took.percentile(part));
        json!({
            "requests": self.count, "failed": self.failures, "request_bytes": self.up, "response_bytes": self.down,
            "p50": p50, "p90": p90, "p99": p99, "max": self.took.longest,
        })
    }
}

impl Durations {
    fn add(&mut self, micros: u64) {
        let bucket = bucket(micros);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count += 1;
        self.longest = self.longest.max(micros);
    }

    /// The smallest duration that so large a part of all does not exceed, to some 3 %.
    fn percentile(&self, part: f64) -> u64 {
        let wanted = (self.count as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return upper(bucket as u64).min(self.longest);
            }
        }
        self.longest
    }
}

/// Below 2 × [`PER_OCTAVE`] each value has its own; above, each power of two has [`PER_OCTAVE`].
fn bucket(micros: u64) -> usize {
    let shift = micros.max(1).ilog2().saturating_sub(PER_OCTAVE.ilog2());
    (u64::from(shift) * PER_OCTAVE + (micros >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: u64) -> u64 {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    let base = bucket - shift * PER_OCTAVE;
    ((base + 1) << shift) - 1
}

/// Method and path, without the query; what looks like an id is one.
fn route(exchange: &Exchange) -> String {
    let path = exchange.path.split(['?', '#']).next().unwrap_or_default();
    let mut route = exchange.method.clone();
    route.push(' ');
    for (at, part) in path.split('/').enumerate() {
        if at > 0 {
            route.push('/');
        }
        route.push_str(if is_id(part) { ":id" } else { part });
    }
    if route.len() > 200 {
        route.truncate(route.floor_char_boundary(200));
    }
    route
}

/// A number; a UUID or another long hexadecimal word; or a long word with digits in it.
fn is_id(part: &str) -> bool {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let hexadecimal = part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    digits > 0 && (digits == part.len() || (hexadecimal && part.len() >= 8) || (part.len() >= 24 && digits >= 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(path: &str, took: u64, status: u16) -> Exchange {
        Exchange { method: "GET".into(), path: path.into(), took, status: Some(status), end: End::Complete, ..Exchange::default() }
    }

    #[test]
    fn ids_make_no_routes() {
        let route = |path| super::route(&exchange(path, 0, 200));
        assert_eq!(route("/users/17/cart?x=/1"), "GET /users/:id/cart");
        assert_eq!(route("/o/0b9c2f7e-8a41-4a6e-9b1e-1f5d3f1d2c3b"), "GET /o/:id");
        assert_eq!(route("/v1/shop.Cart/Get"), "GET /v1/shop.Cart/Get");
        assert_eq!(route("/"), "GET /");
        assert_eq!(route("/deadbeef/facade"), "GET /deadbeef/facade");
    }

    #[test]
    fn percentiles_are_right_to_three_percent() {
        let mut durations = Durations::default();
        (1..=100_000).for_each(|micros| durations.add(micros));
        for (part, right) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0)] {
            let found = durations.percentile(part) as f64;
            assert!(found >= right && found <= right * 1.035, "{part}: {found}");
        }
        assert_eq!(durations.percentile(1.0), 100_000);
        assert!(
            (0..5000).all(|micros| upper(bucket(micros) as u64) >= micros && (micros == 0 || upper(bucket(micros) as u64 - 1) < micros))
        );
        assert!(bucket(u64::MAX) < 2048);
    }

    #[test]
    fn routes_are_bounded_and_nothing_is_lost() {
        let mut summary = Summary::new();
        (0..2 * MAX_ROUTES).for_each(|number| summary.exchange(&exchange(&format!("/r{number}x"), 5, 200)));
        assert_eq!(summary.routes.len(), MAX_ROUTES + 1);
        assert_eq!(summary.routes.values().map(|route| route.count).sum::<u64>(), 2 * MAX_ROUTES as u64);
    }

    #[test]
    fn the_counts_are_the_agents() {
        let mut summary = Summary::new();
        summary.tally(0, Tally { worker: 0, begun: 5, ended: 4, dropped: 0 });
        summary.tally(0, Tally { worker: 1, begun: 1, ended: 1, dropped: 0 });
        summary.tally(0, Tally { worker: 0, begun: 7, ended: 6, dropped: 2 });
        summary.exchange(&exchange("/", 100, 500));
        let json = summary.json();
        assert_eq!((&json["summary"]["begun"], &json["summary"]["dropped"], &json["summary"]["failed"]), (&8.into(), &2.into(), &1.into()));
        let mut text = Vec::new();
        summary.print(&mut text, Paint::for_stdout()).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("\n8 requests in ")
                && text.contains(", 1 5xx, 1 not over yet\n")
                && text.contains("2 of them were counted only"),
            "{text}"
        );
    }
}
