//! The filter chain on the command line: the flags that `exec` and `inspect` share, and what they name made ready for the session.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, ValueEnum};
use mirrord_config::{
    Filter, FilterConfig, FilterFlag,
    filters::{Isolation, Limits, OnFailure, Source},
};
use mirrord_filters::declared::{Condition, DeclaredError};
use mirrord_intproxy::settings::FilterFile;
use mirrord_protocol::{
    control::{self, FilterKind, FilterLimits, FilterLink},
    limits::{MAX_CHAIN, MAX_FILTER_CONFIG, MAX_FILTER_MODULE},
};
use thiserror::Error;

use crate::filter::project::Project;

/// Flags whose order on the command line says what belongs together; read by [`flags`].
#[derive(Args, Debug)]
pub struct ChainFlags {
    /// A WebAssembly filter that picks the requests, or the folder of its project; several are asked in order
    #[arg(long, value_name = "FILE")]
    filter: Vec<PathBuf>,

    /// What configures the --filter before it: the text itself, or @FILE
    #[arg(long, value_name = "JSON|@FILE", allow_hyphen_values = true)]
    filter_config: Vec<String>,

    /// A host that the HTTP calls of the --filter before it may reach, under the name that it calls it (proxy-wasm filters)
    #[arg(long, value_name = "NAME=HOST:PORT")]
    filter_upstream: Vec<String>,

    /// What a request meets when the --filter before it fails: nothing of it (pass), the program (steal), or a 503 (deny)
    #[arg(long, value_name = "pass|steal|deny", value_enum, hide_possible_values = true)]
    filter_on_failure: Vec<OnFailureFlag>,

    /// Whether requests share an instance of the --filter before it, or each gets a fresh one
    #[arg(long, value_name = "shared|fresh", value_enum, hide_possible_values = true)]
    filter_isolation: Vec<IsolationFlag>,

    /// A limit of the --filter before it: call=20ms, configure=200ms, memory=32MiB or faults=5
    #[arg(long, value_name = "NAME=VALUE")]
    filter_limit: Vec<String>,

    /// Pick requests with a header that, as `name: value`, matches this regular expression [env: MIRRORD_HTTP_HEADER_FILTER]
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    header_filter: Vec<String>,

    /// Pick requests whose path matches [env: MIRRORD_HTTP_PATH_FILTER]
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    path_filter: Vec<String>,

    /// Pick requests of this method [env: MIRRORD_HTTP_METHOD_FILTER]
    #[arg(long, value_name = "METHOD")]
    method_filter: Vec<String>,

    /// Pick requests that meet a condition as in the config file's http_filter, for instance
    /// '{"all_of": [{"method": "POST"}, {"not": {"path": "^/health"}}]}'
    #[arg(long, value_name = "JSON|@FILE")]
    http_filter: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnFailureFlag {
    Pass,
    Steal,
    Deny,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IsolationFlag {
    Shared,
    Fresh,
}

/// The chain's flags in the order of the command line.
pub fn flags(given: &ArgMatches) -> Vec<FilterFlag> {
    let mut all = Vec::new();
    collect(given, "filter", &mut all, FilterFlag::Filter);
    collect(given, "filter_config", &mut all, FilterFlag::Config);
    collect(given, "filter_upstream", &mut all, FilterFlag::Upstream);
    collect(given, "filter_on_failure", &mut all, |flag| {
        FilterFlag::OnFailure(match flag {
            OnFailureFlag::Pass => OnFailure::Pass,
            OnFailureFlag::Steal => OnFailure::Steal,
            OnFailureFlag::Deny => OnFailure::Deny,
        })
    });
    collect(given, "filter_isolation", &mut all, |flag| {
        FilterFlag::Isolation(match flag {
            IsolationFlag::Shared => Isolation::Shared,
            IsolationFlag::Fresh => Isolation::Fresh,
        })
    });
    collect(given, "filter_limit", &mut all, FilterFlag::Limit);
    for kind in ["header_filter", "path_filter", "method_filter"] {
        collect(given, kind, &mut all, |text| FilterFlag::Condition(kind, text));
    }
    collect(given, "http_filter", &mut all, FilterFlag::Conditions);
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, flag)| flag).collect()
}

fn collect<T: Clone + Send + Sync + 'static>(
    given: &ArgMatches,
    name: &str,
    all: &mut Vec<(usize, FilterFlag)>,
    flag: impl Fn(T) -> FilterFlag,
) {
    let places = given.indices_of(name).into_iter().flatten();
    all.extend(places.zip(given.get_many::<T>(name).into_iter().flatten().cloned().map(flag)));
}

/// Why a link of the chain cannot be used.
#[derive(Debug, Error)]
pub enum ChainError {
    #[error("the filter {} cannot be read: {error}", path.display())]
    Filter { path: PathBuf, error: std::io::Error },
    #[error("the filter {} is not a regular file", .0.display())]
    Kind(PathBuf),
    #[error("the filter's project {} is not built yet", .0.display())]
    NotBuilt(PathBuf),
    #[error("the filter {} is larger than {} MiB", .0.display(), MAX_FILTER_MODULE >> 20)]
    Size(PathBuf),
    #[error("the filter configuration {} cannot be read: {error}", path.display())]
    Config { path: PathBuf, error: std::io::Error },
    #[error("the configuration of a filter is longer than {} KiB", MAX_FILTER_CONFIG >> 10)]
    ConfigSize,
    #[error("more than {MAX_CHAIN} filters")]
    Length,
    #[error("http_filter: {}{}", if .0.at.is_empty() { String::new() } else { format!("`{}`: ", .0.at) }, .0.problem)]
    Condition(DeclaredError),
}

impl ChainError {
    /// The next step.
    pub fn help(&self) -> &str {
        match self {
            Self::Filter { .. } | Self::Kind(_) => "check the path behind --filter: it must be that of a Wasm module",
            Self::NotBuilt(_) => "run `mirrord filter build` in it, or give --filter-watch, which builds it",
            Self::Size(_) => "build the filter with optimisation and without debug information (cargo build --release, wasm-strip)",
            Self::Config { .. } => "check the path behind --filter-config @",
            Self::ConfigSize => "shorten it; what does not change belongs into the filter itself",
            Self::Length => "put several decisions into one filter",
            Self::Condition(error) => &error.help,
        }
    }
}

/// Reads what configures the links, and makes sure that modules are there and conditions sound.
pub fn links(chain: Vec<Filter>) -> Result<Vec<FilterFile>, ChainError> {
    if chain.len() > MAX_CHAIN {
        return Err(ChainError::Length);
    }
    chain.into_iter().map(link).collect()
}

fn link(Filter { source, config, upstreams, on_failure, isolation, limits }: Filter) -> Result<FilterFile, ChainError> {
    let config = match config {
        FilterConfig::Inline(text) => text,
        FilterConfig::File(path) => fs::read_to_string(&path).map_err(|error| ChainError::Config { path, error })?,
    };
    if config.len() > MAX_FILTER_CONFIG {
        return Err(ChainError::ConfigSize);
    }
    let (path, kind) = match source {
        Source::Module(path) => (Some(module(&path)?), FilterKind::Wasm),
        Source::Condition => {
            Condition::parse(&config).map_err(ChainError::Condition)?;
            (None, FilterKind::Declared)
        }
    };
    let on_failure = match on_failure {
        OnFailure::Pass => control::OnFailure::Pass,
        OnFailure::Steal => control::OnFailure::Steal,
        OnFailure::Deny => control::OnFailure::Deny,
    };
    let isolation = match isolation {
        Isolation::Shared => control::Isolation::Shared,
        Isolation::Fresh => control::Isolation::Fresh,
    };
    let Limits { call_ms, configure_ms, memory_kib, faults_in_a_row } = limits;
    let limits = FilterLimits { call_ms, configure_ms, memory_kib, faults_in_a_row };
    Ok(FilterFile { path, link: FilterLink { sha256: String::new(), config, upstreams, kind, on_failure, isolation, limits } })
}

/// A module's path, whole: the intproxy's name for it must not depend on where it runs.
fn module(path: &Path) -> Result<PathBuf, ChainError> {
    let project = if path.is_dir() { Project::at(path) } else { None };
    let path = match project {
        Some(project) if !project.module().exists() => return Err(ChainError::NotBuilt(path.into())),
        Some(project) => project.module(),
        None => path.into(),
    };
    let unreadable = |error| ChainError::Filter { path: path.clone(), error };
    let metadata = fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ChainError::Kind(path));
    }
    if metadata.len() > MAX_FILTER_MODULE as u64 {
        return Err(ChainError::Size(path));
    }
    fs::File::open(&path).map_err(unreadable)?;
    std::path::absolute(&path).map_err(unreadable)
}
