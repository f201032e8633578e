//! What the command line tells its intproxy (one JSON line on standard input, which then stays open as a lifeline: its end
//! ends the session), and what the intproxy reports back (JSON lines on standard output).

use std::path::PathBuf;

use mirrord_protocol::control::{Ambiguous, ErrorReply, FilterLink, Level, Mode, Owner};
use serde::{Deserialize, Serialize};

/// All that a session is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The agent's unix socket.
    pub agent: PathBuf,
    /// Instead: a unix socket that tells which agents there are, line by line ([`crate::agents::Change`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<PathBuf>,
    /// Who runs the session.
    pub owner: Owner,
    /// What becomes of picked requests.
    pub mode: Mode,
    /// The filter chain, in order.
    pub filters: Vec<FilterFile>,
    /// What becomes of bytes that no filter can judge.
    pub ambiguous: Ambiguous,
    /// Whether responses to requests that the filters took say so.
    #[serde(default)]
    pub show_decision: bool,
    /// Order among sessions on one port.
    pub priority: i32,
    /// The ports that may be subscribed; `None`: each port that the program listens on, under its own number.
    pub ports: Option<Vec<PortMap>>,
    /// The target's ports on which the filters are asked; `None`: on all.
    #[serde(default)]
    pub filter_ports: Option<Vec<u16>>,
    /// Ports without a program of the session's.
    #[serde(default)]
    pub forward: Forward,
}

/// What `mirrord port-forward` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// `-L`.
    pub mappings: Vec<Mapping>,
    /// `-R`: traffic of the target's port goes to whoever listens on this machine's, on loopback.
    pub reverse: Vec<PortMap>,
}

/// `-L [LOCAL:]HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The port of this machine to listen on, on loopback.
    pub local: u16,
    /// `HOST:PORT`, as it is known in the target's network.
    pub to: String,
}

/// A filter of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterFile {
    /// The Wasm module; absent for a declared filter.
    pub path: Option<PathBuf>,
    /// How it is to be run. The hash is not known yet.
    pub link: FilterLink,
}

/// `-p POD[:LOCAL]`: traffic of the pod's port `pod` goes to the program's port `local`. Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// Port in the target.
    pub pod: u16,
    /// Port that the program listens on, as it believes.
    pub local: u16,
}

/// What the intproxy reports; each a line of JSON on its standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The session is open: the program may start, with this value in `MIRRORD_LAYER_INTPROXY_ADDR`.
    Ready {
        /// `NAME,TOKEN` for the layer.
        layer_address: String,
    },
    /// Something that the user should read.
    Notice {
        /// How much it matters.
        level: Level,
        /// One line.
        message: String,
    },
    /// The session could not be opened; nothing has changed in the target.
    Failed(ErrorReply),
    /// The session ended although nobody here ended it (the agent is gone). The pod serves all its traffic itself again.
    Lost(ErrorReply),
}
