//! The sessions of this agent and the ports that they subscribe: plain data on the control thread. What follows from it (the
//! workers' tables, the redirect rules) is made by [`crate::app`] from [`Sessions::ports`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::SystemTime,
};

use mirrord_filters::Filter;
use mirrord_protocol::{
    control::{Ambiguous, Event, Mode, Owner},
    limits::{MAX_PORTS, MAX_SESSIONS},
};
use tokio::sync::{mpsc, watch};

use crate::{
    gateway::steer::SessionId,
    records::exchanges::{Lines, Wanted},
};

/// What workers need of a session.
#[derive(Clone)]
pub struct SessionSpec {
    pub id: SessionId,
    pub mode: Mode,
    pub ambiguous: Ambiguous,
    /// The chain, in order; empty: everything is picked.
    pub filters: Vec<Filter>,
    /// The ports on which the chain is asked; on others everything is picked. Nothing: on all.
    pub filter_ports: Option<Vec<u16>>,
    /// Responses to requests that its filters took tell so.
    pub show_decision: bool,
    /// worker --faults, filters' log lines--> session's user; full means that lines are dropped.
    pub notices: mpsc::Sender<Event>,
    /// What a session that only looks wants to see, and where it goes.
    pub inspects: Option<(Wanted, Lines)>,
}

impl SessionSpec {
    /// Whether its filters are asked on this port.
    pub fn filters_on(&self, port: u16) -> bool {
        self.filter_ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

/// One `mirrord exec`.
pub struct Session {
    pub spec: SessionSpec,
    pub owner: Owner,
    pub priority: i32,
    pub token: [u8; 16],
    pub ports: BTreeSet<u16>,
    /// When it was opened.
    pub since: SystemTime,
    /// Its machine does not answer.
    pub is_aside: bool,
    /// Delivery connections that have shaken hands with their workers.
    pub linked: watch::Sender<BTreeSet<u16>>,
}

/// Why a session or a port was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionsError {
    #[error("this agent has {MAX_SESSIONS} sessions already")]
    TooManySessions,
    #[error("a session may subscribe at most {MAX_PORTS} ports")]
    TooManyPorts,
    #[error("the session has ended")]
    Gone,
}

/// All sessions, by age.
#[derive(Default)]
pub struct Sessions {
    last_id: SessionId,
    by_id: BTreeMap<SessionId, Session>,
}

impl Sessions {
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// An id for a new session; ids grow with age.
    pub fn new_id(&mut self) -> Result<SessionId, SessionsError> {
        if self.by_id.len() >= MAX_SESSIONS {
            return Err(SessionsError::TooManySessions);
        }
        self.last_id += 1;
        Ok(self.last_id)
    }

    pub fn insert(&mut self, session: Session) {
        self.by_id.insert(session.spec.id, session);
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.by_id.remove(&id)
    }

    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// What `/state` tells of a session's chain from now on.
    pub fn set_filters(&mut self, id: SessionId, filters: Vec<Filter>) {
        if let Some(session) = self.by_id.get_mut(&id) {
            session.spec.filters = filters;
        }
    }

    /// Takes note that a session's machine does not answer, or does again.
    pub fn set_aside(&mut self, id: SessionId, is_aside: bool) -> Option<&Session> {
        let session = self.by_id.get_mut(&id)?;
        session.is_aside = is_aside;
        Some(session)
    }

    pub fn by_token(&self, token: &[u8; 16]) -> Option<&Session> {
        self.by_id.values().find(|session| session.token == *token)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_id.values()
    }

    /// Adds a port to a session. `Ok(Some(owner))`: another session steals the whole port already, so this one waits behind it.
    pub fn subscribe(&mut self, id: SessionId, port: u16) -> Result<Option<Owner>, SessionsError> {
        let ahead = |session: &&Session| {
            let takes_all = session.spec.filters.is_empty() || !session.spec.filters_on(port);
            session.spec.id != id && session.ports.contains(&port) && session.spec.mode == Mode::Steal && takes_all
        };
        let holder = self.by_id.values().find(ahead).map(|session| session.owner.clone());
        let session = self.by_id.get_mut(&id).ok_or(SessionsError::Gone)?;
        if session.ports.len() >= MAX_PORTS {
            return Err(SessionsError::TooManyPorts);
        }
        session.ports.insert(port);
        Ok(holder)
    }

    pub fn unsubscribe(&mut self, id: SessionId, port: u16) {
        if let Some(session) = self.by_id.get_mut(&id) {
            session.ports.remove(&port);
        }
    }

    /// The subscribers of each port in the order in which they are asked: higher priority first, then the older.
    pub fn ports(&self) -> HashMap<u16, Vec<SessionId>> {
        let mut ports: HashMap<u16, Vec<SessionId>> = HashMap::new();
        for session in self.by_id.values() {
            for &port in &session.ports {
                ports.entry(port).or_default().push(session.spec.id);
            }
        }
        for ids in ports.values_mut() {
            ids.sort_by_key(|id| (self.by_id.get(id).map_or(0, |session| -i64::from(session.priority)), *id));
        }
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sessions: &mut Sessions, mode: Mode, priority: i32) -> SessionId {
        let id = sessions.new_id().unwrap();
        let owner = Owner { user: format!("user{id}"), host: "h".into(), pid: 1, command: "c".into() };
        let spec = SessionSpec {
            id,
            mode,
            ambiguous: Ambiguous::Pass,
            show_decision: false,
            filters: Vec::new(),
            filter_ports: None,
            notices: mpsc::channel(1).0,
            inspects: None,
        };
        let (token, ports, since, linked) = ([id as u8; 16], BTreeSet::new(), SystemTime::UNIX_EPOCH, watch::Sender::default());
        sessions.insert(Session { spec, owner, priority, token, ports, since, is_aside: false, linked });
        id
    }

    #[test]
    fn the_order_is_priority_then_age() {
        let mut sessions = Sessions::default();
        let ids: Vec<_> = [0, 5, 0, -1].into_iter().map(|priority| session(&mut sessions, Mode::Mirror, priority)).collect();
        for &id in ids.iter().rev() {
            assert_eq!(sessions.subscribe(id, 80), Ok(None));
        }
        assert_eq!(sessions.ports()[&80], [ids[1], ids[0], ids[2], ids[3]]);
    }

    #[test]
    fn a_second_thief_of_a_whole_port_learns_who_the_first_is() {
        let mut sessions = Sessions::default();
        let (first, second) = (session(&mut sessions, Mode::Steal, 0), session(&mut sessions, Mode::Steal, 0));
        assert_eq!(sessions.subscribe(first, 80), Ok(None));
        assert_eq!(sessions.subscribe(second, 80).unwrap().unwrap().user, "user1");
        assert_eq!(sessions.subscribe(second, 81), Ok(None));
        sessions.remove(first);
        assert_eq!(sessions.ports()[&80], [second]);
        assert_eq!(sessions.subscribe(first, 80), Err(SessionsError::Gone));
    }
}
