//! A worker's view of ports, sessions and filters, and the gateway's questions answered from it.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use mirrord_filters::{Chain, Edit, Fault, Followers, Outcome, RequestParts, ResponseParts, Step, Verdict};
use mirrord_protocol::{
    control::{Ambiguous, Event as Notice, Level, Mode},
    deliver, records,
};
use mirrord_tunnel::{Client, Refusal};

use super::{
    latency::{Stopwatch, Timed},
    passed::{Passed, Sockets},
    thread::Stream,
    tied::{Tied, Ties},
};
use crate::{
    counters::{Counters, Tally},
    gateway::{
        parting::Parting,
        steer::{Event, Flow, Plan, SessionId, Steering, Surroundings, Target, Upstream, Watch},
    },
    records::{
        body::Room,
        decisions::{Asked, Decisions, Trail},
        exchanges::Inspector,
    },
    sessions::SessionSpec,
    socket::PodConnector,
};

/// Exchanges of a session whose response a filter waits for; the oldest are forgotten.
const MAX_WATCHED: usize = 4096;
/// A filter that faults all the time is reported once in this time.
const FAULT_NOTICE_EVERY: Duration = Duration::from_secs(1);

/// A session's delivery connection.
#[derive(Clone)]
pub enum Delivery {
    Tunnel(Client),
    Sockets(Sockets),
}

/// A session as this worker sees it.
pub(super) struct Subscriber {
    pub(super) spec: SessionSpec,
    pub(super) chain: RefCell<Chain>,
    /// Exchanges that a filter follows, by the token of their [`Watch`].
    watched: RefCell<VecDeque<(u64, Box<Followers>)>>,
    next_watch: Cell<u64>,
    /// The delivery connection, once the intproxy has dialled it.
    link: RefCell<Option<Delivery>>,
    /// Its streams.
    ties: Rc<Ties>,
    /// Its machine stands still: nothing goes to it until it answers again.
    is_aside: Cell<bool>,
    last_fault_notice: Cell<Option<Instant>>,
    /// It only looks.
    pub(super) inspector: Option<Rc<Inspector>>,
}

/// A session's subscription of one port.
struct Subscription {
    subscriber: Rc<Subscriber>,
    /// One for each link of the chain; one for a session without filters.
    tallies: Vec<Arc<Tally>>,
}

/// A subscribed port.
pub(super) struct Port {
    /// In the order in which they are asked.
    subscriptions: Vec<Subscription>,
    /// Those that only look.
    pub(super) inspectors: Vec<Rc<Subscriber>>,
    /// Requests that nobody picked.
    nobody: Arc<Tally>,
}

/// What a session says about a request; with the link of its chain that said so.
enum Answer {
    /// Nothing.
    Pass,
    /// A copy, whoever answers the request.
    Copy(usize),
    /// It is settled who answers.
    Take(usize),
}

/// State of one worker thread.
pub struct Worker {
    index: u16,
    pod: PodConnector,
    counters: Arc<Counters>,
    stopwatch: Rc<Stopwatch>,
    parting: Rc<Parting>,
    pub(super) sessions: RefCell<HashMap<SessionId, Rc<Subscriber>>>,
    decisions: Decisions,
    /// Of the bodies that inspecting sessions keep.
    pub(super) room: Room,
    ports: RefCell<HashMap<u16, Rc<Port>>>,
}

impl Worker {
    pub fn new(index: u16, pod: PodConnector, counters: Arc<Counters>) -> Self {
        Self {
            index,
            pod,
            stopwatch: Rc::new(Stopwatch::new(counters.clone())),
            counters,
            parting: Rc::default(),
            sessions: RefCell::default(),
            decisions: Decisions::new(index),
            room: Room::default(),
            ports: RefCell::default(),
        }
    }

    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub fn parting(&self) -> &Rc<Parting> {
        &self.parting
    }

    pub fn add_session(&self, spec: SessionSpec) {
        let mut chain = Chain::new(spec.filters.clone());
        // Made now, so that no request waits for it.
        chain.warm_up();
        let subscriber = Subscriber {
            chain: RefCell::new(chain),
            watched: RefCell::default(),
            next_watch: Cell::default(),
            link: RefCell::default(),
            ties: Rc::default(),
            is_aside: Cell::default(),
            last_fault_notice: Cell::default(),
            inspector: spec.inspects.clone().map(|(wanted, lines)| Inspector::start(spec.id, self.index, wanted, lines)),
            spec,
        };
        self.sessions.borrow_mut().insert(subscriber.spec.id, Rc::new(subscriber));
    }

    /// Forgets a session. Its tunnel's streams are reset when the delivery connection ends, its sockets at once.
    pub fn remove_session(&self, id: SessionId) {
        let Some(subscriber) = self.sessions.borrow_mut().remove(&id) else { return };
        if let Some(Delivery::Sockets(sockets)) = subscriber.link.borrow_mut().take() {
            sockets.end();
        }
        if let Some(inspector) = &subscriber.inspector {
            inspector.end();
        }
    }

    /// Sets a session aside, whose machine stands still, or takes it back. What it has not answered, others do.
    pub fn set_aside(&self, id: SessionId, is_aside: bool) {
        if let Some(subscriber) = self.sessions.borrow().get(&id) {
            subscriber.is_aside.set(is_aside);
            if is_aside {
                subscriber.ties.cut();
            }
        }
    }

    /// Attaches a delivery connection; `false`: the session is gone.
    pub fn link(&self, id: SessionId, delivery: Delivery) -> bool {
        let sessions = self.sessions.borrow();
        let found = sessions.get(&id);
        if let Some(subscriber) = found {
            *subscriber.link.borrow_mut() = Some(delivery);
        }
        found.is_some()
    }

    /// The delivery connection has ended: the session gets nothing more, whatever the control thread knows by now.
    pub fn unlink(&self, id: SessionId) {
        if let Some(subscriber) = self.sessions.borrow().get(&id) {
            subscriber.link.borrow_mut().take();
        }
    }

    pub fn set_ports(&self, ports: &HashMap<u16, Vec<SessionId>>) {
        let sessions = self.sessions.borrow();
        let entry = |port: u16, ids: &Vec<SessionId>| {
            let all = ids.iter().filter_map(|id| sessions.get(id));
            let (inspectors, others): (Vec<_>, Vec<_>) = all.partition(|one| one.inspector.is_some());
            Port {
                subscriptions: others.into_iter().map(|one| Subscription::new(one, port, &self.counters)).collect(),
                inspectors: inspectors.into_iter().cloned().collect(),
                nobody: self.counters.tally(port, ""),
            }
        };
        *self.ports.borrow_mut() = ports.iter().map(|(&port, ids)| (port, Rc::new(entry(port, ids)))).collect();
    }

    fn port(&self, flow: &Flow) -> Option<Rc<Port>> {
        self.ports.borrow().get(&flow.destination.port()).cloned()
    }

    /// Tells the session's user about a filter's fault, at most once a second; the log has each.
    pub(super) fn report(&self, subscriber: &Subscriber, fault: &Fault) {
        self.counters.fault(fault.kind);
        tracing::warn!(filter = %fault.filter, session = subscriber.spec.id, "{fault}");
        let now = Instant::now();
        if subscriber.last_fault_notice.get().is_none_or(|last| now - last >= FAULT_NOTICE_EVERY) {
            subscriber.last_fault_notice.set(Some(now));
            // A user who does not read loses lines; requests never wait.
            let _ = subscriber.spec.notices.try_send(Notice::Notice { level: Level::Warn, message: fault.to_string() });
        }
    }

    /// Asks one session's chain.
    fn ask(&self, subscriber: &Subscriber, request: &RequestParts<'_>, steering: &mut Steering, trail: &mut Trail) -> Answer {
        let mut chain = subscriber.chain.borrow_mut();
        let outcome = match chain.on_request(request) {
            Step::Decided(outcome) => outcome,
            // Nothing is held here: a link that would wait has its failure policy.
            Step::NeedsBody(pending) | Step::Waits(pending) => chain.skip(pending, request),
        };
        trail.asked(subscriber.said(&outcome));
        let Outcome { verdict, link, request_edits, response_edits, faults, followers, reason, .. } = outcome;
        trail.because(reason);
        for fault in &faults {
            self.report(subscriber, fault);
        }
        // A session that only watches changes nothing: neither heads nor who answers.
        if subscriber.spec.mode == Mode::Steal {
            append(&mut steering.request_edits, request_edits);
            append(&mut steering.response_edits, response_edits);
        }
        let link = link.unwrap_or_default();
        match (verdict, subscriber.spec.mode) {
            (Verdict::Pass | Verdict::Abort, _) | (_, Mode::Inspect) | (Verdict::Respond(_), Mode::Mirror) => return Answer::Pass,
            (Verdict::Mirror | Verdict::StealAndMirror, _) | (Verdict::Steal, Mode::Mirror) => {
                steering.copies.push(subscriber.spec.id);
                return Answer::Copy(link);
            }
            (Verdict::Steal, Mode::Steal) => steering.target = Target::Session(subscriber.spec.id),
            (Verdict::Respond(response), Mode::Steal) => steering.target = Target::Respond(response),
        }
        if let Some(followers) = followers.filter(|followers| followers.want_response()) {
            steering.watch = Some(Watch { session: subscriber.spec.id, filter: link, token: subscriber.watch(followers) });
        }
        Answer::Take(link)
    }
}

fn append(edits: &mut Vec<Edit>, more: Vec<Edit>) {
    if edits.is_empty() {
        *edits = more;
    } else {
        edits.extend(more);
    }
}

impl Subscription {
    fn new(subscriber: &Rc<Subscriber>, port: u16, counters: &Counters) -> Self {
        let filters = &subscriber.spec.filters;
        let tallies = match filters.as_slice() {
            [] => vec![counters.tally(port, "")],
            filters => filters.iter().map(|filter| counters.tally(port, filter.name())).collect(),
        };
        Self { subscriber: subscriber.clone(), tallies }
    }
}

impl Port {
    /// The sessions that can be delivered to.
    fn linked(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.iter().filter(|subscription| subscription.subscriber.is_linked())
    }
}

impl Subscriber {
    /// Keeps an exchange's followers until its response comes.
    fn watch(&self, followers: Box<Followers>) -> u64 {
        let token = self.next_watch.get();
        self.next_watch.set(token.wrapping_add(1));
        let mut watched = self.watched.borrow_mut();
        if watched.len() >= MAX_WATCHED {
            watched.pop_front();
        }
        watched.push_back((token, followers));
        token
    }

    fn takes_everything(&self) -> bool {
        self.spec.mode == Mode::Steal && self.spec.filters.is_empty()
    }

    fn is_linked(&self) -> bool {
        !self.is_aside.get() && self.link.borrow().is_some()
    }
}

impl Surroundings for Worker {
    type Stream = Timed<Tied<Stream>>;

    fn plan(&self, flow: &Flow) -> Plan {
        let Some(port) = self.port(flow) else { return Plan::Opaque(Upstream::Pod) };
        let mut copies = Vec::new();
        let mut other = Upstream::Pod;
        for (index, subscriber) in port.linked().map(|subscription| &subscription.subscriber).enumerate() {
            if subscriber.takes_everything() {
                other = Upstream::Session(subscriber.spec.id);
                // Whoever inspects the port wants to see requests.
                if index == 0 && port.inspectors.is_empty() {
                    return Plan::Opaque(other);
                }
                break;
            }
            if subscriber.spec.filters.is_empty() {
                copies.push(subscriber.spec.id);
            }
        }
        Plan::Read { other, copies }
    }

    fn steer(&self, flow: &Flow, request: &RequestParts<'_>) -> Steering {
        let mut steering = Steering::default();
        let Some(port) = self.port(flow) else { return steering };
        let began = self.stopwatch.begin();
        let followed = if self.decisions.is_followed() { Some(Instant::now()) } else { None };
        let mut trail = Trail::default();
        // Who picked it: the one who settled it, else the first who got a copy.
        let mut picked_by = &port.nobody;
        for Subscription { subscriber, tallies } in port.linked() {
            let answer = if subscriber.takes_everything() {
                steering.target = Target::Session(subscriber.spec.id);
                trail.asked(Asked { session: subscriber.spec.id, verdict: records::Verdict::Steal, ..Asked::default() });
                Answer::Take(0)
            } else if subscriber.spec.filters.is_empty() {
                steering.copies.push(subscriber.spec.id);
                trail.asked(Asked { session: subscriber.spec.id, verdict: records::Verdict::Mirror, ..Asked::default() });
                Answer::Copy(0)
            } else {
                self.ask(subscriber, request, &mut steering, &mut trail)
            };
            match answer {
                Answer::Pass => {}
                Answer::Copy(link) => {
                    let tally = tallies.get(link).unwrap_or(&port.nobody);
                    tally.copies.add(1);
                    if steering.copies.len() == 1 {
                        picked_by = tally;
                    }
                }
                Answer::Take(link) => {
                    picked_by = tallies.get(link).unwrap_or(&port.nobody);
                    break;
                }
            }
        }
        picked_by.count(&steering.target, !steering.copies.is_empty());
        let mut took = None;
        if let Some(began) = began {
            took = Some(self.stopwatch.decided(began, flow, request.version, &steering.target));
        }
        if !port.inspectors.is_empty() {
            steering.observer = Some(self.observe(&port, request, &steering, &trail));
        }
        let took = followed.map(|followed| followed.elapsed()).or(took);
        self.decisions.keep(request, &steering, trail, took.map(|took| took.as_nanos() as u64));
        steering
    }

    fn response_edits(&self, watch: Watch, response: &ResponseParts<'_>) -> Vec<Edit> {
        let Some(subscriber) = self.sessions.borrow().get(&watch.session).cloned() else { return Vec::new() };
        let mut watched = subscriber.watched.borrow_mut();
        let Some(at) = watched.iter().position(|(token, _)| *token == watch.token) else { return Vec::new() };
        let Some((_, mut followers)) = watched.remove(at) else { return Vec::new() };
        let decision = subscriber.chain.borrow_mut().on_response(&mut followers, response);
        for fault in &decision.faults {
            self.report(&subscriber, fault);
        }
        decision.edits
    }

    fn refuse_ambiguous(&self, flow: &Flow) -> bool {
        let refuses = |one: &Subscription| one.subscriber.spec.ambiguous == Ambiguous::Refuse;
        self.port(flow).is_some_and(|port| port.subscriptions.iter().any(refuses))
    }

    fn open(self: &Rc<Self>, flow: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Timed<Tied<Stream>>>> + 'static {
        let (flow, this) = (*flow, self.clone());
        async move {
            let stream = match upstream {
                Upstream::Pod => Tied { stream: Stream::Tcp(this.pod.connect(flow.destination, flow.client).await?), tie: None },
                Upstream::Session(id) => {
                    let refused = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
                    let subscriber = this.sessions.borrow().get(&id).cloned();
                    let subscriber =
                        subscriber.filter(|one| !one.is_aside.get()).ok_or_else(|| refused("the session has ended or stands still"))?;
                    let link = subscriber.link.borrow().clone().ok_or_else(|| refused("the session has ended"))?;
                    let tie = subscriber.ties.tie().ok_or_else(|| refused("the session has as many streams as it may"))?;
                    let opening = async {
                        match link {
                            Delivery::Tunnel(client) => deliver(&client, &flow).await.map(Stream::Tunnel),
                            Delivery::Sockets(sockets) => sockets.open(&flow).await.map(Stream::Passed),
                        }
                    };
                    tie.hold(opening).await?
                }
            };
            Ok(this.stopwatch.watch(stream, &flow, upstream))
        }
    }

    fn abort(&self, stream: &mut Timed<Tied<Stream>>) {
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

/// Opens a delivery stream; resolves once the intproxy has connected to the program. The gateway limits the time.
async fn deliver(link: &Client, flow: &Flow) -> io::Result<mirrord_tunnel::Stream> {
    let head = Request::post(format!("http://mirrord{}", deliver::PATH))
        .header(deliver::PORT, flow.destination.port())
        .header(deliver::CLIENT, flow.client.to_string())
        .header(deliver::DESTINATION, flow.destination.to_string())
        .body(())
        .map_err(io::Error::other)?;
    match link.open(head).await {
        Ok(stream) => Ok(stream),
        Err(Refusal::Answered(response)) if response.status() == StatusCode::BAD_GATEWAY => {
            let why = response.headers().get(deliver::ERROR).and_then(|why| why.to_str().ok()).unwrap_or("the program does not take it");
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned()))
        }
        Err(Refusal::Answered(response)) => Err(io::Error::other(format!("the intproxy answered {}", response.status()))),
        Err(Refusal::Failed(error)) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, error)),
    }
}
