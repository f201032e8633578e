//! Bodies of the agent's `/v1` HTTP/2 service, as JSON: readable with curl, and a newer peer may add fields.
//!
//! | request | body → reply | |
//! |---|---|---|
//! | `POST /v1/filters` | Wasm bytes → [`FilterReply`] | the module is compiled; idempotent by content |
//! | `POST /v1/session` | [`SessionRequest`] → [`Event`] lines | the session lives as long as this exchange; one for a connection |
//! | `PUT /v1/session/filters` | [`SwapRequest`] → empty | other filters for the open session; answered once all workers use them |
//! | `PUT /v1/subscriptions/PORT` | empty → empty | answered once the port's traffic reaches the gateway |
//! | `DELETE /v1/subscriptions/PORT` | empty → empty | answered once new connections reach the pod alone |
//! | `GET /v1/env?container=ID` | empty → [`Environment`] | of one of the target's containers; without an id of the agent's own |
//! | `GET /v1/ready` | empty → empty or [`ErrorReply`] | 200: sessions are taken; 503: why not |
//! | `GET /v1/state` | empty → [`State`] | the agent, its sessions, redirect and connections |
//! | `GET /v1/metrics` | empty → OpenMetrics text | for Prometheus |
//!
//! Asking the last three does not keep an agent alive that nobody needs.
//!
//! A failure is a status ≥ 400 with an [`ErrorReply`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of this service, the first part of every path.
pub const VERSION: u32 = 1;
/// Path to upload a filter module.
pub const FILTERS: &str = "/v1/filters";
/// Path that opens the session of a connection.
pub const SESSION: &str = "/v1/session";
/// Path that gives the session other filters.
pub const SESSION_FILTERS: &str = "/v1/session/filters";
/// Prefix of the subscription paths, followed by the port in decimal.
pub const SUBSCRIPTIONS: &str = "/v1/subscriptions/";
/// Path that tells whether the agent takes sessions.
pub const READY: &str = "/v1/ready";
/// Path of a container's [`Environment`].
pub const ENVIRONMENT: &str = "/v1/env";
/// Path of the agent's [`State`].
pub const STATE: &str = "/v1/state";
/// Path of the agent's counters.
pub const METRICS: &str = "/v1/metrics";
/// Request header that names an uploaded filter in logs and errors (its file name).
pub const FILTER_NAME: &str = "mirrord-filter-name";

/// What a session does with the requests that its filters pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The pod answers; the session gets a copy, and its answer is thrown away.
    Mirror,
    /// The session answers.
    Steal,
    /// The pod answers, and the session only looks (`POST /v1/inspect`): its filters have no effect.
    Inspect,
}

/// What becomes of bytes that cannot be read as HTTP for certain, on a port with filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ambiguous {
    /// They go to the pod as they came, and so does all that follows on that connection.
    #[default]
    Pass,
    /// They are answered 400 and the pod gets nothing: for filters that must not be evaded.
    Refuse,
}

/// Who opens a session, for logs, conflicts and `/state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Login name.
    pub user: String,
    /// Host name of the user's machine.
    pub host: String,
    /// Process id of the command line there.
    pub pid: u32,
    /// The program that is run, without its arguments (they may hold secrets).
    pub command: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({}, pid {})", self.user, self.host, self.command, self.pid)
    }
}

/// One link of a session's filter chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterLink {
    /// SHA-256 of the uploaded module, lower-case hex, from [`FilterReply`]; empty for a declared filter.
    pub sha256: String,
    /// Configuration handed to the filter as it is; most filters read JSON. Of a declared filter, its condition.
    #[serde(default)]
    pub config: String,
    /// Hosts that a proxy-wasm filter's HTTP calls may reach: what it calls them, and `host:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<(String, String)>,
    /// What the filter is made of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: FilterKind,
    /// What a request meets when the filter fails.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// Whether requests share an instance.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: Isolation,
    /// Limits other than the agent's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: FilterLimits,
}

/// What a filter is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterKind {
    /// An uploaded module.
    #[default]
    Wasm,
    /// A condition in the words of `http_filter` of the config file.
    Declared,
}

/// What a request meets when a filter fails, or is set aside because it failed too often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// As if the filter said nothing.
    #[default]
    Pass,
    /// The session gets it.
    Steal,
    /// It is answered 503.
    Deny,
}

/// Whether requests share an instance of a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// One instance for all requests of a worker.
    #[default]
    Shared,
    /// A fresh one for each request.
    Fresh,
}

/// Limits of one filter; what is absent is as the agent has it. The agent brings back into reason what is out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FilterLimits {
    /// Longest call, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_ms: Option<u32>,
    /// Longest first start with its configuration, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configure_ms: Option<u32>,
    /// Memory of an instance, KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u32>,
    /// Failures in a row after which it is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults_in_a_row: Option<u32>,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Gives the session of the connection other filters. Modules are uploaded before. What is under way ends with the old filters; if
/// one of the new ones is refused, nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapRequest {
    /// The whole new chain, in order. Empty if, and only if, the session has no filters.
    pub chain: Vec<FilterLink>,
}

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Who asks.
    pub owner: Owner,
    /// What becomes of picked requests.
    pub mode: Mode,
    /// The filters, asked in order; the first that does not pass a request decides. Empty: every connection is picked.
    #[serde(default)]
    pub chain: Vec<FilterLink>,
    /// What becomes of bytes that no filter can judge.
    #[serde(default)]
    pub ambiguous: Ambiguous,
    /// Whether responses to requests that the session's own filters took say so, in a header `x-mirrord-decision`.
    #[serde(default)]
    pub show_decision: bool,
    /// Order among sessions on one port: higher first, then the older.
    #[serde(default)]
    pub priority: i32,
    /// The target's ports on which the filters are asked; on all others every connection is picked, as without filters. Absent: on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_ports: Option<Vec<u16>>,
}

/// Variable in which an agent that is a container of the target's own pod finds a file of its keys (`ca.crt`, `tls.crt`, `tls.key`).
#[must_use]
pub fn key_variable(name: &str) -> String {
    format!("MIRRORD_AGENT_{}", name.replace('.', "_").to_uppercase())
}

/// What a container's first process was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The container's host name.
    pub hostname: String,
    /// Names and values, in their order. What is no UTF-8 in them is replaced.
    pub variables: Vec<(String, String)>,
}

/// Reply to an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterReply {
    /// SHA-256 of the module, lower-case hex.
    pub sha256: String,
}

/// One line of a session's reply; the first is [`Event::Opened`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The session exists. The intproxy now dials one delivery connection for each worker.
    Opened {
        /// Session id, unique within the agent.
        id: u64,
        /// Secret that delivery connections present, 32 hex digits.
        token: String,
        /// Number of worker threads.
        workers: u16,
        /// Whether the agent takes delivery connections that pass sockets.
        #[serde(default)]
        passes_sockets: bool,
    },
    /// Something that the session's user should read: a filter's fault or log line, a conflict, copies that were dropped.
    Notice {
        /// How much it matters.
        level: Level,
        /// One line, with the next step if there is one.
        message: String,
    },
    /// The agent ends the session.
    Closing {
        /// Why, and what to do.
        reason: String,
    },
}

/// Weight of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For information.
    Info,
    /// Something works less well than asked for.
    Warn,
    /// Something does not work.
    Error,
}

/// The agent as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of the agent's program.
    pub version: String,
    /// The agent's process id in its own process namespace.
    pub pid: u32,
    /// Inode of the target's network namespace (`stat -L -c %i /proc/PID/ns/net`).
    pub netns: u64,
    /// Number of worker threads.
    pub workers: u16,
    /// Whether the agent gives the pod its traffic back and takes no more sessions.
    pub draining: bool,
    /// Clients' connections on the gateway.
    pub connections: ConnectionsState,
    /// What is redirected; absent once the redirect has been removed.
    pub redirect: Option<RedirectState>,
    /// By age.
    pub sessions: Vec<SessionState>,
}

/// Clients' connections that were redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsState {
    /// Now.
    pub open: u64,
    /// Since the agent's start.
    pub accepted: u64,
}

/// The redirect's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectState {
    /// Ports whose new connections reach the gateway.
    pub ports: Vec<u16>,
    /// Connections on the gateway's port as the kernel counts them, those that are not accepted yet included.
    pub in_flight: usize,
    /// Whether the rules end by themselves if the agent does not renew them.
    pub leased: bool,
    /// The process that removes the rules if the agent dies.
    pub guard_pid: Option<u32>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Its id, unique within the agent.
    pub id: u64,
    /// Whose it is.
    pub owner: Owner,
    /// What becomes of picked requests.
    pub mode: Mode,
    /// What becomes of bytes that no filter can judge.
    pub ambiguous: Ambiguous,
    /// Order on a port: higher first, then the older.
    pub priority: i32,
    /// The chain, in order; empty: every connection is picked.
    pub filters: Vec<FilterState>,
    /// Subscribed ports.
    pub ports: Vec<u16>,
    /// Workers that can deliver to it.
    pub linked: Vec<u16>,
    /// Its machine does not answer: meanwhile the pod gets what would be the session's.
    pub set_aside: bool,
    /// When it was opened, seconds since 1970 (UTC).
    pub since: u64,
}

/// A filter of a session. Its configuration is not told: it may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterState {
    /// File name.
    pub name: String,
    /// SHA-256 of the module, lower-case hex.
    pub sha256: String,
}

/// Body of a reply with a status ≥ 400.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What is wrong, one line.
    pub error: String,
    /// What to do next.
    #[serde(default)]
    pub help: String,
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for ErrorReply {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden bytes: an older agent and a newer command line must understand each other.
    #[test]
    fn session_request_keeps_its_shape() {
        let request = SessionRequest {
            owner: Owner { user: "ann".into(), host: "laptop".into(), pid: 7, command: "python3".into() },
            mode: Mode::Steal,
            chain: vec![FilterLink { sha256: "ab".into(), config: "{}".into(), ..FilterLink::default() }],
            ambiguous: Ambiguous::Pass,
            show_decision: false,
            priority: 0,
            filter_ports: None,
        };
        let json = r#"{"owner":{"user":"ann","host":"laptop","pid":7,"command":"python3"},"mode":"steal","chain":[{"sha256":"ab","config":"{}"}],"ambiguous":"pass","show_decision":false,"priority":0}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<SessionRequest>(json).unwrap(), request);
        let ports = SessionRequest { filter_ports: Some(vec![80]), ..request };
        assert!(serde_json::to_string(&ports).unwrap().ends_with(r#","priority":0,"filter_ports":[80]}"#));
    }

    #[test]
    fn links_keep_their_shape() {
        let link = FilterLink {
            sha256: String::new(),
            config: "{}".into(),
            upstreams: Vec::new(),
            kind: FilterKind::Declared,
            on_failure: OnFailure::Deny,
            isolation: Isolation::Fresh,
            limits: FilterLimits { call_ms: Some(5), ..FilterLimits::default() },
        };
        let json = concat!(
            r#"{"chain":[{"sha256":"","config":"{}","kind":"declared","on_failure":"deny","#,
            r#""isolation":"fresh","limits":{"call_ms":5}}]}"#
        );
        let request = SwapRequest { chain: vec![link] };
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<SwapRequest>(json).unwrap(), request);
    }

    #[test]
    fn fields_that_came_later_may_be_absent_and_unknown_ones_are_ignored() {
        let json = r#"{"owner":{"user":"a","host":"b","pid":1,"command":"c"},"mode":"mirror","later":true}"#;
        let request: SessionRequest = serde_json::from_str(json).unwrap();
        assert_eq!((request.ambiguous, request.priority, request.chain.len()), (Ambiguous::Pass, 0, 0));
    }

    #[test]
    fn state_keeps_its_shape() {
        let state = State {
            version: "1".into(),
            pid: 2,
            netns: 3,
            workers: 1,
            draining: false,
            connections: ConnectionsState { open: 4, accepted: 5 },
            redirect: Some(RedirectState { ports: vec![80], in_flight: 6, leased: true, guard_pid: Some(7) }),
            sessions: vec![SessionState {
                id: 8,
                owner: Owner { user: "ann".into(), host: "laptop".into(), pid: 9, command: "python3".into() },
                mode: Mode::Mirror,
                ambiguous: Ambiguous::Pass,
                priority: 0,
                filters: vec![FilterState { name: "header.wasm".into(), sha256: "ab".into() }],
                ports: vec![80],
                linked: vec![0],
                set_aside: true,
                since: 10,
            }],
        };
        let json = concat!(
            r#"{"version":"1","pid":2,"netns":3,"workers":1,"draining":false,"connections":{"open":4,"accepted":5},"#,
            r#""redirect":{"ports":[80],"in_flight":6,"leased":true,"guard_pid":7},"sessions":[{"id":8,"#,
            r#""owner":{"user":"ann","host":"laptop","pid":9,"command":"python3"},"mode":"mirror","ambiguous":"pass","priority":0,"#,
            r#""filters":[{"name":"header.wasm","sha256":"ab"}],"ports":[80],"linked":[0],"set_aside":true,"since":10}]}"#
        );
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
        assert_eq!(serde_json::from_str::<State>(json).unwrap(), state);
    }

    #[test]
    fn events_keep_their_shape() {
        let opened = Event::Opened { id: 1, token: "t".into(), workers: 2, passes_sockets: false };
        assert_eq!(serde_json::to_string(&opened).unwrap(), r#"{"opened":{"id":1,"token":"t","workers":2,"passes_sockets":false}}"#);
        assert_eq!(serde_json::from_str::<Event>(r#"{"opened":{"id":1,"token":"t","workers":2}}"#).unwrap(), opened);
        let notice = Event::Notice { level: Level::Warn, message: "m".into() };
        assert_eq!(serde_json::to_string(&notice).unwrap(), r#"{"notice":{"level":"warn","message":"m"}}"#);
    }
}
