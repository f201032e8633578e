//! What a store holds: the message that the running hook is about, what the guest has said about it so far, limits.
//!
//! The head is copied into one buffer that is used again for the next request: 0.7 KiB cost some 30 ns, and no pointer
//! of the gateway's ever lies in a store.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use wasmtime::{Memory, ResourceLimiter};

use crate::deadline::Deadline;
use crate::filter::Configured;
use crate::{Edit, Field, LogLevel, RequestParts, ResponseParts, Version};

/// Which hook runs; decides which host calls make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Configure,
    Request,
    Response,
}

pub(crate) struct State {
    pub(crate) filter: Arc<Configured>,
    /// The guest's exported memory; none while a start function runs.
    pub(crate) memory: Option<Memory>,
    pub(crate) hook: Hook,
    pub(crate) head: Head,
    pub(crate) said: Said,
    pub(crate) limiter: Limiter,
    pub(crate) deadline: Deadline,
}

impl State {
    pub(crate) fn new(filter: Arc<Configured>) -> Self {
        let limiter = Limiter { memory: filter.limits.memory, table_elements: filter.limits.table_elements, refused: false };
        State {
            filter,
            memory: None,
            hook: Hook::Configure,
            head: Head::default(),
            said: Said::default(),
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

/// What the guest said during one hook call.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) request_edits: Vec<Edit>,
    pub(crate) response_edits: Vec<Edit>,
    pub(crate) edit_bytes: usize,
    pub(crate) token: Option<u64>,
    pub(crate) answer: Option<(u16, Vec<u8>)>,
    pub(crate) reason: Option<Arc<str>>,
    /// Its last line at level error.
    pub(crate) last_words: Option<String>,
}

impl Said {
    fn clear(&mut self) {
        self.request_edits.clear();
        self.response_edits.clear();
        self.edit_bytes = 0;
        self.token = None;
        self.answer = None;
        self.reason = None;
        self.last_words = None;
    }
}

/// A copy of a request's or a response's head.
#[derive(Default)]
pub(crate) struct Head {
    /// Method, path, then each name followed by its value.
    bytes: Vec<u8>,
    method: Range<usize>,
    path: Range<usize>,
    fields: Vec<Span>,
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    pub(crate) version: Option<Version>,
    pub(crate) status: Option<u16>,
}

#[derive(Clone, Copy)]
struct Span {
    name: usize,
    value: usize,
    end: usize,
}

impl Head {
    pub(crate) fn load_request(&mut self, parts: &RequestParts<'_>) {
        self.bytes.clear();
        self.method = self.push(parts.method);
        self.path = self.push(parts.path);
        self.load_fields(parts.headers);
        self.addresses = Some((parts.client, parts.destination));
        self.version = Some(parts.version);
        self.status = None;
    }

    pub(crate) fn load_response(&mut self, parts: &ResponseParts<'_>) {
        self.bytes.clear();
        self.method = 0..0;
        self.path = 0..0;
        self.load_fields(parts.headers);
        self.addresses = None;
        self.version = None;
        self.status = Some(parts.status);
    }

    pub(crate) fn method(&self) -> &[u8] {
        &self.bytes[self.method.clone()]
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.bytes[self.path.clone()]
    }

    /// The nth header of that name.
    pub(crate) fn header(&self, name: &[u8], nth: usize) -> Option<&[u8]> {
        let named = |span: &&Span| span.value - span.name == name.len() && self.bytes[span.name..span.value].eq_ignore_ascii_case(name);
        let span = self.fields.iter().filter(named).nth(nth)?;
        Some(&self.bytes[span.value..span.end])
    }

    /// Name and value, one after the other, and the name's length.
    pub(crate) fn header_at(&self, index: usize) -> Option<(&[u8], usize)> {
        let span = self.fields.get(index)?;
        Some((&self.bytes[span.name..span.end], span.value - span.name))
    }

    fn load_fields(&mut self, headers: &[Field<'_>]) {
        self.fields.clear();
        self.fields.reserve(headers.len());
        for field in headers {
            let (name, value) = (self.push(field.name), self.push(field.value));
            self.fields.push(Span { name: name.start, value: value.start, end: value.end });
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// Says no to growth beyond the limits, and remembers that it did: the trap that follows is then no riddle.
pub(crate) struct Limiter {
    memory: usize,
    table_elements: usize,
    pub(crate) refused: bool,
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
