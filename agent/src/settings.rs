//! The agent's command line. Users do not type it: `mirrord exec` and the container's manifest do.

use std::{env, fs, io, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use mirrord_protocol::control::key_variable;

/// What the program is run as.
#[derive(Parser, Debug)]
#[command(name = "mirrord-agent", version, about = "The part of mirrord that runs in the target's network namespace")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Command {
    /// Set when the agent runs itself again as its own guard.
    #[command(subcommand)]
    pub role: Option<Role>,
    /// Settings of the agent proper.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program may be besides the agent.
#[derive(Subcommand, Clone, Debug)]
pub enum Role {
    /// Watches the agent that started it and undoes the redirect if it dies (started by the agent itself)
    #[command(hide = true)]
    Guard,
    /// Looks for rules that agents which are gone have left in these namespaces (asked by `mirrord doctor`)
    #[command(hide = true)]
    Leftovers {
        /// Removes them
        #[arg(long)]
        fix: bool,
        /// Paths of network namespaces
        netns: Vec<PathBuf>,
    },
    /// Tries out whether this machine can redirect (asked by `mirrord doctor`)
    #[command(hide = true)]
    Kernel,
}

/// Settings of the agent.
#[derive(Args, Clone, Debug, Default)]
pub struct Settings {
    /// The target's network namespace, e.g. /run/netns/shop or /proc/7/ns/net
    #[arg(long, value_name = "PATH", default_value = "/proc/self/ns/net")]
    pub netns: PathBuf,
    /// Container of this machine whose network namespace it is, e.g. containerd://4f5c…, instead of --netns
    #[arg(long, value_name = "ID", conflicts_with = "netns")]
    pub container: Option<String>,
    /// Process whose environment sessions may ask for, where no container is named
    #[arg(long, value_name = "PID")]
    pub process: Option<u32>,
    /// There is no target: nothing is redirected
    #[arg(long, conflicts_with_all = ["netns", "container"])]
    pub targetless: bool,
    /// Address for sessions from elsewhere, who need our keys: --tls or --guest
    #[arg(long, value_name = "IP:PORT", requires = "keys")]
    pub listen: Option<SocketAddr>,
    /// Folder with ca.crt, tls.crt and tls.key
    #[arg(long, value_name = "FOLDER", group = "keys")]
    pub tls: Option<PathBuf>,
    /// The agent is a container of the target's own pod: its keys are in MIRRORD_AGENT_CA_CRT, …_TLS_CRT and …_TLS_KEY, and if the pod
    /// runs out of memory, it goes first
    #[arg(long, group = "keys")]
    pub guest: bool,
    /// Seconds that an agent without a session waits for the next one
    #[arg(long, env = "MIRRORD_AGENT_COMMUNICATION_TIMEOUT", default_value_t = 0)]
    pub idle: u64,
    /// Requests of the kubelet's probes go to the pod, unless a filter picks them
    #[arg(long)]
    pub spare_probes: bool,
    /// Unix socket to serve on; made with mode 0600
    #[arg(long, value_name = "PATH", default_value = "/run/mirrord/agent.sock")]
    pub socket: PathBuf,
    /// Worker threads; 0: one for each core, at most 4
    #[arg(long, env = "MIRRORD_AGENT_WORKERS", default_value_t = 0)]
    pub workers: u16,
    /// Log filter as for RUST_LOG
    #[arg(long, env = "MIRRORD_AGENT_RUST_LOG", default_value = "info")]
    pub log_level: String,
    /// Log lines are JSON
    #[arg(long, env = "MIRRORD_AGENT_JSON_LOG")]
    pub json_log: bool,
    /// Rules are nft's, or those of old; else whichever the target has
    #[arg(long, env = "MIRRORD_AGENT_NFTABLES", value_name = "true|false")]
    pub nftables: Option<bool>,
    /// Folder for compiled filters; empty: no cache
    #[arg(long, env = "MIRRORD_AGENT_CACHE")]
    pub cache: Option<PathBuf>,
    /// Seconds that connections get to end by themselves after SIGTERM
    #[arg(long, env = "MIRRORD_AGENT_GRACE", default_value_t = 30)]
    pub grace: u64,
}

impl Settings {
    /// A file of the keys.
    pub fn key(&self, name: &str) -> io::Result<Vec<u8>> {
        match &self.tls {
            Some(folder) => fs::read(folder.join(name)),
            None => env::var(key_variable(name)).map(String::into_bytes).map_err(io::Error::other),
        }
    }

    /// How long connections may take to end after SIGTERM.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace)
    }

    /// How long an agent without a session waits for the next one.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle)
    }

    /// Number of worker threads, at least 1.
    #[must_use]
    pub fn workers(&self) -> u16 {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4) as u16),
            n => n.min(mirrord_protocol::limits::MAX_WORKERS),
        }
    }

    /// Folder for compiled filters: as set, else the user's cache folder, else none.
    #[must_use]
    pub fn cache_folder(&self) -> Option<PathBuf> {
        let chosen = self.cache.clone().or_else(|| {
            let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
                .map(|base| base.join("mirrord/filters"))
        });
        chosen.filter(|folder| folder.is_absolute())
    }
}
