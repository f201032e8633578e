//! Which rights this process has and which a session needs, so that a missing one is named before anything starts.

use std::fmt;

use mirrord_config::Target;

/// A set of Linux capabilities, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

/// The ones that matter here: number in linux/capability.h, name, what for.
const KNOWN: &[(u32, &str)] =
    &[(1, "cap_dac_override"), (12, "cap_net_admin"), (13, "cap_net_raw"), (19, "cap_sys_ptrace"), (21, "cap_sys_admin")];

impl Capabilities {
    /// The effective set in the text of `/proc/self/status`.
    pub fn effective(status: &str) -> Self {
        let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
        Self(u64::from_str_radix(hex.trim(), 16).unwrap_or_default())
    }

    /// What a session on `target` cannot do without: entering a network namespace (sys_admin), redirecting its traffic (net_admin;
    /// net_raw for iptables and to mirror), writing below /run and /proc (dac_override), and for a process that may be somebody
    /// else's its namespace (sys_ptrace).
    pub fn needed_for(target: &Target) -> Self {
        let always = 1 << 1 | 1 << 12 | 1 << 13 | 1 << 21;
        match target {
            Target::Netns(_) => Self(always),
            Target::Pid(_) | Target::Container(_) => Self(always | 1 << 19),
            // What is done there is done by the agent's pod.
            Target::Cluster(_) => Self(0),
        }
    }

    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    /// Their numbers.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |number| self.0 >> number & 1 == 1)
    }
}

/// As `setcap` reads them: `cap_net_admin,cap_sys_admin`.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = KNOWN.iter().filter(|(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_ones_are_named() {
        let have = Capabilities::effective("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000203000\nCapBnd:\t00\n");
        let missing = Capabilities::needed_for(&"pid/7".parse().unwrap()).without(have);
        assert_eq!(missing.to_string(), "cap_dac_override,cap_sys_ptrace");
        assert_eq!(missing.numbers().collect::<Vec<_>>(), [1, 19]);
    }

    #[test]
    fn root_misses_nothing_and_an_unreadable_status_means_none() {
        let needed = Capabilities::needed_for(&"netns/shop".parse().unwrap());
        assert!(needed.without(Capabilities::effective("CapEff:\t000001ffffffffff\n")).is_empty());
        assert_eq!(needed.without(Capabilities::effective("")), needed);
    }
}
