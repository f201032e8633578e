//! What goes wrong with filters on this machine, in the user's words.

use thiserror::Error;

/// What is wrong, and the next step.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    help: String,
    is_usage: bool,
}

impl Failure {
    pub fn new(what: impl ToString, help: impl ToString) -> Self {
        Self { what: what.to_string(), help: help.to_string(), is_usage: false }
    }

    /// Something that the user wrote on the command line.
    pub fn usage(what: impl ToString, help: impl ToString) -> Self {
        Self { is_usage: true, ..Self::new(what, help) }
    }

    /// An error that says its next step behind a semicolon.
    pub fn of(error: impl ToString) -> Self {
        let error = error.to_string();
        // Imports have their hint in brackets.
        if let Some((what, hint)) = error.strip_suffix(')').and_then(|text| text.split_once(" (")) {
            return Self::new(what, hint);
        }
        match error.rsplit_once("; ") {
            Some((what, help)) => Self::new(what, help),
            None => Self::new(error, ""),
        }
    }

    pub fn help(&self) -> &str {
        &self.help
    }

    /// 2 for what the user wrote, 1 for all else.
    pub fn status(&self) -> u8 {
        if self.is_usage { 2 } else { 1 }
    }
}
