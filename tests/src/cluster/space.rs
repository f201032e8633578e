//! A namespace of the cluster for one test: what it applies there, asks there and sends there.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{PodObject, dev, kubeconfig, kubectl, ready};
use crate::{
    http::{Client, Request},
    load::Others,
    machine::{Share, manifest, output, run},
    netns::Handle,
    session::ME,
    wait::within,
    watchdog,
};

/// Longest time that the cluster may take for anything: images are there, but two processors serve everybody.
const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace; the cluster deletes it and all in it when this is dropped.
pub struct Space {
    /// Its name in the cluster.
    pub name: String,
    /// Files of this test.
    pub folder: TempDir,
    _share: Share,
}

impl Space {
    /// A new one, beside other tests.
    pub fn new() -> Self {
        Self::build(Share::shared)
    }

    /// A new one, while no other test runs: for what measures time.
    pub fn alone() -> Self {
        Self::build(Share::alone)
    }

    fn build(share: fn() -> Share) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ready();
        let share = share();
        let name = format!("mt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix(&name).tempdir_in("/tmp").unwrap();
        let space = Self { name, folder, _share: share };
        space.kubectl(&format!("create namespace {}", space.name));
        // A pod that comes before it is refused.
        space.eventually("the namespace has its service account", || space.try_kubectl("get serviceaccount default").ok());
        space
    }

    /// `kubectl` in this namespace; what it printed.
    #[track_caller]
    pub fn kubectl(&self, words: &str) -> String {
        run(self.command().args(words.split_whitespace()))
    }

    /// The same with each argument as it is.
    #[track_caller]
    pub fn kubectl_with(&self, arguments: &[&str]) -> String {
        run(self.command().args(arguments))
    }

    /// The same for what may fail: then its complaint.
    pub fn try_kubectl(&self, words: &str) -> Result<String, String> {
        let output = output(self.command().args(words.split_whitespace()).stdin(std::process::Stdio::null()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// `kubectl` to be run by the caller.
    pub fn command(&self) -> Command {
        let mut command = kubectl();
        command.args(["--namespace", &self.name]);
        command
    }

    /// An object, as JSON.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("get {what} -o json"))).unwrap()
    }

    /// Applies a manifest's text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let file = self.folder.path().join("manifest.yaml");
        fs::write(&file, manifest).unwrap();
        self.kubectl_with(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// A manifest of `tests/cluster/manifests`.
    pub fn manifest(name: &str) -> String {
        fs::read_to_string(manifest().join("cluster/manifests").join(format!("{name}.yaml"))).unwrap()
    }

    /// Deployment `shop`, all replicas ready, and its Service, which answers the pod `client`.
    #[track_caller]
    pub fn shop(&self, replicas: u32) {
        self.apply(&Self::manifest("shop").replace("replicas: 3", &format!("replicas: {replicas}")));
        self.rolled_out("deployment/shop");
        self.eventually("the client runs", || self.pods("app=client").iter().any(|pod| pod.ready).then_some(()));
        self.reachable(&self.client(), self.service("shop", 80));
    }

    /// Waits until kube-proxy has heard of an address: that of a Service, or a node port.
    #[track_caller]
    pub fn reachable(&self, from: &Handle, address: SocketAddr) {
        self.eventually(&format!("{address} can be reached"), || Client::try_connect(from, address).ok());
    }

    /// Teaches the cluster what a Rollout of Argo is, by that project's own definition; nobody acts on it.
    #[track_caller]
    pub fn argo_rollouts(&self) {
        let definition = run(&mut Command::new(manifest().join("cluster/argo.sh")));
        // As a client's annotation it would be too long.
        self.kubectl_with(&["apply", "--server-side", "-f", definition.trim()]);
        self.eventually("the kind is known", || self.try_kubectl("get rollouts").ok());
    }

    /// Waits until a workload has all of its replicas, of its newest kind, and no others.
    #[track_caller]
    pub fn rolled_out(&self, workload: &str) {
        let what = format!("{workload} is rolled out");
        let selector = self.get(workload)["spec"]["selector"]["matchLabels"]["app"].as_str().unwrap_or_default().to_owned();
        self.eventually(&what, || {
            self.try_kubectl(&format!("rollout status {workload} --timeout=20s")).ok()?;
            self.pods(&format!("app={selector}")).iter().all(|pod| pod.ready).then_some(())
        });
    }

    /// The pods with these labels, by name.
    #[track_caller]
    pub fn pods(&self, labels: &str) -> Vec<PodObject> {
        let list = self.get(&format!("pods --selector {labels} --sort-by=.metadata.name"));
        list["items"].as_array().unwrap().iter().cloned().map(PodObject::of).collect()
    }

    /// One pod by its name.
    #[track_caller]
    pub fn pod(&self, name: &str) -> PodObject {
        PodObject::of(self.get(&format!("pod {name}")))
    }

    /// The address of a Service, for pods.
    #[track_caller]
    pub fn service(&self, name: &str, port: u16) -> SocketAddr {
        let ip = self.get(&format!("service {name}"))["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(ip, port)
    }

    /// Where other people are: the network of the pod `client`.
    #[track_caller]
    pub fn client(&self) -> Handle {
        self.pod("client").network()
    }

    /// A request of the pod `client` through a Service, on a connection of its own. Its answer's text.
    #[track_caller]
    pub fn ask(&self, service: &str, path: &str, headers: &[&str]) -> String {
        let (client, address) = (self.client(), self.service(service, 80));
        let request = Request::new(&client, address, "GET", path);
        headers.iter().fold(request, |request, header| request.with(header)).send().text()
    }

    /// The same where it may fail: then nothing.
    pub fn try_ask(&self, service: &str, path: &str, headers: &[&str]) -> Option<String> {
        let (client, address) = (self.client(), self.service(service, 80));
        let request = Request::new(&client, address, "GET", path);
        let request = headers.iter().fold(request, |request, header| request.with(header));
        request.try_send().ok().map(|response| response.text())
    }

    /// So many other people in the pod `client`, whose requests through the Service must all be answered, by pods.
    #[track_caller]
    pub fn others(&self, service: &str, clients: usize) -> Others {
        Others::start(&self.client(), &[self.service(service, 80)], clients, &[])
    }

    /// Asks deployment `shop` so many times as user `me`, and as often as nobody: who answers the one, and who the others.
    #[track_caller]
    pub fn answers(&self, count: usize) -> (BTreeSet<String>, BTreeSet<String>) {
        let ask = |headers: &[&str]| self.ask("shop", "/", headers).split(" GET").next().unwrap_or_default().to_owned();
        ((0..count).map(|_| ask(&[ME])).collect(), (0..count).map(|_| ask(&[])).collect())
    }

    /// The pods of agents that run here.
    #[track_caller]
    pub fn agents(&self) -> Vec<PodObject> {
        self.pods("app=mirrord").into_iter().filter(|pod| pod.phase == "Running" && !pod.ending).collect()
    }

    /// Waits until nothing of ours is left here: no job, no pod, no keys.
    #[track_caller]
    pub fn agents_gone(&self) {
        self.eventually("jobs, pods and secrets are gone", || {
            let left = self.kubectl("get jobs,pods,secrets -l app=mirrord -o name");
            left.trim().is_empty().then_some(())
        });
    }

    /// A config file of this test; its path.
    #[track_caller]
    pub fn config(&self, text: &str) -> String {
        let path = self.folder.path().join("mirrord.json");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().into()
    }

    /// A command on the developer's machine; this namespace is the one that its kubeconfig names.
    pub fn dev(&self, program: &str) -> Command {
        let mut command = dev(program);
        command.env("KUBECONFIG", self.kubeconfig("admin"));
        command
    }

    /// Credentials of a user ([`kubeconfig`]) with this namespace as the default.
    #[track_caller]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{user}.kubeconfig"));
        let text = fs::read_to_string(kubeconfig(user)).unwrap();
        fs::write(&path, text.replace("cluster: test, user", &format!("namespace: {}, cluster: test, user", self.name))).unwrap();
        path
    }

    /// Polls until `probe` gives a value.
    #[track_caller]
    pub fn eventually<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        let _waiting = watchdog::waiting(what);
        match within(PATIENCE, probe) {
            Some(value) => value,
            None => panic!("not within {PATIENCE:?}: {what}"),
        }
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["get pods,jobs,replicasets -o wide", "get events --sort-by=.lastTimestamp"] {
                eprintln!("--- {what} in {}:\n{}", self.name, self.try_kubectl(what).unwrap_or_else(|error| error));
            }
        }
        let _ = self.try_kubectl(&format!("delete namespace {} --wait=false", self.name));
    }
}
