//! The upstream connections of one client connection: one for the pod and one for each session, opened when first needed
//! and kept as long as the client's.

use std::{cell::RefCell, io, pin::Pin, rc::Rc};

use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{
    link::{Link, LinkError, Opening, Spent},
    windows::Windows,
};
use crate::gateway::steer::{Flow, OPENING_TIME, SessionId, Surroundings, Upstream};

/// The pod is as near as a loopback interface.
pub(super) fn pod_windows() -> Rc<Windows> {
    Windows::new(1 << 20, 256 << 10)
}

/// A session may be a continent away.
fn session_windows() -> Rc<Windows> {
    Windows::new(2 << 20, 512 << 10)
}

/// What a program answers to a copy is thrown away as it comes.
fn copy_windows() -> Rc<Windows> {
    Windows::new(1 << 20, 64 << 10)
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Pod,
    Session(SessionId),
    /// A session's program, or the pod, for copies.
    Copies(Upstream),
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
    let (upstream, windows, purse) = match key {
        Key::Pod => {
            let io = surroundings.open(&flow, Upstream::Pod).await.map_err(cannot_connect)?;
            let opening = Opening::start(io, Vec::new(), pod_windows(), None, Box::new(move |spent| on_pod_spent(spent))).await;
            // Whatever the pod does, or does not do, from here is what the client is to see: no limit, no look at its greeting.
            return opening.map(|opening| opening.link).map_err(|error| why(&error));
        }
        Key::Session(session) => {
            (boxed(surroundings.open(&flow, Upstream::Session(session))), session_windows(), surroundings.purse(session))
        }
        Key::Copies(upstream) => (boxed(surroundings.open_copy(&flow, upstream)), copy_windows(), None),
    };
    let opening = async {
        let io = upstream.await.map_err(cannot_connect)?;
        let mut opening = Opening::start(io, Vec::new(), windows, purse, Box::new(|_| {})).await.map_err(|error| why(&error))?;
        opening.greeting().await.map_err(|error| why(&error))?;
        Ok(opening.link)
    };
    let silent = "it does not take the connection, or does not speak on it (check that the program is not stopped)";
    timeout(OPENING_TIME, opening).await.unwrap_or_else(|_| Err(silent.into()))
}

fn boxed<T>(opening: impl Future<Output = T> + 'static) -> Pin<Box<dyn Future<Output = T>>> {
    Box::pin(opening)
}

fn cannot_connect(error: io::Error) -> Why {
    Rc::from(format!("cannot connect: {error} (check that the program is still running)"))
}

fn why<T>(error: &LinkError<T>) -> Why {
    Rc::from(error.to_string())
}
