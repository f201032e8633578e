//! Precedence and everything that must hold between flags: [`Flags`] and variables → [`Config`].
//! Field by field a flag counts before its variable, and that before the default.

use std::{ffi::OsString, path::PathBuf};

use thiserror::Error;

use crate::{
    Ambiguous, Mode,
    ports::{self, PortError, PortMap},
    target::{Target, TargetError},
};

/// Variable for `--target`.
pub const TARGET_VARIABLE: &str = "MIRRORD_IMPERSONATED_TARGET";
/// Variable for `--steal` and `--mirror`.
pub const MODE_VARIABLE: &str = "MIRRORD_AGENT_TCP_STEAL_TRAFFIC";

/// What stood on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--target`.
    pub target: Option<String>,
    /// `--steal` and `--mirror`, as often as they were given.
    pub modes: Vec<Mode>,
    /// `--filter` and `--filter-config`, in the order in which they were given.
    pub filters: Vec<FilterFlag>,
    /// Each `--port`.
    pub ports: Vec<String>,
    /// `--ambiguous`.
    pub ambiguous: Option<Ambiguous>,
    /// `--show-decision`.
    pub show_decision: bool,
    /// `--priority`.
    pub priority: Option<i32>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// One of the two flags whose order among each other matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterFlag {
    /// `--filter FILE`.
    Filter(PathBuf),
    /// `--filter-config TEXT`, for the filter before it.
    Config(String),
    /// `--filter-upstream NAME=HOST:PORT`, for the filter before it; any number of them.
    Upstream(String),
}

/// All that a session is made from, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the program impersonates.
    pub target: Target,
    /// What becomes of picked requests.
    pub mode: Mode,
    /// The filter chain, in order.
    pub filters: Vec<Filter>,
    /// The only ports that may be subscribed, if any were named.
    pub ports: Option<Vec<PortMap>>,
    /// What becomes of bytes that no filter can judge.
    pub ambiguous: Ambiguous,
    /// Whether responses to requests that the filters took say so, in a header `x-mirrord-decision`.
    pub show_decision: bool,
    /// Order among sessions on one port; higher first.
    pub priority: i32,
    /// The program, as the user wrote it.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A filter of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The Wasm module.
    pub path: PathBuf,
    /// What configures it.
    pub config: FilterConfig,
    /// Hosts that its HTTP calls may reach: what it calls them, and `host:port`.
    pub upstreams: Vec<(String, String)>,
}

/// Where a filter's configuration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterConfig {
    /// On the command line; empty if none was given.
    Inline(String),
    /// In a file, as `@FILE` says.
    File(PathBuf),
}

/// Who has to act on a [`ConfigError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The user wrote something that cannot be: a usage error.
    Usage,
    /// It is well-formed, but this version cannot do it.
    Unsupported,
}

/// Why flags and variables make no configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No program.
    #[error("no command to run")]
    NoCommand,
    /// Neither flag nor variable.
    #[error("no target")]
    NoTarget,
    /// The text of `--target` or its variable.
    #[error("{0}")]
    Target(#[from] TargetError),
    /// Both modes.
    #[error("--steal and --mirror exclude each other")]
    BothModes,
    /// The value of [`MODE_VARIABLE`].
    #[error("{MODE_VARIABLE} is `{0}`, which is none of mirror, steal, true")]
    BadMode(String),
    /// `off`: incoming traffic is all that there is so far.
    #[error("{MODE_VARIABLE} is `{0}`: a session without incoming traffic is not supported yet in this version")]
    ModeOff(String),
    /// A `-p`.
    #[error("--port: {0}")]
    Port(#[from] PortError),
    /// A configuration that belongs to no filter.
    #[error("--filter-config stands before any --filter")]
    ConfigWithoutFilter,
    /// Two configurations for one filter.
    #[error("the filter {} has two --filter-config", .0.display())]
    TwoConfigs(PathBuf),
    /// An upstream that belongs to no filter.
    #[error("--filter-upstream stands before any --filter")]
    UpstreamWithoutFilter,
    /// An upstream that names no host.
    #[error("--filter-upstream {0} is not NAME=HOST:PORT")]
    Upstream(String),
    /// `--filter ""`.
    #[error("--filter has no file name")]
    NoFilterFile,
    /// `--filter-config @`.
    #[error("--filter-config @ has no file name behind the @")]
    NoConfigFile,
}

impl ConfigError {
    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Target(TargetError::Unsupported(_)) | Self::ModeOff(_) => Fault::Unsupported,
            _ => Fault::Usage,
        }
    }

    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::NoCommand => "put the program behind --, for instance: mirrord exec -t netns/shop -- python3 app.py".into(),
            Self::NoTarget => format!("add -t netns/NAME, -t pid/N or -t container/ID, or set {TARGET_VARIABLE}"),
            Self::Target(error) => error.help(),
            Self::BothModes => "give --steal to answer the requests, or --mirror (the default) to get a copy of them".into(),
            Self::BadMode(_) => "set it to steal or mirror, or unset it and give --steal or --mirror".into(),
            Self::ModeOff(_) => "set it to steal or mirror, or run the program without mirrord".into(),
            Self::Port(error) => error.help().into(),
            Self::ConfigWithoutFilter => "put it behind the --filter that it configures: --filter header.wasm --filter-config '{…}'".into(),
            Self::UpstreamWithoutFilter => "put it behind the --filter whose HTTP calls it allows".into(),
            Self::Upstream(_) => "name it as the filter does, then where it is, for instance: --filter-upstream auth=10.0.0.7:8080".into(),
            Self::TwoConfigs(_) => "leave out one of them; each --filter takes the one --filter-config behind it".into(),
            Self::NoFilterFile => "name a Wasm file, for instance: --filter header.wasm".into(),
            Self::NoConfigFile => "write --filter-config @FILE, or the text itself".into(),
        }
    }
}

impl Config {
    /// Checks flags and variables (`variable` gives the value of one that is set). The first thing that is wrong is the error.
    pub fn resolve(flags: Flags, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mode = mode(&flags.modes, &variable)?;
        let filters = pair(flags.filters)?;
        let ports = if flags.ports.is_empty() { None } else { Some(ports::parse_all(&flags.ports)?) };
        let mut command = flags.command.into_iter();
        let program = command.next().filter(|program| !program.is_empty()).ok_or(ConfigError::NoCommand)?;
        let target = target(flags.target, &variable)?;
        Ok(Self {
            target,
            mode,
            filters,
            ports,
            ambiguous: flags.ambiguous.unwrap_or_default(),
            show_decision: flags.show_decision,
            priority: flags.priority.unwrap_or_default(),
            program,
            arguments: command.collect(),
        })
    }
}

fn mode(flags: &[Mode], variable: impl Fn(&str) -> Option<String>) -> Result<Mode, ConfigError> {
    if let Some(first) = flags.first() {
        return if flags.iter().all(|mode| mode == first) { Ok(*first) } else { Err(ConfigError::BothModes) };
    }
    match variable(MODE_VARIABLE) {
        None => Ok(Mode::default()),
        Some(value) => match value.as_str() {
            "steal" | "true" => Ok(Mode::Steal),
            "mirror" => Ok(Mode::Mirror),
            "off" | "false" => Err(ConfigError::ModeOff(value)),
            _ => Err(ConfigError::BadMode(value)),
        },
    }
}

/// The target: the flag counts before the variable.
pub fn target(flag: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Result<Target, ConfigError> {
    Ok(flag.or_else(|| variable(TARGET_VARIABLE)).ok_or(ConfigError::NoTarget)?.parse()?)
}

/// Gives each filter the configuration behind it.
pub fn pair(flags: Vec<FilterFlag>) -> Result<Vec<Filter>, ConfigError> {
    let mut filters: Vec<Filter> = Vec::new();
    let mut configured = false;
    for flag in flags {
        match flag {
            FilterFlag::Filter(path) if path.as_os_str().is_empty() => return Err(ConfigError::NoFilterFile),
            FilterFlag::Filter(path) => {
                filters.push(Filter { path, config: FilterConfig::Inline(String::new()), upstreams: Vec::new() });
                configured = false;
            }
            FilterFlag::Config(text) => {
                let last = filters.last_mut().ok_or(ConfigError::ConfigWithoutFilter)?;
                if configured {
                    return Err(ConfigError::TwoConfigs(last.path.clone()));
                }
                last.config = match text.strip_prefix('@') {
                    Some("") => return Err(ConfigError::NoConfigFile),
                    Some(path) => FilterConfig::File(path.into()),
                    None => FilterConfig::Inline(text),
                };
                configured = true;
            }
            FilterFlag::Upstream(text) => {
                let last = filters.last_mut().ok_or(ConfigError::UpstreamWithoutFilter)?;
                last.upstreams.push(upstream(&text).ok_or(ConfigError::Upstream(text))?);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags { target: Some("netns/shop".into()), command: vec!["python3".into(), "app.py".into()], ..Flags::default() }
    }

    fn unset(_: &str) -> Option<String> {
        None
    }

    fn filter(path: &str) -> FilterFlag {
        FilterFlag::Filter(path.into())
    }

    fn config(text: &str) -> FilterFlag {
        FilterFlag::Config(text.into())
    }

    fn upstream(text: &str) -> FilterFlag {
        FilterFlag::Upstream(text.into())
    }

    #[test]
    fn the_least_command_line_mirrors_every_port() {
        let config = Config::resolve(flags(), unset).unwrap();
        assert_eq!((config.mode, config.ambiguous, config.priority), (Mode::Mirror, Ambiguous::Pass, 0));
        assert_eq!((config.ports, config.filters), (None, vec![]));
        assert_eq!((config.program, config.arguments), ("python3".into(), vec!["app.py".into()]));
    }

    #[test]
    fn a_flag_counts_before_its_variable() {
        let variable = |name: &str| match name {
            TARGET_VARIABLE => Some("pid/7".to_string()),
            MODE_VARIABLE => Some("true".to_string()),
            _ => None,
        };
        let both = Config::resolve(flags(), variable).unwrap();
        assert_eq!((both.target, both.mode), (Target::Netns("shop".into()), Mode::Steal));
        let flags = Flags { target: None, modes: vec![Mode::Mirror], ..flags() };
        let config = Config::resolve(flags, variable).unwrap();
        assert_eq!((config.target, config.mode), (Target::Pid(7), Mode::Mirror));
    }

    #[test]
    fn the_modes_variable_takes_what_the_documentation_says() {
        let resolve = |value: &'static str| Config::resolve(flags(), move |name| (name == MODE_VARIABLE).then(|| value.into()));
        assert_eq!(resolve("mirror").unwrap().mode, Mode::Mirror);
        assert_eq!(resolve("steal").unwrap().mode, Mode::Steal);
        for value in ["", "1", "TRUE", "Steal"] {
            let error = resolve(value).unwrap_err();
            assert_eq!((error.fault(), error.to_string().contains(MODE_VARIABLE)), (Fault::Usage, true));
        }
        for value in ["off", "false"] {
            assert_eq!(resolve(value).unwrap_err().fault(), Fault::Unsupported);
        }
    }

    #[test]
    fn each_configuration_goes_to_the_filter_before_it() {
        let chain = vec![filter("a.wasm"), filter("b.wasm"), config("{}"), filter("c.wasm"), config("@c.json")];
        let config = Config::resolve(Flags { filters: chain, ..flags() }, unset).unwrap();
        let configs: Vec<_> = config.filters.into_iter().map(|filter| filter.config).collect();
        assert_eq!(configs, [FilterConfig::Inline(String::new()), FilterConfig::Inline("{}".into()), FilterConfig::File("c.json".into())]);
    }

    #[test]
    fn filters_and_configurations_that_do_not_pair_are_errors() {
        let cases = [
            (vec![config("{}")], ConfigError::ConfigWithoutFilter),
            (vec![upstream("auth=h:1")], ConfigError::UpstreamWithoutFilter),
            (vec![filter("a.wasm"), upstream("h:1")], ConfigError::Upstream("h:1".into())),
            (vec![filter("a.wasm"), upstream("auth=h")], ConfigError::Upstream("auth=h".into())),
            (vec![filter("a.wasm"), upstream("auth=h:99999")], ConfigError::Upstream("auth=h:99999".into())),
            (vec![config("{}"), filter("a.wasm")], ConfigError::ConfigWithoutFilter),
            (vec![filter("a.wasm"), config(""), config("{}")], ConfigError::TwoConfigs("a.wasm".into())),
            (vec![filter("")], ConfigError::NoFilterFile),
            (vec![filter("a.wasm"), config("@")], ConfigError::NoConfigFile),
        ];
        for (filters, error) in cases {
            assert_eq!(Config::resolve(Flags { filters, ..flags() }, unset), Err(error));
        }
    }

    #[test]
    fn what_is_missing_or_contradicts_itself_is_a_usage_error() {
        let cases = [
            (Flags { command: vec![], ..flags() }, ConfigError::NoCommand),
            (Flags { command: vec!["".into()], ..flags() }, ConfigError::NoCommand),
            (Flags { target: None, ..flags() }, ConfigError::NoTarget),
            (Flags { modes: vec![Mode::Steal, Mode::Mirror], ..flags() }, ConfigError::BothModes),
            (Flags { ports: vec!["0".into()], ..flags() }, PortError::Zero("0".into()).into()),
            (Flags { target: Some("shop".into()), ..flags() }, TargetError::Bare("shop".into()).into()),
        ];
        for (flags, error) in cases {
            assert_eq!((error.fault(), error.help().is_empty()), (Fault::Usage, false));
            assert_eq!(Config::resolve(flags, unset), Err(error));
        }
    }

    #[test]
    fn a_cluster_target_is_no_usage_error() {
        let error = Config::resolve(Flags { target: Some("deployment/shop".into()), ..flags() }, unset).unwrap_err();
        assert_eq!(error.fault(), Fault::Unsupported);
    }
}
