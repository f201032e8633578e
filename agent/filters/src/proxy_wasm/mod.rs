//! Filters of the field's standard ABI, proxy-wasm 0.2.1: HTTP filters made with its Rust, Go, AssemblyScript and C++ SDKs
//! run as they are. `docs/proxy-wasm.md` says what is there and what is not.
//!
//! ```text
//!   Instance (a link) ──callbacks──► Vm (store, exports) ──► guest ──host calls──► Host
//!     states of an exchange            deadline, faults                             Contexts, maps, properties
//!                                                                                   Callouts ──► Chain ──► the agent
//!                                                                                   Shared (all threads)
//! ```
//!
//! Without a verdict a request passes. It is decided when the guest lets the request's head go on: it returns `Continue`,
//! or calls `continue_request` later; `send_local_response` decides at once.

mod abi;
mod callout;
mod context;
mod host;
mod instance;
mod map;
mod property;
mod shared;
mod vm;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub use callout::{Callout, CalloutId, CalloutResponse, MAX_CALLOUT_RESPONSE, Upstream};

pub(crate) use abi::{check, speaks};
pub(crate) use host::{Host, linker};
pub(crate) use instance::Instance;
use shared::Shared;
use vm::Vm;

use crate::FilterError;
use crate::engine::Engine;
use crate::filter::{Filter, Kind, Settings};
use crate::log::LogSink;
use crate::module::one_line;
use crate::ticker::ticks;

/// A linked module. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Guest {
    engine: Engine,
    pre: Arc<wasmtime::InstancePre<Host>>,
    hooks: Hooks,
}

/// Which of the later phases a module has callbacks for.
#[derive(Debug, Clone, Copy)]
struct Hooks {
    request_body: bool,
    response: bool,
    response_body: bool,
    trailers: bool,
    tick: bool,
    queue: bool,
}

/// A configured module: what all instances of a filter share.
pub(crate) struct Plugin {
    guest: Guest,
    upstreams: Vec<Upstream>,
    /// Its author has been told that a body which it would change goes on as it came.
    told: AtomicBool,
    shared: Arc<Shared>,
}

impl Guest {
    /// Links a module that was checked.
    pub(crate) fn new(engine: &Engine, name: &str, compiled: &wasmtime::Module) -> Result<Guest, FilterError> {
        let invalid = |error| FilterError::Invalid { name: name.into(), message: one_line(&error) };
        let pre = engine.inner.proxy_wasm.instantiate_pre(compiled).map_err(invalid)?;
        let has = |export| compiled.get_export(export).is_some();
        let hooks = Hooks {
            request_body: has(abi::callback::REQUEST_BODY),
            response: [abi::callback::RESPONSE_HEADERS, abi::callback::RESPONSE_BODY, abi::callback::RESPONSE_TRAILERS]
                .into_iter()
                .any(has),
            response_body: has(abi::callback::RESPONSE_BODY),
            trailers: has(abi::callback::REQUEST_TRAILERS) || has(abi::callback::RESPONSE_TRAILERS),
            tick: has(abi::callback::TICK),
            queue: has(abi::callback::QUEUE_READY),
        };
        Ok(Guest { engine: engine.clone(), pre: Arc::new(pre), hooks })
    }
}

impl Plugin {
    /// What the filter's metrics stand at, over all threads.
    pub(crate) fn metrics(&self) -> Vec<crate::Metric> {
        self.shared.metrics()
    }
}

/// Makes a filter of it, if its start and configure callbacks agree.
pub(crate) fn configure(guest: &Guest, name: &str, sha256: &str, mut settings: Settings, log: LogSink) -> Result<Filter, FilterError> {
    let limit = ticks(settings.limits.configure);
    let upstreams = std::mem::take(&mut settings.upstreams);
    let plugin = Arc::new(Plugin { guest: guest.clone(), upstreams, told: AtomicBool::new(false), shared: Arc::default() });
    let filter = Filter::new(name, sha256, settings, log, Kind::ProxyWasm(plugin.clone()));
    let began = Instant::now();
    let started = guest.engine.inner.ticker.calls().during(|| Vm::start(&filter.inner, &plugin, &Arc::default(), limit));
    filter.inner.started_in(began.elapsed());
    started.map(|_| filter).map_err(|failure| failure.into_error(name))
}
