//! The agent of one pod: joined if there is one, else made; and watched until it is ready. There is one for each pod, however many
//! command lines ask at once, because its name is the pod's: the API server makes it once.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStatus, Event, Pod as KubePod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, PostParams},
};
use mirrord_config::{ClusterTarget, kube::Agent as Settings};
use mirrord_intproxy::ask;
use mirrord_protocol::control::Owner;
use tokio_rustls::rustls::ClientConfig;

use super::{
    bridge::{Bridge, Way},
    error::{KubeError, admission_help},
    keys,
    manifest::{self, APP, CONTAINER, Holder, PORT, Plan, Pod},
    process::Progress,
    room,
};

/// How often the agent's pod is looked at while it starts.
const LOOK: Duration = Duration::from_millis(100);
/// A Job without a pod for so long has a reason, which stands in its events.
const NO_POD: Duration = Duration::from_secs(1);
/// An attempt to ask an agent whose pod runs.
const ASK: Duration = Duration::from_secs(5);
/// A state that lasts is told again after so long.
const REMIND: Duration = Duration::from_secs(20);
/// How long an agent that has ended may take to be gone.
const GONE: Duration = Duration::from_secs(60);
/// How long the agent may take to be ready, unless set.
const START: u64 = 60;

/// Where agents are made, and as what.
pub struct Maker<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    pub target: &'a ClusterTarget,
    pub owner: &'a Owner,
    pub settings: &'a Settings,
    /// Whether we are in the cluster ourselves, where pods can be reached.
    pub is_inside: bool,
    /// Jobs that were made by us and whose container does not run yet: without us they would be nobody's. Namespace and name.
    pub starting: &'a RefCell<BTreeSet<(String, String)>>,
}

/// An agent that is ready.
pub struct Agent {
    pub bridge: Bridge,
    /// The pod that it serves.
    pub pod: Pod,
    pub place: Place,
}

/// Where an agent runs: the names of its pod and of its container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub pod: String,
    pub container: String,
}

impl Place {
    /// A pod of its own.
    fn own(pod: String) -> Self {
        Self { pod, container: CONTAINER.into() }
    }

    /// Whether it is a pod of its own.
    pub fn is_own(&self) -> bool {
        self.container == CONTAINER
    }
}

impl Maker<'_> {
    /// The agent of a pod.
    pub async fn agent(&self, pod: &Pod, progress: &Progress) -> Result<Agent, KubeError> {
        let seconds = self.settings.startup_timeout.unwrap_or(START);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let name = manifest::name(&pod.uid);
        let mut again = false;
        // Whoever is there is joined, in whichever form.
        let as_guest = pod.has_guest || (self.settings.ephemeral == Some(true) && !self.job_is_there(&name).await);
        loop {
            let made = if as_guest && *self.target != ClusterTarget::Targetless {
                self.guest(pod, deadline, progress).await
            } else {
                let keys = self.find_or_make(&name, pod, deadline, progress).await?;
                self.ready(&name, &keys, deadline, progress).await.map(|(bridge, pod)| (bridge, Place::own(pod)))
            };
            match made {
                Ok((bridge, place)) => return Ok(Agent { bridge, pod: pod.clone(), place }),
                // The one that was found was about to end.
                Err(Wait::Ended(_)) if !again => again = true,
                Err(Wait::Ended(error) | Wait::Failed(error)) => return Err(error),
                Err(Wait::Never(error)) => {
                    if !as_guest {
                        self.discard(&name).await;
                    }
                    return Err(error);
                }
                Err(Wait::Slow(state)) => {
                    // It would start some time, or never, for nobody.
                    if self.starting.borrow().contains(&self.job(&name)) {
                        self.discard(&name).await;
                    }
                    return Err(KubeError::Slow { seconds, state });
                }
            }
        }
    }

    /// Whether a pod has an agent.
    pub async fn is_there(&self, pod: &Pod) -> bool {
        pod.has_guest || self.job_is_there(&manifest::name(&pod.uid)).await
    }

    fn job(&self, name: &str) -> (String, String) {
        (self.namespace.to_owned(), name.to_owned())
    }

    async fn discard(&self, name: &str) {
        self.starting.borrow_mut().remove(&self.job(name));
        discard(self.client, self.namespace, name).await;
    }

    /// Without the right to look there is none for us.
    async fn job_is_there(&self, name: &str) -> bool {
        let job = Api::<Job>::namespaced(self.client.clone(), self.namespace).get_opt(name).await;
        job.is_ok_and(|job| job.is_some_and(|job| !has_ended(&job)))
    }

    /// An agent as it is to be made.
    pub(super) fn plan<'a>(&'a self, name: String, namespace: &str, pod: &'a Pod) -> Plan<'a> {
        Plan {
            keys: format!("{name}-{}", suffix()),
            name,
            namespace: namespace.to_owned(),
            pod,
            target: self.target,
            owner: self.owner,
            settings: self.settings,
            is_open: self.is_inside,
            image: image(self.settings),
        }
    }

    /// The name of the Secret with the keys.
    async fn find_or_make(&self, name: &str, pod: &Pod, deadline: Instant, progress: &Progress) -> Result<String, KubeError> {
        let jobs = Api::<Job>::namespaced(self.client.clone(), self.namespace);
        let failed = |what: &str, error| KubeError::api(format!("{what} in {}", self.namespace), error);
        loop {
            if let Some(job) = jobs.get_opt(name).await.map_err(|error| failed("get jobs", error))? {
                match keys_of(&job).filter(|_| !has_ended(&job)) {
                    Some(keys) => {
                        progress.step(&format_args!("joining the agent of {}", pod.name));
                        return Ok(keys);
                    }
                    None => self.remove(&jobs, name).await?,
                }
            }
            if self.settings.check_out_of_pods != Some(false) && *self.target != ClusterTarget::Targetless {
                room::check(self.client, &pod.node).await?;
            }
            let plan = self.plan(name.to_owned(), self.namespace, pod);
            let job = match jobs.create(&PostParams::default(), &manifest::job(&plan)?).await {
                Ok(job) => job,
                // Somebody else was faster: joined at the next look.
                Err(kube::Error::Api(status)) if status.code == 409 && Instant::now() < deadline => continue,
                Err(error) => return Err(failed("create jobs", error)),
            };
            match self.target {
                ClusterTarget::Targetless => progress.step(&"starting an agent without a target"),
                _ => progress.step(&format_args!("starting an agent for {} on {}", pod.name, pod.node)),
            }
            self.starting.borrow_mut().insert(self.job(name));
            let made = self.make_keys(&plan, Holder::Job(&job.uid().unwrap_or_default())).await;
            if let Err(error) = made {
                // Without keys it would wait for ever.
                self.discard(name).await;
                return Err(error);
            }
            return Ok(plan.keys);
        }
    }

    pub(super) async fn make_keys(&self, plan: &Plan<'_>, holder: Holder<'_>) -> Result<(), KubeError> {
        let secret = manifest::secret(plan, holder, keys::make()?)?;
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &plan.namespace);
        let created = secrets.create(&PostParams::default(), &secret).await;
        created.map(drop).map_err(|error| KubeError::api(format!("create secrets in {}", plan.namespace), error))
    }

    /// Removes a Job that has ended, and waits until its name is free.
    async fn remove(&self, jobs: &Api<Job>, name: &str) -> Result<(), KubeError> {
        let failed = |error| KubeError::api(format!("delete jobs in {}", self.namespace), error);
        match jobs.delete(name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => {}
        }
        let deadline = Instant::now() + GONE;
        while jobs.get_opt(name).await.map_err(failed)?.is_some_and(|job| has_ended(&job)) && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until the agent takes sessions.
    async fn ready(&self, name: &str, keys: &str, deadline: Instant, progress: &Progress) -> Result<(Bridge, String), Wait> {
        let pods = Api::<KubePod>::namespaced(self.client.clone(), self.namespace);
        let started = Instant::now();
        let mut waiting = Waiting::until(deadline);
        let mut tls = None;
        let keys = Keys { namespace: self.namespace, name: keys };
        loop {
            let list = pods.list(&ListParams::default().labels(&format!("job-name={name}"))).await;
            let list = list.map_err(|error| Wait::Failed(KubeError::api(format!("list pods in {}", self.namespace), error)))?;
            let address = list.items.first().and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()).filter(|_| self.is_inside);
            let seen = match list.items.first() {
                None => self.no_pod(name, started).await?,
                Some(pod) => self.look(&pods, pod).await?,
            };
            let now = match seen {
                Seen::Waits(now) => now,
                Seen::Runs(pod) => {
                    self.starting.borrow_mut().remove(&self.job(name));
                    match self.dial(&pods, Door { pod: &pod, port: PORT, address }, keys, &mut tls).await {
                        Ok(bridge) => return Ok((bridge, pod)),
                        Err(now) => now,
                    }
                }
            };
            waiting.go_on(now, progress).await?;
        }
    }

    /// Why there is no pod: the Job's events say it, if it has a reason.
    async fn no_pod(&self, name: &str, since: Instant) -> Result<Seen, Wait> {
        let waits = Ok(Seen::Waits("the Job has no pod yet".into()));
        if since.elapsed() < NO_POD {
            return waits;
        }
        let jobs = Api::<Job>::namespaced(self.client.clone(), self.namespace);
        if let Ok(None) = jobs.get_opt(name).await {
            return Err(Wait::Ended(KubeError::Start { why: "its Job was deleted".into(), help: "run the command again".into() }));
        }
        let fields = format!("involvedObject.name={name},involvedObject.kind=Job,reason=FailedCreate");
        let events = Api::<Event>::namespaced(self.client.clone(), self.namespace).list(&ListParams::default().fields(&fields)).await;
        // Without the right to read events there is no more to say.
        let message = events.ok().and_then(|events| events.items.into_iter().filter_map(|event| event.message).next_back());
        match message {
            Some(why) => Err(Wait::Never(KubeError::Start { help: admission_help(&why).into(), why })),
            None => waits,
        }
    }

    async fn look(&self, pods: &Api<KubePod>, pod: &KubePod) -> Result<Seen, Wait> {
        self.judged(pods, &Place::own(pod.name_any()), judge(pod)).await
    }

    /// What becomes of a wait for the agent in a container.
    pub(super) async fn judged(&self, pods: &Api<KubePod>, place: &Place, judged: Judged) -> Result<Seen, Wait> {
        match judged {
            Judged::Waits(state) => Ok(Seen::Waits(state)),
            Judged::Runs => Ok(Seen::Runs(place.pod.clone())),
            Judged::Fails { why, help } => Err(Wait::Never(KubeError::Start { why, help })),
            Judged::Ended(why) => {
                let last = LogParams { tail_lines: Some(3), container: Some(place.container.clone()), ..LogParams::default() };
                let log = pods.logs(&place.pod, &last).await.unwrap_or_default();
                let said = log.lines().rev().find_map(|line| serde_json::from_str(line).ok()).map(KubeError::Agent);
                let help = if log.is_empty() { "run the command again".to_owned() } else { format!("its log ends with: {}", log.trim()) };
                Err(Wait::Ended(said.unwrap_or(KubeError::Start { why, help })))
            }
        }
    }

    /// Asks the agent whether it is ready; the error is what is seen meanwhile. `tls`: from its Secret, which is read once.
    pub(super) async fn dial(
        &self,
        pods: &Api<KubePod>,
        door: Door<'_>,
        keys: Keys<'_>,
        tls: &mut Option<Arc<ClientConfig>>,
    ) -> Result<Bridge, String> {
        let tls = match tls {
            Some(tls) => tls.clone(),
            None => tls.insert(self.keys(keys).await.map_err(|error| error.to_string())?).clone(),
        };
        let way = Way {
            pods: pods.clone(),
            pod: door.pod.to_owned(),
            port: door.port,
            straight: door.address.map(|ip| (ip, door.port).into()),
            tls,
        };
        let bridge = Bridge::open(way.clone()).map_err(|error| error.to_string())?;
        let Err(why) = ready(bridge.path()).await else { return Ok(bridge) };
        // The bridge tries and tries again; the reason is of use now.
        Err(way.obstacle().await.map_or(why, |error| format!("its container runs, but cannot be reached: {error}")))
    }

    async fn keys(&self, keys: Keys<'_>) -> Result<Arc<ClientConfig>, KubeError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), keys.namespace);
        let secret = secrets.get(keys.name).await.map_err(|error| KubeError::api("get the Secret with its keys", error))?;
        keys::session(&secret.data.unwrap_or_default())
    }
}

async fn ready(socket: &Path) -> Result<(), String> {
    match tokio::time::timeout(ASK, ask::ready(socket)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reply)) => Err(format!("its container runs, but {}", reply.error)),
        Err(_) => Err("its container runs, but it does not answer".into()),
    }
}

/// Removes the Job of an agent that does not run; one that runs ends by itself. Whoever else waits for it tries again.
pub async fn discard(client: &Client, namespace: &str, name: &str) {
    let _ = Api::<Job>::namespaced(client.clone(), namespace).delete(name, &DeleteParams::background()).await;
}

/// Agents that run now in pods of their own.
pub async fn running(client: &Client, namespace: &str) -> Result<BTreeSet<Place>, KubeError> {
    let label = format!("{}={}", APP.0, APP.1);
    let list = Api::<KubePod>::namespaced(client.clone(), namespace).list(&ListParams::default().labels(&label)).await;
    let list = list.map_err(|error| KubeError::api(format!("list pods in {namespace}"), error))?;
    Ok(list
        .items
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && judge(pod) == Judged::Runs)
        .map(|pod| Place::own(pod.name_any()))
        .collect())
}

/// Where an agent listens: a pod's port, on its address if we are in the cluster.
#[derive(Clone, Copy)]
pub(super) struct Door<'a> {
    pub pod: &'a str,
    pub port: u16,
    pub address: Option<IpAddr>,
}

/// A Secret.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// Waits for an agent, and tells what is seen meanwhile.
pub(super) struct Waiting {
    deadline: Instant,
    state: String,
    told: Instant,
}

impl Waiting {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, state: "nothing".into(), told: Instant::now() }
    }

    /// Waits a little. What is seen is told when it is new, and from time to time.
    pub(super) async fn go_on(&mut self, now: String, progress: &Progress) -> Result<(), Wait> {
        if now != self.state || self.told.elapsed() >= REMIND {
            progress.detail(&now);
            self.state = now;
            self.told = Instant::now();
        }
        if Instant::now() >= self.deadline {
            return Err(Wait::Slow(self.state.clone()));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}

/// What became of waiting.
pub(super) enum Wait {
    /// It ran, and has ended.
    Ended(KubeError),
    Failed(KubeError),
    /// It does not run, and will not.
    Never(KubeError),
    /// The time is over; what was seen last.
    Slow(String),
}

impl From<KubeError> for Wait {
    fn from(error: KubeError) -> Self {
        Self::Failed(error)
    }
}

/// What is seen of the agent's pod.
pub(super) enum Seen {
    Waits(String),
    Runs(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Waits(String),
    Runs,
    Fails { why: String, help: String },
    Ended(String),
}

/// The state of the agent's pod: will it come to anything?
fn judge(pod: &KubePod) -> Judged {
    let Some(status) = &pod.status else { return Judged::Waits("its pod is new".into()) };
    let unscheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.clone().unwrap_or_default();
        return Judged::Fails {
            why: format!("the node has no place for it: {why}"),
            help: "make room on the pod's node, or set agent.resources, agent.tolerations or agent.priority_class in the config file"
                .into(),
        };
    }
    let container = status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER);
    let Some(container) = container.filter(|container| container.state.is_some()) else {
        let phase = status.phase.as_deref().unwrap_or("Pending");
        return match status.reason.as_deref() {
            Some(reason) if phase == "Failed" => Judged::Fails {
                why: format!("{reason}: {}", status.message.as_deref().unwrap_or_default()),
                help: "make room on the pod's node, or name another target".into(),
            },
            _ => Judged::Waits(format!("its pod is {phase}")),
        };
    };
    judge_container(container)
}

/// The state of its container.
pub(super) fn judge_container(container: &ContainerStatus) -> Judged {
    let Some(state) = &container.state else { return Judged::Waits("its container is new".into()) };
    if let Some(ended) = &state.terminated {
        let reason = ended.reason.clone().unwrap_or_default();
        return Judged::Ended(format!("it ended at once ({reason}, exit code {})", ended.exit_code));
    }
    if state.running.is_some() {
        return Judged::Runs;
    }
    let waiting = state.waiting.clone().unwrap_or_default();
    let (reason, message) = (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
    match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => Judged::Fails {
            why: format!("its image cannot be had: {reason}: {message}"),
            help: "--agent-image names another one, agent.image_pull_secrets in the config file the key to its registry".into(),
        },
        "CreateContainerError" | "RunContainerError" => Judged::Fails {
            why: format!("its container cannot be started: {reason}: {message}"),
            help: "look at the node's container runtime; agent.security_context may name other profiles".into(),
        },
        // The keys come a moment after the Job.
        _ => Judged::Waits(if message.is_empty() { format!("its container is {reason}") } else { format!("{reason}: {message}") }),
    }
}

/// The agent's image, as set or ours.
pub fn image(settings: &Settings) -> String {
    settings.image.clone().unwrap_or_else(|| format!("{}:{}", mirrord_config::kube::IMAGE, env!("CARGO_PKG_VERSION")))
}

/// Whether nothing comes of a Job any more.
pub fn has_ended(job: &Job) -> bool {
    let ended = |condition: &str| matches!(condition, "Complete" | "Failed" | "SuccessCriteriaMet" | "FailureTarget");
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    job.metadata.deletion_timestamp.is_some() || conditions.into_iter().any(|one| one.status == "True" && ended(&one.type_))
}

/// The Secret that its pod mounts.
fn keys_of(job: &Job) -> Option<String> {
    let volumes = job.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    volumes.iter().find(|volume| volume.name == "keys")?.secret.as_ref()?.secret_name.clone()
}

/// Tells this agent's keys from those of the one before it, which may not be gone yet.
pub(super) fn suffix() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:06x}", (now.as_micros() ^ u128::from(std::process::id()) << 8) & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> KubePod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap()
    }

    fn container(state: Value) -> KubePod {
        pod(json!({"phase": "Pending", "containerStatuses": [
            {"name": CONTAINER, "ready": false, "image": "", "imageID": "", "restartCount": 0, "state": state}
        ]}))
    }

    #[test]
    fn what_will_come_to_nothing_is_said_at_once_with_the_remedy() {
        let cases = [
            (container(json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}})), "ErrImagePull: not found", "--agent-image"),
            (container(json!({"waiting": {"reason": "RunContainerError", "message": "no"}})), "RunContainerError: no", "security_context"),
            (
                pod(
                    json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Too many pods"}]}),
                ),
                "Too many pods",
                "make room",
            ),
            (pod(json!({"phase": "Failed", "reason": "OutOfpods", "message": "full"})), "OutOfpods: full", "make room"),
        ];
        for (pod, expected_why, expected_help) in cases {
            match judge(&pod) {
                Judged::Fails { why, help } => assert!(why.contains(expected_why) && help.contains(expected_help), "{why}: {help}"),
                other => panic!("{expected_why}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_may_still_come_is_waited_for() {
        let waits = |text: &str| Judged::Waits(text.into());
        assert_eq!(judge(&pod(json!({"phase": "Pending"}))), waits("its pod is Pending"));
        assert_eq!(judge(&container(json!({"waiting": {"reason": "ContainerCreating"}}))), waits("its container is ContainerCreating"));
        assert_eq!(judge(&container(json!({"running": {}}))), Judged::Runs);
        let ended = judge(&container(json!({"terminated": {"exitCode": 1, "reason": "Error"}})));
        assert_eq!(ended, Judged::Ended("it ended at once (Error, exit code 1)".into()));
    }

    #[test]
    fn a_job_that_has_ended_is_not_joined() {
        let job = |status: Value| -> Job { serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap() };
        assert!(!has_ended(&job(json!({}))));
        assert!(has_ended(&job(json!({"conditions": [{"type": "Complete", "status": "True"}]}))));
        assert!(!has_ended(&job(json!({"conditions": [{"type": "Failed", "status": "False"}]}))));
        let mut deleted = job(json!({}));
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(has_ended(&deleted));
    }
}
