//! Where heads come from in WebAssembly: host calls that write into a scratch buffer of ours.
//!
//! Each getter appends to the scratch and hands out what it got; nothing in it moves until the next hook call starts,
//! so the slices are as good as the `Request` that they are borrowed from. A usual request costs no allocation.

use std::cell::UnsafeCell;

use crate::abi::{op, target, what};
use crate::Reply;

/// A header value of common size fits without asking twice.
const CHUNK: usize = 4096;

// docs/abi.md has the contract of each. The host checks pointers and lengths against our memory.
#[link(wasm_import_module = "mirrord")]
extern "C" {
    fn get(what: i32, buf: *mut u8, cap: usize) -> i32;
    fn get_header(name: *const u8, name_len: usize, nth: usize, buf: *mut u8, cap: usize) -> i32;
    fn get_header_at(index: i32, buf: *mut u8, cap: usize) -> i64;
    fn get_status() -> i32;
    fn edit_header(target: i32, op: i32, name: *const u8, name_len: usize, value: *const u8, value_len: usize);
    fn get_property(name: *const u8, name_len: usize, buf: *mut u8, cap: usize) -> i32;
    fn get_body(offset: usize, buf: *mut u8, cap: usize) -> i32;
    #[link_name = "set_path"]
    fn host_set_path(path: *const u8, len: usize);
    #[link_name = "replace_body"]
    fn host_replace_body(bytes: *const u8, len: usize);
    #[link_name = "watch_response"]
    fn host_watch_response(token: u64);
    #[link_name = "watch_request_body"]
    fn host_watch_request_body(window: usize);
    #[link_name = "watch_response_body"]
    fn host_watch_response_body(window: usize);
    #[link_name = "watch_end"]
    fn host_watch_end();
    #[link_name = "set_token"]
    fn host_set_token(token: u64);
    #[link_name = "delay"]
    fn host_delay(milliseconds: u32);
    #[link_name = "abort"]
    fn host_abort();
    #[link_name = "get_state"]
    fn host_get_state(key: *const u8, key_len: usize, buf: *mut u8, cap: usize) -> i32;
    #[link_name = "set_state"]
    fn host_set_state(key: *const u8, key_len: usize, value: *const u8, value_len: usize, ttl: u32);
    #[link_name = "add_state"]
    fn host_add_state(key: *const u8, key_len: usize, delta: i64, ttl: u32) -> i64;
    #[link_name = "remove_state"]
    fn host_remove_state(key: *const u8, key_len: usize);
    #[link_name = "random"]
    fn host_random() -> u64;
    #[link_name = "now"]
    fn host_now() -> i64;
    #[link_name = "count"]
    fn host_count(name: *const u8, name_len: usize, delta: i64);
    #[link_name = "observe"]
    fn host_observe(name: *const u8, name_len: usize, value: i64);
    #[link_name = "respond"]
    fn host_respond(status: i32, body: *const u8, body_len: usize);
    #[link_name = "reason"]
    fn host_reason(text: *const u8, len: usize);
    #[link_name = "log"]
    fn host_log(level: i32, text: *const u8, len: usize);
}

/// Chunks that never move; only the last one has free space, from `used` on.
pub(crate) struct Scratch(UnsafeCell<Inner>);

struct Inner {
    chunks: Vec<Box<[u8]>>,
    used: usize,
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        Scratch(UnsafeCell::new(Inner { chunks: Vec::new(), used: 0 }))
    }

    /// Forgets what the last hook call read.
    pub(crate) fn clear(&mut self) {
        let inner = self.0.get_mut();
        inner.chunks.truncate(1);
        inner.used = 0;
    }

    /// Gives `fill` free space (pointer, capacity) and returns the bytes that it says it has, asking again with more
    /// space when they did not fit. `fill` returns the full length, negative for "not there".
    fn take(&self, mut fill: impl FnMut(*mut u8, usize) -> i64) -> Option<&[u8]> {
        // SAFETY: one thread, and no reference into `Inner` itself outlives a call: what is handed out points into the
        // heap memory of a chunk, at bytes that no later call writes to.
        let inner = unsafe { &mut *self.0.get() };
        let mut room = inner.chunks.last().map_or(0, |chunk| chunk.len() - inner.used);
        if room < CHUNK / 8 {
            room = grow(inner, CHUNK);
        }
        loop {
            let chunk = inner.chunks.last_mut()?;
            // SAFETY: `used` is at most the chunk's length.
            let free = unsafe { chunk.as_mut_ptr().add(inner.used) };
            let len = usize::try_from(fill(free, room)).ok()?;
            if len <= room {
                inner.used += len;
                // SAFETY: the host wrote `len` bytes there; nobody writes there again until `clear`, which takes &mut.
                return Some(unsafe { std::slice::from_raw_parts(free, len) });
            }
            room = grow(inner, len);
        }
    }
}

fn grow(inner: &mut Inner, at_least: usize) -> usize {
    let room = at_least.max(CHUNK);
    inner.chunks.push(vec![0; room].into_boxed_slice());
    inner.used = 0;
    room
}

/// Source of the message that the running hook is about.
pub(crate) struct Source(pub(crate) &'static Scratch);

impl Source {
    pub(crate) fn get(&self, what: i32) -> Option<&[u8]> {
        // SAFETY: pointer and capacity name memory that is ours to write.
        self.0.take(|buf, cap| unsafe { get(what, buf, cap) }.into())
    }

    pub(crate) fn header(&self, name: &str, nth: usize) -> Option<&[u8]> {
        // SAFETY: as above; the name is borrowed for the call.
        self.0.take(|buf, cap| unsafe { get_header(name.as_ptr(), name.len(), nth, buf, cap) }.into())
    }

    pub(crate) fn header_at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = i32::try_from(index).ok()?;
        let mut name_len = 0;
        let both = self.0.take(|buf, cap| {
            // SAFETY: as above.
            let lengths = unsafe { get_header_at(index, buf, cap) };
            if lengths < 0 {
                return lengths;
            }
            name_len = (lengths >> 32) as usize;
            (lengths >> 32) + (lengths & 0xffff_ffff)
        })?;
        both.split_at_checked(name_len)
    }

    pub(crate) fn status(&self) -> u16 {
        // SAFETY: no pointers.
        u16::try_from(unsafe { get_status() }).unwrap_or_default()
    }

    pub(crate) fn edit(&mut self, target: i32, op: i32, name: &str, value: &[u8]) {
        // SAFETY: both are borrowed for the call.
        unsafe { edit_header(target, op, name.as_ptr(), name.len(), value.as_ptr(), value.len()) }
    }

    pub(crate) fn watch_response(&mut self, token: u64) {
        // SAFETY: no pointers.
        unsafe { host_watch_response(token) }
    }

    pub(crate) fn reason(&mut self, text: &str) {
        reason(text);
    }

    /// Not borrowed from here: it lies in the scratch, which lives as long as the module, and moves only when the next hook
    /// starts.
    pub(crate) fn body(&self) -> &'static [u8] {
        // SAFETY: pointer and capacity name memory that is ours to write.
        self.0.take(|buf, cap| unsafe { get_body(0, buf, cap) }.into()).unwrap_or_default()
    }

    pub(crate) fn set_path(&mut self, path: &[u8]) {
        // SAFETY: the path is borrowed for the call.
        unsafe { host_set_path(path.as_ptr(), path.len()) }
    }

    pub(crate) fn replace_body(&mut self, bytes: &[u8]) {
        // SAFETY: the bytes are borrowed for the call.
        unsafe { host_replace_body(bytes.as_ptr(), bytes.len()) }
    }

    pub(crate) fn watch_request_body(&mut self, window: usize) {
        // SAFETY: no pointers.
        unsafe { host_watch_request_body(window) }
    }

    pub(crate) fn watch_response_body(&mut self, window: usize) {
        // SAFETY: no pointers.
        unsafe { host_watch_response_body(window) }
    }

    pub(crate) fn watch_end(&mut self) {
        // SAFETY: no pointers.
        unsafe { host_watch_end() }
    }

    pub(crate) fn set_token(&mut self, token: u64) {
        // SAFETY: no pointers.
        unsafe { host_set_token(token) }
    }

    pub(crate) fn delay(&mut self, milliseconds: u32) {
        // SAFETY: no pointers.
        unsafe { host_delay(milliseconds) }
    }

    pub(crate) fn abort(&mut self) {
        // SAFETY: no pointers.
        unsafe { host_abort() }
    }

    pub(crate) fn respond(&mut self, reply: &Reply) {
        // SAFETY: the body is borrowed for the call.
        unsafe { host_respond(reply.status.into(), reply.body.as_ptr(), reply.body.len()) }
        for (name, value) in &reply.headers {
            self.edit(target::RESPONSE, op::APPEND, name, value);
        }
    }
}

/// Memory of the host's, copied into a vector of ours.
fn fetch(mut fill: impl FnMut(*mut u8, usize) -> i32) -> Option<Vec<u8>> {
    let mut out = vec![0; 256];
    loop {
        let len = usize::try_from(fill(out.as_mut_ptr(), out.len())).ok()?;
        if len <= out.len() {
            out.truncate(len);
            return Some(out);
        }
        out.resize(len, 0);
    }
}

pub(crate) fn property(name: &str) -> Option<Vec<u8>> {
    // SAFETY: pointer and capacity name memory that is ours to write; the name is borrowed for the call.
    fetch(|buf, cap| unsafe { get_property(name.as_ptr(), name.len(), buf, cap) })
}

pub(crate) fn get_state(key: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: as above.
    fetch(|buf, cap| unsafe { host_get_state(key.as_ptr(), key.len(), buf, cap) })
}

pub(crate) fn set_state(key: &[u8], value: &[u8], ttl: u32) {
    // SAFETY: both are borrowed for the call.
    unsafe { host_set_state(key.as_ptr(), key.len(), value.as_ptr(), value.len(), ttl) }
}

pub(crate) fn add_state(key: &[u8], delta: i64, ttl: u32) -> i64 {
    // SAFETY: the key is borrowed for the call.
    unsafe { host_add_state(key.as_ptr(), key.len(), delta, ttl) }
}

pub(crate) fn remove_state(key: &[u8]) {
    // SAFETY: the key is borrowed for the call.
    unsafe { host_remove_state(key.as_ptr(), key.len()) }
}

pub(crate) fn random() -> u64 {
    // SAFETY: no pointers.
    unsafe { host_random() }
}

pub(crate) fn now_ms() -> u64 {
    // SAFETY: no pointers.
    u64::try_from(unsafe { host_now() }).unwrap_or_default()
}

pub(crate) fn count(name: &str, delta: i64) {
    // SAFETY: the name is borrowed for the call.
    unsafe { host_count(name.as_ptr(), name.len(), delta) }
}

pub(crate) fn observe(name: &str, value: i64) {
    // SAFETY: the name is borrowed for the call.
    unsafe { host_observe(name.as_ptr(), name.len(), value) }
}

pub(crate) fn config(scratch: &Scratch) -> &[u8] {
    // SAFETY: pointer and capacity name memory that is ours to write.
    scratch.take(|buf, cap| unsafe { get(what::CONFIG, buf, cap) }.into()).unwrap_or_default()
}

pub(crate) fn reason(text: &str) {
    // SAFETY: the text is borrowed for the call.
    unsafe { host_reason(text.as_ptr(), text.len()) }
}

pub(crate) fn log(level: i32, text: &str) {
    // SAFETY: the text is borrowed for the call.
    unsafe { host_log(level, text.as_ptr(), text.len()) }
}
