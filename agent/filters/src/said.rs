//! What single links said about one request, for whoever explains the decision afterwards. The outcome tells already who decided
//! and why, and that all links before passed: only what is beyond that is noted, so that most requests note nothing.

use std::sync::Arc;
use std::time::Instant;

use crate::link::LinkStep;
use crate::{Fault, FaultKind, Verdict};

/// One link's words about one request. Its verdict is the outcome's if it decided, else `pass`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub link: u8,
    pub failed: Option<Failed>,
    /// Why, in its own words. Those of the link that decided are [`crate::Outcome::reason`].
    pub reason: Option<Arc<str>>,
    /// How long it took, all calls until its verdict together, without what it waited for. Only with [`crate::Chain::set_timed`].
    pub ns: Option<u32>,
}

/// Why a link's failure policy spoke in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    Fault(FaultKind),
    /// It was not called, because it failed too often in a row.
    SetAside,
    /// It had not decided when the request could be held no longer.
    Skipped,
}

impl Failed {
    /// Lower case, one word, stable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Failed::Fault(kind) => kind.as_str(),
            Failed::SetAside => "set_aside",
            Failed::Skipped => "skipped",
        }
    }
}

impl Said {
    /// What is to be noted of what a link said just now.
    /// Nothing in place of a fault: it was not called.
    pub(crate) fn of(link: usize, step: &Result<LinkStep, Option<Fault>>, began: Option<Instant>) -> Option<Said> {
        let (failed, reason) = match step {
            Ok(LinkStep::Decided(decision)) if decision.verdict == Verdict::Pass => (None, decision.reason.clone()),
            Ok(LinkStep::Failed(fault)) | Err(Some(fault)) => (Some(Failed::Fault(fault.kind)), None),
            Err(None) => (Some(Failed::SetAside), None),
            Ok(_) => (None, None),
        };
        let ns = began.map(|began| u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        (failed.is_some() || reason.is_some() || ns.is_some()).then(|| Said { failed, reason, ns, ..Said::by(link) })
    }

    /// Nothing yet.
    pub(crate) fn by(link: usize) -> Said {
        Said { link: u8::try_from(link).unwrap_or(u8::MAX), failed: None, reason: None, ns: None }
    }

    /// Adds it to what was said before, in this link's place if it was asked before.
    pub(crate) fn add_to(self, all: &mut Vec<Said>) {
        match all.last_mut().filter(|last| last.link == self.link) {
            Some(last) => {
                last.failed = self.failed.or(last.failed);
                last.reason = self.reason.or(last.reason.take());
                last.ns = last.ns.into_iter().chain(self.ns).reduce(u32::saturating_add);
            }
            None => all.push(self),
        }
    }
}
