//! The `/v1` exchanges of one control connection (see `mirrord_protocol::control` for the table of them).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use mirrord_filters::{Filter, LogLevel, LogSink, Module};
use mirrord_protocol::{
    control::{self, Ambiguous, ErrorReply, Event, FilterKind, FilterLink, FilterReply, Level, Mode, Owner, SessionRequest, SwapRequest},
    deliver::token_to_hex,
    limits::{MAX_CHAIN, MAX_CONTROL_BODY, MAX_FILTER_CONFIG, MAX_FILTER_MODULE, MAX_PORTS},
    records::{EXPLAIN, INSPECT},
};
use tokio::sync::{mpsc, watch};

use super::{
    Place,
    events::{EndSession, Events, Reply},
    explain, links,
};
use crate::{
    admin::{self, Question},
    app::{App, Caller, failure},
    gateway::steer::SessionId,
    process,
    records::exchanges::{Lines, Wanted},
    sessions::{Session, SessionSpec},
};

/// Hosts that one filter's HTTP calls may reach.
const MAX_UPSTREAMS: usize = 16;
/// Events that wait for a session's user; more are dropped.
const EVENT_ROOM: usize = 64;
/// How long the intproxy may take to dial its delivery connections before its first subscription.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);

/// What one control connection has: uploaded filters and at most one session.
pub struct Connection {
    pub(super) app: Rc<App>,
    /// By hash: those of the session's chain, and those that were uploaded for the next one.
    modules: RefCell<HashMap<String, Module>>,
    session: Cell<Option<SessionId>>,
    answers: Cell<bool>,
    /// Keeps the agent alive. An operator's connection does not: one that asks every minute would keep it for ever.
    caller: Cell<Option<Caller>>,
    place: Place,
}

/// What a session asks for beside mode and filters.
#[derive(Default)]
pub(super) struct Manner {
    ambiguous: Ambiguous,
    show_decision: bool,
    filter_ports: Option<Vec<u16>>,
}

/// A reply with a status ≥ 400.
pub(super) struct Failure(StatusCode, ErrorReply);

pub(super) fn refused(status: StatusCode, error: impl ToString, help: &str) -> Failure {
    Failure(status, failure(error, help))
}

impl Connection {
    pub fn new(app: Rc<App>, caller: Caller, place: Place) -> Self {
        let caller = Cell::new(Some(caller));
        Self { app, modules: RefCell::default(), session: Cell::default(), answers: Cell::new(true), caller, place }
    }

    /// Its session's other end answers, or does not.
    pub fn set_answers(&self, answers: bool) {
        if let Some(id) = self.session.get()
            && self.answers.replace(answers) != answers
        {
            self.app.set_aside(id, !answers);
        }
    }

    /// Answers one exchange; never fails, since a failure is an answer.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        if request.method() == Method::GET
            && let Some(question) = Question::of(request.uri().path())
        {
            self.caller.take();
            return admin::answer(&self.app, question).await;
        }
        if (request.method(), request.uri().path()) == (&Method::GET, EXPLAIN) {
            self.caller.take();
            return match explain::Question::of(request.uri().query().unwrap_or_default()) {
                Ok(question) => explain::answer(&self.app, question).await,
                Err(error) => respond(Err(refused(StatusCode::BAD_REQUEST, error, "ask for last=N, id=N, picked, follow"))),
            };
        }
        self.caller.set(Some(self.app.caller()));
        respond(self.route(request).await)
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, control::FILTERS) => self.upload(request).await,
            (&Method::POST, control::SESSION) => self.open(request).await,
            (&Method::GET, control::ENVIRONMENT) => {
                let container = request.uri().query().and_then(|query| query.strip_prefix("container=")).unwrap_or_default().to_owned();
                let told = self.app.environment(container).await;
                told.map(|environment| json(&environment)).map_err(|reply| Failure(StatusCode::NOT_FOUND, reply))
            }
            (&Method::POST, INSPECT) => self.inspect(request).await,
            (&Method::DELETE, INSPECT) => self.end_inspection().await,
            (&Method::PUT, control::SESSION_FILTERS) => self.swap(request).await,
            (method @ (&Method::PUT | &Method::DELETE), path) => {
                let port = path.strip_prefix(control::SUBSCRIPTIONS).and_then(|port| port.parse().ok()).filter(|port| *port != 0);
                let port =
                    port.ok_or_else(|| refused(StatusCode::NOT_FOUND, format!("no such path: {path}"), "name a port from 1 to 65535"))?;
                if method == Method::PUT { self.subscribe(port).await } else { self.unsubscribe(port).await }
            }
            (method, path) => Err(refused(
                StatusCode::NOT_FOUND,
                format!("this agent (version {}) does not know {method} {path}", env!("CARGO_PKG_VERSION")),
                "use an agent and a command line of the same version",
            )),
        }
    }

    async fn upload(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let name = request.headers().get(control::FILTER_NAME).and_then(|name| name.to_str().ok()).unwrap_or("filter").to_owned();
        // A session that swaps its whole chain has both for a moment.
        if self.modules.borrow().len() >= 2 * MAX_CHAIN {
            return Err(refused(StatusCode::BAD_REQUEST, format!("more than {MAX_CHAIN} filters"), "use fewer filters in one session"));
        }
        let wasm = body(request, MAX_FILTER_MODULE).await?;
        let engine = self.app.engine.clone();
        let load = move || {
            let loaded = engine.load(&name, &wasm);
            drop(wasm);
            // Compiling takes some MiB for a moment.
            process::trim();
            process::let_go_of_code();
            loaded
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let module = loaded
            .map_err(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, "the compiler of filters failed", "report this filter"))?
            .map_err(|error| refused(StatusCode::UNPROCESSABLE_ENTITY, error, ""))?;
        let reply = FilterReply { sha256: module.sha256().to_owned() };
        self.modules.borrow_mut().insert(reply.sha256.clone(), module);
        Ok(json(&reply))
    }

    async fn open(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let request: SessionRequest = read(request, "a session request").await?;
        if request.mode == Mode::Inspect {
            return Err(refused(StatusCode::BAD_REQUEST, "a session that only looks is opened elsewhere", "ask POST /v1/inspect"));
        }
        self.may_open().await?;
        let SessionRequest { owner, mode, chain, ambiguous, show_decision, priority, filter_ports } = request;
        if filter_ports.as_ref().is_some_and(|ports| ports.len() > MAX_PORTS) {
            let error = format!("more than {MAX_PORTS} ports for filters");
            return Err(refused(StatusCode::BAD_REQUEST, error, "name those that the session subscribes"));
        }
        let manner = Manner { ambiguous, show_decision, filter_ports };
        let (id, lines) = self.new_session(owner, mode, manner, priority, &chain, None).await?;
        let token = self.app.sessions.borrow().get(id).map(|session| token_to_hex(&session.token)).unwrap_or_default();
        let opened = Event::Opened { id, token, workers: self.app.worker_count(), passes_sockets: self.place == Place::Here };
        Ok(Reply::Events(Events { opened: Some(opened), lines, ends: EndSession { app: self.app.clone(), id } }))
    }

    /// Whether this connection may open a session now.
    pub(super) async fn may_open(&self) -> Result<(), Failure> {
        if self.session.get().is_some() {
            return Err(refused(StatusCode::CONFLICT, "this connection has a session already", "open another connection"));
        }
        if self.app.is_draining() {
            // This connection ends with us; then whoever asked starts the agent that comes after.
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// Makes a session, without ports so far; what it has for its user comes out of the channel.
    pub(super) async fn new_session(
        &self,
        owner: Owner,
        mode: Mode,
        Manner { ambiguous, show_decision, filter_ports }: Manner,
        priority: i32,
        chain: &[FilterLink],
        inspects: Option<(Wanted, Lines)>,
    ) -> Result<(SessionId, mpsc::Receiver<Event>), Failure> {
        let (notices, lines) = mpsc::channel(EVENT_ROOM);
        let filters = self.chain(chain, &notices, &[]).await?;
        let id =
            self.app.sessions.borrow_mut().new_id().map_err(|error| refused(StatusCode::TOO_MANY_REQUESTS, error, "end one of them"))?;
        let token = random_token().map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error, ""))?;
        self.app.names.borrow_mut().remember(id, &owner, mode, &filters);
        let spec = SessionSpec { id, mode, ambiguous, show_decision, filters, filter_ports, notices, inspects };
        self.app.open_session(Session {
            spec,
            owner,
            priority,
            token,
            ports: BTreeSet::new(),
            since: SystemTime::now(),
            is_aside: false,
            linked: watch::Sender::default(),
        });
        self.session.set(Some(id));
        self.forget_modules(chain);
        Ok((id, lines))
    }

    /// Other filters for the session. Everything that can go wrong does before a worker hears of it.
    async fn swap(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let SwapRequest { chain } = read(request, "a request for other filters").await?;
        let id = self.own_session()?;
        let found = self.app.sessions.borrow().get(id).map(|session| (session.spec.notices.clone(), session.spec.filters.clone()));
        let (notices, old) = found.ok_or_else(|| refused(StatusCode::CONFLICT, "the session has ended", ""))?;
        if old.is_empty() != chain.is_empty() {
            // It would take, or leave, whole connections from now on: ports and conflicts were settled for the other case.
            let help = "start another session with the filters that it is to have";
            return Err(refused(
                StatusCode::CONFLICT,
                "filters can be replaced, but not added to a session without any, or all taken away",
                help,
            ));
        }
        let filters = self.chain(&chain, &notices, &old).await?;
        self.app.swap_filters(id, filters).await;
        self.forget_modules(&chain);
        Ok(Reply::Bytes(None))
    }

    /// Forgets modules that the session does not use.
    fn forget_modules(&self, chain: &[FilterLink]) {
        self.modules.borrow_mut().retain(|sha256, _| chain.iter().any(|link| link.sha256 == *sha256));
    }

    /// Configures the chain's filters; each that refuses its configuration says so in its own words.
    async fn chain(&self, chain: &[FilterLink], notices: &mpsc::Sender<Event>, old: &[Filter]) -> Result<Vec<Filter>, Failure> {
        if chain.len() > MAX_CHAIN {
            return Err(refused(StatusCode::BAD_REQUEST, format!("more than {MAX_CHAIN} filters"), "use fewer filters in one session"));
        }
        let mut filters = Vec::new();
        for (index, link) in chain.iter().enumerate() {
            if link.config.len() > MAX_FILTER_CONFIG {
                let error = format!("a filter's configuration is longer than {MAX_FILTER_CONFIG} bytes");
                return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, error, "shorten it"));
            }
            if link.upstreams.len() > MAX_UPSTREAMS || link.upstreams.iter().any(|(name, address)| name.len().max(address.len()) > 256) {
                let error = format!("a filter has more than {MAX_UPSTREAMS} upstreams, or one with a name of more than 256 bytes");
                return Err(refused(StatusCode::BAD_REQUEST, error, "name fewer --filter-upstream"));
            }
            let module = match link.kind {
                FilterKind::Declared => None,
                FilterKind::Wasm => {
                    let module = self.modules.borrow().get(&link.sha256).cloned();
                    Some(module.ok_or_else(|| refused(StatusCode::BAD_REQUEST, format!("no filter {} was uploaded", link.sha256), ""))?)
                }
            };
            let settings = links::settings(link, to_session(notices.clone()), old.get(index).cloned());
            let engine = self.app.engine.clone();
            let configured = tokio::task::spawn_blocking(move || match module {
                Some(module) => module.configure_with(settings),
                None => engine.declare(settings),
            });
            filters.push(
                configured
                    .await
                    .map_err(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, "a filter could not be configured", "report this filter"))?
                    .map_err(|error| refused(StatusCode::UNPROCESSABLE_ENTITY, error, ""))?,
            );
        }
        Ok(filters)
    }

    async fn subscribe(&self, port: u16) -> Result<Reply, Failure> {
        let id = self.own_session()?;
        self.all_linked(id).await?;
        let holder = self.app.sessions.borrow_mut().subscribe(id, port).map_err(|error| refused(StatusCode::CONFLICT, error, ""))?;
        if let Err(error) = self.app.apply().await {
            self.app.sessions.borrow_mut().unsubscribe(id, port);
            // The rules are as they were; the tables follow.
            let _ = self.app.apply().await;
            return Err(refused(StatusCode::INTERNAL_SERVER_ERROR, error, ""));
        }
        if let Some(holder) = holder
            && let Some(session) = self.app.sessions.borrow().get(id)
        {
            let message = format!("{holder} already takes the whole of port {port}: this session gets its traffic when that one ends");
            let _ = session.spec.notices.try_send(Event::Notice { level: Level::Warn, message });
        }
        tracing::info!(session = id, port, "a port is subscribed");
        Ok(Reply::Bytes(None))
    }

    async fn unsubscribe(&self, port: u16) -> Result<Reply, Failure> {
        let id = self.own_session()?;
        self.app.sessions.borrow_mut().unsubscribe(id, port);
        self.app.apply().await.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error, ""))?;
        tracing::info!(session = id, port, "a port is unsubscribed");
        Ok(Reply::Bytes(None))
    }

    pub(super) fn own_session(&self) -> Result<SessionId, Failure> {
        self.session.get().ok_or_else(|| refused(StatusCode::CONFLICT, "this connection has no session", "open one first"))
    }

    /// Waits until each worker can deliver to the session: a worker that cannot would pass what should be stolen.
    async fn all_linked(&self, id: SessionId) -> Result<(), Failure> {
        let linked = self.app.sessions.borrow().get(id).map(|session| session.linked.subscribe());
        let mut linked = linked.ok_or_else(|| refused(StatusCode::CONFLICT, "the session has ended", ""))?;
        let workers = usize::from(self.app.worker_count());
        match tokio::time::timeout(LINK_TIMEOUT, linked.wait_for(|linked| linked.len() == workers)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(refused(StatusCode::CONFLICT, "the session has not dialled its delivery connections", "use matching versions")),
        }
    }
}

fn respond(result: Result<Reply, Failure>) -> Response<Reply> {
    let (status, reply) = match result {
        Ok(reply) => (StatusCode::OK, reply),
        Err(Failure(status, reply)) => (status, json(&reply)),
    };
    let mut response = Response::new(reply);
    *response.status_mut() = status;
    response
}

/// A filter's log lines go to the user whose filter it is, and to nobody else: they may hold what the filter has seen.
fn to_session(notices: mpsc::Sender<Event>) -> LogSink {
    Arc::new(move |filter, level, line| {
        let level = match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info | LogLevel::Debug => Level::Info,
        };
        let _ = notices.try_send(Event::Notice { level, message: format!("{filter}: {line}") });
    })
}

/// What a request says in JSON; `what`: what it should be, for whoever sent something else.
pub(super) async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>, what: &str) -> Result<T, Failure> {
    let bytes = body(request, MAX_CONTROL_BODY).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| refused(StatusCode::BAD_REQUEST, format!("{what} that cannot be read: {error}"), "use matching versions"))
}

async fn body(request: Request<Incoming>, limit: usize) -> Result<Bytes, Failure> {
    let collected = Limited::new(request.into_body(), limit).collect().await;
    let error = |error| refused(StatusCode::PAYLOAD_TOO_LARGE, format!("cannot read the request: {error}"), "");
    Ok(collected.map_err(error)?.to_bytes())
}

fn json(value: &impl serde::Serialize) -> Reply {
    Reply::Bytes(serde_json::to_vec(value).ok().map(Bytes::from))
}

/// 128 bits that nobody can guess.
fn random_token() -> std::io::Result<[u8; 16]> {
    use std::io::Read;
    let mut token = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(token)
}
