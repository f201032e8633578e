//! The engine: settings, the ticker, the cache; one for a process. [`Engine::load`] turns bytes into a [`Module`].

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::declared::Condition;
use crate::filter::{Filter, Kind, Settings};
use crate::log::{LogSink, to_tracing};
use crate::memory::Memories;
use crate::ticker::Ticker;
use crate::{FilterError, Module, abi, module, own, proxy_wasm};

/// Address space that a memory gets at once. Growth within it moves nothing; the default limit fits in.
const MEMORY_RESERVATION: u64 = 16 << 20;
/// Far more than a filter needs, far less than a worker's stack has.
const WASM_STACK: usize = 256 << 10;

/// What an [`Engine`] is made of.
#[derive(Clone, Default)]
pub struct EngineSettings {
    /// Where compiled modules are kept: a directory of our own, made with mode 0700. None: compile each time.
    pub cache_dir: Option<PathBuf>,
    /// Where filters' log lines go; none: to `tracing`.
    pub log: Option<LogSink>,
}

/// Compiles and runs filters. A clone is the same engine; its thread ends with the last clone, module and filter.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) ticker: Ticker,
    pub(crate) linker: wasmtime::Linker<own::State>,
    pub(crate) proxy_wasm: wasmtime::Linker<proxy_wasm::Host>,
    pub(crate) log: LogSink,
    cache: Option<Cache>,
}

impl Engine {
    /// Starts the engine and its ticker thread. A cache directory that cannot be used is a log line.
    ///
    /// # Errors
    /// [`FilterError::Engine`] if wasmtime or the thread does not start.
    pub fn new(settings: EngineSettings) -> Result<Engine, FilterError> {
        let wasmtime = wasmtime::Engine::new(&config()).map_err(|e| FilterError::Engine(format!("{e:#}")))?;
        let linker = own::linker(&wasmtime).map_err(|e| FilterError::Engine(format!("{e:#}")))?;
        let proxy_wasm = proxy_wasm::linker(&wasmtime).map_err(|e| FilterError::Engine(format!("{e:#}")))?;
        let ticker = Ticker::start(&wasmtime).map_err(|e| FilterError::Engine(format!("no thread: {e}")))?;
        let cache = settings.cache_dir.and_then(|dir| Cache::open(&dir, &wasmtime));
        let log = settings.log.unwrap_or_else(|| Arc::new(to_tracing));
        Ok(Engine { inner: Arc::new(Inner { wasmtime, ticker, linker, proxy_wasm, log, cache }) })
    }

    /// Compiles a module (or takes it from the cache) and checks that it is a filter: known ABI, no foreign imports.
    /// `name` is what logs and errors call it. The text format is taken too, for small hand-written filters.
    ///
    /// Compiling takes 15 to 100 ms for usual filters, and longer for large ones: not on a thread that serves requests.
    ///
    /// # Errors
    /// What is wrong with the module, with the next step.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Module, FilterError> {
        if wasm.len() > abi::limit::MODULE {
            return Err(FilterError::TooLarge { name: name.into(), size: wasm.len(), limit: abi::limit::MODULE });
        }
        module::check_magic(name, wasm)?;
        let sha256 = sha256(wasm);
        let compiled = match self.inner.cache.as_ref().and_then(|cache| cache.get(&self.inner.wasmtime, &sha256)) {
            Some(compiled) => compiled,
            None => {
                let compiled = wasmtime::Module::new(&self.inner.wasmtime, wasm)
                    .map_err(|e| FilterError::Invalid { name: name.into(), message: module::one_line(&e) })?;
                // Checked first: what is no filter is not worth a place in the cache.
                module::check_abi(name, &compiled)?;
                if let Some(cache) = &self.inner.cache {
                    cache.put(&sha256, &compiled);
                }
                compiled
            }
        };
        Module::new(self.clone(), name, sha256, &compiled)
    }

    /// Makes a filter without Wasm, whose config is its condition (see [`crate::declared`]). It is called what its condition is: `all_of`.
    ///
    /// # Errors
    /// What is wrong with the condition, and where.
    pub fn declare(&self, settings: Settings) -> Result<Filter, FilterError> {
        let size = settings.config.len();
        if size > abi::limit::CONFIG {
            return Err(FilterError::ConfigTooLarge { name: "http_filter".into(), size, limit: abi::limit::CONFIG });
        }
        let text = String::from_utf8_lossy(&settings.config);
        let condition = Condition::parse(&text).map_err(FilterError::Declared)?;
        let sha256 = sha256(&settings.config);
        let log = settings.log.clone().unwrap_or_else(|| self.inner.log.clone());
        Ok(Filter::new(condition.kind(), &sha256, settings.checked(), log, Kind::Declared(Arc::new(condition))))
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn config() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        // Instances are few and long-lived: on-demand memory keeps an idle agent small, and what is used again makes those quick
        // that serve one request. With a reservation below 4 GiB bounds are checked in code, which costs a filter next to nothing.
        .with_host_memory(Arc::new(Memories::default()))
        .memory_reservation(MEMORY_RESERVATION)
        .memory_reservation_for_growth(1 << 20)
        .memory_guard_size(64 << 10)
        .guard_before_linear_memory(false)
        // Data is copied into a new instance, not mapped: that is a fifth cheaper for an instance that serves one request.
        .memory_init_cow(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false);
    config
}
