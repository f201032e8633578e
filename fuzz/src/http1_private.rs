//! Mounted beside `head`, to which they refer as their sibling.

pub use super::http1::head;

#[path = "../../agent/src/gateway/http1/edit.rs"]
pub mod edit;
#[path = "../../agent/src/gateway/http1/lines.rs"]
pub mod lines;
