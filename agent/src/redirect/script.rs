//! Plan → text for `iptables-restore --noflush`, a table a script, so that each is applied by the kernel as one step and
//! can be undone on its own. Pure functions; the tests on a real kernel apply what production applies.
//!
//! ```text
//! nat PREROUTING ─┐ last rule, local destinations       ┌ our own mark → RETURN (it also keeps conntrack on)
//! nat OUTPUT ─────┤ last rule, over lo only              ├ port P, SYN, lease fresh → REDIRECT to the gateway
//!                 └────────► MIRRORD_REDIRECT ───────────┴ everything else falls through
//! ```
//!
//! Behind the pod's own rules: what those of a mesh lead to its sidecar still goes there, with its TLS, and we meet the connection
//! that the sidecar then makes to the pod's process.

use super::plan::{Family, MARK_MASK, Plan};
use std::fmt::Write;

pub const CHAIN: &str = "MIRRORD_REDIRECT";
/// Starts the comment of each rule of ours, followed by the agent's id.
pub const COMMENT: &str = "mirrord:";

/// Seconds that a lease is good for. The renewal period is a quarter of it.
const LEASE_SECONDS: u32 = 1;

/// Keeps upstream packets out of conntrack; there from start to end, as long as client addresses are kept.
pub const RAW: &str = "raw";
/// Redirects; there while ports are redirected or connections drain.
pub const NAT: &str = "nat";

/// Rules for a table in which we have none yet.
pub fn install(plan: &Plan, family: Family, table: &str) -> String {
    let mut text = format!("*{table}\n");
    if table == NAT {
        chain(plan, family, &mut text);
    }
    for (hook, rule) in hooks(plan, table) {
        match table {
            NAT => line(&mut text, format_args!("-A {hook} {rule}")),
            // Whatever others do with our own packets, it is not to be tracked.
            _ => line(&mut text, format_args!("-I {hook} 1 {rule}")),
        }
    }
    text + "COMMIT\n"
}

/// The nat chain anew; the jumps to it stay. Applied as one step: no packet meets a half-filled chain.
pub fn update(plan: &Plan, family: Family) -> String {
    let mut text = String::from("*nat\n");
    chain(plan, family, &mut text);
    text + "COMMIT\n"
}

/// Takes out what `install` (and any `update`) put into a table. It is refused as a whole where that is not there, so it
/// cannot hit the rules of another agent.
pub fn remove(plan: &Plan, table: &str) -> String {
    let mut text = format!("*{table}\n");
    for (hook, rule) in hooks(plan, table) {
        line(&mut text, format_args!("-D {hook} {rule}"));
    }
    if table == NAT {
        line(&mut text, format_args!("-F {CHAIN}\n-X {CHAIN}"));
    }
    text + "COMMIT\n"
}

/// Takes out whatever agents have left in a table, given its rules as `iptables-save` prints them; `None` if nothing.
pub fn remove_leftovers(table: &str, saved: &[String]) -> Option<String> {
    let mut text = format!("*{table}\n");
    let empty = text.len();
    for rule in saved.iter().filter_map(|rule| rule.strip_prefix("-A ")) {
        let of_our_chain = rule.starts_with(CHAIN);
        if !of_our_chain && (rule.contains(COMMENT) || rule.ends_with(&format!("-j {CHAIN}"))) {
            line(&mut text, format_args!("-D {rule}"));
        }
    }
    if saved.iter().any(|rule| rule.starts_with(&format!(":{CHAIN} "))) {
        line(&mut text, format_args!("-F {CHAIN}\n-X {CHAIN}"));
    }
    (text.len() > empty).then(|| text + "COMMIT\n")
}

/// Rules that go into the kernel's own chains: (chain, rule without `-A chain`).
fn hooks(plan: &Plan, table: &str) -> Vec<(&'static str, String)> {
    let comment = comment(plan);
    match table {
        // Upstream connections with the client's address would share their 4-tuple's shape with the client's real
        // connections; untracked, they can never be mistaken for each other, nor be translated.
        RAW => vec![("OUTPUT", format!("-p tcp -m mark --mark {:#x} {comment} -j CT --notrack", plan.transparent_mark()))],
        // OUTPUT sees everything the pod sends: only what stays in the pod (lo) is a connection *to* the pod.
        _ => vec![
            ("PREROUTING", format!("-p tcp -m addrtype --dst-type LOCAL {comment} -j {CHAIN}")),
            ("OUTPUT", format!("-o lo -p tcp {comment} -j {CHAIN}")),
        ],
    }
}

/// Creates the chain, or empties it if it exists, and fills it.
fn chain(plan: &Plan, family: Family, text: &mut String) {
    let comment = comment(plan);
    line(text, format_args!(":{CHAIN} - [0:0]"));
    // ctstate says nothing new in a nat chain; it is here because a rule with it keeps connection tracking switched on
    // while redirected connections drain: with the last such rule their translation would end and reset them.
    line(text, format_args!("-A {CHAIN} -m mark --mark {:#x}/{MARK_MASK:#x} -m conntrack --ctstate NEW {comment} -j RETURN", plan.mark));
    for port in &plan.ports {
        let mut rule = format!("-A {CHAIN} -p tcp --syn --dport {port}");
        if plan.leased {
            let (name, mask) = (plan.lease_name(family), family.any());
            // The mask makes every destination look like the one entry that the agent keeps fresh.
            let _ = write!(rule, " -m recent --name {name} --rcheck --seconds {LEASE_SECONDS} --rdest --mask {mask}");
        }
        // --syn: a connection that was open before looks new to conntrack, and must stay with the pod.
        line(text, format_args!("{rule} {comment} -j REDIRECT --to-ports {}", plan.gateway_port));
    }
}

fn comment(plan: &Plan) -> String {
    format!("-m comment --comment \"{COMMENT}{}.{}\"", plan.id, plan.sysctls)
}

fn line(text: &mut String, args: std::fmt::Arguments) {
    let _ = text.write_fmt(args);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::{super::plan::ClientAddress, *};
    use std::collections::BTreeSet;

    fn plan(ports: &[u16]) -> Plan {
        Plan {
            id: "7-ab".into(),
            gateway_port: 4000,
            ports: ports.iter().copied().collect::<BTreeSet<_>>(),
            mark: super::super::plan::MARK,
            leased: true,
            client_address: ClientAddress::Kept,
            sysctls: "s0-0-0-10".into(),
        }
    }

    #[test]
    fn the_whole_text_for_one_port() {
        let comment = "-m comment --comment \"mirrord:7-ab.s0-0-0-10\"";
        let expected = format!(
            "*nat\n\
             :MIRRORD_REDIRECT - [0:0]\n\
             -A MIRRORD_REDIRECT -m mark --mark 0x6d697200/0xfffffffe -m conntrack --ctstate NEW {comment} -j RETURN\n\
             -A MIRRORD_REDIRECT -p tcp --syn --dport 80 -m recent --name mirrord6-7-ab --rcheck --seconds 1 --rdest --mask :: {comment} \
             -j REDIRECT --to-ports 4000\n\
             -A PREROUTING -p tcp -m addrtype --dst-type LOCAL {comment} -j MIRRORD_REDIRECT\n\
             -A OUTPUT -o lo -p tcp {comment} -j MIRRORD_REDIRECT\n\
             COMMIT\n"
        );
        assert_eq!(install(&plan(&[80]), Family::V6, "nat"), expected);
    }

    #[test]
    fn removal_names_exactly_the_hooks_that_were_installed() {
        for table in [RAW, NAT] {
            let (installed, removed) = (install(&plan(&[80]), Family::V4, table), remove(&plan(&[]), table));
            let hooks = |text: &str, starts: &[&str]| -> Vec<String> {
                let rules = text.lines().filter_map(|line| starts.iter().find_map(|start| line.strip_prefix(start)));
                rules.filter(|rule| !rule.starts_with(CHAIN)).map(|rule| rule.replacen(" 1 ", " ", 1)).collect()
            };
            assert_eq!(hooks(&installed, &["-I ", "-A "]), hooks(&removed, &["-D "]));
            assert!(!hooks(&removed, &["-D "]).is_empty());
        }
    }

    #[test]
    fn a_change_of_ports_touches_no_jump_and_draining_keeps_what_needs_conntrack() {
        for ports in [&[80, 81][..], &[]] {
            let text = update(&plan(ports), Family::V4);
            assert!(!text.contains("-I ") && !text.contains("-D ") && !text.contains("-A PREROUTING"), "{text}");
            assert_eq!(text.matches("REDIRECT --to-ports").count(), ports.len());
            assert!(text.contains("--ctstate"));
        }
    }

    #[test]
    fn leftovers_are_recognised_among_the_rules_of_others() {
        let saved = [
            ":ISTIO_INBOUND -",
            ":MIRRORD_REDIRECT -",
            "-A PREROUTING -p tcp -m comment --comment \"mirrord:1-2.s0-0-0-10\" -j MIRRORD_REDIRECT",
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "-A MIRRORD_REDIRECT -p tcp -m comment --comment \"mirrord:1-2.s0-0-0-10\" -j RETURN",
        ]
        .map(str::to_owned);
        assert_eq!(
            remove_leftovers("nat", &saved).unwrap(),
            "*nat\n-D PREROUTING -p tcp -m comment --comment \"mirrord:1-2.s0-0-0-10\" -j MIRRORD_REDIRECT\n\
             -F MIRRORD_REDIRECT\n-X MIRRORD_REDIRECT\nCOMMIT\n"
        );
        assert_eq!(remove_leftovers("nat", &saved[..1]), None);
        assert_eq!(remove_leftovers("nat", &saved[3..4]), None);
    }
}
