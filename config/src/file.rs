//! The config file: JSON, TOML or YAML → [`File`]. What this version acts on is taken out; what is known but not acted on yet is
//! a warning; what is not known is an error, since a typing error would otherwise change what becomes of other people's traffic.
//!
//! [`TREE`] has every known key of the sections that are read so far. A section whose keys are not in it is taken as a whole.

use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    Mode,
    env::{self, Environment},
    filters::{Filter, FilterConfig, Isolation, OnFailure},
    kube::{self, ClusterSettings},
    ports::PortMap,
    template::{self, Rendered, Scope},
};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.json`, or no ending.
    Json,
    /// `.toml`.
    Toml,
    /// `.yaml`, `.yml`.
    Yaml,
}

/// What a file says of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// `target`, as a path.
    pub target: Option<String>,
    /// `feature.network.incoming.mode`.
    pub mode: Option<Mode>,
    /// `…http_filter`, a condition as JSON.
    pub http_filter: Option<Filter>,
    /// `…http_filter.ports`: where filters are asked; elsewhere everything is picked.
    pub filter_ports: Option<Vec<u16>>,
    /// `…filters`: modules.
    pub filters: Vec<Filter>,
    /// `…ports`, with `port_mapping`.
    pub ports: Option<Vec<PortMap>>,
    /// `agent`, and how the cluster is reached.
    pub cluster: ClusterSettings,
    /// `feature.env`.
    pub environment: Environment,
    /// `feature.hostname`.
    pub hostname: Option<bool>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// What is wrong with a file, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{problem}", if at.is_empty() { String::new() } else { format!("`{at}`: ") })]
pub struct FileError {
    /// Path of the key.
    pub at: String,
    /// What.
    pub problem: String,
    /// The next step.
    pub help: String,
}

/// Known keys by the path of their section; those that are acted on first, behind them the others.
const TREE: [(&str, &[&str], &[&str]); 4] = [
    (
        "",
        &[
            "target",
            "feature",
            "key",
            "agent",
            "kubeconfig",
            "kube_context",
            "accept_invalid_certificates",
            "startup_retry",
            "operator",
            "$schema",
        ],
        &[
            "experimental",
            "internal_proxy",
            "external_proxy",
            "container",
            "use_proxy",
            "skip_processes",
            "skip_build_tools",
            "skip_extra_build_tools",
            "api",
            "profile",
            "ci",
            "multi_cluster",
            "telemetry",
            "traceparent",
            "baggage",
            "sip_binaries",
            "skip_sip",
            "magic",
        ],
    ),
    ("feature", &["network", "env", "hostname"], &["fs", "magic", "copy_target", "preview", "split_queues", "db_branches"]),
    ("feature.network", &["incoming"], &["ipv6", "outgoing", "dns"]),
    (
        "feature.network.incoming",
        &["mode", "http_filter", "filters", "ports", "port_mapping"],
        &["ignore_ports", "listen_ports", "ignore_localhost", "on_concurrent_steal", "tls_delivery", "https_delivery"],
    ),
];
/// Keys of an element of `filters`.
const FILTER: [&str; 5] = ["path", "config", "on_failure", "isolation", "limits"];
/// Those that do nothing, and so need no warning.
const SILENT: [&str; 5] = ["telemetry", "sip_binaries", "skip_sip", "multi_cluster", "ci"];

pub(crate) fn error(at: impl Into<String>, problem: impl Into<String>, help: impl Into<String>) -> FileError {
    FileError { at: at.into(), problem: problem.into(), help: help.into() }
}

impl Format {
    /// By the ending of a file's name.
    pub fn of(ending: Option<&str>) -> Result<Self, FileError> {
        match ending {
            None | Some("json") => Ok(Self::Json),
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some(other) => Err(error("", format!("a config file cannot end in .{other}"), "name it .json, .toml, .yaml or .yml")),
        }
    }
}

impl File {
    /// Renders a file's templates and reads it.
    pub fn read(text: &str, format: Format, scope: &Scope) -> Result<Self, FileError> {
        let Rendered { text, warning, .. } = template::render(text, format, scope)?;
        let mut file = Self::parse(&text, format)?;
        file.warnings.extend(warning);
        Ok(file)
    }

    /// A file as data once its templates are rendered. It says what [`File::read`] has read from the same text.
    pub fn rendered(text: &str, format: Format, scope: &Scope) -> Result<Value, FileError> {
        value(&template::render(text, format, scope)?.text, format)
    }

    /// Reads a text in which templates have been rendered.
    pub fn parse(text: &str, format: Format) -> Result<Self, FileError> {
        let value = value(text, format)?;
        let mut file = Self::default();
        file.root(&value)?;
        Ok(file)
    }

    fn root(&mut self, value: &Value) -> Result<(), FileError> {
        let root = self.section("", value)?;
        if present(root, "key").is_some_and(|key| !key.is_string()) {
            return Err(error("key", "it is no text", "put it in quotes"));
        }
        if let Some(target) = present(root, "target") {
            self.target = self::target(target, &mut self.cluster.kube.namespace)?;
        }
        self.cluster(root)?;
        refuse(root)?;
        let Some(feature) = present(root, "feature") else { return Ok(()) };
        let feature = self.section("feature", feature)?;
        if let Some(value) = present(feature, "env") {
            self.environment = env::read(value)?;
        }
        self.hostname = present(feature, "hostname").map(|value| kube::flag("feature.hostname", value)).transpose()?;
        match present(feature, "network") {
            None | Some(Value::Bool(true)) => Ok(()),
            Some(Value::Bool(false)) => Err(off("feature.network")),
            Some(network) => match present(self.section("feature.network", network)?, "incoming") {
                None => Ok(()),
                Some(incoming) => self.incoming(incoming),
            },
        }
    }

    /// The keys of the root that are about clusters.
    fn cluster(&mut self, root: &Map<String, Value>) -> Result<(), FileError> {
        let text = |key: &str| present(root, key).map(|value| kube::text(key, value)).transpose();
        let kube = &mut self.cluster.kube;
        (kube.kubeconfig, kube.context) = (text("kubeconfig")?, text("kube_context")?);
        let flag = |key: &str| present(root, key).map(|value| kube::flag(key, value)).transpose();
        kube.accept_invalid_certificates = flag("accept_invalid_certificates")?;
        if flag("operator")? == Some(true) {
            return Err(error("operator", "there is no operator here", "leave it out, or set it to false"));
        }
        if let Some(value) = present(root, "startup_retry") {
            kube.retry = kube::retry(value)?;
        }
        if let Some(value) = present(root, "agent") {
            self.cluster.agent = kube::agent(value, &mut self.warnings)?;
        }
        Ok(())
    }

    fn incoming(&mut self, value: &Value) -> Result<(), FileError> {
        const AT: &str = "feature.network.incoming";
        match value {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => return Err(off(AT)),
            Value::String(_) => {
                self.mode = Some(mode(AT, value)?);
                return Ok(());
            }
            _ => {}
        }
        let incoming = self.section(AT, value)?;
        if let Some(value) = present(incoming, "mode") {
            self.mode = Some(mode("feature.network.incoming.mode", value)?);
        }
        self.ports = ports(incoming)?;
        if let Some(value) = present(incoming, "http_filter") {
            (self.http_filter, self.filter_ports) = http_filter(value)?;
        }
        if let Some(value) = present(incoming, "filters") {
            let at = format!("{AT}.filters");
            let Value::Array(list) = value else { return Err(error(at, "it is no list", r#"write [{"path": "header.wasm"}]"#)) };
            self.filters = list.iter().enumerate().map(|(index, one)| filter(&format!("{at}[{index}]"), one)).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// The members of a section, once all of its keys are known. A warning for each that is not acted on.
    fn section<'a>(&mut self, at: &str, value: &'a Value) -> Result<&'a Map<String, Value>, FileError> {
        let Value::Object(members) = value else {
            let whole = if at.is_empty() { "the file" } else { "it" };
            return Err(error(
                at,
                format!("{whole} is no object"),
                r#"it looks like {"target": "netns/shop", "feature": {"network": {"incoming": "steal"}}}"#,
            ));
        };
        let Some((_, used, known)) = TREE.iter().find(|(section, ..)| *section == at) else { return Ok(members) };
        let path = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
        for (key, value) in members {
            if used.contains(&key.as_str()) {
                continue;
            }
            if !known.contains(&key.as_str()) {
                return Err(unknown(&path(key), key, &[*used, *known].concat()));
            }
            if !value.is_null() && !SILENT.contains(&key.as_str()) {
                self.warnings.push(format!("`{}` is not supported yet and is ignored", path(key)));
            }
        }
        Ok(members)
    }
}

/// What cannot be ignored: without it the program would run with what it was to be kept from.
fn refuse(root: &Map<String, Value>) -> Result<(), FileError> {
    let unsupported = |at: &str, why: &str| Err(error(at, format!("it is not supported yet in this version, {why}"), "leave it out"));
    if present(root, "profile").is_some() {
        return unsupported("profile", "and the session would be another without it");
    }
    let Some(Value::Object(feature)) = present(root, "feature") else { return Ok(()) };
    let is_copied = match present(feature, "copy_target") {
        Some(Value::Object(members)) => present(members, "enabled") != Some(&Value::Bool(false)),
        copy => copy == Some(&Value::Bool(true)),
    };
    if is_copied {
        return unsupported("feature.copy_target", "and the target itself would be used");
    }
    match present(feature, "db_branches") {
        Some(Value::Array(branches)) if branches.is_empty() => Ok(()),
        Some(_) => unsupported("feature.db_branches", "and the program would write to the database that all share"),
        None => Ok(()),
    }
}

/// A member that is there; null is as if absent.
pub(crate) fn present<'a>(members: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    members.get(key).filter(|value| !value.is_null())
}

/// A file's text as data.
pub(crate) fn value(text: &str, format: Format) -> Result<Value, FileError> {
    let bad = |what: &str, problem: String| {
        error("", format!("the file is no {what}: {}", problem.trim().replace('\n', " ")), "correct it at that place")
    };
    let empty = || Value::Object(Map::new());
    match format {
        Format::Json => serde_json::from_str(text).map_err(|error| bad("JSON", error.to_string())),
        Format::Toml => toml::from_str(text).map_err(|error| bad("TOML", error.to_string())),
        Format::Yaml => {
            let value: Value = serde_norway::from_str(text).map_err(|error| bad("YAML", error.to_string()))?;
            Ok(if value.is_null() { empty() } else { value })
        }
    }
}

fn off(at: &str) -> FileError {
    error(at, "a session without incoming traffic is not supported yet in this version", "set it to \"steal\" or \"mirror\"")
}

/// Keys of the object form, and the words that they stand for.
const TARGETS: [(&str, &str); 8] = [
    ("pod", "pod"),
    ("deployment", "deployment"),
    ("rollout", "rollout"),
    ("job", "job"),
    ("cron_job", "cronjob"),
    ("stateful_set", "statefulset"),
    ("service", "service"),
    ("replica_set", "replicaset"),
];
/// Ours, which have no such key elsewhere.
const OUR_TARGETS: [(&str, &str); 1] = [("daemon_set", "daemonset")];

/// The target as text; its namespace goes where it belongs.
fn target(value: &Value, namespace: &mut Option<String>) -> Result<Option<String>, FileError> {
    let Value::Object(members) = value else { return path("target", value).map(Some) };
    let is_path = |key: &&String| !matches!(key.as_str(), "path" | "namespace");
    if members.keys().any(|key| is_path(&key)) {
        if members.contains_key("namespace") || members.contains_key("path") {
            let key = members.keys().find(is_path).map_or("", String::as_str);
            if !known_keys().contains(&key) {
                return Err(unknown(&format!("target.{key}"), key, &[&known_keys()[..], &["path", "namespace"]].concat()));
            }
            let help = format!(r#"write {{"path": {{"{key}": …}}, "namespace": …}}"#);
            return Err(error("target", format!("`{key}` stands beside `namespace` or `path`"), help));
        }
        return path("target", value).map(Some);
    }
    if let Some(value) = present(members, "namespace") {
        *namespace = Some(kube::text("target.namespace", value)?);
    }
    present(members, "path").map(|value| path("target.path", value)).transpose()
}

fn known_keys() -> Vec<&'static str> {
    TARGETS.iter().chain(&OUR_TARGETS).map(|(key, _)| *key).chain(["labels", "container"]).collect()
}

fn path(at: &str, value: &Value) -> Result<String, FileError> {
    let help = r#"write "deployment/NAME", {"deployment": "NAME"}, "netns/NAME" …"#;
    let members = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Object(members) => members,
        _ => return Err(error(at, "it is no target", help)),
    };
    let known = known_keys();
    if let Some(key) = members.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(unknown(&format!("{at}.{key}"), key, &known));
    }
    let named = TARGETS.iter().chain(&OUR_TARGETS).filter_map(|(key, word)| Some((*key, *word, present(members, key)?)));
    let mut targets: Vec<_> = named
        .map(|(key, word, value)| Ok(format!("{word}/{}", kube::text(&format!("{at}.{key}"), value)?)))
        .collect::<Result<_, FileError>>()?;
    if let Some(labels) = present(members, "labels") {
        let pair = |(key, value): (&String, &Value)| Some(format!("{key}={}", value.as_str()?));
        let pairs: Option<Vec<_>> = labels.as_object().and_then(|labels| labels.iter().map(pair).collect());
        let wrong = || error(format!("{at}.labels"), "these are no labels", r#"write {"app": "shop"}"#);
        targets.push(format!("label/{}", pairs.ok_or_else(wrong)?.join(",")));
    }
    let [target] = &targets[..] else { return Err(error(at, "it names no target, or more than one", help)) };
    match present(members, "container") {
        None => Ok(target.clone()),
        Some(value) => Ok(format!("{target}/container/{}", kube::text(&format!("{at}.container"), value)?)),
    }
}

fn mode(at: &str, value: &Value) -> Result<Mode, FileError> {
    match value.as_str() {
        Some("mirror") => Ok(Mode::Mirror),
        Some("steal") => Ok(Mode::Steal),
        Some("off") => Err(off(at)),
        _ => Err(error(at, format!("{value} is no mode"), "write \"mirror\" or \"steal\"")),
    }
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn ports(incoming: &Map<String, Value>) -> Result<Option<Vec<PortMap>>, FileError> {
    let at = |key: &str| format!("feature.network.incoming.{key}");
    let Some(ports) = present(incoming, "ports") else {
        return match present(incoming, "port_mapping") {
            None => Ok(None),
            Some(_) => Err(error(
                at("port_mapping"),
                "without `ports` it is not supported yet",
                "name the pod's ports in `ports` too, or use -p POD:LOCAL",
            )),
        };
    };
    let bad = |key: &str, help: &str| error(at(key), "these are no ports", help);
    let ports: Option<Vec<u16>> = ports.as_array().and_then(|list| list.iter().map(port).collect());
    let ports =
        ports.filter(|ports| !ports.is_empty()).ok_or_else(|| bad("ports", "write a list of numbers from 1 to 65535: [80, 8080]"))?;
    let pair = |value: &Value| match value.as_array()?.as_slice() {
        [local, pod] => Some((port(pod)?, port(local)?)),
        _ => None,
    };
    let mapping = present(incoming, "port_mapping").map_or(Some(Vec::new()), |list| list.as_array()?.iter().map(pair).collect());
    let mapping: Vec<(u16, u16)> =
        mapping.ok_or_else(|| bad("port_mapping", "write pairs of the program's and the pod's port: [[8080, 80]]"))?;
    let local = |pod: u16| mapping.iter().find(|(from, _)| *from == pod).map_or(pod, |(_, local)| *local);
    let maps: Vec<_> = ports.into_iter().map(|pod| PortMap { pod, local: local(pod) }).collect();
    let twice = |(index, map): (usize, &PortMap)| maps[..index].iter().any(|other| other.pod == map.pod || other.local == map.local);
    if maps.iter().enumerate().any(twice) {
        return Err(error(at("ports"), "a port is given twice", "a port goes to one place and comes from one: leave one out"));
    }
    Ok(Some(maps))
}

/// The condition, and the ports on which it holds.
fn http_filter(value: &Value) -> Result<(Option<Filter>, Option<Vec<u16>>), FileError> {
    const AT: &str = "feature.network.incoming.http_filter";
    let members = match value {
        Value::Bool(_) => return Ok((None, None)),
        Value::Object(members) => members,
        _ => return Err(error(AT, "it is no object", r#"it looks like {"header_filter": "^x-user: me$"}"#)),
    };
    let mut members: Map<String, Value> =
        members.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    let ports = members.remove("ports").map(|value| {
        let list = match value {
            Value::Array(list) => list,
            one => vec![one],
        };
        let ports: Option<Vec<_>> = list.iter().map(port).collect();
        let help = "write the target's ports on which the filter holds: 80, or [80, 8080]; without it, it holds on all";
        ports.filter(|ports| !ports.is_empty()).ok_or_else(|| error(format!("{AT}.ports"), "these are no ports", help))
    });
    let condition = (!members.is_empty()).then(|| Filter::condition(FilterConfig::Inline(Value::Object(members).to_string())));
    Ok((condition, ports.transpose()?))
}

fn filter(at: &str, value: &Value) -> Result<Filter, FileError> {
    let shape = r#"it looks like {"path": "header.wasm", "config": {"name": "x-user", "value": "me"}, "on_failure": "pass"}"#;
    let members = match value {
        Value::String(path) => return Ok(Filter::module(path.into())),
        Value::Object(members) => members,
        _ => return Err(error(at, "it is neither a path nor an object", shape)),
    };
    if let Some(key) = members.keys().find(|key| !FILTER.contains(&key.as_str())) {
        return Err(unknown(&format!("{at}.{key}"), key, &FILTER));
    }
    let path = present(members, "path").and_then(Value::as_str).filter(|path| !path.is_empty());
    let mut filter = Filter::module(PathBuf::from(path.ok_or_else(|| error(format!("{at}.path"), "it is missing, or no text", shape))?));
    filter.config = FilterConfig::Inline(match present(members, "config") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    });
    if let Some(value) = present(members, "on_failure") {
        filter.on_failure = match value.as_str() {
            Some("pass") => OnFailure::Pass,
            Some("steal") => OnFailure::Steal,
            Some("deny") => OnFailure::Deny,
            _ => return Err(error(format!("{at}.on_failure"), format!("{value} is none"), "write \"pass\", \"steal\" or \"deny\"")),
        };
    }
    if let Some(value) = present(members, "isolation") {
        filter.isolation = match value.as_str() {
            Some("shared") => Isolation::Shared,
            Some("fresh") => Isolation::Fresh,
            _ => return Err(error(format!("{at}.isolation"), format!("{value} is none"), "write \"shared\" or \"fresh\"")),
        };
    }
    if let Some(value) = present(members, "limits") {
        let help = r#"it looks like {"call": "20ms", "memory": "32MiB", "faults": 5}"#;
        let Value::Object(limits) = value else { return Err(error(format!("{at}.limits"), "it is no object", help)) };
        for (name, value) in limits {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let set = filter.limits.set(&format!("{name}={value}"));
            set.map_err(|_| error(format!("{at}.limits.{name}"), format!("`{value}` is no such limit"), help))?;
        }
    }
    Ok(filter)
}

pub(crate) fn unknown(at: &str, key: &str, known: &[&str]) -> FileError {
    let nearest = known.iter().map(|one| (distance(key, one), *one)).min();
    let help = match nearest {
        Some((away, one)) if away <= 1 + key.len() / 4 => format!("did you mean `{one}`?"),
        _ => format!("the keys here are {}", known.join(", ")),
    };
    error(at, "there is no such key", help)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(left != right)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<File, FileError> {
        File::parse(text, Format::Json)
    }

    fn incoming(text: &str) -> Result<File, FileError> {
        json(&format!(r#"{{"feature": {{"network": {{"incoming": {text}}}}}}}"#))
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let files = [
            (
                Format::Json,
                r#"{"target": "netns/shop", "feature": {"network": {"incoming": {"mode": "steal", "ports": [8080], "http_filter": {"header_filter": "^x-team: blue$"}}}}}"#,
            ),
            (
                Format::Toml,
                "target = \"netns/shop\"\n[feature.network.incoming]\nmode = \"steal\"\nports = [8080]\nhttp_filter = { header_filter = \"^x-team: blue$\" }\n",
            ),
            (
                Format::Yaml,
                "target: { path: netns/shop }\nfeature:\n  network:\n    incoming:\n      mode: steal\n      ports: [8080]\n      http_filter: { header_filter: \"^x-team: blue$\" }\n",
            ),
        ];
        for (format, text) in files {
            let file = File::parse(text, format).unwrap_or_else(|error| panic!("{format:?}: {error}"));
            assert_eq!((file.target.as_deref(), file.mode, &file.warnings), (Some("netns/shop"), Some(Mode::Steal), &vec![]));
            assert_eq!(file.ports, Some(vec![PortMap { pod: 8080, local: 8080 }]));
            let filter = Filter::condition(FilterConfig::Inline(r#"{"header_filter":"^x-team: blue$"}"#.into()));
            assert_eq!(file.http_filter, Some(filter), "{format:?}");
        }
        assert_eq!(File::parse("", Format::Yaml).unwrap(), File::parse("", Format::Toml).unwrap());
        assert!(json("").is_err());
    }

    #[test]
    fn chains_with_all_that_a_link_may_have() {
        let file = incoming(
            r#"{"filters": ["a.wasm", {"path": "b.wasm", "config": {"a": 1}, "on_failure": "deny", "isolation": "fresh",
                "limits": {"call": "20ms", "faults": 5}}], "ports": [80, 81], "port_mapping": [[8080, 80]], "http_filter": null}"#,
        );
        let file = file.unwrap();
        assert_eq!(file.filter_ports, None);
        for (text, ports) in [("80", vec![80]), ("[80, 8080]", vec![80, 8080])] {
            let file = incoming(&format!(r#"{{"http_filter": {{"path_filter": "a", "ports": {text}}}}}"#)).unwrap();
            let condition = Filter::condition(FilterConfig::Inline(r#"{"path_filter":"a"}"#.into()));
            assert_eq!((file.http_filter, file.filter_ports), (Some(condition), Some(ports)));
        }
        assert_eq!(file.filters[0], Filter::module("a.wasm".into()));
        let second = &file.filters[1];
        assert_eq!((second.on_failure, second.isolation, second.limits.faults_in_a_row), (OnFailure::Deny, Isolation::Fresh, Some(5)));
        assert_eq!(second.config, FilterConfig::Inline(r#"{"a":1}"#.into()));
        assert_eq!(file.ports.unwrap(), [PortMap { pod: 80, local: 8080 }, PortMap { pod: 81, local: 81 }]);
    }

    #[test]
    fn what_is_known_but_not_done_yet_is_a_warning() {
        let file =
            json(r#"{"telemetry": false, "agent": {"ttl": 1}, "feature": {"env": true, "fs": "read", "network": {"dns": false, "incoming": "mirror"}}}"#)
                .unwrap();
        assert_eq!((file.mode, file.cluster.agent.ttl), (Some(Mode::Mirror), Some(1)));
        let warnings = ["feature.fs", "feature.network.dns"].map(|path| format!("`{path}` is not supported yet and is ignored"));
        assert_eq!(file.warnings, warnings);
    }

    #[test]
    fn targets_may_be_objects() {
        let read = |text: &str| json(&format!(r#"{{"target": {text}}}"#)).map(|file| (file.target, file.cluster.kube.namespace));
        let shop = |text: &str, namespace: Option<&str>| (Some(text.to_owned()), namespace.map(str::to_owned));
        assert_eq!(read(r#"{"deployment": "shop", "container": "c"}"#).unwrap(), shop("deployment/shop/container/c", None));
        assert_eq!(read(r#"{"path": {"cron_job": "a"}, "namespace": "b"}"#).unwrap(), shop("cronjob/a", Some("b")));
        assert_eq!(read(r#"{"path": "pod/a", "namespace": null}"#).unwrap(), shop("pod/a", None));
        assert_eq!(read(r#"{"labels": {"a": "b", "c/d": "e"}}"#).unwrap(), shop("label/a=b,c/d=e", None));
        assert_eq!(read(r#"{"namespace": "b"}"#).unwrap(), (None, Some("b".into())));
        for (text, at, help) in [
            (r#"{"deployment": "a", "namespace": "b"}"#, "target", "path"),
            (r#"{"pod": "a", "job": "b"}"#, "target", "deployment/NAME"),
            (r#"{"deploymnt": "a"}"#, "target.deploymnt", "did you mean `deployment`?"),
            (r#"{"container": "a"}"#, "target", "deployment/NAME"),
            ("7", "target", "deployment/NAME"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.at == at && error.help.contains(help), "{error}: {}", error.help);
        }
    }

    #[test]
    fn what_is_wrong_says_where_and_what_to_do() {
        let cases = [
            (json(r#"{"targt": "netns/a"}"#), "targt", "did you mean `target`?"),
            (json(r#"{"feature": {"network": {"incomming": 1}}}"#), "feature.network.incomming", "did you mean `incoming`?"),
            (json(r#"{"feature": {"network": false}}"#), "feature.network", "steal"),
            (json(r#"{"key": 1}"#), "key", "quotes"),
            (json("{"), "", "at that place"),
            (incoming("\"Steal\""), "feature.network.incoming", "steal"),
            (
                incoming(r#"{"http_filter": {"header_filter": "a", "ports": []}}"#),
                "feature.network.incoming.http_filter.ports",
                "holds on all",
            ),
            (incoming(r#"{"ports": [0]}"#), "feature.network.incoming.ports", "from 1"),
            (incoming(r#"{"filters": [{"pth": "a"}]}"#), "feature.network.incoming.filters[0].pth", "did you mean `path`?"),
            (incoming(r#"{"filters": [{"path": "a", "limits": {"call": 5}}]}"#), "feature.network.incoming.filters[0].limits.call", "20ms"),
            (Format::of(Some("json5")).map(|_| File::default()), "", ".toml"),
        ];
        for (result, at, help) in cases {
            let error = result.unwrap_err();
            assert!(error.at == at && error.help.contains(help), "{error}: {}", error.help);
        }
    }
}
