//! What the agent tells about requests: decisions that were made (`explain`) and exchanges as they pass (`inspect`). JSON lines,
//! readable with curl; a newer peer may add fields.
//!
//! | request | body → reply | |
//! |---|---|---|
//! | `GET /v1/explain?last=N&id=N&picked&follow` | empty → [`ExplainLine`]s | the last decisions, oldest first; `follow`: and those to come |
//! | `POST /v1/inspect` | [`InspectRequest`] → [`InspectLine`]s | a session that only looks; it lives as long as this exchange |
//! | `DELETE /v1/inspect` | empty → empty | ends it: what was seen so far comes, and then the lines end |
//!
//! Neither holds credentials: a decision has no header, no body, and of a query only the names; an exchange has credentials
//! masked unless they were asked for.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::control::{FilterLink, Level, Mode, Owner, is_default};

/// Path of the decisions.
pub const EXPLAIN: &str = "/v1/explain";
/// Path of the exchanges.
pub const INSPECT: &str = "/v1/inspect";
/// Most decisions that one question gets.
pub const MAX_LAST: usize = 4096;
/// Most bytes of one body that an inspecting session may ask for.
pub const MAX_INSPECT_BODY: usize = 1 << 20;
/// What stands for a value that is not told.
pub const MASK: &str = "…";

/// What a filter said about a request, or what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The next link is asked; if there is none, the pod answers.
    #[default]
    Pass,
    /// The session's program answers.
    Steal,
    /// The pod answers, the session gets a copy.
    Mirror,
    /// The session's program answers, the pod gets a copy.
    StealAndMirror,
    /// The filter answers.
    Respond,
    /// The connection or stream is reset.
    Abort,
}

impl Verdict {
    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Steal => "steal",
            Verdict::Mirror => "mirror",
            Verdict::StealAndMirror => "steal_and_mirror",
            Verdict::Respond => "respond",
            Verdict::Abort => "abort",
        }
    }
}

/// One line of a reply to [`EXPLAIN`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "most lines are decisions, and none is kept")]
pub enum ExplainLine {
    /// A filter that is not asked for now, because it failed again and again.
    SetAside(SetAside),
    /// A decision.
    Decision(Decision),
    /// So many decisions were made faster than they could be told. Only with `follow`.
    Missed(u64),
}

/// A filter that is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Whose it is.
    pub session: u64,
    /// File name.
    pub filter: String,
    /// When it is tried again, milliseconds from now.
    pub tried_again_in: u64,
}

/// What was decided about one request, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Names it within the agent.
    pub id: u64,
    /// Milliseconds since 1970 (UTC), to some 4 ms.
    pub at: u64,
    /// Who asked.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// `HTTP/1.1`, …
    pub protocol: String,
    /// The request's method; a long one is cut.
    pub method: String,
    /// The request's target; the values of its query are masked, and a long one is cut (it then ends in [`MASK`]).
    pub path: String,
    /// Who answered.
    pub verdict: Verdict,
    /// The session that answered, or whose filter did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// The sessions that were asked, in order.
    #[serde(default)]
    pub asked: Vec<Asked>,
    /// How many more were.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asked_too: u64,
    /// The filter's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long all filters together took, nanoseconds: of one request of sixteen, and of each while somebody follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns: Option<u64>,
}

/// What one session's chain said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The session.
    pub session: u64,
    /// Whose it is, and whether it still runs.
    #[serde(default)]
    pub owner: String,
    /// What it does with what it picks.
    pub mode: Mode,
    /// The links that were asked, in order; empty for a session without filters.
    #[serde(default)]
    pub links: Vec<Said>,
    /// What came of it.
    pub verdict: Verdict,
}

/// What one link of a chain said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// File name of the filter.
    pub filter: String,
    /// The beginning of its SHA-256, in hex: which version it was, where a session's filters are replaced while it runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// What went wrong in it, in a word; its failure policy then decided. `set_aside`: it was not called; `skipped`: the request
    /// could not be held until it decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Why, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, nanoseconds, without what it waited for: known when [`Decision::ns`] is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns: Option<u64>,
}

/// Opens an inspecting session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// Who asks.
    pub owner: Owner,
    /// The ports; empty: those on which the target listens now.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Filters that are asked for their verdict, which is told and has no effect.
    #[serde(default)]
    pub chain: Vec<FilterLink>,
    /// Whether headers are told.
    #[serde(default)]
    pub headers: bool,
    /// So many bytes of each body are told.
    #[serde(default)]
    pub body: usize,
    /// Whether credentials are told as they are.
    #[serde(default)]
    pub show_credentials: bool,
}

/// One line of a reply to [`INSPECT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InspectLine {
    /// The first: from now on all new connections to these ports are looked at.
    Inspecting {
        /// The session.
        id: u64,
        /// Its ports.
        ports: Vec<u16>,
    },
    /// An exchange is over.
    Exchange(Box<Exchange>),
    /// What one worker has seen so far.
    Tally(Tally),
    /// Something that the session's user should read.
    Notice {
        /// How much it matters.
        level: Level,
        /// One line.
        message: String,
    },
    /// The agent ends the session.
    Closing {
        /// Why, and what to do.
        reason: String,
    },
}

/// Counts of one worker since the session began. They are right even if exchanges could not be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The worker.
    pub worker: u16,
    /// Requests that have begun.
    pub begun: u64,
    /// Exchanges that are over.
    pub ended: u64,
    /// Of these, those that were not told because the reader was too slow.
    pub dropped: u64,
}

/// A request and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Names it within the session.
    pub id: u64,
    /// When the request's head was complete, microseconds since 1970 (UTC).
    pub at: u64,
    /// Who asked, `IP:PORT`.
    pub client: String,
    /// The address that the client connected to, `IP:PORT`.
    pub destination: String,
    /// `HTTP/1.1`, …
    pub protocol: String,
    /// The request's method.
    pub method: String,
    /// The request's target; in its query, what looks like a credential is masked unless it was asked for.
    pub path: String,
    /// The response's status; absent if none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `grpc-status`, from the trailers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// Bytes of the request's body, without the framing of chunks.
    pub request_bytes: u64,
    /// Bytes of the response's body, likewise.
    pub response_bytes: u64,
    /// Until the response's head, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
    /// Until the end, microseconds.
    pub took: u64,
    /// Who answered: what became of the request in the sessions on this port that do more than look.
    pub verdict: Verdict,
    /// The session that answered, or whose filter did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// The filter that decided so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Its words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What that session's chain said, where something else became of it: a session in mirror mode only gets a copy, and a request that
    /// a program could not take went to the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Verdict>,
    /// What the inspecting session's own chain says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<Would>,
    /// How it ended.
    pub end: End,
    /// In the order in which they came. Only if headers were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<(String, String)>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<(String, String)>,
    /// The body's beginning, if it was asked for and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<Captured>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_body: Option<Captured>,
}

/// What an inspecting session's own chain says about a request. It has no effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// The verdict of the first link that does not pass it.
    pub verdict: Verdict,
    /// That link's file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Its words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong in a link, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The chain would have waited for the request's body, and was not asked further.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undecided: bool,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The response is complete.
    Complete,
    /// One side ended the connection or stream before that, or its bytes could not be read any further.
    #[default]
    Cut,
    /// What follows is no HTTP, by agreement (an upgrade, or CONNECT).
    Upgraded,
}

/// The beginning of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// As text if it is UTF-8, else in base64.
    pub text: String,
    /// Whether it is in base64.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base64: bool,
    /// Whether the body goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_keeps_its_shape() {
        let exchange = Exchange {
            id: 1,
            at: 2,
            client: "10.0.0.1:5".into(),
            destination: "10.0.0.2:80".into(),
            protocol: "HTTP/1.1".into(),
            method: "GET".into(),
            path: "/".into(),
            status: Some(200),
            wait: Some(3),
            took: 4,
            end: End::Complete,
            ..Exchange::default()
        };
        let json = concat!(
            r#"{"exchange":{"id":1,"at":2,"client":"10.0.0.1:5","destination":"10.0.0.2:80","protocol":"HTTP/1.1","method":"GET","path":"/","#,
            r#""status":200,"request_bytes":0,"response_bytes":0,"wait":3,"took":4,"verdict":"pass","end":"complete"}}"#
        );
        let line = InspectLine::Exchange(Box::new(exchange));
        assert_eq!(serde_json::to_string(&line).unwrap(), json);
        assert_eq!(serde_json::from_str::<InspectLine>(json).unwrap(), line);
    }

    #[test]
    fn a_decision_keeps_its_shape() {
        let address = "10.0.0.1:5".parse().unwrap();
        let decision = Decision {
            id: 1,
            at: 2,
            client: address,
            destination: address,
            protocol: "HTTP/2".into(),
            method: "GET".into(),
            path: "/?a=…".into(),
            verdict: Verdict::Steal,
            session: Some(3),
            asked: vec![Asked {
                session: 3,
                owner: "ann@laptop".into(),
                mode: Mode::Steal,
                links: vec![Said {
                    filter: "header.wasm".into(),
                    sha256: "0123456789ab".into(),
                    verdict: Verdict::Steal,
                    fault: None,
                    reason: Some("x-user is me".into()),
                    ns: Some(170),
                }],
                verdict: Verdict::Steal,
            }],
            asked_too: 0,
            reason: Some("x-user is me".into()),
            ns: None,
        };
        let json = concat!(
            r#"{"decision":{"id":1,"at":2,"client":"10.0.0.1:5","destination":"10.0.0.1:5","protocol":"HTTP/2","method":"GET","path":"/?a=…","#,
            r#""verdict":"steal","session":3,"asked":[{"session":3,"owner":"ann@laptop","mode":"steal","#,
            r#""links":[{"filter":"header.wasm","sha256":"0123456789ab","verdict":"steal","reason":"x-user is me","ns":170}],"#,
            r#""verdict":"steal"}],"reason":"x-user is me"}}"#
        );
        let line = ExplainLine::Decision(decision);
        assert_eq!(serde_json::to_string(&line).unwrap(), json);
        assert_eq!(serde_json::from_str::<ExplainLine>(json).unwrap(), line);
    }

    #[test]
    fn a_question_needs_little() {
        let json = r#"{"owner":{"user":"a","host":"b","pid":1,"command":"c"},"later":1}"#;
        let request: InspectRequest = serde_json::from_str(json).unwrap();
        assert_eq!((request.ports, request.body, request.show_credentials), (vec![], 0, false));
    }
}
