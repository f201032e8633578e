//! What should hold in the target's netfilter tables, as plain data. `script` turns it into rule text; nothing here does I/O.

use std::collections::BTreeSet;

/// Every mark of ours lies in `MARK..=MARK+1` ("mir" and two values of the last byte): the whole word is compared, so a
/// mesh or CNI that sets single bits is never taken for us.
pub const MARK: u32 = 0x6d69_7200;
/// Both of our marks, as `--mark MARK/MARK_MASK`.
pub const MARK_MASK: u32 = 0xffff_fffe;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The suffix of names that must differ between the families.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// The address that stands for "anything", also used as the mask that makes every packet look alike.
    pub fn any(self) -> &'static str {
        match self {
            Family::V4 => "0.0.0.0",
            Family::V6 => "::",
        }
    }
}

/// How the pod's process gets to see the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// The upstream socket carries the client's address; its packets stay out of conntrack (see `transparent`).
    Kept,
    /// The upstream socket has the pod's own address.
    Replaced,
}

/// What the rules should be. Two plans that are equal give the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Identifies this agent in every rule's comment and in the lease's name: letters, digits and '-'.
    pub id: String,
    pub gateway_port: u16,
    /// New connections to these ports reach the gateway. Empty: nothing is redirected, but what keeps redirected
    /// connections alive (nat hooks, connection tracking) stays until the rules are removed.
    pub ports: BTreeSet<u16>,
    /// Packets with this mark (or the next one) are the agent's own.
    pub mark: u32,
    /// Redirect only while somebody renews the lease.
    pub leased: bool,
    pub client_address: ClientAddress,
    /// How sysctls were before, for whoever has to clean up after us: part of the comments.
    pub sysctls: String,
}

impl Plan {
    /// The name of the `recent` list that holds the lease of a family.
    pub fn lease_name(&self, family: Family) -> String {
        format!("mirrord{}-{}", family.digit(), self.id)
    }

    /// The mark of upstream sockets that carry the client's address.
    pub fn transparent_mark(&self) -> u32 {
        self.mark | 1
    }
}
