//! Targets that live in a cluster: their grammar. Whether such a thing exists is for the command line to find out.

use std::fmt;

use crate::target::TargetError;

/// A kind of object that has pods, or is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `pod/N`.
    Pod,
    /// `deployment/N`, `deploy/N`.
    Deployment,
    /// `rollout/N` (Argo).
    Rollout,
    /// `statefulset/N`.
    StatefulSet,
    /// `daemonset/N`.
    DaemonSet,
    /// `replicaset/N`.
    ReplicaSet,
    /// `job/N`.
    Job,
    /// `cronjob/N`.
    CronJob,
    /// `service/N`.
    Service,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Pod,
        Self::Deployment,
        Self::Rollout,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::ReplicaSet,
        Self::Job,
        Self::CronJob,
        Self::Service,
    ];

    /// As it stands before the slash.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Deployment => "deployment",
            Self::Rollout => "rollout",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::ReplicaSet => "replicaset",
            Self::Job => "job",
            Self::CronJob => "cronjob",
            Self::Service => "service",
        }
    }

    /// The kind that a word means.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        if word == "deploy" { Some(Self::Deployment) } else { Self::ALL.into_iter().find(|kind| kind.word() == word) }
    }
}

/// A target in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterTarget {
    /// Nothing is impersonated.
    Targetless,
    /// `KIND/NAME[/container/C]`.
    Workload {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// The container that was named.
        container: Option<String>,
    },
    /// `label/K=V,…[/container/C]`: pods that have all of these labels.
    Labels {
        /// Keys and values.
        labels: Vec<(String, String)>,
        /// The container that was named.
        container: Option<String>,
    },
}

impl ClusterTarget {
    /// Reads `rest`, which stands behind `word/`. `None`: the word is none of ours.
    pub(crate) fn parse(word: &str, rest: Option<&str>) -> Option<Result<Self, TargetError>> {
        match (word, rest) {
            ("targetless", None) => Some(Ok(Self::Targetless)),
            ("targetless", Some(_)) => Some(Err(TargetError::TooManyParts(format!("{word}/{}", rest.unwrap_or_default())))),
            ("label", Some(rest)) => Some(labels(rest)),
            ("label", None) => Some(Err(TargetError::NoName(word.into()))),
            (word, rest) => {
                let kind = Kind::of(word)?;
                Some(
                    rest.filter(|rest| !rest.is_empty())
                        .ok_or_else(|| TargetError::NoName(word.into()))
                        .and_then(|rest| workload(kind, rest)),
                )
            }
        }
    }

    /// The container that was named.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Targetless => None,
            Self::Workload { container, .. } | Self::Labels { container, .. } => container.as_deref(),
        }
    }
}

fn workload(kind: Kind, rest: &str) -> Result<ClusterTarget, TargetError> {
    let (name, container) = match rest.split_once('/') {
        None => (rest, None),
        Some((name, behind)) => (name, Some(container(kind.word(), rest, behind)?)),
    };
    if !is_object_name(name) {
        return Err(TargetError::BadName(name.into()));
    }
    Ok(ClusterTarget::Workload { kind, name: name.into(), container })
}

/// What stands behind the name: `container/C`.
fn container(word: &str, rest: &str, behind: &str) -> Result<String, TargetError> {
    match behind.strip_prefix("container/") {
        Some("") => Err(TargetError::NoName(format!("{word}/{}", rest.trim_end_matches('/')))),
        Some(name) if name.contains('/') => Err(TargetError::TooManyParts(format!("{word}/{rest}"))),
        Some(name) if is_object_name(name) => Ok(name.into()),
        Some(name) => Err(TargetError::BadName(name.into())),
        None => Err(TargetError::TooManyParts(format!("{word}/{rest}"))),
    }
}

fn labels(rest: &str) -> Result<ClusterTarget, TargetError> {
    // A key may have a slash itself, as in app.kubernetes.io/name=shop.
    let (text, container) = match rest.split_once("/container/") {
        None => (rest, None),
        Some((text, _)) => (text, Some(self::container("label", rest, &rest[text.len() + 1..])?)),
    };
    let bad = || TargetError::BadLabels(text.into());
    let mut labels: Vec<(String, String)> = Vec::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').filter(|(key, value)| !key.is_empty() && !value.contains('=')).ok_or_else(bad)?;
        let fits = |text: &str, more: &[u8]| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || more.contains(&byte))
        };
        if !fits(key, b"/") || !fits(value, b"") {
            return Err(bad());
        }
        if labels.iter().any(|(known, _)| known == key) {
            return Err(TargetError::LabelTwice(key.into()));
        }
        labels.push((key.into(), value.into()));
    }
    Ok(ClusterTarget::Labels { labels, container })
}

/// RFC 1123, with dots as in a DNS subdomain.
fn is_object_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 253
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(byte))
}

impl fmt::Display for ClusterTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Targetless => f.write_str("targetless")?,
            Self::Workload { kind, name, .. } => write!(f, "{}/{name}", kind.word())?,
            Self::Labels { labels, .. } => {
                let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "label/{}", pairs.join(","))?;
            }
        }
        self.container().map_or(Ok(()), |container| write!(f, "/container/{container}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    fn read(text: &str) -> Result<ClusterTarget, TargetError> {
        match text.parse()? {
            Target::Cluster(target) => Ok(target),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_kind_is_read_and_printed_as_it_was_written() {
        let texts = [
            "targetless",
            "pod/shop-7c9f",
            "pod/shop/container/app",
            "deployment/shop",
            "rollout/shop.v2",
            "statefulset/db",
            "daemonset/log/container/c",
            "replicaset/x",
            "job/a1",
            "cronjob/n",
            "service/shop",
            "label/app=shop",
            "label/app.kubernetes.io/name=shop,tier=/container/app",
        ];
        for text in texts {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        assert_eq!(read("deploy/shop").unwrap().to_string(), "deployment/shop");
        let container = |text: &str| read(text).unwrap().container().map(str::to_owned);
        assert_eq!(container("label/a/b=c/container/d").as_deref(), Some("d"));
        assert_eq!(container("pod/shop"), None);
    }

    #[test]
    fn what_is_malformed_says_which_part() {
        let fails = |text: &str| read(text).unwrap_err();
        assert_eq!(fails("pod/"), TargetError::NoName("pod".into()));
        assert_eq!(fails("pod"), TargetError::NoName("pod".into()));
        assert_eq!(fails("pod/a/container/"), TargetError::NoName("pod/a/container".into()));
        assert_eq!(fails("pod/a/container"), TargetError::TooManyParts("pod/a/container".into()));
        assert_eq!(fails("pod/a/container/b/x"), TargetError::TooManyParts("pod/a/container/b/x".into()));
        assert_eq!(fails("pod/a/port/80"), TargetError::TooManyParts("pod/a/port/80".into()));
        assert_eq!(fails("targetless/x"), TargetError::TooManyParts("targetless/x".into()));
        for name in ["Shop", "-a", "a_b", "a b"] {
            assert_eq!(fails(&format!("deployment/{name}")), TargetError::BadName(name.into()));
        }
        for labels in ["", "a", "=b", "a=b,", "a=b c", "a=b=c"] {
            assert_eq!(fails(&format!("label/{labels}")), TargetError::BadLabels(labels.into()), "{labels}");
        }
        assert_eq!(fails("label/a=b,a=c"), TargetError::LabelTwice("a".into()));
        assert!(matches!(fails("Pod/x"), TargetError::UnknownKind(_)));
    }
}
