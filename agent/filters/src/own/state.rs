//! What a store holds: the message that the running hook is about, what the guest has said about it so far, limits.
//!
//! The head is copied into one buffer that is used again for the next request: 0.7 KiB cost some 30 ns, and no pointer
//! of the gateway's ever lies in a store.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Memory, ResourceLimiter};

use crate::deadline::Deadline;
use crate::filter::Configured;
use crate::random::Random;
use crate::series::Series;
use crate::{ConnectionParts, Edit, Field, LogLevel, RequestParts, ResponseParts, Version};

/// A body's window is kept up to this size from one call to the next.
const KEPT_BODY: usize = 64 << 10;

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
    pub(crate) head: Head,
    /// The piece that a body hook is about.
    pub(crate) body: Vec<u8>,
    pub(crate) said: Said,
    /// The last reason that was given: filters give few, again and again.
    pub(crate) last_reason: Option<Arc<str>>,
    pub(crate) random: Random,
    /// Metrics that this instance has used.
    pub(crate) series: Vec<Arc<Series>>,
    pub(crate) limiter: Limiter,
    pub(crate) deadline: Deadline,
}

impl State {
    pub(crate) fn new(filter: Arc<Configured>) -> Self {
        let limiter = Limiter { memory: filter.limits.memory, table_elements: filter.limits.table_elements, refused: false };
        State {
            random: filter.next_random(),
            filter,
            memory: None,
            hook: Hook::Configure,
            head: Head::default(),
            body: Vec::new(),
            said: Said::default(),
            last_reason: None,
            series: Vec::new(),
            limiter,
            deadline: Deadline::default(),
        }
    }

    pub(crate) fn begin(&mut self, hook: Hook) {
        self.hook = hook;
        self.said.clear();
        self.limiter.refused = false;
    }

    /// Shows the hook a piece of a body.
    pub(crate) fn load_body(&mut self, body: &[u8]) {
        self.body.clear();
        self.body.extend_from_slice(body);
    }

    /// The hook has returned: large pieces are not kept.
    pub(crate) fn unload_body(&mut self) {
        self.body.clear();
        self.body.shrink_to(KEPT_BODY);
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

/// A copy of a request's or a response's head, or of what is known of a connection.
#[derive(Default)]
pub(crate) struct Head {
    /// Method, path, then each name followed by its value.
    bytes: Vec<u8>,
    method: Range<usize>,
    path: Range<usize>,
    /// Of a connection: server's name, protocols, first bytes.
    connection: Option<(Option<Range<usize>>, Range<usize>, Range<usize>)>,
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
        self.connection = None;
    }

    pub(crate) fn load_response(&mut self, parts: &ResponseParts<'_>) {
        self.bytes.clear();
        self.method = 0..0;
        self.path = 0..0;
        self.load_fields(parts.headers);
        self.addresses = None;
        self.version = None;
        self.status = Some(parts.status);
        self.connection = None;
    }

    pub(crate) fn load_connection(&mut self, parts: &ConnectionParts<'_>) {
        self.bytes.clear();
        self.fields.clear();
        (self.method, self.path) = (0..0, 0..0);
        let sni = parts.sni.map(|sni| self.push(sni));
        let start = self.bytes.len();
        for (index, protocol) in parts.alpn.iter().enumerate() {
            if index > 0 {
                self.bytes.push(b',');
            }
            self.bytes.extend_from_slice(protocol);
        }
        let alpn = start..self.bytes.len();
        self.connection = Some((sni, alpn, self.push(parts.first_bytes)));
        self.addresses = Some((parts.client, parts.destination));
        self.version = None;
        self.status = None;
    }

    pub(crate) fn sni(&self) -> Option<&[u8]> {
        let (sni, ..) = self.connection.as_ref()?;
        Some(&self.bytes[sni.clone()?])
    }

    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.connection.as_ref().map(|(_, alpn, _)| &self.bytes[alpn.clone()])
    }

    pub(crate) fn first_bytes(&self) -> Option<&[u8]> {
        self.connection.as_ref().map(|(.., first)| &self.bytes[first.clone()])
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
