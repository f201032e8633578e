//! HTTP/1, relayed as the bytes that came.

pub mod framing;
pub mod head;
pub mod relay;

mod downward;
mod edit;
mod held;
mod lines;
mod passage;
mod route;
mod special;
mod upward;

#[cfg(test)]
mod tests;

/// For [`head::response`]: nobody looks at the fields.
pub(super) const NO_VIEW: Option<fn(u16, &[mirrord_filters::Field<'_>])> = None;
