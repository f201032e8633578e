//! The upstream connections of one client connection: one for the pod and one for each session, opened when first needed
//! and kept as long as the client's.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{sync::watch, task::AbortHandle};

use super::link::{Link, LinkError, Opening, Spent, Windows};
use crate::gateway::steer::{Flow, SessionId, Surroundings, Upstream};

/// A program that takes the connection and says nothing for so long does not serve HTTP/2.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// The pod is as near as a loopback interface.
pub(super) const POD_WINDOWS: Windows = Windows { stream: 256 << 10, connection: 64 << 20 };
/// A session may be a continent away; the connection's window covers the streams that may stall at a time.
const SESSION_WINDOWS: Windows = Windows { stream: 512 << 10, connection: 256 << 20 };
/// What a program answers to a copy is thrown away as it comes.
const COPY_WINDOWS: Windows = Windows { stream: 64 << 10, connection: 1 << 20 };

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Pod,
    Session(SessionId),
    /// A session's program, for copies.
    Copies(SessionId),
}

/// Why an upstream cannot be used, in words.
type Why = Rc<str>;
type Outcome = Option<Result<Link, Why>>;

enum Slot {
    Open(Link),
    Opening(watch::Receiver<Outcome>, AbortHandle),
}

/// Told when the pod's connection takes no more streams.
pub(super) type OnPodSpent = Rc<dyn Fn(Spent)>;

pub(super) struct Upstreams<S: Surroundings> {
    surroundings: Rc<S>,
    flow: Flow,
    /// Few: a list is quicker than a map.
    slots: RefCell<Vec<(Key, Slot)>>,
    on_pod_spent: OnPodSpent,
}

impl<S: Surroundings> Upstreams<S> {
    pub(super) fn new(surroundings: Rc<S>, flow: Flow, on_pod_spent: OnPodSpent) -> Rc<Self> {
        Rc::new(Upstreams { surroundings, flow, slots: RefCell::default(), on_pod_spent })
    }

    /// Keeps a connection that is there already.
    pub(super) fn put(&self, key: Key, link: Link) {
        let mut slots = self.slots.borrow_mut();
        slots.retain(|(other, _)| *other != key);
        slots.push((key, Slot::Open(link)));
    }

    /// The connection if it is open: no waiting, no task.
    pub(super) fn ready(&self, key: Key) -> Option<Link> {
        self.slots.borrow().iter().find_map(|(other, slot)| match slot {
            Slot::Open(link) if *other == key && link.is_usable() => Some(link.clone()),
            _ => None,
        })
    }

    /// The connection, opened if need be. All that ask while it is being opened share one attempt and its failure.
    pub(super) async fn get(self: &Rc<Self>, key: Key) -> Result<Link, Why> {
        if let Some(link) = self.ready(key) {
            return Ok(link);
        }
        let mut outcome_rx = self.opening(key);
        match outcome_rx.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Rc::from("the connection was given up")),
        }
    }

    /// The client is gone: closes all but the connections that still carry copies.
    pub(super) fn close(&self) {
        self.slots.borrow_mut().retain(|(key, slot)| {
            let keep = matches!(key, Key::Copies(_));
            if let (false, Slot::Opening(_, task)) = (keep, slot) {
                task.abort();
            }
            keep
        });
    }

    fn opening(self: &Rc<Self>, key: Key) -> watch::Receiver<Outcome> {
        let mut slots = self.slots.borrow_mut();
        if let Some((_, Slot::Opening(outcome_rx, _))) = slots.iter().find(|(other, _)| *other == key) {
            return outcome_rx.clone();
        }
        slots.retain(|(other, _)| *other != key);
        let (outcome_tx, outcome_rx) = watch::channel(None);
        let this = Rc::downgrade(self);
        let opening = open(self.surroundings.clone(), self.flow, key, self.on_pod_spent.clone());
        let task = tokio::task::spawn_local(async move {
            let outcome = opening.await;
            if let Some(this) = this.upgrade() {
                match &outcome {
                    Ok(link) => this.put(key, link.clone()),
                    // The next request tries again.
                    Err(_) => this.slots.borrow_mut().retain(|(other, _)| *other != key),
                }
            }
            outcome_tx.send_replace(Some(outcome));
        });
        slots.push((key, Slot::Opening(outcome_rx.clone(), task.abort_handle())));
        outcome_rx
    }
}

impl<S: Surroundings> Drop for Upstreams<S> {
    fn drop(&mut self) {
        for (_, slot) in self.slots.borrow().iter() {
            if let Slot::Opening(_, task) = slot {
                task.abort();
            }
        }
    }
}

async fn open<S: Surroundings>(surroundings: Rc<S>, flow: Flow, key: Key, on_pod_spent: OnPodSpent) -> Result<Link, Why> {
    let connected = match key {
        Key::Pod => surroundings.open(&flow, Upstream::Pod).await,
        Key::Session(session) => surroundings.open(&flow, Upstream::Session(session)).await,
        Key::Copies(session) => surroundings.open_copy(&flow, session).await,
    };
    let io = connected.map_err(|error| Rc::from(format!("cannot connect: {error} (check that the program is still running)")))?;
    let windows = match key {
        Key::Pod => POD_WINDOWS,
        Key::Session(_) => SESSION_WINDOWS,
        Key::Copies(_) => COPY_WINDOWS,
    };
    let on_spent: Box<dyn FnOnce(Spent)> = match key {
        Key::Pod => Box::new(move |spent| on_pod_spent(spent)),
        Key::Session(_) | Key::Copies(_) => Box::new(|_| {}),
    };
    let mut opening = Opening::start(io, windows, on_spent).await.map_err(|error| why(&error))?;
    if key == Key::Pod {
        // Whatever the pod does, or does not do, is what the client is to see.
        return Ok(opening.link);
    }
    match opening.greeting(GREETING_LIMIT).await {
        Some(Ok(_)) => Ok(opening.link),
        Some(Err(error)) => Err(why(&error)),
        None => Err(Rc::from("it accepted the connection but does not answer (check that the program is not stopped)")),
    }
}

fn why<T>(error: &LinkError<T>) -> Why {
    Rc::from(error.to_string())
}
