//! A proxy-wasm filter as a link of a chain, on one thread: which callback comes when, and what the guest's answers mean.
//!
//! ```text
//!   on_request ──► context created, request headers ──Continue──► decided ──► body and response hooks ──► done, log, delete
//!                        │ Pause                          ▲
//!                        ├─ callouts under way: waits ────┤ (callout's response, tick or queue lets it go on)
//!                        └─ a body follows: needs it ─────┘ (request body hook, whole body or the first MiB)
//! ```
//!
//! After the verdict a guest may keep back parts of a body until the body ends, and replace them; heads are gone by then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Waiting, Poll};
use std::time::{Duration, Instant};

use super::Plugin;
use super::callout::{Callout, CalloutResponse};
use super::context::Context;
use super::host::CallResponse;
use super::shared::Mailbox;
use super::vm::Vm;
use crate::abi::limit;
use crate::filter::Configured;
use crate::link::{Decision, Exchange, Link, LinkBody, LinkResponse, LinkStep, Side, Wants};
use crate::ticker::Calls;
use crate::{Edit, Fault, FaultKind, Field, Isolation, LogLevel, RequestParts, ResponseParts, Verdict, ticker};

/// For how long a guest may hold an undecided request.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Items of queues that a guest hears of before others get their turn.
const QUEUE_BURST: usize = 64;
/// Guests that are kept for their exchanges where each request has its own.
const MAX_GUESTS: usize = 256;
/// How much of a body a guest sees at once, unless it keeps it back.
const WINDOW: usize = 64 << 10;

pub(crate) struct Instance {
    filter: Arc<Configured>,
    plugin: Arc<Plugin>,
    call_ticks: u64,
    calls: Calls,
    mailbox: Arc<Mailbox>,
    /// Numbers the guests: exchanges of one that was dropped are nobody's.
    generation: u16,
    vm: Option<Box<Vm>>,
    /// Where each request has a guest of its own: those whose exchange is still under way.
    older: HashMap<u16, Box<Vm>>,
    /// Its ticks and queues are looked after: the guest runs without a request too.
    awake: bool,
}

impl Instance {
    pub(crate) fn new(filter: Arc<Configured>, plugin: Arc<Plugin>) -> Self {
        let call_ticks = ticker::ticks(filter.limits.call);
        let calls = plugin.guest.engine.inner.ticker.calls();
        let older = HashMap::new();
        Instance { filter, plugin, call_ticks, calls, mailbox: Arc::default(), generation: 0, vm: None, older, awake: false }
    }

    /// Runs something on the newest guest, started first if need be.
    fn with<T>(&mut self, act: impl FnOnce(&mut Vm, u16) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.vm.is_none() {
            match self.calls.during(|| Vm::start(&self.filter, &self.plugin, &self.mailbox, self.filter.start_ticks())) {
                Ok(vm) => self.vm = Some(Box::new(vm)),
                Err(failure) => return Err(failure.into_fault(&self.filter)),
            }
        }
        self.with_guest(self.generation, act).unwrap_or_else(|| Err(self.gone()))
    }

    /// Runs something on a guest that is there. After a fault it is dropped.
    fn with_guest<T>(&mut self, generation: u16, act: impl FnOnce(&mut Vm, u16) -> Result<T, Fault>) -> Option<Result<T, Fault>> {
        let vm = if generation == self.generation { self.vm.as_mut() } else { self.older.get_mut(&generation) }?;
        let result = self.calls.during(|| {
            vm.arm(self.call_ticks);
            act(vm, generation)
        });
        vm.wake_resumed();
        if result.is_err() {
            let gone = if generation == self.generation { self.vm.take() } else { self.older.remove(&generation) };
            // They wait for a guest that is gone, and hear so when they ask.
            gone.into_iter().for_each(|mut vm| vm.host().contexts.wakers().for_each(std::task::Waker::wake));
            if generation == self.generation {
                self.next_generation();
            }
        } else if generation != self.generation && vm.host().contexts.is_empty() {
            self.older.remove(&generation);
        }
        Some(result)
    }

    fn next_generation(&mut self) {
        loop {
            self.generation = self.generation.wrapping_add(1);
            if !self.older.contains_key(&self.generation) {
                break;
            }
        }
    }

    /// Sets the guest aside for the exchange that it has, so that the next request gets another one.
    fn retire(&mut self) {
        let Some(mut vm) = self.vm.take_if(|vm| vm.is_used()) else { return };
        if !vm.host().contexts.is_empty() {
            self.older.insert(self.generation, vm);
        }
        self.next_generation();
    }

    /// An exchange of a guest that is there: the guest, the exchange's number and place.
    fn place(&mut self, exchange: Exchange) -> Option<(u16, u32, usize)> {
        let (generation, place, id) = unpack(exchange);
        let vm = if generation == self.generation { self.vm.as_mut() } else { self.older.get_mut(&generation) }?;
        let context = vm.host().contexts.get(place)?;
        (context.id == id).then_some((generation, id, place))
    }

    fn context(&mut self, generation: u16, place: usize) -> Option<&mut Context> {
        let vm = if generation == self.generation { self.vm.as_mut() } else { self.older.get_mut(&generation) }?;
        vm.host().contexts.get(place)
    }

    /// Its guest failed in another request.
    fn gone(&self) -> Fault {
        self.filter.fault(FaultKind::Trap, "it failed in another request while this one was held")
    }

    fn begin(vm: &mut Vm, generation: u16, request: &RequestParts<'_>) -> Result<LinkStep, Fault> {
        let Some((id, place)) = vm.open() else {
            return Ok(LinkStep::Failed(
                vm.host().filter.fault(FaultKind::Memory, "it is asked about 4096 requests at once, which is the limit"),
            ));
        };
        let count = {
            let Some(context) = vm.host().contexts.get(place) else { return Ok(LinkStep::Pass) };
            context.load_request(id, request);
            context.request.headers.len()
        };
        vm.create(place, id)?;
        let paused = vm.headers(Side::Request, place, id, count, request.end)?;
        settle_after(vm, generation, place, paused)
    }
}

/// Ends an undecided exchange that the guest holds for too long; the guest itself goes on.
fn give_up(vm: &mut Vm, place: usize, id: u32, kind: FaultKind, message: &str) -> Result<LinkStep, Fault> {
    vm.finish(place, id)?;
    Ok(LinkStep::Failed(vm.host().filter.fault(kind, message)))
}

/// The guest has answered a request hook.
fn settle_after(vm: &mut Vm, generation: u16, place: usize, paused: bool) -> Result<LinkStep, Fault> {
    if let Some(context) = vm.host().contexts.get(place) {
        context.request.paused = paused;
        context.request.body_open &= paused;
    }
    settle(vm, generation, place)
}

/// What an undecided exchange has come to.
fn settle(vm: &mut Vm, generation: u16, place: usize) -> Result<LinkStep, Fault> {
    let host = vm.host();
    let Some(context) = host.contexts.get(place) else { return Ok(LinkStep::Pass) };
    let exchange = pack(generation, place, context.id);
    let answer = context.said.response.take().map(Verdict::Respond).or(context.said.close.then_some(Verdict::Abort));
    if answer.is_none() && context.request.paused {
        context.held_since.get_or_insert_with(Instant::now);
        return match (context.callouts, context.request.seen, context.request.ended) {
            (0, 0, false) => Ok(LinkStep::NeedsBody(exchange, limit::BODY_WINDOW)),
            (0, _, false) => {
                let id = context.id;
                give_up(
                    vm,
                    place,
                    id,
                    FaultKind::BadCall,
                    "it holds a request whose body is longer than 1 MiB, the most that is kept for it",
                )
            }
            _ => Ok(LinkStep::Waits(exchange)),
        };
    }
    context.undecided = false;
    let mut decision = Decision {
        verdict: answer.or(context.said.verdict.take()).unwrap_or_default(),
        request_edits: std::mem::take(&mut context.request.headers.edits),
        path: context.request.headers.path.take(),
        response_edits: std::mem::take(&mut context.response.headers.edits),
        reason: context.said.reason.take(),
        ..Decision::default()
    };
    let over = matches!(decision.verdict, Verdict::Respond(_) | Verdict::Abort);
    if over {
        (decision.request_edits, decision.path) = (Vec::new(), None);
    } else {
        context.request.may_change = context.request.headers.unframed || context.request.body_changed;
        decision.wants = wants(context, &host.plugin);
    }
    if over || decision.wants == (Wants { end: true, ..Wants::default() }) {
        decision.wants = Wants::default();
        let id = context.id;
        vm.finish(place, id)?;
    } else {
        decision.exchange = Some(exchange);
    }
    let nothing = decision.exchange.is_none()
        && decision.verdict == Verdict::Pass
        && decision.request_edits.is_empty()
        && decision.response_edits.is_empty()
        && decision.reason.is_none()
        && decision.path.is_none();
    Ok(if nothing { LinkStep::Pass } else { LinkStep::Decided(decision) })
}

/// What the guest has callbacks for: as everywhere in the field, it is shown each body whose callback it has. The Rust and Go SDKs have
/// all of them in every filter, so nobody waits for one that has not said in the head's callback that it changes the body.
fn wants(context: &Context, plugin: &Plugin) -> Wants {
    let hooks = plugin.guest.hooks;
    let half = &context.request;
    let body = match (half.seen, half.ended) {
        // None follows.
        (0, true) => false,
        // It was shown whole.
        (_, true) => half.body_changed || hooks.trailers,
        (_, false) => hooks.request_body || hooks.trailers,
    };
    Wants { request_body: body.then_some(WINDOW), response: hooks.response, response_body: None, trailers: hooks.trailers, end: true }
}

impl Link for Instance {
    /// Also of one that denies when it fails, nobody waits for what only its SDK asked to see: conversations would stand still.
    fn may_change_body(&mut self, exchange: Exchange, side: Side) -> bool {
        let Some((generation, _, place)) = self.place(exchange) else { return false };
        self.context(generation, place).is_some_and(|context| context.half(side).may_change)
    }

    fn warm_up(&mut self) {
        if self.vm.is_none() {
            let started = self.calls.during(|| Vm::start(&self.filter, &self.plugin, &self.mailbox, self.filter.start_ticks()));
            self.vm = started.ok().map(Box::new);
        }
    }

    fn on_request(&mut self, request: &RequestParts<'_>) -> LinkStep {
        if self.filter.isolation == Isolation::Fresh {
            if self.older.len() >= MAX_GUESTS {
                let message = "it has a guest of its own for each of 256 requests under way, which is the limit";
                return LinkStep::Failed(self.filter.fault(FaultKind::Memory, message));
            }
            self.retire();
        }
        self.with(|vm, generation| Self::begin(vm, generation, request)).unwrap_or_else(LinkStep::Failed)
    }

    fn on_undecided_body(&mut self, exchange: Exchange, _: &RequestParts<'_>, body: &[u8], end: bool) -> LinkStep {
        let Some((generation, id, place)) = self.place(exchange) else { return LinkStep::Failed(self.gone()) };
        self.with_guest(generation, |vm, generation| {
            if let Some(context) = vm.host().contexts.get(place) {
                let half = &mut context.request;
                half.body.clear();
                half.body.extend_from_slice(body);
                (half.body_open, half.ended, half.seen, half.size) = (true, end, body.len(), body.len() as u64);
            }
            let paused = vm.body(Side::Request, place, id, body.len(), end)?;
            settle_after(vm, generation, place, paused)
        })
        .map_or(LinkStep::Pass, |step| step.unwrap_or_else(LinkStep::Failed))
    }

    fn poll(&mut self, cx: &mut Waiting<'_>, exchange: Exchange, _: &RequestParts<'_>) -> Poll<LinkStep> {
        let Some((generation, id, place)) = self.place(exchange) else { return Poll::Ready(LinkStep::Failed(self.gone())) };
        let overdue = self.context(generation, place).is_some_and(|context| {
            context.request.paused
                && context.said.response.is_none()
                && !context.said.close
                && context.held_since.is_some_and(|since| since.elapsed() >= MAX_PAUSE)
        });
        let step = self.with_guest(generation, |vm, generation| match overdue {
            true => {
                let message = format!("it paused a request and did not let it go on within {MAX_PAUSE:?}");
                give_up(vm, place, id, FaultKind::Deadline, &message)
            }
            false => settle(vm, generation, place),
        });
        match step {
            None => Poll::Ready(LinkStep::Pass),
            Some(Ok(LinkStep::Waits(_))) => {
                if let Some(context) = self.context(generation, place)
                    && !context.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
                {
                    context.waker = Some(cx.waker().clone());
                }
                // Whoever looks after the ticks knows when it is overdue.
                self.mailbox.wake();
                Poll::Pending
            }
            Some(step) => Poll::Ready(step.unwrap_or_else(LinkStep::Failed)),
        }
    }

    fn on_body(&mut self, exchange: Exchange, side: Side, window: &[u8], end: bool) -> Result<LinkBody, Fault> {
        let Some((generation, id, place)) = self.place(exchange) else { return Ok(LinkBody::default()) };
        self.with_guest(generation, |vm, _| pass_body(vm, place, id, side, window, end)).unwrap_or_else(|| Ok(LinkBody::default()))
    }

    fn on_response(&mut self, exchange: Exchange, response: &ResponseParts<'_>) -> Result<LinkResponse, Fault> {
        let Some((generation, id, place)) = self.place(exchange) else { return Ok(LinkResponse::default()) };
        let hooks = self.plugin.guest.hooks;
        self.with_guest(generation, |vm, _| {
            let count = match vm.host().contexts.get(place) {
                Some(context) => {
                    context.load_response(response);
                    context.response.headers.len()
                }
                None => 0,
            };
            // A pause holds the body back, not the head, which goes on now.
            vm.headers(Side::Response, place, id, count, false)?;
            let Some(context) = vm.host().contexts.get(place) else { return Ok(LinkResponse::default()) };
            context.response.may_change = context.response.headers.unframed;
            Ok(LinkResponse {
                edits: std::mem::take(&mut context.response.headers.edits),
                replace: context.said.response.take(),
                abort: context.said.close,
                reason: context.said.reason.take(),
                response_body: (hooks.response_body || hooks.trailers).then_some(WINDOW),
            })
        })
        .unwrap_or_else(|| Ok(LinkResponse::default()))
    }

    fn on_end(&mut self, exchange: Exchange, _: bool) -> Result<(), Fault> {
        let Some((generation, id, place)) = self.place(exchange) else { return Ok(()) };
        self.with_guest(generation, |vm, _| vm.finish(place, id)).unwrap_or(Ok(()))
    }

    fn on_trailers(&mut self, exchange: Exchange, side: Side, trailers: &[Field<'_>]) -> Result<Vec<Edit>, Fault> {
        let Some((generation, id, place)) = self.place(exchange) else { return Ok(Vec::new()) };
        self.with_guest(generation, |vm, _| {
            let Some(context) = vm.host().contexts.get(place) else { return Ok(Vec::new()) };
            let map = &mut context.half(side).trailers;
            map.push_all(trailers);
            let count = map.len();
            vm.trailers(side, place, id, count)?;
            Ok(vm.host().contexts.get(place).map(|context| std::mem::take(&mut context.half(side).trailers.edits)).unwrap_or_default())
        })
        .unwrap_or_else(|| Ok(Vec::new()))
    }

    fn background(&mut self, cx: &mut Waiting<'_>) -> Result<Option<Duration>, Fault> {
        self.mailbox.wait(cx.waker());
        if !self.awake {
            // Its first ticks do not wait for a request; after a fault they do.
            self.awake = true;
            self.with(|_, _| Ok(()))?;
        }
        if self.vm.is_none() {
            return Ok(None);
        }
        let (hooks, mailbox) = (self.plugin.guest.hooks, self.mailbox.clone());
        self.with(|vm, _| {
            let now = Instant::now();
            if let Some(tick) = vm.host().tick.as_mut().filter(|tick| tick.next <= now) {
                // A late tick is not made up for.
                tick.next = now + tick.period;
                if hooks.tick {
                    vm.tick()?;
                }
            }
            let mut more = hooks.queue;
            for _ in 0..QUEUE_BURST {
                let Some(queue) = mailbox.take() else {
                    more = false;
                    break;
                };
                if hooks.queue {
                    vm.queue_ready(queue)?;
                }
            }
            Ok(if more { Some(Duration::ZERO) } else { vm.next_event() })
        })
        .map(|next| self.older.values_mut().map(|vm| vm.next_event()).chain([next]).flatten().min())
    }

    fn take_callouts(&mut self, link: usize, out: &mut Vec<Callout>) {
        if let Some(vm) = &mut self.vm {
            vm.host().callouts.take(link, self.generation.into(), &self.filter.name, out);
        }
        for (generation, vm) in &mut self.older {
            vm.host().callouts.take(link, (*generation).into(), &self.filter.name, out);
        }
    }

    fn on_callout(&mut self, generation: u32, token: u32, response: Option<CalloutResponse>) -> Result<(), Fault> {
        let Ok(generation) = u16::try_from(generation) else { return Ok(()) };
        self.with_guest(generation, |vm, _| {
            let host = vm.host();
            let Some(id) = host.callouts.ended(token) else { return Ok(()) };
            let place = host.contexts.find(id);
            if let Some(context) = place.and_then(|place| host.contexts.get(place)) {
                context.callouts = context.callouts.saturating_sub(1);
                if context.undecided {
                    // It may wait for its body next.
                    host.resumed.push(id);
                }
            }
            let response = host.call_response.insert(CallResponse::new(response));
            let (headers, body, trailers) = (response.headers.len(), response.body.len(), response.trailers.len());
            let result = vm.http_call_response(token, headers, body, trailers);
            vm.host().call_response = None;
            result
        })
        .unwrap_or(Ok(()))
    }
}

impl Vm {
    /// Says once why a body went on as it came.
    fn tell_of_framing(&mut self) {
        let host = self.host();
        if !host.plugin.told.swap(true, Ordering::Relaxed) {
            let words = "it would change or keep back a body, which went on as it came: a filter that does removes content-length, if \
                         there is one or not, when it is shown the head";
            host.filter.log.line(LogLevel::Warn, words.as_bytes());
        }
    }

    /// Wakes who waits for exchanges that the guest let go on.
    fn wake_resumed(&mut self) {
        let host = self.host();
        while let Some(id) = host.resumed.pop() {
            if let Some(waker) = host.contexts.find(id).and_then(|place| host.contexts.get(place)).and_then(|context| context.waker.take())
            {
                waker.wake();
            }
        }
    }

    /// When the next tick is due, or a request overdue.
    fn next_event(&mut self) -> Option<Duration> {
        let host = self.host();
        let now = Instant::now();
        let mut next = host.tick.map(|tick| tick.next.saturating_duration_since(now));
        for context in host.contexts.held() {
            let Some(since) = context.held_since else { continue };
            let left = (since + MAX_PAUSE).saturating_duration_since(now);
            if left == Duration::ZERO {
                if let Some(waker) = context.waker.take() {
                    waker.wake();
                }
            } else {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        next
    }
}

/// A piece of a body for the guest's hook; what of it, and of what was kept before, goes on.
fn pass_body(vm: &mut Vm, place: usize, id: u32, side: Side, mut window: &[u8], end: bool) -> Result<LinkBody, Fault> {
    let Some(context) = vm.host().contexts.get(place) else { return Ok(LinkBody::default()) };
    let half = context.half(side);
    let mut before = None;
    if half.seen > 0 {
        // The guest has seen this much of it while the exchange was undecided; what it made of that lies ready.
        let seen = window.len().min(half.seen);
        half.seen -= seen;
        if half.body_changed {
            before = Some(if half.seen == 0 { std::mem::take(&mut half.body) } else { Vec::new() });
        } else if half.seen == 0 {
            half.body.clear();
        }
        if half.seen > 0 || (seen == window.len() && (!end || half.ended)) {
            return Ok(LinkBody { replaced: before, abort: false });
        }
        if before.is_none() && seen > 0 && seen < window.len() {
            before = Some(window[..seen].to_vec());
        }
        half.body_changed = false;
        window = &window[seen..];
    }
    let kept = !half.body.is_empty();
    half.body.extend_from_slice(window);
    half.size += window.len() as u64;
    half.ended = end;
    half.body_open = true;
    let size = half.body.len();
    let paused = vm.body(side, place, id, size, end)?;
    let Some(context) = vm.host().contexts.get(place) else { return Ok(LinkBody::default()) };
    // The head has gone: an answer of its own comes too late, and the exchange is reset, so that what it refuses gets no further.
    let abort = context.said.close || context.said.response.take().is_some();
    let half = context.half(side);
    if !half.may_change {
        let would = std::mem::take(&mut half.body_changed) || (paused && !end);
        half.body.clear();
        half.body_open = false;
        if would {
            vm.tell_of_framing();
        }
        return Ok(LinkBody { replaced: None, abort });
    }
    // At its end a body cannot be held any longer, nor beyond the bound.
    half.paused = paused && !end && half.body.len() <= limit::BODY_WINDOW;
    half.body_open = half.paused;
    if half.paused {
        return Ok(LinkBody { replaced: Some(before.unwrap_or_default()), abort });
    }
    let changed = std::mem::take(&mut half.body_changed);
    if !changed && !kept && before.is_none() {
        half.body.clear();
        return Ok(LinkBody { replaced: None, abort });
    }
    let mut out = before.unwrap_or_default();
    out.append(&mut half.body);
    Ok(LinkBody { replaced: Some(out), abort })
}

/// Names an exchange: the guest, the place among its contexts, and the guest's number for it.
fn pack(generation: u16, place: usize, id: u32) -> Exchange {
    Exchange(u64::from(generation) << 48 | (place as u64 & 0xffff) << 32 | u64::from(id))
}

fn unpack(Exchange(packed): Exchange) -> (u16, usize, u32) {
    ((packed >> 48) as u16, (packed >> 32 & 0xffff) as usize, (packed & 0xffff_ffff) as u32)
}
