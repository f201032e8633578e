//! `mirrord doctor`: whether this machine and the cluster have what sessions need, and what sessions that died have left. With `--fix`
//! leftovers are removed, once it was said which.
//!
//! What is left is only what no living agent owns: rules in a namespace where nobody holds the agents' lock, sockets where nobody
//! listens, objects of the cluster whose Job has ended or is gone.

mod machine;

use std::{
    fmt::Write as _,
    io::{self, BufRead, IsTerminal, Write as _},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use mirrord_config::ClusterSettings;
use serde::Serialize;

use crate::{
    args::ClusterArgs,
    console::{self, Output},
    error::Error,
    files, kube, namespace,
    paint::{Colour, Paint},
};

/// The command line.
#[derive(Args, Debug)]
pub struct Line {
    /// Only what is left in this target of this machine: netns/NAME, pid/N or container/ID
    #[arg(short, long, value_name = "TARGET", conflicts_with = "only")]
    target: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// A config file: how the cluster is reached, and how the agent looks there [env: MIRRORD_CONFIG_FILE]
    #[arg(short = 'f', long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Look at one of both only
    #[arg(long, value_name = "machine|cluster", value_enum, hide_possible_values = true)]
    only: Option<Place>,

    /// Remove leftovers
    #[arg(long)]
    fix: bool,

    /// Do not ask before
    #[arg(short, long, requires = "fix")]
    yes: bool,

    /// A table for people, or JSON
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Where something was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Machine,
    Cluster,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Sessions work, but for what is said.
    Warning,
    /// Sessions do not work.
    Problem,
    /// It is of no use to anybody any more.
    Leftover,
    Removed,
    /// It could not be looked at.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub place: Place,
    pub state: State,
    pub what: String,
    /// The next step; empty if there is none.
    pub help: String,
    #[serde(skip)]
    pub remove: Option<Leftover>,
}

/// Something that can be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A socket, or a folder that is empty without it.
    File(PathBuf),
    /// Rules in a network namespace.
    Rules(PathBuf),
    /// An object of the cluster in the agents' namespace.
    Object(kube::doctor::Object),
}

impl Finding {
    pub fn new(place: Place, state: State, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { place, state, what: what.into(), help: help.into(), remove: None }
    }

    pub fn leftover(place: Place, what: impl Into<String>, remove: Leftover) -> Self {
        Self { remove: Some(remove), ..Self::new(place, State::Leftover, what, "`mirrord doctor --fix` removes it") }
    }
}

/// Looks, and removes what is left if that is wanted. `false`: something is not as it should be.
pub fn doctor(line: Line, variable: impl Fn(&str) -> Option<String>) -> Result<bool, Error> {
    let file = files::config_file(line.config_file, None, &variable)?;
    let settings = ClusterSettings::resolve(line.cluster.flags(), &variable, file.cluster).map_err(mirrord_config::ConfigError::from)?;
    let target = line.target.map(|target| target.parse()).transpose().map_err(mirrord_config::ConfigError::Target)?;
    let mut findings = match target.as_ref().map(namespace::find).transpose()? {
        Some(namespace) => machine::look_into(&namespace),
        None if line.only == Some(Place::Cluster) => Vec::new(),
        None => machine::look(),
    };
    if line.only != Some(Place::Machine) && target.is_none() {
        findings.extend(kube::doctor::look(&settings));
    }
    let is_json = line.output == Output::Json;
    if line.fix && findings.iter().any(|finding| finding.remove.is_some()) && (line.yes || is_agreed(&findings)) {
        remove(&mut findings, &settings);
    }
    console::out(&if is_json { serde_json::to_string(&findings).unwrap_or_default() } else { table(&findings) });
    let bad = |finding: &Finding| matches!(finding.state, State::Problem | State::Leftover);
    Ok(!findings.iter().any(bad))
}

/// Says what would be removed, and asks whoever is there.
fn is_agreed(findings: &[Finding]) -> bool {
    console::say("mirrord: these would be removed:");
    findings
        .iter()
        .filter(|finding| finding.remove.is_some())
        .for_each(|finding| console::say(&format!("  {}", console::plain(&finding.what))));
    if !io::stdin().is_terminal() {
        console::say("mirrord: nobody is there to be asked: nothing was removed; --yes removes them");
        return false;
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "Remove them? [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

fn remove(findings: &mut [Finding], settings: &ClusterSettings) {
    for finding in findings {
        let removed = match &finding.remove {
            None => continue,
            Some(Leftover::File(path)) => machine::remove_file(path),
            Some(Leftover::Rules(netns)) => machine::remove_rules(netns),
            Some(Leftover::Object(object)) => kube::doctor::remove(settings, object),
        };
        match removed {
            Ok(()) => (finding.state, finding.help) = (State::Removed, String::new()),
            Err(why) => finding.help = format!("it cannot be removed: {why}"),
        }
    }
}

fn table(findings: &[Finding]) -> String {
    let paint = Paint::for_stdout();
    let mut text = String::new();
    let mut place = None;
    for finding in findings {
        if place.replace(finding.place) != Some(finding.place) {
            text += if finding.place == Place::Machine { "this machine\n" } else { "the cluster\n" };
        }
        let (word, colour) = match finding.state {
            State::Ok => ("ok", Colour::Green),
            State::Removed => ("removed", Colour::Green),
            State::Warning => ("warning", Colour::Yellow),
            State::Unknown => ("unknown", Colour::Dim),
            State::Problem => ("problem", Colour::Red),
            State::Leftover => ("leftover", Colour::Red),
        };
        let _ = writeln!(text, "  {}  {}", paint.text(colour, &format!("{word:8}")), console::plain(&finding.what));
        if !finding.help.is_empty() {
            let _ = writeln!(text, "            help: {}", console::plain(&finding.help));
        }
    }
    text.trim_end().to_owned()
}
