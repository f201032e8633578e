//! The filter chain: what flags and file say of it → [`Filter`]s in order.
//!
//! A chain's links are asked in order, and the first that does not pass a request decides. A link is a Wasm module (`--filter`) or
//! a condition of our own (`--header-filter` and its like, `http_filter` in the file), which steals what meets it. What a module is
//! to be run with stands behind its `--filter`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::resolve::ConfigError;

/// Variables of a condition, with the kinds that they stand for.
pub const CONDITION_VARIABLES: [(&str, &str); 3] = [
    ("MIRRORD_HTTP_HEADER_FILTER", "header_filter"),
    ("MIRRORD_HTTP_PATH_FILTER", "path_filter"),
    ("MIRRORD_HTTP_METHOD_FILTER", "method_filter"),
];

/// A jq program as a condition, which there is not.
pub const JQ_VARIABLE: &str = "MIRRORD_HTTP_HEADER_FILTER_JQ";

/// One of the flags whose order among each other matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterFlag {
    /// `--filter FILE`.
    Filter(PathBuf),
    /// `--filter-config TEXT`, for the filter before it.
    Config(String),
    /// `--filter-upstream NAME=HOST:PORT`, likewise; any number of them.
    Upstream(String),
    /// `--filter-on-failure`, likewise.
    OnFailure(OnFailure),
    /// `--filter-isolation`, likewise.
    Isolation(Isolation),
    /// `--filter-limit NAME=VALUE`, likewise; may come several times.
    Limit(String),
    /// `--header-filter R` and its like: a kind of `http_filter` and its text.
    Condition(&'static str, String),
    /// `--http-filter JSON|@FILE`: any condition.
    Conditions(String),
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What it is made of.
    pub source: Source,
    /// What configures a module. Of a condition, the condition, as JSON.
    pub config: FilterConfig,
    /// Hosts that its HTTP calls may reach: what it calls them, and `host:port`.
    pub upstreams: Vec<(String, String)>,
    /// What a request meets when it fails.
    pub on_failure: OnFailure,
    /// Whether requests share an instance.
    pub isolation: Isolation,
    /// Limits other than the agent's own.
    pub limits: Limits,
}

/// What a link is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Wasm module, or the folder of a project that builds one.
    Module(PathBuf),
    /// A condition in the words of `http_filter`.
    Condition,
}

/// Where a filter's configuration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterConfig {
    /// On the command line; empty if none was given.
    Inline(String),
    /// In a file, as `@FILE` says.
    File(PathBuf),
}

/// What a request meets when a filter fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// As if the filter said nothing.
    #[default]
    Pass,
    /// The program gets it.
    Steal,
    /// It is answered 503.
    Deny,
}

/// Whether requests share an instance of a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// One for all requests of a thread.
    #[default]
    Shared,
    /// A fresh one for each request.
    Fresh,
}

/// Limits of one filter; nothing: as the agent has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Longest call, milliseconds.
    pub call_ms: Option<u32>,
    /// Longest first start, milliseconds.
    pub configure_ms: Option<u32>,
    /// Memory of an instance, KiB.
    pub memory_kib: Option<u32>,
    /// Failures in a row after which it is set aside.
    pub faults_in_a_row: Option<u32>,
}

impl Filter {
    /// A module with nothing said of it.
    pub fn module(path: PathBuf) -> Self {
        Self { source: Source::Module(path), ..Self::condition(FilterConfig::Inline(String::new())) }
    }

    /// A condition.
    pub fn condition(config: FilterConfig) -> Self {
        Self {
            source: Source::Condition,
            config,
            upstreams: Vec::new(),
            on_failure: OnFailure::default(),
            isolation: Isolation::default(),
            limits: Limits::default(),
        }
    }
}

impl Limits {
    /// Sets one: `call=20ms`, `configure=200ms`, `memory=32MiB`, `faults=5`. The error quotes what is wrong.
    pub fn set(&mut self, text: &str) -> Result<(), ConfigError> {
        let bad = || ConfigError::BadLimit(text.into());
        let (name, value) = text.split_once('=').ok_or_else(bad)?;
        let number = |ending: &str, factor: u32| {
            let number: u32 = value.strip_suffix(ending)?.parse().ok()?;
            number.checked_mul(factor).filter(|number| *number > 0)
        };
        let (place, number) = match name {
            "call" => (&mut self.call_ms, number("ms", 1)),
            "configure" => (&mut self.configure_ms, number("ms", 1)),
            "memory" => (&mut self.memory_kib, number("MiB", 1024).or_else(|| number("KiB", 1))),
            "faults" => (&mut self.faults_in_a_row, number("", 1)),
            _ => return Err(bad()),
        };
        *place = Some(number.ok_or_else(bad)?);
        Ok(())
    }
}

/// A condition of one kind, as JSON.
pub(crate) fn condition(kind: &str, text: &str) -> Filter {
    Filter::condition(FilterConfig::Inline(json!({ kind: text }).to_string()))
}

/// The condition that variables say, else the file. A variable counts before the file's condition of the same kind; beside one of
/// another kind it is one too many.
pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>, file: Option<Filter>) -> Result<Option<Filter>, ConfigError> {
    if variable(JQ_VARIABLE).is_some() {
        return Err(ConfigError::Jq);
    }
    let mut found = CONDITION_VARIABLES.iter().filter_map(|(name, kind)| variable(name).map(|value| (*name, *kind, value)));
    let (name, kind, value) = match (found.next(), found.next()) {
        (None, _) => return Ok(file),
        (Some(first), None) => first,
        (Some((first, ..)), Some((second, ..))) => return Err(ConfigError::TwoConditions(first.into(), second.into())),
    };
    match file.and_then(|filter| other_kind(&filter, kind)) {
        Some(other) => Err(ConfigError::TwoConditions(name.into(), format!("{other} in the config file"))),
        None => Ok(Some(condition(kind, &value))),
    }
}

/// The kind of a condition, if it is not this one.
fn other_kind(filter: &Filter, kind: &str) -> Option<String> {
    let FilterConfig::Inline(text) = &filter.config else { return None };
    let Ok(Value::Object(members)) = serde_json::from_str(text) else { return None };
    members.keys().find(|key| *key != kind).cloned()
}

/// Gives each module what stands behind it.
pub fn chain(flags: Vec<FilterFlag>) -> Result<Vec<Filter>, ConfigError> {
    let mut filters: Vec<Filter> = Vec::new();
    let mut configured = false;
    for flag in flags {
        match flag {
            FilterFlag::Filter(path) if path.as_os_str().is_empty() => return Err(ConfigError::NoFilterFile),
            FilterFlag::Filter(path) => {
                filters.push(Filter::module(path));
                configured = false;
            }
            FilterFlag::Condition(kind, text) => filters.push(condition(kind, &text)),
            FilterFlag::Conditions(text) => filters.push(Filter::condition(at_file(text)?)),
            FilterFlag::Config(text) => {
                let (last, path) = module_before(&mut filters, "--filter-config")?;
                if configured {
                    return Err(ConfigError::TwoConfigs(path));
                }
                last.config = at_file(text)?;
                configured = true;
            }
            FilterFlag::Upstream(text) => {
                let last = module_before(&mut filters, "--filter-upstream")?.0;
                last.upstreams.push(upstream(&text).ok_or(ConfigError::Upstream(text))?);
            }
            FilterFlag::OnFailure(on_failure) => module_before(&mut filters, "--filter-on-failure")?.0.on_failure = on_failure,
            FilterFlag::Isolation(isolation) => module_before(&mut filters, "--filter-isolation")?.0.isolation = isolation,
            FilterFlag::Limit(text) => module_before(&mut filters, "--filter-limit")?.0.limits.set(&text)?,
        }
    }
    Ok(filters)
}

/// `NAME=HOST:PORT`.
fn upstream(text: &str) -> Option<(String, String)> {
    let (name, address) = text.split_once('=')?;
    let (host, port) = address.rsplit_once(':')?;
    let is_whole = !name.is_empty() && !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0);
    is_whole.then(|| (name.into(), address.into()))
}

fn module_before<'a>(filters: &'a mut [Filter], flag: &'static str) -> Result<(&'a mut Filter, PathBuf), ConfigError> {
    match filters.last_mut().map(|last| (last.source.clone(), last)) {
        Some((Source::Module(path), last)) => Ok((last, path)),
        Some((Source::Condition, _)) | None => Err(ConfigError::NoModule(flag)),
    }
}

/// The text itself, or `@FILE`.
fn at_file(text: String) -> Result<FilterConfig, ConfigError> {
    match text.strip_prefix('@') {
        Some("") => Err(ConfigError::NoConfigFile),
        Some(path) => Ok(FilterConfig::File(path.into())),
        None => Ok(FilterConfig::Inline(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(path: &str) -> FilterFlag {
        FilterFlag::Filter(path.into())
    }

    fn config(text: &str) -> FilterFlag {
        FilterFlag::Config(text.into())
    }

    #[test]
    fn what_stands_behind_a_filter_is_for_it() {
        let flags = vec![
            filter("a.wasm"),
            filter("b.wasm"),
            config("{}"),
            FilterFlag::OnFailure(OnFailure::Deny),
            FilterFlag::Condition("path_filter", "^/a\"".into()),
            filter("c.wasm"),
            config("@c.json"),
            FilterFlag::Isolation(Isolation::Fresh),
            FilterFlag::Limit("call=20ms".into()),
            FilterFlag::Limit("memory=32MiB".into()),
        ];
        let chain = chain(flags).unwrap();
        let configs: Vec<_> = chain.iter().map(|filter| filter.config.clone()).collect();
        let inline = |text: &str| FilterConfig::Inline(text.into());
        assert_eq!(configs, [inline(""), inline("{}"), inline(r#"{"path_filter":"^/a\""}"#), FilterConfig::File("c.json".into())]);
        assert_eq!((chain[0].on_failure, chain[1].on_failure, chain[3].isolation), (OnFailure::Pass, OnFailure::Deny, Isolation::Fresh));
        assert_eq!(chain[3].limits, Limits { call_ms: Some(20), memory_kib: Some(32 << 10), ..Limits::default() });
    }

    #[test]
    fn flags_that_do_not_pair_are_errors() {
        let condition = || FilterFlag::Condition("path_filter", "a".into());
        let cases = [
            (vec![config("{}")], ConfigError::NoModule("--filter-config")),
            (vec![config("{}"), filter("a.wasm")], ConfigError::NoModule("--filter-config")),
            (vec![condition(), FilterFlag::OnFailure(OnFailure::Deny)], ConfigError::NoModule("--filter-on-failure")),
            (vec![FilterFlag::Upstream("auth=h:1".into())], ConfigError::NoModule("--filter-upstream")),
            (vec![filter("a.wasm"), FilterFlag::Upstream("h:1".into())], ConfigError::Upstream("h:1".into())),
            (vec![filter("a.wasm"), FilterFlag::Upstream("auth=h:99999".into())], ConfigError::Upstream("auth=h:99999".into())),
            (vec![filter("a.wasm"), config(""), config("{}")], ConfigError::TwoConfigs("a.wasm".into())),
            (vec![filter("")], ConfigError::NoFilterFile),
            (vec![filter("a.wasm"), config("@")], ConfigError::NoConfigFile),
            (vec![FilterFlag::Conditions("@".into())], ConfigError::NoConfigFile),
        ];
        for (flags, error) in cases {
            assert_eq!(chain(flags), Err(error));
        }
        for limit in ["", "call", "call=20", "call=0ms", "call=-1ms", "memory=1GiB", "memory=4194304MiB", "time=1ms", "faults=x"] {
            assert_eq!(Limits::default().set(limit), Err(ConfigError::BadLimit(limit.into())), "{limit}");
        }
    }
}
