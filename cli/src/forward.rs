//! `mirrord port-forward`: ports of this machine that lead into the target's network (`-L`), and ports of the target whose traffic
//! comes to this machine (`-R`), with no program of its own. It is a session like any other, until it is told to end.

use std::{collections::BTreeSet, env, path::PathBuf};

use clap::{ArgAction, Args};
use mirrord_config::{Config, FilterFlag, Flags, Mode, Target};
use mirrord_intproxy::settings::{Forward, Mapping, PortMap, Settings};
use mirrord_protocol::{control::Level, deliver};
use thiserror::Error as ThisError;

use crate::{
    args::ClusterArgs,
    chain::{self, ChainFlags},
    console,
    error::Error,
    exec, files,
    intproxy::Intproxy,
    kube::{self, Cluster},
    namespace,
    process::{self, News, Outcome, Signals},
    progress,
    session::Lost,
    sys,
};

/// The command line, but for the filters, whose order matters.
#[derive(Args, Debug)]
pub struct Line {
    /// Whose network: pod/NAME, deployment/NAME … in a cluster; netns/NAME, pid/N or container/ID on this machine
    /// [env: MIRRORD_IMPERSONATED_TARGET]
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// Listen on this machine's port LOCAL (else PORT), on 127.0.0.1; each connection is made to HOST:PORT from the target
    #[arg(short = 'L', long, visible_alias = "port-mappings", value_name = "[LOCAL:]HOST:PORT")]
    port_mapping: Vec<String>,

    /// Traffic of the target's port REMOTE (else LOCAL) comes to 127.0.0.1:LOCAL: a copy, or with --steal itself
    #[arg(short = 'R', long, visible_alias = "reverse-port-mappings", value_name = "[REMOTE:]LOCAL")]
    reverse_port_mapping: Vec<String>,

    /// With -R: whoever listens here answers [env: MIRRORD_AGENT_TCP_STEAL_TRAFFIC=true]
    #[arg(long, action = ArgAction::SetTrue)]
    steal: bool,

    /// With -R: which requests; all others are the pod's alone
    #[command(flatten)]
    chain: ChainFlags,

    /// A config file [env: MIRRORD_CONFIG_FILE]
    #[arg(short = 'f', long, value_name = "FILE", num_args = 0..=1, default_missing_value = "./.mirrord/mirrord.json")]
    config_file: Option<PathBuf>,

    /// What templates in the config file have as `key` [env: MIRRORD_KEY]
    #[arg(short, long, value_name = "KEY")]
    key: Option<String>,
}

/// What is wrong with a mapping.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum ForwardError {
    #[error("neither -L nor -R")]
    Nothing,
    #[error("-L `{0}` is not [LOCAL:]HOST:PORT")]
    Mapping(String),
    #[error("-R `{0}` is not [REMOTE:]LOCAL")]
    Reverse(String),
    #[error("-L: this machine's port {0} is given twice")]
    LocalTwice(u16),
    #[error("-R: the target's port {0} is given twice")]
    RemoteTwice(u16),
}

impl ForwardError {
    /// The next step.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Nothing => "write -L 8080:shop:80 to reach shop:80 as the target does, -R 80:8080 to get its traffic",
            Self::Mapping(_) => "HOST is a name or an address of IPv4, a port is a number from 1 to 65535; for instance -L 5433:db:5432",
            Self::Reverse(_) => "a port is a number from 1 to 65535; for instance -R 80:8080",
            Self::LocalTwice(_) => "put another port of this machine before HOST: LOCAL:HOST:PORT",
            Self::RemoteTwice(_) => "leave out one of them",
        }
    }
}

/// Forwards until it is told to end.
pub fn forward(line: Line, filters: Vec<FilterFlag>, variable: impl Fn(&str) -> Option<String>) -> Result<Outcome, Error> {
    if env::var_os(exec::INSIDE).is_some() {
        return Err(Error::Inside);
    }
    progress::begin("mirrord port-forward");
    let forward = read(&line.port_mapping, &line.reverse_port_mapping)?;
    let file = files::config_file(line.config_file, line.key, &variable)?;
    let flags = Flags {
        target: line.target,
        modes: line.steal.then_some(Mode::Steal).into_iter().collect(),
        filters,
        cluster: line.cluster.flags(),
        // What administrators see.
        command: vec!["port-forward".into()],
        ..Flags::default()
    };
    let config = Config::resolve(flags, &variable, file)?;
    config.warnings.iter().for_each(|warning| console::notice(Level::Warn, warning));
    let settings = Settings { forward, ports: None, ..exec::session(&config, chain::links(config.filters.clone())?) };
    let signals = Signals::watch().map_err(Lost::Wait)?;
    let (intproxy, cluster) = open(&config, settings.clone())?;
    progress::done(&format!("forwarding with {}", config.target));
    say(&config, &settings.forward);
    serve(&signals, intproxy, cluster).map_err(Error::from)
}

fn open(config: &Config, mut settings: Settings) -> Result<(Intproxy, Option<Cluster>), Error> {
    let Target::Cluster(_) = &config.target else {
        let keep = exec::privileges(&config.target)?;
        let (intproxy, _) = exec::open(settings, &namespace::find(&config.target)?, keep)?;
        return Ok((intproxy, None));
    };
    progress::step("connecting to the cluster");
    let (cluster, ready) = Cluster::start(&kube::Settings {
        target: config.target.to_string(),
        cluster: config.cluster.clone(),
        owner: settings.owner.clone(),
        environment: false,
        agents: kube::Wanted::All,
    })?;
    settings.feed = Some(ready.feed);
    progress::step("opening the session");
    Ok((Intproxy::start(&settings)?.0, Some(cluster)))
}

fn say(config: &Config, forward: &Forward) {
    for Mapping { local, to } in &forward.mappings {
        console::say(&format!("mirrord: 127.0.0.1:{local} -> {to}, from {}", config.target));
    }
    for PortMap { pod, local } in &forward.reverse {
        console::say(&format!("mirrord: port {pod} of {} -> 127.0.0.1:{local} ({})", config.target, exec::mode_name(config)));
    }
}

fn serve(signals: &Signals, mut intproxy: Intproxy, mut cluster: Option<Cluster>) -> Result<Outcome, Lost> {
    let outcome = loop {
        let fds: Vec<_> = [Some(signals.fd()), intproxy.fd(), cluster.as_ref().and_then(Cluster::fd)].into_iter().flatten().collect();
        sys::wait_readable(&fds, None).map_err(Lost::Wait)?;
        if let Some(cluster) = &mut cluster {
            cluster.read_reports();
        }
        if let Some(reply) = intproxy.read_reports() {
            break Err(Lost::Reported(reply));
        }
        let mut is_told_to_end = false;
        while let Some(arrived) = signals.next() {
            match arrived.signal {
                libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => is_told_to_end = true,
                libc::SIGTSTP => process::stop_self(arrived.signal),
                _ => {}
            }
        }
        if is_told_to_end {
            // As it is meant to end.
            break Ok(Outcome::Exited(0));
        }
        while let Some(news) = process::news() {
            if let News::Ended(pid, outcome) = news
                && pid == intproxy.pid()
            {
                intproxy.set_reaped();
                return Err(intproxy.read_reports().map_or(Lost::Intproxy(outcome), Lost::Reported));
            }
        }
    };
    intproxy.close();
    // Behind the session, which it carries.
    drop(cluster);
    outcome
}

fn read(mappings: &[String], reverse: &[String]) -> Result<Forward, ForwardError> {
    if mappings.is_empty() && reverse.is_empty() {
        return Err(ForwardError::Nothing);
    }
    let (mut locals, mut remotes) = (BTreeSet::new(), BTreeSet::new());
    let mut forward = Forward::default();
    for text in mappings {
        let mapping = mapping(text).ok_or_else(|| ForwardError::Mapping(text.clone()))?;
        if !locals.insert(mapping.local) {
            return Err(ForwardError::LocalTwice(mapping.local));
        }
        forward.mappings.push(mapping);
    }
    for text in reverse {
        let (pod, local) = text.split_once(':').unwrap_or((text, text));
        let map = port(pod).zip(port(local)).map(|(pod, local)| PortMap { pod, local });
        let map = map.ok_or_else(|| ForwardError::Reverse(text.clone()))?;
        if !remotes.insert(map.pod) {
            return Err(ForwardError::RemoteTwice(map.pod));
        }
        forward.reverse.push(map);
    }
    Ok(forward)
}

fn mapping(text: &str) -> Option<Mapping> {
    let parts: Vec<&str> = text.split(':').collect();
    let (local, host, remote) = match parts[..] {
        [host, remote] => (port(remote)?, host, port(remote)?),
        [local, host, remote] => (port(local)?, host, port(remote)?),
        _ => return None,
    };
    let to = format!("{host}:{remote}");
    deliver::host_and_port(&to).is_some().then_some(Mapping { local, to })
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn mappings_are_read_as_ssh_has_them() {
        let forward = read(&words(&["5433:db.shop:5432", "10.0.0.1:80"]), &words(&["80:8080", "90"])).unwrap();
        let mapping = |local, to: &str| Mapping { local, to: to.into() };
        assert_eq!(forward.mappings, [mapping(5433, "db.shop:5432"), mapping(80, "10.0.0.1:80")]);
        assert_eq!(forward.reverse, [PortMap { pod: 80, local: 8080 }, PortMap { pod: 90, local: 90 }]);
    }

    #[test]
    fn what_is_none_is_quoted() {
        for bad in ["", "80", "db:", ":80", "db:0", "0:db:80", "1:2:3:4", "db:x", "+1:db:80", "[::1]:80", "a b:80"] {
            assert_eq!(read(&words(&[bad]), &[]), Err(ForwardError::Mapping(bad.into())));
        }
        for bad in ["", "0", "x", "80:", "1:2:3", "80:65536"] {
            assert_eq!(read(&[], &words(&[bad])), Err(ForwardError::Reverse(bad.into())));
        }
        assert_eq!(read(&words(&["80:a:1", "80:b:2"]), &[]), Err(ForwardError::LocalTwice(80)));
        assert_eq!(read(&[], &words(&["80:1", "80:2"])), Err(ForwardError::RemoteTwice(80)));
        assert_eq!(read(&[], &[]), Err(ForwardError::Nothing));
    }
}
