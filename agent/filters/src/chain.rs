//! A session's filters in order, on one thread: the walk from link to link, here for the gateway and the offline tools
//! alike.
//!
//! ```text
//!   on_request ─link 0─pass─link 1─…─► Decided
//!                 │ needs the body          ▲      then, for links that asked: on_body (request: first link first;
//!                 ▼                         │      response: last link first), on_response, and on_end, or dropping
//!              NeedsBody ──on_request_body──┤      the followers
//!              Waits ──────poll─────────────┘
//! ```
//!
//! A link that fails is answered for by its failure policy; a link that is set aside likewise, without being called.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::filter::Configured;
use crate::followers::{Ended, Follower, Followers};
use crate::link::{Decision, Link, LinkStep, Side, Wants};
use crate::said::{Failed, Said};
use crate::{
    BodyDecision, Callout, CalloutId, CalloutResponse, ConnectionDecision, ConnectionParts, Edit, Fault, Field, Filter, LocalResponse,
    Outcome, Policy, RequestParts, ResponseDecision, ResponseParts, TrailersDecision, Verdict, abi::limit,
};

/// A session's filters on one thread.
pub struct Chain {
    links: Vec<Place>,
    ended: Rc<Ended>,
    /// Each link's time is taken.
    is_timed: bool,
}

struct Place {
    filter: Filter,
    link: Box<dyn Link>,
}

/// What came of looking after the links.
#[derive(Debug, Default)]
pub struct Background {
    /// When to look again, unless woken before.
    pub next: Option<Duration>,
    pub faults: Vec<Fault>,
}

/// How far the walk is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is looked at where it comes, and nearly always it is the large one")]
pub enum Step {
    Decided(Outcome),
    /// Hold the request until [`Pending::window`] bytes of its body have come, or all of it: [`Chain::on_request_body`].
    NeedsBody(Pending),
    /// Hold the request: [`Chain::poll`].
    Waits(Pending),
}

/// A request that a link has not decided yet. Dropping it ends the exchange; [`Chain::skip`] goes on without the link.
#[derive(Debug)]
pub struct Pending(Box<Undecided>);

#[derive(Debug)]
struct Undecided {
    /// Of the links before.
    so_far: Outcome,
    /// The link that is asked, as a follower so that it hears of the end.
    asked: Followers,
    window: usize,
}

impl Pending {
    /// How much of the body the link needs at most.
    #[must_use]
    pub fn window(&self) -> usize {
        self.0.window
    }
}

impl Chain {
    #[must_use]
    pub fn new(filters: Vec<Filter>) -> Self {
        let place = |filter: Filter| Place { link: filter.link(), filter };
        Chain { links: filters.into_iter().map(place).collect(), ended: Rc::default(), is_timed: false }
    }

    /// The filters, in order.
    pub fn filters(&self) -> impl ExactSizeIterator<Item = &Filter> {
        self.links.iter().map(|place| &place.filter)
    }

    /// Whether [`Chain::on_connection`] asks anybody.
    #[must_use]
    pub fn wants_connections(&self) -> bool {
        self.links.iter().any(|place| place.filter.wants_connections())
    }

    /// Makes the instances now (some 30 µs each) instead of at the first request. A failure shows at that request.
    pub fn warm_up(&mut self) {
        self.links.iter_mut().filter(|place| place.filter.inner.health.may_run()).for_each(|place| place.link.warm_up());
    }

    /// Whether each link's time is taken from now on until a verdict: [`Outcome::said`]. Costs a reading of the clock a link.
    #[inline]
    pub fn set_timed(&mut self, is_timed: bool) {
        self.is_timed = is_timed;
    }

    /// Asks the links about a request. Never fails; a link takes no longer than its limit.
    pub fn on_request(&mut self, request: &RequestParts<'_>) -> Step {
        self.end_dropped();
        self.walk(0, Outcome::default(), request)
    }

    /// The undecided link gets the request's body so far, decoded: a whole window or, with `end`, all there is.
    pub fn on_request_body(&mut self, pending: Pending, request: &RequestParts<'_>, body: &[u8], end: bool) -> Step {
        self.end_dropped();
        let Pending(undecided) = pending;
        let Some(&Follower { link, exchange, .. }) = undecided.asked.list.first() else { return Step::Decided(undecided.so_far) };
        let began = self.clock();
        let step = match self.links.get_mut(link) {
            Some(place) => place.ask(|own| own.on_undecided_body(exchange, request, body, end)),
            None => Err(None),
        };
        self.resume(undecided, link, began, step, request)
    }

    /// For links that wait. After `Ready` the `pending` is spent.
    pub fn poll(&mut self, cx: &mut Context<'_>, pending: &mut Pending, request: &RequestParts<'_>) -> Poll<Step> {
        self.end_dropped();
        let Some(&Follower { link, exchange, .. }) = pending.0.asked.list.first() else {
            return Poll::Ready(Step::Decided(std::mem::take(&mut pending.0.so_far)));
        };
        let began = self.clock();
        let step = match self.links.get_mut(link) {
            Some(place) => match place.link.poll(cx, exchange, request) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(step) => place.ask(|_| step),
            },
            None => Err(None),
        };
        let asked = std::mem::replace(&mut pending.0.asked, Followers::new(self.ended.clone()));
        let undecided = Box::new(Undecided { so_far: std::mem::take(&mut pending.0.so_far), asked, window: 0 });
        Poll::Ready(self.resume(undecided, link, began, step, request))
    }

    /// Goes on without the undecided link, for which its failure policy speaks, and asks no further one that would wait.
    pub fn skip(&mut self, pending: Pending, request: &RequestParts<'_>) -> Outcome {
        let mut pending = pending;
        loop {
            let Pending(mut undecided) = pending;
            let Some(asked) = undecided.asked.list.pop() else { return undecided.so_far };
            let link = asked.link;
            self.end(asked);
            let mut so_far = undecided.so_far;
            Said { failed: Some(Failed::Skipped), ..Said::by(link) }.add_to(&mut so_far.said);
            let step = match self.fail(link, &mut so_far, None) {
                true => return so_far,
                false => self.walk(link + 1, so_far, request),
            };
            match step {
                Step::Decided(outcome) => return outcome,
                Step::NeedsBody(next) | Step::Waits(next) => pending = next,
            }
        }
    }

    /// A piece of a body, for the links that follow it: up to [`Followers::window`] bytes, or less with the body's `end`.
    pub fn on_body(&mut self, followers: &mut Followers, side: Side, window: &[u8], end: bool) -> BodyDecision {
        let mut decision = BodyDecision::default();
        for follower in followers.in_order(side) {
            let Some(step) = follower.wants.window(side) else { continue };
            let Some(place) = self.links.get_mut(follower.link) else { continue };
            let input = decision.replaced.take();
            match place.pass_body(follower, side, input.as_deref().unwrap_or(window), step, end) {
                Ok((replaced, abort)) => {
                    decision.replaced = replaced.or(input);
                    decision.abort |= abort;
                }
                Err(fault) => {
                    // What it has seen of this piece goes on as the link before left it.
                    decision.replaced = input;
                    decision.abort |= fault.policy == Policy::Deny;
                    decision.faults.push(fault);
                    follower.failed = true;
                }
            }
            if end {
                match side {
                    Side::Request => follower.wants.request_body = None,
                    Side::Response => follower.wants.response_body = None,
                }
            }
        }
        followers.list.retain(|follower| !follower.failed);
        decision
    }

    /// [`Chain::on_body`] of the response.
    pub fn on_response_body(&mut self, followers: &mut Followers, window: &[u8], end: bool) -> BodyDecision {
        self.on_body(followers, Side::Response, window, end)
    }

    /// The response's head (not of interim ones), last link first. Afterwards [`Followers::window`] tells whether its body
    /// is wanted.
    pub fn on_response(&mut self, followers: &mut Followers, response: &ResponseParts<'_>) -> ResponseDecision {
        let mut decision = ResponseDecision::default();
        for follower in followers.in_order(Side::Response).filter(|follower| follower.wants.response) {
            let Some(place) = self.links.get_mut(follower.link) else { continue };
            follower.wants.response = false;
            match place.call(|link| link.on_response(follower.exchange, response)) {
                Ok(said) => {
                    append(&mut decision.edits, said.edits);
                    follower.wants.response_body = said.response_body;
                    follower.may_change_response = place.link.may_change_body(follower.exchange, Side::Response);
                    decision.abort |= said.abort;
                    decision.reason = said.reason.or(decision.reason.take());
                    if said.replace.is_some() {
                        decision.replace = said.replace;
                        // They were of a response that nobody gets.
                        decision.edits.clear();
                        break;
                    }
                }
                Err(fault) => {
                    decision.abort |= fault.policy == Policy::Deny;
                    decision.faults.push(fault);
                    follower.failed = true;
                }
            }
        }
        followers.list.retain(|follower| !follower.failed);
        if decision.replace.is_some() || decision.abort {
            for follower in &mut followers.list {
                (follower.wants.response, follower.wants.response_body) = (false, None);
            }
        }
        decision
    }

    /// The trailers of a body, for the links that follow the exchange; their edits.
    pub fn on_trailers(&mut self, followers: &mut Followers, side: Side, trailers: &[Field<'_>]) -> TrailersDecision {
        let mut decision = TrailersDecision::default();
        for follower in followers.in_order(side).filter(|follower| follower.wants.trailers) {
            let Some(place) = self.links.get_mut(follower.link) else { continue };
            match place.call(|link| link.on_trailers(follower.exchange, side, trailers)) {
                Ok(edits) => append(&mut decision.edits, edits),
                Err(fault) => {
                    decision.faults.push(fault);
                    follower.failed = true;
                }
            }
        }
        followers.list.retain(|follower| !follower.failed);
        decision
    }

    /// The exchange is over, however it ended. Dropping the followers says the same, a little later.
    pub fn on_end(&mut self, mut followers: Followers) -> Vec<Fault> {
        let mut faults = Vec::new();
        for follower in std::mem::take(&mut followers.list).into_iter().rev() {
            faults.extend(self.end(follower));
        }
        faults
    }

    /// Asks the links about a connection that is not read as HTTP.
    pub fn on_connection(&mut self, connection: &ConnectionParts<'_>) -> ConnectionDecision {
        self.end_dropped();
        let mut decision = ConnectionDecision::default();
        for (index, place) in self.links.iter_mut().enumerate() {
            if !place.filter.wants_connections() {
                continue;
            }
            let verdict = match place.filter.inner.health.may_run().then(|| place.call(|link| link.on_connection(connection))) {
                Some(Ok(said)) => {
                    place.filter.inner.health.succeeded();
                    decision.reason = said.reason;
                    said.verdict
                }
                failed => {
                    decision.faults.extend(failed.and_then(Result::err));
                    match place.filter.inner.policy {
                        Policy::Pass => Verdict::Pass,
                        Policy::Steal => Verdict::Steal,
                        Policy::Deny => Verdict::Abort,
                    }
                }
            };
            if verdict != Verdict::Pass {
                decision.link = Some(index);
                decision.verdict = verdict;
                break;
            }
        }
        decision
    }

    /// Whether [`Chain::background`] has anything to do, ever.
    #[must_use]
    pub fn wants_background(&self) -> bool {
        self.links.iter().any(|place| place.filter.wants_background())
    }

    /// Lets the links do what is due without a request: ticks, items in queues. To be called off the request path, at first
    /// once, then whenever `cx` is woken and after the time that it returns; the callouts are to be taken after it.
    pub fn background(&mut self, cx: &mut Context<'_>) -> Background {
        self.end_dropped();
        let mut background = Background::default();
        for place in &mut self.links {
            match place.call(|link| link.background(cx)) {
                Ok(next) => background.next = [background.next, next].into_iter().flatten().min(),
                Err(fault) => background.faults.push(fault),
            }
        }
        background
    }

    /// HTTP calls that the links want to be made, each to be answered by [`Chain::on_callout`].
    pub fn take_callouts(&mut self) -> Vec<Callout> {
        let mut callouts = Vec::new();
        for (index, place) in self.links.iter_mut().enumerate() {
            place.link.take_callouts(index, &mut callouts);
        }
        callouts
    }

    /// What came of a callout; nothing: it failed or took too long. Wakes who waits for what the link makes of it.
    pub fn on_callout(&mut self, id: CalloutId, response: Option<CalloutResponse>) -> Option<Fault> {
        let place = self.links.get_mut(id.link)?;
        place.call(|link| link.on_callout(id.generation, id.token, response)).err()
    }

    fn walk(&mut self, from: usize, mut so_far: Outcome, request: &RequestParts<'_>) -> Step {
        for index in from..self.links.len() {
            let began = self.clock();
            let Some(place) = self.links.get_mut(index) else { break };
            let mut step = place.ask(|link| link.on_request(request));
            if began.is_none()
                && let Ok(LinkStep::Pass) = step
            {
                continue;
            }
            if let Ok(LinkStep::NeedsBody(exchange, _)) = step
                && request.end
            {
                step = place.ask(|link| link.on_undecided_body(exchange, request, b"", true));
            }
            if let Some(step) = self.take(index, &mut so_far, began, step) {
                return step;
            }
        }
        Step::Decided(so_far)
    }

    fn clock(&self) -> Option<Instant> {
        self.is_timed.then(Instant::now)
    }

    /// An undecided link has said something.
    fn resume(
        &mut self,
        mut undecided: Box<Undecided>,
        link: usize,
        began: Option<Instant>,
        step: Result<LinkStep, Option<Fault>>,
        request: &RequestParts<'_>,
    ) -> Step {
        // Whatever it said, it answers for its exchange again.
        undecided.asked.list.clear();
        match self.take(link, &mut undecided.so_far, began, step) {
            Some(step) => step,
            None => self.walk(link + 1, undecided.so_far, request),
        }
    }

    /// Notes what a link said. Nothing: the next one is to be asked.
    fn take(&mut self, index: usize, so_far: &mut Outcome, began: Option<Instant>, step: Result<LinkStep, Option<Fault>>) -> Option<Step> {
        if let Some(said) = Said::of(index, &step, began) {
            said.add_to(&mut so_far.said);
        }
        let ends = match step {
            Ok(LinkStep::Pass) => false,
            Ok(LinkStep::Decided(decision)) => self.note(index, so_far, decision),
            Ok(LinkStep::NeedsBody(exchange, window)) => {
                return Some(Step::NeedsBody(self.pending(index, exchange, window.clamp(1, limit::BODY_WINDOW), so_far)));
            }
            Ok(LinkStep::Waits(exchange)) => return Some(Step::Waits(self.pending(index, exchange, 0, so_far))),
            Ok(LinkStep::Failed(fault)) => self.fail(index, so_far, Some(fault)),
            Err(fault) => self.fail(index, so_far, fault),
        };
        ends.then(|| Step::Decided(std::mem::take(so_far)))
    }

    fn pending(&self, link: usize, exchange: crate::Exchange, window: usize, so_far: &mut Outcome) -> Pending {
        let mut asked = Followers::new(self.ended.clone());
        let (wants, may_change_request, may_change_response) = (Wants::default(), true, true);
        asked.list.push(Follower { link, exchange, wants, may_change_request, may_change_response, failed: false });
        Pending(Box::new(Undecided { so_far: std::mem::take(so_far), asked, window }))
    }

    /// Adds one link's decision; whether it ends the walk.
    fn note(&mut self, index: usize, so_far: &mut Outcome, decision: Decision) -> bool {
        append(&mut so_far.request_edits, decision.request_edits);
        append(&mut so_far.response_edits, decision.response_edits);
        so_far.path = decision.path.or(so_far.path.take());
        if let Some(delay) = decision.delay {
            so_far.delay = Some((so_far.delay.unwrap_or_default() + delay).min(limit::DELAY));
        }
        if let Some(exchange) = decision.exchange.filter(|_| !decision.wants.nothing()) {
            let ended = &self.ended;
            let followers = so_far.followers.get_or_insert_with(|| Box::new(Followers::new(ended.clone())));
            let mut may_change = |side| self.links.get_mut(index).is_none_or(|place| place.link.may_change_body(exchange, side));
            followers.list.push(Follower {
                link: index,
                exchange,
                wants: decision.wants,
                may_change_request: may_change(Side::Request),
                may_change_response: may_change(Side::Response),
                failed: false,
            });
        }
        if decision.verdict == Verdict::Pass {
            return false;
        }
        (so_far.verdict, so_far.link, so_far.reason) = (decision.verdict, Some(index), decision.reason);
        true
    }

    /// Lets a link's failure policy speak; whether it ends the walk.
    fn fail(&mut self, index: usize, so_far: &mut Outcome, fault: Option<Fault>) -> bool {
        so_far.faults.extend(fault);
        let Some(place) = self.links.get(index) else { return false };
        so_far.verdict = match place.filter.inner.policy {
            Policy::Pass => return false,
            Policy::Steal => Verdict::Steal,
            Policy::Deny => Verdict::Respond(denied(place.filter.name())),
        };
        so_far.link = Some(index);
        true
    }

    fn end(&mut self, Follower { link, exchange, wants, .. }: Follower) -> Option<Fault> {
        let place = self.links.get_mut(link)?;
        let fault = place.call(|link| link.on_end(exchange, wants.end)).err();
        if fault.is_none() {
            place.filter.inner.health.succeeded();
        }
        fault
    }

    /// Tells the links about exchanges that ended by being dropped.
    fn end_dropped(&mut self) {
        // One by one: the place for them is used again.
        while let Some(follower) = { self.ended.0.borrow_mut().pop() } {
            self.end(follower);
        }
    }
}

impl Place {
    /// Asks for a decision, unless the filter is set aside (`Err(None)`), and keeps the record of failures.
    fn ask(&mut self, hook: impl FnOnce(&mut dyn Link) -> LinkStep) -> Result<LinkStep, Option<Fault>> {
        let health = &self.filter.inner.health;
        if !health.may_run() {
            return Err(None);
        }
        match hook(&mut *self.link) {
            LinkStep::Failed(fault) => Err(Some(self.failed(fault))),
            step => {
                // What is not over yet may still fail: success is counted at its end.
                if matches!(&step, LinkStep::Pass) || matches!(&step, LinkStep::Decided(decision) if decision.wants.nothing()) {
                    health.succeeded();
                }
                Ok(step)
            }
        }
    }

    fn call<T>(&mut self, hook: impl FnOnce(&mut dyn Link) -> Result<T, Fault>) -> Result<T, Fault> {
        hook(&mut *self.link).map_err(|fault| self.failed(fault))
    }

    fn failed(&self, fault: Fault) -> Fault {
        let Configured { health, policy, .. } = &*self.filter.inner;
        Fault { set_aside: health.failed(), policy: *policy, ..fault }
    }

    /// Gives a link a piece of a body in steps of its own window.
    fn pass_body(
        &mut self,
        follower: &Follower,
        side: Side,
        input: &[u8],
        step: usize,
        end: bool,
    ) -> Result<(Option<Vec<u8>>, bool), Fault> {
        if input.is_empty() && !end {
            return Ok((None, false));
        }
        let (mut out, mut at, mut abort): (Option<Vec<u8>>, usize, bool) = (None, 0, false);
        loop {
            let next = input.len().min(at.saturating_add(step));
            let window = &input[at..next];
            let last = next == input.len();
            let said = self.call(|link| link.on_body(follower.exchange, side, window, end && last))?;
            abort |= said.abort;
            match (said.replaced, &mut out) {
                (Some(bytes), Some(out)) => out.extend_from_slice(&bytes),
                (Some(bytes), out) => {
                    let mut whole = input[..at].to_vec();
                    whole.extend_from_slice(&bytes);
                    *out = Some(whole);
                }
                (None, Some(out)) => out.extend_from_slice(window),
                (None, None) => {}
            }
            at = next;
            if last {
                return Ok((out, abort));
            }
        }
    }
}

fn append(edits: &mut Vec<Edit>, more: Vec<Edit>) {
    if edits.is_empty() {
        *edits = more;
    } else {
        edits.extend(more);
    }
}

/// The answer when a filter failed whose policy is to deny.
fn denied(filter: &str) -> LocalResponse {
    LocalResponse {
        status: 503,
        headers: vec![(b"content-type".to_vec(), b"text/plain; charset=utf-8".to_vec())],
        body: format!("mirrord: the filter {filter} failed, and its failure policy is to deny; see the agent's log\n").into_bytes(),
    }
}
