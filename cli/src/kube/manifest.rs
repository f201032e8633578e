//! What is created in the cluster: the agent's Job and the Secret with its keys, as pure functions of a [`Plan`].

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Secret};
use mirrord_config::{ClusterTarget, kube::Agent};
use mirrord_protocol::control::Owner;
use serde_json::{Map, Value, json};

use super::{error::KubeError, keys::AGENT_KEYS};

/// Port on which an agent in a pod of its own listens, on loopback: port-forwards end there, and nobody else in the cluster reaches it.
pub const PORT: u16 = 7412;
/// Label of all that is ours, as policies match on it.
pub const APP: (&str, &str) = ("app", "mirrord");
/// Label of an agent with the pod that it serves.
pub const POD_UID: &str = "mirrord/pod-uid";
/// Name of the agent's container.
pub const CONTAINER: &str = "mirrord-agent";
/// Seconds that an agent without a session waits for the next one, unless set.
const IDLE: u16 = 30;
const KEYS_FOLDER: &str = "/etc/mirrord/keys";

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
}

/// An agent to be made.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Of the Job.
    pub name: String,
    /// Of the Secret.
    pub keys: String,
    /// Of both.
    pub namespace: String,
    pub pod: &'a Pod,
    pub target: &'a ClusterTarget,
    pub owner: &'a Owner,
    pub settings: &'a Agent,
    pub image: String,
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
    let tolerations = settings.tolerations.clone().unwrap_or_else(|| json!([{"operator": "Exists"}]));
    let mut pod = json!({
        "hostPID": true,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // The scheduler decides, and says why if it cannot be; naming the node outright would go past it.
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [plan.pod.node]}]}
        ]}}},
        "tolerations": tolerations,
        "containers": [container(plan)],
        "volumes": [
            {"name": "keys", "secret": {
                "secretName": plan.keys,
                "defaultMode": 0o400,
                "items": AGENT_KEYS.map(|key| json!({"key": key, "path": key})),
            }},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
        ],
    });
    let more = [
        ("serviceAccountName", settings.service_account.clone().map(Value::String)),
        ("priorityClassName", settings.priority_class.clone().map(Value::String)),
        ("securityContext", settings.security_context.clone()),
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

/// The command is the same for every agent; what differs is in arguments and environment.
fn container(plan: &Plan) -> Value {
    let settings = plan.settings;
    let idle = settings.communication_timeout.unwrap_or(IDLE);
    let args = [
        "--container",
        &plan.pod.container_id,
        "--listen",
        &format!("127.0.0.1:{PORT}"),
        "--tls",
        KEYS_FOLDER,
        "--spare-probes",
        "--idle",
        &idle.to_string(),
    ]
    .map(str::to_owned);
    let log_level = settings.log_level.clone().unwrap_or_else(|| "info".into());
    json!({
        "name": CONTAINER,
        "image": plan.image,
        "imagePullPolicy": settings.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        "command": ["/usr/local/bin/mirrord-agent"],
        "args": args,
        "env": [
            {"name": "MIRRORD_AGENT_RUST_LOG", "value": log_level},
            // No folder: nothing of it would outlive the pod.
            {"name": "MIRRORD_AGENT_CACHE", "value": "none"},
        ],
        "resources": settings.resources.clone().unwrap_or_else(|| json!({
            "requests": {"cpu": "1m", "memory": "1Mi"},
            "limits": {"cpu": "1", "memory": "200Mi"},
        })),
        "securityContext": security(settings),
        "volumeMounts": [
            {"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": true},
            {"name": "run", "mountPath": "/run"},
        ],
    })
}

/// What an agent must be allowed: to enter the pod's network namespace (SYS_ADMIN, and SYS_PTRACE to find it), to redirect in it
/// (NET_ADMIN; NET_RAW for iptables), and to read the environment of a process that is another user's (DAC_READ_SEARCH).
fn security(settings: &Agent) -> Value {
    let wanted = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"];
    let wanted: Vec<_> = wanted.into_iter().filter(|name| !settings.disabled_capabilities.iter().any(|off| off == name)).collect();
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

fn labels(plan: &Plan) -> BTreeMap<String, String> {
    let mut labels = plan.settings.labels.clone();
    if plan.settings.disable_mesh_sidecar_injection != Some(false) {
        labels.entry("kuma.io/sidecar-injection".into()).or_insert_with(|| "disabled".into());
        labels.entry("sidecar.istio.io/inject".into()).or_insert_with(|| "false".into());
    }
    labels.insert(APP.0.into(), APP.1.into());
    labels.insert(POD_UID.into(), plan.pod.uid.clone());
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
    annotations.insert("mirrord/started-by".into(), format!("{}@{}", owner.user, owner.host));
    annotations.insert("mirrord/target".into(), format!("{target} in {}: pod {}, container {}", pod.namespace, pod.name, pod.container));
    annotations
}

fn set<const N: usize>(object: &mut Value, more: [(&str, Option<Value>); N]) {
    let members: Option<&mut Map<_, _>> = object.as_object_mut();
    if let Some(members) = members {
        members.extend(more.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
}

/// The Secret, which goes with the Job.
pub fn secret(plan: &Plan, job_uid: &str, files: BTreeMap<String, String>) -> Result<Secret, KubeError> {
    typed(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": plan.keys,
            "namespace": plan.namespace,
            "labels": {APP.0: APP.1, POD_UID: plan.pod.uid},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": plan.name, "uid": job_uid}],
        },
        "immutable": true,
        "type": "Opaque",
        "stringData": files,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        Pod {
            name: "shop-7c9f-x".into(),
            namespace: "shop".into(),
            uid: "5e7c".into(),
            node: "node1".into(),
            container: "app".into(),
            container_id: "containerd://4f5c".into(),
        }
    }

    fn with_plan<T>(settings: &Agent, test: impl FnOnce(&Plan) -> T) -> T {
        let owner = Owner { user: "ann".into(), host: "laptop".into(), pid: 7, command: "python3".into() };
        let target = ClusterTarget::Workload { kind: mirrord_config::Kind::Deployment, name: "shop".into(), container: None };
        test(&Plan {
            name: name("5e7c"),
            keys: "mirrord-agent-keys".into(),
            namespace: "tools".into(),
            pod: &pod(),
            target: &target,
            owner: &owner,
            settings,
            image: "registry/agent:1".into(),
        })
    }

    /// Compares with a file beside this one; `MIRRORD_SNAPSHOTS=write` writes it anew.
    fn snapshot(name: &str, value: &Value) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kube/snapshots").join(name);
        let text = serde_json::to_string_pretty(value).unwrap() + "\n";
        if std::env::var_os("MIRRORD_SNAPSHOTS").is_some_and(|value| value == "write") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{}", path.display());
    }

    #[test]
    fn a_job_as_it_is_without_settings() {
        with_plan(&Agent::default(), |plan| {
            snapshot("job.json", &job_json(plan));
            let typed = serde_json::to_value(job(plan).unwrap()).unwrap();
            // Nothing of it is lost in Kubernetes' own types.
            assert_eq!(typed, job_json(plan));
        });
    }

    #[test]
    fn a_job_with_all_that_can_be_set() {
        let settings = Agent {
            log_level: Some("debug".into()),
            image_pull_policy: Some("Always".into()),
            image_pull_secrets: vec!["registry".into()],
            ttl: Some(60),
            communication_timeout: Some(5),
            disabled_capabilities: vec!["SYS_PTRACE".into()],
            tolerations: Some(json!([])),
            resources: Some(json!({"limits": {"memory": "64Mi"}})),
            labels: [("team".into(), "blue".into()), ("app".into(), "other".into())].into(),
            annotations: [("a/b".into(), "c".into())].into(),
            service_account: Some("agent".into()),
            priority_class: Some("high".into()),
            disable_mesh_sidecar_injection: Some(false),
            security_context: Some(json!({"seccompProfile": {"type": "RuntimeDefault"}})),
            ..Agent::default()
        };
        with_plan(&settings, |plan| snapshot("job-set.json", &job_json(plan)));
        let privileged = Agent { privileged: Some(true), ..Agent::default() };
        with_plan(&privileged, |plan| {
            let context = &job_json(plan)["spec"]["template"]["spec"]["containers"][0]["securityContext"];
            assert_eq!(*context, json!({"privileged": true, "runAsUser": 0, "runAsNonRoot": false}));
        });
    }

    #[test]
    fn the_keys_are_in_the_secret_alone() {
        with_plan(&Agent::default(), |plan| {
            let files = super::super::keys::make().unwrap();
            let secret = secret(plan, "uid-of-job", files.clone()).unwrap();
            assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "uid-of-job");
            assert_eq!(secret.string_data.unwrap(), files);
            assert!(!job_json(plan).to_string().contains("-----BEGIN"));
        });
    }

    #[test]
    fn a_setting_that_kubernetes_does_not_know_is_the_users() {
        let settings = Agent { resources: Some(json!({"limits": [1]})), ..Agent::default() };
        let error = with_plan(&settings, job).unwrap_err();
        assert!(error.help().contains("section `agent`"), "{error}");
    }

    #[test]
    fn a_pod_has_one_name_for_its_agent() {
        assert_eq!(name("a"), name("a"));
        assert_ne!(name("a"), name("b"));
        assert_eq!(name("a").len(), "mirrord-agent-".len() + 10);
    }
}
