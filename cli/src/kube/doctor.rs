//! What `mirrord doctor` sees in a cluster: that it answers, what the user may do there, where the agent's image is, and objects of
//! ours that nobody uses any more.

use std::{collections::BTreeSet, time::SystemTime};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        batch::v1::Job,
        core::v1::{Node, Pod, Secret},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use mirrord_config::ClusterSettings;
use serde::de::DeserializeOwned;

use super::{agent, client, error::KubeError, manifest::APP, rbac};
use crate::doctor::{Finding, Leftover, Place, State};

/// What is younger may just be made, or about to be removed.
const YOUNG: u64 = 30;

/// An object that can be removed, and is the one that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    kind: Kind,
    name: String,
    uid: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Job,
    Secret,
    Pod,
}

fn finding(state: State, what: impl Into<String>, help: impl Into<String>) -> Finding {
    Finding::new(Place::Cluster, state, what, help)
}

fn problem(error: &KubeError) -> Finding {
    finding(State::Problem, error.to_string(), error.help())
}

/// All of it. Without a kubeconfig there is no cluster, and nothing wrong about that.
pub fn look(settings: &ClusterSettings) -> Vec<Finding> {
    match client::run(look_at(settings)) {
        Ok(findings) => findings,
        Err(error @ KubeError::Config(_)) => vec![finding(State::Unknown, error.to_string(), error.help())],
        Err(error) => vec![problem(&error)],
    }
}

/// Removes an object, unless another one has its name by now.
pub fn remove(settings: &ClusterSettings, object: &Object) -> Result<(), String> {
    let removed = client::run(async {
        let (client, _, namespace) = connect(settings).await?;
        let Object { kind, name, uid } = object;
        let same = Preconditions { uid: uid.clone(), ..Preconditions::default() };
        let parameters = DeleteParams { preconditions: Some(same), ..DeleteParams::background() };
        let deleted = match kind {
            Kind::Job => Api::<Job>::namespaced(client, &namespace).delete(name, &parameters).await.map(drop),
            Kind::Secret => Api::<Secret>::namespaced(client, &namespace).delete(name, &parameters).await.map(drop),
            Kind::Pod => Api::<Pod>::namespaced(client, &namespace).delete(name, &parameters).await.map(drop),
        };
        match deleted {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map_err(|error| KubeError::api(format!("delete {name} in {namespace}"), error)),
        }
    });
    removed.map_err(|error| format!("{error} ({})", error.help()))
}

/// A client, and the namespaces of targets and agents.
async fn connect(settings: &ClusterSettings) -> Result<(Client, String, String), KubeError> {
    let (client, own) = client::connect(&settings.kube).await?;
    let targets = settings.kube.namespace.clone().unwrap_or_else(|| own.clone());
    Ok((client, targets, settings.agent.namespace.clone().unwrap_or(own)))
}

async fn look_at(settings: &ClusterSettings) -> Result<Vec<Finding>, KubeError> {
    let (client, targets, agents) = connect(settings).await?;
    let version = client.apiserver_version().await.map_err(|error| KubeError::api("ask for its version", error))?;
    let what = format!("the API server answers: Kubernetes {}; targets in {targets}, agents in {agents}", version.git_version);
    let mut findings = vec![finding(State::Ok, what, "")];
    findings.extend(rights(&client, &targets, &agents).await?);
    findings.push(image(&client, settings).await);
    findings.extend(leftovers(&client, &agents).await);
    Ok(findings)
}

/// What of the Roles that `mirrord rbac` prints the user has.
async fn rights(client: &Client, targets: &str, agents: &str) -> Result<Vec<Finding>, KubeError> {
    let mut findings = Vec::new();
    // Without the right to see a kind, targets of others still work; some rights only say why something else went wrong.
    let is_vital = |resource: &str| matches!(resource, "pods" | "jobs" | "secrets" | "pods/portforward");
    for (namespace, rules, kinds) in [(targets, rbac::TARGETS, State::Warning), (agents, rbac::AGENTS, State::Problem)] {
        for (group, resources, verbs, what_for) in rules {
            let mut missing = Vec::new();
            for resource in *resources {
                for verb in *verbs {
                    if !may(client, namespace, group, resource, verb).await? {
                        missing.push(format!("{verb} {resource}"));
                    }
                }
            }
            if !missing.is_empty() {
                let what = format!("you may not {} in {namespace}: {what_for}", missing.join(", "));
                let help = "ask whoever runs the cluster for the Role that `mirrord rbac` prints";
                let state = match *resources {
                    ["pods"] => State::Problem,
                    [resource] if is_vital(resource) => kinds,
                    _ => State::Warning,
                };
                findings.push(finding(state, what, help));
            }
        }
    }
    if findings.is_empty() {
        findings.push(finding(State::Ok, "you have all rights that sessions need", ""));
    }
    Ok(findings)
}

async fn may(client: &Client, namespace: &str, group: &str, resource: &str, verb: &str) -> Result<bool, KubeError> {
    let (resource, subresource) = resource.split_once('/').map_or((resource, None), |(resource, sub)| (resource, Some(sub.to_owned())));
    let attributes = ResourceAttributes {
        namespace: Some(namespace.into()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        subresource,
        verb: Some(verb.into()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let answer = Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| KubeError::api("ask what you may do", error))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Where the agent's image is already. Whether a registry would give it only a pod can find out.
async fn image(client: &Client, settings: &ClusterSettings) -> Finding {
    let image = agent::image(&settings.agent);
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        Err(_) => return finding(State::Unknown, format!("the agent's image is {image}; you may not see which nodes have it"), ""),
    };
    let has = |node: &&Node| {
        let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
        images.flat_map(|image| image.names.iter().flatten()).any(|name| is_name_of(name, &image))
    };
    let count = nodes.iter().filter(has).count();
    let what = format!("the agent's image {image} is on {count} of {} nodes", nodes.len());
    if count == nodes.len() || settings.agent.image_pull_policy.as_deref() != Some("Never") {
        let help = if count == nodes.len() {
            ""
        } else {
            "the others pull it when the first session comes; agent.image_pull_secrets may name a key"
        };
        return finding(if count > 0 { State::Ok } else { State::Warning }, what, help);
    }
    finding(State::Problem, what, "agent.image_pull_policy is Never: load it on each node, or allow it to be pulled")
}

/// Runtimes write out the registry that is implied.
fn is_name_of(name: &str, image: &str) -> bool {
    name == image || name.strip_suffix(image).is_some_and(|registry| registry.ends_with('/'))
}

/// Objects of ours that no agent and no session uses.
async fn leftovers(client: &Client, namespace: &str) -> Vec<Finding> {
    let jobs = match list::<Job>(client, namespace, "jobs").await {
        Ok(jobs) => jobs,
        Err(cannot) => return vec![cannot],
    };
    let mut findings = Vec::new();
    let pods = match list::<Pod>(client, namespace, "pods").await {
        Ok(pods) => pods,
        Err(cannot) => return vec![cannot],
    };
    let (mut living, mut uids) = (0, BTreeSet::new());
    for job in &jobs {
        uids.extend(job.uid());
        let of_job = |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.uid().as_ref());
        let runs = pods.iter().filter(of_job).any(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
        let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished).unwrap_or(0).max(0) as u64;
        if agent::has_ended(job) && is_older(job, YOUNG + ttl) && ended_before(job, YOUNG + ttl) {
            findings.push(left(Kind::Job, job, "its agent has ended"));
        } else if !runs && !agent::has_ended(job) && is_older(job, 10 * YOUNG) {
            findings.push(left(Kind::Job, job, "it has had no running pod for minutes"));
        } else if runs {
            living += 1;
        }
    }
    let is_orphan =
        |owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| !owners.iter().any(|owner| uids.contains(&owner.uid));
    findings.extend(
        pods.iter()
            .filter(|pod| is_older(*pod, YOUNG) && is_orphan(pod.owner_references()))
            .map(|pod| left(Kind::Pod, pod, "its Job is gone")),
    );
    match list::<Secret>(client, namespace, "secrets").await {
        Ok(secrets) => {
            let orphans = secrets.iter().filter(|secret| is_older(*secret, YOUNG) && is_orphan(secret.owner_references()));
            findings.extend(orphans.map(|secret| left(Kind::Secret, secret, "the Job whose keys it has is gone")));
        }
        Err(cannot) => findings.push(cannot),
    }
    if findings.is_empty() {
        findings.push(finding(State::Ok, format!("{living} agents run in {namespace}, and nothing is left of others"), ""));
    }
    findings
}

async fn list<K>(client: &Client, namespace: &str, what: &str) -> Result<Vec<K>, Finding>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let label = format!("{}={}", APP.0, APP.1);
    let listed = Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default().labels(&label)).await;
    listed.map(|list| list.items).map_err(|error| {
        let error = KubeError::api(format!("list {what} in {namespace}"), error);
        finding(
            State::Unknown,
            format!("leftovers: {error}"),
            "only whoever may list them can find leftovers among them; sessions do not need it",
        )
    })
}

fn left<K: Resource>(kind: Kind, object: &K, why: &str) -> Finding {
    let name = object.name_any();
    let word = format!("{kind:?}").to_lowercase();
    let remove = Object { kind, name: name.clone(), uid: object.uid() };
    Finding::leftover(Place::Cluster, format!("{word}/{name}: {why}"), Leftover::Object(remove))
}

fn seconds_since(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Option<u64> {
    let then = SystemTime::from(time?.0);
    SystemTime::now().duration_since(then).ok().map(|age| age.as_secs())
}

fn is_older<K: Resource>(object: &K, seconds: u64) -> bool {
    object.meta().deletion_timestamp.is_none() && seconds_since(object.meta().creation_timestamp.as_ref()).is_some_and(|age| age >= seconds)
}

fn ended_before(job: &Job, seconds: u64) -> bool {
    let status = job.status.as_ref();
    let ended = status.and_then(|status| {
        let last = status.conditions.iter().flatten().filter_map(|condition| condition.last_transition_time.as_ref()).next_back();
        status.completion_time.as_ref().or(last)
    });
    seconds_since(ended).is_none_or(|age| age >= seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_name_is_known_with_the_registry_that_is_implied() {
        assert!(is_name_of("mirrord-agent:1", "mirrord-agent:1"));
        assert!(is_name_of("docker.io/library/mirrord-agent:1", "mirrord-agent:1"));
        assert!(!is_name_of("docker.io/my-mirrord-agent:1", "mirrord-agent:1"));
        assert!(!is_name_of("mirrord-agent:2", "mirrord-agent:1"));
    }
}
