//! What a guest may import from `env`, and what its store holds. Every pointer and length is checked against the guest's
//! memory; one that is outside ends the call.
//!
//! A status is only returned where the SDKs know it: the Rust SDK panics on any other. What they know no refusal for is
//! said to be done where that does no harm, and ends the call with a [`HostFault`] where it would.

mod exchange;
mod message;
mod plugin;

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Caller, Linker, Memory, Result, TypedFunc};

use super::callout::{CalloutResponse, Callouts};
use super::context::{Context, Contexts, Properties};
use super::shared::Mailbox;
use super::{Plugin, abi};
use crate::deadline::Deadline;
use crate::error::HostFault;
use crate::filter::Configured;
use crate::log::clean;
use crate::own::Limiter;
use crate::wasi::WasiHost;
use crate::{FaultKind, LogLevel, wasi};

/// The guest's number for what is no exchange: its one plugin context.
pub(crate) const ROOT: u32 = 1;

/// What a store holds.
pub(crate) struct Host {
    pub(crate) filter: Arc<Configured>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) memory: Option<Memory>,
    /// Away while it runs: a guest that calls the host from its allocator would go round in circles.
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    pub(crate) limiter: Limiter,
    pub(crate) deadline: Deadline,
    /// Its last line at level error, or the first of a panic.
    pub(crate) last_words: Option<String>,
    unfinished: Vec<u8>,
    pub(crate) contexts: Contexts,
    /// The exchange that the guest's calls are about; none: the plugin.
    pub(crate) current: Option<usize>,
    properties: Properties,
    pub(crate) tick: Option<Tick>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) callouts: Callouts,
    /// While the guest hears of a callout: what came.
    pub(crate) call_response: Option<CallResponse>,
    /// Exchanges that the guest let go on, from whatever callback.
    pub(crate) resumed: Vec<u32>,
    scratch: Vec<u8>,
}

/// When a guest wants to be called.
#[derive(Clone, Copy)]
pub(crate) struct Tick {
    pub(crate) period: Duration,
    pub(crate) next: Instant,
}

/// A callout's response, as maps.
pub(crate) struct CallResponse {
    pub(crate) headers: super::map::Map,
    pub(crate) trailers: super::map::Map,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
}

impl CallResponse {
    pub(crate) fn new(response: Option<CalloutResponse>) -> Self {
        let mut own = CallResponse { headers: Default::default(), trailers: Default::default(), body: Vec::new(), status: 0 };
        if let Some(response) = response {
            own.status = response.status;
            own.headers.push(b":status", response.status.to_string().as_bytes());
            response.headers.iter().for_each(|(name, value)| own.headers.push(name, value));
            response.trailers.iter().for_each(|(name, value)| own.trailers.push(name, value));
            own.body = response.body;
        }
        own
    }
}

impl Host {
    pub(crate) fn new(filter: Arc<Configured>, plugin: Arc<Plugin>, mailbox: Arc<Mailbox>) -> Self {
        let limiter = Limiter::new(&filter.limits);
        Host {
            filter,
            plugin,
            memory: None,
            allocate: None,
            limiter,
            deadline: Deadline::default(),
            last_words: None,
            unfinished: Vec::new(),
            contexts: Contexts::default(),
            current: None,
            properties: Properties::default(),
            tick: None,
            mailbox,
            callouts: Callouts::default(),
            call_response: None,
            resumed: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// A callback begins.
    pub(crate) fn begin(&mut self, current: Option<usize>) {
        self.current = current;
        self.last_words = None;
        self.limiter.refused = false;
    }

    fn exchange(&mut self) -> Option<&mut Context> {
        self.contexts.get(self.current?)
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        if level == LogLevel::Error && !self.last_words.as_ref().is_some_and(|words| words.starts_with("panic")) {
            self.last_words = Some(clean(text, crate::abi::limit::REASON));
        }
        self.filter.log.line(level, text);
    }
}

impl WasiHost for Host {
    fn memory(&self) -> Option<Memory> {
        self.memory
    }

    fn line(&mut self, level: LogLevel, text: &[u8]) {
        self.log(level, text);
    }

    fn unfinished_line(&mut self) -> &mut Vec<u8> {
        &mut self.unfinished
    }
}

/// Whether a guest may import this function of `env`.
pub(crate) fn knows(name: &str) -> bool {
    NAMES.contains(&name)
}

const NAMES: [&str; 41] = [
    // C++ (emscripten) and AssemblyScript link these two besides.
    "abort",
    "emscripten_notify_memory_growth",
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_buffer_status",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_size",
    "proxy_get_header_map_value",
    "proxy_get_log_level",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasi::add(&mut linker)?;
    message::add(&mut linker)?;
    exchange::add(&mut linker)?;
    plugin::add(&mut linker)?;
    Ok(linker)
}

/// The guest's memory and our data. Not there before the instance is, nor inside the guest's allocator.
fn split<'a>(caller: &'a mut Caller<'_, Host>) -> Result<(&'a mut [u8], &'a mut Host)> {
    match (caller.data().memory, &caller.data().allocate) {
        (Some(memory), Some(_)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(HostFault::error(FaultKind::BadCall, "a host call from the start function or from the allocator; make it in a callback")),
    }
}

fn bytes(memory: &[u8], at: u32, len: u32) -> Result<&[u8]> {
    // SDKs give a null pointer for what is empty.
    if len == 0 {
        return Ok(&[]);
    }
    let start = at as usize;
    memory.get(start..start.saturating_add(len as usize)).ok_or_else(|| HostFault::outside(at, len))
}

fn store(memory: &mut [u8], at: u32, value: &[u8]) -> Result<()> {
    let start = at as usize;
    match memory.get_mut(start..start.saturating_add(value.len())) {
        Some(place) => {
            place.copy_from_slice(value);
            Ok(())
        }
        None => Err(HostFault::outside(at, u32::try_from(value.len()).unwrap_or(u32::MAX))),
    }
}

/// Gives the guest a value: in memory that its own allocator returns, with address and size where it asked for them.
fn give(caller: &mut Caller<'_, Host>, value: &[u8], at: u32, size_at: u32) -> Result<i32> {
    let mut place = 0;
    if !value.is_empty() {
        // Taken, so that a guest which calls the host from there is noticed.
        let Some(allocate) = caller.data_mut().allocate.take() else {
            return Err(HostFault::error(FaultKind::BadCall, "a host call from the allocator"));
        };
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        place = allocate.call(&mut *caller, len)?;
        caller.data_mut().allocate = Some(allocate);
        if place == 0 {
            return Err(HostFault::error(FaultKind::Memory, format!("its allocator has no {len} bytes")));
        }
    }
    let (memory, _) = split(caller)?;
    store(memory, place, value)?;
    store(memory, at, &place.to_le_bytes())?;
    store(memory, size_at, &u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes())?;
    Ok(abi::status::OK)
}

/// As [`give`], of a value that `fill` writes; `None` is the status `otherwise`.
fn give_filled(
    caller: &mut Caller<'_, Host>,
    at: u32,
    size_at: u32,
    otherwise: i32,
    fill: impl FnOnce(&[u8], &mut Host, &mut Vec<u8>) -> Result<Option<()>>,
) -> Result<i32> {
    let (memory, host) = split(caller)?;
    let mut scratch = std::mem::take(&mut host.scratch);
    scratch.clear();
    let status = match fill(memory, host, &mut scratch)? {
        Some(()) => give(caller, &scratch, at, size_at)?,
        None => otherwise,
    };
    if scratch.capacity() <= 1 << 20 {
        caller.data_mut().scratch = scratch;
    }
    Ok(status)
}
