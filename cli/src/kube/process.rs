//! `mirrord cluster`: the process that finds a target's pods, has an agent for each, and keeps the connections to them. It is told what
//! to do in one line on standard input, which then stays open as its lifeline, and reports lines on standard output.
//!
//! ```text
//! exec ──Settings──► stdin        stdout ──Report──► exec
//! intproxy ◄──Change (add, remove)── feed socket;  a socket for each agent
//! ```

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, Read, Write},
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use kube::Client;
use mirrord_config::{ClusterSettings, ClusterTarget, Target};
use mirrord_intproxy::{agents::Change, ask};
use mirrord_protocol::control::{Environment, ErrorReply, Level, Owner};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream, unix::pipe},
    sync::watch,
};

use super::{
    agent::{self, Agent, Maker, Place},
    bridge, client,
    error::KubeError,
    manifest::Pod,
    pods::{self, Which},
    retry::patiently,
};
use crate::console;

/// How often it is looked at which pods there are.
const FOLLOW: Duration = Duration::from_millis(500);
/// A pod for which no agent could be made is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// The bridge to an agent that is left stays until the session there has been ended.
const LEFT: Duration = Duration::from_secs(10);
/// Every container of a cluster has this variable.
const INSIDE: &str = "KUBERNETES_SERVICE_HOST";
/// How long it may take to leave the cluster in order.
const CLOSE: Duration = Duration::from_secs(3);
/// Longest settings line, bytes.
const MAX_SETTINGS: u64 = 1 << 20;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// As the user writes it.
    pub target: String,
    pub cluster: ClusterSettings,
    pub owner: Owner,
    /// Whether the container's environment is wanted.
    pub environment: bool,
    /// Which agents.
    pub agents: Wanted,
}

/// Which agents there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// One for each pod.
    All,
    /// Those that sessions have made.
    There,
}

/// A line of what is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// What is being done.
    Step(String),
    /// What is seen meanwhile.
    Detail(String),
    Notice {
        level: Level,
        message: String,
    },
    Ready(Ready),
    Failed(ErrorReply),
}

/// The agents are there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Tells the intproxy which agents there are.
    pub feed: PathBuf,
    /// Each, and the name of its pod, as it was at the start.
    pub agents: Vec<(String, PathBuf)>,
    /// Of the container.
    pub environment: Option<Environment>,
}

fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}

/// Tells whoever waits what is being done.
pub struct Progress;

impl Progress {
    /// A step begins.
    pub fn step(&self, what: &dyn std::fmt::Display) {
        report(&Report::Step(what.to_string()));
    }

    /// What is seen within a step.
    pub fn detail(&self, what: &str) {
        report(&Report::Detail(what.into()));
    }
}

/// For whoever looks for a fault: `MIRRORD_LOG` set to anything.
pub fn trace(what: &dyn std::fmt::Display) {
    if std::env::var_os("MIRRORD_LOG").is_some() {
        console::say(&format!("mirrord: cluster: {what}"));
    }
}

/// The process itself.
pub fn run() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reply) => {
            report(&Report::Failed(reply));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), ErrorReply> {
    let internal = |error: &dyn std::fmt::Display| ErrorReply {
        error: format!("the connection to the cluster cannot start: {error}"),
        help: "`mirrord exec` starts it; it is not run by hand".into(),
    };
    let mut line = Vec::new();
    io::stdin().lock().take(MAX_SETTINGS).read_until(b'\n', &mut line).map_err(|error| internal(&error))?;
    let settings: Settings = serde_json::from_slice(&line).map_err(|error| internal(&error))?;
    let Ok(Target::Cluster(target)) = settings.target.parse() else { return Err(internal(&"no target of a cluster")) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| internal(&error))?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|error| internal(&error))?;
        let stdin = pipe::Receiver::from_owned_fd(stdin).map_err(|error| internal(&error))?;
        let held = Rc::new(Held::default());
        let served = tokio::select! {
            () = mirrord_intproxy::lifeline(stdin) => Ok(()),
            served = Box::pin(serve(settings.clone(), target, held.clone())) => served.map_err(|error| error.reply()),
        };
        let _ = tokio::time::timeout(CLOSE, Box::pin(held.close(&settings))).await;
        served
    })
}

/// Everything that stays the same while it runs.
struct Session {
    client: Client,
    namespace: String,
    agent_namespace: String,
    settings: Settings,
    target: ClusterTarget,
    which: Which,
    /// Whether this process is in the cluster itself.
    is_inside: bool,
    progress: Progress,
    held: Rc<Held>,
    /// Uids of pods whose agent is being made; and when it was tried in vain.
    making: RefCell<BTreeSet<String>>,
    /// Uids of pods that had an agent which has gone.
    bereft: RefCell<BTreeSet<String>>,
    given_up: RefCell<BTreeMap<String, Instant>>,
    /// Which agents there are --> feeds.
    told: watch::Sender<Vec<PathBuf>>,
}

/// What there is in the cluster because of us.
#[derive(Default)]
struct Held {
    /// Agents by the uid of their pod.
    agents: RefCell<BTreeMap<String, Agent>>,
    /// Jobs that were made and whose container does not run yet: namespace and name.
    starting: RefCell<BTreeSet<(String, String)>>,
}

impl Held {
    /// The connections end in order, so that the agents know at once. What has not started never need: whoever waited for it has gone.
    async fn close(&self, settings: &Settings) {
        join_all(self.agents.take().into_values().map(|agent| agent.bridge.finish()).collect()).await;
        let starting = self.starting.take();
        if starting.is_empty() {
            return;
        }
        let Ok((client, _)) = client::connect(&settings.cluster.kube).await else { return };
        for (namespace, name) in starting {
            agent::discard(&client, &namespace, &name).await;
        }
    }
}

async fn serve(settings: Settings, target: ClusterTarget, held: Rc<Held>) -> Result<(), KubeError> {
    let (client, own) = client::connect(&settings.cluster.kube).await?;
    let namespace = settings.cluster.kube.namespace.clone().unwrap_or_else(|| own.clone());
    let agent_namespace = match target {
        ClusterTarget::Targetless => namespace.clone(),
        _ => settings.cluster.agent.namespace.clone().unwrap_or(own),
    };
    let retry = settings.cluster.kube.retry;
    let which = patiently(&retry, &Progress, async || pods::which(&client, &namespace, &target).await).await?;
    let session = Rc::new(Session {
        client,
        namespace,
        agent_namespace,
        settings,
        target,
        which,
        is_inside: std::env::var_os(INSIDE).is_some(),
        progress: Progress,
        held,
        making: RefCell::default(),
        bereft: RefCell::default(),
        given_up: RefCell::default(),
        told: watch::Sender::default(),
    });
    let first = patiently(&retry, &Progress, async || session.first_pods().await).await?;
    let (listener, feed) = bridge::private("mirrord-feed").map_err(|error| KubeError::Connection(error.to_string()))?;
    patiently(&retry, &Progress, async || session.make_all(&first).await).await?;
    let ready = session.ready(feed).await?;
    report(&Report::Ready(ready));
    tokio::task::spawn_local(feeds(listener, session.told.subscribe()));
    session.follow().await
}

impl Session {
    /// The pods that there are now, at least one.
    async fn first_pods(&self) -> Result<Vec<Pod>, KubeError> {
        let mut found = pods::find(&self.client, &self.namespace, &self.which, self.target.container()).await?;
        if found.ready.is_empty() {
            let why = if found.unready.is_empty() { "there is none".to_owned() } else { found.unready.join("; ") };
            return Err(KubeError::NoPod { target: self.target.to_string(), why });
        }
        if let Some((chosen, others)) = &found.guessed {
            let message = format!(
                "the container {chosen} was chosen; the pod also has {}: /container/NAME behind the target names one",
                others.join(", ")
            );
            report(&Report::Notice { level: Level::Warn, message });
        }
        if self.settings.agents == Wanted::There {
            let (maker, mut there) = (self.maker(), Vec::new());
            for pod in found.ready {
                if maker.is_there(&pod).await {
                    there.push(pod);
                }
            }
            if there.is_empty() {
                return Err(KubeError::NoSession(self.target.to_string()));
            }
            found.ready = there;
        }
        if self.settings.cluster.one {
            found.ready.truncate(1);
        }
        Ok(found.ready)
    }

    fn maker(&self) -> Maker<'_> {
        Maker {
            client: &self.client,
            namespace: &self.agent_namespace,
            target: &self.target,
            owner: &self.settings.owner,
            settings: &self.settings.cluster.agent,
            is_inside: self.is_inside,
            starting: &self.held.starting,
        }
    }

    /// An agent for each, at the same time; one must come of it.
    async fn make_all(&self, pods: &[Pod]) -> Result<(), KubeError> {
        let maker = self.maker();
        let making = pods.iter().map(|pod| maker.agent(pod, &self.progress));
        let mut failed = None;
        for made in join_all(making.collect()).await {
            match made {
                Ok(agent) => self.add(agent),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if self.held.agents.borrow().is_empty() => Err(error),
            Some(error) => {
                let message = format!("a pod of {} is without this session: {error} ({})", self.target, error.help());
                report(&Report::Notice { level: Level::Warn, message });
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn add(&self, agent: Agent) {
        self.held.agents.borrow_mut().insert(agent.pod.uid.clone(), agent);
        self.tell();
    }

    fn tell(&self) {
        let paths = self.held.agents.borrow().values().map(|agent| agent.bridge.path().to_owned()).collect();
        self.told.send_replace(paths);
    }

    async fn ready(&self, feed: PathBuf) -> Result<Ready, KubeError> {
        let made = self.held.agents.borrow().values().map(|agent| (agent.pod.clone(), agent.bridge.path().to_owned())).collect::<Vec<_>>();
        let (pod, agent) = made.first().ok_or_else(|| KubeError::Connection("there is no agent".into()))?;
        let environment = match self.settings.environment && self.target != ClusterTarget::Targetless {
            true => Some(ask::environment(agent, &pod.container_id).await.map_err(KubeError::Agent)?),
            false => None,
        };
        let agents = made.iter().map(|(pod, path)| (pod.name.clone(), path.clone())).collect();
        Ok(Ready { feed, agents, environment })
    }

    /// Has an agent for each pod that comes, and leaves those that go. Without end.
    async fn follow(self: Rc<Self>) -> Result<(), KubeError> {
        let mut trouble = false;
        loop {
            tokio::time::sleep(FOLLOW).await;
            let looked = async {
                let found = pods::find(&self.client, &self.namespace, &self.which, self.target.container()).await?;
                let mut running = found.guests.clone();
                if self.held.agents.borrow().values().any(|agent| agent.place.is_own()) {
                    running.extend(agent::running(&self.client, &self.agent_namespace).await?);
                }
                Ok::<_, KubeError>((found, running))
            };
            let (found, running) = match looked.await {
                Ok(looked) => looked,
                Err(error) => {
                    // The API server restarts, perhaps: what there is goes on.
                    if !std::mem::replace(&mut trouble, true) {
                        report(&Report::Notice { level: Level::Warn, message: format!("{error}; trying again") });
                    }
                    continue;
                }
            };
            if std::mem::take(&mut trouble) {
                report(&Report::Notice { level: Level::Info, message: "the cluster answers again".into() });
            }
            self.leave_gone(&found, &running);
            self.given_up.borrow_mut().retain(|uid, at| found.there.contains(uid) && at.elapsed() < AGAIN);
            if self.settings.agents == Wanted::There {
                continue;
            }
            for pod in found.ready {
                let is_known = self.held.agents.borrow().contains_key(&pod.uid) || self.given_up.borrow().contains_key(&pod.uid);
                let enough = self.settings.cluster.one && !(self.held.agents.borrow().is_empty() && self.making.borrow().is_empty());
                if !is_known && !enough && self.making.borrow_mut().insert(pod.uid.clone()) {
                    tokio::task::spawn_local(self.clone().make(pod));
                }
            }
        }
    }

    async fn make(self: Rc<Self>, pod: Pod) {
        match self.maker().agent(&pod, &self.progress).await {
            Ok(agent) => {
                self.add(agent);
                if self.bereft.borrow_mut().remove(&pod.uid) {
                    report(&Report::Notice { level: Level::Info, message: format!("the pod {} has an agent again", pod.name) });
                }
            }
            Err(error) => {
                self.given_up.borrow_mut().insert(pod.uid.clone(), Instant::now());
                let message = format!("the pod {} is without this session: {error} ({})", pod.name, error.help());
                report(&Report::Notice { level: Level::Warn, message });
            }
        }
        self.making.borrow_mut().remove(&pod.uid);
    }

    /// Leaves the agents of pods that are being deleted or have gone. One that is not ready stays: it may be again.
    /// Of an agent that has gone itself there is another one soon.
    fn leave_gone(&self, found: &pods::Found, running: &BTreeSet<Place>) {
        let is_gone = |(uid, agent): &(&String, &Agent)| !found.there.contains(*uid) || !running.contains(&agent.place);
        let gone: Vec<_> = self.held.agents.borrow().iter().filter(is_gone).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            if let Some(agent) = self.held.agents.borrow_mut().remove(&uid) {
                if found.there.contains(&uid) {
                    let name = &agent.pod.name;
                    let message = format!("the agent of the pod {name} has gone: the pod answers everything until there is another one");
                    report(&Report::Notice { level: Level::Warn, message });
                    self.bereft.borrow_mut().insert(uid);
                }
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LEFT).await;
                    drop(agent);
                });
            }
            self.tell();
        }
    }
}

/// All of them at once, on this thread.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in &mut futures {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if futures.iter().all(|(_, done)| done.is_some()) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}

/// Tells each that connects which agents there are, and what becomes of them.
async fn feeds(listener: UnixListener, told: watch::Receiver<Vec<PathBuf>>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) if bridge::is_ours(&socket) => {
                tokio::task::spawn_local(feed(socket, told.clone()));
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn feed(mut socket: UnixStream, mut told: watch::Receiver<Vec<PathBuf>>) -> io::Result<()> {
    let mut known: Vec<PathBuf> = Vec::new();
    let mut first = Some(Change::All);
    loop {
        let now = told.borrow_and_update().clone();
        let gone = known.iter().filter(|path| !now.contains(path)).cloned().map(Change::Remove);
        let new = now.iter().filter(|path| !known.contains(path)).cloned().map(Change::Add);
        let mut lines = Vec::new();
        for change in gone.chain(new).chain(first.take()) {
            lines.extend(serde_json::to_vec(&change)?);
            lines.push(b'\n');
        }
        socket.write_all(&lines).await?;
        known = now;
        tokio::select! {
            changed = told.changed() => changed.map_err(io::Error::other)?,
            () = hung_up(&mut socket) => return Ok(()),
        }
    }
}

/// The other end says nothing; it may go.
async fn hung_up(socket: &mut UnixStream) {
    let mut byte = [0];
    while socket.read(&mut byte).await.is_ok_and(|read| read > 0) {}
}
