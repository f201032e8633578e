//! From a container's id to its first process, by the cgroups in which docker, containerd, podman and CRI-O put a container's
//! processes: `/proc/PID/cgroup`, both versions. No runtime is asked, so names of containers mean nothing here.

use std::{collections::BTreeMap, fs, path::Path};

use mirrord_config::{ContainerId, target::FULL_CONTAINER_ID};
use thiserror::Error;

/// Why an id leads to no process.
#[derive(Debug, Error)]
pub enum ContainerError {
    #[error("no running container on this machine has the id `{id}`")]
    None { id: ContainerId, known: Vec<String> },
    #[error("more than one container's id begins with `{id}`")]
    Several { id: ContainerId, matching: Vec<String> },
}

impl ContainerError {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::None { id, known } => {
                let ask = format!(
                    "the id is needed, not the container's name: `docker inspect -f '{{{{.Id}}}}' {id}`, `podman inspect` or `crictl ps` shows it"
                );
                if known.is_empty() { ask } else { format!("running are {}; {ask}", shortened(known)) }
            }
            Self::Several { matching, .. } => format!("give more of it: {}", shortened(matching)),
        }
    }
}

/// Enough of each id to be told apart by eye.
fn shortened(ids: &[String]) -> String {
    let ids: Vec<_> = ids.iter().take(10).map(|id| if id.len() == FULL_CONTAINER_ID { &id[..20] } else { id }).collect();
    ids.join(", ")
}

/// The oldest process of the container with this id. `proc` is `/proc`.
pub fn first_process(proc: &Path, id: &ContainerId) -> Result<u32, ContainerError> {
    // Container id → start time and number of its oldest process.
    let mut matching: BTreeMap<String, (u64, u32)> = BTreeMap::new();
    let mut known = Vec::new();
    for pid in processes(proc) {
        let folder = proc.join(pid.to_string());
        // A process that ends while we look belongs to no container.
        let Ok(cgroups) = fs::read_to_string(folder.join("cgroup")) else { continue };
        if let Some(full) = containers(&cgroups).find(|full| id.matches(full)) {
            let Some(started) = fs::read_to_string(folder.join("stat")).ok().and_then(|stat| start_time(&stat)) else { continue };
            let oldest = matching.entry(full.into()).or_insert((started, pid));
            *oldest = (*oldest).min((started, pid));
        } else if let Some(other) = containers(&cgroups).find(|full| full.len() == FULL_CONTAINER_ID) {
            known.push(other.to_owned());
        }
    }
    match matching.len() {
        0 => {
            known.sort();
            known.dedup();
            Err(ContainerError::None { id: id.clone(), known })
        }
        1 => Ok(matching.into_values().map(|(_, pid)| pid).next().unwrap_or_default()),
        _ => Err(ContainerError::Several { id: id.clone(), matching: matching.into_keys().collect() }),
    }
}

fn processes(proc: &Path) -> impl Iterator<Item = u32> {
    fs::read_dir(proc).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Field 22 of `/proc/PID/stat`: ticks from boot to the process's start. The name in the second field may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What may be a container's id in the lines `HIERARCHY:CONTROLLERS:PATH` of a process.
fn containers(cgroups: &str) -> impl Iterator<Item = &str> {
    cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter_map(container)
}

/// The id in a cgroup's path. A container within a container has two; the inner one is whose process it is. Below the id there may be
/// more (systemd in a container). Without a long hexadecimal id it is the last part, as containerd's `ctr` names it.
fn container(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(hexadecimal).or_else(|| path.rsplit('/').next().filter(|last| !last.is_empty()))
}

/// The id in one part of a path: `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`, or
/// `kubepods-….slice:cri-containerd:ID`.
fn hexadecimal(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // These watch a container from outside, in the machine's own network.
    if part.contains("conmon") {
        return None;
    }
    let id = part.rsplit(['-', ':']).next()?;
    (id.len() == FULL_CONTAINER_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mirrord_config::Target;

    use super::*;

    const A: &str = "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11";
    const B: &str = "aa22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22";

    #[test]
    fn each_runtime_writes_its_ids_elsewhere() {
        let paths = [
            format!("/docker/{A}"),
            format!("/system.slice/docker-{A}.scope"),
            format!("/docker/{A}/init.scope"),
            format!("/docker/{B}/docker/{A}"),
            format!("/kubepods/besteffort/pod0b2e/{A}"),
            format!("/kubepods.slice/kubepods-pod0b2e.slice/cri-containerd-{A}.scope"),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod0b2e.slice:cri-containerd:{A}"),
            format!("/kubepods.slice/kubepods-pod0b2e.slice/crio-{A}.scope/container"),
            format!("/machine.slice/libpod-{A}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope"),
        ];
        for path in paths {
            assert_eq!(container(&path), Some(A), "{path}");
        }
        assert_eq!(container("/default/shop"), Some("shop"));
        assert_eq!(container("/"), None);
        assert_eq!(hexadecimal(&format!("libpod-conmon-{A}.scope")), None);
        assert_eq!(hexadecimal(&format!("crio-conmon-{A}.scope")), None);
    }

    /// A folder like /proc, of (pid, start time, cgroup file).
    fn proc(processes: &[(u32, u64, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for (pid, started, cgroup) in processes {
            let own = folder.path().join(pid.to_string());
            fs::create_dir(&own).unwrap();
            fs::write(own.join("cgroup"), cgroup).unwrap();
            let stat = format!("{pid} (a) b) S 1{} {started} 0 0", " 0".repeat(17));
            fs::write(own.join("stat"), stat).unwrap();
        }
        let path = folder.path().to_owned();
        (folder, path)
    }

    fn id(text: &str) -> ContainerId {
        match format!("container/{text}").parse().unwrap() {
            Target::Container(id) => id,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_oldest_process_is_the_first_whatever_its_number() {
        let v1 = format!("9:name=systemd:/\n8:pids:/docker/{A}\n0::/\n");
        let v2 = format!("0::/system.slice/docker-{B}.scope\n");
        let (_guard, proc) =
            proc(&[(70, 500, &v1), (900, 100, &v1), (4, 100, &v2), (1, 1, "0::/init.scope\n"), (2, 1, "0::/default/shop\n")]);
        assert_eq!(first_process(&proc, &id("aa1")).unwrap(), 900);
        assert_eq!(first_process(&proc, &id(B)).unwrap(), 4);
        assert_eq!(first_process(&proc, &id("shop")).unwrap(), 2);
        assert!(matches!(first_process(&proc, &id("aa0")), Err(ContainerError::None { known, .. }) if known == [A, B]));
    }

    #[test]
    fn an_ambiguous_beginning_is_refused_with_what_it_could_be() {
        let (_guard, proc) = proc(&[(1, 1, &format!("0::/docker/{A}")), (2, 1, &format!("0::/docker/{}", B))]);
        // Both ids begin with `aa`, and three characters tell them apart; so make a third that they do not.
        let third = format!("aa1{}", &B[3..]);
        let own = proc.join("3");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("cgroup"), format!("0::/docker/{third}")).unwrap();
        fs::write(own.join("stat"), fs::read(proc.join("1/stat")).unwrap()).unwrap();
        let error = first_process(&proc, &id("aa1")).unwrap_err();
        assert!(error.help().contains(&A[..20]) && error.help().contains(&third[..20]), "{}", error.help());
    }
}
