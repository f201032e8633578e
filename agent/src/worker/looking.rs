//! The worker's side of `explain` and `inspect`: what a decision leaves behind, and who looks at the exchange.

use std::rc::Rc;

use mirrord_filters::{Outcome, RequestParts, Step, Verdict};
use mirrord_protocol::records::{self, Would};

use super::table::{Port, Subscriber, Subscription, Worker};
use crate::{
    gateway::steer::Steering,
    records::{
        decisions::{Asked, Trail, outcome},
        exchanges::{Decided, Observer},
    },
};

impl Worker {
    /// Shows a request to those who inspect its port. By itself: almost nobody is inspected.
    #[cold]
    #[inline(never)]
    pub(super) fn observe(&self, port: &Port, request: &RequestParts<'_>, steering: &Steering, trail: &Trail) -> Observer {
        let (verdict, session) = outcome(steering);
        let decider = trail.sessions().iter().rev().find(|asked| asked.verdict != records::Verdict::Pass);
        let filter = decider.and_then(|asked| self.filter_name(asked));
        let session = session.or_else(|| decider.filter(|_| verdict != records::Verdict::Pass).map(|asked| asked.session));
        let said = decider.map(|asked| asked.verdict).filter(|said| *said != verdict);
        let decided = Decided { verdict, session, filter, reason: trail.reason().map(str::to_owned), said };
        let ask = |subscriber: &Rc<Subscriber>| {
            let inspector = subscriber.inspector.clone()?;
            let would = (!subscriber.links().names.is_empty()).then(|| self.would(subscriber, request));
            Some((inspector, would))
        };
        let inspectors = port.inspectors.iter().filter_map(ask).collect();
        Observer::new(inspectors, request, decided, &self.room)
    }

    fn filter_name(&self, asked: &Asked) -> Option<String> {
        let links = self.sessions.borrow().get(&asked.session)?.links();
        links.names.get(usize::from(asked.decider?)).map(|name| name.to_string())
    }

    /// What a chain says about a request, without any effect.
    fn would(&self, subscriber: &Subscriber, request: &RequestParts<'_>) -> Would {
        let links = subscriber.links();
        let mut chain = links.chain.borrow_mut();
        let (outcome, undecided) = match chain.on_request(request) {
            Step::Decided(outcome) => (outcome, false),
            // Nobody's request is held for somebody who only looks.
            Step::NeedsBody(_) | Step::Waits(_) => (Outcome::default(), true),
        };
        drop(chain);
        for fault in &outcome.faults {
            self.report(subscriber, fault);
        }
        Would {
            verdict: told(&outcome.verdict),
            filter: outcome.link.and_then(|link| links.names.get(link)).map(|name| name.to_string()),
            reason: outcome.reason.as_deref().map(str::to_owned),
            fault: outcome.faults.first().map(|fault| fault.kind.as_str().to_owned()),
            undecided,
        }
    }
}

impl Subscription {
    /// Of its session and chain, to be noted. Without more: that it passed.
    #[inline]
    pub(super) fn asked(&self) -> Asked {
        Asked { session: self.subscriber.spec.id, version: self.links.version, ..Asked::default() }
    }

    /// What its chain said, to be noted.
    pub(super) fn said(&self, outcome: &Outcome) -> Asked {
        Asked { decider: outcome.link.map(|link| link as u8), verdict: told(&outcome.verdict), ..self.asked() }
    }
}

/// A verdict without what goes with it.
pub(super) fn told(verdict: &Verdict) -> records::Verdict {
    match verdict {
        Verdict::Pass => records::Verdict::Pass,
        Verdict::Steal => records::Verdict::Steal,
        Verdict::Mirror => records::Verdict::Mirror,
        Verdict::StealAndMirror => records::Verdict::StealAndMirror,
        Verdict::Respond(_) => records::Verdict::Respond,
        Verdict::Abort => records::Verdict::Abort,
    }
}
