//! The kernel's settings that the redirect changes in the target's namespace, and what puts them back whoever dies: agent,
//! guard, or the next agent, which reads the former values in the comments of the rules that a dead one left.

use super::{iptables::RulesSnapshot, procfs, script};
use std::io;

/// The answers of the pod's process carry our mark only with these. All are 0 by default.
pub const MARKS: Changes = &[("net/ipv4/tcp_fwmark_accept", "1"), ("net/ipv4/fwmark_reflect", "1"), ("net/ipv6/fwmark_reflect", "1")];

/// A connection that breaks with the agent is translated for as long as the kernel remembers it, and nobody but a dead agent
/// could make it forget: who comes from the same port meanwhile is refused. Seconds; 10 by default.
pub const FORGETTING: Changes = &[("net/netfilter/nf_conntrack_tcp_timeout_close", "1")];

type Changes = &'static [(&'static str, &'static str)];

/// The values from before, in the order of the changes; `None` where this kernel has no such setting.
#[derive(Debug, Clone)]
pub struct Saved(Vec<Option<String>>);

impl Saved {
    pub fn now() -> Self {
        Saved(all().map(|(name, _)| procfs::read(name).ok()).collect())
    }

    /// In a form that fits into a rule's comment: `s0-0-0-10`.
    pub fn describe(&self) -> String {
        let values: Vec<_> = self.0.iter().map(|value| value.as_deref().unwrap_or_default()).collect();
        format!("s{}", values.join("-"))
    }

    /// What the rules of a dead agent tell of the values from before it.
    fn of_leftovers(rules: &RulesSnapshot) -> Option<Self> {
        rules.values().flatten().find_map(|rule| {
            let (_, comment) = rule.split_once(script::COMMENT)?;
            let (_, described) = comment.split_once(".s")?;
            let end = described.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(described.len());
            let values = described[..end].split('-').map(|value| (!value.is_empty()).then(|| value.to_owned()));
            Some(Saved(values.collect()))
        })
    }

    /// Name and value of each setting that is to have its former value again.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        all().zip(&self.0).filter_map(|(&(name, _), value)| Some((name, value.as_deref()?)))
    }

    pub fn restore(&self) -> io::Result<()> {
        put(self.settings())
    }

    /// The same for some of them.
    pub fn restore_only(&self, changes: Changes) -> io::Result<()> {
        put(self.settings().filter(|(name, _)| changes.iter().any(|(changed, _)| changed == name)))
    }
}

fn all() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    MARKS.iter().chain(FORGETTING)
}

/// Makes the changes, as far as this kernel has such settings.
pub fn change(changes: Changes) -> io::Result<()> {
    changes.iter().filter(|(name, _)| procfs::read(name).is_ok()).try_for_each(|(name, value)| procfs::write(name, value))
}

pub fn clean_leftovers(rules: &RulesSnapshot) -> io::Result<()> {
    Saved::of_leftovers(rules).map_or(Ok(()), |saved| saved.restore())
}

/// Every one is tried; the first failure is returned.
pub fn put<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> io::Result<()> {
    let mut result = Ok(());
    for (name, value) in settings {
        result = result.and(procfs::write(name, value));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::Saved;

    #[test]
    fn what_is_described_in_a_rule_is_read_back() {
        let saved = Saved(vec![Some("0".into()), None, Some("1".into()), Some("10".into())]);
        assert_eq!(saved.describe(), "s0--1-10");
        let rule = format!("-A OUTPUT -m comment --comment \"mirrord:7-ab.{}\" -j CT --notrack", saved.describe());
        let other = "-A OUTPUT -m comment --comment \"somebody.s4-5-6-7\" -j RETURN".to_owned();
        let rules = [(Default::default(), vec![other, rule])].into();
        let read: Vec<_> = Saved::of_leftovers(&rules).unwrap().settings().map(|(_, value)| value.to_owned()).collect();
        assert_eq!(read, ["0", "1", "10"]);
        assert!(Saved::of_leftovers(&Default::default()).is_none());
    }
}
