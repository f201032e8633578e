//! What is created in the cluster: an agent (a Job, or an ephemeral container of its pod) and the Secret with its keys, as pure
//! functions of a [`Plan`].

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Secret};
use mirrord_config::{ClusterTarget, kube::Agent};
use mirrord_protocol::control::{Owner, key_variable};
use serde_json::{Map, Value, json};

use super::{error::KubeError, keys::AGENT_KEYS};

/// Port on which an agent in a pod of its own listens, on loopback: port-forwards end there, and nobody else in the cluster reaches it.
/// If it is made from within the cluster, also on the pod's address.
pub const PORT: u16 = 7412;
/// Label of all that is ours, as policies match on it.
pub const APP: (&str, &str) = ("app", "mirrord");
/// Label of an agent with the pod that it serves.
pub const POD_UID: &str = "mirrord/pod-uid";
/// Name of the agent's container in a pod of its own; in the target's, where none can be used twice, how the name begins.
pub const CONTAINER: &str = "mirrord-agent";
/// Seconds that an agent without a session waits for the next one, unless set.
const IDLE: u16 = 30;
const KEYS_FOLDER: &str = "/etc/mirrord/keys";
/// User and group of an agent that needs no rights.
const NOBODY: u32 = 65534;

/// A pod that gets an agent, and the container in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub node: String,
    /// Name of the container, and its id as the runtime has it: `containerd://…`.
    pub container: String,
    pub container_id: String,
    /// Whether an agent is, or is about to be, in an ephemeral container of it.
    pub has_guest: bool,
}

/// An agent to be made.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Of the Job, or of the ephemeral container.
    pub name: String,
    /// Of the Secret.
    pub keys: String,
    /// Of Job and Secret.
    pub namespace: String,
    /// What it serves; without a target a name for what it does not.
    pub pod: &'a Pod,
    pub target: &'a ClusterTarget,
    pub owner: &'a Owner,
    pub settings: &'a Agent,
    /// Whether it can be reached at its pod's address; who comes needs its keys all the same.
    pub is_open: bool,
    pub image: String,
}

impl Plan<'_> {
    fn is_targetless(&self) -> bool {
        *self.target == ClusterTarget::Targetless
    }
}

/// The name of a pod's agent. There is one for each pod: whoever comes second finds that the name is taken, and joins.
pub fn name(pod_uid: &str) -> String {
    // FNV-1a: the name must be the same for everybody, and need not be secret.
    let mut hash = pod_uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut suffix = String::new();
    for _ in 0..10 {
        suffix.push(char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[(hash % 36) as usize]));
        hash /= 36;
    }
    format!("mirrord-agent-{suffix}")
}

/// The Job.
pub fn job(plan: &Plan) -> Result<Job, KubeError> {
    typed(job_json(plan))
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, KubeError> {
    serde_json::from_value(value).map_err(|error| KubeError::Start {
        why: format!("a setting of the agent's pod is not as Kubernetes wants it: {error}"),
        help: "correct it in the config file's section `agent`".into(),
    })
}

fn job_json(plan: &Plan) -> Value {
    let settings = plan.settings;
    let labels = labels(plan);
    let annotations = annotations(plan);
    let mut pod = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "containers": [container(plan)],
        "volumes": [
            {"name": "keys", "secret": {
                "secretName": plan.keys,
                "defaultMode": if plan.is_targetless() { 0o440 } else { 0o400 },
                "items": AGENT_KEYS.map(|key| json!({"key": key, "path": key})),
            }},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
        ],
    });
    set(&mut pod, if plan.is_targetless() { anywhere(settings) } else { beside(plan) });
    let more = [
        ("serviceAccountName", settings.service_account.clone().map(Value::String)),
        ("priorityClassName", settings.priority_class.clone().map(Value::String)),
        (
            "imagePullSecrets",
            (!settings.image_pull_secrets.is_empty())
                .then(|| settings.image_pull_secrets.iter().map(|name| json!({"name": name})).collect()),
        ),
    ];
    set(&mut pod, more);
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": plan.name, "namespace": plan.namespace, "labels": labels, "annotations": annotations},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": settings.ttl.unwrap_or(1),
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    })
}

/// What of an object is set, where there is a value.
type Members = Vec<(&'static str, Option<Value>)>;

/// Of a pod on the target's node, from which the agent sees the target's processes.
fn beside(plan: &Plan) -> Members {
    let settings = plan.settings;
    vec![
        ("hostPID", Some(true.into())),
        // The scheduler decides, and says why if it cannot be; naming the node outright would go past it.
        (
            "affinity",
            Some(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [plan.pod.node]}]}
            ]}}})),
        ),
        ("tolerations", Some(settings.tolerations.clone().unwrap_or_else(|| json!([{"operator": "Exists"}])))),
        ("securityContext", settings.security_context.clone()),
    ]
}

/// Of a pod without a target, which is allowed where PodSecurity enforces `restricted`.
fn anywhere(settings: &Agent) -> Members {
    let mut context = json!({"fsGroup": NOBODY, "seccompProfile": {"type": "RuntimeDefault"}});
    if let (Some(members), Some(Value::Object(profiles))) = (context.as_object_mut(), &settings.security_context) {
        members.extend(profiles.clone());
    }
    vec![
        ("nodeSelector", (!settings.node_selector.is_empty()).then(|| json!(settings.node_selector))),
        ("tolerations", settings.tolerations.clone()),
        ("securityContext", Some(context)),
    ]
}

/// What every agent's container has. The command is the same for all; what differs is in arguments and environment.
fn bare(plan: &Plan, listen: String, args: &[&str]) -> Value {
    let settings = plan.settings;
    let mut all = vec!["--listen".to_owned(), listen];
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    all.extend(["--idle".to_owned(), settings.communication_timeout.unwrap_or(IDLE).to_string()]);
    let mut environment = vec![
        json!({"name": "MIRRORD_AGENT_RUST_LOG", "value": settings.log_level.as_deref().unwrap_or("info")}),
        // No folder: nothing of it would outlive the pod.
        json!({"name": "MIRRORD_AGENT_CACHE", "value": "none"}),
    ];
    if settings.json_log == Some(true) {
        environment.push(json!({"name": "MIRRORD_AGENT_JSON_LOG", "value": "true"}));
    }
    if let Some(nft) = settings.nftables {
        environment.push(json!({"name": "MIRRORD_AGENT_NFTABLES", "value": nft.to_string()}));
    }
    json!({
        "image": plan.image,
        "imagePullPolicy": settings.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        "command": ["/usr/local/bin/mirrord-agent"],
        "args": all,
        "env": environment,
    })
}

/// In a pod of its own.
fn container(plan: &Plan) -> Value {
    let settings = plan.settings;
    let listen = format!("{}:{PORT}", if plan.is_open { "0.0.0.0" } else { "127.0.0.1" });
    let (mut container, security) = match plan.is_targetless() {
        true => (bare(plan, listen, &["--targetless", "--tls", KEYS_FOLDER]), harmless()),
        false => {
            let args = ["--container", &plan.pod.container_id, "--tls", KEYS_FOLDER, "--spare-probes"];
            let wanted = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"];
            (bare(plan, listen, &args), security(settings, &wanted))
        }
    };
    let resources = settings.resources.clone().unwrap_or_else(|| {
        json!({
            "requests": {"cpu": "1m", "memory": "1Mi"},
            "limits": {"cpu": "1", "memory": "200Mi"},
        })
    });
    let mounts = json!([
        {"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": true},
        {"name": "run", "mountPath": "/run"},
    ]);
    let more = [
        ("name", Some(CONTAINER.into())),
        ("resources", Some(resources)),
        ("securityContext", Some(security)),
        ("volumeMounts", Some(mounts)),
    ];
    set(&mut container, more);
    container
}

/// An ephemeral container in the target's pod, as a patch of that pod as it was at `version`. It shares the pod's network, and the
/// processes of the target's container, whose environment it reads. There are no volumes for it: the keys are in its environment, where
/// the pod's other processes, which have fewer rights, cannot look.
pub fn guest(plan: &Plan, port: u16, version: &str) -> Value {
    let mut container = bare(plan, format!("127.0.0.1:{port}"), &["--guest", "--spare-probes"]);
    let key = |name: &str| json!({"name": key_variable(name), "valueFrom": {"secretKeyRef": {"name": plan.keys, "key": name}}});
    if let Some(Value::Array(environment)) = container.get_mut("env") {
        environment.extend(AGENT_KEYS.map(key));
    }
    let mut security = security(plan.settings, &["NET_ADMIN", "NET_RAW", "SYS_PTRACE", "DAC_READ_SEARCH"]);
    // For its socket and for iptables' lock.
    set(&mut security, [("readOnlyRootFilesystem", plan.settings.privileged.is_none_or(|yes| !yes).then_some(false.into()))]);
    let more = [
        ("name", Some(plan.name.clone().into())),
        ("targetContainerName", Some(plan.pod.container.clone().into())),
        ("securityContext", Some(security)),
    ];
    set(&mut container, more);
    json!({"metadata": {"resourceVersion": version}, "spec": {"ephemeralContainers": [container]}})
}

/// What an agent must be allowed: to redirect (NET_ADMIN; NET_RAW for iptables), to look at a process of the target and read its
/// environment though it is another user's (SYS_PTRACE, DAC_READ_SEARCH), and, from a pod of its own, to enter the target's network
/// (SYS_ADMIN).
fn security(settings: &Agent, wanted: &[&str]) -> Value {
    let wanted: Vec<_> = wanted.iter().filter(|name| !settings.disabled_capabilities.iter().any(|off| off == *name)).collect();
    if settings.privileged == Some(true) {
        return json!({"privileged": true, "runAsUser": 0, "runAsNonRoot": false});
    }
    json!({
        "privileged": false,
        "allowPrivilegeEscalation": true,
        "readOnlyRootFilesystem": true,
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "capabilities": {"drop": ["ALL"], "add": wanted},
    })
}

/// Without a target there is nothing that it must be allowed.
fn harmless() -> Value {
    json!({
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsUser": NOBODY,
        "runAsGroup": NOBODY,
        "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

fn labels(plan: &Plan) -> BTreeMap<String, String> {
    let mut labels = plan.settings.labels.clone();
    if plan.settings.disable_mesh_sidecar_injection != Some(false) {
        labels.entry("kuma.io/sidecar-injection".into()).or_insert_with(|| "disabled".into());
        labels.entry("sidecar.istio.io/inject".into()).or_insert_with(|| "false".into());
    }
    labels.insert(APP.0.into(), APP.1.into());
    if !plan.is_targetless() {
        labels.insert(POD_UID.into(), plan.pod.uid.clone());
    }
    labels
}

/// Who, for what; since when is the object's own.
fn annotations(plan: &Plan) -> BTreeMap<String, String> {
    let mut annotations = plan.settings.annotations.clone();
    if plan.settings.disable_mesh_sidecar_injection != Some(false) {
        annotations.entry("sidecar.istio.io/inject".into()).or_insert_with(|| "false".into());
        annotations.entry("linkerd.io/inject".into()).or_insert_with(|| "disabled".into());
    }
    let Plan { pod, owner, target, .. } = plan;
    let whose = match target {
        ClusterTarget::Targetless => target.to_string(),
        _ => format!("{target} in {}: pod {}, container {}", pod.namespace, pod.name, pod.container),
    };
    annotations.insert("mirrord/started-by".into(), format!("{}@{}", owner.user, owner.host));
    annotations.insert("mirrord/target".into(), whose);
    annotations
}

fn set<'a>(object: &mut Value, more: impl IntoIterator<Item = (&'a str, Option<Value>)>) {
    let members: Option<&mut Map<_, _>> = object.as_object_mut();
    if let Some(members) = members {
        members.extend(more.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
}

/// The object with which the Secret goes.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'a> {
    /// The agent's, by its uid.
    Job(&'a str),
    /// The one in which the agent is a guest. Several in a row may have the same keys.
    Pod,
}

/// The Secret.
pub fn secret(plan: &Plan, holder: Holder, files: BTreeMap<String, String>) -> Result<Secret, KubeError> {
    let owner = match holder {
        Holder::Job(uid) => json!({"apiVersion": "batch/v1", "kind": "Job", "name": plan.name, "uid": uid}),
        Holder::Pod => json!({"apiVersion": "v1", "kind": "Pod", "name": plan.pod.name, "uid": plan.pod.uid}),
    };
    typed(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": plan.keys,
            "namespace": plan.namespace,
            "labels": {APP.0: APP.1, POD_UID: plan.pod.uid},
            "ownerReferences": [owner],
        },
        "immutable": true,
        "type": "Opaque",
        "stringData": files,
    }))
}

#[cfg(test)]
mod tests;
