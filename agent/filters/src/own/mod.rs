//! Modules of our own ABI (docs/abi.md): what they may export and import, how they are started and called.

mod check;
mod host;
mod instance;
mod lent;
mod live;
mod state;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use check::check;
pub(crate) use host::linker;
pub(crate) use instance::Instance;
pub(crate) use state::{Limiter, State};

use crate::abi::{export, import};
use crate::engine::Engine;
use crate::error::FilterError;
use crate::filter::{Filter, Kind, Settings};
use crate::log::LogSink;
use crate::module::one_line;
use live::Live;

/// A linked module. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Guest {
    engine: Engine,
    pre: Arc<wasmtime::InstancePre<State>>,
    pub(crate) hooks: Hooks,
}

/// Which optional hooks a module has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hooks {
    pub(crate) request_body: bool,
    pub(crate) response: bool,
    pub(crate) response_body: bool,
    pub(crate) end: bool,
    pub(crate) connection: bool,
    /// It imports what replaces bytes of a body, or resets an exchange.
    pub(crate) changes_bodies: bool,
}

impl Guest {
    /// Links a module that was checked.
    pub(crate) fn new(engine: &Engine, name: &str, compiled: &wasmtime::Module) -> Result<Guest, FilterError> {
        let invalid = |error| FilterError::Invalid { name: name.into(), message: one_line(&error) };
        let pre = engine.inner.linker.instantiate_pre(compiled).map_err(invalid)?;
        let has = |export| compiled.get_export(export).is_some();
        let hooks = Hooks {
            request_body: has(export::ON_REQUEST_BODY),
            response: has(export::ON_RESPONSE),
            response_body: has(export::ON_RESPONSE_BODY),
            end: has(export::ON_END),
            connection: has(export::ON_CONNECTION),
            changes_bodies: compiled
                .imports()
                .any(|found| found.module() == crate::abi::MODULE && [import::REPLACE_BODY, import::ABORT].contains(&found.name())),
        };
        Ok(Guest { engine: engine.clone(), pre: Arc::new(pre), hooks })
    }
}

/// Makes a filter of it, if its configure hook agrees.
pub(crate) fn configure(guest: &Guest, name: &str, sha256: &str, settings: Settings, log: LogSink) -> Result<Filter, FilterError> {
    let ticks = crate::ticker::ticks(settings.limits.configure);
    let filter = Filter::new(name, sha256, settings, log, Kind::Own(guest.clone()));
    let began = Instant::now();
    let started = guest.engine.inner.ticker.calls().during(|| Live::start(&filter.inner, guest, ticks));
    filter.inner.started_in(began.elapsed());
    started.map(|_| filter).map_err(|failure| failure.into_error(name))
}
