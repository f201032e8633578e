//! The dead man's switch: the redirect rules match only while the kernel's `recent` lists of this agent hold an entry that is
//! younger than a second. A thread renews it; if the agent dies, hangs or is stopped, new connections go to the pod.

use crate::netns::{NetNs, NetNsError};
use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A quarter of the lease's second: three renewals may be late.
const PERIOD: Duration = Duration::from_millis(250);

/// The lists of one agent: (list's name, the entry to keep fresh).
#[derive(Clone, Debug)]
pub struct Lists(pub Vec<(String, &'static str)>);

impl Lists {
    /// Where the kernel shows a list, in the namespace of whichever thread opens it.
    pub fn path(name: &str) -> PathBuf {
        format!("/proc/thread-self/net/xt_recent/{name}").into()
    }

    /// Renews the entries. A list exists only while a rule refers to it: nothing to renew then.
    pub fn renew(&self) -> io::Result<()> {
        for (name, entry) in &self.0 {
            match fs::write(Self::path(name), format!("+{entry}")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// For an agent that cannot take more connections: while somebody pulls it, the lease is not renewed, and within a second
/// newcomers reach the pod.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<AtomicBool>);

impl Brake {
    /// Holds for one renewal; to be pulled again as long as it is needed.
    pub fn pull(&self) {
        self.0.store(true, Relaxed);
    }

    fn was_pulled(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

/// Keeps the lists fresh until dropped.
#[derive(Debug)]
pub struct Lease {
    stop: Option<mpsc::Sender<()>>, // owner --dropped: stop--> thread
    thread: Option<JoinHandle<Option<()>>>,
}

impl Lease {
    pub fn start(ns: &NetNs, lists: Lists, brake: Brake) -> Result<Self, NetNsError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = ns.spawn("lease", move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
                if brake.was_pulled() {
                    continue;
                }
                if let Err(error) = lists.renew() {
                    tracing::warn!(%error, "cannot renew the redirect's lease: new connections will go to the pod");
                }
            }
        })?;
        Ok(Lease { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
