//! What the workers count, shared with the control thread. A gauge is a guard: dropping it counts down.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::gateway::steer::Event;

/// Counters of all workers together.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client connections that are on the gateway now.
    pub open: AtomicUsize,
    /// Client connections ever accepted.
    pub accepted: AtomicU64,
    pub opaque: AtomicU64,
    pub copies_dropped: AtomicU64,
    pub fell_back: AtomicU64,
    pub bad_gateway: AtomicU64,
    pub filter_faults: AtomicU64,
}

/// One open client connection.
pub struct OpenConnection(Arc<Counters>);

impl Counters {
    pub fn connection(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
        OpenConnection(self.clone())
    }

    pub fn note(&self, event: Event) {
        let counter = match event {
            Event::Opaque(_) => &self.opaque,
            Event::CopyDropped => &self.copies_dropped,
            Event::FellBack => &self.fell_back,
            Event::BadGateway => &self.bad_gateway,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
