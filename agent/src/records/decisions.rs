//! The last decisions of one worker: a ring of places that are written over, one for requests that somebody picked (or whose
//! filter failed), one for all others, so that a busy pod's traffic does not wash away what is asked about.
//!
//! Recording allocates nothing and costs some 280 instructions (callgrind), 2.5 % of a passed request's in user space, where a fifth
//! of its time goes; the clock that it reads is the kernel's coarse one. How long the filters took is known of the requests that the stopwatch measures, and of all while
//! somebody follows.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::Arc,
};

use mirrord_filters::{Failed, RequestParts, Said, Version};
use mirrord_protocol::{limits::WORKER_BITS, records::Verdict};
use tokio::sync::mpsc;

use super::{mask, text::Text};
use crate::{
    gateway::steer::{SessionId, Steering, Target},
    process,
};

/// Decisions that each of a worker's two rings keeps.
pub const KEPT: usize = 512;
/// Sessions of one request whose answers are kept; more are counted.
const MAX_ASKED: usize = 4;
/// What links said by themselves that is kept of one request, and how many of them may say why.
const MAX_SAID: usize = 64;
const MAX_REASONS: usize = 8;

/// What one session's chain said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub session: SessionId,
    /// Which of the chains that the session has had.
    pub version: u16,
    /// The link that decided.
    pub decider: Option<u8>,
    pub verdict: Verdict,
    /// So many of [`Trail::said`] are about its links.
    pub said: u8,
}

/// What the sessions said about one request, noted while they are asked.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    asked: [Asked; MAX_ASKED],
    count: u16,
    is_notable: bool,
    said: Vec<Said>,
}

/// A decision as it is kept; names are looked up when it is told.
#[derive(Clone, Debug)]
pub struct Kept {
    pub id: u64,
    /// Milliseconds since 1970.
    pub at: u64,
    pub client: SocketAddr,
    pub destination: SocketAddr,
    pub version: Version,
    method: Text<15>,
    path: Text<200>,
    pub verdict: Verdict,
    pub session: Option<SessionId>,
    trail: Trail,
    /// How long the filters took.
    pub ns: Option<u64>,
}

/// Which decisions are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// At most so many, the newest.
    pub last: usize,
    pub id: Option<u64>,
    /// Only what a session picked, or whose filter failed.
    pub picked: bool,
}

/// News for somebody who follows.
#[derive(Clone, Debug)]
pub enum News {
    Decision(Box<Kept>),
    Missed(u64),
}

struct Follower {
    news: mpsc::Sender<News>,
    picked: bool,
    missed: u64,
}

/// One worker's decisions.
pub struct Decisions {
    worker: u64,
    count: Cell<u64>,
    others: RefCell<Ring>,
    picked: RefCell<Ring>,
    followers: RefCell<Vec<Follower>>,
    is_followed: Cell<bool>,
}

impl Trail {
    /// Notes what one session said, all of it.
    #[inline]
    pub fn asked(&mut self, asked: Asked) {
        self.is_notable |= asked.verdict != Verdict::Pass;
        if let Some(place) = self.asked.get_mut(usize::from(self.count)) {
            *place = asked;
        }
        self.count = self.count.saturating_add(1);
    }

    /// Notes what one session said, and its links by themselves; `reason` is that of the link that decided.
    pub fn asked_in_full(&mut self, asked: Asked, mut said: Vec<Said>, reason: Option<Arc<str>>) {
        self.is_notable |= said.iter().any(|said| matches!(said.failed, Some(Failed::Fault(_) | Failed::Skipped)));
        if let (Some(decider), Some(_)) = (asked.decider, &reason) {
            match said.iter_mut().find(|said| said.link == decider) {
                Some(said) => said.reason = reason,
                None => said.push(Said { link: decider, failed: None, reason, ns: None }),
            }
        }
        let mut reasons = self.said.iter().filter(|said| said.reason.is_some()).count();
        for said in said.iter_mut().filter(|said| said.reason.is_some()) {
            reasons += 1;
            if reasons > MAX_REASONS {
                said.reason = None;
            }
        }
        if usize::from(self.count) < MAX_ASKED {
            said.truncate(MAX_SAID - self.said.len());
        } else {
            said.clear();
        }
        let count = said.len() as u8;
        if self.said.is_empty() {
            self.said = said;
        } else {
            self.said.append(&mut said);
        }
        self.asked(Asked { said: count, ..asked });
    }

    /// Why, in the words of the last link that decided.
    pub fn reason(&self) -> Option<&str> {
        let decided = self.answers().filter_map(|(asked, said)| said.iter().find(|said| Some(said.link) == asked.decider));
        decided.filter_map(|said| said.reason.as_deref()).last()
    }

    /// What the sessions said, in order, each with what its links said by themselves.
    pub fn answers(&self) -> impl Iterator<Item = (&Asked, &[Said])> {
        let mut rest = self.said.as_slice();
        self.sessions().iter().map(move |asked| {
            let (own, others) = rest.split_at(usize::from(asked.said).min(rest.len()));
            rest = others;
            (asked, own)
        })
    }

    /// The sessions that were asked, in order.
    pub fn sessions(&self) -> &[Asked] {
        &self.asked[..usize::from(self.count).min(MAX_ASKED)]
    }
}

impl Kept {
    pub fn method(&self) -> String {
        self.method.to_text()
    }

    pub fn path(&self) -> String {
        self.path.to_text()
    }

    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// Sessions that were asked beyond those that are kept.
    pub fn asked_too(&self) -> u64 {
        u64::from(self.trail.count) - self.trail.sessions().len() as u64
    }
}

/// Who answers, in a word.
pub fn outcome(steering: &Steering) -> (Verdict, Option<SessionId>) {
    match (&steering.target, steering.copies.first()) {
        (Target::Pod, None) => (Verdict::Pass, None),
        (Target::Pod, copy) => (Verdict::Mirror, copy.copied()),
        (Target::Session(id), _) if steering.extra.as_ref().is_some_and(|extra| extra.pod_copy) => (Verdict::StealAndMirror, Some(*id)),
        (Target::Session(id), _) => (Verdict::Steal, Some(*id)),
        (Target::Abort, _) => (Verdict::Abort, None),
        (Target::Respond(_), _) => (Verdict::Respond, None),
    }
}

impl Decisions {
    pub fn new(worker: u16) -> Self {
        Self {
            worker: worker.into(),
            count: Cell::new(0),
            others: RefCell::default(),
            picked: RefCell::default(),
            followers: RefCell::default(),
            is_followed: Cell::new(false),
        }
    }

    /// Whether each decision is to be measured.
    #[inline]
    pub fn is_followed(&self) -> bool {
        self.is_followed.get()
    }

    /// Keeps a decision.
    #[inline]
    pub fn keep(&self, request: &RequestParts<'_>, steering: &Steering, trail: Trail, ns: Option<u64>) {
        let count = self.count.get();
        self.count.set(count + 1);
        let is_picked = trail.is_notable;
        let mut ring = if is_picked { self.picked.borrow_mut() } else { self.others.borrow_mut() };
        let kept = ring.next(request);
        (kept.id, kept.at) = (count << WORKER_BITS | self.worker, process::coarse_time());
        (kept.client, kept.destination, kept.version) = (request.client, request.destination, request.version);
        kept.method.set(request.method);
        mask::target_into(request.path, &mut kept.path);
        (kept.verdict, kept.session) = outcome(steering);
        // Who filters answer for is who said so.
        if matches!(kept.verdict, Verdict::Respond | Verdict::Abort) {
            kept.session = trail.sessions().last().map(|asked| asked.session);
        }
        (kept.trail, kept.ns) = (trail, ns);
        if self.is_followed.get() {
            self.tell(kept, is_picked);
        }
    }

    #[cold]
    fn tell(&self, kept: &Kept, is_picked: bool) {
        let mut followers = self.followers.borrow_mut();
        followers.retain_mut(|follower| !follower.news.is_closed() && follower.tell(kept, is_picked));
        self.is_followed.set(!followers.is_empty());
    }

    /// Tells all that comes from now on.
    pub fn follow(&self, news: mpsc::Sender<News>, picked: bool) {
        self.followers.borrow_mut().push(Follower { news, picked, missed: 0 });
        self.is_followed.set(true);
    }

    /// What is kept, oldest first.
    pub fn read(&self, query: Query) -> Vec<Kept> {
        let (others, picked) = (self.others.borrow(), self.picked.borrow());
        let others = others.0.iter().filter(|_| !query.picked);
        let mut found: Vec<&Kept> = others.chain(&picked.0).filter(|kept| query.id.is_none_or(|id| id == kept.id)).collect();
        found.sort_unstable_by_key(|kept| kept.id);
        found[found.len().saturating_sub(query.last)..].iter().map(|kept| (*kept).clone()).collect()
    }
}

impl Follower {
    /// `false`: nobody listens any more.
    fn tell(&mut self, kept: &Kept, is_picked: bool) -> bool {
        if self.picked && !is_picked {
            return true;
        }
        // One place is for the next line that tells how many were missed.
        if self.news.capacity() < 2 {
            self.missed += 1;
            return true;
        }
        if self.missed > 0 {
            let _ = self.news.try_send(News::Missed(std::mem::take(&mut self.missed)));
        }
        !matches!(self.news.try_send(News::Decision(Box::new(kept.clone()))), Err(mpsc::error::TrySendError::Closed(_)))
    }
}

/// Grows to [`KEPT`] and is written over from then on.
#[derive(Default)]
struct Ring(Vec<Kept>, usize);

impl Ring {
    /// The place to write to. `request` only fills a new one.
    fn next(&mut self, request: &RequestParts<'_>) -> &mut Kept {
        if self.0.len() < KEPT {
            self.grow(request);
        }
        let at = self.1;
        self.1 = if at + 1 == KEPT { 0 } else { at + 1 };
        &mut self.0[at]
    }

    #[cold]
    fn grow(&mut self, request: &RequestParts<'_>) {
        // All at once: pages that are not written to are no memory yet.
        self.0.reserve_exact(KEPT - self.0.len());
        self.0.push(Kept {
            id: 0,
            at: 0,
            client: request.client,
            destination: request.destination,
            version: request.version,
            method: Text::default(),
            path: Text::default(),
            verdict: Verdict::Pass,
            session: None,
            trail: Trail::default(),
            ns: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> RequestParts<'_> {
        let address = ([127, 0, 0, 1], 1).into();
        RequestParts {
            method: b"GET",
            path: path.as_bytes(),
            headers: &[],
            client: address,
            destination: address,
            version: Version::Http11,
            end: true,
        }
    }

    fn keep(decisions: &Decisions, path: &str, verdict: Verdict) {
        let mut trail = Trail::default();
        trail.asked(Asked { session: 7, decider: Some(0), verdict, ..Asked::default() });
        decisions.keep(&request(path), &Steering::default(), trail, None);
    }

    fn paths(decisions: &Decisions, query: Query) -> Vec<String> {
        decisions.read(query).iter().map(Kept::path).collect()
    }

    #[test]
    fn the_last_are_kept_and_the_many_do_not_wash_away_the_picked() {
        let decisions = Decisions::new(3);
        keep(&decisions, "/mine", Verdict::Steal);
        for number in 0..3 * KEPT {
            keep(&decisions, &format!("/{number}"), Verdict::Pass);
        }
        assert_eq!(paths(&decisions, Query { last: 2, ..Query::default() }), [format!("/{}", 3 * KEPT - 2), format!("/{}", 3 * KEPT - 1)]);
        assert_eq!(paths(&decisions, Query { last: 9, picked: true, id: None }), ["/mine"]);
        let all = decisions.read(Query { last: usize::MAX, ..Query::default() });
        assert_eq!((all.len(), all[0].path().as_str()), (KEPT + 1, "/mine"));
        assert_eq!(paths(&decisions, Query { last: 9, id: Some(all[0].id), picked: false }), ["/mine"]);
        assert_eq!(all[0].id % 64, 3);
    }

    #[test]
    fn more_sessions_than_there_are_places_are_counted() {
        let decisions = Decisions::new(0);
        let mut trail = Trail::default();
        (1..=7).for_each(|session| trail.asked(Asked { session, ..Asked::default() }));
        decisions.keep(&request("/"), &Steering::default(), trail, Some(5));
        let kept = &decisions.read(Query { last: 1, ..Query::default() })[0];
        assert_eq!((kept.trail().sessions().len(), kept.asked_too(), kept.ns), (4, 3, Some(5)));
    }

    #[test]
    fn what_links_say_stays_with_their_session_and_is_bounded() {
        let said = |link, reason: Option<&str>| Said { link, failed: None, reason: reason.map(Into::into), ns: Some(5) };
        let asked = |session, decider, verdict| Asked { session, decider, verdict, ..Asked::default() };
        let mut trail = Trail::default();
        trail.asked_in_full(asked(1, Some(1), Verdict::Mirror), vec![said(0, Some("looked")), said(1, None)], Some("a copy".into()));
        trail.asked(asked(2, None, Verdict::Pass));
        trail.asked_in_full(asked(3, Some(7), Verdict::Steal), Vec::new(), Some("mine".into()));
        type Told = Vec<(u8, Option<String>)>;
        let told = |trail: &Trail| -> Vec<(SessionId, Told)> {
            let one = |said: &Said| (said.link, said.reason.as_deref().map(str::to_owned));
            trail.answers().map(|(asked, said)| (asked.session, said.iter().map(one).collect())).collect()
        };
        let first = vec![(0, Some("looked".into())), (1, Some("a copy".into()))];
        assert_eq!(told(&trail), [(1, first), (2, vec![]), (3, vec![(7, Some("mine".into()))])]);
        assert_eq!(trail.reason(), Some("mine"));
        // However much they say, little is kept, and each still by its own session.
        for session in 4..10 {
            trail.asked_in_full(asked(session, None, Verdict::Pass), (0..100).map(|link| said(link, Some("x"))).collect(), None);
        }
        let all = told(&trail);
        assert_eq!((all.len(), all[3].0, all[3].1.len()), (4, 4, MAX_SAID - 3));
        assert_eq!(trail.said.iter().filter(|said| said.reason.is_some()).count(), MAX_REASONS);
    }

    #[test]
    fn who_follows_hears_all_or_how_much_was_missed() {
        let decisions = Decisions::new(0);
        let (tx, mut rx) = mpsc::channel(4);
        decisions.follow(tx, false);
        (0..10).for_each(|_| keep(&decisions, "/a", Verdict::Pass));
        let mut heard = 0;
        while let Ok(News::Decision(_)) = rx.try_recv() {
            heard += 1;
        }
        keep(&decisions, "/b", Verdict::Pass);
        assert!(matches!(rx.try_recv(), Ok(News::Missed(missed)) if missed + heard == 10));
        assert!(matches!(rx.try_recv(), Ok(News::Decision(kept)) if kept.path() == "/b"));
        drop(rx);
        keep(&decisions, "/c", Verdict::Pass);
        assert!(!decisions.is_followed());
    }
}
