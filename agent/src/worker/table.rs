//! A worker's view of ports, sessions and filters, and the gateway's questions answered from it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use mirrord_filters::{Decision, Edit, Fault, Instance, RequestParts, ResponseParts, Verdict};
use mirrord_protocol::{
    control::{Ambiguous, Event as Notice, Level, Mode},
    deliver,
};
use mirrord_tunnel::{Client, Refusal};

use super::thread::Stream;
use crate::{
    counters::Counters,
    gateway::steer::{Event, Flow, Plan, SessionId, Steering, Surroundings, Target, Upstream, Watch},
    sessions::SessionSpec,
    socket::PodConnector,
};

/// A filter that faults all the time is reported once in this time.
const FAULT_NOTICE_EVERY: Duration = Duration::from_secs(1);

/// A session as this worker sees it.
struct Subscriber {
    spec: SessionSpec,
    /// One instance for each link of the chain.
    chain: RefCell<Vec<Instance>>,
    /// The delivery connection, once the intproxy has dialled it.
    link: RefCell<Option<Client>>,
    last_fault_notice: Cell<Option<Instant>>,
}

/// State of one worker thread.
pub struct Worker {
    pod: PodConnector,
    counters: Arc<Counters>,
    sessions: RefCell<HashMap<SessionId, Rc<Subscriber>>>,
    /// In the order in which they are asked.
    ports: RefCell<HashMap<u16, Rc<[Rc<Subscriber>]>>>,
}

impl Worker {
    pub fn new(pod: PodConnector, counters: Arc<Counters>) -> Self {
        Self { pod, counters, sessions: RefCell::default(), ports: RefCell::default() }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub fn add_session(&self, spec: SessionSpec) {
        let mut chain: Vec<_> = spec.filters.iter().map(|filter| filter.instance()).collect();
        // Made now, so that no request waits for it.
        chain.iter_mut().for_each(Instance::warm_up);
        let chain = RefCell::new(chain);
        let subscriber = Subscriber { chain, link: RefCell::default(), last_fault_notice: Cell::default(), spec };
        self.sessions.borrow_mut().insert(subscriber.spec.id, Rc::new(subscriber));
    }

    /// Forgets a session: its streams are reset by whoever owns them when the delivery connection ends.
    pub fn remove_session(&self, id: SessionId) {
        if let Some(subscriber) = self.sessions.borrow_mut().remove(&id) {
            subscriber.link.borrow_mut().take();
        }
    }

    /// Attaches a delivery connection; `false`: the session is gone.
    pub fn link(&self, id: SessionId, client: Client) -> bool {
        let sessions = self.sessions.borrow();
        let found = sessions.get(&id);
        if let Some(subscriber) = found {
            *subscriber.link.borrow_mut() = Some(client);
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
        let subscribers = |ids: &Vec<SessionId>| ids.iter().filter_map(|id| sessions.get(id).cloned()).collect();
        *self.ports.borrow_mut() = ports.iter().map(|(&port, ids)| (port, subscribers(ids))).collect();
    }

    fn subscribers(&self, flow: &Flow) -> Option<Rc<[Rc<Subscriber>]>> {
        self.ports.borrow().get(&flow.destination.port()).cloned()
    }

    /// Tells the session's user about a filter's fault, at most once a second; the log has each.
    fn report(&self, subscriber: &Subscriber, fault: &Fault) {
        self.counters.filter_faults.fetch_add(1, Relaxed);
        tracing::warn!(filter = %fault.filter, session = subscriber.spec.id, "{fault}; the request passes");
        let now = Instant::now();
        if subscriber.last_fault_notice.get().is_none_or(|last| now - last >= FAULT_NOTICE_EVERY) {
            subscriber.last_fault_notice.set(Some(now));
            // A user who does not read loses lines; requests never wait.
            let _ =
                subscriber.spec.notices.try_send(Notice::Notice { level: Level::Warn, message: format!("{fault}; the request passed") });
        }
    }

    /// Asks one session's chain: the first link that does not pass the request decides.
    fn ask(&self, subscriber: &Subscriber, request: &RequestParts<'_>, steering: &mut Steering) -> bool {
        for (index, filter) in subscriber.chain.borrow_mut().iter_mut().enumerate() {
            let decision = filter.on_request(request);
            if let Some(fault) = &decision.fault {
                self.report(subscriber, fault);
            }
            let Decision { verdict, request_edits, response_edits, wants_response, token, .. } = decision;
            // A session that only watches changes nothing: neither heads nor who answers.
            if subscriber.spec.mode == Mode::Steal {
                append(&mut steering.request_edits, request_edits);
                append(&mut steering.response_edits, response_edits);
            }
            match (verdict, subscriber.spec.mode) {
                (Verdict::Pass, _) => continue,
                (Verdict::Mirror, _) | (Verdict::Steal, Mode::Mirror) => {
                    steering.copies.push(subscriber.spec.id);
                    return false;
                }
                (Verdict::Respond(_), Mode::Mirror) => return false,
                (Verdict::Steal, Mode::Steal) => steering.target = Target::Session(subscriber.spec.id),
                (Verdict::Respond(response), Mode::Steal) => steering.target = Target::Respond(response),
            }
            if wants_response {
                steering.watch = Some(Watch { session: subscriber.spec.id, filter: index, token });
            }
            return true;
        }
        false
    }
}

fn append(edits: &mut Vec<Edit>, more: Vec<Edit>) {
    if edits.is_empty() {
        *edits = more;
    } else {
        edits.extend(more);
    }
}

impl Subscriber {
    fn takes_everything(&self) -> bool {
        self.spec.mode == Mode::Steal && self.spec.filters.is_empty()
    }

    fn is_linked(&self) -> bool {
        self.link.borrow().is_some()
    }
}

impl Surroundings for Worker {
    type Stream = Stream;

    fn plan(&self, flow: &Flow) -> Plan {
        let Some(subscribers) = self.subscribers(flow) else { return Plan::Opaque(Upstream::Pod) };
        let mut copies = Vec::new();
        let mut other = Upstream::Pod;
        for (index, subscriber) in subscribers.iter().filter(|subscriber| subscriber.is_linked()).enumerate() {
            if subscriber.takes_everything() {
                other = Upstream::Session(subscriber.spec.id);
                if index == 0 {
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
        let Some(subscribers) = self.subscribers(flow) else { return steering };
        for subscriber in subscribers.iter().filter(|subscriber| subscriber.is_linked()) {
            if subscriber.takes_everything() {
                steering.target = Target::Session(subscriber.spec.id);
                break;
            }
            if subscriber.spec.filters.is_empty() {
                steering.copies.push(subscriber.spec.id);
            } else if self.ask(subscriber, request, &mut steering) {
                break;
            }
        }
        steering
    }

    fn response_edits(&self, watch: Watch, response: &ResponseParts<'_>) -> Vec<Edit> {
        let Some(subscriber) = self.sessions.borrow().get(&watch.session).cloned() else { return Vec::new() };
        let mut chain = subscriber.chain.borrow_mut();
        let Some(filter) = chain.get_mut(watch.filter) else { return Vec::new() };
        let decision = filter.on_response(watch.token, response);
        if let Some(fault) = &decision.fault {
            self.report(&subscriber, fault);
        }
        decision.edits
    }

    fn refuse_ambiguous(&self, flow: &Flow) -> bool {
        self.subscribers(flow).is_some_and(|all| all.iter().any(|subscriber| subscriber.spec.ambiguous == Ambiguous::Refuse))
    }

    fn open(self: &Rc<Self>, flow: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Stream>> + 'static {
        let (flow, this) = (*flow, self.clone());
        async move {
            match upstream {
                Upstream::Pod => this.pod.connect(flow.destination, flow.client).await.map(Stream::Tcp),
                Upstream::Session(id) => {
                    let link = this.sessions.borrow().get(&id).and_then(|subscriber| subscriber.link.borrow().clone());
                    let link = link.ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, "the session has ended"))?;
                    deliver(&link, &flow).await.map(Stream::Tunnel)
                }
            }
        }
    }

    fn abort(&self, stream: &mut Stream) {
        // A tunnel's stream is reset by being dropped.
        if let Stream::Tcp(socket) = stream {
            let _ = socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
        }
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
