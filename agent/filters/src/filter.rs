//! A filter ready for use: what it is made of, config, limits, and what its instances share (failure record, log allowance).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::declared::{self, Condition};
use crate::error::{Fault, FaultKind, FilterError};
use crate::health::Health;
use crate::link::Link;
use crate::log::{FilterLog, LogSink};
use crate::proxy_wasm::{Plugin, Upstream};
use crate::random::{Random, any_seed};
use crate::series::Metric;
use crate::shared::Shared;
use crate::ticker::ticks;
use crate::{own, proxy_wasm};

/// A start may take so many times as long as the first one.
const STARTS: u32 = 4;

/// Within which a filter stays. Values out of reason are brought back into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest call of a hook. At least 3 ms.
    pub call: Duration,
    /// Longest first start: instantiation and configure hook, outside the request path. Later ones may take as long as a call, or
    /// a few times as long as the first one took.
    pub configure: Duration,
    /// Bytes of linear memory of one instance.
    pub memory: usize,
    /// Elements of each table.
    pub table_elements: usize,
    /// Failures in a row after which the filter is set aside.
    pub faults_in_a_row: u32,
    /// For how long.
    pub rest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            call: Duration::from_millis(10),
            configure: Duration::from_millis(100),
            memory: 16 << 20,
            table_elements: 10_000,
            faults_in_a_row: 10,
            rest: Duration::from_secs(10),
        }
    }
}

/// What a request meets when a link fails, or is set aside because it failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// As if the link said nothing: the next one is asked.
    #[default]
    Pass,
    /// The session's program gets it.
    Steal,
    /// It is answered 503; an exchange that is under way is reset, so that nothing leaves that the filter was to see.
    Deny,
}

/// Whether requests share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// One instance a thread, for all of its requests.
    #[default]
    Shared,
    /// A fresh instance for each request: nothing of one can be seen in another. Costs some 10 µs a request.
    Fresh,
}

/// How a filter is to be run.
#[derive(Clone, Default)]
pub struct Settings {
    /// What the user gave; the filter's business.
    pub config: Vec<u8>,
    pub limits: Limits,
    pub policy: Policy,
    pub isolation: Isolation,
    /// Hosts that a proxy-wasm filter's HTTP calls may reach; any other call is refused.
    pub upstreams: Vec<Upstream>,
    /// Where its log lines go; nothing: to the engine's sink.
    pub log: Option<LogSink>,
    /// What it may ask about its session, by name.
    pub properties: Vec<(String, Vec<u8>)>,
    /// Makes its random numbers those of an earlier run; nothing: others each time.
    pub seed: Option<u64>,
    /// The earlier version of the same filter, whose state and metrics it takes over.
    pub replaces: Option<Filter>,
}

/// A configured filter. A clone is the same filter: instances of all clones share one failure record.
#[derive(Clone)]
pub struct Filter {
    pub(crate) inner: Arc<Configured>,
}

/// What all instances of a filter share.
pub(crate) struct Configured {
    pub(crate) name: String,
    /// Of the module's bytes, in hex; of what else makes it, if it is no module.
    pub(crate) sha256: String,
    pub(crate) config: Vec<u8>,
    pub(crate) limits: Limits,
    pub(crate) policy: Policy,
    pub(crate) isolation: Isolation,
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    pub(crate) log: FilterLog,
    pub(crate) health: Health,
    pub(crate) shared: Arc<Shared>,
    pub(crate) kind: Kind,
    /// Longest later start, in ticks.
    start_ticks: AtomicU64,
    seed: u64,
    /// Instances made so far: each has random numbers of its own.
    instances: AtomicU64,
}

/// What it is made of.
pub(crate) enum Kind {
    /// A module of our own ABI (docs/abi.md).
    Own(own::Guest),
    /// A module of proxy-wasm 0.2.1.
    ProxyWasm(Arc<Plugin>),
    /// No module: a condition of the config file.
    Declared(Arc<Condition>),
}

impl Filter {
    pub(crate) fn new(name: &str, sha256: &str, settings: Settings, log: LogSink, kind: Kind) -> Filter {
        let Settings { config, limits, policy, isolation, properties, seed, replaces, .. } = settings;
        let inner = Configured {
            name: name.into(),
            sha256: sha256.into(),
            config,
            policy,
            isolation,
            properties,
            log: FilterLog::new(name, log),
            health: Health::new(limits.faults_in_a_row, limits.rest),
            start_ticks: AtomicU64::new(ticks(limits.call)),
            limits,
            shared: replaces.map_or_else(Arc::default, |old| old.inner.shared.clone()),
            kind,
            seed: seed.unwrap_or_else(any_seed),
            instances: AtomicU64::new(0),
        };
        Filter { inner: Arc::new(inner) }
    }

    /// What it was called when loaded.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// SHA-256 of the module's bytes, in hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.inner.sha256
    }

    /// What its failures lead to.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.inner.policy
    }

    /// The counters and histograms that it has named.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        match &self.inner.kind {
            Kind::ProxyWasm(plugin) => plugin.metrics(),
            Kind::Declared(_) => Vec::new(),
            Kind::Own(_) => self.inner.shared.metrics.all(),
        }
    }

    /// How much longer it is set aside, because it failed too often in a row; `None`: it is not.
    #[must_use]
    pub fn set_aside_for(&self) -> Option<Duration> {
        self.inner.health.set_aside_for()
    }

    /// Whether it says anything about connections that are not HTTP.
    #[must_use]
    pub fn wants_connections(&self) -> bool {
        match &self.inner.kind {
            Kind::Own(guest) => guest.hooks.connection,
            Kind::ProxyWasm(_) => false,
            Kind::Declared(_) => false,
        }
    }

    /// Whether somebody has to look after it between requests: [`crate::Chain::background`].
    #[must_use]
    pub fn wants_background(&self) -> bool {
        matches!(self.inner.kind, Kind::ProxyWasm(_))
    }

    /// A new link for one thread.
    pub(crate) fn link(&self) -> Box<dyn Link> {
        match &self.inner.kind {
            Kind::Own(guest) => Box::new(own::Instance::new(self.inner.clone(), guest.clone())),
            Kind::ProxyWasm(plugin) => Box::new(proxy_wasm::Instance::new(self.inner.clone(), plugin.clone())),
            Kind::Declared(condition) => Box::new(declared::Instance::new(self.inner.clone(), condition.clone())),
        }
    }
}

impl Configured {
    /// Its first start took so long. A runtime like Go's takes longer to start than any call may, and one that has failed starts
    /// again while a request waits; one that starts quickly must not have more time for that than for a call.
    pub(crate) fn started_in(&self, took: Duration) {
        let again = (took * STARTS).clamp(self.limits.call, self.limits.configure.max(self.limits.call));
        self.start_ticks.store(ticks(again), Ordering::Relaxed);
    }

    /// How many ticks making an instance may take.
    pub(crate) fn start_ticks(&self) -> u64 {
        self.start_ticks.load(Ordering::Relaxed)
    }

    /// Random numbers for one more instance.
    pub(crate) fn next_random(&self) -> Random {
        Random::new(self.seed, self.instances.fetch_add(1, Ordering::Relaxed))
    }

    /// A failure of this filter. What it leads to, the chain adds.
    pub(crate) fn fault(&self, kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { filter: self.name.clone(), kind, message: message.into(), set_aside: false, policy: Policy::default() }
    }
}

/// Why a guest did not start.
pub(crate) enum StartFailure {
    /// It refused its config, in these words.
    Refused(String),
    Fault(Fault),
}

impl StartFailure {
    /// At its first start, before anybody uses it.
    pub(crate) fn into_error(self, name: &str) -> FilterError {
        match self {
            StartFailure::Refused(words) => FilterError::ConfigRefused { name: name.into(), words },
            StartFailure::Fault(fault) => FilterError::Start(fault),
        }
    }

    /// At a later one, for a call.
    pub(crate) fn into_fault(self, filter: &Configured) -> Fault {
        match self {
            StartFailure::Refused(words) => {
                filter.fault(FaultKind::Configure, format!("a fresh instance refused the config that it took before: {words}"))
            }
            StartFailure::Fault(fault) => fault,
        }
    }
}

impl Settings {
    /// With its times in reason.
    pub(crate) fn checked(mut self) -> Self {
        let reasonable = |time: Duration| time.clamp(Duration::from_millis(3), Duration::from_secs(10));
        self.limits.call = reasonable(self.limits.call);
        self.limits.configure = reasonable(self.limits.configure);
        self
    }
}
