//! A filter ready for use: module, config, limits, and what its instances share (failure record, log allowance).

use std::sync::Arc;
use std::time::Duration;

use crate::health::Health;
use crate::instance::{Instance, Live, StartFailure};
use crate::log::{FilterLog, LogSink};
use crate::ticker::ticks;
use crate::{FilterError, Module, abi};

/// Within which a filter stays. Values out of reason are brought back into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest call of a hook, making a fresh instance included. At least 3 ms.
    pub call: Duration,
    /// Longest first start: instantiation and configure hook, outside the request path.
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

/// A configured filter. A clone is the same filter: instances of all clones share one failure record.
#[derive(Clone)]
pub struct Filter {
    pub(crate) inner: Arc<Configured>,
}

/// What all instances of a filter share.
pub(crate) struct Configured {
    pub(crate) module: Module,
    pub(crate) config: Vec<u8>,
    pub(crate) limits: Limits,
    /// `limits.call` in ticks.
    pub(crate) call_ticks: u64,
    pub(crate) log: FilterLog,
    pub(crate) health: Health,
}

impl Filter {
    /// The module's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.module.name()
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.inner.module
    }

    /// A new instance, for one thread and subscription. Its Wasm instance is made at the first call, or by
    /// [`Instance::warm_up`].
    #[must_use]
    pub fn instance(&self) -> Instance {
        Instance::new(self.inner.clone())
    }
}

pub(crate) fn configure(module: &Module, config: &[u8], limits: Limits, log: LogSink) -> Result<Filter, FilterError> {
    let name = || module.name().to_owned();
    if config.len() > abi::limit::CONFIG {
        return Err(FilterError::ConfigTooLarge { name: name(), size: config.len(), limit: abi::limit::CONFIG });
    }
    let reasonable = |time: Duration| time.clamp(Duration::from_millis(3), Duration::from_secs(10));
    let limits = Limits { call: reasonable(limits.call), configure: reasonable(limits.configure), ..limits };
    let inner = Arc::new(Configured {
        module: module.clone(),
        config: config.into(),
        log: FilterLog::new(module.name(), log),
        health: Health::new(limits.faults_in_a_row, limits.rest),
        call_ticks: ticks(limits.call),
        limits,
    });
    match Live::start(&inner, ticks(inner.limits.configure)) {
        Ok(_) => Ok(Filter { inner }),
        Err(StartFailure::Refused(words)) => Err(FilterError::ConfigRefused { name: name(), words }),
        Err(StartFailure::Fault(fault)) => Err(FilterError::Start(fault)),
    }
}
