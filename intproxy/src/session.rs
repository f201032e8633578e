//! One session from its opening to its end.
//!
//! ```text
//! cli ──Settings──► open ──► Ready ──► serve ──lifeline closed──► close: subscriptions first ──► exit 0
//!                     │                  │
//!                     └─► Failed         └─agent gone──► Lost
//! layers --PortChange--> subscriptions --PUT, DELETE--> agent
//! ```

use std::{collections::BTreeSet, path::Path, rc::Rc};

use http::Method;
use mirrord_protocol::{
    control::{ErrorReply, Event, Level, SessionRequest},
    deliver::{Kind, token_from_hex},
    limits::{MAX_FILTER_MODULE, MAX_WORKERS},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

use crate::{
    agent::{Agent, Events, failure},
    delivery::{self, Program},
    layers::{Layers, PortChange},
    push::{Link, Pushes, filter_name},
    settings::{FilterFile, Report, Settings},
};

/// An open session; dropping it ends it at the agent.
pub struct Session {
    agent: Agent,
    events: Events,
    program: Rc<Program>,
    layers: Layers,
    deliveries: JoinSet<()>,
    pushes: Option<Pushes>,
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
    /// Uploads the filters, opens the session, dials the deliveries (of the kind that is wanted, if the agent knows it). Nothing is
    /// redirected yet.
    pub async fn open(settings: &Settings, wanted: Kind) -> Result<Self, ErrorReply> {
        let layers = Layers::bind().map_err(|error| failure(format!("cannot serve the program's layer: {error}"), ""))?;
        let agent = Agent::connect(&settings.agent).await?;
        let chain = upload(&agent, &settings.filters).await?;
        let request = SessionRequest {
            owner: settings.owner.clone(),
            mode: settings.mode,
            chain: chain.iter().map(|link| link.link.clone()).collect(),
            ambiguous: settings.ambiguous,
            show_decision: settings.show_decision,
            priority: settings.priority,
            filter_ports: settings.filter_ports.clone(),
        };
        let mut events = agent.open(&request).await?;
        let (token, workers, passes_sockets) = match events.next().await {
            Some(Event::Opened { token, workers, passes_sockets, .. }) if workers <= MAX_WORKERS => {
                (token_from_hex(&token), workers, passes_sockets)
            }
            _ => (None, 0, false),
        };
        let kind = if passes_sockets { wanted } else { Kind::Tunnel };
        let token = token.ok_or_else(|| failure("the agent opened no session", "use an agent and a command line of the same version"))?;
        let program = Rc::new(Program::new(layers.registry(), settings.ports.clone()));
        let mut deliveries = JoinSet::new();
        for worker in 0..workers {
            let server = delivery::connect(&settings.agent, kind, token, worker).await;
            let server =
                server.map_err(|error| failure(format!("cannot take deliveries from the agent: {error}"), "run the command again"))?;
            deliveries.spawn_local(delivery::serve(server, program.clone()));
        }
        let (pid, command) = (settings.owner.pid, settings.owner.command.clone());
        // That nobody can reach the session is no reason to have none.
        let pushes = Pushes::bind(agent.clone(), pid, command, chain);
        let pushes = pushes.map_err(|error| tracing::warn!(%error, "this session takes no other filters")).ok();
        Ok(Self { agent, events, program, layers, deliveries, pushes })
    }

    /// Value of `MIRRORD_LAYER_INTPROXY_ADDR` for the program.
    pub fn layer_address(&self) -> String {
        self.layers.address()
    }

    /// Serves until `lifeline` has ended or the agent is gone.
    pub async fn serve(self, lifeline: impl Future<Output = ()>, report: impl Fn(Report) + Clone + 'static) -> End {
        let Self { agent, mut events, program, layers, mut deliveries, pushes } = self;
        // layers --a port was opened or closed--> subscriptions
        let (changes, inbox) = mpsc::channel(64);
        let closing = Rc::new(Notify::new());
        let subscriptions = tokio::task::spawn_local(subscriptions(agent, program, inbox, closing.clone(), report.clone()));
        let serving = tokio::task::spawn_local(layers.run(changes));
        let pushing = pushes.map(|pushes| tokio::task::spawn_local(pushes.run(report.clone())));
        tokio::pin!(lifeline);
        let end = loop {
            tokio::select! {
                () = &mut lifeline => break End::Orderly,
                event = events.next() => match event {
                    Some(Event::Notice { level, message }) => report(Report::Notice { level, message }),
                    Some(Event::Closing { reason }) => break End::Lost(lost(&reason)),
                    Some(Event::Opened { .. }) => {}
                    None => break End::Lost(lost("the agent has gone")),
                },
                Some(_) = deliveries.join_next() => break End::Lost(lost("a delivery connection to the agent has ended")),
            }
        };
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

/// Carries out the layers' changes one after the other; told to close, gives every port back.
async fn subscriptions(
    agent: Agent,
    program: Rc<Program>,
    mut changes: mpsc::Receiver<PortChange>,
    closing: Rc<Notify>,
    report: impl Fn(Report),
) {
    let mut active = BTreeSet::new();
    loop {
        let change = tokio::select! {
            () = closing.notified() => break,
            change = changes.recv() => change,
        };
        match change {
            Some(PortChange::Opened { port, done }) => {
                let pod_ports = program.pod_ports(port);
                let opened = if pod_ports.is_empty() {
                    let message = format!("the program listens on port {port}, which -p does not name: it stays on this machine");
                    report(Report::Notice { level: Level::Info, message: message.clone() });
                    Err(message)
                } else {
                    begin(&agent, &pod_ports, &mut active).await
                };
                if let Err(error) = &opened
                    && !pod_ports.is_empty()
                {
                    report(Report::Notice { level: Level::Error, message: format!("port {port} is not subscribed: {error}") });
                }
                let _ = done.send(opened);
            }
            Some(PortChange::Closed { port, done }) => {
                for pod_port in program.pod_ports(port) {
                    end(&agent, pod_port, &mut active).await;
                }
                let _ = done.send(());
            }
            None => break,
        }
    }
    for port in active.clone() {
        end(&agent, port, &mut active).await;
    }
}

async fn begin(agent: &Agent, ports: &[u16], active: &mut BTreeSet<u16>) -> Result<(), String> {
    for &port in ports {
        agent.subscription(Method::PUT, port).await.map_err(|error| error.to_string())?;
        active.insert(port);
    }
    Ok(())
}

async fn end(agent: &Agent, port: u16, active: &mut BTreeSet<u16>) {
    if active.remove(&port)
        && let Err(error) = agent.subscription(Method::DELETE, port).await
    {
        tracing::warn!(%error, port, "a subscription could not be ended; it ends with the session");
    }
}

/// Uploads filters; what names them afterwards.
pub(crate) async fn upload(agent: &Agent, filters: &[FilterFile]) -> Result<Vec<Link>, ErrorReply> {
    let mut chain = Vec::new();
    for filter in filters {
        let mut link = Link { name: "http_filter".into(), link: filter.link.clone() };
        if let Some(path) = &filter.path {
            let module = read_module(path)?;
            link.name = filter_name(path);
            link.link.sha256 = agent.upload(&link.name, module).await?.sha256;
        }
        chain.push(link);
    }
    Ok(chain)
}

fn read_module(path: &Path) -> Result<Vec<u8>, ErrorReply> {
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
