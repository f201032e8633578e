//! The agent as a whole: acquires everything that can fail (`App::new`), then serves (`App::run`) until it is told to stop or
//! nobody needs it any more, and leaves in the order that keeps the pod's traffic whole: redirect first, then the gateway.

mod drain;
mod trim;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use mirrord_filters::{Engine, EngineSettings, Filter};
use mirrord_protocol::{
    control::{Environment, ErrorReply, Event, Level},
    deliver::Kind,
};
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, oneshot},
};

use crate::{
    admin::Admin,
    control::{self, Place, socket::ControlSocket, tls::TlsPort},
    counters::Counters,
    gateway::steer::SessionId,
    guard::Guard,
    netns::NetNs,
    outgoing::{self, Outgoing},
    records::{
        decisions::{Kept, News, Query},
        listening,
        names::Names,
    },
    redirect::{
        Options, RedirectError, Redirector, Status,
        iptables::Variant,
        lease::{Brake, Pulse},
    },
    sessions::{Session, Sessions},
    settings::Settings,
    socket::{self, PodConnector},
    target,
    worker::{self, Handle, Order, room::Room},
};

/// After a guard could not be started.
const GUARD_PAUSE: Duration = Duration::from_secs(5);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The running agent; lives on the control thread.
pub struct App {
    settings: Settings,
    pub engine: Engine,
    pub sessions: RefCell<Sessions>,
    workers: Vec<Handle>,
    /// One for each worker.
    counters: Vec<Arc<Counters>>,
    pub admin: Admin,
    netns: NetNs,
    /// The gateway's own, which is nobody's service.
    gateway_port: u16,
    pub names: RefCell<Names>,
    redirector: Arc<Mutex<Option<Redirector>>>,
    /// How the pod's network is entered past the redirect; and what sessions connect to from there, once one has.
    pod: PodConnector,
    outgoing: RefCell<Option<Outgoing>>,
    /// Held while tables and rules are brought into line with the sessions, so that changes do not overtake each other.
    changing: tokio::sync::Mutex<()>,
    /// Someone came or went.
    changed: Notify,
    /// Open control connections.
    callers: Cell<usize>,
    /// Somebody has asked for something; whoever started the agent need not be waited for any longer.
    was_asked: Cell<bool>,
    draining: Cell<bool>,
    socket: ControlSocket,
    /// For sessions from elsewhere.
    port: Option<Rc<TlsPort>>,
}

/// A failure that ends the agent or a request, for the person who ran the command. Errors that carry their own advice say it
/// in a second sentence or behind a semicolon: it becomes the help.
pub fn failure(error: impl ToString, help: impl Into<String>) -> ErrorReply {
    let (mut error, mut help) = (error.to_string(), help.into());
    if help.is_empty()
        && let Some(end) = [". ", "; "].iter().filter_map(|mark| error.find(mark)).min()
    {
        help = error[end + 2..].to_owned();
        error.truncate(end);
    }
    ErrorReply { error, help }
}

impl App {
    /// Enters the namespace, opens listeners, starts workers and guard. Nothing is redirected yet.
    pub async fn new(settings: Settings) -> Result<Rc<Self>, ErrorReply> {
        detach();
        if settings.guest {
            crate::process::go_first();
        }
        let netns = NetNs::open(target::netns(&settings).await?).map_err(|error| failure(error, ""))?;
        let control = ControlSocket::bind(&settings.socket)?;
        let tls = settings.listen.map(|address| TlsPort::bind(address, |name| settings.key(name))).transpose()?;
        let engine = EngineSettings { cache_dir: settings.cache_folder(), ..EngineSettings::default() };
        let engine = Engine::new(engine).map_err(|error| failure(error, ""))?;

        let count = settings.workers();
        let counters: Vec<_> = (0..count).map(|_| Arc::new(Counters::default())).collect();
        let opened = netns.spawn("open", move || open_listeners(count)).map_err(|error| failure(error, ""))?.join();
        let listeners = match opened {
            Ok(Some(listeners)) => listeners.map_err(|error| failure(format!("cannot listen in the target: {error}"), ""))?,
            _ => return Err(failure("cannot listen in the target", "see the agent's log (MIRRORD_AGENT_LOG=FILE)")),
        };
        let port = listeners.first().map_or(0, |first| first.port);
        let (brake, pulse) = (Brake::default(), Pulse::default());
        let options = Options {
            variant: settings.nftables.map(|nft| if nft { Variant::Nft } else { Variant::Legacy }),
            brake: brake.clone(),
            pulse: pulse.clone(),
            remove_files: vec![settings.socket.clone()],
            remove_folders: settings.socket.parent().map(Path::to_owned).into_iter().collect(),
            ..Options::default()
        };
        let redirector = match settings.targetless {
            false => Some(Redirector::start(&netns, port, options).map_err(|error| failure(error, ""))?),
            true => None,
        };
        let pod = redirector.as_ref().map_or_else(PodConnector::default, Redirector::pod_connector);
        let start = |((index, listeners), counters): (_, &Arc<Counters>)| {
            worker::start(index, &netns, listeners, (pod, settings.spare_probes), counters.clone(), Room::new(brake.clone()))
        };
        let workers: Result<Vec<_>, _> = (0..count).zip(listeners).zip(&counters).map(start).collect();
        let workers = workers.map_err(|error| failure(error, ""))?;
        for worker in &workers {
            let orders = worker.orders.downgrade();
            pulse.watch(move |answer| drop(orders.upgrade().map(|orders| orders.send(Order::Answer(answer)))));
        }
        tracing::info!(netns = %netns.path().display(), workers = count, gateway_port = port, "the agent is ready");

        Ok(Rc::new(Self {
            settings,
            engine,
            sessions: RefCell::default(),
            workers,
            admin: Admin::new(counters.clone()),
            counters,
            netns,
            gateway_port: port,
            names: RefCell::default(),
            redirector: Arc::new(Mutex::new(redirector)),
            pod,
            outgoing: RefCell::default(),
            changing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            callers: Cell::new(0),
            was_asked: Cell::new(false),
            draining: Cell::new(false),
            socket: control,
            port: tls.map(Rc::new),
        }))
    }

    /// Serves until nobody needs the agent, or SIGTERM.
    pub async fn run(self: Rc<Self>) -> Result<(), ErrorReply> {
        tokio::task::spawn_local(self.clone().guard_the_guard());
        tokio::task::spawn_local(self.clone().trim());
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| failure(error, ""))?;
        tokio::select! {
            () = self.clone().accept() => {}
            () = self.idle() => tracing::info!("the last session has gone and its connections have drained"),
            _ = terminate.recv() => {
                tracing::info!("SIGTERM: the pod gets its traffic back");
                self.draining.set(true);
                // Whoever asks whether we are ready gets an answer to the end.
                tokio::select! {
                    () = self.clone().accept() => {}
                    () = self.dismiss("the agent was told to stop") => {}
                }
            }
        }
        self.finish()
    }

    /// Sees to it that there always is a guard. Ends with the redirect.
    async fn guard_the_guard(self: Rc<Self>) {
        while let Ok(Status { guard: Some(pid), .. }) = self.redirect().await {
            if Guard::ended(pid).await.is_err() {
                tracing::warn!("it cannot be seen here whether the guard lives");
                return;
            }
            match self.firewall(|redirector| redirector.rearm()).await {
                Ok(()) => tracing::warn!("the guard was killed; another one has taken its place"),
                Err(RedirectError::Control) => return,
                Err(error) => {
                    tracing::error!(%error, "the guard was killed and no other can be started: should the agent be killed, the lease ends the redirect");
                    tokio::time::sleep(GUARD_PAUSE).await;
                }
            }
        }
    }

    async fn accept(self: Rc<Self>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted.map(|socket| {
                    tokio::task::spawn_local(control::serve(self.clone(), socket, Place::Here, Rc::new(Cell::new(true))));
                }),
                accepted = accept_on(self.port.as_ref()) => accepted.map(|(port, socket)| {
                    tokio::task::spawn_local(port.serve(self.clone(), socket));
                }),
            };
            match accepted {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes note that the agent is of use to somebody.
    pub fn was_asked(&self) {
        self.was_asked.set(true);
    }

    /// Counts a control connection as long as the value lives.
    pub fn caller(self: &Rc<Self>) -> Caller {
        self.callers.set(self.callers.get() + 1);
        Caller(self.clone())
    }

    fn is_needed(&self) -> bool {
        self.callers.get() > 0 || !self.sessions.borrow().is_empty()
    }

    /// Asks the redirector, whose calls block, beside the control thread.
    async fn firewall<T, F>(&self, call: F) -> Result<T, RedirectError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Redirector) -> Result<T, RedirectError> + Send + 'static,
    {
        if !self.has_target() {
            return Err(RedirectError::NoTarget);
        }
        let redirector = self.redirector.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let mut redirector = redirector.lock().map_err(|_| RedirectError::Control)?;
            redirector.as_mut().map_or(Err(RedirectError::Control), call)
        });
        asked.await.unwrap_or(Err(RedirectError::Control))
    }

    /// Whether there is somebody's traffic to redirect.
    pub fn has_target(&self) -> bool {
        !self.settings.targetless
    }

    /// Number of workers, for the session's delivery connections.
    pub fn worker_count(&self) -> u16 {
        self.workers.len() as u16
    }

    /// Whether all workers' threads are there.
    pub fn workers_run(&self) -> bool {
        self.workers.iter().all(|worker| !worker.orders.is_closed())
    }

    /// The agent was told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Environment and host name of one of the target's containers.
    pub async fn environment(&self, container: String) -> Result<Environment, ErrorReply> {
        target::environment(&self.settings, self.netns_inode(), &container).await
    }

    /// Inode of the target's network namespace.
    pub fn netns_inode(&self) -> u64 {
        self.netns.inode()
    }

    /// What is redirected; an error: nothing can be any more.
    pub async fn redirect(&self) -> Result<Status, RedirectError> {
        self.firewall(|redirector| redirector.status()).await
    }

    /// The ports on which the target listens for others now.
    pub async fn listening(&self) -> io::Result<BTreeSet<u16>> {
        let (netns, own) = (self.netns.clone(), self.gateway_port);
        let look = move || {
            let found = netns.spawn("listening", listening::ports).map_err(io::Error::other)?.join();
            found.ok().flatten().unwrap_or_else(|| Err(io::Error::other("the namespace cannot be entered")))
        };
        let mut ports = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
        ports.remove(&own);
        Ok(ports)
    }

    /// The workers' last decisions, in no order.
    pub async fn decisions(&self, query: Query) -> Vec<Kept> {
        let mut all = Vec::new();
        for answered in self.ask(|answer| Order::Explain(query, answer)) {
            all.append(&mut answered.await.unwrap_or_default());
        }
        all
    }

    /// Has the workers tell each decision from now on.
    pub fn follow(&self, news: mpsc::Sender<News>, picked: bool) {
        self.order(|| Order::Follow(news.clone(), picked));
    }

    /// Adds a session to the registry and to all workers.
    pub fn open_session(&self, session: Session) {
        self.order(|| Order::AddSession(session.spec.clone()));
        tracing::info!(session = session.spec.id, owner = %session.owner, mode = ?session.spec.mode, "a session begins");
        self.sessions.borrow_mut().insert(session);
        self.changed.notify_one();
    }

    /// Gives a session other filters, and resolves once every request that comes meets them. What is under way ends with the old ones.
    pub async fn swap_filters(&self, id: SessionId, filters: Vec<Filter>) {
        let version = self.names.borrow_mut().replace(id, &filters);
        let acknowledged = self.ask(|done| Order::SwapChain(id, version, filters.clone(), done));
        self.sessions.borrow_mut().set_filters(id, filters);
        for is_done in acknowledged {
            let _ = is_done.await;
        }
        tracing::info!(session = id, "a session's filters were replaced");
    }

    /// A session's machine stands still, or answers again: meanwhile the pod gets what would be the session's.
    pub fn set_aside(&self, id: SessionId, is_aside: bool) {
        self.order(|| Order::SetAside(id, is_aside));
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.set_aside(id, is_aside) else { return };
        if is_aside {
            tracing::warn!(session = id, owner = %session.owner, "a session does not answer: its requests go to the pod");
            return;
        }
        tracing::info!(session = id, owner = %session.owner, "a session answers again");
        let message = "this machine did not answer for some seconds: meanwhile the pod got all requests".to_owned();
        let _ = session.spec.notices.try_send(Event::Notice { level: Level::Warn, message });
    }

    /// Ends a session: its ports go back to whoever else subscribes them, else to the pod alone.
    pub async fn close_session(&self, id: SessionId) {
        let Some(session) = self.sessions.borrow_mut().remove(id) else { return };
        if !session.ports.is_empty()
            && let Err(error) = self.apply().await
        {
            tracing::error!(%error, "cannot change the redirect; the gateway passes the traffic on");
        }
        self.order(|| Order::RemoveSession(id));
        if let Some(outgoing) = &*self.outgoing.borrow() {
            outgoing.order(outgoing::Order::End(id));
        }
        tracing::info!(session = id, owner = %session.owner, "a session has ended");
        self.changed.notify_one();
    }

    /// Hands a delivery connection to its worker; resolves once it is in use.
    pub async fn link(&self, id: SessionId, worker: u16, kind: Kind, socket: std::os::unix::net::UnixStream) {
        let Some(handle) = self.workers.get(usize::from(worker)) else { return };
        let (done, in_use) = oneshot::channel();
        if handle.orders.send(Order::Link(id, kind, socket, done)).is_ok()
            && in_use.await.is_ok()
            && let Some(session) = self.sessions.borrow().get(id)
        {
            session.linked.send_modify(|linked| {
                linked.insert(worker);
            });
        }
    }

    /// Takes the connection on which a session asks for others, from the target's network.
    pub fn serve_outgoing(&self, id: SessionId, socket: std::os::unix::net::UnixStream) -> io::Result<()> {
        let mut outgoing = self.outgoing.borrow_mut();
        let thread = match outgoing.take() {
            Some(thread) => thread,
            None => Outgoing::start(&self.netns, self.pod).map_err(io::Error::other)?,
        };
        outgoing.insert(thread).order(outgoing::Order::Serve(id, socket));
        Ok(())
    }

    /// Asks all workers; what each answers comes out of its channel.
    fn ask<T>(&self, order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<oneshot::Receiver<T>> {
        let tell = |worker: &Handle| {
            let (answer, answered) = oneshot::channel();
            let _ = worker.orders.send(order(answer));
            answered
        };
        self.workers.iter().map(tell).collect()
    }

    /// Brings the workers' tables and then the redirect into line with the sessions. The tables come first: what is redirected
    /// is known, and what is no longer known goes to the pod.
    pub async fn apply(&self) -> Result<(), RedirectError> {
        let _one_at_a_time = self.changing.lock().await;
        let ports = Arc::new(self.sessions.borrow().ports());
        for is_done in self.ask(|done| Order::SetPorts(ports.clone(), done)) {
            let _ = is_done.await;
        }
        let ports: BTreeSet<u16> = ports.keys().copied().collect();
        self.firewall(move |redirector| redirector.set_ports(&ports)).await
    }

    /// Tells all workers.
    fn order(&self, order: impl Fn() -> Order) {
        for worker in &self.workers {
            let _ = worker.orders.send(order());
        }
    }

    /// Removes the socket and the rules. Nobody can come in between: the socket goes first.
    fn finish(&self) -> Result<(), ErrorReply> {
        self.socket.remove();
        match self.redirector.lock().map(|mut redirector| redirector.take()) {
            Ok(Some(redirector)) => redirector.finish().map_err(|error| failure(error, "")),
            _ => Ok(()),
        }
    }
}

/// The next connection from elsewhere; never comes where there is no such port.
async fn accept_on(port: Option<&Rc<TlsPort>>) -> io::Result<(Rc<TlsPort>, TcpStream)> {
    match port {
        Some(port) => Ok((port.clone(), port.accept().await?)),
        None => std::future::pending().await,
    }
}

/// An open control connection.
pub struct Caller(Rc<App>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.callers.set(self.0.callers.get() - 1);
        self.0.changed.notify_one();
    }
}

fn open_listeners(count: u16) -> io::Result<Vec<socket::Listeners>> {
    let mut all: Vec<socket::Listeners> = Vec::new();
    for _ in 0..count {
        let port = all.first().map_or(0, |first| first.port);
        all.push(socket::listeners(port)?);
    }
    Ok(all)
}

/// A session of its own, so that the terminal's signals and hang-up are not the agent's; more descriptors if they may be had.
fn detach() {
    crate::process::new_session();
    crate::process::raise_open_files();
}
