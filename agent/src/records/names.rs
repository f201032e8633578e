//! Whose a session was and what its filters are called: looked up when a decision is told, so that none of it is kept with each.

use std::collections::VecDeque;

use mirrord_filters::{self as filters, Filter};
use mirrord_protocol::{
    control::{Mode, Owner},
    records::{self, Decision, Said, Verdict},
};

use super::decisions::{Asked, Kept};
use crate::gateway::steer::SessionId;

/// Sessions that are remembered, those that have ended included. More than there can be at a time.
const REMEMBERED: usize = mirrord_protocol::limits::MAX_SESSIONS + 256;
/// Chains of one session that are remembered; of earlier ones it is not known what their links were called.
const VERSIONS: usize = 16;
/// Digits of a filter's SHA-256 that are told.
const DIGITS: usize = 12;

/// What is known of a session.
#[derive(Debug)]
struct About {
    id: SessionId,
    owner: String,
    mode: Mode,
    /// Its chains, the newest last.
    chains: VecDeque<Version>,
}

/// One chain of a session.
#[derive(Debug)]
struct Version {
    number: u16,
    links: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    filter: String,
    sha256: String,
}

impl Version {
    fn new(number: u16, filters: &[Filter]) -> Self {
        let named = |filter: &Filter| Named {
            filter: filter.name().to_owned(),
            sha256: filter.sha256().get(..DIGITS).unwrap_or_default().to_owned(),
        };
        Version { number, links: filters.iter().map(named).collect() }
    }
}

/// The sessions of this agent, the oldest first.
#[derive(Debug, Default)]
pub struct Names(VecDeque<About>);

impl Names {
    pub fn remember(&mut self, id: SessionId, owner: &Owner, mode: Mode, filters: &[Filter]) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(About { id, owner: owner.to_string(), mode, chains: [Version::new(0, filters)].into() });
    }

    /// A session has other filters from now on: the number of that chain. The first one's was 0.
    pub fn replace(&mut self, id: SessionId, filters: &[Filter]) -> u16 {
        let Some(about) = self.0.iter_mut().find(|about| about.id == id) else { return 0 };
        let number = about.chains.back().map_or(0, |last| last.number.wrapping_add(1));
        if about.chains.len() >= VERSIONS {
            about.chains.pop_front();
        }
        about.chains.push_back(Version::new(number, filters));
        number
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
            asked: kept.trail().answers().map(|(asked, said)| self.asked(asked, said)).collect(),
            asked_too: kept.asked_too(),
            reason: kept.trail().reason().map(str::to_owned),
            ns: kept.ns,
        }
    }

    fn asked(&self, asked: &Asked, all: &[filters::Said]) -> records::Asked {
        let about = self.0.binary_search_by_key(&asked.session, |about| about.id).ok().and_then(|at| self.0.get(at));
        let (owner, mode) = about.map_or_else(|| (String::new(), Mode::Mirror), |about| (about.owner.clone(), about.mode));
        let version = about.and_then(|about| about.chains.iter().find(|version| version.number == asked.version));
        let links = version.map_or(&[][..], |version| &version.links);
        // Those behind the one that decided were not asked.
        let count = asked.decider.map_or(links.len(), |decider| usize::from(decider) + 1);
        let said = |link: usize| {
            let own = all.iter().find(|said| usize::from(said.link) == link);
            let (filter, sha256) = links.get(link).map_or(("?", ""), |named| (&named.filter, &named.sha256));
            Said {
                filter: filter.to_owned(),
                sha256: sha256.to_owned(),
                verdict: if asked.decider.map(usize::from) == Some(link) { asked.verdict } else { Verdict::Pass },
                fault: own.and_then(|said| said.failed).map(|failed| failed.as_str().to_owned()),
                reason: own.and_then(|said| said.reason.as_deref()).map(str::to_owned),
                ns: own.and_then(|said| said.ns).map(u64::from),
            }
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
