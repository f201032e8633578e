//! The Wasm host: compiles, caches, instantiates, limits and calls filters. The only place that knows wasmtime.
//!
//! ```text
//! bytes ─Engine::load→ Module ─configure→ Filter ┐
//!                                        Filter ├─Chain::new→ Chain (one a worker thread) ─on_request→ Outcome
//!                                        Filter ┘                                        ─on_body, on_response…
//! ```
//!
//! Bytes come from a session, so nothing in them is trusted: a module may import its ABI's functions and nothing else,
//! and each call has a deadline and a memory limit. Whatever goes wrong inside a call becomes a [`Fault`] and what the
//! filter's [`Policy`] says, by default that the request passes; the next one meets a fresh instance.

#![deny(unsafe_code)]

mod cache;
mod chain;
mod deadline;
pub mod declared;
mod engine;
mod error;
mod filter;
mod followers;
mod health;
mod link;
mod log;
#[allow(unsafe_code)]
mod memory;
mod message;
mod module;
mod own;
mod proxy_wasm;
mod random;
mod said;
mod series;
mod shared;
mod ticker;
mod wasi;

pub use chain::{Background, Chain, Pending, Step};
pub use engine::{Engine, EngineSettings};
pub use error::{Fault, FaultKind, FilterError};
pub use filter::{Filter, Isolation, Limits, Policy, Settings};
pub use followers::Followers;
pub use link::{Exchange, Side, Wants};
pub use log::{LogLevel, LogSink};
pub use message::{
    BodyDecision, ConnectionDecision, ConnectionParts, Edit, Field, LocalResponse, Outcome, RequestParts, ResponseDecision, ResponseParts,
    TrailersDecision, Verdict, Version,
};
pub use mirrord_filter_sdk::abi;
pub use module::Module;
pub use proxy_wasm::{Callout, CalloutId, CalloutResponse, MAX_CALLOUT_RESPONSE, Upstream};
pub use said::{Failed, Said};
pub use series::{BUCKETS, Metric, MetricValue};
