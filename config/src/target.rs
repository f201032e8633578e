//! The grammar of targets: which namespaces the program takes its traffic from. Only the form is checked here; whether such a
//! thing exists is for the command line to find out.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::cluster::ClusterTarget;

/// Fewest characters of a container's id that may stand for the whole.
pub const SHORTEST_CONTAINER_ID: usize = 3;
/// Length of a full id of docker, containerd's CRI, podman and CRI-O: SHA-256 in hex.
pub const FULL_CONTAINER_ID: usize = 64;

/// What the program impersonates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `netns/NAME`: a network namespace that `ip netns` lists.
    Netns(String),
    /// `pid/N`: the network namespace of a process.
    Pid(u32),
    /// `container/ID`: the network namespace of a container's first process.
    Container(ContainerId),
    /// Pods of a cluster.
    Cluster(ClusterTarget),
}

/// A container's id as the user gave it: whole, or the beginning of a hexadecimal one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Whether this names the container with this full id: `full` itself, or a beginning of it if `full` is a long hexadecimal one.
    pub fn matches(&self, full: &str) -> bool {
        self.0 == full || (full.len() == FULL_CONTAINER_ID && full.starts_with(&self.0))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Just a name.
    #[error("`{0}` does not say what kind of target it is")]
    Bare(String),
    /// A kind that nobody knows.
    #[error("`{0}` is not a kind of target")]
    UnknownKind(String),
    /// Nothing behind the slash.
    #[error("the target `{0}/` has no name")]
    NoName(String),
    /// More than kind and name, and perhaps a container.
    #[error("the target `{0}` has parts that mean nothing")]
    TooManyParts(String),
    /// `netns/..`.
    #[error("`{0}` cannot be the name of a network namespace")]
    BadNetns(String),
    /// `pid/x`, `pid/0`.
    #[error("`{0}` is not a process id")]
    BadPid(String),
    /// Too short, or characters that no id has.
    #[error("`{0}` is not a container id")]
    BadContainer(String),
    /// No name of an object in a cluster.
    #[error("`{0}` cannot be the name of an object in a cluster")]
    BadName(String),
    /// `label/x`.
    #[error("`{0}` is no list of labels")]
    BadLabels(String),
    /// `label/a=b,a=c`.
    #[error("the label `{0}` is given twice")]
    LabelTwice(String),
}

/// What a target may look like.
const FORMS: &str = "pod/NAME, deployment/NAME, statefulset/NAME, service/NAME, label/KEY=VALUE … (with /container/NAME behind it if need be), or on this machine netns/NAME, pid/N, container/ID";

impl TargetError {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::Bare(name) => {
                format!(
                    "write pod/{name} or deployment/{name} in a cluster, or netns/{name} for a network namespace of this machine (`ip netns` lists them)"
                )
            }
            Self::UnknownKind(_) => format!("use {FORMS}"),
            Self::NoName(kind) => match kind.as_str() {
                "netns" => "`ip netns` lists the network namespaces".into(),
                "pid" => "write the process id behind it, for instance pid/4242".into(),
                "container" => "`docker ps`, `podman ps` or `crictl ps` shows the ids".into(),
                "label" => "write label/KEY=VALUE, with a comma between several".into(),
                _ => "`mirrord ls` shows what there is".into(),
            },
            Self::TooManyParts(_) => format!("use {FORMS}"),
            Self::BadName(_) => "names there have small letters, digits, - and . in them; `mirrord ls` shows what there is".into(),
            Self::BadLabels(_) => "write KEY=VALUE, with a comma between several, for instance label/app=shop,tier=web".into(),
            Self::LabelTwice(_) => "a pod has one value for it: leave out the other".into(),
            Self::BadNetns(_) => "a name is one that `ip netns` lists; it has no slash and is neither . nor ..".into(),
            Self::BadPid(_) => "write a decimal number above 0, for instance pid/4242".into(),
            Self::BadContainer(_) => format!(
                "write the id, or at least its first {SHORTEST_CONTAINER_ID} characters; `docker ps --no-trunc`, `podman ps` or `crictl ps` shows it"
            ),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (kind, name) = text.split_once('/').map_or((text, None), |(kind, name)| (kind, Some(name)));
        if let Some(read) = ClusterTarget::parse(kind, name) {
            return read.map(Self::Cluster);
        }
        let name = match name {
            Some(name) => name,
            None if matches!(text, "netns" | "pid" | "container") => return Err(TargetError::NoName(text.into())),
            None => return Err(TargetError::Bare(text.into())),
        };
        if !matches!(kind, "netns" | "pid" | "container") {
            return Err(TargetError::UnknownKind(kind.into()));
        }
        if name.is_empty() {
            return Err(TargetError::NoName(kind.into()));
        }
        if name.contains('/') {
            return Err(TargetError::TooManyParts(text.into()));
        }
        match kind {
            "netns" => netns(name),
            "pid" => pid(name),
            _ => container(name),
        }
    }
}

fn netns(name: &str) -> Result<Target, TargetError> {
    if name == "." || name == ".." || name.contains('\0') {
        return Err(TargetError::BadNetns(name.into()));
    }
    Ok(Target::Netns(name.into()))
}

fn pid(text: &str) -> Result<Target, TargetError> {
    let bad = || TargetError::BadPid(text.into());
    // `parse` alone would take `+1`.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    // The kernel's process ids are positive `int`s.
    match text.parse::<u32>() {
        Ok(pid) if (1..=i32::MAX as u32).contains(&pid) => Ok(Target::Pid(pid)),
        _ => Err(bad()),
    }
}

fn container(id: &str) -> Result<Target, TargetError> {
    // containerd takes more than hexadecimal ids: `ctr run IMAGE shop` makes the id `shop`.
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if id.len() < SHORTEST_CONTAINER_ID || !id.bytes().all(known) || !id.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(TargetError::BadContainer(id.into()));
    }
    Ok(Target::Container(ContainerId(id.into())))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(name) => write!(f, "netns/{name}"),
            Self::Pid(pid) => write!(f, "pid/{pid}"),
            Self::Container(id) => write!(f, "container/{id}"),
            Self::Cluster(target) => target.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> TargetError {
        text.parse::<Target>().unwrap_err()
    }

    #[test]
    fn every_kind_is_read_and_printed_as_it_was_written() {
        for text in ["netns/shop", "netns/a b", "pid/1", "pid/2147483647", "container/abc", "container/my-shop_1.0"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_malformed_says_which_part() {
        assert_eq!(fails("shop"), TargetError::Bare("shop".into()));
        assert!(fails("shop").help().contains("netns/shop"));
        assert_eq!(fails(""), TargetError::Bare("".into()));
        assert_eq!(fails("/shop"), TargetError::UnknownKind("".into()));
        assert_eq!(fails("vm/shop"), TargetError::UnknownKind("vm".into()));
        assert_eq!(fails("netns/"), TargetError::NoName("netns".into()));
        assert_eq!(fails("pid"), TargetError::NoName("pid".into()));
        assert_eq!(fails("netns/a/b"), TargetError::TooManyParts("netns/a/b".into()));
        assert_eq!(fails("netns/.."), TargetError::BadNetns("..".into()));
        for pid in ["0", "-1", "+1", "x", "1x", "2147483648", "99999999999"] {
            assert_eq!(fails(&format!("pid/{pid}")), TargetError::BadPid(pid.into()));
        }
        for id in ["ab", "a b c", "../x", "-abc"] {
            assert!(matches!(fails(&format!("container/{id}")), TargetError::BadContainer(_) | TargetError::TooManyParts(_)), "{id}");
        }
    }

    #[test]
    fn only_long_hexadecimal_ids_have_short_forms() {
        let full = "0123456789abcdef".repeat(4);
        let id = |text: &str| ContainerId(text.into());
        assert!(id("012").matches(&full) && id(&full).matches(&full));
        assert!(!id("123").matches(&full));
        assert!(id("shop").matches("shop") && !id("sho").matches("shop"));
    }
}
