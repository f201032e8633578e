//! What the agent's program tells `mirrord doctor`, a line of JSON for each question.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is left in a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// The namespace, as it was asked for.
    pub netns: PathBuf,
    /// Rules of an agent that is gone, as `iptables-save` prints them.
    pub rules: Vec<String>,
    /// An agent, or its guard, is at work there: what rules there are, are its own.
    pub is_lived_in: bool,
    /// The rules were removed.
    pub is_removed: bool,
    /// Why it could not be looked at, or cleaned; empty if it could.
    #[serde(default)]
    pub error: String,
}

/// What this machine's kernel and tools can do for a redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `nft` or `legacy`.
    pub tables: String,
    /// The redirect ends by itself if agent and guard are killed at once.
    pub leased: bool,
    /// The pod sees its clients' own addresses.
    pub keeps_addresses: bool,
}
