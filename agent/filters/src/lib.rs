//! The Wasm host: compiles, caches, instantiates, limits and calls filters. The only place that knows wasmtime.
//!
//! ```text
//! bytes ─Engine::load→ Module ─configure→ Filter ─instance→ Instance (one a worker thread)
//!                                                             on_request(head) → Decision
//! ```
//!
//! Bytes come from a session, so nothing in them is trusted: a module may import the ABI's functions and nothing else,
//! and each call has a deadline and a memory limit. Whatever goes wrong inside a call becomes [`Verdict::Pass`] with a
//! [`Fault`]: the request goes to the pod, and the next one meets a fresh instance.

#![deny(unsafe_code)]

mod cache;
mod deadline;
mod engine;
mod error;
mod filter;
mod health;
mod host;
mod instance;
mod log;
mod message;
mod module;
mod state;
mod ticker;

pub use engine::{Engine, EngineSettings};
pub use error::{Fault, FaultKind, FilterError};
pub use filter::{Filter, Limits};
pub use instance::Instance;
pub use log::{LogLevel, LogSink};
pub use message::{Decision, Edit, Field, LocalResponse, RequestParts, ResponseDecision, ResponseParts, Verdict, Version};
pub use mirrord_filter_sdk::abi;
pub use module::Module;
