//! What the control thread knows and does: which rules are installed, what was there before, how to get back to it.
//! Every method runs on that thread, in the target's namespace, and may block for some milliseconds.

use super::{
    Options, RedirectError, Status,
    iptables::{self, Iptables, RulesSnapshot, Tool},
    lease::{Lease, Lists},
    plan::{ClientAddress, Family, Plan},
    script::{self, NAT, RAW},
    sysctls::{self, Saved},
    transparent,
};
use crate::{
    guard::{FileIdentity, Guard, Undo, UndoCommand},
    netns::NetNs,
    socket::{PodConnector, Transparent},
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::{Duration, Instant},
};

#[derive(Debug)]
pub struct State {
    iptables: Iptables,
    plan: Plan,
    lists: Lists,
    /// Whether the nat rules are there.
    installed: bool,
    before: RulesSnapshot,
    /// The kernel's settings as they were.
    saved: Saved,
    transparent: Transparent,
    lease: Option<Lease>,
    guard: Option<Guard>,
    options: Options,
    ns: NetNs,
    /// Held as long as we may have rules.
    lock: OwnedFd,
}

impl State {
    pub fn start(ns: &NetNs, gateway_port: u16, options: Options) -> Result<Self, RedirectError> {
        let lock = lock()?;
        let iptables = Iptables::probe(options.variant)?;
        let mut before = iptables.snapshot()?;
        sysctls::clean_leftovers(&before).and(transparent::remove_routing(options.mark | 1)).map_err(RedirectError::Setup)?;
        if iptables.clean_leftovers(&before)? > 0 {
            tracing::warn!("removed redirect rules that an agent which is gone had left");
            before = iptables.snapshot()?;
        }
        let saved = Saved::now();
        let plan = Plan {
            id: unique_id(),
            gateway_port,
            ports: BTreeSet::new(),
            mark: options.mark,
            leased: true,
            client_address: options.client_address,
            sysctls: saved.describe(),
        };
        let lists = Lists(Family::ALL.map(|family| (plan.lease_name(family), family.any())).into());
        let (transparent, ns) = (Transparent::default(), ns.clone());
        let mut state =
            State { iptables, plan, lists, installed: false, before, saved, transparent, lease: None, guard: None, options, ns, lock };
        state.arm()?;
        state.keep_client_addresses();
        Ok(state)
    }

    /// Starts a guard; in the place of the former one, if that has been killed.
    pub fn arm(&mut self) -> Result<(), RedirectError> {
        let undo = undo(&self.iptables, &self.plan, &self.options, &self.saved);
        let held = self.lock.try_clone().map_err(RedirectError::Setup)?;
        self.guard = Some(Guard::arm(&self.options.guard, &undo, held)?);
        Ok(())
    }

    /// Prepares transparent upstream sockets, or says why the pod will see its own address instead.
    fn keep_client_addresses(&mut self) {
        if self.plan.client_address == ClientAddress::Replaced {
            return;
        }
        match self.try_transparent() {
            Ok(transparent) => self.transparent = transparent,
            Err(reason) => {
                tracing::warn!(reason, "the pod will see its own address as its clients'");
                let _ = transparent::remove_routing(self.plan.transparent_mark()).and(self.saved.restore());
                self.plan.client_address = ClientAddress::Replaced;
            }
        }
    }

    fn try_transparent(&self) -> Result<Transparent, String> {
        if transparent::marks_are_used(&self.before) {
            return Err("rules of the pod's own (a mesh's?) use packet marks".into());
        }
        let mark = self.plan.transparent_mark();
        sysctls::change(sysctls::MARKS).map_err(|error| format!("cannot change sysctls: {error}"))?;
        self.iptables.install(&self.plan, RAW).map_err(|error| error.to_string())?;
        let mut outcome = Transparent { mark, ..Transparent::default() };
        let mut failures = String::new();
        for family in self.iptables.tools().iter().map(|tool| tool.family) {
            let works = transparent::add_routing(family, mark).and_then(|()| transparent::works(family, mark));
            match (works, family) {
                (Ok(()), Family::V4) => outcome.v4 = true,
                (Ok(()), Family::V6) => outcome.v6 = true,
                (Err(error), _) => failures += &format!("{family:?}: {error}. "),
            }
        }
        if !outcome.v4 && !outcome.v6 {
            let _ = self.iptables.remove(&self.plan, RAW);
            return Err(failures);
        }
        if !failures.is_empty() {
            tracing::info!(failures, "the pod will see its own address as that of this family's clients");
        }
        Ok(outcome)
    }

    pub fn connector(&self) -> PodConnector {
        PodConnector::new(self.plan.mark, self.transparent)
    }

    pub fn guard_pid(&self) -> Option<u32> {
        self.guard.as_ref().map(Guard::pid)
    }

    pub fn status(&self) -> Status {
        Status { ports: self.plan.ports.clone(), in_flight: self.in_flight(), leased: self.lease.is_some(), guard: self.guard_pid() }
    }

    pub fn set_ports(&mut self, ports: BTreeSet<u16>) -> Result<(), RedirectError> {
        if ports == self.plan.ports {
            return Ok(());
        }
        let wanted = Plan { ports, ..self.plan.clone() };
        if self.installed {
            if let Err(error) = self.iptables.update(&wanted) {
                // One family may have taken it: both back to what they were.
                let _ = self.iptables.update(&self.plan);
                return Err(error);
            }
            self.plan = wanted;
        } else {
            self.install(wanted)?;
        }
        if self.plan.ports.is_empty() {
            return self.settle().map(drop);
        }
        self.keep_lease()
    }

    fn install(&mut self, wanted: Plan) -> Result<(), RedirectError> {
        match self.iptables.install(&wanted, NAT) {
            Ok(()) => self.plan = wanted,
            Err(error @ RedirectError::Tool { .. }) => {
                // The kernel may lack the `recent` match. If it takes the same rules without, that was it.
                let unleased = Plan { leased: false, ..wanted };
                self.iptables.install(&unleased, NAT).map_err(|_| error)?;
                tracing::warn!("no `recent` match in this kernel: if the agent and its guard are killed at once, the redirect stays");
                self.plan = unleased;
            }
            Err(error) => return Err(error),
        }
        self.installed = true;
        // The rules are there, and say how it was before.
        if let Err(error) = sysctls::change(sysctls::FORGETTING) {
            tracing::info!(%error, "a connection that breaks with the agent will be remembered by the kernel for as long as it does by itself");
        }
        Ok(())
    }

    fn uninstall(&mut self) -> Result<(), RedirectError> {
        self.saved.restore_only(sysctls::FORGETTING).map_err(RedirectError::Setup)?;
        self.iptables.remove(&self.plan, NAT)?;
        self.installed = false;
        self.lease = None;
        Ok(())
    }

    /// The lists exist only since the rules do: make them fresh now, so that the very next connection is redirected.
    fn keep_lease(&mut self) -> Result<(), RedirectError> {
        if !self.plan.leased {
            return Ok(());
        }
        if let Err(error) = self.lists.renew() {
            tracing::warn!(%error, "the lease cannot be renewed here: if the agent and its guard are killed at once, the redirect stays");
            self.plan.leased = false;
            return self.iptables.update(&self.plan);
        }
        if self.lease.is_none() {
            self.lease = Some(Lease::start(&self.ns, self.lists.clone(), self.options.brake.clone(), self.options.pulse.clone())?);
        }
        Ok(())
    }

    pub fn settle(&mut self) -> Result<bool, RedirectError> {
        if self.installed && self.plan.ports.is_empty() && self.in_flight() == 0 {
            self.uninstall()?;
        }
        Ok(!self.installed)
    }

    pub fn in_flight(&self) -> usize {
        ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .map(|table| table.lines().filter(|line| is_connection_at(line, self.plan.gateway_port)).count())
            .sum()
    }

    pub fn finish(&mut self) -> Result<(), RedirectError> {
        if self.installed {
            self.uninstall()?;
        }
        if self.plan.client_address == ClientAddress::Kept {
            self.iptables.remove(&self.plan, RAW)?;
            transparent::remove_routing(self.plan.transparent_mark()).and(self.saved.restore()).map_err(RedirectError::Setup)?;
        }
        let after = self.iptables.snapshot()?;
        let left = iptables::ours(&after);
        if !left.is_empty() {
            return Err(RedirectError::LeftRules(left));
        }
        if after != self.before {
            tracing::warn!("the target's rules are not those from before the start: somebody else changed them meanwhile");
        }
        if let Some(guard) = self.guard.take() {
            guard.stand_down();
        }
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // After `finish` there is no guard any more. If this fails, dropping the guard makes it undo everything.
        if self.guard.is_some()
            && let Err(error) = self.finish()
        {
            tracing::error!(%error, "the guard has to clean up");
        }
    }
}

/// One line of `/proc/net/tcp`: is it a connection, not a listener (0A) nor a remnant (06), at this local port?
fn is_connection_at(line: &str, port: u16) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit(':').next());
    let state = fields.nth(1);
    local.is_some_and(|hex| u16::from_str_radix(hex, 16) == Ok(port)) && !matches!(state, None | Some("0A" | "06"))
}

fn undo(iptables: &Iptables, plan: &Plan, options: &Options, saved: &Saved) -> Undo {
    let command = |tool: &Tool| {
        let (program, args) = tool.restore_command();
        let tables = if plan.client_address == ClientAddress::Kept { &[NAT, RAW][..] } else { &[NAT] };
        let inputs = tables.iter().map(|table| script::remove(plan, table)).collect();
        UndoCommand { program, args: args.map(str::to_owned).into(), inputs }
    };
    Undo {
        leases: Family::ALL.map(|family| Lists::path(&plan.lease_name(family))).into(),
        commands: iptables.tools().iter().map(command).collect(),
        remove_files: options.remove_files.iter().filter_map(|path| FileIdentity::of(path).ok()).collect(),
        remove_folders: options.remove_folders.clone(),
        sysctls: saved.settings().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        routing_mark: plan.transparent_mark(),
    }
}

/// Process id and time of start: two agents never share one, not even across process namespaces.
fn unique_id() -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{}-{:x}", std::process::id(), since.as_micros() as u64 & 0xffff_ffff)
}

/// An abstract socket's name belongs to the network namespace and goes with the last descriptor: a lock that nobody has to
/// clean up. The guard of a dead agent holds it while it works.
fn lock() -> Result<OwnedFd, RedirectError> {
    const PATIENCE: Duration = Duration::from_millis(1500);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_lock()? {
            Some(lock) => return Ok(lock),
            None if Instant::now() > deadline => return Err(RedirectError::AnotherAgent),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The same without waiting; `None`: somebody holds it.
pub fn try_lock() -> Result<Option<OwnedFd>, RedirectError> {
    let name = SocketAddr::from_abstract_name("mirrord-redirect").map_err(RedirectError::Setup)?;
    match UnixDatagram::bind_addr(&name) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(RedirectError::Setup(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::is_connection_at;

    #[test]
    fn connections_are_told_from_listeners_and_remnants() {
        let line = |local: &str, state: &str| format!("   1: {local} 0100007F:9C40 {state} 00000000:00000000 00:00000000 00000000");
        assert!(is_connection_at(&line("0100007F:1F90", "01"), 8080));
        assert!(is_connection_at(&line("00000000000000000000000001000000:1F90", "03"), 8080));
        assert!(!is_connection_at(&line("0100007F:1F91", "01"), 8080));
        assert!(!is_connection_at(&line("0100007F:1F90", "0A"), 8080));
        assert!(!is_connection_at(&line("0100007F:1F90", "06"), 8080));
        assert!(!is_connection_at("  sl  local_address rem_address   st", 8080));
    }
}
