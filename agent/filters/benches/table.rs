//! What filters cost, as a table with the bounds that they are held to: `cargo bench --workspace --bench table`. With
//! `--check` a row over its bound is an error. 20 headers of 742 bytes, the header filter as the script builds it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench may")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/proxy_wasm_host/mod.rs"]
mod proxy_wasm_host;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mirrord_filters::{Chain, Filter, Isolation, Outcome, RequestParts, Settings, Step, Verdict};

/// How long each row is measured.
const TIME: Duration = Duration::from_millis(600);

struct Row {
    what: &'static str,
    nanos: f64,
    bound: f64,
}

fn main() -> ExitCode {
    let engine = common::engine();
    let module = engine.load("header", &common::example("header")).unwrap();
    let with = |value: &str, isolation| {
        let config = format!(r#"{{"name": "X-User", "value": "{value}"}}"#).into_bytes();
        module.configure_with(Settings { config, isolation, ..Settings::default() }).unwrap()
    };
    let filter = |value: &str| with(value, Isolation::Shared);
    let fields = common::fields(&common::HEADERS);
    let request = common::request("GET", "/api/v1/cart?id=3", &fields);

    let one = |filter: Filter, verdict| row(&request, vec![Chain::new(vec![filter])], verdict);
    let ten = || vec![Chain::new((0..10).map(|n| filter(&format!("other {n}"))).collect())];
    let hundred = || (0..100).map(|n| Chain::new(vec![filter(&format!("other {n}"))])).collect();
    let stock =
        |config: &str| proxy_wasm_host::module("rust").configure_with(Settings { config: config.into(), ..Settings::default() }).unwrap();
    let mut absent = common::fields(&common::HEADERS);
    absent[18].name = b"x-abcd";
    let passed = common::request("GET", "/api/v1/cart?id=3", &absent);
    let rows = [
        Row { what: "own ABI, the request passes", nanos: one(filter("other"), Verdict::Pass), bound: 250.0 },
        Row { what: "own ABI, stolen, one edit and a reason", nanos: one(filter("me"), Verdict::Steal), bound: 500.0 },
        Row { what: "10 links, the request passes all", nanos: row(&request, ten(), Verdict::Pass), bound: 3_000.0 },
        Row {
            what: "an instance of its own for each request",
            nanos: one(with("other", Isolation::Fresh), Verdict::Pass),
            bound: 20_000.0,
        },
        Row { what: "100 sessions with a filter each, a filter", nanos: row(&request, hundred(), Verdict::Pass) / 100.0, bound: 500.0 },
        Row {
            what: "proxy-wasm (Rust SDK), the request passes",
            nanos: row(&passed, vec![Chain::new(vec![stock("bench")])], Verdict::Pass),
            bound: 700.0,
        },
        Row { what: "proxy-wasm (Rust SDK), stolen, one edit", nanos: one(stock("bench"), Verdict::Steal), bound: 1_000.0 },
    ];
    println!("{:<44} {:>10} {:>10}", "filter calls (20 headers)", "ns", "bound");
    for Row { what, nanos, bound } in &rows {
        println!("{what:<44} {nanos:>10.0} {bound:>10.0}{}", if nanos > bound { "  over" } else { "" });
    }
    let over = rows.iter().any(|row| row.nanos > row.bound);
    if over && std::env::args().any(|argument| argument == "--check") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nanoseconds to ask all chains about the request: of many short runs the fastest tenth's mean, since whatever else the
/// machine does can only add.
fn row(request: &RequestParts<'_>, mut chains: Vec<Chain>, verdict: Verdict) -> f64 {
    chains.iter_mut().for_each(Chain::warm_up);
    let mut ask = || chains.iter_mut().map(|chain| decided(chain.on_request(black_box(request)))).all(|outcome| outcome.verdict == verdict);
    assert!(ask());
    let once = {
        let start = Instant::now();
        ask();
        start.elapsed().max(Duration::from_nanos(100))
    };
    let in_a_run = u32::try_from(Duration::from_micros(500).as_nanos() / once.as_nanos()).unwrap_or(1).max(1);
    let (end, mut runs) = (Instant::now() + TIME, Vec::new());
    while Instant::now() < end {
        let start = Instant::now();
        for _ in 0..in_a_run {
            black_box(ask());
        }
        runs.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(in_a_run));
    }
    runs.sort_by(f64::total_cmp);
    let best = &runs[..(runs.len() / 10).max(1)];
    best.iter().sum::<f64>() / best.len() as f64
}

fn decided(step: Step) -> Outcome {
    match step {
        Step::Decided(outcome) => outcome,
        step => panic!("{step:?}"),
    }
}
