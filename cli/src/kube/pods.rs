//! From a target to its pods, and from a pod to the container in it that is meant.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Pod as KubePod, Service},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use mirrord_config::{ClusterTarget, Kind};
use serde::de::DeserializeOwned;

use super::{
    agent::Place,
    ephemeral,
    error::KubeError,
    manifest::{APP, Pod},
};

/// Containers that meshes and the like put beside a pod's own.
const SIDECARS: &[&str] = &[
    "kuma-sidecar",
    "kuma-init",
    "istio-proxy",
    "istio-init",
    "linkerd-proxy",
    "linkerd-init",
    "vault-agent",
    "vault-agent-init",
    "queue-proxy",
    "traffic-agent",
];
/// Says which container is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Which pods are a target's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// One, by name.
    Named(String),
    /// Those with such labels; as the API reads selectors.
    Selected(String),
    /// None: this stands for what there is not.
    Nothing(Pod),
}

/// What looking at the pods gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that could have an agent, in the API's order.
    pub ready: Vec<Pod>,
    /// Uids of all that are to stay.
    pub there: BTreeSet<String>,
    /// Why others could not.
    pub unready: Vec<String>,
    /// Agents that run as containers of these pods.
    pub guests: BTreeSet<Place>,
    /// The container was guessed: its name, and the others.
    pub guessed: Option<(String, Vec<String>)>,
}

/// Which pods the target has, now and later.
pub async fn which(client: &Client, namespace: &str, target: &ClusterTarget) -> Result<Which, KubeError> {
    let (kind, name) = match target {
        ClusterTarget::Targetless => return Ok(Which::Nothing(nothing(namespace)?)),
        ClusterTarget::Labels { labels, .. } => {
            let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return Ok(Which::Selected(pairs.join(",")));
        }
        ClusterTarget::Workload { kind, name, .. } => (*kind, name.as_str()),
    };
    let look = Look { client, namespace, name };
    let selector = match kind {
        Kind::Pod => {
            look.get::<KubePod>("pod").await?;
            return Ok(Which::Named(name.into()));
        }
        Kind::Deployment => look.get::<Deployment>("deployment").await?.spec.map(|spec| spec.selector),
        Kind::StatefulSet => look.get::<StatefulSet>("statefulset").await?.spec.map(|spec| spec.selector),
        Kind::DaemonSet => look.get::<DaemonSet>("daemonset").await?.spec.map(|spec| spec.selector),
        Kind::ReplicaSet => look.get::<ReplicaSet>("replicaset").await?.spec.map(|spec| spec.selector),
        Kind::Job => look.get::<Job>("job").await?.spec.and_then(|spec| spec.selector),
        Kind::CronJob => look.job_of_cronjob().await?.spec.and_then(|spec| spec.selector),
        Kind::Rollout => look.rollout().await?,
        Kind::Service => {
            let labels = look.get::<Service>("service").await?.spec.and_then(|spec| spec.selector);
            labels.map(|labels| LabelSelector { match_labels: Some(labels), match_expressions: None })
        }
    };
    let text = selector.as_ref().map(selector_text).filter(|text| !text.is_empty());
    text.map(Which::Selected).ok_or_else(|| KubeError::NoPod { target: target.to_string(), why: "it selects none by labels".into() })
}

/// What an agent without a target serves. It is of one session, hence no name that two could have.
fn nothing(namespace: &str) -> Result<Pod, KubeError> {
    let uid = mirrord_intproxy::private::word().map_err(|error| KubeError::Connection(error.to_string()))?;
    let none = String::new;
    Ok(Pod {
        name: ClusterTarget::Targetless.to_string(),
        namespace: namespace.into(),
        uid,
        node: none(),
        container: none(),
        container_id: none(),
        has_guest: false,
    })
}

/// An object that is looked for.
struct Look<'a> {
    client: &'a Client,
    namespace: &'a str,
    name: &'a str,
}

impl Look<'_> {
    async fn get<K>(&self, kind: &'static str) -> Result<K, KubeError>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let found = Api::<K>::namespaced(self.client.clone(), self.namespace).get_opt(self.name).await;
        self.there(kind, found)
    }

    fn there<K>(&self, kind: &'static str, found: Result<Option<K>, kube::Error>) -> Result<K, KubeError> {
        let Self { namespace, name, .. } = self;
        let missing = || KubeError::NoSuch { kind, name: (*name).into(), namespace: (*namespace).into() };
        found.map_err(|error| KubeError::api(format!("get the {kind} {name} in {namespace}"), error))?.ok_or_else(missing)
    }

    /// Argo's, of which only the selector is of interest; it may be that of a deployment.
    async fn rollout(&self) -> Result<Option<LabelSelector>, KubeError> {
        let rollout = self.there("rollout", rollouts(self.client, self.namespace).get_opt(self.name).await)?;
        let spec = &rollout.data["spec"];
        if let Some(name) = spec["workloadRef"]["name"].as_str() {
            let look = Look { name, ..*self };
            return Ok(look.get::<Deployment>("deployment").await?.spec.map(|spec| spec.selector));
        }
        Ok(serde_json::from_value(spec["selector"].clone()).ok())
    }

    /// The newest of its jobs.
    async fn job_of_cronjob(&self) -> Result<Job, KubeError> {
        let cron = self.get::<CronJob>("cronjob").await?;
        let jobs = Api::<Job>::namespaced(self.client.clone(), self.namespace).list(&ListParams::default()).await;
        let jobs = jobs.map_err(|error| KubeError::api(format!("list jobs in {}", self.namespace), error))?;
        let uid = cron.metadata.uid.unwrap_or_default();
        let owned = |job: &Job| job.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid);
        let newest = jobs.items.into_iter().filter(owned).max_by_key(|job| job.metadata.creation_timestamp.clone());
        newest.ok_or_else(|| KubeError::NoPod { target: format!("cronjob/{}", self.name), why: "none of its jobs is there".into() })
    }
}

/// Argo's rollouts, of which this program knows no types.
pub fn rollouts(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Rollout"));
    Api::namespaced_with(client.clone(), namespace, &kind)
}

/// As the API reads it in a query.
fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let (key, values) = (&expression.key, expression.values.clone().unwrap_or_default().join(","));
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// Looks at the target's pods as they are now.
pub async fn find(client: &Client, namespace: &str, which: &Which, container: Option<&str>) -> Result<Found, KubeError> {
    let api = Api::<KubePod>::namespaced(client.clone(), namespace);
    let failed = |error| KubeError::api(format!("list pods in {namespace}"), error);
    let pods = match which {
        Which::Named(name) => api.get_opt(name).await.map_err(failed)?.into_iter().collect(),
        Which::Nothing(pod) => {
            return Ok(Found { there: [pod.uid.clone()].into(), ready: vec![pod.clone()], ..Found::default() });
        }
        Which::Selected(selector) => api.list(&ListParams::default().labels(selector)).await.map_err(failed)?.items,
    };
    judge(&pods, container)
}

/// Which of these pods can have an agent.
fn judge(pods: &[KubePod], container: Option<&str>) -> Result<Found, KubeError> {
    let mut found = Found::default();
    for pod in pods {
        let metadata = &pod.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        if metadata.labels.iter().flatten().any(|(key, value)| (key.as_str(), value.as_str()) == APP) {
            continue;
        }
        if metadata.deletion_timestamp.is_some() {
            found.unready.push(format!("{name} is being deleted"));
            continue;
        }
        found.there.extend(metadata.uid.clone());
        found.guests.extend(ephemeral::running(pod));
        let Some(spec) = &pod.spec else { continue };
        if spec.host_network == Some(true) {
            return Err(KubeError::HostNetwork(name));
        }
        let names: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
        let default = metadata.annotations.as_ref().and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
        let (chosen, guessed) = choose(&names, container, default.map(String::as_str)).ok_or_else(|| KubeError::NoContainer {
            pod: name.clone(),
            name: container.unwrap_or_default().into(),
            known: names.join(", "),
        })?;
        let status = pod.status.as_ref();
        let state = status.and_then(|status| status.container_statuses.iter().flatten().find(|state| state.name == chosen));
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("unknown");
        match state {
            Some(state) if phase == "Running" && state.ready && state.container_id.is_some() => {
                found.ready.push(Pod {
                    name,
                    namespace: metadata.namespace.clone().unwrap_or_default(),
                    uid: metadata.uid.clone().unwrap_or_default(),
                    node: spec.node_name.clone().unwrap_or_default(),
                    container: chosen.into(),
                    container_id: state.container_id.clone().unwrap_or_default(),
                    has_guest: ephemeral::has_guest(pod),
                });
                if guessed {
                    let others = names.iter().filter(|name| **name != chosen).map(|name| (*name).to_owned()).collect();
                    found.guessed = Some((chosen.into(), others));
                }
            }
            Some(state) => {
                let waiting = state.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.clone());
                let why = waiting.unwrap_or_else(|| format!("its container {chosen} is not ready"));
                found.unready.push(format!("{name} is {phase}: {why}"));
            }
            None => found.unready.push(format!("{name} is {phase}")),
        }
    }
    Ok(found)
}

/// The container that is meant, and whether there was another choice. `None`: the named one is not there.
fn choose<'a>(names: &[&'a str], named: Option<&str>, default: Option<&str>) -> Option<(&'a str, bool)> {
    let there = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    if let Some(named) = named {
        return there(named).map(|name| (name, false));
    }
    if let Some(name) = default.and_then(there) {
        return Some((name, false));
    }
    match own_containers(names).as_slice() {
        [only] => Some((only, false)),
        [first, ..] => Some((first, true)),
        [] => names.first().map(|first| (*first, names.len() > 1)),
    }
}

/// Those that are no sidecar of a mesh or the like.
pub fn own_containers<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| !SIDECARS.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl Fn(&mut Value)) -> KubePod {
        let mut pod = json!({
            "metadata": {"name": "shop-1", "namespace": "shop", "uid": "u1", "labels": {"app": "shop"}},
            "spec": {"nodeName": "node1", "containers": [{"name": "istio-proxy"}, {"name": "app"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "app", "ready": true, "containerID": "containerd://4f5c", "image": "", "imageID": "", "restartCount": 0},
                {"name": "istio-proxy", "ready": true, "containerID": "containerd://aaaa", "image": "", "imageID": "", "restartCount": 0},
            ]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pods_own_container_is_meant_and_not_a_meshs() {
        let found = judge(&[pod(|_| {})], None).unwrap();
        assert_eq!(found.ready[0].container_id, "containerd://4f5c");
        assert_eq!((found.ready[0].container.as_str(), found.guessed), ("app", None));
        let named = judge(&[pod(|_| {})], Some("istio-proxy")).unwrap();
        assert_eq!(named.ready[0].container_id, "containerd://aaaa");
        let error = judge(&[pod(|_| {})], Some("db")).unwrap_err();
        assert_eq!(error.help(), "it has istio-proxy, app");
    }

    #[test]
    fn where_there_is_a_choice_it_is_said() {
        assert_eq!(choose(&["a", "b"], None, None), Some(("a", true)));
        assert_eq!(choose(&["a", "b"], None, Some("b")), Some(("b", false)));
        assert_eq!(choose(&["a", "b"], None, Some("gone")), Some(("a", true)));
        assert_eq!(choose(&["queue-proxy", "vault-agent"], None, None), Some(("queue-proxy", true)));
        assert_eq!(choose(&["a"], Some("b"), Some("a")), None);
    }

    #[test]
    fn pods_that_cannot_have_an_agent_say_why() {
        let pods = [
            pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            pod(|pod| pod["status"]["containerStatuses"][0]["ready"] = json!(false)),
            pod(|pod| pod["status"] = json!({"phase": "Pending"})),
            pod(|pod| {
                pod["status"]["containerStatuses"][0]["ready"] = json!(false);
                pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
            }),
            pod(|pod| pod["metadata"]["labels"]["app"] = json!("mirrord")),
        ];
        let found = judge(&pods, None).unwrap();
        assert_eq!(found.ready, []);
        let why = [
            "shop-1 is being deleted",
            "shop-1 is Running: its container app is not ready",
            "shop-1 is Pending",
            "shop-1 is Running: CrashLoopBackOff",
        ];
        assert_eq!(found.unready, why);
        let host = judge(&[pod(|pod| pod["spec"]["hostNetwork"] = json!(true))], None);
        assert!(matches!(host, Err(KubeError::HostNetwork(_))));
    }

    #[test]
    fn selectors_are_written_as_the_api_reads_them() {
        let selector = json!({"matchLabels": {"app": "shop", "a/b": "c"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["web", "api"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "new", "operator": "Exists"},
            {"key": "x", "operator": "NotIn", "values": ["y"]},
        ]});
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        assert_eq!(selector_text(&selector), "a/b=c,app=shop,tier in (web,api),!old,new,x notin (y)");
    }
}
