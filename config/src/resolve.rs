//! Precedence and everything that must hold between flags: [`Flags`] and variables → [`Config`].
//! Field by field a flag counts before its variable, and that before the default.

use std::{ffi::OsString, path::PathBuf};

use thiserror::Error;

use crate::{
    Ambiguous, Mode,
    cluster::ClusterTarget,
    env::{Environment, EnvironmentError, EnvironmentFlags},
    file::{File, FileError},
    filters::{self, Filter, FilterFlag, Source},
    kube::{ClusterFlags, ClusterSettings, VariableError},
    ports::{self, PortError, PortMap},
    target::{Target, TargetError},
};

/// Variable for `--target`.
pub const TARGET_VARIABLE: &str = "MIRRORD_IMPERSONATED_TARGET";
/// Variable for `--steal` and `--mirror`.
pub const MODE_VARIABLE: &str = "MIRRORD_AGENT_TCP_STEAL_TRAFFIC";

/// Variable for `http_filter.ports`.
pub const FILTER_PORTS_VARIABLE: &str = "MIRRORD_HTTP_FILTER_PORTS";

/// What stood on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--target`.
    pub target: Option<String>,
    /// `--steal` and `--mirror`, as often as they were given.
    pub modes: Vec<Mode>,
    /// `--filter`, what stands behind it, and conditions, in the order in which they were given.
    pub filters: Vec<FilterFlag>,
    /// Each `--port`.
    pub ports: Vec<String>,
    /// `--ambiguous`.
    pub ambiguous: Option<Ambiguous>,
    /// `--show-decision`.
    pub show_decision: bool,
    /// `--priority`.
    pub priority: Option<i32>,
    /// About clusters.
    pub cluster: ClusterFlags,
    /// About the container's environment.
    pub environment: EnvironmentFlags,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// All that a session is made from, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the program impersonates.
    pub target: Target,
    /// What becomes of picked requests.
    pub mode: Mode,
    /// The filter chain, in order.
    pub filters: Vec<Filter>,
    /// The target's ports on which the filters are asked, if not on all; on others everything is picked.
    pub filter_ports: Option<Vec<u16>>,
    /// The only ports that may be subscribed, if any were named.
    pub ports: Option<Vec<PortMap>>,
    /// What becomes of bytes that no filter can judge.
    pub ambiguous: Ambiguous,
    /// Whether responses to requests that the filters took say so, in a header `x-mirrord-decision`.
    pub show_decision: bool,
    /// Order among sessions on one port; higher first.
    pub priority: i32,
    /// How a cluster is reached, and how the agent looks there.
    pub cluster: ClusterSettings,
    /// What the program gets of the container's environment.
    pub environment: Environment,
    /// Whether the program's host name is the container's.
    pub hostname: bool,
    /// Lines for the user about the config file.
    pub warnings: Vec<String>,
    /// The program, as the user wrote it.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
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
    /// `targetless` with `--steal`.
    #[error("there is no target whose traffic could be stolen")]
    StealNothing,
    /// The value of a variable.
    #[error("{0}")]
    Variable(#[from] VariableError),
    /// What is wanted of the container's environment.
    #[error("{0}")]
    Environment(#[from] EnvironmentError),
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
    /// A flag that belongs to no module.
    #[error("{0} stands before any --filter")]
    NoModule(&'static str),
    /// A `--filter-limit`.
    #[error("--filter-limit `{0}` is no limit")]
    BadLimit(String),
    /// Two of the variables of conditions.
    #[error("{0} and {1} are both set")]
    TwoConditions(String, String),
    /// A jq program in a variable.
    #[error("{} is set: conditions in jq are not supported", filters::JQ_VARIABLE)]
    Jq,
    /// The value of [`FILTER_PORTS_VARIABLE`].
    #[error("{FILTER_PORTS_VARIABLE} is `{0}`, which is no list of ports")]
    FilterPorts(String),
    /// The config file.
    #[error("config file: {0}")]
    File(#[from] FileError),
    /// Two configurations for one filter.
    #[error("the filter {} has two --filter-config", .0.display())]
    TwoConfigs(PathBuf),
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
            Self::ModeOff(_) | Self::Jq | Self::File(_) => Fault::Unsupported,
            _ => Fault::Usage,
        }
    }

    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::NoCommand => "put the program behind --, for instance: mirrord exec -t netns/shop -- python3 app.py".into(),
            Self::NoTarget => format!(
                "add -t deployment/NAME, -t pod/NAME … for a cluster, or -t netns/NAME, -t pid/N, -t container/ID for this machine, or set {TARGET_VARIABLE}"
            ),
            Self::Target(error) => error.help(),
            Self::StealNothing => "name a target with -t, or leave out --steal".into(),
            Self::Variable(_) => "correct it, or unset it".into(),
            Self::Environment(error) => error.help().into(),
            Self::BothModes => "give --steal to answer the requests, or --mirror (the default) to get a copy of them".into(),
            Self::BadMode(_) => "set it to steal or mirror, or unset it and give --steal or --mirror".into(),
            Self::Jq => "unset it and use MIRRORD_HTTP_HEADER_FILTER, with a regular expression".into(),
            Self::ModeOff(_) => "set it to steal or mirror, or run the program without mirrord".into(),
            Self::Port(error) => error.help().into(),
            Self::NoModule(flag) => format!("put it behind the --filter that it is for: --filter header.wasm {flag} …"),
            Self::Upstream(_) => "name it as the filter does, then where it is, for instance: --filter-upstream auth=10.0.0.7:8080".into(),
            Self::BadLimit(_) => "write call=20ms, configure=200ms, memory=32MiB or faults=5".into(),
            Self::TwoConditions(..) => "set one of them; --http-filter '{\"all_of\": […]}' combines several".into(),
            Self::FilterPorts(_) => "write the target's ports with ; between them: 80;8080".into(),
            Self::File(error) => error.help.clone(),
            Self::TwoConfigs(_) => "leave out one of them; each --filter takes the one --filter-config behind it".into(),
            Self::NoFilterFile => "name a Wasm file, for instance: --filter header.wasm".into(),
            Self::NoConfigFile => "write --filter-config @FILE, or the text itself".into(),
        }
    }
}

impl Config {
    /// Checks flags and variables (`variable` gives the value of one that is set), and what the config file says. The first thing that is
    /// wrong is the error.
    pub fn resolve(flags: Flags, variable: impl Fn(&str) -> Option<String>, file: File) -> Result<Self, ConfigError> {
        let mode = mode(&flags.modes, &variable, file.mode)?;
        let filters = chain(flags.filters, &variable, file.http_filter, file.filters)?;
        let filter_ports = match variable(FILTER_PORTS_VARIABLE) {
            Some(list) => Some(filter_ports(&list)?),
            None => file.filter_ports,
        };
        let ports = if flags.ports.is_empty() { file.ports } else { Some(ports::parse_all(&flags.ports)?) };
        let mut command = flags.command.into_iter();
        let program = command.next().filter(|program| !program.is_empty()).ok_or(ConfigError::NoCommand)?;
        let target = target(flags.target, &variable, file.target)?;
        let is_targetless = target == Target::Cluster(ClusterTarget::Targetless);
        if is_targetless && mode == Mode::Steal {
            return Err(ConfigError::StealNothing);
        }
        let cluster = ClusterSettings::resolve(flags.cluster, &variable, file.cluster)?;
        let mut warnings = file.warnings;
        if let Target::Cluster(_) = target {
            warnings.extend(cluster.agent.unused(!is_targetless));
        }
        if is_targetless {
            warnings.push("there is no target: ports that the program opens stay on this machine".into());
        }
        Ok(Self {
            target,
            mode,
            filter_ports: filter_ports.filter(|_| !filters.is_empty()),
            filters,
            // Without a target there are none that the program's could stand for.
            ports: if is_targetless { Some(Vec::new()) } else { ports },
            ambiguous: flags.ambiguous.unwrap_or_default(),
            show_decision: flags.show_decision,
            priority: flags.priority.unwrap_or_default(),
            cluster,
            environment: Environment::resolve(flags.environment, &variable, file.environment)?,
            hostname: file.hostname.unwrap_or(true),
            warnings,
            program,
            arguments: command.collect(),
        })
    }
}

/// Conditions and modules each come from flags, else from variables, else from the file. With flags their order is that of the command
/// line; else the condition is asked first, as it costs less.
fn chain(
    flags: Vec<FilterFlag>,
    variable: impl Fn(&str) -> Option<String>,
    http_filter: Option<Filter>,
    modules: Vec<Filter>,
) -> Result<Vec<Filter>, ConfigError> {
    let flags = filters::chain(flags)?;
    let has = |condition: bool| flags.iter().any(|filter| (filter.source == Source::Condition) == condition);
    let (has_conditions, has_modules) = (has(true), has(false));
    let condition = if has_conditions { None } else { filters::from_variables(variable, http_filter)? };
    let modules = if has_modules { Vec::new() } else { modules };
    Ok(condition.into_iter().chain(flags).chain(modules).collect())
}

/// Ports behind each other, with `;` between them.
fn filter_ports(list: &str) -> Result<Vec<u16>, ConfigError> {
    let port = |text: &str| text.trim().parse().ok().filter(|port| *port != 0);
    list.split(';').map(port).collect::<Option<_>>().ok_or_else(|| ConfigError::FilterPorts(list.into()))
}

fn mode(flags: &[Mode], variable: impl Fn(&str) -> Option<String>, file: Option<Mode>) -> Result<Mode, ConfigError> {
    if let Some(first) = flags.first() {
        return if flags.iter().all(|mode| mode == first) { Ok(*first) } else { Err(ConfigError::BothModes) };
    }
    match variable(MODE_VARIABLE) {
        None => Ok(file.unwrap_or_default()),
        Some(value) => match value.as_str() {
            "steal" | "true" => Ok(Mode::Steal),
            "mirror" => Ok(Mode::Mirror),
            "off" | "false" => Err(ConfigError::ModeOff(value)),
            _ => Err(ConfigError::BadMode(value)),
        },
    }
}

/// The target: the flag counts before the variable, and that before the file.
pub fn target(flag: Option<String>, variable: impl Fn(&str) -> Option<String>, file: Option<String>) -> Result<Target, ConfigError> {
    Ok(flag.or_else(|| variable(TARGET_VARIABLE)).or(file).ok_or(ConfigError::NoTarget)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags { target: Some("netns/shop".into()), command: vec!["python3".into(), "app.py".into()], ..Flags::default() }
    }

    fn resolve(flags: Flags) -> Result<Config, ConfigError> {
        Config::resolve(flags, |_| None, File::default())
    }

    #[test]
    fn the_least_command_line_mirrors_every_port() {
        let config = resolve(flags()).unwrap();
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
        let both = Config::resolve(flags(), variable, File::default()).unwrap();
        assert_eq!((both.target, both.mode), (Target::Netns("shop".into()), Mode::Steal));
        let flags = Flags { target: None, modes: vec![Mode::Mirror], ..flags() };
        let config = Config::resolve(flags, variable, File::default()).unwrap();
        assert_eq!((config.target, config.mode), (Target::Pid(7), Mode::Mirror));
    }

    #[test]
    fn the_modes_variable_takes_what_the_documentation_says() {
        let resolve =
            |value: &'static str| Config::resolve(flags(), move |name| (name == MODE_VARIABLE).then(|| value.into()), File::default());
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
    fn conditions_and_modules_come_from_flags_else_from_variables_else_from_the_file() {
        let file = || File {
            http_filter: Some(filters::condition("path_filter", "file")),
            filters: vec![Filter::module("file.wasm".into())],
            target: Some("netns/other".into()),
            mode: Some(Mode::Steal),
            ..File::default()
        };
        let variable = |name: &str| (name == "MIRRORD_HTTP_HEADER_FILTER").then(|| "variable".to_string());
        let chain = |filters: Vec<FilterFlag>, variable: &dyn Fn(&str) -> Option<String>| {
            let config = Config::resolve(Flags { filters, ..flags() }, variable, file()).unwrap();
            assert_eq!((config.mode, config.target), (Mode::Steal, Target::Netns("shop".into())));
            config.filters
        };
        let module = |path: &str| Filter::module(path.into());
        let condition = filters::condition;
        assert_eq!(chain(vec![], &|_| None), [condition("path_filter", "file"), module("file.wasm")]);
        // Beside a condition of another kind in the file, a variable's is one too many; of the same kind, it counts first.
        let two = Config::resolve(flags(), variable, file()).unwrap_err();
        assert_eq!(two, ConfigError::TwoConditions("MIRRORD_HTTP_HEADER_FILTER".into(), "path_filter in the config file".into()));
        let path = |name: &str| (name == "MIRRORD_HTTP_PATH_FILTER").then(|| "variable".to_string());
        assert_eq!(chain(vec![], &path), [condition("path_filter", "variable"), module("file.wasm")]);
        let jq = |name: &str| (name == filters::JQ_VARIABLE).then(|| "true".to_string());
        assert_eq!(Config::resolve(flags(), jq, File::default()), Err(ConfigError::Jq));
        let flag = FilterFlag::Condition("method_filter", "GET".into());
        assert_eq!(chain(vec![flag], &variable), [condition("method_filter", "GET"), module("file.wasm")]);
        let flag = FilterFlag::Filter("flag.wasm".into());
        assert_eq!(chain(vec![flag], &path), [condition("path_filter", "variable"), module("flag.wasm")]);
        let both = |name: &str| filters::CONDITION_VARIABLES.iter().any(|(known, _)| *known == name).then(|| "x".to_string());
        assert!(matches!(Config::resolve(flags(), both, file()), Err(ConfigError::TwoConditions(..))));
    }

    #[test]
    fn filters_hold_on_the_ports_that_the_variable_or_the_file_names() {
        let file = || File { http_filter: Some(filters::condition("path_filter", "a")), filter_ports: Some(vec![80]), ..File::default() };
        let ports = |file: File, value: Option<&'static str>| {
            let variable = move |name: &str| value.filter(|_| name == FILTER_PORTS_VARIABLE).map(str::to_owned);
            Config::resolve(flags(), variable, file).map(|config| config.filter_ports)
        };
        assert_eq!(ports(file(), None), Ok(Some(vec![80])));
        assert_eq!(ports(file(), Some("81; 82")), Ok(Some(vec![81, 82])));
        assert_eq!(ports(File { http_filter: None, ..file() }, None), Ok(None));
        for bad in ["", "0", "80,81", "80;", "x"] {
            assert_eq!(ports(file(), Some(bad)), Err(ConfigError::FilterPorts(bad.into())));
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
            assert_eq!(resolve(flags), Err(error));
        }
    }

    #[test]
    fn clusters_have_targets_too() {
        let config = resolve(Flags { target: Some("deployment/shop".into()), ..flags() }).unwrap();
        assert_eq!((config.target.to_string().as_str(), config.hostname), ("deployment/shop", true));
        let nothing = resolve(Flags { target: Some("targetless".into()), ..flags() }).unwrap();
        assert_eq!((nothing.ports, nothing.warnings.len()), (Some(Vec::new()), 1));
        let nothing = Flags { target: Some("targetless".into()), modes: vec![Mode::Steal], ..flags() };
        assert_eq!(resolve(nothing), Err(ConfigError::StealNothing));
    }
}
