//! Brings each port to what the registry says: open while somebody listens. Changes of one port happen one after the other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    time::timeout,
};

use super::{PortChange, Registry, lock};

/// Less than the layer waits, so that it hears of the failure.
const PATIENCE: Duration = Duration::from_millis(9_500);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Closed,
    Open,
    /// The session has not answered: the port is said again, whichever way.
    Unsure,
}

type Gate = Arc<AsyncMutex<Known>>;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    registry: Registry,
    /// layers --PortChange--> session
    changes: mpsc::Sender<PortChange>,
    gates: Arc<Mutex<HashMap<u16, Gate>>>,
}

impl Ports {
    pub(super) fn new(registry: Registry, changes: mpsc::Sender<PortChange>) -> Ports {
        Ports { registry, changes, gates: Arc::default() }
    }

    /// Opens or closes a port if its listeners have changed. The error says why an open one gets no traffic.
    pub(super) async fn settle(&self, port: u16) -> Result<(), String> {
        let gate = lock(&self.gates).entry(port).or_default().clone();
        let mut known = gate.lock().await;
        match (self.registry.is_open(port), *known) {
            (true, Known::Open) | (false, Known::Closed) => Ok(()),
            (true, _) => {
                *known = Known::Unsure;
                let outcome = self.tell(|done| PortChange::Opened { port, done }).await;
                *known = match &outcome {
                    Some(Ok(())) => Known::Open,
                    Some(Err(_)) => Known::Closed,
                    None => Known::Unsure,
                };
                outcome.unwrap_or_else(|| Err(format!("port {port} could not be opened in time; its traffic stays with the target")))
            }
            (false, _) => {
                *known = Known::Unsure;
                if self.tell(|done| PortChange::Closed { port, done }).await.is_some() {
                    *known = Known::Closed;
                }
                Ok(())
            }
        }
    }

    async fn tell<T>(&self, change: impl FnOnce(oneshot::Sender<T>) -> PortChange) -> Option<T> {
        let (done, outcome) = oneshot::channel();
        let told = async { self.changes.send(change(done)).await.ok().map(|()| outcome)?.await.ok() };
        timeout(PATIENCE, told).await.ok()?
    }
}
