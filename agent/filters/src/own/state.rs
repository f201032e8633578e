//! What a store holds: the message that the running hook is about, what the guest has said about it so far, limits.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Memory, ResourceLimiter};

use super::lent::Lent;
use crate::deadline::Deadline;
use crate::filter::Configured;
use crate::random::Random;
use crate::series::Series;
use crate::wasi::WasiHost;
use crate::{Edit, Limits, LogLevel};

/// Which hook runs; decides which host calls make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Configure,
    Request,
    /// With the verdict still open.
    UndecidedBody,
    RequestBody,
    Response,
    ResponseBody,
    End,
    Connection,
}

impl Hook {
    /// A request that is not decided yet: its head can be read, and all can still be said about it.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Hook::Request | Hook::UndecidedBody)
    }
}

pub(crate) struct State {
    pub(crate) filter: Arc<Configured>,
    /// The guest's exported memory; none while a start function runs.
    pub(crate) memory: Option<Memory>,
    pub(crate) hook: Hook,
    /// The message that it is about.
    pub(crate) lent: Lent,
    pub(crate) said: Said,
    /// The last reason that was given: filters give few, again and again.
    pub(crate) last_reason: Option<Arc<str>>,
    pub(crate) random: Random,
    /// Metrics that this instance has used.
    pub(crate) series: Vec<Arc<Series>>,
    /// What WASI's output has of its next line.
    unfinished: Vec<u8>,
    pub(crate) limiter: Limiter,
    pub(crate) deadline: Deadline,
}

impl State {
    pub(crate) fn new(filter: Arc<Configured>) -> Self {
        let limiter = Limiter::new(&filter.limits);
        State {
            random: filter.next_random(),
            filter,
            memory: None,
            hook: Hook::Configure,
            lent: Lent::default(),
            said: Said::default(),
            last_reason: None,
            series: Vec::new(),
            unfinished: Vec::new(),
            limiter,
            deadline: Deadline::default(),
        }
    }

    pub(crate) fn begin(&mut self, hook: Hook) {
        self.hook = hook;
        self.said.clear();
        self.limiter.refused = false;
    }

    pub(crate) fn log(&mut self, level: LogLevel, text: &[u8]) {
        if level == LogLevel::Error {
            self.said.last_words = Some(crate::log::clean(text, crate::abi::limit::REASON));
        }
        self.filter.log.line(level, text);
    }
}

impl WasiHost for State {
    fn memory(&self) -> Option<Memory> {
        self.memory
    }

    fn line(&mut self, level: LogLevel, text: &[u8]) {
        // A panic's message is the first line of many.
        let first = self.said.last_words.take();
        self.log(level, text);
        self.said.last_words = first.or(self.said.last_words.take());
    }

    fn unfinished_line(&mut self) -> &mut Vec<u8> {
        &mut self.unfinished
    }
}

/// What the guest said during one hook call.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) request_edits: Vec<Edit>,
    pub(crate) response_edits: Vec<Edit>,
    pub(crate) edit_bytes: usize,
    pub(crate) token: Option<u64>,
    pub(crate) watches_response: bool,
    pub(crate) watches_end: bool,
    pub(crate) request_window: Option<usize>,
    pub(crate) response_window: Option<usize>,
    pub(crate) answer: Option<(u16, Vec<u8>)>,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) delay: Option<Duration>,
    pub(crate) replaced: Option<Vec<u8>>,
    pub(crate) aborts: bool,
    pub(crate) reason: Option<Arc<str>>,
    /// Its last line at level error.
    pub(crate) last_words: Option<String>,
    /// It said any of the above but the last.
    pub(crate) something: bool,
}

impl Said {
    fn clear(&mut self) {
        if self.something || self.last_words.is_some() {
            *self = Said::default();
        }
    }
}

/// Says no to growth beyond the limits, and remembers that it did: the trap that follows is then no riddle.
pub(crate) struct Limiter {
    memory: usize,
    table_elements: usize,
    pub(crate) refused: bool,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Limiter { memory: limits.memory, table_elements: limits.table_elements, refused: false }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.refused |= desired > self.memory;
        Ok(desired <= self.memory)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.refused |= desired > self.table_elements;
        Ok(desired <= self.table_elements)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        4
    }

    fn memories(&self) -> usize {
        1
    }
}
