//! What can go wrong: [`FilterError`] before a filter is in use (the user reads it, nothing is redirected), [`Fault`]
//! during a call (the request passes, the log and the counters say so).

use std::fmt;

use wasmtime::{Trap, WasmBacktrace};

use crate::Policy;
use crate::declared::DeclaredError;

/// Why a filter cannot be used. Each message ends with the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    #[error("the Wasm engine does not start: {0}; this machine's processor or kernel lacks something it needs, report it as a bug")]
    Engine(String),
    #[error("{name} is not a Wasm file; give the .wasm file that `cargo build --target wasm32-unknown-unknown` leaves")]
    NotWasm { name: String },
    #[error("{name} is a Wasm component, not a core module; build it for the target wasm32-unknown-unknown")]
    Component { name: String },
    #[error("{name} has {size} bytes, the limit is {limit}; build it with optimisation and strip debug information")]
    TooLarge { name: String, size: usize, limit: usize },
    #[error("{name} is not a valid Wasm module: {message}; build it anew, without experimental Wasm features")]
    Invalid { name: String, message: String },
    #[error("{name} is a Wasm file of no known filter ABI; build it with the mirrord-filter-sdk, or export what docs/abi.md says")]
    UnknownAbi { name: String },
    #[error(
        "{name} speaks version {version} of the filter ABI, this agent speaks version 1; use a newer agent, or build the filter with an older SDK"
    )]
    NewerAbi { name: String, version: String },
    #[error("{name} is a proxy-wasm module of ABI {version}; build it with an SDK of ABI 0.2.0 or 0.2.1, which current ones have")]
    ProxyWasm { name: String, version: String },
    #[error("{name} imports {import}, which filters may not use ({hint})")]
    ForbiddenImport { name: String, import: String, hint: &'static str },
    #[error("{name} exports {export} wrongly: {problem}; docs/abi.md has the types")]
    BadExport { name: String, export: String, problem: &'static str },
    #[error("{name} exports {export}, which this version never calls; take it out, or use a newer agent")]
    ReservedExport { name: String, export: String },
    #[error("the config of {name} has {size} bytes, the limit is {limit}; make it smaller")]
    ConfigTooLarge { name: String, size: usize, limit: usize },
    #[error("{name} refuses its config: {words}; change what you give as --filter-config")]
    ConfigRefused { name: String, words: String },
    #[error("{name} does not start ({kind}): {message}; this is a bug of the filter, or its config asks too much", name = .0.filter, kind = .0.kind, message = .0.message)]
    Start(Fault),
    #[error("http_filter: {0}")]
    Declared(#[from] DeclaredError),
}

/// One failure of a filter during a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The filter's name.
    pub filter: String,
    pub kind: FaultKind,
    /// What happened, with the filter's last words and a short backtrace. One line.
    pub message: String,
    /// The filter failed so often in a row that it is not called for a while.
    pub set_aside: bool,
    /// What became of the request.
    pub policy: Policy,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter {} failed ({}): {}", self.filter, self.kind, self.message)?;
        let becomes = match self.policy {
            Policy::Pass => "passes as if this filter said nothing",
            Policy::Steal => "goes to the session",
            Policy::Deny => "is refused",
        };
        if self.set_aside {
            write!(f, "; it failed too often in a row and is set aside for a while: each request {becomes}")
        } else {
            write!(f, "; the request {becomes}")
        }
    }
}

/// What kind of failure; also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// A Wasm trap, for instance a panic.
    Trap,
    /// The call stack ran out.
    Stack,
    /// The call took too long.
    Deadline,
    /// It failed after memory beyond the limit was refused.
    Memory,
    /// A host call named memory that the filter does not have.
    OutOfBounds,
    /// The verdict is none of the ABI's.
    BadVerdict,
    /// A header edit that is not allowed, or too many.
    BadEdit,
    /// A `respond` verdict without a sound answer.
    BadAnswer,
    /// A host call where it makes no sense.
    BadCall,
    /// A fresh instance refused the config that an earlier one took.
    Configure,
}

impl FaultKind {
    /// Lower case, one word, stable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FaultKind::Trap => "trap",
            FaultKind::Stack => "stack",
            FaultKind::Deadline => "deadline",
            FaultKind::Memory => "memory",
            FaultKind::OutOfBounds => "out_of_bounds",
            FaultKind::BadVerdict => "bad_verdict",
            FaultKind::BadEdit => "bad_edit",
            FaultKind::BadAnswer => "bad_answer",
            FaultKind::BadCall => "bad_call",
            FaultKind::Configure => "configure",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a host function ends a call: the guest did something that the ABI forbids.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct HostFault {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
}

impl HostFault {
    pub(crate) fn error(kind: FaultKind, message: impl Into<String>) -> wasmtime::Error {
        wasmtime::Error::new(HostFault { kind, message: message.into() })
    }

    /// A pointer and length that the guest does not have.
    pub(crate) fn outside(at: u32, len: u32) -> wasmtime::Error {
        HostFault::error(FaultKind::OutOfBounds, format!("a host call was given {len} bytes at {at:#x}, outside the filter's memory"))
    }
}

/// Frames of a backtrace that a log line shows.
const FRAMES: usize = 8;

/// Reads a failed call. `memory_refused` tells whether growth was refused in its course; `last_words` is the last line
/// that the guest logged as an error, which for a Rust panic is the panic's message.
pub(crate) fn explain(error: &wasmtime::Error, memory_refused: bool, last_words: Option<&str>) -> (FaultKind, String) {
    let (kind, mut message) = match (error.downcast_ref::<HostFault>(), error.downcast_ref::<Trap>()) {
        (Some(fault), _) => (fault.kind, fault.message.clone()),
        (None, Some(Trap::Interrupt)) => (FaultKind::Deadline, "it did not return in time".into()),
        (None, Some(Trap::StackOverflow)) => (FaultKind::Stack, "its call stack ran out".into()),
        (None, _) if memory_refused => (FaultKind::Memory, "it asked for more memory than its limit".into()),
        (None, Some(trap)) => (FaultKind::Trap, trap.to_string()),
        (None, None) => (FaultKind::Trap, error.root_cause().to_string()),
    };
    if let Some(words) = last_words {
        message.push_str("; it said: ");
        message.push_str(words);
    }
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        push_backtrace(&mut message, backtrace);
    }
    (kind, message)
}

fn push_backtrace(message: &mut String, backtrace: &WasmBacktrace) {
    for (index, frame) in backtrace.frames().iter().take(FRAMES).enumerate() {
        message.push_str(if index == 0 { "; in " } else { " < " });
        match frame.func_name() {
            // {:#} leaves out the hash.
            Some(name) => message.push_str(&format!("{:#}", rustc_demangle::demangle(name))),
            None => message.push_str(&format!("function {}", frame.func_index())),
        }
    }
    let left = backtrace.frames().len().saturating_sub(FRAMES);
    if left > 0 {
        message.push_str(&format!(" < {left} more"));
    }
}
