//! Bodies of the agent's `/v1` HTTP/2 service, as JSON: readable with curl, and a newer peer may add fields.
//!
//! | request | body → reply | |
//! |---|---|---|
//! | `POST /v1/filters` | Wasm bytes → [`FilterReply`] | the module is compiled; idempotent by content |
//! | `POST /v1/session` | [`SessionRequest`] → [`Event`] lines | the session lives as long as this exchange; one for a connection |
//! | `PUT /v1/subscriptions/PORT` | empty → empty | answered once the port's traffic reaches the gateway |
//! | `DELETE /v1/subscriptions/PORT` | empty → empty | answered once new connections reach the pod alone |
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
/// Prefix of the subscription paths, followed by the port in decimal.
pub const SUBSCRIPTIONS: &str = "/v1/subscriptions/";
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterLink {
    /// SHA-256 of the uploaded module, lower-case hex, from [`FilterReply`].
    pub sha256: String,
    /// Configuration handed to the filter as it is; most filters read JSON.
    #[serde(default)]
    pub config: String,
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
    /// Order among sessions on one port: higher first, then the older.
    #[serde(default)]
    pub priority: i32,
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
            chain: vec![FilterLink { sha256: "ab".into(), config: "{}".into() }],
            ambiguous: Ambiguous::Pass,
            priority: 0,
        };
        let json = r#"{"owner":{"user":"ann","host":"laptop","pid":7,"command":"python3"},"mode":"steal","chain":[{"sha256":"ab","config":"{}"}],"ambiguous":"pass","priority":0}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<SessionRequest>(json).unwrap(), request);
    }

    #[test]
    fn fields_that_came_later_may_be_absent_and_unknown_ones_are_ignored() {
        let json = r#"{"owner":{"user":"a","host":"b","pid":1,"command":"c"},"mode":"mirror","later":true}"#;
        let request: SessionRequest = serde_json::from_str(json).unwrap();
        assert_eq!((request.ambiguous, request.priority, request.chain.len()), (Ambiguous::Pass, 0, 0));
    }

    #[test]
    fn events_keep_their_shape() {
        let opened = Event::Opened { id: 1, token: "t".into(), workers: 2 };
        assert_eq!(serde_json::to_string(&opened).unwrap(), r#"{"opened":{"id":1,"token":"t","workers":2}}"#);
        let notice = Event::Notice { level: Level::Warn, message: "m".into() };
        assert_eq!(serde_json::to_string(&notice).unwrap(), r#"{"notice":{"level":"warn","message":"m"}}"#);
    }
}
