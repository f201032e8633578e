//! Log lines. They come out in the agent's log under the filter's name; natively on standard error.
//!
//! A line is cut at 1 KiB and a filter that logs too much is muted for the rest of the second. The log is read by the
//! target's operators: no header values, no bodies, no credentials.

use crate::{abi::level, source};

/// Something is wrong.
pub fn error(text: impl AsRef<str>) {
    source::log(level::ERROR, text.as_ref());
}

/// Something looks wrong.
pub fn warn(text: impl AsRef<str>) {
    source::log(level::WARN, text.as_ref());
}

/// Worth knowing.
pub fn info(text: impl AsRef<str>) {
    source::log(level::INFO, text.as_ref());
}

/// For the filter's author.
pub fn debug(text: impl AsRef<str>) {
    source::log(level::DEBUG, text.as_ref());
}
