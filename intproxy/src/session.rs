//! One session from its opening to its end.
//!
//! ```text
//! cli ──Settings──► open ──► Ready ──► serve ──lifeline closed──► close: subscriptions first ──► exit 0
//!                     │                  │
//!                     └─► Failed         └─agent gone──► Lost
//! layers --PortChange--> subscriptions --PUT, DELETE--> agent
//! ```

use std::{future::pending, path::Path, rc::Rc, time::Duration};

use mirrord_protocol::{
    control::{ErrorReply, FilterLink, Level},
    deliver::Kind,
    limits::MAX_FILTER_MODULE,
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::Instant,
};

use crate::{
    agent::{Agent, failure},
    agents::{Agents, Change, Feed, Member, left_out},
    delivery::Program,
    forward::Forwards,
    layers::{Layers, PortChange},
    push::{Pushes, filter_name},
    settings::{FilterFile, Report, Settings},
};

/// How long a session may be at no agent at all, while there are others to come.
const NOWHERE: Duration = Duration::from_secs(60);

/// An open session; dropping it ends it at the agents.
pub struct Session {
    agents: Agents,
    members: Vec<Member>,
    feed: Option<Feed>,
    layers: Layers,
    pushes: Option<Pushes>,
    forwards: Forwards,
}

/// How a session came to its end.
pub enum End {
    /// Whoever ran it has closed the lifeline.
    Orderly,
    /// The agent is gone, or has ended the session.
    Lost(ErrorReply),
}

fn lost(why: &str) -> ErrorReply {
    failure(
        format!("the session is lost: {why}"),
        "the pod serves all its traffic itself again; run the command again (MIRRORD_AGENT_LOG=FILE keeps the agent's log)",
    )
}

impl Session {
    /// Opens the session at the agents that there are. Nothing is redirected yet.
    pub async fn open(settings: &Settings, wanted: Kind, report: impl Fn(Report)) -> Result<Self, ErrorReply> {
        let layers = Layers::bind().map_err(|error| failure(format!("cannot serve the program's layer: {error}"), ""))?;
        let program = Rc::new(Program::new(layers.registry(), settings.ports.clone(), settings.forward.reverse.clone()));
        let forwards = Forwards::bind(&settings.forward.mappings).await?;
        let agents = Agents::new(settings, wanted, program);
        let (members, feed) = match &settings.feed {
            None => (vec![agents.join(&settings.agent).await?], None),
            Some(path) => {
                let mut feed = Feed::connect(path).await?;
                (first_members(&agents, &mut feed, report).await?, Some(feed))
            }
        };
        for map in &settings.forward.reverse {
            agents.subscribe(map.pod).await?;
        }
        let (pid, command) = (settings.owner.pid, settings.owner.command.clone());
        // That nobody can reach the session is no reason to have none.
        let pushes = Pushes::bind(agents.clone(), pid, command);
        let pushes = pushes.map_err(|error| tracing::warn!(%error, "this session takes no other filters")).ok();
        Ok(Self { agents, members, feed, layers, pushes, forwards })
    }

    /// Value of `MIRRORD_LAYER_INTPROXY_ADDR` for the program.
    pub fn layer_address(&self) -> String {
        self.layers.address()
    }

    /// Serves until `lifeline` has ended or the agents are gone.
    pub async fn serve(self, lifeline: impl Future<Output = ()>, report: impl Fn(Report) + Clone + 'static) -> End {
        let Self { agents, members, mut feed, layers, pushes, forwards } = self;
        // layers --a port was opened or closed--> subscriptions
        let (changes, inbox) = mpsc::channel(64);
        let closing = Rc::new(Notify::new());
        let subscriptions = tokio::task::spawn_local(subscriptions(agents.clone(), inbox, closing.clone(), report.clone()));
        let serving = tokio::task::spawn_local(layers.run(changes));
        let pushing = pushes.map(|pushes| tokio::task::spawn_local(pushes.run(report.clone())));
        let forwarding = tokio::task::spawn_local(forwards.run(agents.clone(), report.clone()));
        let mut running = JoinSet::new();
        for member in members {
            running.spawn_local(member.run(report.clone()));
        }
        let mut nowhere_since = None;
        tokio::pin!(lifeline);
        let end = loop {
            nowhere_since = agents.is_empty().then(|| nowhere_since.unwrap_or_else(Instant::now));
            tokio::select! {
                () = &mut lifeline => break End::Orderly,
                Some(ended) = running.join_next() => {
                    let why = ended.unwrap_or_default();
                    if feed.is_none() {
                        break End::Lost(lost(&why));
                    }
                    tracing::info!(why, "an agent has gone");
                }
                change = next(feed.as_mut()) => match change {
                    Some(Change::Add(path)) => {
                        let (agents, report) = (agents.clone(), report.clone());
                        running.spawn_local(async move {
                            match agents.join(&path).await {
                                Ok(member) => member.run(report).await,
                                Err(reply) => {
                                    report(left_out(&reply));
                                    reply.error
                                }
                            }
                        });
                    }
                    Some(Change::Remove(path)) => {
                        let agents = agents.clone();
                        tokio::task::spawn_local(async move { agents.leave(&path).await });
                    }
                    Some(Change::All) => {}
                    None => break End::Lost(lost("the connection to the cluster has ended")),
                },
                () = too_long(nowhere_since) => break End::Lost(lost("its pods have gone")),
            }
        };
        forwarding.abort();
        if let Some(pushing) = pushing {
            pushing.abort();
        }
        if matches!(end, End::Orderly) {
            closing.notify_one();
            let _ = subscriptions.await;
        }
        serving.abort();
        end
    }
}

/// Joins those that there are from the start; one must take us.
async fn first_members(agents: &Agents, feed: &mut Feed, report: impl Fn(Report)) -> Result<Vec<Member>, ErrorReply> {
    let (mut members, mut refused) = (Vec::new(), None);
    loop {
        match feed.next().await {
            Some(Change::Add(path)) => match agents.join(&path).await {
                Ok(member) => members.push(member),
                Err(reply) => refused = Some(reply),
            },
            Some(Change::Remove(path)) => members.retain(|member| member.path() != path),
            Some(Change::All) => break,
            None => return Err(failure("the connection to the cluster has ended", "run the command again")),
        }
    }
    match refused {
        Some(reply) if members.is_empty() => Err(reply),
        None if members.is_empty() => Err(failure("there is no agent", "run the command again")),
        Some(reply) => {
            report(left_out(&reply));
            Ok(members)
        }
        None => Ok(members),
    }
}

async fn next(feed: Option<&mut Feed>) -> Option<Change> {
    match feed {
        Some(feed) => feed.next().await,
        None => pending().await,
    }
}

async fn too_long(since: Option<Instant>) {
    match since {
        Some(since) => tokio::time::sleep_until(since + NOWHERE).await,
        None => pending().await,
    }
}

/// Carries out the layers' changes one after the other; told to close, gives every port back.
async fn subscriptions(agents: Agents, mut changes: mpsc::Receiver<PortChange>, closing: Rc<Notify>, report: impl Fn(Report)) {
    loop {
        let change = tokio::select! {
            () = closing.notified() => break,
            change = changes.recv() => change,
        };
        match change {
            Some(PortChange::Opened { port, done }) => {
                let pod_ports = agents.program().pod_ports(port);
                let opened = if pod_ports.is_empty() {
                    let message = format!("the program listens on port {port}, which -p does not name: it stays on this machine");
                    report(Report::Notice { level: Level::Info, message: message.clone() });
                    Err(message)
                } else {
                    begin(&agents, &pod_ports).await
                };
                if let Err(error) = &opened
                    && !pod_ports.is_empty()
                {
                    report(Report::Notice { level: Level::Error, message: format!("port {port} is not subscribed: {error}") });
                }
                let _ = done.send(opened);
            }
            Some(PortChange::Closed { port, done }) => {
                for pod_port in agents.program().pod_ports(port) {
                    agents.unsubscribe(pod_port).await;
                }
                let _ = done.send(());
            }
            None => break,
        }
    }
    agents.unsubscribe_all().await;
}

async fn begin(agents: &Agents, ports: &[u16]) -> Result<(), String> {
    for &port in ports {
        agents.subscribe(port).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Uploads filters; what names them afterwards.
pub(crate) async fn upload(agent: &Agent, filters: &[FilterFile]) -> Result<Vec<FilterLink>, ErrorReply> {
    let mut chain = Vec::new();
    for filter in filters {
        let mut link = filter.link.clone();
        if let Some(path) = &filter.path {
            link.sha256 = agent.upload(&filter_name(path), read_module(path)?).await?.sha256;
        }
        chain.push(link);
    }
    Ok(chain)
}

pub(crate) fn read_module(path: &Path) -> Result<Vec<u8>, ErrorReply> {
    let help = "name a Wasm module, e.g. target/filters/header.wasm";
    let error = |error: std::io::Error| failure(format!("cannot read the filter {}: {error}", path.display()), help);
    let size = std::fs::metadata(path).map_err(error)?.len();
    if size > MAX_FILTER_MODULE as u64 {
        return Err(failure(format!("the filter {} has {size} bytes, more than {MAX_FILTER_MODULE}", path.display()), help));
    }
    std::fs::read(path).map_err(error)
}

/// The end of a pipe that the starter holds: resolves when the starter has closed it or is gone.
pub async fn lifeline(pipe: tokio::net::unix::pipe::Receiver) {
    let mut byte = [0; 64];
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        match pipe.try_read(&mut byte) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
