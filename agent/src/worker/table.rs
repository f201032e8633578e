//! A worker's view of ports, sessions and filters, changed by the control thread's orders. `ask.rs` answers the gateway's questions
//! from it, `reach.rs` opens upstreams.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mirrord_filters::{Chain, Fault, Filter};
use mirrord_protocol::control::{Event as Notice, Level, Mode};
use mirrord_tunnel::{Client, Purse};

use super::{
    background,
    latency::Stopwatch,
    passed::Sockets,
    tied::{Ties, UNDER_WAY},
};
use crate::{
    counters::{Counters, Tally},
    gateway::{
        parting::Parting,
        steer::{Flow, SessionId},
    },
    records::{body::Room, decisions::Decisions, exchanges::Inspector},
    sessions::SessionSpec,
    socket::PodConnector,
};

/// A filter that faults all the time is reported once in this time.
const FAULT_NOTICE_EVERY: Duration = Duration::from_secs(1);

/// The version of no chain: what a port has on which its session asks no filter.
const UNFILTERED: u16 = u16::MAX;

/// A session's delivery connection.
#[derive(Clone)]
pub enum Delivery {
    Tunnel(Client),
    Sockets(Sockets),
}

/// A session's filters on this thread. Exchanges that have begun with them keep them until they end, though others may have taken
/// their place for new ones.
pub(super) struct Links {
    pub(super) chain: RefCell<Chain>,
    /// Which of the chains that the session has had.
    pub(super) version: u16,
    /// In order; none: everything is picked.
    pub(super) names: Vec<Arc<str>>,
    /// Whether one of them looks at connections that are no HTTP.
    pub(super) look_at_connections: bool,
}

/// A session as this worker sees it.
pub(super) struct Subscriber {
    /// Its filters are in `links`.
    pub(super) spec: SessionSpec,
    /// The filters that new requests meet.
    links: RefCell<Rc<Links>>,
    /// The delivery connection, once the intproxy has dialled it.
    pub(super) link: RefCell<Option<Delivery>>,
    /// Its streams.
    pub(super) ties: Rc<Ties>,
    /// What its requests have under way here.
    pub(super) purse: Purse,
    /// Its machine stands still: nothing goes to it until it answers again.
    pub(super) is_aside: Cell<bool>,
    last_fault_notice: Cell<Option<Instant>>,
    /// It only looks.
    pub(super) inspector: Option<Rc<Inspector>>,
}

/// A session's subscription of one port.
pub(super) struct Subscription {
    pub(super) subscriber: Rc<Subscriber>,
    pub(super) links: Rc<Links>,
    /// One for each link of the chain; one for a session without filters.
    pub(super) tallies: Vec<Arc<Tally>>,
}

/// A subscribed port.
pub(super) struct Port {
    number: u16,
    /// In the order in which they are asked.
    pub(super) subscriptions: Vec<Subscription>,
    /// Those that only look.
    pub(super) inspectors: Vec<Rc<Subscriber>>,
    /// Requests that nobody picked.
    pub(super) nobody: Arc<Tally>,
}

/// State of one worker thread.
pub struct Worker {
    index: u16,
    pub(super) pod: PodConnector,
    /// The kubelet's probes go to the pod, unless a filter picks them.
    pub(super) spares_probes: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) stopwatch: Rc<Stopwatch>,
    pub(super) parting: Rc<Parting>,
    pub(super) sessions: RefCell<HashMap<SessionId, Rc<Subscriber>>>,
    pub(super) decisions: Decisions,
    /// Of the bodies that inspecting sessions keep.
    pub(super) room: Room,
    ports: RefCell<HashMap<u16, Rc<Port>>>,
}

impl Worker {
    pub fn new(index: u16, pod: PodConnector, spares_probes: bool, counters: Arc<Counters>) -> Self {
        Self {
            index,
            pod,
            spares_probes,
            stopwatch: Rc::new(Stopwatch::new(counters.clone())),
            counters,
            parting: Rc::default(),
            sessions: RefCell::default(),
            decisions: Decisions::new(index),
            room: Room::default(),
            ports: RefCell::default(),
        }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub fn parting(&self) -> &Rc<Parting> {
        &self.parting
    }

    pub fn add_session(self: &Rc<Self>, mut spec: SessionSpec) {
        let links = Links::new(0, std::mem::take(&mut spec.filters));
        let subscriber = Subscriber {
            links: RefCell::new(Rc::new(links)),
            link: RefCell::default(),
            ties: Rc::default(),
            purse: Purse::new(UNDER_WAY),
            is_aside: Cell::default(),
            last_fault_notice: Cell::default(),
            inspector: spec.inspects.clone().map(|(wanted, lines)| Inspector::start(self.index, wanted, lines)),
            spec,
        };
        let subscriber = Rc::new(subscriber);
        self.attend(&subscriber);
        self.sessions.borrow_mut().insert(subscriber.spec.id, subscriber);
    }

    /// Looks after the session's filters between requests, until it has others.
    fn attend(self: &Rc<Self>, subscriber: &Rc<Subscriber>) {
        let (worker, reported) = (Rc::downgrade(self), Rc::downgrade(subscriber));
        let fault = move |fault: &Fault| {
            if let (Some(worker), Some(subscriber)) = (worker.upgrade(), reported.upgrade()) {
                worker.report(&subscriber, fault);
            }
        };
        background::start(&subscriber.links.borrow(), |links| &links.chain, self.pod, fault);
    }

    /// Gives a session other filters. Requests that are under way end with the old ones; all that come after meet the new ones.
    pub fn swap_chain(self: &Rc<Self>, id: SessionId, version: u16, filters: Vec<Filter>) {
        let Some(subscriber) = self.sessions.borrow().get(&id).cloned() else { return };
        *subscriber.links.borrow_mut() = Rc::new(Links::new(version, filters));
        self.attend(&subscriber);
        for port in self.ports.borrow_mut().values_mut() {
            if port.subscriptions.iter().any(|one| Rc::ptr_eq(&one.subscriber, &subscriber)) {
                let subscribers = port.subscriptions.iter().map(|one| &one.subscriber).chain(&port.inspectors);
                *port = Rc::new(Port::new(port.number, subscribers, &self.counters));
            }
        }
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
        let entry = |port: u16, ids: &Vec<SessionId>| Port::new(port, ids.iter().filter_map(|id| sessions.get(id)), &self.counters);
        *self.ports.borrow_mut() = ports.iter().map(|(&port, ids)| (port, Rc::new(entry(port, ids)))).collect();
    }

    pub(super) fn port(&self, flow: &Flow) -> Option<Rc<Port>> {
        self.ports.borrow().get(&flow.destination.port()).cloned()
    }

    /// Tells the session's user about a filter's fault, at most once a second, and that it is set aside; the log has each.
    pub(super) fn report(&self, subscriber: &Subscriber, fault: &Fault) {
        self.counters.fault(fault.kind);
        tracing::warn!(filter = %fault.filter, session = subscriber.spec.id, "{fault}");
        let now = Instant::now();
        if fault.set_aside || subscriber.last_fault_notice.get().is_none_or(|last| now - last >= FAULT_NOTICE_EVERY) {
            subscriber.last_fault_notice.set(Some(now));
            // A user who does not read loses lines; requests never wait.
            let _ = subscriber.spec.notices.try_send(Notice::Notice { level: Level::Warn, message: fault.to_string() });
        }
    }
}

impl Links {
    fn new(version: u16, filters: Vec<Filter>) -> Self {
        let names = filters.iter().map(|filter| filter.name().into()).collect();
        let mut chain = Chain::new(filters);
        // Made now, so that no request waits for it.
        chain.warm_up();
        Links { look_at_connections: chain.wants_connections(), chain: RefCell::new(chain), version, names }
    }
}

impl Subscription {
    fn new(subscriber: &Rc<Subscriber>, port: u16, counters: &Counters) -> Self {
        let links = match subscriber.spec.filters_on(port) {
            true => subscriber.links(),
            false => Rc::new(Links::new(UNFILTERED, Vec::new())),
        };
        let tallies = match links.names.as_slice() {
            [] => vec![counters.tally(port, "")],
            names => names.iter().map(|name| counters.tally(port, name)).collect(),
        };
        Self { subscriber: subscriber.clone(), links, tallies }
    }

    /// Whether nobody who subscribes later is ever asked.
    pub(super) fn takes_everything(&self) -> bool {
        self.subscriber.spec.mode == Mode::Steal && self.links.names.is_empty()
    }
}

impl Port {
    fn new<'a>(number: u16, subscribers: impl Iterator<Item = &'a Rc<Subscriber>>, counters: &Counters) -> Self {
        let (inspectors, others): (Vec<_>, Vec<_>) = subscribers.partition(|one| one.inspector.is_some());
        let subscriptions = others.into_iter().map(|one| Subscription::new(one, number, counters)).collect();
        Port { number, subscriptions, inspectors: inspectors.into_iter().cloned().collect(), nobody: counters.tally(number, "") }
    }

    /// The sessions that can be delivered to.
    pub(super) fn linked(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.iter().filter(|subscription| subscription.subscriber.is_linked())
    }
}

impl Subscriber {
    /// The filters that new requests meet.
    pub(super) fn links(&self) -> Rc<Links> {
        self.links.borrow().clone()
    }

    pub(super) fn is_linked(&self) -> bool {
        !self.is_aside.get() && self.link.borrow().is_some()
    }
}
