//! The command line as typed → [`Flags`]. Flags may also stand behind the program (as users of other tools of this kind expect), so a
//! program whose own arguments begin with a dash goes behind `--`.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mirrord_config::{Ambiguous, FilterFlag, Flags, Mode};

use crate::{
    chain::{self, ChainFlags},
    explain,
    filter::{self, args::FilterCommand},
    inspect,
};

const EXAMPLES: &str = "\
Examples:
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
    /// Make, build, check, test, measure and replace traffic filters
    #[command(subcommand, after_help = filter::args::EXAMPLES, override_usage = "mirrord filter COMMAND")]
    Filter(FilterCommand),
    /// The local proxy of one session; `exec` starts it
    #[command(hide = true)]
    Intproxy,
}

#[derive(Args, Debug)]
struct Exec {
    /// Whose traffic: netns/NAME, pid/N or container/ID [env: MIRRORD_IMPERSONATED_TARGET]
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,

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
    Exec { flags: Flags, file: Option<PathBuf>, key: Option<String>, watch: Watch },
    Explain(explain::Line),
    Inspect(Box<inspect::Line>, Vec<FilterFlag>),
    Filter(FilterCommand),
    Intproxy,
}

/// Reads the command line. The error is also how `--help` and `--version` come out.
pub fn read(line: impl IntoIterator<Item = OsString>) -> Result<Task, clap::Error> {
    let matches = Line::command().try_get_matches_from(line)?;
    match Line::from_arg_matches(&matches)?.command {
        Subcommands::Intproxy => Ok(Task::Intproxy),
        Subcommands::Filter(command) => Ok(Task::Filter(command)),
        Subcommands::Exec(exec) => {
            let filters = matches.subcommand_matches("exec").map(chain::flags).unwrap_or_default();
            let watch = if exec.filter_watch { Watch::Yes } else { Watch::No };
            let (file, key) = (exec.config_file.clone(), exec.key.clone());
            Ok(Task::Exec { flags: flags(*exec, filters), file, key, watch })
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
        command: exec.command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(line: &str) -> Flags {
        match read(format!("mirrord exec {line}").split(' ').map(OsString::from)).unwrap() {
            Task::Exec { flags, .. } => flags,
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
