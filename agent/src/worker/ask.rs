//! The gateway's questions, answered from a worker's table: the subscriptions of a port are asked in their order, each one's filters
//! by their chain. What a filter wants beyond a verdict is in `follow.rs`.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use mirrord_filters::{ConnectionParts, Edit, Outcome, Pending, RequestParts, Step, Verdict};
use mirrord_protocol::{
    control::{Ambiguous, Mode},
    records,
};
use mirrord_tunnel::Purse;

use super::{
    follow::Following,
    latency::Timed,
    looking::told,
    passed::Passed,
    table::{Port, Subscription, Worker},
    thread::Stream,
    tied::Tied,
};
use crate::gateway::steer::{Connecting, Event, Flow, Plan, SessionId, Steered, Steering, Surroundings, Target, Undecided, Upstream};

use crate::records::decisions::{Asked, Trail};

/// The response header that tells a session's own requests what became of them and why.
const DECISION: &[u8] = b"x-mirrord-decision";

/// What a session says about a request; with the link of its chain that said so.
enum Answer {
    /// Nothing.
    Pass,
    /// A copy, whoever answers the request.
    Copy(usize),
    /// It is settled who answers.
    Take(usize),
}

/// How far the question about a request is.
#[derive(Default)]
struct Walk {
    steering: Steering,
    following: Option<Box<Following>>,
    /// Subscription and link that picked it: those that settled it, else the first that got a copy.
    picked_by: Option<(usize, usize)>,
    /// What is told of it afterwards.
    trail: Trail,
    /// Since when, if somebody follows the decisions.
    began: Option<Instant>,
    /// Each link's time is taken too.
    is_timed: bool,
}

/// A chain that has not decided, and the place of its subscription.
struct Open {
    at: usize,
    pending: Pending,
    needs_body: bool,
}

impl Open {
    fn new(at: usize, pending: Pending, needs_body: bool) -> Self {
        Open { at, pending, needs_body }
    }
}

impl Worker {
    /// Asks the subscriptions from the `from`th on.
    fn walk(self: &Rc<Self>, port: &Port, from: usize, walk: &mut Walk, request: &RequestParts<'_>) -> Option<Open> {
        let is_probe = self.spares_probes && is_probe(request);
        for (at, subscription) in port.subscriptions.iter().enumerate().skip(from) {
            let id = subscription.subscriber.spec.id;
            // Who asks for a probe by a filter shall have it.
            if !subscription.subscriber.is_linked() || (is_probe && subscription.links.names.is_empty()) {
                continue;
            }
            let answer = if subscription.takes_everything() {
                walk.steering.target = Target::Session(id);
                walk.trail.asked(Asked { verdict: records::Verdict::Steal, ..subscription.asked() });
                Answer::Take(0)
            } else if subscription.links.names.is_empty() {
                walk.steering.copies.push(id);
                walk.trail.asked(Asked { verdict: records::Verdict::Mirror, ..subscription.asked() });
                Answer::Copy(0)
            } else {
                let mut chain = subscription.links.chain.borrow_mut();
                chain.set_timed(walk.is_timed);
                let step = chain.on_request(request);
                drop(chain);
                match step {
                    Step::Decided(outcome) if is_plain_pass(&outcome) => {
                        walk.trail.asked(subscription.asked());
                        Answer::Pass
                    }
                    Step::Decided(outcome) => self.take(subscription, outcome, walk),
                    Step::NeedsBody(pending) => return Some(Open::new(at, pending, true)),
                    Step::Waits(pending) => return Some(Open::new(at, pending, false)),
                }
            };
            if self.note(port, at, answer, walk) {
                break;
            }
        }
        None
    }

    /// Notes what a subscription said; whether that settles it.
    fn note(&self, port: &Port, at: usize, answer: Answer, walk: &mut Walk) -> bool {
        match answer {
            Answer::Pass => false,
            Answer::Copy(link) => {
                port.tally(Some((at, link))).copies.add(1);
                if walk.steering.copies.len() == 1 {
                    walk.picked_by = Some((at, link));
                }
                false
            }
            Answer::Take(link) => {
                walk.picked_by = Some((at, link));
                true
            }
        }
    }

    /// Adds what one session's chain made of a request.
    fn take(self: &Rc<Self>, subscription: &Subscription, outcome: Outcome, walk: &mut Walk) -> Answer {
        let spec = &subscription.subscriber.spec;
        let asked = subscription.said(&outcome);
        let Outcome { verdict, link, request_edits, response_edits, path, delay, reason, faults, said, followers } = outcome;
        walk.trail.asked_in_full(asked, said, reason.clone());
        for fault in &faults {
            self.report(&subscription.subscriber, fault);
        }
        let only_watches = spec.mode != Mode::Steal;
        if let Some(followers) = followers {
            let following = walk.following.get_or_insert_with(|| Box::new(Following::new(self.clone())));
            following.add(subscription, followers, only_watches);
        }
        let link = link.unwrap_or_default();
        if only_watches {
            // It changes nothing: neither heads nor who answers.
            return match verdict {
                Verdict::Pass | Verdict::Respond(_) | Verdict::Abort => Answer::Pass,
                Verdict::Steal | Verdict::Mirror | Verdict::StealAndMirror => {
                    walk.steering.copies.push(spec.id);
                    Answer::Copy(link)
                }
            };
        }
        if !request_edits.is_empty() || !response_edits.is_empty() || path.is_some() || delay.is_some() {
            let extra = walk.steering.extra.get_or_insert_default();
            append(&mut extra.request_edits, request_edits);
            append(&mut extra.response_edits, response_edits);
            extra.path = path.or(extra.path.take());
            extra.delay = delay.map(|delay| delay + extra.delay.unwrap_or_default()).or(extra.delay);
        }
        let word = told(&verdict).as_str();
        walk.steering.target = match verdict {
            Verdict::Pass => return Answer::Pass,
            Verdict::Mirror => {
                walk.steering.copies.push(spec.id);
                return Answer::Copy(link);
            }
            Verdict::Steal => Target::Session(spec.id),
            Verdict::StealAndMirror => {
                walk.steering.extra.get_or_insert_default().pod_copy = true;
                Target::Session(spec.id)
            }
            Verdict::Respond(response) => Target::Respond(response),
            Verdict::Abort => Target::Abort,
        };
        if spec.show_decision {
            let filter = subscription.links.names.get(link).map_or("", |name| name);
            tell(&mut walk.steering, word, filter, reason.as_deref());
        }
        Answer::Take(link)
    }

    /// The end of a walk.
    fn settle(&self, port: &Port, walk: Walk, flow: &Flow, request: &RequestParts<'_>, measured: Option<Instant>) -> Steering {
        let Walk { mut steering, following, picked_by, trail, began, is_timed: _ } = walk;
        port.tally(picked_by).count(&steering.target, !steering.copies.is_empty());
        if let Some(following) = following {
            steering.extra.get_or_insert_default().follow = Some(following);
        }
        let mut took = None;
        if let Some(began) = measured {
            let (decision, decided) = self.stopwatch.decided(began, flow, request.version, &steering.target);
            (took, steering.decided) = (Some(decision), decided);
        }
        if !port.inspectors.is_empty() {
            steering.observer = Some(self.observe(port, request, &steering, &trail));
        }
        let took = began.map(|began| began.elapsed()).or(took);
        self.decisions.keep(request, &steering, trail, took.map(|took| took.as_nanos() as u64));
        steering
    }

    /// Asks the subscriptions from the `from`th on, to the end or to one that has not decided.
    fn steered(
        self: &Rc<Self>,
        port: Rc<Port>,
        mut walk: Walk,
        from: usize,
        request: &RequestParts<'_>,
        flow: &Flow,
        measured: Option<Instant>,
    ) -> Steered {
        match self.walk(&port, from, &mut walk, request) {
            None => Steered::Decided(self.settle(&port, walk, flow, request, measured)),
            Some(open) => Steered::Undecided(Box::new(Question { worker: self.clone(), port, flow: *flow, walk, open })),
        }
    }

    /// Goes on after an undecided chain has decided.
    fn go_on(self: &Rc<Self>, port: Rc<Port>, mut walk: Walk, at: usize, step: Step, request: &RequestParts<'_>, flow: &Flow) -> Steered {
        let open = match step {
            Step::Decided(outcome) => {
                let answer = match port.subscriptions.get(at) {
                    Some(subscription) => self.take(subscription, outcome, &mut walk),
                    None => Answer::Pass,
                };
                if self.note(&port, at, answer, &mut walk) {
                    return Steered::Decided(self.settle(&port, walk, flow, request, None));
                }
                return self.steered(port, walk, at + 1, request, flow, None);
            }
            Step::NeedsBody(pending) => Open::new(at, pending, true),
            Step::Waits(pending) => Open::new(at, pending, false),
        };
        Steered::Undecided(Box::new(Question { worker: self.clone(), port, flow: *flow, walk, open }))
    }
}

/// Whether the kubelet asks how the pod does: that is nobody else's to answer.
fn is_probe(request: &RequestParts<'_>) -> bool {
    let agent = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(b"user-agent"));
    agent.is_some_and(|field| field.value.starts_with(b"kube-probe/"))
}

/// Whether there is nothing to do: so it is with most requests of most filters.
fn is_plain_pass(outcome: &Outcome) -> bool {
    let Outcome { verdict, link: _, request_edits, response_edits, path, delay, reason: _, faults, said, followers } = outcome;
    *verdict == Verdict::Pass
        && request_edits.is_empty()
        && response_edits.is_empty()
        && faults.is_empty()
        && said.is_empty()
        && followers.is_none()
        && path.is_none()
        && delay.is_none()
}

fn append(edits: &mut Vec<Edit>, more: Vec<Edit>) {
    if edits.is_empty() {
        *edits = more;
    } else {
        edits.extend(more);
    }
}

/// Has the response say who picked the request, and why.
fn tell(steering: &mut Steering, word: &str, filter: &str, reason: Option<&str>) {
    let plain = |text: &str| text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect::<String>();
    let mut value = format!("{word}; filter={}", plain(filter));
    if let Some(reason) = reason {
        value.push_str("; reason=");
        value.push_str(&plain(reason));
    }
    let (name, value) = (DECISION.to_vec(), value.trim_end().as_bytes().to_vec());
    match &mut steering.target {
        Target::Respond(response) => response.headers.push((name, value)),
        Target::Abort => {}
        Target::Pod | Target::Session(_) => steering.extra.get_or_insert_default().response_edits.push(Edit::Append { name, value }),
    }
}

impl Port {
    fn tally(&self, picked_by: Option<(usize, usize)>) -> &crate::counters::Tally {
        let found = picked_by.and_then(|(at, link)| self.subscriptions.get(at)?.tallies.get(link));
        found.unwrap_or(&self.nobody)
    }
}

/// A request that one chain has not decided yet. It keeps the filters with which it began.
struct Question {
    worker: Rc<Worker>,
    port: Rc<Port>,
    flow: Flow,
    walk: Walk,
    open: Open,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("at", &self.open.at).field("needs_body", &self.open.needs_body).finish_non_exhaustive()
    }
}

impl Undecided for Question {
    fn window(&self) -> Option<usize> {
        self.open.needs_body.then(|| self.open.pending.window())
    }

    fn with_body(self: Box<Self>, request: &RequestParts<'_>, body: &[u8], end: bool) -> Steered {
        let Question { worker, port, flow, walk, open: Open { at, pending, .. } } = *self;
        let Some(subscription) = port.subscriptions.get(at) else { return Steered::Decided(walk.steering) };
        let mut chain = subscription.links.chain.borrow_mut();
        chain.set_timed(walk.is_timed);
        let step = chain.on_request_body(pending, request, body, end);
        drop(chain);
        worker.go_on(port, walk, at, step, request, &flow)
    }

    fn poll(&mut self, cx: &mut Context<'_>, request: &RequestParts<'_>) -> Poll<Steered> {
        let at = self.open.at;
        let step = match self.port.subscriptions.get(at) {
            Some(subscription) => {
                let mut chain = subscription.links.chain.borrow_mut();
                chain.set_timed(self.walk.is_timed);
                ready!(chain.poll(cx, &mut self.open.pending, request))
            }
            None => Step::Decided(Outcome::default()),
        };
        Poll::Ready(self.worker.go_on(self.port.clone(), std::mem::take(&mut self.walk), at, step, request, &self.flow))
    }

    fn skip(self: Box<Self>, request: &RequestParts<'_>) -> Steering {
        let Question { worker, port, flow, mut walk, mut open } = *self;
        while let Some(subscription) = port.subscriptions.get(open.at) {
            let outcome = subscription.links.chain.borrow_mut().skip(open.pending, request);
            let answer = worker.take(subscription, outcome, &mut walk);
            if worker.note(&port, open.at, answer, &mut walk) {
                break;
            }
            match worker.walk(&port, open.at + 1, &mut walk, request) {
                None => break,
                Some(next) => open = next,
            }
        }
        worker.settle(&port, walk, &flow, request, None)
    }
}

impl Surroundings for Worker {
    type Stream = Timed<Tied<Stream>>;

    fn plan(&self, flow: &Flow) -> Plan {
        let Some(port) = self.port(flow) else { return Plan::Opaque(Upstream::Pod) };
        match port.linked().next() {
            // Whoever inspects the port wants to see requests.
            Some(first) if first.takes_everything() && port.inspectors.is_empty() && !self.spares_probes => {
                Plan::Opaque(Upstream::Session(first.subscriber.spec.id))
            }
            _ => Plan::Read,
        }
    }

    fn steer(self: &Rc<Self>, flow: &Flow, request: &RequestParts<'_>) -> Steered {
        let Some(port) = self.port(flow) else { return Steered::Decided(Steering::default()) };
        let measured = self.stopwatch.begin();
        let began = if self.decisions.is_followed() { Some(Instant::now()) } else { None };
        let is_timed = began.is_some() || measured.is_some();
        self.steered(port, Walk { began, is_timed, ..Walk::default() }, 0, request, flow, measured)
    }

    fn looks_at_connections(&self, flow: &Flow) -> bool {
        self.port(flow).is_some_and(|port| port.linked().any(|one| one.links.look_at_connections))
    }

    fn connection(&self, flow: &Flow, connection: &ConnectionParts<'_>) -> Connecting {
        let mut connecting = Connecting::default();
        let Some(port) = self.port(flow) else { return connecting };
        for subscription in port.linked() {
            let id: SessionId = subscription.subscriber.spec.id;
            if subscription.takes_everything() {
                connecting.target = Target::Session(id);
                break;
            }
            if subscription.links.names.is_empty() {
                connecting.copies.push(id);
                continue;
            }
            if !subscription.links.look_at_connections {
                continue;
            }
            let decision = subscription.links.chain.borrow_mut().on_connection(connection);
            for fault in &decision.faults {
                self.report(&subscription.subscriber, fault);
            }
            match (decision.verdict, subscription.subscriber.spec.mode) {
                (Verdict::Pass | Verdict::Respond(_), _) | (Verdict::Abort, Mode::Mirror) | (_, Mode::Inspect) => continue,
                (Verdict::Mirror, _) | (_, Mode::Mirror) => {
                    connecting.copies.push(id);
                    continue;
                }
                (Verdict::Abort, Mode::Steal) => connecting.target = Target::Abort,
                (Verdict::Steal, Mode::Steal) => connecting.target = Target::Session(id),
                (Verdict::StealAndMirror, Mode::Steal) => (connecting.target, connecting.pod_copy) = (Target::Session(id), true),
            }
            break;
        }
        connecting
    }

    fn refuse_ambiguous(&self, flow: &Flow) -> bool {
        let refuses = |one: &Subscription| one.subscriber.spec.ambiguous == Ambiguous::Refuse;
        self.port(flow).is_some_and(|port| port.subscriptions.iter().any(refuses))
    }

    fn open(self: &Rc<Self>, flow: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Self::Stream>> + 'static {
        self.reach(flow, upstream)
    }

    fn purse(&self, session: SessionId) -> Option<Purse> {
        self.sessions.borrow().get(&session).map(|subscriber| subscriber.purse.clone())
    }

    fn answered(&self, upstream: Upstream, took: Duration) {
        self.stopwatch.answered(upstream, took);
    }

    fn abort(&self, stream: &mut Self::Stream) {
        // A tunnel's stream is reset by being dropped.
        if let Stream::Tcp(socket) | Stream::Passed(Passed { socket, .. }) = &stream.stream.stream {
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    fn is_parting(&self) -> bool {
        self.parting.has_begun()
    }

    fn count(&self, event: Event) {
        self.counters.note(event);
    }
}
