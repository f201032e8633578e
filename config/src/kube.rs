//! What a session in a cluster needs beyond its target: how the cluster is reached, and how the agent's pod looks. Each setting comes
//! from its flag, else its variable, else the config file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::file::{FileError, error, present, unknown};

/// How the cluster is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kube {
    /// A kubeconfig, or several with `:` between them; else as `kubectl` finds it.
    pub kubeconfig: Option<String>,
    /// Its context; else the current one.
    pub context: Option<String>,
    /// Namespace of the target; else the context's.
    pub namespace: Option<String>,
    /// Whether the API server's certificate is not looked at.
    pub accept_invalid_certificates: Option<bool>,
    /// While a session starts.
    #[serde(default)]
    pub retry: Retry,
}

/// How often an API server that cannot be reached is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Shortest pause, milliseconds.
    pub min_ms: u32,
    /// Longest pause, milliseconds.
    pub max_ms: u32,
    /// Tries after the first.
    pub max_retries: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { min_ms: 500, max_ms: 5000, max_retries: 2 }
    }
}

/// Reads the section `startup_retry`.
pub(crate) fn retry(value: &Value) -> Result<Retry, FileError> {
    const AT: &str = "startup_retry";
    let mut retry = Retry::default();
    for (key, value) in object(AT, value)?.iter().filter(|(_, value)| !value.is_null()) {
        let at = format!("{AT}.{key}");
        let field = match key.as_str() {
            "min_ms" => &mut retry.min_ms,
            "max_ms" => &mut retry.max_ms,
            "max_retries" => &mut retry.max_retries,
            _ => return Err(unknown(&at, key, &["min_ms", "max_ms", "max_retries"])),
        };
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).and_then(|number| u32::try_from(number).ok());
        *field = number.ok_or_else(|| wrong(&at, "number", "write a number from 0 up"))?;
    }
    if retry.max_ms < retry.min_ms {
        return Err(error(
            AT,
            format!("the longest pause, {} ms, is below the shortest, {} ms", retry.max_ms, retry.min_ms),
            "raise max_ms",
        ));
    }
    Ok(retry)
}

/// How the agent's pod looks. What is absent is as the command line has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Log filter as for RUST_LOG.
    pub log_level: Option<String>,
    /// Whether its log is lines of JSON.
    pub json_log: Option<bool>,
    /// Namespace of the Job; else the context's.
    pub namespace: Option<String>,
    /// Whole reference.
    pub image: Option<String>,
    /// `Always`, `IfNotPresent`, `Never`.
    pub image_pull_policy: Option<String>,
    /// Names of Secrets.
    pub image_pull_secrets: Vec<String>,
    /// Seconds that the finished Job stays.
    pub ttl: Option<u16>,
    /// An ephemeral container of the target's pod instead of a Job.
    pub ephemeral: Option<bool>,
    /// Seconds after which an agent without a session ends.
    pub communication_timeout: Option<u16>,
    /// Seconds until it must be ready.
    pub startup_timeout: Option<u64>,
    /// Of `NET_ADMIN`, `SYS_PTRACE`, `SYS_ADMIN`.
    pub disabled_capabilities: Vec<String>,
    /// As in Kubernetes; `None`: on any node.
    pub tolerations: Option<Value>,
    /// As in Kubernetes; replaces the default.
    pub resources: Option<Value>,
    /// Whether a node without a free place for a pod is an error before anything is made.
    pub check_out_of_pods: Option<bool>,
    /// A privileged container.
    pub privileged: Option<bool>,
    /// Added to Job and pod.
    pub labels: BTreeMap<String, String>,
    /// Added to Job and pod.
    pub annotations: BTreeMap<String, String>,
    /// Of agents without a target.
    pub node_selector: BTreeMap<String, String>,
    /// Of the pod.
    pub service_account: Option<String>,
    /// Of the pod.
    pub priority_class: Option<String>,
    /// Whether meshes are told to leave the agent's pod alone.
    pub disable_mesh_sidecar_injection: Option<bool>,
    /// The pod's, as in Kubernetes.
    pub security_context: Option<Value>,
    /// Whether rules are nft's or those of old; `None`: whichever the target has.
    #[serde(default)]
    pub nftables: Option<bool>,
}

impl Agent {
    /// What is set and means nothing for an agent of this form, as a line for the user.
    #[must_use]
    pub fn unused(&self, has_target: bool) -> Option<String> {
        let unused = if !has_target {
            vec![
                ("ephemeral", self.ephemeral == Some(true)),
                ("namespace", self.namespace.is_some()),
                ("privileged", self.privileged == Some(true)),
                ("disabled_capabilities", !self.disabled_capabilities.is_empty()),
            ]
        } else if self.ephemeral == Some(true) {
            vec![
                ("namespace", self.namespace.is_some()),
                ("image_pull_secrets", !self.image_pull_secrets.is_empty()),
                ("ttl", self.ttl.is_some()),
                ("tolerations", self.tolerations.is_some()),
                ("resources", self.resources.is_some()),
                ("check_out_of_pods", self.check_out_of_pods.is_some()),
                ("labels", !self.labels.is_empty()),
                ("annotations", !self.annotations.is_empty()),
                ("node_selector", !self.node_selector.is_empty()),
                ("service_account", self.service_account.is_some()),
                ("priority_class", self.priority_class.is_some()),
                ("security_context", self.security_context.is_some()),
            ]
        } else {
            vec![("node_selector", !self.node_selector.is_empty())]
        };
        let names: Vec<_> = unused.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| format!("`agent.{name}`")).collect();
        let form = match (has_target, self.ephemeral) {
            (false, _) => "an agent without a target",
            (true, Some(true)) => "an agent in the target's own pod",
            _ => "an agent on its target's node",
        };
        (!names.is_empty()).then(|| format!("{} means nothing for {form}", names.join(", ")))
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// How the cluster is reached.
    pub kube: Kube,
    /// The agent's pod.
    pub agent: Agent,
    /// One pod of a workload instead of all.
    #[serde(default)]
    pub one: bool,
}

/// Keys of `agent` that are known and not acted on here.
const OTHERS: &[&str] = &[
    "flush_connections",
    "external_ip_fix",
    "dns",
    "metrics",
    "exclude_from_mesh",
    "inject_headers",
    "override_cache_control",
    "http_detection_timeout",
    "max_body_buffer_size",
    "max_body_buffer_timeout",
    "jaq_time_limit",
    "clean_iptables_on_start",
];
/// Of these, values that say what is so anyway. The agent's port is on loopback, where no mesh comes between.
const GIVEN: [(&str, bool); 7] = [
    ("flush_connections", false),
    ("external_ip_fix", true),
    ("exclude_from_mesh", true),
    ("exclude_from_mesh", false),
    ("inject_headers", false),
    ("override_cache_control", false),
    ("clean_iptables_on_start", true),
];
const CAPABILITIES: [&str; 3] = ["NET_ADMIN", "SYS_PTRACE", "SYS_ADMIN"];

/// Reads the section `agent` of a config file; what is ignored is a warning.
pub(crate) fn agent(value: &Value, warnings: &mut Vec<String>) -> Result<Agent, FileError> {
    let Value::Object(members) = value else { return Err(error("agent", "it is no object", r#"it looks like {"ttl": 30}"#)) };
    let mut agent = Agent::default();
    for (key, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let at = format!("agent.{key}");
        match key.as_str() {
            "log_level" => agent.log_level = Some(text(&at, value)?),
            "json_log" => agent.json_log = Some(flag(&at, value)?),
            "namespace" => agent.namespace = Some(text(&at, value)?),
            "image" => agent.image = Some(image(value)?),
            "image_pull_policy" => agent.image_pull_policy = Some(one_of(&at, &text(&at, value)?, &["Always", "IfNotPresent", "Never"])?),
            "image_pull_secrets" => agent.image_pull_secrets = secrets(&at, value)?,
            "ttl" => agent.ttl = Some(number(&at, value)?),
            "ephemeral" => agent.ephemeral = Some(flag(&at, value)?),
            "communication_timeout" => agent.communication_timeout = Some(number(&at, value)?),
            "startup_timeout" => agent.startup_timeout = Some(number(&at, value)?.into()),
            "disabled_capabilities" => {
                for capability in array(&at, value)? {
                    agent.disabled_capabilities.push(one_of(&at, &text(&at, capability)?, &CAPABILITIES)?);
                }
            }
            "tolerations" => agent.tolerations = Some(array(&at, value).map(|list| Value::Array(list.clone()))?),
            "resources" => agent.resources = Some(Value::Object(object(&at, value)?.clone())),
            "check_out_of_pods" => agent.check_out_of_pods = Some(flag(&at, value)?),
            "privileged" => agent.privileged = Some(flag(&at, value)?),
            "labels" => agent.labels = map(&at, value)?,
            "annotations" => agent.annotations = map(&at, value)?,
            "node_selector" => agent.node_selector = map(&at, value)?,
            "service_account" => agent.service_account = Some(text(&at, value)?),
            "priority_class" => agent.priority_class = Some(text(&at, value)?),
            "disable_mesh_sidecar_injection" => agent.disable_mesh_sidecar_injection = Some(flag(&at, value)?),
            "security_context" => agent.security_context = Some(security_context(&at, value)?),
            "nftables" => agent.nftables = Some(flag(&at, value)?),
            key if value.as_bool().is_some_and(|value| GIVEN.contains(&(key, value))) => {}
            key if OTHERS.contains(&key) => warnings.push(format!("`{at}` is not supported yet and is ignored")),
            _ => {
                let names = serde_json::to_value(Agent::default()).ok();
                let known: Vec<_> = names.iter().filter_map(Value::as_object).flat_map(Map::keys).map(String::as_str).collect();
                return Err(unknown(&at, key, &[&known[..], OTHERS].concat()));
            }
        }
    }
    Ok(agent)
}

fn wrong(at: &str, what: &str, help: &str) -> FileError {
    error(at, format!("it is no {what}"), help)
}

pub(crate) fn text(at: &str, value: &Value) -> Result<String, FileError> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| wrong(at, "text", "write it in quotes"))
}

pub(crate) fn flag(at: &str, value: &Value) -> Result<bool, FileError> {
    value.as_bool().ok_or_else(|| wrong(at, "truth value", "write true or false"))
}

fn number(at: &str, value: &Value) -> Result<u16, FileError> {
    // YAML gives whatever stands there.
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| wrong(at, "number of seconds", "write a number from 0 to 65535"))
}

fn array<'a>(at: &str, value: &'a Value) -> Result<&'a Vec<Value>, FileError> {
    value.as_array().ok_or_else(|| wrong(at, "list", "write […]"))
}

fn object<'a>(at: &str, value: &'a Value) -> Result<&'a Map<String, Value>, FileError> {
    value.as_object().ok_or_else(|| wrong(at, "object", "write {…}"))
}

fn map(at: &str, value: &Value) -> Result<BTreeMap<String, String>, FileError> {
    let entry = |(key, value): (&String, &Value)| match value {
        Value::String(text) => Ok((key.clone(), text.clone())),
        _ => Err(wrong(&format!("{at}.{key}"), "text", "write it in quotes")),
    };
    object(at, value)?.iter().map(entry).collect()
}

fn one_of(at: &str, text: &str, words: &[&str]) -> Result<String, FileError> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(error(at, format!("`{text}` is none"), format!("write one of {}", words.join(", "))))
}

fn secrets(at: &str, value: &Value) -> Result<Vec<String>, FileError> {
    let name = |value: &Value| {
        let name = value.get("name").and_then(Value::as_str);
        name.map(str::to_owned).ok_or_else(|| wrong(at, "list of Secrets", r#"it looks like [{"name": "registry"}]"#))
    };
    array(at, value)?.iter().map(name).collect()
}

/// `image`: the whole reference, or registry and tag.
fn image(value: &Value) -> Result<String, FileError> {
    if let Value::String(_) = value {
        return text("agent.image", value);
    }
    let members = object("agent.image", value)?;
    if let Some(key) = members.keys().find(|key| !matches!(key.as_str(), "registry" | "tag")) {
        return Err(unknown(&format!("agent.image.{key}"), key, &["registry", "tag"]));
    }
    let part = |key: &str| present(members, key).map(|value| text(&format!("agent.image.{key}"), value)).transpose();
    Ok(compose(part("registry")?, part("tag")?))
}

/// The reference from its parts, either of which may be ours.
fn compose(registry: Option<String>, tag: Option<String>) -> String {
    format!("{}:{}", registry.unwrap_or_else(|| IMAGE.into()), tag.unwrap_or_else(|| env!("CARGO_PKG_VERSION").into()))
}

/// Where the agent's image is by default, without its tag.
pub const IMAGE: &str = "mirrord-agent";

/// `security_context`: Kubernetes spells its keys otherwise.
fn security_context(at: &str, value: &Value) -> Result<Value, FileError> {
    let mut context = Map::new();
    for (key, value) in object(at, value)? {
        let ours = match key.as_str() {
            "seccomp_profile" => "seccompProfile",
            "app_armor_profile" => "appArmorProfile",
            _ => return Err(unknown(&format!("{at}.{key}"), key, &["seccomp_profile", "app_armor_profile"])),
        };
        let at = format!("{at}.{key}");
        let mut profile = Map::new();
        for (key, value) in object(&at, value)? {
            let name = match key.as_str() {
                "type" => "type",
                "localhost_profile" => "localhostProfile",
                _ => return Err(unknown(&format!("{at}.{key}"), key, &["type", "localhost_profile"])),
            };
            profile.insert(name.into(), Value::String(text(&format!("{at}.{key}"), value)?));
        }
        if !profile.contains_key("type") {
            return Err(error(format!("{at}.type"), "it is missing", "write RuntimeDefault, Unconfined or Localhost"));
        }
        context.insert(ours.into(), Value::Object(profile));
    }
    Ok(Value::Object(context))
}

/// What stood on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFlags {
    /// `--target-namespace`.
    pub namespace: Option<String>,
    /// `--context`.
    pub context: Option<String>,
    /// `--accept-invalid-certificates`.
    pub accept_invalid_certificates: Option<bool>,
    /// `--agent-namespace`.
    pub agent_namespace: Option<String>,
    /// `--agent-image`.
    pub agent_image: Option<String>,
    /// `--agent-log-level`.
    pub agent_log_level: Option<String>,
    /// `--agent-ttl`.
    pub agent_ttl: Option<u16>,
    /// `--agent-startup-timeout`.
    pub agent_startup_timeout: Option<u64>,
    /// `--ephemeral-container`.
    pub ephemeral: bool,
    /// `--one`.
    pub one: bool,
}

/// A variable whose value cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is `{value}`, which is no {what}")]
pub struct VariableError {
    name: &'static str,
    value: String,
    what: &'static str,
}

impl ClusterSettings {
    /// Flag before variable before what the file says.
    pub fn resolve(flags: ClusterFlags, variable: impl Fn(&str) -> Option<String>, file: Self) -> Result<Self, VariableError> {
        let set = |name: &'static str| variable(name).filter(|value| !value.is_empty());
        let truth = |name: &'static str| match variable(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(value) => Err(VariableError { name, value: value.into(), what: "truth value: write true or false" }),
        };
        let seconds = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) => {
                let number = value.parse::<u16>();
                number.map(Some).map_err(|_| VariableError { name, value, what: "number of seconds from 0 to 65535" })
            }
        };
        let Self { kube, mut agent, one } = file;
        let kube = Kube {
            kubeconfig: set("MIRRORD_KUBECONFIG").or(kube.kubeconfig),
            context: flags.context.or_else(|| set("MIRRORD_KUBE_CONTEXT")).or(kube.context),
            namespace: flags.namespace.or_else(|| set("MIRRORD_TARGET_NAMESPACE")).or(kube.namespace),
            accept_invalid_certificates: flags
                .accept_invalid_certificates
                .or(truth("MIRRORD_ACCEPT_INVALID_CERTIFICATES")?)
                .or(kube.accept_invalid_certificates),
            retry: kube.retry,
        };
        let parts = (set("MIRRORD_AGENT_IMAGE_REGISTRY"), set("MIRRORD_AGENT_IMAGE_TAG"));
        let composed = (parts != (None, None)).then(|| compose(parts.0, parts.1));
        agent.image = flags.agent_image.or_else(|| set("MIRRORD_AGENT_IMAGE")).or(agent.image).or(composed);
        agent.image_pull_policy = set("MIRRORD_AGENT_IMAGE_PULL_POLICY").or(agent.image_pull_policy);
        agent.namespace = flags.agent_namespace.or_else(|| set("MIRRORD_AGENT_NAMESPACE")).or(agent.namespace);
        agent.log_level = flags.agent_log_level.or_else(|| set("MIRRORD_AGENT_RUST_LOG")).or(agent.log_level);
        agent.json_log = truth("MIRRORD_AGENT_JSON_LOG")?.or(agent.json_log);
        agent.ttl = flags.agent_ttl.or(seconds("MIRRORD_AGENT_TTL")?).or(agent.ttl);
        agent.communication_timeout = seconds("MIRRORD_AGENT_COMMUNICATION_TIMEOUT")?.or(agent.communication_timeout);
        let startup = seconds("MIRRORD_AGENT_STARTUP_TIMEOUT")?.map(u64::from);
        agent.startup_timeout = flags.agent_startup_timeout.or(startup).or(agent.startup_timeout);
        agent.ephemeral = flags.ephemeral.then_some(true).or(truth("MIRRORD_EPHEMERAL_CONTAINER")?).or(agent.ephemeral);
        Ok(Self { kube, agent, one: flags.one || one })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<(Agent, Vec<String>), FileError> {
        let mut warnings = Vec::new();
        agent(&value, &mut warnings).map(|agent| (agent, warnings))
    }

    #[test]
    fn the_agents_section_is_read_and_what_it_has_more_is_a_warning() {
        let (agent, warnings) = read(serde_json::json!({
            "image": {"registry": "r/x"}, "ttl": "5", "disabled_capabilities": ["SYS_ADMIN"], "tolerations": [], "dns": {"timeout": 1},
            "nftables": false, "external_ip_fix": true, "exclude_from_mesh": true, "flush_connections": true,
            "image_pull_secrets": [{"name": "s"}], "labels": {"team": "blue"}, "privileged": null,
            "security_context": {"seccomp_profile": {"type": "Localhost", "localhost_profile": "p"}},
        }))
        .unwrap();
        assert_eq!(agent.image.unwrap(), format!("r/x:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!((agent.ttl, agent.privileged, agent.tolerations), (Some(5), None, Some(Value::Array(Vec::new()))));
        assert_eq!(agent.security_context.unwrap()["seccompProfile"]["localhostProfile"], "p");
        assert_eq!(agent.nftables, Some(false));
        let ignored = |key: &str| format!("`agent.{key}` is not supported yet and is ignored");
        assert_eq!(warnings.into_iter().collect::<std::collections::BTreeSet<_>>(), [ignored("dns"), ignored("flush_connections")].into());
    }

    #[test]
    fn what_means_nothing_for_a_form_of_the_agent_is_said() {
        let (agent, _) =
            read(serde_json::json!({"ephemeral": true, "namespace": "tools", "disabled_capabilities": ["SYS_ADMIN"]})).unwrap();
        assert_eq!(agent.unused(true).unwrap(), "`agent.namespace` means nothing for an agent in the target's own pod");
        assert!(agent.unused(false).unwrap().starts_with("`agent.ephemeral`, `agent.namespace`, `agent.disabled_capabilities` means"));
        let (agent, _) = read(serde_json::json!({"node_selector": {"a": "b"}, "ttl": 3, "privileged": true})).unwrap();
        assert!(agent.unused(true).unwrap().contains("`agent.node_selector`"));
        assert_eq!(Agent::default().unused(true), None);
    }

    #[test]
    fn the_pauses_of_a_start_are_read() {
        let read = |value| retry(&value);
        assert_eq!(read(serde_json::json!({"max_retries": 0})).unwrap(), Retry { max_retries: 0, ..Retry::default() });
        assert_eq!(read(serde_json::json!({"min_ms": "10", "max_ms": 20})).unwrap(), Retry { min_ms: 10, max_ms: 20, max_retries: 2 });
        for (value, at) in [
            (serde_json::json!({"max_ms": 100}), "startup_retry"),
            (serde_json::json!({"min": 1}), "startup_retry.min"),
            (serde_json::json!({"max_retries": -1}), "startup_retry.max_retries"),
            (serde_json::json!(3), "startup_retry"),
        ] {
            assert_eq!(read(value).unwrap_err().at, at);
        }
    }

    #[test]
    fn what_is_wrong_says_where_and_what_to_do() {
        let cases = [
            (serde_json::json!({"imagee": "x"}), "agent.imagee", "did you mean `image`?"),
            (serde_json::json!({"ttl": 70000}), "agent.ttl", "65535"),
            (serde_json::json!({"privileged": "yes"}), "agent.privileged", "true"),
            (serde_json::json!({"disabled_capabilities": ["NET_RAW"]}), "agent.disabled_capabilities", "SYS_PTRACE"),
            (serde_json::json!({"image_pull_policy": "Sometimes"}), "agent.image_pull_policy", "IfNotPresent"),
            (serde_json::json!({"security_context": {"seccomp_profile": {}}}), "agent.security_context.seccomp_profile.type", "Runtime"),
        ];
        for (value, at, help) in cases {
            let error = read(value).unwrap_err();
            assert!(error.at == at && error.help.contains(help), "{error}: {}", error.help);
        }
    }

    #[test]
    fn a_flag_counts_before_its_variable_and_that_before_the_file() {
        let mut file = ClusterSettings::default();
        file.kube.namespace = Some("file".into());
        file.agent.image = Some("file".into());
        file.agent.ttl = Some(1);
        let variables = |name: &str| match name {
            "MIRRORD_TARGET_NAMESPACE" | "MIRRORD_AGENT_IMAGE" => Some("variable".to_owned()),
            "MIRRORD_EPHEMERAL_CONTAINER" => Some("true".into()),
            _ => None,
        };
        let flags = ClusterFlags { agent_image: Some("flag".into()), ..ClusterFlags::default() };
        let settings = ClusterSettings::resolve(flags, variables, file).unwrap();
        assert_eq!(settings.kube.namespace.as_deref(), Some("variable"));
        assert_eq!(settings.agent.image.as_deref(), Some("flag"));
        assert_eq!((settings.agent.ttl, settings.agent.ephemeral), (Some(1), Some(true)));
        let bad = |name: &str| (name == "MIRRORD_AGENT_TTL").then(|| "1m".to_owned());
        let error = ClusterSettings::resolve(ClusterFlags::default(), bad, ClusterSettings::default()).unwrap_err();
        assert!(error.to_string().contains("MIRRORD_AGENT_TTL"), "{error}");
    }
}
