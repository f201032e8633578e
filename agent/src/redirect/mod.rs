//! How connections to the pod reach the gateway, and how the pod always gets them back.
//!
//! ```text
//! start ──► nothing changed ──set_ports{80}──► redirecting ──set_ports{}──► draining ──(last one gone)──► nothing changed
//!                                                   │                          │
//!                                              finish, drop; or the guard, or the lease, if the agent dies
//! ```
//! Everything that touches the kernel runs on one control thread in the target's namespace: rules (`iptables`, text from
//! `script`, of a `plan`), routing (`transparent`), the lock; `state` has what it knows. The `lease` has a thread of its own,
//! the guard a process.

mod command;
pub mod iptables;
pub mod lease;
pub mod leftovers;
mod netlink;
pub mod plan;
mod procfs;
pub mod script;
mod state;
pub mod sysctls;
pub mod transparent;

use crate::{
    guard::GuardError,
    netns::{NetNs, NetNsError},
    socket::PodConnector,
};
use iptables::Variant;
use lease::{Brake, Pulse};
use plan::{ClientAddress, MARK};
use state::State;
use std::{collections::BTreeSet, ffi::OsString, io, path::PathBuf, sync::mpsc, thread::JoinHandle};

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
    #[error("this agent has no target whose traffic could be redirected. Name one with --target")]
    NoTarget,
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
    /// Files the guard deletes when the agent has died (its socket); they exist already.
    pub remove_files: Vec<PathBuf>,
    /// Folders the guard deletes then, if empty.
    pub remove_folders: Vec<PathBuf>,
    /// Overrides the choice of the iptables variant.
    pub variant: Option<Variant>,
    /// Lets go of new connections while it is pulled.
    pub brake: Brake,
    /// Asked before the lease is renewed.
    pub pulse: Pulse,
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
            brake: Brake::default(),
            pulse: Pulse::default(),
            client_address: ClientAddress::Kept,
        }
    }
}

/// The redirect as it is now.
#[derive(Clone, Debug)]
pub struct Status {
    /// Ports whose new connections reach the gateway.
    pub ports: BTreeSet<u16>,
    /// Connections on the gateway's port, as the kernel counts them.
    pub in_flight: usize,
    /// Whether the rules hold only while the agent renews them.
    pub leased: bool,
    pub guard: Option<u32>,
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

    /// What an operator may ask about the redirect.
    pub fn status(&self) -> Result<Status, RedirectError> {
        self.control.call(|state| state.status())
    }

    /// Puts another guard in the place of one that has been killed.
    pub fn rearm(&mut self) -> Result<(), RedirectError> {
        self.control.call(|state| state.arm())?
    }

    /// The guard's process id, for logs and tests.
    pub fn guard_pid(&self) -> Result<Option<u32>, RedirectError> {
        self.control.call(|state| state.guard_pid())
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
