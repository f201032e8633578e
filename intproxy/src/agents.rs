//! The agents that a session is at: one, or one for each pod of a workload, which come and go while the session lasts. What the
//! session is (filters, ports) is the same at each, and stands here.
//!
//! ```text
//! feed ("add", "remove", a line each) ──► Agents ──► a session at each agent, with its deliveries
//! ```

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use mirrord_protocol::{
    control::{ErrorReply, Event, FilterKind, FilterLink, Level, SessionRequest},
    deliver::{Kind, token_from_hex},
    limits::MAX_WORKERS,
};
use mirrord_tunnel::Client;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixStream,
    sync::Notify,
    task::JoinSet,
};

use crate::{
    agent::{Agent, Events, dial, failure, gone},
    delivery::{self, Program},
    push::filter_name,
    session::read_module,
    settings::{FilterFile, Report, Settings},
};

/// Requests that are under way at an agent that is left get so long.
const LEAVE: Duration = Duration::from_secs(5);

/// A line of the feed: which agents there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Another one, at this socket.
    Add(PathBuf),
    /// Not any more: its pod goes.
    Remove(PathBuf),
    /// Those that were there from the start have all been told.
    All,
}

/// A link of the session's chain, and where its module is.
#[derive(Clone, Debug)]
pub struct Place {
    /// What the filter is called.
    pub name: String,
    pub link: FilterLink,
    module: Option<Module>,
}

#[derive(Clone, Debug)]
enum Module {
    File(PathBuf),
    /// It came while the session ran.
    Pushed(Bytes),
}

/// What the session has at its agents. Clones share it.
#[derive(Clone)]
pub struct Agents(Rc<Shared>);

struct Shared {
    settings: Settings,
    wanted: Kind,
    program: Rc<Program>,
    members: RefCell<BTreeMap<PathBuf, Here>>,
    /// The pod's ports that are subscribed.
    ports: RefCell<BTreeSet<u16>>,
    chain: RefCell<Vec<Place>>,
}

/// An agent that the session is at.
#[derive(Clone)]
struct Here {
    agent: Agent,
    /// For connections from the target's network, if the session wants to make some.
    outgoing: Option<Client>,
    /// The session there is to end.
    leave: Rc<Notify>,
}

/// A session at one agent; dropping it ends it.
pub struct Member {
    agents: Agents,
    path: PathBuf,
    leave: Rc<Notify>,
    events: Events,
    deliveries: JoinSet<()>,
}

impl Agents {
    pub fn new(settings: &Settings, wanted: Kind, program: Rc<Program>) -> Self {
        let place = |file: &FilterFile| Place {
            name: file.path.as_deref().map_or_else(|| "http_filter".into(), filter_name),
            link: file.link.clone(),
            module: file.path.clone().map(Module::File),
        };
        let chain = RefCell::new(settings.filters.iter().map(place).collect());
        let (members, ports) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Shared { settings: settings.clone(), wanted, program, members, ports, chain }))
    }

    /// Uploads the filters, opens the session at one more agent, dials the deliveries (of the kind that is wanted, if the agent knows it),
    /// and subscribes what is subscribed elsewhere.
    pub async fn join(&self, path: &Path) -> Result<Member, ErrorReply> {
        let Shared { settings, program, .. } = &*self.0;
        let agent = Agent::connect(path).await?;
        let chain = self.upload(&agent).await?;
        let request = SessionRequest {
            owner: settings.owner.clone(),
            mode: settings.mode,
            chain,
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
        let kind = if passes_sockets { self.0.wanted } else { Kind::Tunnel };
        let token = token.ok_or_else(|| failure("the agent opened no session", "use an agent and a command line of the same version"))?;
        let mut deliveries = JoinSet::new();
        for worker in 0..workers {
            let server = delivery::connect(path, kind, token, worker).await;
            let server =
                server.map_err(|error| failure(format!("cannot take deliveries from the agent: {error}"), "run the command again"))?;
            deliveries.spawn_local(delivery::serve(server, program.clone()));
        }
        let outgoing = match settings.forward.mappings.is_empty() {
            true => None,
            false => {
                let dialled = delivery::outgoing(path, token).await;
                let help = "use an agent and a command line of the same version";
                let (client, driver) = dialled.map_err(|error| failure(format!("the agent makes no connections: {error}"), help))?;
                deliveries.spawn_local(async move { drop(driver.await) });
                Some(client)
            }
        };
        let leave = Rc::new(Notify::new());
        let member = Member { agents: self.clone(), path: path.to_owned(), leave: leave.clone(), events, deliveries };
        // From here on ports that are opened are opened here too; those that are open already follow.
        self.0.members.borrow_mut().insert(path.to_owned(), Here { agent: agent.clone(), outgoing, leave });
        let ports = self.0.ports.borrow().clone();
        for port in ports {
            agent.subscription(Method::PUT, port).await?;
        }
        Ok(member)
    }

    async fn upload(&self, agent: &Agent) -> Result<Vec<FilterLink>, ErrorReply> {
        let mut links = Vec::new();
        let chain = self.0.chain.borrow().clone();
        for (at, place) in chain.into_iter().enumerate() {
            let mut link = place.link;
            if let Some(module) = place.module {
                let bytes = match module {
                    Module::File(path) => read_module(&path)?,
                    Module::Pushed(bytes) => bytes.to_vec(),
                };
                link.sha256 = agent.upload(&place.name, bytes).await?.sha256;
                if let Some(place) = self.0.chain.borrow_mut().get_mut(at) {
                    place.link.sha256.clone_from(&link.sha256);
                }
            }
            links.push(link);
        }
        Ok(links)
    }

    /// One of the agents, for a connection from the target's network.
    pub fn outgoing(&self) -> Option<Client> {
        self.0.members.borrow().values().find_map(|here| here.outgoing.clone())
    }

    fn all(&self) -> Vec<Agent> {
        self.0.members.borrow().values().map(|here| here.agent.clone()).collect()
    }

    /// Whether the session is nowhere.
    pub fn is_empty(&self) -> bool {
        self.0.members.borrow().is_empty()
    }

    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// The chain as it is now.
    pub fn chain(&self) -> Vec<Place> {
        self.0.chain.borrow().clone()
    }

    /// Subscribes a port of the pod's everywhere. It counts as subscribed if one agent has done so; else nothing has changed.
    pub async fn subscribe(&self, port: u16) -> Result<(), ErrorReply> {
        self.0.ports.borrow_mut().insert(port);
        let (mut done, mut failed) = (0, None);
        for agent in self.all() {
            match agent.subscription(Method::PUT, port).await {
                Ok(()) => done += 1,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if done == 0 => {
                self.0.ports.borrow_mut().remove(&port);
                Err(error)
            }
            Some(error) => {
                tracing::warn!(error = %error.error, port, "a port is not subscribed everywhere");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Gives a port back, if it was subscribed.
    pub async fn unsubscribe(&self, port: u16) {
        if !self.0.ports.borrow_mut().remove(&port) {
            return;
        }
        for agent in self.all() {
            if let Err(error) = agent.subscription(Method::DELETE, port).await {
                tracing::warn!(error = %error.error, port, "a subscription could not be ended; it ends with the session");
            }
        }
    }

    /// Gives all ports back.
    pub async fn unsubscribe_all(&self) {
        let ports = self.0.ports.borrow().clone();
        for port in ports {
            self.unsubscribe(port).await;
        }
    }

    /// Puts another module into a link of the chain, everywhere. Until the agent has taken the whole new chain, the old one stays there.
    pub async fn replace(&self, link: usize, name: &str, config: Option<String>, module: Vec<u8>) -> Result<(), ErrorReply> {
        let mut chain = self.chain();
        let place = chain.get_mut(link).filter(|place| place.link.kind == FilterKind::Wasm);
        let place = place
            .ok_or_else(|| failure(format!("the session's chain has no module in place {link}"), "see `mirrord filter push --list`"))?;
        name.clone_into(&mut place.name);
        if let Some(config) = config {
            place.link.config = config;
        }
        let module = Bytes::from(module);
        place.module = Some(Module::Pushed(module.clone()));
        for agent in self.all() {
            let sha256 = agent.upload(name, module.to_vec()).await?.sha256;
            if let Some(place) = chain.get_mut(link) {
                place.link.sha256 = sha256;
            }
            // Modules of the other links are still at the agent: it keeps what the session uses.
            agent.swap(chain.iter().map(|place| place.link.clone()).collect()).await?;
        }
        self.0.chain.replace(chain);
        Ok(())
    }

    /// Leaves an agent whose pod goes: its ports first, then, once what is under way has had its time, the session there.
    pub async fn leave(&self, path: &Path) {
        let Some(here) = self.0.members.borrow_mut().remove(path) else { return };
        let ports = self.0.ports.borrow().clone();
        let given_back = async {
            for port in ports {
                here.agent.subscription(Method::DELETE, port).await?;
            }
            Ok::<_, ErrorReply>(())
        };
        if given_back.await.is_ok() {
            tokio::time::sleep(LEAVE).await;
        }
        here.leave.notify_one();
    }
}

impl Member {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Until the session there has ended; why, if it is known.
    pub async fn run(mut self, report: impl Fn(Report)) -> String {
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(Event::Notice { level, message }) => report(Report::Notice { level, message }),
                    Some(Event::Closing { reason }) => return reason,
                    Some(Event::Opened { .. }) => {}
                    None => return "the agent has gone".into(),
                },
                () = self.leave.notified() => return "its pod goes".into(),
                Some(_) = self.deliveries.join_next() => return "a delivery connection to the agent has ended".into(),
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.agents.0.members.borrow_mut();
        // Another one may have come to its place.
        if members.get(&self.path).is_some_and(|here| Rc::ptr_eq(&here.leave, &self.leave)) {
            members.remove(&self.path);
        }
    }
}

/// Tells which agents there are, as long as it is open.
pub struct Feed {
    read: BufReader<UnixStream>,
    /// What has come of a line.
    line: Vec<u8>,
}

impl Feed {
    pub async fn connect(path: &Path) -> Result<Self, ErrorReply> {
        dial(path).await.map(|socket| Self { read: BufReader::new(socket), line: Vec::new() }).map_err(gone)
    }

    /// The next change; `None`: it has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        self.read.read_until(b'\n', &mut self.line).await.ok()?;
        let line = std::mem::take(&mut self.line);
        serde_json::from_slice(&line).ok()
    }
}

/// A line for the user about an agent that could not be joined; the others go on.
pub fn left_out(reply: &ErrorReply) -> Report {
    let message = format!("a pod is without this session: {}", reply.error);
    Report::Notice { level: Level::Warn, message }
}
