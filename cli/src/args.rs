//! The command line as typed → [`Flags`]. Flags may also stand behind the program (as users of other tools of this kind expect), so a
//! program whose own arguments begin with a dash goes behind `--`.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mirrord_config::{Ambiguous, ClusterFlags, EnvironmentFlags, FilterFlag, Flags, Mode};

use crate::{
    chain::{self, ChainFlags},
    doctor, explain,
    filter::{self, args::FilterCommand},
    forward, inspect, kube, verify,
};

const EXAMPLES: &str = "\
Examples:
  Answer the requests of all pods of a deployment that the filter picks; all others go to their pod:
    mirrord exec -t deployment/shop --steal --filter header.wasm -- python3 app.py
  Get a copy of what the pod on this machine gets; the pod answers:
    mirrord exec -t netns/shop -- node app.mjs
  Answer requests that the filter picks; all others go to the pod:
    mirrord exec -t netns/shop --steal --filter header.wasm --filter-config '{\"name\":\"x-user\",\"value\":\"me\"}' -- python3 app.py
  The pod serves port 80, the program listens on 8080:
    mirrord exec -t container/4f5c --steal -p 80:8080 -- ./server
";

/// `mirrord`.
#[derive(Parser, Debug)]
#[command(name = "mirrord", version, about = "Run a process on this machine as if it ran inside a pod", after_help = EXAMPLES)]
#[command(arg_required_else_help = true)]
struct Line {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    /// Run a program with the pod's incoming traffic
    #[command(after_help = EXAMPLES, override_usage = "mirrord exec -t TARGET [OPTIONS] -- CMD [ARGUMENTS]")]
    Exec(Box<Exec>),
    /// Show why the last requests went where they went
    #[command(override_usage = "mirrord explain -t TARGET [OPTIONS]")]
    Explain(explain::Line),
    /// Show each request and response of the target as it passes; nothing runs here and nothing changes there
    #[command(override_usage = "mirrord inspect -t TARGET [OPTIONS]")]
    Inspect(Box<inspect::Line>),
    /// Print what comes to the target's ports, and what is answered: heads and bodies
    #[command(override_usage = "mirrord dump -t TARGET [-p PORT]… [OPTIONS]")]
    Dump(Box<inspect::dump::Line>),
    /// Make, build, check, test, measure and replace traffic filters
    #[command(subcommand, after_help = filter::args::EXAMPLES, override_usage = "mirrord filter COMMAND")]
    Filter(FilterCommand),
    /// List what could be a target in a cluster
    #[command(override_usage = "mirrord ls [OPTIONS]")]
    Ls(kube::list::Line),
    /// Reach what the target reaches, from ports of this machine, and have the target's traffic come to them
    #[command(override_usage = "mirrord port-forward -t TARGET [-L [LOCAL:]HOST:PORT]… [-R [REMOTE:]LOCAL]…")]
    PortForward(Box<forward::Line>),
    /// Look whether this machine and the cluster have what sessions need, and for what dead sessions have left
    #[command(override_usage = "mirrord doctor [OPTIONS]")]
    Doctor(Box<doctor::Line>),
    /// Check a config file, as editors do; what it says is JSON
    #[command(name = "verify-config", hide = true)]
    Verify(verify::Line),
    /// Print the Roles that a user of a cluster needs
    #[command(override_usage = "mirrord rbac [OPTIONS]")]
    Rbac(kube::rbac::Line),
    /// The local proxy of one session; `exec` starts it
    #[command(hide = true)]
    Intproxy,
    /// The connection to a cluster; `exec` starts it
    #[command(hide = true)]
    Cluster,
}

#[derive(Args, Debug)]
struct Exec {
    /// Whose traffic: pod/NAME, deployment/NAME, statefulset/NAME, service/NAME, label/KEY=VALUE … in a cluster; netns/NAME, pid/N or
    /// container/ID on this machine [env: MIRRORD_IMPERSONATED_TARGET]
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    environment: EnvironmentArgs,

    /// Answer the requests [env: MIRRORD_AGENT_TCP_STEAL_TRAFFIC=true]
    #[arg(long, action = ArgAction::SetTrue)]
    steal: bool,

    /// Get a copy of the requests, which the pod answers (the default)
    #[arg(long, action = ArgAction::SetTrue)]
    mirror: bool,

    #[command(flatten)]
    chain: ChainFlags,

    /// Build the filters' projects and give the session each new version whenever a source is saved
    #[arg(long)]
    filter_watch: bool,

    /// A config file: JSON, TOML or YAML [env: MIRRORD_CONFIG_FILE]
    #[arg(short = 'f', long, value_name = "FILE", num_args = 0..=1, default_missing_value = "./.mirrord/mirrord.json")]
    config_file: Option<PathBuf>,

    /// What templates in the config file have as `key`; without it, the file's own, else a random one [env: MIRRORD_KEY]
    #[arg(short, long, value_name = "KEY")]
    key: Option<String>,

    /// Only this port of the pod, which comes to the program's port LOCAL; without -p: each port that the program listens on
    #[arg(short, long, value_name = "PORT[:LOCAL]", allow_negative_numbers = true)]
    port: Vec<String>,

    /// What becomes of bytes that two servers could read in two ways, and so no filter can judge: the pod gets them as they are,
    /// or the client gets an error
    #[arg(long, value_name = "pass|refuse", value_enum, hide_possible_values = true)]
    ambiguous: Option<AmbiguousFlag>,

    /// Has responses to requests that your filters took say so, with the reason, in a header x-mirrord-decision
    #[arg(long)]
    show_decision: bool,

    /// Order among sessions on one port: higher first, then the older
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,

    /// The program and its arguments; put -- before it if they begin with a dash
    #[arg(value_name = "CMD")]
    command: Vec<OsString>,
}

/// How a cluster is reached, and how the agent looks there.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "In a cluster")]
pub struct ClusterArgs {
    /// Namespace of the target; else the context's [env: MIRRORD_TARGET_NAMESPACE]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    target_namespace: Option<String>,

    /// Context of the kubeconfig; else the current one [env: MIRRORD_KUBE_CONTEXT]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// One pod of a workload instead of all that are ready
    #[arg(long)]
    one: bool,

    /// Namespace of the agent's Job; else the context's [env: MIRRORD_AGENT_NAMESPACE]
    #[arg(short = 'a', long, value_name = "NAMESPACE")]
    agent_namespace: Option<String>,

    /// The agent is an ephemeral container of the target's pod, not a pod of its own [env: MIRRORD_EPHEMERAL_CONTAINER]
    #[arg(short = 'e', long)]
    ephemeral_container: bool,

    /// The agent's image [env: MIRRORD_AGENT_IMAGE]
    #[arg(short = 'i', long, value_name = "IMAGE")]
    agent_image: Option<String>,

    /// The agent's log, as for RUST_LOG [env: MIRRORD_AGENT_RUST_LOG]
    #[arg(short = 'l', long, value_name = "FILTER")]
    agent_log_level: Option<String>,

    /// Seconds that the agent's Job stays once it has ended [env: MIRRORD_AGENT_TTL]
    #[arg(long, value_name = "SECONDS")]
    agent_ttl: Option<u16>,

    /// Seconds within which the agent must be ready [env: MIRRORD_AGENT_STARTUP_TIMEOUT]
    #[arg(long, value_name = "SECONDS")]
    agent_startup_timeout: Option<u64>,

    /// Do not check the API server's certificate [env: MIRRORD_ACCEPT_INVALID_CERTIFICATES]
    #[arg(short = 'c', long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    accept_invalid_certificates: Option<bool>,
}

/// Which of the container's variables the program gets.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "The container's environment")]
pub struct EnvironmentArgs {
    /// Only these variables of the container's, with `;` between them; * and ? stand for others
    /// [env: MIRRORD_OVERRIDE_ENV_VARS_INCLUDE]
    #[arg(short = 's', long, value_name = "NAMES")]
    override_env_vars_include: Option<String>,

    /// All but these [env: MIRRORD_OVERRIDE_ENV_VARS_EXCLUDE]
    #[arg(short = 'x', long, value_name = "NAMES")]
    override_env_vars_exclude: Option<String>,

    /// Variables from a file, before the container's [env: MIRRORD_OVERRIDE_ENV_VARS_FILE]
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

impl ClusterArgs {
    /// As the configuration takes them.
    pub fn flags(self) -> ClusterFlags {
        ClusterFlags {
            namespace: self.target_namespace,
            context: self.context,
            accept_invalid_certificates: self.accept_invalid_certificates,
            agent_namespace: self.agent_namespace,
            agent_image: self.agent_image,
            agent_log_level: self.agent_log_level,
            agent_ttl: self.agent_ttl,
            agent_startup_timeout: self.agent_startup_timeout,
            ephemeral: self.ephemeral_container,
            one: self.one,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AmbiguousFlag {
    Pass,
    Refuse,
}

/// Whether filters are built and replaced while the session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Yes,
    No,
}

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    Exec { flags: Box<Flags>, file: Option<PathBuf>, key: Option<String>, watch: Watch },
    Explain(explain::Line),
    Inspect(Box<inspect::Line>, Vec<FilterFlag>),
    Filter(FilterCommand),
    Ls(kube::list::Line),
    Rbac(kube::rbac::Line),
    Verify(verify::Line),
    Doctor(Box<doctor::Line>),
    Dump(Box<inspect::dump::Line>),
    Forward(Box<forward::Line>, Vec<FilterFlag>),
    Intproxy,
    Cluster,
}

/// Reads the command line. The error is also how `--help` and `--version` come out.
pub fn read(line: impl IntoIterator<Item = OsString>) -> Result<Task, clap::Error> {
    let matches = Line::command().try_get_matches_from(line)?;
    match Line::from_arg_matches(&matches)?.command {
        Subcommands::Intproxy => Ok(Task::Intproxy),
        Subcommands::Cluster => Ok(Task::Cluster),
        Subcommands::Ls(line) => Ok(Task::Ls(line)),
        Subcommands::Rbac(line) => Ok(Task::Rbac(line)),
        Subcommands::Dump(line) => Ok(Task::Dump(line)),
        Subcommands::PortForward(line) => {
            let filters = matches.subcommand_matches("port-forward").map(chain::flags).unwrap_or_default();
            Ok(Task::Forward(line, filters))
        }
        Subcommands::Doctor(line) => Ok(Task::Doctor(line)),
        Subcommands::Verify(line) => Ok(Task::Verify(line)),
        Subcommands::Filter(command) => Ok(Task::Filter(command)),
        Subcommands::Exec(exec) => {
            let filters = matches.subcommand_matches("exec").map(chain::flags).unwrap_or_default();
            let watch = if exec.filter_watch { Watch::Yes } else { Watch::No };
            let (file, key) = (exec.config_file.clone(), exec.key.clone());
            Ok(Task::Exec { flags: Box::new(flags(*exec, filters)), file, key, watch })
        }
        Subcommands::Explain(line) => Ok(Task::Explain(line)),
        Subcommands::Inspect(line) => {
            let filters = matches.subcommand_matches("inspect").map(chain::flags).unwrap_or_default();
            Ok(Task::Inspect(line, filters))
        }
    }
}

fn flags(exec: Exec, filters: Vec<FilterFlag>) -> Flags {
    let modes = [(exec.steal, Mode::Steal), (exec.mirror, Mode::Mirror)];
    Flags {
        target: exec.target,
        modes: modes.into_iter().filter(|(given, _)| *given).map(|(_, mode)| mode).collect(),
        filters,
        ports: exec.port,
        ambiguous: exec.ambiguous.map(|flag| match flag {
            AmbiguousFlag::Pass => Ambiguous::Pass,
            AmbiguousFlag::Refuse => Ambiguous::Refuse,
        }),
        show_decision: exec.show_decision,
        priority: exec.priority,
        cluster: exec.cluster.flags(),
        environment: EnvironmentFlags {
            include: exec.environment.override_env_vars_include,
            exclude: exec.environment.override_env_vars_exclude,
            file: exec.environment.env_file,
        },
        command: exec.command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(line: &str) -> Flags {
        match read(format!("mirrord exec {line}").split(' ').map(OsString::from)).unwrap() {
            Task::Exec { flags, .. } => *flags,
            other => panic!("not exec: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Line::command().debug_assert();
    }

    #[test]
    fn filters_and_their_configurations_keep_their_order() {
        let flags = exec("--filter a --filter b --filter-config -x --filter=c --filter-config=@f -- cmd --filter d");
        let filter = |path: &str| FilterFlag::Filter(path.into());
        let config = |text: &str| FilterFlag::Config(text.into());
        assert_eq!(flags.filters, [filter("a"), filter("b"), config("-x"), filter("c"), config("@f")]);
        assert_eq!(flags.command, ["cmd", "--filter", "d"]);
    }

    #[test]
    fn conditions_and_modules_keep_their_order_too() {
        let flags = exec("--header-filter ^a:b --filter a --filter-on-failure deny --http-filter {} --filter-limit call=1ms -- cmd");
        assert_eq!(flags.filters[0], FilterFlag::Condition("header_filter", "^a:b".into()));
        assert_eq!(flags.filters[2], FilterFlag::OnFailure(mirrord_config::filters::OnFailure::Deny));
        assert_eq!(flags.filters[3..], [FilterFlag::Conditions("{}".into()), FilterFlag::Limit("call=1ms".into())]);
    }

    #[test]
    fn flags_may_stand_behind_the_program() {
        let flags = exec("node app.mjs -t netns/shop -p 80:8080 --steal");
        assert_eq!((flags.target.as_deref(), flags.ports, flags.modes), (Some("netns/shop"), vec!["80:8080".into()], vec![Mode::Steal]));
        assert_eq!(flags.command, ["node", "app.mjs"]);
    }

    #[test]
    fn a_priority_may_be_negative() {
        assert_eq!(exec("--priority -3 cmd").priority, Some(-3));
    }
}
