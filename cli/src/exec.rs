//! `mirrord exec`: first everything that can be wrong is looked at, then the agent, the intproxy and the program are started, in this
//! order. Each of them ends by itself if we do.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    ops::ControlFlow,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use mirrord_config::{self as config, Ambiguous, Config, ConfigError, Mode, PortMap, Target, filters::Source};
use mirrord_intproxy::settings::{self, FilterFile, Settings};
use mirrord_protocol::{
    control::{self, Environment, Level},
    layer::{ADDRESS_VARIABLE, HOSTNAME_VARIABLE},
};

use crate::{
    agent,
    args::Watch,
    chain, console,
    error::Error,
    files, filter,
    intproxy::{Intproxy, IntproxyError},
    kube::{self, Cluster},
    namespace::{self, Namespace},
    privileges::Capabilities,
    process::{Outcome, Signals},
    program, progress,
    session::Session,
    sys,
};

/// Tells scripts, and ourselves, that we run inside a session.
pub const INSIDE: &str = "MIRRORD_RESOLVED_CONFIG";

/// Runs the program in a session of its own; how it ended is how we end.
pub fn exec(config: Config, watch: Watch) -> Result<Outcome, Error> {
    if env::var_os(INSIDE).is_some() {
        return Err(Error::Inside);
    }
    progress::begin("mirrord exec");
    let path = program::check(&config.program, env::var_os("PATH").as_deref())?;
    config.warnings.iter().for_each(|warning| console::notice(Level::Warn, warning));
    let watched = if watch == Watch::Yes { watched(&config)? } else { Vec::new() };
    let filters = chain::links(config.filters.clone())?;
    let layer = files::layer()?;
    let file = env_file(&config.environment)?;

    let mut settings = session(&config, filters);
    let (container, cluster) = match &config.target {
        Target::Cluster(_) => {
            progress::step("connecting to the cluster");
            let (cluster, ready) = Cluster::start(&kube::Settings {
                target: config.target.to_string(),
                cluster: config.cluster.clone(),
                owner: settings.owner.clone(),
                environment: true,
                agents: kube::Wanted::All,
            })?;
            settings.feed = Some(ready.feed);
            (ready.environment.unwrap_or_default(), Some(cluster))
        }
        local => {
            let hostname = namespace::host_name(local).unwrap_or_default();
            (Environment { hostname, ..Environment::default() }, None)
        }
    };
    let applied = config.environment.apply(container.variables, file).map_err(ConfigError::from)?;
    for name in &applied.refused {
        console::notice(Level::Warn, &format!("{name} is never the container's: the program keeps its own"));
    }
    let (intproxy, layer_address) = match cluster {
        Some(_) => {
            progress::step("opening the session");
            Intproxy::start(&settings)?
        }
        None => {
            let keep = privileges(&config.target)?;
            open(settings, &namespace::find(&config.target)?, keep)?
        }
    };
    progress::done(&format!("{} {}: running {}", mode_name(&config), config.target, config.program.display()));
    if watch == Watch::Yes {
        filter::watch::start(&watched)?;
    }
    let hostname = Some(container.hostname).filter(|name| config.hostname && !name.is_empty());
    let started = Started { layer_address, environment: applied.set, hostname, intproxy, cluster };
    run(&config, &path, &layer, started)
}

/// What the session is, but for its agent.
pub fn session(config: &Config, filters: Vec<FilterFile>) -> Settings {
    Settings {
        agent: PathBuf::new(),
        feed: None,
        owner: owner(&config.program),
        mode: match config.mode {
            Mode::Mirror => control::Mode::Mirror,
            Mode::Steal => control::Mode::Steal,
        },
        filters,
        ambiguous: match config.ambiguous {
            Ambiguous::Pass => control::Ambiguous::Pass,
            Ambiguous::Refuse => control::Ambiguous::Refuse,
        },
        show_decision: config.show_decision,
        priority: config.priority,
        filter_ports: config.filter_ports.clone(),
        ports: config
            .ports
            .as_ref()
            .map(|maps| maps.iter().map(|PortMap { pod, local }| settings::PortMap { pod: *pod, local: *local }).collect()),
        forward: settings::Forward::default(),
    }
}

/// What the program is started into.
struct Started {
    layer_address: String,
    /// Over this machine's own.
    environment: BTreeMap<String, String>,
    /// The container's host name, if the program is to have it.
    hostname: Option<String>,
    intproxy: Intproxy,
    cluster: Option<Cluster>,
}

/// What the env file says, if there is one.
fn env_file(environment: &config::Environment) -> Result<Vec<(String, String)>, Error> {
    let Some(path) = &environment.file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).map_err(|error| Error::EnvFile { path: path.clone(), error })?;
    Ok(config::env::dotenv(&text).map_err(ConfigError::from)?)
}

/// The modules and projects of the chain; each project is built, as the session begins with what its sources say.
fn watched(config: &Config) -> Result<Vec<PathBuf>, Error> {
    let modules = config.filters.iter().filter_map(|filter| match &filter.source {
        Source::Module(path) => Some(path.clone()),
        Source::Condition => None,
    });
    let modules: Vec<_> = modules.collect();
    filter::watch::build(&modules)?;
    Ok(modules)
}

/// The rights that the agent must inherit: none if we are root, as it then has them anyway.
pub fn privileges(target: &Target) -> Result<Capabilities, Error> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let needed = Capabilities::needed_for(target);
    let missing = needed.without(Capabilities::effective(&status));
    if !missing.is_empty() {
        let program = env::current_exe().unwrap_or_else(|_| "mirrord".into());
        return Err(Error::Privileges { missing, needed, program });
    }
    Ok(if sys::identity().effective_user == 0 { Capabilities::default() } else { needed })
}

/// Finds or starts the agent and opens the session.
pub fn open(mut settings: Settings, namespace: &Namespace, keep: Capabilities) -> Result<(Intproxy, String), Error> {
    agent::with_agent(namespace, keep, |socket| {
        settings.agent = socket;
        match Intproxy::start(&settings) {
            Err(error @ IntproxyError::Failed(_)) => ControlFlow::Continue(error.into()),
            opened => ControlFlow::Break(opened.map_err(Error::from)),
        }
    })
}

fn run(config: &Config, path: &Path, layer: &Path, session: Started) -> Result<Outcome, Error> {
    let Started { layer_address, environment, hostname, intproxy, cluster } = session;
    let started = Signals::watch().and_then(|signals| {
        let mut command = Command::new(path);
        command.arg0(&config.program).args(&config.arguments);
        command.envs(environment);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| config.environment.removes(name))) {
            command.env_remove(name);
        }
        command.env("LD_PRELOAD", files::preload(layer, env::var_os("LD_PRELOAD")));
        command.env(ADDRESS_VARIABLE, layer_address).env(INSIDE, private(config)).env("MIRRORD_PROGRESS_MODE", "off");
        // One that the user has set counts before the container's.
        if let Some(hostname) = hostname.filter(|_| env::var_os(HOSTNAME_VARIABLE).is_none()) {
            command.env(HOSTNAME_VARIABLE, hostname);
        }
        signals.prepare_program(&mut command);
        Ok((command.spawn()?.id() as i32, signals))
    });
    match started {
        Ok((program, signals)) => Ok(Session::new(signals, program, intproxy, cluster).run()?),
        Err(error) => {
            intproxy.close();
            Err(Error::Run { program: config.program.clone(), error })
        }
    }
}

/// What the program finds in the variable that says that it is in a session. Its filters' configuration is not for it.
fn private(config: &Config) -> String {
    serde_json::json!({ "target": config.target.to_string(), "mode": mode_name(config) }).to_string()
}

pub fn mode_name(config: &Config) -> &'static str {
    match config.mode {
        Mode::Mirror => "mirror",
        Mode::Steal => "steal",
    }
}

/// Who we are. Of the program only its name is told: its arguments may hold secrets.
pub fn owner(program: &OsStr) -> control::Owner {
    let identity = sys::identity();
    // sudo says who called it.
    let names: &[&str] = if identity.user == 0 { &["SUDO_USER", "USER", "LOGNAME"] } else { &["USER", "LOGNAME"] };
    let user = names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    control::Owner {
        user: user.unwrap_or_else(|| format!("uid {}", identity.user)),
        host: host.trim().to_owned(),
        pid: std::process::id(),
        command: Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned(),
    }
}
