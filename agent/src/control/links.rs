//! From a link of a session's request to the settings of its filter.

use std::time::Duration;

use mirrord_filters::{Filter, Isolation, Limits, LogSink, Policy, Settings, Upstream};
use mirrord_protocol::control::{self, FilterLimits, FilterLink, OnFailure};

/// Most memory that a session may ask for an instance of its filter, bytes.
const MAX_MEMORY: usize = 256 << 20;
/// Least that a filter starts in.
const MIN_MEMORY: usize = 64 << 10;
/// Longest call that a session may ask for: it holds up the requests of its worker.
const MAX_CALL: Duration = Duration::from_millis(100);

/// What a link says, and what it leaves to us.
/// `replaces` is the filter that stood there before: what its instances share goes on.
pub fn settings(link: &FilterLink, log: LogSink, replaces: Option<Filter>) -> Settings {
    Settings {
        config: link.config.clone().into_bytes(),
        limits: limits(link.limits),
        policy: match link.on_failure {
            OnFailure::Pass => Policy::Pass,
            OnFailure::Steal => Policy::Steal,
            OnFailure::Deny => Policy::Deny,
        },
        isolation: match link.isolation {
            control::Isolation::Shared => Isolation::Shared,
            control::Isolation::Fresh => Isolation::Fresh,
        },
        log: Some(log),
        upstreams: link.upstreams.iter().map(|(name, address)| Upstream { name: name.clone(), address: address.clone() }).collect(),
        replaces,
        ..Settings::default()
    }
}

fn limits(asked: FilterLimits) -> Limits {
    let usual = Limits::default();
    let time = |asked: Option<u32>, usual| asked.map_or(usual, |ms| Duration::from_millis(ms.into()));
    Limits {
        call: time(asked.call_ms, usual.call).min(MAX_CALL),
        configure: time(asked.configure_ms, usual.configure),
        memory: asked.memory_kib.map_or(usual.memory, |kib| (kib as usize * 1024).clamp(MIN_MEMORY, MAX_MEMORY)),
        faults_in_a_row: asked.faults_in_a_row.map_or(usual.faults_in_a_row, |count| count.clamp(1, 1_000_000)),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_asks_for_stays_in_reason() {
        let asked = FilterLimits { call_ms: Some(60_000), memory_kib: Some(u32::MAX), faults_in_a_row: Some(0), ..FilterLimits::default() };
        let limits = limits(asked);
        assert_eq!((limits.call, limits.memory, limits.faults_in_a_row), (MAX_CALL, MAX_MEMORY, 1));
        assert_eq!(limits.configure, Limits::default().configure);
        assert_eq!(super::limits(FilterLimits::default()), Limits::default());
    }
}
