//! Pods as the API server tells of them, and the processes that they are on this machine.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{netns::Handle, processes::Process};

/// A pod at the moment of asking.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// Its name.
    pub name: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Whether it is ready, and not about to go.
    pub ready: bool,
    /// Whether it is about to go.
    pub ending: bool,
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: String,
    /// All that have been started: containers, sidecars, ephemeral ones.
    pub containers: Vec<Container>,
    /// Everything else.
    pub object: Value,
}

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its id, as containerd and the cgroup have it.
    pub id: String,
    /// How often it was started again.
    pub restarts: u64,
}

impl PodObject {
    pub(super) fn of(object: Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let ending = object.pointer("/metadata/deletionTimestamp").is_some();
        let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let is_ready = list("/status/conditions").any(|one| one["type"] == "Ready" && one["status"] == "True");
        let statuses = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
        let containers = statuses.into_iter().flat_map(|kind| list(&format!("/status/{kind}"))).filter_map(Container::of).collect();
        Self {
            name: text("/metadata/name"),
            ip: text("/status/podIP").parse().ok(),
            ready: is_ready && !ending,
            ending,
            phase: text("/status/phase"),
            containers,
            object,
        }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<String> {
        self.object["metadata"]["labels"][name].as_str().map(str::to_owned)
    }

    /// What tells it from another pod of the same name.
    pub fn uid(&self) -> String {
        self.object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    }

    /// The first process of a container.
    #[track_caller]
    pub fn process(&self, container: &str) -> Process {
        let found = self.containers.iter().find(|one| one.name == container);
        let found = found.unwrap_or_else(|| panic!("no container {container} has been started in {self:?}"));
        found.processes().first().copied().unwrap_or_else(|| panic!("container {container} of {} has ended", self.name))
    }

    /// A way into the pod's network.
    #[track_caller]
    pub fn network(&self) -> Handle {
        let processes = self.containers.iter().flat_map(Container::processes);
        let first = { processes }.next().unwrap_or_else(|| panic!("nothing runs in {}", self.name));
        Handle::of_process(first.0)
    }
}

impl Container {
    fn of(status: &Value) -> Option<Self> {
        let (_, id) = status["containerID"].as_str()?.split_once("://")?;
        let restarts = status["restartCount"].as_u64().unwrap_or_default();
        Some(Self { name: status["name"].as_str()?.into(), id: id.into(), restarts })
    }

    /// What runs in it, the oldest first. The kernel knows by its cgroup; no runtime is asked.
    pub fn processes(&self) -> Vec<Process> {
        let list = self.group("pids").and_then(|group| fs::read_to_string(group.join("cgroup.procs")).ok()).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).map(Process).collect()
    }

    /// Bytes of memory that the kernel counts as its processes', without the files that it keeps for them in its page cache.
    pub fn memory(&self) -> u64 {
        let group = self.group("memory").unwrap_or_else(|| panic!("container {} has ended", self.name));
        let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        let cached = |field: &str| {
            let all = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' ')?.parse::<u64>().ok())
        };
        // The second of each pair is that of cgroup v2.
        let used = number("memory.usage_in_bytes").or_else(|| number("memory.current")).unwrap();
        used - cached("total_cache").or_else(|| cached("file")).unwrap()
    }

    fn group(&self, controller: &str) -> Option<PathBuf> {
        let folders = [format!("/sys/fs/cgroup/{controller}/kubepods"), "/sys/fs/cgroup/kubepods".to_owned()].map(PathBuf::from);
        folders.iter().find_map(|folder| find(folder, &self.id))
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let found = folder.join(name);
    if found.is_dir() {
        return Some(found);
    }
    fs::read_dir(folder).ok()?.flatten().filter(|entry| entry.path().is_dir()).find_map(|entry| find(&entry.path(), name))
}
