//! From a container's id to its first process, by the cgroups in which docker, containerd, podman and CRI-O put a container's
//! processes: `/proc/PID/cgroup`, both versions. No runtime is asked, so names of containers mean nothing here.
//!
//! A crate because both the command line (a container of this machine) and the agent (a container of its node) look.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::{collections::BTreeMap, fs, path::Path};

/// Length of a full id of docker, containerd's CRI, podman and CRI-O: SHA-256 in hex.
pub const FULL_ID: usize = 64;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its oldest process.
    Process(u32),
    /// No container with such an id; those that there are.
    None {
        /// Full ids.
        known: Vec<String>,
    },
    /// Several containers; their ids.
    Several(Vec<String>),
}

/// The oldest process of the container whose full id `is_meant`. `proc` is `/proc`.
pub fn first_process(proc: &Path, is_meant: impl Fn(&str) -> bool) -> Found {
    // Container id → start time and number of its oldest process.
    let mut matching: BTreeMap<String, (u64, u32)> = BTreeMap::new();
    let mut known = Vec::new();
    for pid in processes(proc) {
        let folder = proc.join(pid.to_string());
        // A process that ends while we look belongs to no container.
        let Ok(cgroups) = fs::read_to_string(folder.join("cgroup")) else { continue };
        if let Some(full) = containers(&cgroups).find(|full| is_meant(full)) {
            let Some(started) = fs::read_to_string(folder.join("stat")).ok().and_then(|stat| start_time(&stat)) else { continue };
            let oldest = matching.entry(full.into()).or_insert((started, pid));
            *oldest = (*oldest).min((started, pid));
        } else if let Some(other) = containers(&cgroups).find(|full| full.len() == FULL_ID) {
            known.push(other.to_owned());
        }
    }
    match matching.len() {
        0 => {
            known.sort();
            known.dedup();
            Found::None { known }
        }
        1 => Found::Process(matching.into_values().map(|(_, pid)| pid).next().unwrap_or_default()),
        _ => Found::Several(matching.into_keys().collect()),
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
    (id.len() == FULL_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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

    fn begins(text: &str) -> impl Fn(&str) -> bool {
        move |full| full.starts_with(text)
    }

    #[test]
    fn the_oldest_process_is_the_first_whatever_its_number() {
        let v1 = format!("9:name=systemd:/\n8:pids:/docker/{A}\n0::/\n");
        let v2 = format!("0::/system.slice/docker-{B}.scope\n");
        let (_guard, proc) =
            proc(&[(70, 500, &v1), (900, 100, &v1), (4, 100, &v2), (1, 1, "0::/init.scope\n"), (2, 1, "0::/default/shop\n")]);
        assert_eq!(first_process(&proc, begins("aa1")), Found::Process(900));
        assert_eq!(first_process(&proc, begins(B)), Found::Process(4));
        assert_eq!(first_process(&proc, begins("shop")), Found::Process(2));
        assert_eq!(first_process(&proc, begins("aa0")), Found::None { known: vec![A.into(), B.into()] });
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
        assert_eq!(first_process(&proc, begins("aa1")), Found::Several(vec![A.into(), third]));
    }
}
