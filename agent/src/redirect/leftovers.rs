//! What `mirrord doctor` asks of a namespace: whether rules of a dead agent are in it, and whether this machine's kernel has what a
//! redirect needs. Both look at the real tables, by the code that agents use.

use std::{collections::BTreeSet, path::PathBuf};

use mirrord_protocol::doctor::{Kernel, Leftovers};

use super::{
    Options, RedirectError, Redirector, command,
    iptables::{self, Iptables, Variant},
    plan::MARK,
    state, sysctls, transparent,
};
use crate::netns::NetNs;

/// What is to become of leftovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    Look,
    Remove,
}

/// Looks into a namespace, and removes what is there if that is wanted and no agent lives in it.
pub fn look(path: PathBuf, fix: Fix) -> Leftovers {
    let mut found = Leftovers { netns: path.clone(), ..Leftovers::default() };
    let looked = NetNs::open(path).and_then(|netns| netns.spawn("leftovers", move || within(fix))).map(std::thread::JoinHandle::join);
    match looked {
        Ok(Ok(Some(Ok((rules, is_lived_in, is_removed))))) => {
            (found.rules, found.is_lived_in, found.is_removed) = (rules, is_lived_in, is_removed);
        }
        Ok(Ok(Some(Err(error)))) => found.error = error.to_string(),
        Ok(_) => found.error = "it could not be looked at".into(),
        Err(error) => found.error = error.to_string(),
    }
    found
}

/// In the namespace: our rules there, whether an agent (or the guard of one) is at work, and whether the rules were removed.
fn within(fix: Fix) -> Result<(Vec<String>, bool, bool), RedirectError> {
    const LIVED_IN: (Vec<String>, bool, bool) = (Vec::new(), true, false);
    let Some(lock) = state::try_lock()? else { return Ok(LIVED_IN) };
    // Held only while rules are removed, when an agent that starts has to wait: whoever just looks is not taken for an agent.
    let held = (fix == Fix::Remove).then_some(lock);
    let tables = Iptables::probe(None)?;
    let rules = tables.snapshot()?;
    let ours = iptables::ours(&rules);
    if held.is_none() && state::try_lock()?.is_none() {
        return Ok(LIVED_IN);
    }
    if ours.is_empty() || held.is_none() {
        return Ok((ours, false, false));
    }
    sysctls::clean_leftovers(&rules).and(transparent::remove_routing(MARK | 1)).map_err(RedirectError::Setup)?;
    tables.clean_leftovers(&rules)?;
    let left = iptables::ours(&tables.snapshot()?);
    if left.is_empty() { Ok((ours, false, true)) } else { Err(RedirectError::LeftRules(left)) }
}

/// Redirects a port in a namespace that is made for it and gone afterwards.
pub fn kernel() -> Result<Kernel, RedirectError> {
    let tried = std::thread::spawn(|| {
        let netns = NetNs::fresh()?;
        if let Some(ip) = command::find("ip") {
            // Without it nothing answers on the loopback address, and it cannot be tried whether clients' addresses are kept.
            let _ = command::run(&ip, &["link", "set", "lo", "up"], "");
        }
        let variant = Iptables::probe(None)?.tools().first().map(|tool| tool.variant);
        let mut redirector = Redirector::start(&netns, GATEWAY, Options::default())?;
        redirector.set_ports(&BTreeSet::from([PORT]))?;
        let leased = redirector.status()?.leased;
        let keeps_addresses = redirector.pod_connector().keeps_addresses();
        redirector.finish()?;
        let tables = if variant == Some(Variant::Nft) { "nft" } else { "legacy" };
        Ok(Kernel { tables: tables.into(), leased, keeps_addresses })
    });
    tried.join().unwrap_or(Err(RedirectError::Control))
}

/// Ports in a namespace where nobody is.
const GATEWAY: u16 = 60_000;
const PORT: u16 = 80;
