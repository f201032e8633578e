//! Whose a session was and what its filters are called: looked up when a decision is told, so that none of it is kept with each.

use std::collections::VecDeque;

use mirrord_filters::Filter;
use mirrord_protocol::{
    control::{Mode, Owner},
    records::{self, Decision, Said, Verdict},
};

use super::decisions::{Asked, Kept};
use crate::gateway::steer::SessionId;

/// Sessions that are remembered, those that have ended included. More than there can be at a time.
const REMEMBERED: usize = mirrord_protocol::limits::MAX_SESSIONS + 256;

/// What is known of a session.
#[derive(Debug)]
struct About {
    id: SessionId,
    owner: String,
    mode: Mode,
    filters: Vec<String>,
}

/// The sessions of this agent, the oldest first.
#[derive(Debug, Default)]
pub struct Names(VecDeque<About>);

impl Names {
    pub fn remember(&mut self, id: SessionId, owner: &Owner, mode: Mode, filters: &[Filter]) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        let filters = filters.iter().map(|filter| filter.name().to_owned()).collect();
        self.0.push_back(About { id, owner: owner.to_string(), mode, filters });
    }

    /// A session has other filters. Decisions of the old ones are told by the new ones' names from now on.
    pub fn rename(&mut self, id: SessionId, filters: &[Filter]) {
        if let Some(about) = self.0.iter_mut().find(|about| about.id == id) {
            about.filters = filters.iter().map(|filter| filter.name().to_owned()).collect();
        }
    }

    /// A decision in full.
    pub fn decision(&self, kept: &Kept) -> Decision {
        Decision {
            id: kept.id,
            at: kept.at,
            client: kept.client,
            destination: kept.destination,
            protocol: kept.version.as_str().to_owned(),
            method: kept.method(),
            path: kept.path(),
            verdict: kept.verdict,
            session: kept.session,
            asked: kept.trail().sessions().iter().map(|asked| self.asked(asked)).collect(),
            asked_too: kept.asked_too(),
            reason: kept.trail().reason().map(str::to_owned),
            ns: kept.ns,
        }
    }

    fn asked(&self, asked: &Asked) -> records::Asked {
        let about = self.0.binary_search_by_key(&asked.session, |about| about.id).ok().and_then(|at| self.0.get(at));
        let (owner, mode) = about.map_or_else(|| (String::new(), Mode::Mirror), |about| (about.owner.clone(), about.mode));
        let names = about.map_or(&[][..], |about| &about.filters);
        // Those behind the one that decided were not asked.
        let count = asked.decider.map_or(names.len(), |decider| usize::from(decider) + 1);
        let said = |link: usize| Said {
            filter: names.get(link).cloned().unwrap_or_else(|| "?".to_owned()),
            verdict: if asked.decider.map(usize::from) == Some(link) { asked.verdict } else { Verdict::Pass },
            fault: asked.fault.filter(|(failed, _)| usize::from(*failed) == link).map(|(_, kind)| kind.as_str().to_owned()),
        };
        let verdict = effective(mode, asked.verdict);
        records::Asked { session: asked.session, owner, mode, links: (0..count).map(said).collect(), verdict }
    }
}

/// A session that does not steal changes nothing: what would be stolen is copied, what would be answered passes.
fn effective(mode: Mode, verdict: Verdict) -> Verdict {
    match (mode, verdict) {
        (Mode::Steal, verdict) => verdict,
        (Mode::Mirror, Verdict::Steal | Verdict::StealAndMirror | Verdict::Mirror) => Verdict::Mirror,
        (Mode::Mirror | Mode::Inspect, _) => Verdict::Pass,
    }
}
