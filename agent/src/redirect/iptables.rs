//! The iptables backend: which of the installed variants to use, listing, applying, cleaning. Called on the control thread.
//!
//! Which variant: the one that holds nat rules already, so that ours stand in the same hook, before them. If both do, nft:
//! the kernel runs its hook first. If none does, what `iptables` itself is.

use super::{
    RedirectError, command,
    plan::{Family, Plan},
    script,
};
use iptables::IPTables;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Nft,
    Legacy,
}

/// The programs of one family in one variant.
#[derive(Clone, Debug)]
pub struct Tool {
    pub family: Family,
    pub variant: Variant,
    /// The path of `iptables…`, to which `-save` and `-restore` are added.
    program: PathBuf,
    cmd: &'static str,
}

/// Rules as `iptables-save` prints them, by "program table": without counters, and without chains that are only there
/// because a table was looked at. Two snapshots are equal if packets fare alike.
pub type RulesSnapshot = BTreeMap<String, Vec<String>>;

/// What was found on this machine and in this namespace.
#[derive(Debug)]
pub struct Iptables {
    /// One a family, of the chosen variant.
    used: Vec<Tool>,
    /// Everything installed, for looking after what others (or a former agent) have put where.
    installed: Vec<Tool>,
}

impl Tool {
    fn find(family: Family, suffix: &str) -> Option<Tool> {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let program = command::find(&format!("{name}{suffix}"))?;
        // Before 1.8 there was only the legacy variant, and it did not say so.
        let version = command::run(&program, &["--version"], "").ok()?;
        let variant = if version.contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
        // The iptables crate wants its command's name for ever; a few bytes, once an agent.
        let cmd = Box::leak(program.to_str()?.to_owned().into_boxed_str());
        Some(Tool { family, variant, program, cmd })
    }

    fn companion(&self, suffix: &str) -> PathBuf {
        let mut name = self.program.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// The program and arguments that apply a script; at most some seconds are spent waiting for others (the legacy lock).
    pub fn restore_command(&self) -> (PathBuf, [&'static str; 2]) {
        (self.companion("-restore"), ["--noflush", "--wait=5"])
    }

    fn restore(&self, text: &str) -> Result<(), RedirectError> {
        let (program, args) = self.restore_command();
        command::run(&program, &args, text).map(drop)
    }

    /// Whether the kernel has this family's nat table; asking is harmless.
    fn usable(&self) -> Result<(), RedirectError> {
        let failed = |detail: String| RedirectError::Tool { command: format!("{} -t nat -S", self.cmd), detail };
        let handle = IPTables { cmd: self.cmd, has_check: true, has_wait: true, is_numeric: false };
        let output = handle.execute("nat", "-S").map_err(|error| failed(error.to_string()))?;
        command::outcome(output, failed).map(drop)
    }

    fn save(&self, into: &mut RulesSnapshot) -> Result<(), RedirectError> {
        // Saving a legacy table that nobody uses would register it in the namespace: without any, do not even ask.
        let names = format!("/proc/thread-self/net/ip{}_tables_names", if self.family == Family::V6 { "6" } else { "" });
        if self.variant == Variant::Legacy && fs::read_to_string(names).unwrap_or_default().is_empty() {
            return Ok(());
        }
        let mut table = String::new();
        for line in command::run(&self.companion("-save"), &[], "")?.lines() {
            match line.as_bytes().first() {
                Some(b'*') => table = format!("{} {}", self.program.display(), &line[1..]),
                Some(b':') => {
                    let chain = line.split(" [").next().unwrap_or(line);
                    if !chain.ends_with(" ACCEPT") {
                        into.entry(table.clone()).or_default().push(chain.to_owned());
                    }
                }
                Some(b'-') => into.entry(table.clone()).or_default().push(line.to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    fn holds_nat_rules(&self) -> bool {
        let mut rules = RulesSnapshot::new();
        self.save(&mut rules).is_ok() && rules.iter().any(|(table, rules)| table.ends_with(" nat") && !rules.is_empty())
    }
}

impl Iptables {
    /// Looks at what is installed and what the kernel can do; `prefer` overrides the choice of the variant.
    pub fn probe(prefer: Option<Variant>) -> Result<Self, RedirectError> {
        let find = |family| ["-nft", "-legacy", ""].iter().filter_map(move |suffix| Tool::find(family, suffix));
        let (v4, v6): (Vec<Tool>, Vec<Tool>) = (find(Family::V4).collect(), find(Family::V6).collect());
        let variant = match (prefer, v4.last()) {
            (_, None) => return Err(RedirectError::ToolMissing { name: "iptables".into() }),
            (Some(variant), _) => variant,
            (None, Some(default)) => Self::choose(&v4, &v6, default.variant),
        };
        let of_variant = |tools: &[Tool]| tools.iter().find(|tool| tool.variant == variant).cloned();
        let name = if variant == Variant::Nft { "iptables-nft" } else { "iptables-legacy" };
        let first = of_variant(&v4).ok_or(RedirectError::ToolMissing { name: name.into() })?;
        first.usable()?;
        let mut used = vec![first];
        if Path::new("/proc/thread-self/net/if_inet6").exists() {
            let second = of_variant(&v6).ok_or(RedirectError::ToolMissing { name: name.replace("ip", "ip6") })?;
            match second.usable() {
                Ok(()) => used.push(second),
                Err(RedirectError::Privilege) => return Err(RedirectError::Privilege),
                Err(error) => tracing::warn!(%error, "no nat table for IPv6 in this kernel: IPv6 clients stay with the pod"),
            }
        } else {
            tracing::info!("no IPv6 in this kernel: IPv4 only");
        }
        // `iptables` is one of the other two under a second name, unless these are not installed.
        let mut installed = Vec::<Tool>::new();
        for tool in v4.into_iter().chain(v6) {
            if !installed.iter().any(|known| (known.family, known.variant) == (tool.family, tool.variant)) {
                installed.push(tool);
            }
        }
        Ok(Iptables { used, installed })
    }

    fn choose(v4: &[Tool], v6: &[Tool], default: Variant) -> Variant {
        let holds = |variant| v4.iter().chain(v6).any(|tool| tool.variant == variant && tool.holds_nat_rules());
        let usable = |variant| v4.iter().any(|tool| tool.variant == variant && tool.usable().is_ok());
        let other = if default == Variant::Nft { Variant::Legacy } else { Variant::Nft };
        if holds(Variant::Nft) {
            Variant::Nft
        } else if holds(Variant::Legacy) {
            Variant::Legacy
        } else if !usable(default) && usable(other) {
            other
        } else {
            default
        }
    }

    pub fn tools(&self) -> &[Tool] {
        &self.used
    }

    /// Puts the plan's rules into a table that holds nothing of ours; undoes the first family if the second is refused.
    pub fn install(&self, plan: &Plan, table: &str) -> Result<(), RedirectError> {
        for (n, tool) in self.used.iter().enumerate() {
            if let Err(error) = tool.restore(&script::install(plan, tool.family, table)) {
                for done in self.used.iter().take(n) {
                    let _ = done.restore(&script::remove(plan, table));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Replaces the installed rules by those of another plan with the same id.
    pub fn update(&self, plan: &Plan) -> Result<(), RedirectError> {
        self.used.iter().try_for_each(|tool| tool.restore(&script::update(plan, tool.family)))
    }

    /// Removes the plan's rules from a table. Both families are tried; the first failure is returned.
    pub fn remove(&self, plan: &Plan, table: &str) -> Result<(), RedirectError> {
        let mut result = Ok(());
        for tool in &self.used {
            result = result.and(tool.restore(&script::remove(plan, table)));
        }
        result
    }

    /// All rules of both families and variants in this namespace.
    pub fn snapshot(&self) -> Result<RulesSnapshot, RedirectError> {
        let mut rules = RulesSnapshot::new();
        for tool in &self.installed {
            // A variant that the kernel lacks holds no rules.
            if let Err(error) = tool.save(&mut rules) {
                tracing::debug!(%error, "cannot list rules");
            }
        }
        Ok(rules)
    }

    /// Removes what agents that are gone have left, in whichever variant; how many tables held something.
    pub fn clean_leftovers(&self, rules: &RulesSnapshot) -> Result<usize, RedirectError> {
        let mut cleaned = 0;
        for tool in &self.installed {
            for (key, saved) in rules {
                let Some(table) = key.strip_prefix(&format!("{} ", tool.program.display())) else { continue };
                if let Some(text) = script::remove_leftovers(table, saved) {
                    tool.restore(&text)?;
                    cleaned += 1;
                }
            }
        }
        Ok(cleaned)
    }
}

/// The rules of ours in a snapshot.
pub fn ours(rules: &RulesSnapshot) -> Vec<String> {
    let is_ours = |rule: &&String| rule.contains(script::CHAIN) || rule.contains(script::COMMENT);
    rules.values().flatten().filter(is_ours).cloned().collect()
}

/// A snapshot of the namespace that the calling thread is in, for those that want to compare before and after.
pub fn rules_snapshot() -> Result<RulesSnapshot, RedirectError> {
    Iptables::probe(None)?.snapshot()
}
