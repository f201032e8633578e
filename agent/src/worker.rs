//! A worker: an OS thread that lives in the target's network namespace, with a runtime, listeners, filter instances and
//! delivery connections of its own. Nothing is shared between workers on the request path.
//!
//! ```text
//! control thread --Order--> worker        (tables, sessions, delivery connections; each is acknowledged)
//! ```

mod ask;
mod background;
mod follow;
mod latency;
mod looking;
mod passed;
mod reach;
pub mod room;
mod table;
mod thread;
mod tied;

pub use latency::EVERY as MEASURED_EVERY;
pub use table::Worker;
pub use thread::{Handle, Order, StartError, start};
