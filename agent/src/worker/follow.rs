//! Filters that follow an exchange after the verdict, of all sessions that were asked about it: bodies go through them in order,
//! responses in the reverse order, as through proxies in a row.

use std::{fmt, rc::Rc};

use mirrord_filters::{BodyDecision, Edit, Fault, Field, Followers, ResponseDecision, ResponseParts, Side};

use super::table::{Links, Subscriber, Subscription, Worker};
use crate::gateway::steer::Follow;

/// Those of one exchange.
pub(super) struct Following {
    worker: Rc<Worker>,
    places: Vec<Place>,
}

/// Those of one session.
struct Place {
    subscriber: Rc<Subscriber>,
    /// Kept as long as the exchange lasts, though the session may have other filters by now.
    links: Rc<Links>,
    followers: Option<Box<Followers>>,
    /// The session is in mirror mode: what its filters say changes nothing.
    only_watches: bool,
}

impl Following {
    pub(super) fn new(worker: Rc<Worker>) -> Self {
        Following { worker, places: Vec::new() }
    }

    pub(super) fn add(&mut self, subscription: &Subscription, followers: Box<Followers>, only_watches: bool) {
        let (subscriber, links) = (subscription.subscriber.clone(), subscription.links.clone());
        self.places.push(Place { subscriber, links, followers: Some(followers), only_watches });
    }

    fn report(&self, at: usize, faults: &[Fault]) {
        if let Some(place) = self.places.get(at) {
            faults.iter().for_each(|fault| self.worker.report(&place.subscriber, fault));
        }
    }
}

impl Place {
    fn window(&self, side: Side) -> Option<usize> {
        self.followers.as_deref().and_then(|followers| followers.window(side))
    }
}

impl Follow for Following {
    fn window(&self, side: Side) -> Option<usize> {
        self.places.iter().filter_map(|place| place.window(side)).max()
    }

    fn may_replace(&self, side: Side) -> bool {
        let changes = |place: &Place| !place.only_watches && place.followers.as_deref().is_some_and(|all| all.may_change(side));
        self.places.iter().any(changes)
    }

    fn on_body(&mut self, side: Side, bytes: &[u8], end: bool) -> BodyDecision {
        let mut decision = BodyDecision::default();
        let count = self.places.len();
        for turn in 0..count {
            let at = if side == Side::Request { turn } else { count - 1 - turn };
            let Some(place) = self.places.get_mut(at).filter(|place| place.window(side).is_some()) else { continue };
            let Some(followers) = place.followers.as_deref_mut() else { continue };
            let input = decision.replaced.as_deref().unwrap_or(bytes);
            let BodyDecision { replaced, abort, faults } = place.links.chain.borrow_mut().on_body(followers, side, input, end);
            if !place.only_watches {
                decision.replaced = replaced.or(decision.replaced);
                decision.abort |= abort;
            }
            self.report(at, &faults);
            if decision.abort {
                break;
            }
        }
        decision
    }

    fn wants_trailers(&self) -> bool {
        self.places.iter().any(|place| place.followers.as_deref().is_some_and(Followers::want_trailers))
    }

    fn on_trailers(&mut self, side: Side, trailers: &[Field<'_>]) -> Vec<Edit> {
        let mut edits = Vec::new();
        let count = self.places.len();
        for turn in 0..count {
            let at = if side == Side::Request { turn } else { count - 1 - turn };
            let Some(place) = self.places.get_mut(at) else { continue };
            let Some(followers) = place.followers.as_deref_mut().filter(|followers| followers.want_trailers()) else { continue };
            let said = place.links.chain.borrow_mut().on_trailers(followers, side, trailers);
            if !place.only_watches {
                edits.extend(said.edits);
            }
            self.report(at, &said.faults);
        }
        edits
    }

    fn wants_response(&self) -> bool {
        self.places.iter().any(|place| place.followers.as_deref().is_some_and(Followers::want_response))
    }

    fn on_response(&mut self, response: &ResponseParts<'_>) -> ResponseDecision {
        let mut decision = ResponseDecision::default();
        for at in (0..self.places.len()).rev() {
            let Some(place) = self.places.get_mut(at) else { continue };
            let Some(followers) = place.followers.as_deref_mut().filter(|followers| followers.want_response()) else { continue };
            let said = place.links.chain.borrow_mut().on_response(followers, response);
            if !place.only_watches {
                decision.edits.extend(said.edits);
                decision.replace = said.replace;
                decision.abort |= said.abort;
            }
            self.report(at, &said.faults);
            if decision.abort || decision.replace.is_some() {
                break;
            }
        }
        decision
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        for at in (0..self.places.len()).rev() {
            let Some(place) = self.places.get_mut(at) else { continue };
            let Some(followers) = place.followers.take() else { continue };
            // A chain that is at work tells its filters when it is next asked.
            let faults = place.links.chain.try_borrow_mut().map(|mut chain| chain.on_end(*followers)).unwrap_or_default();
            self.report(at, &faults);
        }
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places.iter().map(|place| &place.followers)).finish()
    }
}
