//! An agent as a guest: an ephemeral container of the target's own pod. It needs no place on the node, and no right beyond that pod; it
//! can be neither removed nor started again, so each has a name of its own, and ends by itself.
//!
//! ```text
//! the pod's spec and status ──► one that runs or is about to? joined : a Secret, then a patch of the pod as it was seen
//! ```

use std::time::Instant;

use k8s_openapi::api::core::v1::{ContainerStatus, EphemeralContainer, Pod as KubePod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};

use super::{
    agent::{Door, Judged, Keys, Maker, Place, Seen, Wait, Waiting, judge_container, suffix},
    bridge::Bridge,
    error::KubeError,
    keys,
    manifest::{self, CONTAINER, Holder, Pod},
    process::Progress,
};

/// Ports of the pod's loopback from which one is taken: below those that the kernel gives to clients.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// An agent in an ephemeral container.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guest {
    name: String,
    port: u16,
    /// Name of its Secret.
    keys: String,
    /// Whether it is over.
    ended: bool,
}

impl Maker<'_> {
    /// Joins the guest of a pod or makes one, and waits until it takes sessions.
    pub(super) async fn guest(&self, pod: &Pod, deadline: Instant, progress: &Progress) -> Result<(Bridge, Place), Wait> {
        let pods = Api::<KubePod>::namespaced(self.client.clone(), &pod.namespace);
        let guest = self.find_or_invite(&pods, pod, deadline, progress).await?;
        let place = Place { pod: pod.name.clone(), container: guest.name.clone() };
        let keys = Keys { namespace: &pod.namespace, name: &guest.keys };
        let door = Door { pod: &pod.name, port: guest.port, address: None };
        let (mut waiting, mut tls) = (Waiting::until(deadline), None);
        loop {
            let seen = match status(&self.get(&pods, pod).await?, &guest.name) {
                Some(status) => self.judged(&pods, &place, judge_container(status)).await?,
                None => Seen::Waits("its container is new".into()),
            };
            let now = match seen {
                Seen::Waits(now) => now,
                Seen::Runs(_) => match self.dial(&pods, door, keys, &mut tls).await {
                    Ok(bridge) => return Ok((bridge, place)),
                    Err(now) => now,
                },
            };
            waiting.go_on(now, progress).await?;
        }
    }

    async fn get(&self, pods: &Api<KubePod>, pod: &Pod) -> Result<KubePod, KubeError> {
        let now = pods.get(&pod.name).await.map_err(|error| KubeError::api(format!("get pods in {}", pod.namespace), error))?;
        match now.uid().as_ref() == Some(&pod.uid) {
            true => Ok(now),
            false => Err(KubeError::Start { why: format!("the pod {} has gone", pod.name), help: "run the command again".into() }),
        }
    }

    async fn find_or_invite(&self, pods: &Api<KubePod>, pod: &Pod, deadline: Instant, progress: &Progress) -> Result<Guest, KubeError> {
        loop {
            let now = self.get(pods, pod).await?;
            let guests = guests(&now);
            if let Some(there) = guests.iter().find(|guest| !guest.ended) {
                progress.step(&format_args!("joining the agent in {}", pod.name));
                return Ok(there.clone());
            }
            let mut plan = self.plan(format!("{CONTAINER}-{}", suffix()), &pod.namespace, pod);
            // Those of the guest before are as good, and only so do Secrets not pile up.
            let former = self.usable_keys(&guests, pod).await;
            let made = former.is_none();
            match former {
                Some(keys) => plan.keys = keys,
                None => self.make_keys(&plan, Holder::Pod).await.map_err(in_pod)?,
            }
            let guest = Guest { name: plan.name.clone(), port: port()?, keys: plan.keys.clone(), ended: false };
            // Whoever else invites one at this moment has changed the pod: then theirs is joined.
            let patch = manifest::guest(&plan, guest.port, &now.resource_version().unwrap_or_default());
            let error = match pods.patch_ephemeral_containers(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    progress.step(&format_args!("starting an agent in {}", pod.name));
                    return Ok(guest);
                }
                Err(error) => error,
            };
            if made {
                let secrets = Api::<Secret>::namespaced(self.client.clone(), &pod.namespace);
                let _ = secrets.delete(&plan.keys, &DeleteParams::default()).await;
            }
            match error {
                kube::Error::Api(status) if status.code == 409 && Instant::now() < deadline => {}
                error => return Err(in_pod(KubeError::api(format!("patch pods/ephemeralcontainers in {}", pod.namespace), error))),
            }
        }
    }

    /// Keys of an earlier guest, if they are still there.
    async fn usable_keys(&self, guests: &[Guest], pod: &Pod) -> Option<String> {
        let name = &guests.last()?.keys;
        let secret = Api::<Secret>::namespaced(self.client.clone(), &pod.namespace).get_opt(name).await.ok()??;
        let is_theirs = secret.owner_references().iter().any(|owner| owner.uid == pod.uid);
        (is_theirs && keys::session(&secret.data.unwrap_or_default()).is_ok()).then(|| name.clone())
    }
}

/// Where it is the pod's namespace that says no, another one for agents is no way out.
fn in_pod(error: KubeError) -> KubeError {
    match error {
        KubeError::Forbidden { what, message } => KubeError::NoGuests {
            why: format!("you are not allowed to {what}: {message}"),
            help: "ask whoever runs the cluster for the Roles that `mirrord rbac --ephemeral-container` prints, or leave out --ephemeral-container",
        },
        KubeError::Refused { what, message, .. } => KubeError::NoGuests {
            why: format!("the cluster refuses to {what}: {message}"),
            help: "leave out --ephemeral-container: an agent in a pod of its own may be in another namespace (--agent-namespace)",
        },
        other => other,
    }
}

/// One that is not easily guessed, so that two agents, and what the pod itself listens on, seldom meet: then another one is tried.
fn port() -> Result<u16, KubeError> {
    let random = mirrord_intproxy::private::random().map_err(|error| KubeError::Connection(error.to_string()))?;
    let random = random.iter().fold(0_u32, |sum, byte| (sum << 8) ^ (sum >> 24) ^ u32::from(*byte));
    Ok(PORTS.start + (random % u32::from(PORTS.end - PORTS.start)) as u16)
}

/// Whether an agent is a guest of the pod, or is about to be.
pub fn has_guest(pod: &KubePod) -> bool {
    guests(pod).iter().any(|guest| !guest.ended)
}

/// Guests of the pod that run.
pub fn running(pod: &KubePod) -> impl Iterator<Item = Place> {
    let runs = |guest: &Guest| status(pod, &guest.name).is_some_and(|status| judge_container(status) == Judged::Runs);
    guests(pod).into_iter().filter(runs).map(|guest| Place { pod: pod.name_any(), container: guest.name })
}

/// The pod's agents, the oldest first.
fn guests(pod: &KubePod) -> Vec<Guest> {
    let containers = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let mut guests: Vec<_> = containers.filter_map(guest).collect();
    for guest in &mut guests {
        guest.ended = status(pod, &guest.name).is_some_and(|status| !matches!(judge_container(status), Judged::Waits(_) | Judged::Runs));
    }
    guests
}

/// What was asked for, as [`manifest::guest`] asks for it.
fn guest(container: &EphemeralContainer) -> Option<Guest> {
    container.name.strip_prefix(CONTAINER)?;
    let mut args = container.args.iter().flatten();
    args.find(|arg| *arg == "--listen")?;
    let port = args.next()?.rsplit(':').next()?.parse().ok()?;
    let keys =
        container.env.iter().flatten().find_map(|variable| Some(variable.value_from.as_ref()?.secret_key_ref.as_ref()?.name.clone()))?;
    Some(Guest { name: container.name.clone(), port, keys, ended: false })
}

fn status<'a>(pod: &'a KubePod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.ephemeral_container_statuses.iter().flatten().find(|status| status.name == name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(states: &[(&str, Value)]) -> KubePod {
        let containers = states.iter().map(|(name, _)| {
            json!({"name": name, "args": ["--listen", "127.0.0.1:20007", "--guest"], "env": [
                {"name": "A", "value": "b"}, {"name": "K", "valueFrom": {"secretKeyRef": {"name": format!("{name}-keys"), "key": "ca.crt"}}},
            ]})
        });
        let status = |(name, state): &(&str, Value)| json!({"name": name, "ready": false, "image": "", "imageID": "", "restartCount": 0, "state": state});
        let mut containers: Vec<_> = containers.collect();
        containers.push(json!({"name": "debugger-1", "args": ["--listen", "127.0.0.1:1"]}));
        serde_json::from_value(json!({
            "metadata": {"name": "shop-1"},
            "spec": {"containers": [], "ephemeralContainers": containers},
            "status": {"ephemeralContainerStatuses": states.iter().filter(|(_, state)| !state.is_null()).map(status).collect::<Vec<_>>()},
        }))
        .unwrap()
    }

    #[test]
    fn guests_are_told_from_others_and_from_those_before_them() {
        let over = json!({"terminated": {"exitCode": 0}});
        let gone = pod(&[("mirrord-agent-a", over.clone())]);
        assert_eq!(
            guests(&gone),
            [Guest { name: "mirrord-agent-a".into(), port: 20007, keys: "mirrord-agent-a-keys".into(), ended: true }]
        );
        assert!(!has_guest(&gone) && running(&gone).next().is_none());
        let second = pod(&[("mirrord-agent-a", over.clone()), ("mirrord-agent-b", json!({"running": {}}))]);
        let place = Place { pod: "shop-1".into(), container: "mirrord-agent-b".into() };
        assert!(has_guest(&second) && running(&second).eq([place]));
        // One that was only just asked for has no status yet.
        assert!(has_guest(&pod(&[("mirrord-agent-c", Value::Null)])));
        // One whose image is not to be had will never run.
        assert!(!has_guest(&pod(&[("mirrord-agent-d", json!({"waiting": {"reason": "ErrImagePull"}}))])));
    }

    #[test]
    fn what_this_program_asks_for_it_recognises() {
        let ports: std::collections::BTreeSet<_> = (0..20).map(|_| port().unwrap()).collect();
        assert!(ports.len() > 10 && ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
    }
}
