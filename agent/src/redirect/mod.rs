//! How connections to the pod reach the gateway, and how the pod always gets them back.
//!
//! ```text
//! start ──► nothing changed ──set_ports{80}──► redirecting ──set_ports{}──► draining ──(last one gone)──► nothing changed
//!                                                   │                          │
//!                                              finish, drop; or the guard, or the lease, if the agent dies
//! ```
//! Everything that touches the kernel runs on one control thread in the target's namespace: rules (`iptables`, text from
//! `script`, of a `plan`), routing (`transparent`), the lock. The `lease` has a thread of its own, the guard a process.

mod command;
pub mod iptables;
pub mod lease;
mod netlink;
pub mod plan;
pub mod script;
pub mod transparent;

use crate::{
    guard::{Guard, GuardError, Undo, UndoCommand},
    netns::{NetNs, NetNsError},
    socket::{PodConnector, Transparent},
};
use iptables::{Iptables, RulesSnapshot, Variant};
use lease::{Lease, Lists};
use plan::{ClientAddress, Family, MARK, Plan};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::PathBuf,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(
        "no permission to change the target's firewall: this needs CAP_NET_ADMIN. Run as root (sudo), or give the agent's \
         container the capability"
    )]
    Privilege,
    #[error("{name} is not installed here. Install the package `iptables` (Debian, Ubuntu, Alpine; `iptables-nft` on Fedora)")]
    ToolMissing { name: String },
    #[error("`{command}` failed: {detail}. Try it by hand in the target's namespace (nsenter --net=…)")]
    Tool { command: String, detail: String },
    #[error("another agent redirects in this network namespace. Join it through its socket in /run/mirrord, or end it first")]
    AnotherAgent,
    #[error("port {0} cannot be redirected: it is {1}. Choose the port that the pod's process listens on")]
    Port(u16, &'static str),
    #[error("some rules could not be removed: {0:?}. Remove them with `iptables -t nat -D …`; they are inert without the agent")]
    LeftRules(Vec<String>),
    #[error("cannot prepare the redirect: {0}. Check the agent's log for what came before")]
    Setup(#[source] io::Error),
    #[error("the redirect's control thread has ended. Start the agent again; its guard undoes the rules")]
    Control,
}

/// What may differ from one agent to the next.
#[derive(Clone, Debug)]
pub struct Options {
    /// Marks the agent's own packets, together with the next number.
    pub mark: u32,
    /// Starts this program so that it calls [`crate::guard::run`].
    pub guard: Vec<OsString>,
    /// Files the guard deletes when the agent has died (its socket).
    pub remove_files: Vec<PathBuf>,
    /// Folders the guard deletes then, if empty.
    pub remove_folders: Vec<PathBuf>,
    /// Overrides the choice of the iptables variant.
    pub variant: Option<Variant>,
    /// Whether the pod shall see its clients' own addresses. Falls back to its own where that cannot be had.
    pub client_address: ClientAddress,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mark: MARK,
            guard: vec!["/proc/self/exe".into(), "guard".into()],
            remove_files: Vec::new(),
            remove_folders: Vec::new(),
            variant: None,
            client_address: ClientAddress::Kept,
        }
    }
}

/// The redirect of one namespace. Dropped, it removes what it can and leaves the rest to the guard.
#[derive(Debug)]
pub struct Redirector {
    control: Control,
    connector: PodConnector,
    gateway_port: u16,
}

impl Redirector {
    /// Finds out what can be done in the namespace, cleans what a dead agent has left, arms the guard. Installs nothing.
    /// Blocks for some 50 ms, as the other calls do for some 10.
    pub fn start(ns: &NetNs, gateway_port: u16, options: Options) -> Result<Self, RedirectError> {
        let inside = ns.clone();
        let (control, connector) = Control::start(ns, move || State::start(&inside, gateway_port, options))?;
        Ok(Redirector { control, connector, gateway_port })
    }

    /// From now on new connections to exactly these ports reach the gateway; one atomic change a family. With no port,
    /// what redirected connections need stays until the last has ended: call [`Redirector::settle`] from time to time.
    pub fn set_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), RedirectError> {
        if ports.contains(&0) {
            return Err(RedirectError::Port(0, "not a port"));
        }
        if ports.contains(&self.gateway_port) {
            return Err(RedirectError::Port(self.gateway_port, "the gateway's own"));
        }
        let ports = ports.clone();
        self.control.call(move |state| state.set_ports(ports))?
    }

    /// How many connections are on the gateway's port, as the kernel counts them.
    pub fn in_flight(&self) -> Result<usize, RedirectError> {
        self.control.call(|state| state.in_flight())
    }

    /// Removes the rules if no port is redirected and nothing is in flight any more; whether none are left.
    pub fn settle(&mut self) -> Result<bool, RedirectError> {
        self.control.call(|state| state.settle())?
    }

    /// Removes everything at once, checks that the rules are those from before the start, and lets the guard go. What is
    /// still in flight is reset, so wait for it first.
    pub fn finish(self) -> Result<(), RedirectError> {
        self.control.call(|state| state.finish())?
    }

    /// How the workers reach the pod's own listeners.
    pub fn pod_connector(&self) -> PodConnector {
        self.connector
    }

    /// The guard's process id, for logs and tests.
    pub fn guard_pid(&self) -> Result<Option<u32>, RedirectError> {
        self.control.call(|state| state.guard.as_ref().map(Guard::pid))
    }
}

type Job = Box<dyn FnOnce(&mut State) + Send>;

/// The control thread: owns the state, runs one job at a time.
#[derive(Debug)]
struct Control {
    jobs: Option<mpsc::Sender<Job>>, // redirector --job--> control thread
    thread: Option<JoinHandle<Option<()>>>,
}

impl Control {
    fn start(
        ns: &NetNs,
        make: impl FnOnce() -> Result<State, RedirectError> + Send + 'static,
    ) -> Result<(Self, PodConnector), RedirectError> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (made_tx, made_rx) = mpsc::sync_channel(1); // control thread --started or why not--> caller
        let thread = ns.spawn("redirect", move || {
            let mut state = match make() {
                Ok(state) => state,
                Err(error) => return drop(made_tx.send(Err(error))),
            };
            let _ = made_tx.send(Ok(state.connector()));
            todo.into_iter().for_each(|job| job(&mut state));
        })?;
        let control = Control { jobs: Some(jobs), thread: Some(thread) };
        let connector = made_rx.recv().map_err(|_| RedirectError::Control)??;
        Ok((control, connector))
    }

    fn call<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> T + Send + 'static) -> Result<T, RedirectError> {
        let (done_tx, done_rx) = mpsc::sync_channel(1); // control thread --result--> caller
        let job: Job = Box::new(move |state| drop(done_tx.send(work(state))));
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(RedirectError::Control)?;
        done_rx.recv().map_err(|_| RedirectError::Control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What lives on the control thread.
#[derive(Debug)]
struct State {
    iptables: Iptables,
    plan: Plan,
    lists: Lists,
    installed: bool,
    before: RulesSnapshot,
    /// The sysctls that `transparent` changes, as they were.
    saved: Vec<(PathBuf, String)>,
    transparent: Transparent,
    lease: Option<Lease>,
    guard: Option<Guard>,
    ns: NetNs,
    /// Held as long as we may have rules.
    _lock: OwnedFd,
}

impl State {
    fn start(ns: &NetNs, gateway_port: u16, options: Options) -> Result<Self, RedirectError> {
        let lock = lock()?;
        let iptables = Iptables::probe(options.variant)?;
        let mut before = iptables.snapshot()?;
        transparent::clean_leftovers(&before, options.mark | 1).map_err(RedirectError::Setup)?;
        if iptables.clean_leftovers(&before)? > 0 {
            tracing::warn!("removed redirect rules that an agent which is gone had left");
            before = iptables.snapshot()?;
        }
        let saved = transparent::sysctls();
        let plan = Plan {
            id: unique_id(),
            gateway_port,
            ports: BTreeSet::new(),
            mark: options.mark,
            leased: true,
            client_address: options.client_address,
            sysctls: transparent::describe(&saved),
        };
        let lists = Lists(Family::ALL.map(|family| (plan.lease_name(family), family.any())).into());
        let undo = undo(&iptables, &plan, &options, &saved);
        let held = lock.try_clone().map_err(RedirectError::Setup)?;
        let guard = Some(Guard::arm(&options.guard, &undo, held)?);
        let transparent = Transparent::default();
        let mut state =
            State { iptables, plan, lists, installed: false, before, saved, transparent, lease: None, guard, ns: ns.clone(), _lock: lock };
        state.keep_client_addresses();
        Ok(state)
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
                let _ = transparent::undo(self.plan.transparent_mark(), &self.saved);
                self.plan.client_address = ClientAddress::Replaced;
            }
        }
    }

    fn try_transparent(&self) -> Result<Transparent, String> {
        if transparent::marks_are_used(&self.before) {
            return Err("rules of the pod's own (a mesh's?) use packet marks".into());
        }
        let mark = self.plan.transparent_mark();
        let families: Vec<Family> = self.iptables.tools().iter().map(|tool| tool.family).collect();
        transparent::enable(mark, &families).map_err(|error| format!("cannot change sysctls or routing: {error}"))?;
        self.iptables.install_tables(&self.plan, &["raw"]).map_err(|error| error.to_string())?;
        let mut outcome = Transparent { mark, ..Transparent::default() };
        let mut failures = String::new();
        for family in families {
            match (transparent::works(family, mark), family) {
                (Ok(()), Family::V4) => outcome.v4 = true,
                (Ok(()), Family::V6) => outcome.v6 = true,
                (Err(error), _) => failures += &format!("{family:?}: {error}. "),
            }
        }
        self.iptables.remove_tables(&self.plan, &["raw"]).map_err(|error| error.to_string())?;
        if !outcome.v4 && !outcome.v6 {
            return Err(failures);
        }
        if !failures.is_empty() {
            tracing::info!(failures, "the pod will see its own address as that of this family's clients");
        }
        Ok(outcome)
    }

    fn connector(&self) -> PodConnector {
        PodConnector::new(self.plan.mark, self.transparent)
    }

    fn set_ports(&mut self, ports: BTreeSet<u16>) -> Result<(), RedirectError> {
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
        match self.iptables.install(&wanted) {
            Ok(()) => self.plan = wanted,
            Err(error @ RedirectError::Tool { .. }) => {
                // The kernel may lack the `recent` match. If it takes the same rules without, that was it.
                let unleased = Plan { leased: false, ..wanted };
                self.iptables.install(&unleased).map_err(|_| error)?;
                tracing::warn!("no `recent` match in this kernel: if the agent and its guard are killed at once, the redirect stays");
                self.plan = unleased;
            }
            Err(error) => return Err(error),
        }
        self.installed = true;
        Ok(())
    }

    /// The lists exist only since the rules do: make them fresh now, so that the very next connection is redirected.
    fn keep_lease(&mut self) -> Result<(), RedirectError> {
        if self.plan.leased {
            self.lists.renew().map_err(RedirectError::Setup)?;
            if self.lease.is_none() {
                self.lease = Some(Lease::start(&self.ns, self.lists.clone())?);
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<bool, RedirectError> {
        if self.installed && self.plan.ports.is_empty() && self.in_flight() == 0 {
            self.iptables.remove(&self.plan)?;
            self.installed = false;
            self.lease = None;
        }
        Ok(!self.installed)
    }

    fn in_flight(&self) -> usize {
        ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .map(|table| table.lines().filter(|line| is_connection_at(line, self.plan.gateway_port)).count())
            .sum()
    }

    fn finish(&mut self) -> Result<(), RedirectError> {
        if self.installed {
            self.iptables.remove(&self.plan)?;
            self.installed = false;
        }
        self.lease = None;
        if self.plan.client_address == ClientAddress::Kept {
            transparent::undo(self.plan.transparent_mark(), &self.saved).map_err(RedirectError::Setup)?;
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

fn undo(iptables: &Iptables, plan: &Plan, options: &Options, saved: &[(PathBuf, String)]) -> Undo {
    let mut commands = Vec::new();
    for table in script::tables(plan).iter().rev() {
        for tool in iptables.tools() {
            let (program, args) = tool.restore_command();
            commands.push(UndoCommand { program, args: args.map(str::to_owned).into(), input: script::remove(plan, table) });
        }
    }
    Undo {
        leases: Family::ALL.map(|family| Lists::path(&plan.lease_name(family))).into(),
        commands,
        remove_files: options.remove_files.clone(),
        remove_folders: options.remove_folders.clone(),
        restore: saved.to_vec(),
        routing_mark: Some(plan.transparent_mark()),
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
    let name = SocketAddr::from_abstract_name("mirrord-redirect").map_err(RedirectError::Setup)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixDatagram::bind_addr(&name) {
            Ok(socket) => return Ok(socket.into()),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(RedirectError::Setup(error)),
            Err(_) if Instant::now() > deadline => return Err(RedirectError::AnotherAgent),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
