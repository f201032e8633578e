//! What a session may not change for good: the namespace's rules, routes and switches, and files on this machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    machine::{output, run},
    netns::Handle,
};

/// Everything of a namespace that must be the same before and after, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// As it is now.
    pub fn of(namespace: &Handle) -> Self {
        let mut lines = BTreeSet::new();
        for family in ["iptables", "ip6tables"] {
            lines.extend(rules(namespace, family));
        }
        for question in ["ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip addr"] {
            let answer = namespace.sh(question);
            lines.extend(answer.lines().map(|line| format!("{question}: {}", line.trim())));
        }
        lines.extend(namespace.run(switches));
        Self(lines)
    }

    /// What differs, for a person to read; empty if nothing does.
    pub fn difference(&self, after: &Self) -> String {
        let gone = self.0.difference(&after.0).map(|line| format!("gone: {line}\n"));
        let new = after.0.difference(&self.0).map(|line| format!("new:  {line}\n"));
        gone.chain(new).collect()
    }
}

/// Rules of one family as `iptables-save` prints them, each with its table. Empty tables that the nft backend leaves are nothing.
pub fn rules(namespace: &Handle, family: &str) -> Vec<String> {
    let mut table = "";
    let saved = run(&mut namespace.command(&format!("{family}-save")));
    let mut found = Vec::new();
    for line in saved.lines() {
        match line.chars().next() {
            Some('*') => table = &line[1..],
            Some(':') => {
                let words = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
                if !words.ends_with(" ACCEPT") {
                    found.push(format!("{family} {table} {words}"));
                }
            }
            Some('-') => found.push(format!("{family} {table} {line}")),
            _ => {}
        }
    }
    found.iter().map(|line| line.replace(table_end(line), "")).collect()
}

// `iptables-save` may print counters in brackets in front of a rule.
fn table_end(line: &str) -> &str {
    match (line.find(" ["), line.find("] ")) {
        (Some(start), Some(end)) if start < end => &line[start..=end],
        _ => "\u{0}",
    }
}

/// Is there a rule of either family that names this port as a destination?
pub fn redirects(namespace: &Handle, port: u16) -> bool {
    let port = port.to_string();
    let names_it = |line: &String| {
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("--dport")).skip(1);
        words.next().is_some_and(|ports| ports.split(',').any(|one| one == port))
    };
    ["iptables", "ip6tables"].iter().any(|family| rules(namespace, family).iter().any(names_it))
}

/// Switches of the kernel that a proxy might be tempted to turn. Runs inside the namespace.
fn switches() -> Vec<String> {
    let mut files = vec![
        PathBuf::from("/proc/sys/net/ipv4/ip_nonlocal_bind"),
        PathBuf::from("/proc/sys/net/ipv6/ip_nonlocal_bind"),
        PathBuf::from("/proc/sys/net/ipv4/ip_forward"),
    ];
    for device in fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten() {
        files.extend(["route_localnet", "rp_filter", "accept_local", "src_valid_mark"].map(|name| device.path().join(name)));
    }
    files.iter().map(|file| format!("{} = {}", file.display(), fs::read_to_string(file).unwrap_or_default().trim())).collect()
}

/// Files of agents for the namespace with this inode.
pub fn agent_files(inode: u64) -> Vec<PathBuf> {
    entries(Path::new("/run/mirrord"), &inode.to_string())
}

fn entries(folder: &Path, part: &str) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(folder) else { return Vec::new() };
    list.flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .collect()
}

/// Does this machine's kernel have the `recent` match? The lease, which frees the pod when agent and guard die at once, needs it.
pub fn has_recent(namespace: &Handle) -> bool {
    let probe = "iptables -t nat -A OUTPUT -p tcp --dport 1 -m recent --name mirrordtest --rcheck -j RETURN";
    let words: Vec<_> = probe.split_whitespace().collect();
    let added = output(namespace.command(words[0]).args(&words[1..])).status.success();
    if added {
        namespace.sh(&probe.replace("-A OUTPUT", "-D OUTPUT"));
    }
    added
}
