//! What [`crate::filter!`] exports, as ordinary functions. Not for direct use.

use std::cell::UnsafeCell;

use crate::abi::{level, verdict, what};
use crate::source::{self, Scratch, Source};
use crate::{Body, Connection, Filter, Request, Response, Verdict};

/// The one filter of a module instance and the scratch memory of its calls.
pub struct Slot<F> {
    filter: UnsafeCell<Option<F>>,
    scratch: UnsafeCell<Scratch>,
}

// SAFETY: a WebAssembly instance has one thread, and the host never calls into it while a call runs.
unsafe impl<F> Sync for Slot<F> {}

impl<F: Filter> Slot<F> {
    /// Empty until `configure`.
    #[allow(clippy::new_without_default, reason = "used in a static only")]
    pub const fn new() -> Self {
        Slot { filter: UnsafeCell::new(None), scratch: UnsafeCell::new(Scratch::new()) }
    }

    /// `mirrord_configure`.
    pub fn configure(&'static self) -> i32 {
        // The trap that ends a panic has no message of its own.
        std::panic::set_hook(Box::new(|info| source::log(level::ERROR, &info.to_string())));
        let scratch = self.fresh_scratch();
        match F::from_config(source::config(scratch)) {
            Ok(filter) => {
                // SAFETY: one thread, and no other reference to the filter is alive (see Sync).
                unsafe { *self.filter.get() = Some(filter) };
                0
            }
            Err(why) => {
                source::reason(&why);
                1
            }
        }
    }

    /// `mirrord_on_request`.
    pub fn on_request(&'static self) -> i32 {
        let mut request = Request::new(Source(self.fresh_scratch()), 0);
        let verdict = self.filter().on_request(&mut request);
        self.say(verdict)
    }

    /// `mirrord_on_request_body`.
    pub fn on_request_body(&'static self, token: u64, end: bool) -> i32 {
        let source = Source(self.fresh_scratch());
        // The head is there as long as there is no verdict.
        if source.get(what::METHOD).is_none() {
            self.filter().on_request_body(&mut Body::new(source, token, end));
            return verdict::PASS;
        }
        let mut request = Request::new(source, token);
        let verdict = self.filter().decide_by_body(&mut request, Source(self.scratch()).body(), end);
        self.say(verdict)
    }

    /// `mirrord_on_response`.
    pub fn on_response(&'static self, token: u64) {
        let mut response = Response::new(Source(self.fresh_scratch()), token);
        self.filter().on_response(&mut response);
    }

    /// `mirrord_on_response_body`.
    pub fn on_response_body(&'static self, token: u64, end: bool) {
        let source = Source(self.fresh_scratch());
        self.filter().on_response_body(&mut Body::new(source, token, end));
    }

    /// `mirrord_on_end`.
    pub fn on_end(&'static self, token: u64) {
        self.fresh_scratch();
        self.filter().on_end(token);
    }

    /// `mirrord_on_connection`.
    pub fn on_connection(&'static self) -> i32 {
        let mut connection = Connection::new(Source(self.fresh_scratch()));
        let verdict = self.filter().on_connection(&mut connection);
        self.say(verdict)
    }

    fn say(&'static self, verdict: Verdict) -> i32 {
        match verdict {
            Verdict::Pass => verdict::PASS,
            Verdict::Steal => verdict::STEAL,
            Verdict::Mirror => verdict::MIRROR,
            Verdict::StealAndMirror => verdict::STEAL_AND_MIRROR,
            Verdict::Abort => verdict::ABORT,
            Verdict::NeedBody => verdict::NEED_BODY,
            Verdict::Respond(reply) => {
                Source(self.scratch()).respond(&reply);
                verdict::RESPOND
            }
        }
    }

    #[allow(clippy::mut_from_ref, reason = "one thread, no re-entry; called once in each exported function")]
    fn filter(&self) -> &mut F {
        // SAFETY: as said at Sync; each exported function takes this reference once.
        match unsafe { &mut *self.filter.get() } {
            Some(filter) => filter,
            // The host configures each instance first.
            None => std::process::abort(),
        }
    }

    fn fresh_scratch(&'static self) -> &'static Scratch {
        // SAFETY: at the start of an exported function nothing borrowed from the scratch is alive: `Request`,
        // `Response` and the config end with the call that made them.
        unsafe { (*self.scratch.get()).clear() };
        self.scratch()
    }

    fn scratch(&'static self) -> &'static Scratch {
        // SAFETY: the only &mut is the one above, which has ended.
        unsafe { &*self.scratch.get() }
    }
}
