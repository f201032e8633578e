//! What `mirrord doctor` sees on this machine: our parts, what the kernel can do, sockets and rules that agents have left.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mirrord_config::Target;
use mirrord_protocol::{
    control::ErrorReply,
    doctor::{Kernel, Leftovers},
};
use serde::de::DeserializeOwned;

use super::{Finding, Leftover, Place, State};
use crate::{agent, exec, files, namespace::Namespace, privileges::Capabilities};

fn finding(state: State, what: impl Into<String>, help: impl Into<String>) -> Finding {
    Finding::new(Place::Machine, state, what, help)
}

/// What is left in one namespace.
pub fn look_into(namespace: &Namespace) -> Vec<Finding> {
    let Ok(program) = files::agent() else { return parts() };
    let own = agent::socket(namespace);
    let mut findings = rules(&program, &[(namespace.path.clone(), namespace.path.display().to_string())].into());
    let sockets = agent::undisturbed(sockets).ok().flatten().unwrap_or_default();
    findings.extend(sockets.into_iter().filter(|one| one.remove == Some(Leftover::File(own.clone()))));
    findings
}

/// All of it.
pub fn look() -> Vec<Finding> {
    let mut findings = parts();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let needed = Capabilities::needed_for(&Target::Pid(1));
    let missing = needed.without(Capabilities::effective(&status));
    if !missing.is_empty() {
        let what = format!("rules and sockets of local sessions were not looked at: missing privileges: {missing}");
        findings.push(finding(State::Unknown, what, "run it with sudo; targets in a cluster need none of it"));
        return findings;
    }
    let Ok(program) = files::agent() else { return findings };
    findings.push(kernel(&program));
    match agent::undisturbed(sockets) {
        Ok(found) => findings.extend(found.unwrap_or_default()),
        Err(error) => findings.push(finding(State::Unknown, error.to_string(), error.help())),
    }
    findings.extend(rules(&program, &namespaces()));
    findings
}

/// The files that sessions are made from.
fn parts() -> Vec<Finding> {
    let mut findings = vec![match files::layer() {
        Ok(path) => finding(State::Ok, format!("the layer is {}", path.display()), ""),
        Err(error) => finding(State::Problem, error.to_string(), error.help()),
    }];
    // Targets in a cluster need none.
    findings.push(match files::agent() {
        Ok(path) => match version(&path) {
            Some(version) if version == env!("CARGO_PKG_VERSION") => finding(State::Ok, format!("the agent is {}", path.display()), ""),
            Some(version) => finding(
                State::Problem,
                format!("the agent {} is of version {version}, and this is {}", path.display(), env!("CARGO_PKG_VERSION")),
                "install the two of one version",
            ),
            None => finding(State::Problem, format!("the agent {} cannot be run", path.display()), "install it anew"),
        },
        Err(error) => finding(State::Warning, format!("{error}: there are no sessions on this machine"), error.help()),
    });
    if env::var_os(exec::INSIDE).is_some() {
        findings.push(finding(State::Warning, "this is inside a session", "run it outside"));
    }
    findings
}

fn version(agent: &Path) -> Option<String> {
    let said = Command::new(agent).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).split_whitespace().nth(1)?.to_owned())
}

/// What the agent's program says, a value a line.
fn ask<T: DeserializeOwned>(agent: &Path, arguments: &[&str], paths: &[PathBuf]) -> Result<Vec<T>, String> {
    let said = Command::new(agent).args(arguments).args(paths).current_dir("/").stdin(Stdio::null()).output();
    let said = said.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let read = |line: &str| {
        serde_json::from_str(line).map_err(|_| match serde_json::from_str::<ErrorReply>(line) {
            Ok(reply) if reply.help.is_empty() => reply.error,
            Ok(reply) => format!("{} ({})", reply.error, reply.help),
            Err(_) => format!("the agent's program says `{line}`"),
        })
    };
    text.lines().map(read).collect()
}

fn kernel(agent: &Path) -> Finding {
    let asked = ask::<Kernel>(agent, &["kernel"], &[]).and_then(|mut said| said.pop().ok_or_else(|| "it said nothing".into()));
    match asked {
        Err(why) => {
            finding(State::Problem, format!("ports cannot be redirected on this machine: {why}"), "targets in a cluster need none of it")
        }
        Ok(Kernel { tables, leased, keeps_addresses }) => {
            let what = format!("ports can be redirected, by iptables ({tables})");
            match (leased, keeps_addresses) {
                (true, true) => finding(State::Ok, what, ""),
                (false, _) => finding(
                    State::Warning,
                    format!("{what}; but the kernel has no `recent` match, so if agent and guard are killed at once, the redirect stays"),
                    "load the module xt_recent",
                ),
                (_, false) => finding(State::Warning, format!("{what}; but pods would see the agent's address as their clients'"), ""),
            }
        }
    }
}

/// Sockets where nobody listens. A folder without sockets is left if it is there with nobody in it.
fn sockets(folder: &Path) -> Vec<Finding> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut findings = Vec::new();
    let (mut is_used, mut paths) = (false, Vec::new());
    for path in entries.flatten().map(|entry| entry.path()) {
        match agent::accepts(&path) {
            Ok(true) => {
                is_used = true;
                findings.push(finding(State::Ok, format!("an agent serves {}", path.display()), ""));
            }
            _ => paths.push(path),
        }
    }
    let left = |path: PathBuf, what: &str| Finding::leftover(Place::Machine, format!("{}: {what}", path.display()), Leftover::File(path));
    findings.extend(paths.into_iter().map(|path| left(path, "a file of an agent that is gone")));
    if !is_used {
        findings.push(left(folder.into(), "the folder of agents, of which there is none"));
    }
    findings
}

/// Rules in the namespaces of this machine.
fn rules(agent: &Path, namespaces: &BTreeMap<PathBuf, String>) -> Vec<Finding> {
    let paths: Vec<_> = namespaces.keys().cloned().collect();
    let found = match ask::<Leftovers>(agent, &["leftovers"], &paths) {
        Ok(found) => found,
        Err(why) => return vec![finding(State::Unknown, format!("rules in network namespaces could not be looked at: {why}"), "")],
    };
    let mut findings = Vec::new();
    let count = found.iter().filter(|one| one.error.is_empty()).count();
    for one in found {
        let name = namespaces.get(&one.netns).map_or("", String::as_str);
        if !one.rules.is_empty() {
            let what = format!("{name}: {} redirect rules of an agent that is gone", one.rules.len());
            findings.push(Finding::leftover(Place::Machine, what, Leftover::Rules(one.netns)));
        } else if !one.error.is_empty() && Path::new(&one.netns).exists() {
            findings.push(finding(State::Unknown, format!("{name}: rules could not be looked at: {}", one.error), ""));
        }
    }
    if findings.is_empty() {
        findings.push(finding(State::Ok, format!("no rules of dead agents in {count} network namespaces"), ""));
    }
    findings
}

/// Other network namespaces than our own, a path each, and what users call them.
fn namespaces() -> BTreeMap<PathBuf, String> {
    let mut found: BTreeMap<u64, (PathBuf, String)> = BTreeMap::new();
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let named = named.map(|entry| (entry.path(), format!("netns/{}", entry.file_name().display())));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    let processes = processes.map(|entry| (entry.path().join("ns/net"), format!("pid/{}", entry.file_name().display())));
    for (path, name) in named.chain(processes) {
        // A file of `ip netns` that is no mount any more lies on another device than namespaces do.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let is_namespace = fs::metadata("/proc/self/ns/net").is_ok_and(|own| own.dev() == metadata.dev() && own.ino() != metadata.ino());
        if is_namespace {
            found.entry(metadata.ino()).or_insert((path, name));
        }
    }
    found.into_values().collect()
}

/// Removes a socket, or the folder, if nobody has come to use it meanwhile.
pub fn remove_file(path: &Path) -> Result<(), String> {
    let removed = agent::undisturbed(|_| match () {
        () if path.is_dir() => fs::remove_dir(path).map_err(|error| error.to_string()),
        () if agent::accepts(path).unwrap_or(false) => Err("an agent has come to use it".into()),
        () => fs::remove_file(path).map_err(|error| error.to_string()),
    });
    removed.map_err(|error| error.to_string())?.unwrap_or(Ok(()))
}

/// Removes the rules of dead agents in a namespace.
pub fn remove_rules(netns: &Path) -> Result<(), String> {
    let agent = files::agent().map_err(|error| error.to_string())?;
    let said = ask::<Leftovers>(&agent, &["leftovers", "--fix"], &[netns.to_owned()])?;
    match said.first() {
        Some(one) if one.is_removed => Ok(()),
        Some(one) if one.is_lived_in => Err("an agent has come to use it".into()),
        Some(one) => Err(one.error.clone()),
        None => Err("the agent's program said nothing".into()),
    }
}
