//! Finds the agent of a network namespace, or starts it: `/run/mirrord/agent-<inode>.sock`. At most one is started, however many
//! command lines ask at once. It then lives on its own, for all sessions on that namespace.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    ops::ControlFlow,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use mirrord_protocol::control::ErrorReply;
use thiserror::Error;

use crate::{
    files::{self, FileError},
    lines::{Line, Lines},
    namespace::Namespace,
    privileges::Capabilities,
    process,
};

/// Where agents have their sockets.
pub const FOLDER: &str = "/run/mirrord";
/// How long an agent may take from its start to its first line.
const START: Duration = Duration::from_secs(10);
/// How long another command line's start of an agent is waited for.
const TURN: Duration = Duration::from_secs(15);
/// How often an agent that ends just while it is joined is replaced.
const ATTEMPTS: usize = 3;

/// Why there is no agent.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error("{FOLDER} cannot be used: {0}")]
    Folder(io::Error),
    #[error("the agent's socket {} cannot be used: {error}", path.display())]
    Socket { path: PathBuf, error: io::Error },
    #[error("{0}")]
    File(#[from] FileError),
    #[error("{} cannot be started: {error}", path.display())]
    Spawn { path: PathBuf, error: io::Error },
    #[error("the agent's log {} cannot be written: {error}", path.display())]
    Log { path: PathBuf, error: io::Error },
    #[error("{}", .0.error)]
    Refused(ErrorReply),
    #[error("the agent ended before it was ready ({0})")]
    Ended(ExitStatus),
    #[error("the agent was not ready within {} s", START.as_secs())]
    Slow,
    #[error("another mirrord has been starting the agent for {} s", TURN.as_secs())]
    Turn,
}

impl AgentError {
    /// The next step.
    pub fn help(&self) -> &str {
        match self {
            Self::Folder(_) | Self::Socket { .. } => "run mirrord as root, the owner of that path",
            Self::File(error) => error.help(),
            Self::Spawn { .. } => "MIRRORD_AGENT_FILE, if it is set, must be the mirrord-agent of this version",
            Self::Log { .. } => "set MIRRORD_AGENT_LOG to a file that can be written, or unset it",
            Self::Refused(reply) if !reply.help.is_empty() => &reply.help,
            Self::Refused(_) | Self::Ended(_) | Self::Slow => "run it again with MIRRORD_AGENT_LOG=FILE to see why",
            Self::Turn => "run it again; if it stays so, end that other mirrord",
        }
    }
}

/// Where the namespace's agent has its socket, if there is an agent.
pub fn socket(namespace: &Namespace) -> PathBuf {
    Path::new(FOLDER).join(format!("agent-{}.sock", namespace.inode))
}

/// The socket of the namespace's agent, which accepts connections. `keep`: rights that the agent must have although it is not root.
fn find_or_start(namespace: &Namespace, keep: Capabilities) -> Result<PathBuf, AgentError> {
    let socket = socket(namespace);
    let deadline = Instant::now() + TURN;
    loop {
        if accepts(&socket)? {
            return Ok(socket);
        }
        let turn = Turn::take(Path::new(FOLDER), deadline)?;
        // Whoever had the turn before us has perhaps started it.
        if accepts(&socket)? {
            return Ok(socket);
        }
        match start(namespace, &socket, keep) {
            Ok(()) => return Ok(socket),
            // The last agent has ended meanwhile and taken the folder along: not this one's fault.
            Err(_) if !turn.holds() && Instant::now() < deadline => {}
            Err(error) => {
                // Fails if anybody else's socket is in it.
                let _ = fs::remove_dir(FOLDER);
                return Err(error);
            }
        }
    }
}

/// Joins the namespace's agent. `Continue` is a failure that an agent which was about to end when it was found may account for: if
/// that one has gone, there is another attempt, with the next one.
pub fn with_agent<T, E: From<AgentError>>(
    namespace: &Namespace,
    keep: Capabilities,
    mut join: impl FnMut(PathBuf) -> ControlFlow<Result<T, E>, E>,
) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        let socket = find_or_start(namespace, keep)?;
        let found = identity(&socket);
        match join(socket.clone()) {
            ControlFlow::Break(joined) => return joined,
            ControlFlow::Continue(_) if attempt < ATTEMPTS && !is_still(&socket, found)? => attempt += 1,
            ControlFlow::Continue(error) => return Err(error),
        }
    }
}

/// Works on the folder of sockets, if there is one, while nobody starts an agent.
pub fn undisturbed<T>(work: impl FnOnce(&Path) -> T) -> Result<Option<T>, AgentError> {
    let folder = Path::new(FOLDER);
    if !folder.exists() {
        return Ok(None);
    }
    let _turn = Turn::take(folder, Instant::now() + TURN)?;
    Ok(Some(work(folder)))
}

/// Whether somebody listens. A dead agent's socket refuses; the next agent replaces it.
pub fn accepts(socket: &Path) -> Result<bool, AgentError> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(false),
        Err(error) => Err(AgentError::Socket { path: socket.into(), error }),
    }
}

/// Names the agent whose socket this is: device and inode. Another agent's socket at that path is another file.
fn identity(socket: &Path) -> Option<(u64, u64)> {
    fs::metadata(socket).ok().map(|socket| (socket.dev(), socket.ino()))
}

/// Whether the agent that was found there listens still.
fn is_still(socket: &Path, found: Option<(u64, u64)>) -> Result<bool, AgentError> {
    Ok(accepts(socket)? && identity(socket) == found)
}

/// The right to start agents: a lock on the folder itself, so that none is left behind as a file. Ends with this value or process.
struct Turn {
    folder: File,
    path: PathBuf,
}

impl Turn {
    fn take(path: &Path, deadline: Instant) -> Result<Self, AgentError> {
        loop {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(AgentError::Folder(error)),
                _ => {}
            }
            let folder = match File::open(path) {
                Ok(folder) => folder,
                // Removed since the line above, by an agent that ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => continue,
                Err(error) => return Err(AgentError::Folder(error)),
            };
            let turn = Self { folder, path: path.into() };
            match turn.folder.try_lock() {
                Ok(()) if turn.holds() => return Ok(turn),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::Error(error)) => return Err(AgentError::Folder(error)),
            }
            if Instant::now() >= deadline {
                return Err(AgentError::Turn);
            }
        }
    }

    /// Whether the path still is the folder that is locked.
    fn holds(&self) -> bool {
        let same = |ours: fs::Metadata, there: fs::Metadata| (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        self.folder.metadata().ok().zip(fs::metadata(&self.path).ok()).is_some_and(|(ours, there)| same(ours, there))
    }
}

fn start(namespace: &Namespace, socket: &Path, keep: Capabilities) -> Result<(), AgentError> {
    let program = files::agent()?;
    let mut command = Command::new(&program);
    command.arg("--netns").arg(&namespace.path).arg("--socket").arg(socket);
    // It outlives us: it must not hold our folder's file system.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log()?);
    process::prepare_helper(&mut command, keep);
    let mut child = command.spawn().map_err(|error| AgentError::Spawn { path: program, error })?;
    let first = child.stdout.take().map(Lines::new).and_then(Result::ok).map_or(Line::End, |mut lines| lines.wait(Instant::now() + START));
    let error = match first {
        Line::Text(line) if line == "ready" => return Ok(()),
        Line::Text(line) => serde_json::from_str(&line).ok().map(AgentError::Refused),
        Line::NotYet => Some(AgentError::Slow),
        Line::End => None,
    };
    let status = end(&mut child);
    Err(error.unwrap_or(AgentError::Ended(status)))
}

fn log() -> Result<Stdio, AgentError> {
    let Some(path) = env::var_os("MIRRORD_AGENT_LOG").map(PathBuf::from) else { return Ok(Stdio::null()) };
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|error| AgentError::Log { path, error })?;
    Ok(file.into())
}

/// Ends an agent that serves nobody, and says how it ended; one that ends by itself gets a moment for that.
fn end(child: &mut Child) -> ExitStatus {
    for _ in 0..100 {
        if let Ok(Some(status)) = child.try_wait() {
            return status;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    child.wait().unwrap_or_default()
}
