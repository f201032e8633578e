//! What is recorded of requests: [`decisions`], the last ones of each worker (`mirrord explain`), and [`exchanges`], each as it
//! passes, for sessions that only look (`mirrord inspect`).
//!
//! ```text
//! worker: steer → Trail → Decisions (a ring) ─── Order::Explain ──► control ─► GET /v1/explain
//!         gateway → Observer → Inspector (a batch) ─ bounded channel ─► POST /v1/inspect
//! ```
//!
//! Nothing of it is shared between workers, and nothing here ever holds up a request: a ring forgets its oldest, a batch that
//! does not fit into its channel is dropped and counted.

pub mod body;
pub mod decisions;
pub mod exchanges;
mod json;
pub mod listening;
pub mod mask;
pub mod names;
mod text;
