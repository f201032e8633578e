//! `mirrord ls`: what could be a target, as a table for people and as JSON for editors.

use std::{env, io::IsTerminal, path::PathBuf};

use clap::Args;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Namespace, Pod as KubePod, Service},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, ListParams},
};
use mirrord_config::{ClusterFlags, ClusterSettings, Kind, kube::Kube};
use serde::{Serialize, de::DeserializeOwned};

use super::{client, error::KubeError, manifest::APP, pods};
use crate::console::{self, Output};

/// The command line.
#[derive(Args, Debug)]
pub struct Line {
    /// Namespace; else the context's [env: MIRRORD_TARGET_NAMESPACE]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Context of the kubeconfig; else the current one [env: MIRRORD_KUBE_CONTEXT]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Only these kinds
    #[arg(short = 't', long, value_name = "KIND", num_args = 1..)]
    target_type: Vec<String>,

    /// A config file: how the cluster is reached, and the namespace [env: MIRRORD_CONFIG_FILE]
    #[arg(short = 'f', long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// A table for people, or JSON (the default where nobody watches)
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

impl Line {
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config_file.clone()
    }

    /// Whether JSON is printed.
    pub fn is_json(&self) -> bool {
        self.output.map_or_else(|| !std::io::stdout().is_terminal(), |output| output == Output::Json)
    }
}

/// A possible target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Target {
    path: String,
    available: bool,
}

/// What editors read with `MIRRORD_LS_RICH_OUTPUT=true`.
#[derive(Debug, Serialize)]
struct Rich {
    targets: Vec<Target>,
    current_namespace: String,
    namespaces: Vec<String>,
}

/// Lists and prints.
pub fn list(line: Line, settings: ClusterSettings) -> Result<(), KubeError> {
    client::run(async {
        let is_json = line.is_json();
        let kinds = kinds(&line.target_type)?;
        let flags = ClusterFlags { namespace: line.namespace, context: line.context, ..ClusterFlags::default() };
        let variable = |name: &str| env::var(name).ok();
        let settings = ClusterSettings::resolve(flags, variable, settings).map_err(|error| KubeError::Config(error.to_string()))?;
        print(&settings.kube, &kinds, is_json).await
    })
}

/// Those that are asked for: by flags, else by the variable of editors, else all.
fn kinds(words: &[String]) -> Result<Vec<Kind>, KubeError> {
    let from_variable = env::var("MIRRORD_LS_TARGET_TYPES").ok().and_then(|text| serde_json::from_str::<Vec<String>>(&text).ok());
    let words = if words.is_empty() { from_variable.unwrap_or_default() } else { words.to_vec() };
    if words.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let kind = |word: &String| Kind::of(word).ok_or_else(|| KubeError::NoKind(word.clone()));
    words.iter().map(kind).collect()
}

async fn print(kube: &Kube, kinds: &[Kind], is_json: bool) -> Result<(), KubeError> {
    let (client, own) = client::connect(kube).await?;
    let namespace = kube.namespace.clone().unwrap_or(own);
    let mut targets = Vec::new();
    for kind in kinds {
        targets.extend(of_kind(&client, &namespace, *kind).await?);
    }
    if is_json {
        let rich = env::var("MIRRORD_LS_RICH_OUTPUT").is_ok_and(|value| value == "true");
        let text = if rich {
            let namespaces = namespaces(&client).await;
            serde_json::to_string(&Rich { targets, current_namespace: namespace, namespaces })
        } else {
            let available = targets.into_iter().filter(|target| target.available).map(|target| target.path);
            serde_json::to_string(&available.collect::<Vec<_>>())
        };
        console::out(&text.unwrap_or_default());
    } else {
        console::out(&table(&targets, &namespace));
    }
    Ok(())
}

fn table(targets: &[Target], namespace: &str) -> String {
    let width = targets.iter().map(|target| target.path.len()).max().unwrap_or(0);
    let row = |target: &Target| {
        let state = if target.available { "available" } else { "not ready" };
        console::plain(&format!("{:width$}  {state}", target.path))
    };
    let rows: Vec<_> = targets.iter().map(row).collect();
    if rows.is_empty() { format!("nothing in the namespace {namespace} could be a target") } else { rows.join("\n") }
}

/// All that one may see; whoever may not list them has none.
async fn namespaces(client: &Client) -> Vec<String> {
    let listed = Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await;
    listed.map(|list| list.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}

async fn of_kind(client: &Client, namespace: &str, kind: Kind) -> Result<Vec<Target>, KubeError> {
    let look = Look { client, namespace, kind };
    match kind {
        Kind::Pod => {
            let pods = look.list::<KubePod>().await?;
            let pods = pods.into_iter().filter(|pod| pod.labels().get(APP.0).map(String::as_str) != Some(APP.1));
            Ok(pods.flat_map(|pod| of_pod(&pod)).collect())
        }
        Kind::Deployment => look.targets(|one: &Deployment| one.status.as_ref()?.available_replicas).await,
        Kind::StatefulSet => look.targets(|one: &StatefulSet| one.status.as_ref()?.ready_replicas).await,
        Kind::DaemonSet => look.targets(|one: &DaemonSet| one.status.as_ref().map(|status| status.number_ready)).await,
        // Those of deployments are the deployment's business.
        Kind::ReplicaSet => {
            let ready = |one: &ReplicaSet| one.status.as_ref()?.ready_replicas.filter(|_| one.owner_references().is_empty());
            Ok(look.targets(ready).await?.into_iter().filter(|target| target.available).collect())
        }
        Kind::Job => {
            let ours = |one: &Job| one.labels().get(APP.0).is_some_and(|value| value == APP.1);
            look.targets(|one: &Job| one.status.as_ref()?.ready.filter(|_| !ours(one)))
                .await
                .map(|targets| targets.into_iter().filter(|target| !target.path.starts_with("job/mirrord-agent-")).collect())
        }
        Kind::CronJob => look.targets(|one: &CronJob| one.status.as_ref()?.active.as_ref().map(|jobs| jobs.len() as i32)).await,
        Kind::Service => {
            let selects = |one: &Service| one.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(|labels| labels.len() as i32);
            Ok(look.targets(selects).await?.into_iter().filter(|target| target.available).collect())
        }
        Kind::Rollout => Ok(look.rollouts().await),
    }
}

struct Look<'a> {
    client: &'a Client,
    namespace: &'a str,
    kind: Kind,
}

impl Look<'_> {
    async fn list<K>(&self) -> Result<Vec<K>, KubeError>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let listed = Api::<K>::namespaced(self.client.clone(), self.namespace).list(&ListParams::default()).await;
        let failed = |error| KubeError::api(format!("list {}s in {}", self.kind.word(), self.namespace), error);
        listed.map(|list| list.items).map_err(failed)
    }

    /// One for each; `ready` of its pods, where that is known.
    async fn targets<K>(&self, ready: impl Fn(&K) -> Option<i32>) -> Result<Vec<Target>, KubeError>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let target = |one: &K| Target { path: format!("{}/{}", self.kind.word(), one.name_any()), available: ready(one).unwrap_or(0) > 0 };
        Ok(self.list::<K>().await?.iter().map(target).collect())
    }

    /// Argo's; without Argo, or the right to see them, there are none.
    async fn rollouts(&self) -> Vec<Target> {
        let listed =
            pods::rollouts(self.client, self.namespace).list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let target = |one: &DynamicObject| Target {
            path: format!("rollout/{}", one.name_any()),
            available: one.data["status"]["availableReplicas"].as_i64().unwrap_or(0) > 0,
        };
        listed.iter().map(target).collect()
    }
}

/// `pod/N` if one container is left beside the sidecars, else an entry a container.
fn of_pod(pod: &KubePod) -> Vec<Target> {
    let (name, spec) = (pod.name_any(), pod.spec.as_ref());
    let names: Vec<_> = spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect();
    let own = pods::own_containers(&names);
    let status = pod.status.as_ref();
    let is_ready = |condition: &str| {
        status.is_some_and(|status| status.conditions.iter().flatten().any(|one| one.type_ == condition && one.status == "True"))
    };
    let runs = status.and_then(|status| status.phase.as_deref()) == Some("Running");
    let available = runs && is_ready("Ready") && pod.metadata.deletion_timestamp.is_none();
    match own.as_slice() {
        [] | [_] => vec![Target { path: format!("pod/{name}"), available }],
        several => several.iter().map(|container| Target { path: format!("pod/{name}/container/{container}"), available }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_listed_by_what_could_be_meant() {
        let pod = |containers: &[&str], ready: &str| -> KubePod {
            let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"containers": containers}, "status": status})).unwrap()
        };
        let target = |path: &str, available| Target { path: path.into(), available };
        assert_eq!(of_pod(&pod(&["app", "istio-proxy"], "True")), [target("pod/a", true)]);
        assert_eq!(of_pod(&pod(&["app", "db"], "False")), [target("pod/a/container/app", false), target("pod/a/container/db", false)]);
        assert_eq!(table(&[target("pod/a", true), target("job/long", false)], "x"), "pod/a     available\njob/long  not ready");
    }

    #[test]
    fn kinds_are_words() {
        assert_eq!(kinds(&["pod".into(), "deploy".into()]).unwrap(), [Kind::Pod, Kind::Deployment]);
        assert!(matches!(kinds(&["targetless".into()]), Err(KubeError::NoKind(_))));
    }
}
