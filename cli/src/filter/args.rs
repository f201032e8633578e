//! `mirrord filter …` as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub const EXAMPLES: &str = "\
Examples:
  From nothing to a filter that runs:
    mirrord filter new mine && cd mine
    mirrord filter build && mirrord filter test
    mirrord exec -t netns/shop --steal --filter build/mine.wasm -- python3 app.py
  After a change, without ending the session:
    mirrord filter build && mirrord filter push
";

#[derive(Subcommand, Debug)]
pub enum FilterCommand {
    /// Make a project with a filter that builds, its tests and a README
    New(New),
    /// Compile the project to build/NAME.wasm
    Build(Build),
    /// Say what a module is, and whether an agent would take it
    Check(Check),
    /// Run a filter on recorded or written requests, without an agent
    Test(Test),
    /// Measure what a request costs, and the memory of an instance
    Bench(Bench),
    /// Give a running session the new version, without losing a request
    Push(Push),
    /// Build and push at each change; `mirrord exec --filter-watch` starts it
    Watch(Watch),
}

#[derive(Args, Debug)]
pub struct New {
    /// Name of the project: its folder, and of the module
    #[arg(value_name = "NAME")]
    pub name: PathBuf,
    /// The language
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    pub lang: Lang,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    Rust,
    C,
    Go,
    #[value(alias = "as")]
    Assemblyscript,
    Zig,
}

#[derive(Args, Debug)]
pub struct Build {
    /// The project's folder; without it, this one
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// A module and how it is to be run.
#[derive(Args, Debug)]
pub struct Which {
    /// The module; without it, the one that `build` left
    #[arg(value_name = "FILTER")]
    pub filter: Option<PathBuf>,
    /// The filter's configuration: the text itself, or @FILE
    #[arg(long, value_name = "TEXT|@FILE", allow_hyphen_values = true)]
    pub config: Option<String>,
}

#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    pub which: Which,
}

#[derive(Args, Debug)]
pub struct Test {
    #[command(flatten)]
    pub which: Which,
    /// Requests: .http, .jsonl or .har; without it, those in the project's tests/
    #[arg(long, value_name = "FILE")]
    pub requests: Vec<PathBuf>,
    /// Show only what is not as expected, and the summary
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct Bench {
    #[command(flatten)]
    pub which: Which,
    /// Requests to take in turn; without it, one GET with 20 headers
    #[arg(long, value_name = "FILE")]
    pub requests: Option<PathBuf>,
    /// How long to measure, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub time: u64,
}

#[derive(Args, Debug)]
pub struct Push {
    #[command(flatten)]
    pub which: Which,
    /// The session, by the process id of its `mirrord exec`; needed where several run
    #[arg(long, value_name = "PID")]
    pub session: Option<u32>,
    /// Which filter of the session's chain to replace, from 1; without it, the one of the same file name, or the only one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub link: Option<u16>,
    /// Only show your running sessions and their filters
    #[arg(long)]
    pub list: bool,
}

#[derive(Args, Debug)]
pub struct Watch {
    /// The projects' folders, or modules that something else builds; without it, the project in this folder
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The session, by the process id of its `mirrord exec`
    #[arg(long, value_name = "PID")]
    pub session: Option<u32>,
}
