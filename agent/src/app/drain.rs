//! When the agent ends: what it waits for, and what becomes of the connections that are open then.

use std::time::Duration;

use mirrord_protocol::control::Event;
use tokio::time::Instant;

use super::App;
use crate::worker::Order;

/// The first session must come within this time, else whoever started the agent is gone.
const FIRST_SESSION: Duration = Duration::from_secs(15);
/// How often a draining agent looks whether the last connection has ended.
const DRAIN_CHECK: Duration = Duration::from_millis(20);

/// The last part of the grace time, in which connections end as soon as nothing is under way on them; at most so long.
const PARTING: f64 = 0.25;
const MAX_PARTING: Duration = Duration::from_secs(5);
/// How long the ends of connections that were cut off may take to reach their clients.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl App {
    /// Ends when nobody is here and nothing is open. A session that comes meanwhile is served.
    pub(super) async fn idle(&self) {
        let first_session = Instant::now() + FIRST_SESSION.max(self.settings.idle());
        let mut idle_since = Instant::now();
        loop {
            let waits_for_first = !self.was_asked.get() && Instant::now() < first_session;
            if self.is_needed() {
                idle_since = Instant::now();
            }
            let waits = waits_for_first || idle_since.elapsed() < self.settings.idle();
            if !self.is_needed() && !waits && self.is_drained().await && !self.is_needed() {
                return;
            }
            // Only a drain is looked at again and again; else the next change wakes us.
            let again = if self.is_needed() { Duration::from_secs(3600) } else { DRAIN_CHECK };
            let _ = tokio::time::timeout(again, self.changed.notified()).await;
        }
    }

    /// Whether no connection is on the gateway, nor in its backlog (which would be reset with the listeners).
    async fn is_drained(&self) -> bool {
        let on_gateway = self.counters.iter().any(|counters| counters.open() > 0);
        !on_gateway
            && (!self.has_target() || self.firewall(|redirector| redirector.in_flight()).await.is_ok_and(|in_flight| in_flight == 0))
    }

    /// Ends all sessions, redirect first, and gives open connections the grace time.
    pub(super) async fn dismiss(&self, reason: &str) {
        let ids: Vec<_> = self.sessions.borrow().iter().map(|session| session.spec.id).collect();
        for id in &ids {
            if let Some(session) = self.sessions.borrow().get(*id) {
                let _ = session.spec.notices.try_send(Event::Closing { reason: reason.to_owned() });
            }
        }
        for id in ids {
            self.close_session(id).await;
        }
        let grace = self.settings.grace();
        let last = grace.mul_f64(PARTING).min(MAX_PARTING);
        let deadline = Instant::now() + grace;
        if self.drains_until(deadline - last).await {
            return;
        }
        tracing::info!("connections that are idle end now, the others after the response that is under way");
        self.order(|| Order::Part);
        if self.drains_until(deadline).await {
            return;
        }
        tracing::warn!("the grace time is over: connections that are left are cut off");
        // While the rules are there: without them nobody would learn of the end.
        self.order(|| Order::Quit);
        self.drains_until(Instant::now() + LAST_WORDS).await;
    }

    /// Whether all connections have ended before the deadline.
    async fn drains_until(&self, deadline: Instant) -> bool {
        loop {
            if self.is_drained().await {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(DRAIN_CHECK).await;
        }
    }
}
