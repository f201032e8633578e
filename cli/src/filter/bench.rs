//! `mirrord filter bench`: what the filter adds to a request, on this machine: one thread, one instance, no network.

use std::{
    fs,
    time::{Duration, Instant},
};

use mirrord_filters::{Chain, Field};

use super::{
    Failure,
    args::Bench,
    module, replay,
    requests::{self, Recorded},
};
use crate::console;

/// Requests between two looks at the clock.
const BATCH: usize = 100;
/// Instances whose memory is measured together, and that are made to see how long it takes.
const INSTANCES: usize = 64;

pub fn bench(bench: &Bench) -> Result<(), Failure> {
    let recorded = match &bench.requests {
        Some(path) => requests::read(path)?,
        None => vec![Recorded::example()],
    };
    let loaded = module::load(&bench.which)?;
    let mut chain = Chain::new(vec![loaded.filter.clone()]);
    if let Some(fault) = recorded.iter().find_map(|one| replay::replay(&mut chain, one).faults.into_iter().next()) {
        return Err(Failure::new(format!("the filter fails: {fault}"), "correct it; `mirrord filter test` shows more"));
    }
    let headers: Vec<Vec<Field<'_>>> = recorded.iter().map(|one| replay::fields(&one.headers)).collect();
    let requests: Vec<_> = recorded.iter().zip(&headers).map(|(one, headers)| replay::parts(one, headers)).collect();
    let mut times = Vec::new();
    let mut turn = requests.iter().zip(&recorded).cycle();
    let end = Instant::now() + Duration::from_millis(bench.time);
    // The first tenth warms caches up and is not counted.
    let warm = Instant::now() + Duration::from_millis(bench.time / 10);
    loop {
        let began = Instant::now();
        for (request, one) in turn.by_ref().take(BATCH) {
            drop(replay::decide(&mut chain, request, &one.body));
        }
        let now = Instant::now();
        if now > warm {
            times.push((now - began).as_nanos() as u64 / BATCH as u64);
        }
        if now >= end && !times.is_empty() {
            break;
        }
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let (memory, start) = instances(&loaded.filter, &recorded[0]);
    console::out(&format!("request   {} ns (median of {} requests; 99 % of batches within {} ns)", at(50), times.len() * BATCH, at(99)));
    console::out(&format!("instance  {memory} KiB of memory, made in {} us", start.as_micros()));
    console::out(&format!("module    {}", module::bytes(loaded.wasm.len() as u64)));
    Ok(())
}

/// Resident KiB of one instance that has seen a request, and how long making it takes.
fn instances(filter: &mirrord_filters::Filter, one: &Recorded) -> (u64, Duration) {
    let before = resident();
    let began = Instant::now();
    let mut chains: Vec<_> = (0..INSTANCES).map(|_| Chain::new(vec![filter.clone()])).collect();
    chains.iter_mut().for_each(Chain::warm_up);
    let start = began.elapsed() / INSTANCES as u32;
    chains.iter_mut().for_each(|chain| drop(replay::replay(chain, one)));
    (resident().saturating_sub(before) / INSTANCES as u64, start)
}

/// KiB of this process that lie in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
}
