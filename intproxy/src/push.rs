//! How other commands of the same user reach a running session: `mirrord filter push` gives it another version of a filter.
//!
//! ```text
//! push --Ask (a JSON line), then the module's bytes--> intproxy --upload, swap--> agent
//! push <--Told (a JSON line)-- intproxy
//! ```
//!
//! The socket is abstract and so leaves nothing behind; its name says whose it is and the process id of the command line, and
//! `/proc/net/unix` lists it. Anybody could connect to it, or take such a name: each end asks the kernel who the other one is.

use std::{io, path::Path, rc::Rc, time::Duration};

use mirrord_protocol::{
    control::{ErrorReply, FilterKind, Level},
    limits::{MAX_CONTROL_BODY, MAX_FILTER_CONFIG, MAX_FILTER_MODULE},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Mutex,
    task::JoinSet,
};

use crate::{
    agent::failure,
    agents::{Agents, Place},
    private,
    settings::Report,
};

/// What the names of these sockets begin with; `UID/PID` follows.
pub const NAME: &str = "mirrord-session/";
/// Visitors at once.
const MAX_VISITORS: usize = 8;
/// How long a visitor may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a visitor wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// To know what session this is.
    Describe,
    /// To replace a filter; the module's bytes follow.
    Push {
        /// Which link of the chain, from 0.
        link: usize,
        /// The file's name.
        name: String,
        /// Another configuration; without it, the one that the link has.
        config: Option<String>,
        /// Length of the module.
        size: usize,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// To [`Ask::Describe`].
    Session {
        /// The program that is run.
        command: String,
        /// The chain: names of files, and of declared filters.
        filters: Vec<LinkName>,
    },
    /// Every request that comes from now on meets the new filter.
    Done,
    /// Nothing has changed.
    Failed(ErrorReply),
}

/// A link of the chain as a visitor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkName {
    /// File name of the module.
    pub name: String,
    /// Whether there is a module that can be replaced.
    pub is_wasm: bool,
}

/// The session's side of it.
pub struct Pushes {
    listener: UnixListener,
    shared: Rc<Shared>,
}

struct Shared {
    user: u32,
    command: String,
    agents: Agents,
    /// Held from the upload to the agent's answer: a second push builds on the first one's chain.
    swapping: Mutex<()>,
}

/// Name of the socket of a session.
pub fn name(user: u32, pid: u32) -> String {
    format!("{NAME}{user}/{pid}")
}

/// What a filter is called: its file's name as one word that can be printed.
pub fn filter_name(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "filter".into(), |name| name.to_string_lossy());
    name.chars().map(|character| if character.is_ascii_graphic() { character } else { '_' }).take(255).collect()
}

impl Pushes {
    /// Takes the session's name.
    pub fn bind(agents: Agents, pid: u32, command: String) -> io::Result<Self> {
        let (listener, user) = bind(pid)?;
        let shared = Rc::new(Shared { user, command, agents, swapping: Mutex::default() });
        Ok(Self { listener, shared })
    }

    /// Serves visitors until dropped.
    pub async fn run(self, report: impl Fn(Report) + Clone + 'static) {
        let mut visitors = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if visitors.len() < MAX_VISITORS => {
                        let (shared, report) = (self.shared.clone(), report.clone());
                        visitors.spawn_local(async move { shared.visit(stream, report).await });
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                Some(_) = visitors.join_next() => {}
            }
        }
    }
}

fn bind(pid: u32) -> io::Result<(UnixListener, u32)> {
    // The kernel's word for who we are, as visitors get it.
    let user = UnixStream::pair()?.0.peer_cred()?.uid();
    Ok((UnixListener::from_std(private::listener(&name(user, pid))?)?, user))
}

impl Shared {
    async fn visit(&self, stream: UnixStream, report: impl Fn(Report)) {
        if !private::is_users(&stream, self.user) {
            return;
        }
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let told = match tokio::time::timeout(PATIENCE, hear(&mut read)).await {
            Ok(Ok((Ask::Describe, _))) => Told::Session { command: self.command.clone(), filters: self.names() },
            Ok(Ok((Ask::Push { link, name, config, .. }, module))) => match self.push(link, &name, config, module).await {
                Ok(()) => {
                    report(Report::Notice { level: Level::Info, message: format!("filter {name} was replaced") });
                    Told::Done
                }
                Err(reply) => Told::Failed(reply),
            },
            Ok(Err(error)) => Told::Failed(failure(error, "use the mirrord that runs the session")),
            Err(_) => return,
        };
        if let Ok(mut line) = serde_json::to_vec(&told) {
            line.push(b'\n');
            let _ = tokio::time::timeout(PATIENCE, write.write_all(&line)).await;
        }
    }

    fn names(&self) -> Vec<LinkName> {
        let name = |one: &Place| LinkName { name: one.name.clone(), is_wasm: one.link.kind == FilterKind::Wasm };
        self.agents.chain().iter().map(name).collect()
    }

    async fn push(&self, link: usize, name: &str, config: Option<String>, module: Vec<u8>) -> Result<(), ErrorReply> {
        let _one_at_a_time = self.swapping.lock().await;
        self.agents.replace(link, name, config, module).await
    }
}

/// What a visitor wants, with the module if it brings one.
async fn hear(read: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<(Ask, Vec<u8>)> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut line = Vec::new();
    read.take(MAX_CONTROL_BODY as u64).read_until(b'\n', &mut line).await?;
    let ask: Ask = serde_json::from_slice(&line).map_err(|error| bad(&error.to_string()))?;
    let mut module = Vec::new();
    if let Ask::Push { size, config, name, .. } = &ask {
        if *size > MAX_FILTER_MODULE || config.as_ref().is_some_and(|config| config.len() > MAX_FILTER_CONFIG) {
            return Err(bad("the filter or its configuration is too large"));
        }
        if name.is_empty() || name.len() > 255 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("a filter's name is one word"));
        }
        read.take(*size as u64).read_to_end(&mut module).await?;
        if module.len() < *size {
            return Err(bad("the filter is cut off"));
        }
    }
    Ok((ask, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> io::Result<(Ask, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(hear(&mut BufReader::new(bytes)))
    }

    #[test]
    fn a_module_comes_whole_or_not_at_all() {
        let ask = |size: usize, name: &str| {
            let ask = Ask::Push { link: 0, name: name.into(), config: None, size };
            let mut line = serde_json::to_vec(&ask).unwrap();
            line.extend(b"\nwasm");
            line
        };
        assert_eq!(heard(&ask(4, "a.wasm")).unwrap().1, b"wasm");
        for bytes in [ask(5, "a.wasm"), ask(MAX_FILTER_MODULE + 1, "a.wasm"), ask(4, "a b"), ask(4, ""), b"{}\n".to_vec(), Vec::new()] {
            assert!(heard(&bytes).is_err());
        }
        assert_eq!(heard(b"\"describe\"\n").unwrap(), (Ask::Describe, Vec::new()));
    }
}
