//! From a target to the network namespace that it lives in: that it exists, is one, and is not our own.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mirrord_config::Target;
use thiserror::Error;

use crate::{
    container::{self, ContainerError},
    sys,
};

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// A path to it that is good for as long as the target lives.
    pub path: PathBuf,
    /// What tells it from all others on this machine.
    pub inode: u64,
}

/// Why a target leads to no namespace to work in.
#[derive(Debug, Error)]
pub enum NamespaceError {
    #[error("there is no network namespace `{name}`")]
    NoNetns { name: String, known: Vec<String> },
    #[error("`{0}` is the name of a network namespace that is gone")]
    StaleNetns(String),
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("{0}")]
    Container(#[from] ContainerError),
    #[error("the network namespace of {target} cannot be looked at: {error}")]
    Unreadable { target: Target, error: io::Error },
    #[error("{0} is in a cluster, where this command does not look yet")]
    InCluster(Target),
    #[error("{0} is in the same network namespace as mirrord itself, so the traffic of this whole machine would be redirected")]
    Own(Target),
}

impl NamespaceError {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::NoNetns { known, .. } if known.is_empty() => {
                "there are none on this machine; `ip netns add NAME` makes one, pid/N and container/ID need none".into()
            }
            Self::NoNetns { known, .. } => format!("there are: {}", known.join(", ")),
            Self::StaleNetns(name) => format!("remove what is left of it with `ip netns delete {name}`, and make it anew"),
            Self::NoProcess(_) => "it may have ended; `ps` or `pgrep` shows the one of now".into(),
            Self::Container(error) => error.help(),
            Self::InCluster(_) => "run it on the pod's node with a target of that machine, or use `mirrord exec`".into(),
            Self::Unreadable { .. } => "run mirrord as root".into(),
            Self::Own(_) => {
                "choose a target with a network of its own (a container without --network host, or a namespace of `ip netns`)".into()
            }
        }
    }
}

/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";

/// Finds the target's namespace.
pub fn find(target: &Target) -> Result<Namespace, NamespaceError> {
    let path = match target {
        Target::Netns(name) => netns(name)?,
        Target::Pid(pid) => process(*pid)?,
        Target::Container(id) => process(container::first_process(Path::new("/proc"), id)?)?,
        Target::Cluster(_) => return Err(NamespaceError::InCluster(target.clone())),
    };
    let unreadable = |error: io::Error| match (error.kind(), target) {
        // Between two looks at it, or a zombie, which has no namespaces any more.
        (io::ErrorKind::NotFound, Target::Pid(pid)) => NamespaceError::NoProcess(*pid),
        _ => NamespaceError::Unreadable { target: target.clone(), error },
    };
    let file = File::open(&path).map_err(unreadable)?;
    if !sys::is_network_namespace(&file) {
        return Err(NamespaceError::StaleNetns(target.to_string().trim_start_matches("netns/").into()));
    }
    let (found, own) = (file.metadata().map_err(unreadable)?, fs::metadata("/proc/self/ns/net").map_err(unreadable)?);
    if (found.dev(), found.ino()) == (own.dev(), own.ino()) {
        return Err(NamespaceError::Own(target.clone()));
    }
    Ok(Namespace { path, inode: found.ino() })
}

/// The host name that the target's process sees, if it has one of its own. A namespace of `ip netns` is the network's alone.
pub fn host_name(target: &Target) -> Option<String> {
    let pid = match target {
        Target::Pid(pid) => *pid,
        Target::Container(id) => container::first_process(Path::new("/proc"), id).ok()?,
        Target::Netns(_) | Target::Cluster(_) => return None,
    };
    sys::host_name(File::open(format!("/proc/{pid}/ns/uts")).ok()?).ok()?
}

fn netns(name: &str) -> Result<PathBuf, NamespaceError> {
    let path = Path::new(NETNS).join(name);
    // A file that is no mount of a namespace must not be opened: it may be a pipe.
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err(NamespaceError::StaleNetns(name.into())),
        Err(_) => {
            let entries = fs::read_dir(NETNS).into_iter().flatten().flatten();
            let mut known: Vec<_> = entries.map(|entry| format!("netns/{}", entry.file_name().display())).collect();
            known.sort();
            known.truncate(20);
            Err(NamespaceError::NoNetns { name: name.into(), known })
        }
    }
}

fn process(pid: u32) -> Result<PathBuf, NamespaceError> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    if !folder.exists() {
        return Err(NamespaceError::NoProcess(pid));
    }
    Ok(folder.join("ns/net"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_refused() {
        let error = find(&Target::Pid(std::process::id())).unwrap_err();
        assert!(matches!(error, NamespaceError::Own(_)), "{error}");
    }

    #[test]
    fn what_does_not_exist_is_said_so() {
        // Above the kernel's greatest process id.
        assert!(matches!(find(&Target::Pid(1 << 30)), Err(NamespaceError::NoProcess(_))));
        let error = find(&Target::Netns("no such name".into())).unwrap_err();
        assert!(matches!(error, NamespaceError::NoNetns { .. }), "{error}");
    }
}
