//! A module of our ABI as a link of a chain: which guest serves which request.
//!
//! ```text
//!   shared: empty ──call──► live ──ok──► live
//!             ▲               └──fault──► dropped ─┐      (a trap may leave a guest's own stack and locks broken for good)
//!             └────────────────────────────────────┘
//!   fresh:  each request has a guest of its own, kept for as long as it follows the exchange
//! ```

use std::sync::Arc;

use super::Guest;
use super::live::{Live, Said};
use crate::filter::Configured;
use crate::link::{Exchange, Link, LinkBody, LinkConnection, LinkResponse, LinkStep, Side};
use crate::ticker::{self, Calls};
use crate::{ConnectionParts, Fault, FaultKind, Isolation, Policy, RequestParts, ResponseParts};

/// Guests that follow exchanges of their own, at most; each has its memory.
const MAX_FRESH: usize = 256;

/// One filter, for one thread and chain. Requests may be interleaved: what must be known again later travels in the token.
pub(crate) struct Instance {
    filter: Arc<Configured>,
    guest: Guest,
    call_ticks: u64,
    calls: Calls,
    /// For all requests, unless each has its own.
    live: Option<Live>,
    /// Guests by their exchange's number, with the token.
    fresh: Vec<Option<(Live, u64)>>,
}

impl Instance {
    pub(crate) fn new(filter: Arc<Configured>, guest: Guest) -> Self {
        let call_ticks = ticker::ticks(filter.limits.call);
        let calls = guest.engine.inner.ticker.calls();
        Instance { filter, guest, call_ticks, calls, live: None, fresh: Vec::new() }
    }

    /// Runs one hook on a live guest, made first if there is none. A guest that fails is dropped.
    fn call<T>(&mut self, live: Option<Live>, hook: impl FnOnce(&mut Live) -> Result<T, Fault>) -> Result<(T, Live), Fault> {
        self.calls.during(|| match live {
            Some(mut live) => {
                live.arm(self.call_ticks);
                hook(&mut live).map(|said| (said, live))
            }
            None => match Live::start(&self.filter, &self.guest, self.filter.start_ticks()) {
                Ok(mut live) => {
                    live.arm(self.call_ticks);
                    hook(&mut live).map(|said| (said, live))
                }
                Err(failure) => Err(failure.into_fault(&self.filter)),
            },
        })
    }

    /// The same on the guest that all requests share. It stays where it is: moving it costs more than the call's overhead.
    fn call_shared<T>(&mut self, hook: impl FnOnce(&mut Live) -> Result<T, Fault>) -> Result<T, Fault> {
        let result = self.calls.during(|| match &mut self.live {
            Some(live) => {
                live.arm(self.call_ticks);
                hook(live)
            }
            None => match Live::start(&self.filter, &self.guest, self.filter.start_ticks()) {
                Ok(live) => {
                    let live = self.live.insert(live);
                    live.arm(self.call_ticks);
                    hook(live)
                }
                Err(failure) => Err(failure.into_fault(&self.filter)),
            },
        });
        if result.is_err() {
            self.live = None;
        }
        result
    }

    /// Runs a hook of an exchange that has begun.
    fn call_of<T>(&mut self, exchange: Exchange, hook: impl FnOnce(&mut Live, u64) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.filter.isolation == Isolation::Shared {
            return self.call_shared(|live| hook(live, exchange.0));
        }
        let (live, token) = self.take_fresh(exchange)?;
        let (said, live) = self.call(Some(live), |live| hook(live, token))?;
        self.keep_fresh(exchange, live, token);
        Ok(said)
    }

    fn take_fresh(&mut self, exchange: Exchange) -> Result<(Live, u64), Fault> {
        let place = usize::try_from(exchange.0).ok().and_then(|index| self.fresh.get_mut(index));
        place.and_then(Option::take).ok_or_else(|| self.filter.fault(FaultKind::Memory, "its instance for this request is gone"))
    }

    fn keep_fresh(&mut self, Exchange(index): Exchange, live: Live, token: u64) {
        if let Some(place) = usize::try_from(index).ok().and_then(|index| self.fresh.get_mut(index)) {
            *place = Some((live, token));
        }
    }

    /// Keeps a guest for the rest of its exchange.
    fn place_fresh(&mut self, live: Live, token: u64) -> Result<Exchange, Fault> {
        let index = match self.fresh.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.fresh.len() < MAX_FRESH => {
                self.fresh.push(None);
                self.fresh.len() - 1
            }
            None => return Err(self.filter.fault(FaultKind::Memory, "too many requests are under way that have an instance of their own")),
        };
        let exchange = Exchange(index as u64);
        self.keep_fresh(exchange, live, token);
        Ok(exchange)
    }

    /// What a guest of its own said about a request.
    fn step_fresh(&mut self, said: Said, live: Live, token: u64) -> Result<LinkStep, Fault> {
        match said {
            Said::Nothing => Ok(LinkStep::Pass),
            Said::Decided(mut decision, new) => {
                if !decision.wants.nothing() {
                    decision.exchange = Some(self.place_fresh(live, new.unwrap_or(token))?);
                }
                Ok(LinkStep::Decided(*decision))
            }
            Said::NeedsBody(window, new) => Ok(LinkStep::NeedsBody(self.place_fresh(live, new.unwrap_or(token))?, window)),
        }
    }
}

/// What the shared guest said about a request.
fn step(said: Said, token: u64) -> LinkStep {
    match said {
        Said::Nothing => LinkStep::Pass,
        Said::Decided(mut decision, new) => {
            decision.exchange = Some(Exchange(new.unwrap_or(token)));
            LinkStep::Decided(*decision)
        }
        Said::NeedsBody(window, new) => LinkStep::NeedsBody(Exchange(new.unwrap_or(token)), window),
    }
}

impl Link for Instance {
    fn may_change_body(&mut self, _: Exchange, _: Side) -> bool {
        // Where it denies when it fails, nothing goes on that it has not seen.
        self.guest.hooks.changes_bodies || self.filter.policy == Policy::Deny
    }

    fn warm_up(&mut self) {
        if self.live.is_none() && self.filter.isolation == Isolation::Shared {
            self.live = self.calls.during(|| Live::start(&self.filter, &self.guest, self.filter.start_ticks())).ok();
        }
    }

    fn on_request(&mut self, request: &RequestParts<'_>) -> LinkStep {
        let result = match self.filter.isolation {
            Isolation::Shared => self.call_shared(|live| live.on_request(request)).map(|said| step(said, 0)),
            Isolation::Fresh => self.call(None, |live| live.on_request(request)).and_then(|(said, live)| self.step_fresh(said, live, 0)),
        };
        result.unwrap_or_else(LinkStep::Failed)
    }

    fn on_undecided_body(&mut self, exchange: Exchange, request: &RequestParts<'_>, body: &[u8], end: bool) -> LinkStep {
        let result = match self.filter.isolation {
            Isolation::Shared => {
                self.call_shared(|live| live.on_undecided_body(exchange.0, request, body, end)).map(|said| step(said, exchange.0))
            }
            Isolation::Fresh => self.take_fresh(exchange).and_then(|(live, token)| {
                let (said, live) = self.call(Some(live), |live| live.on_undecided_body(token, request, body, end))?;
                self.step_fresh(said, live, token)
            }),
        };
        result.unwrap_or_else(LinkStep::Failed)
    }

    fn on_body(&mut self, exchange: Exchange, side: Side, window: &[u8], end: bool) -> Result<LinkBody, Fault> {
        self.call_of(exchange, |live, token| live.on_body(token, side, window, end))
    }

    fn on_response(&mut self, exchange: Exchange, response: &ResponseParts<'_>) -> Result<LinkResponse, Fault> {
        self.call_of(exchange, |live, token| live.on_response(token, response))
    }

    fn on_end(&mut self, exchange: Exchange, tell: bool) -> Result<(), Fault> {
        let result = match tell && self.guest.hooks.end {
            true => self.call_of(exchange, |live, token| live.on_end(token)),
            false => Ok(()),
        };
        if self.filter.isolation == Isolation::Fresh {
            let _ = self.take_fresh(exchange);
        }
        result
    }

    fn on_connection(&mut self, connection: &ConnectionParts<'_>) -> Result<LinkConnection, Fault> {
        match self.filter.isolation {
            Isolation::Shared => self.call_shared(|live| live.on_connection(connection)),
            Isolation::Fresh => self.call(None, |live| live.on_connection(connection)).map(|(said, _)| said),
        }
    }
}
