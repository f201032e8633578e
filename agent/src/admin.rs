//! What an operator sees: is the agent ready, what does it do, how much of it. Asked on the control socket with any HTTP/2
//! client (`curl --http2-prior-knowledge --unix-socket … http://agent/v1/state`), answered on the control thread from what
//! lies there and from the workers' counters; no worker is asked or held up.

mod filters;
mod metrics;

use std::{sync::Arc, time::UNIX_EPOCH};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use mirrord_protocol::control::{self, ConnectionsState, ErrorReply, FilterState, RedirectState, SessionState, State};
use prometheus_client::{encoding::text, registry::Registry};

use crate::{
    app::{App, failure},
    control::Reply,
    counters::Counters,
    sessions::Session,
};
use metrics::Metrics;

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Ready,
    State,
    Metrics,
}

/// Counters, and the registry that knows their names.
#[derive(Debug)]
pub struct Admin {
    workers: Vec<Arc<Counters>>,
    registry: Registry,
    metrics: Metrics,
}

impl Question {
    /// The question that a path asks.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            control::READY => Some(Question::Ready),
            control::STATE => Some(Question::State),
            control::METRICS => Some(Question::Metrics),
            _ => None,
        }
    }
}

impl Admin {
    pub fn new(workers: Vec<Arc<Counters>>) -> Self {
        let mut registry = Registry::with_prefix("mirrord");
        let metrics = Metrics::new(&mut registry, workers.clone());
        Self { workers, registry, metrics }
    }

    fn connections(&self) -> ConnectionsState {
        let sum = |count: fn(&Counters) -> u64| self.workers.iter().map(|counters| count(counters)).sum();
        ConnectionsState { open: sum(Counters::open), accepted: sum(Counters::accepted) }
    }
}

/// Answers an operator.
pub(crate) async fn answer(app: &App, question: Question) -> Response<Reply> {
    match question {
        Question::Ready => match ready(app).await {
            Ok(()) => reply(StatusCode::OK, JSON, Vec::new()),
            Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, JSON, json(&why)),
        },
        Question::State => reply(StatusCode::OK, JSON, json(&state(app).await)),
        Question::Metrics => match metrics_text(app).await {
            Some(text) => reply(StatusCode::OK, OPEN_METRICS, text.into()),
            None => reply(StatusCode::INTERNAL_SERVER_ERROR, JSON, json(&failure("the metrics cannot be written", "report this"))),
        },
    }
}

/// Whether sessions are taken and their ports can be redirected.
async fn ready(app: &App) -> Result<(), ErrorReply> {
    if app.is_draining() {
        return Err(failure("the agent is draining: it was told to stop", "start a session in a moment, it will start another agent"));
    }
    if !app.workers_run() {
        return Err(failure("a worker has ended", "read the agent's log; end its sessions, the next one starts another agent"));
    }
    if !app.has_target() {
        return Ok(());
    }
    let redirect = app.redirect().await.map_err(|error| failure(error, "read the agent's log"))?;
    match redirect.guard {
        Some(_) => Ok(()),
        None => Err(failure("no guard watches the redirect", "read the agent's log")),
    }
}

async fn state(app: &App) -> State {
    let redirect = app.redirect().await.ok().map(|status| RedirectState {
        ports: status.ports.into_iter().collect(),
        in_flight: status.in_flight,
        leased: status.leased,
        guard_pid: status.guard,
    });
    State {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        netns: app.netns_inode(),
        workers: app.worker_count(),
        draining: app.is_draining(),
        connections: app.admin.connections(),
        redirect,
        sessions: app.sessions.borrow().iter().map(session).collect(),
    }
}

fn session(session: &Session) -> SessionState {
    let filter = |filter: &mirrord_filters::Filter| FilterState { name: filter.name().to_owned(), sha256: filter.sha256().to_owned() };
    SessionState {
        id: session.spec.id,
        owner: session.owner.clone(),
        mode: session.spec.mode,
        ambiguous: session.spec.ambiguous,
        priority: session.priority,
        filters: session.spec.filters.iter().map(filter).collect(),
        ports: session.ports.iter().copied().collect(),
        linked: session.linked.borrow().iter().copied().collect(),
        set_aside: session.is_aside,
        since: session.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    }
}

async fn metrics_text(app: &App) -> Option<String> {
    let redirect = app.redirect().await.ok();
    let Admin { registry, metrics, .. } = &app.admin;
    let sessions = app.sessions.borrow();
    let filters = || sessions.iter().flat_map(|session| &session.spec.filters);
    metrics.sessions.set(sessions.iter().count() as i64);
    metrics.set_aside.set(filters().filter(|filter| filter.set_aside_for().is_some()).count() as i64);
    metrics.redirected_ports.set(redirect.as_ref().map_or(0, |status| status.ports.len() as i64));
    metrics.in_flight.set(redirect.map_or(0, |status| status.in_flight as i64));
    metrics.draining.set(i64::from(app.is_draining()));
    let mut text = String::new();
    text::encode_registry(&mut text, registry).ok()?;
    text::encode_registry(&mut text, &filters::registry(filters())).ok()?;
    text::encode_eof(&mut text).ok()?;
    Some(text)
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    // For eyes: curl writes it to a terminal.
    bytes.push(b'\n');
    bytes
}

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Reply> {
    let mut response = Response::new(Reply::Bytes(Some(Bytes::from(body)).filter(|body| !body.is_empty())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
