//! Another network namespace, and OS threads that live in it.
//!
//! `setns` acts on the calling thread only, so whatever must happen in the target (sockets, iptables, netlink) happens on
//! a thread that has entered and never leaves. A runtime built on such a thread stays in the namespace, its blocking pool
//! included; calling `enter` inside a task of a shared runtime would poison a worker instead.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

/// A handle on a network namespace. It keeps the namespace alive, even after its last process has gone.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
    path: PathBuf,
    inode: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    #[error("no network namespace at {path}: {source}. Check that the target still runs (`ip netns list`, `ps`)")]
    Missing { path: PathBuf, source: io::Error },
    #[error("{path} is not a network namespace. Name /run/netns/NAME or /proc/PID/ns/net")]
    NotANamespace { path: PathBuf },
    #[error(
        "no permission to enter the network namespace {path}: this needs CAP_SYS_ADMIN, and CAP_NET_ADMIN to redirect in it. \
         Run as root (sudo), or give the agent's container these two capabilities"
    )]
    Privilege { path: PathBuf },
    #[error("cannot enter the network namespace {path}: {source}. Check that the target still runs")]
    Enter { path: PathBuf, source: io::Error },
    #[error("cannot start a thread for the network namespace: {0}. Raise the limit of processes (ulimit -u, pids.max)")]
    Thread(io::Error),
}

impl NetNs {
    /// Opens `/run/netns/NAME`, `/proc/PID/ns/net` or any other bind mount of a network namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetNsError> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => NetNsError::Privilege { path: path.clone() },
            _ => NetNsError::Missing { path: path.clone(), source },
        })?;
        let meta = file.metadata().map_err(|source| NetNsError::Missing { path: path.clone(), source })?;
        // SAFETY: NS_GET_NSTYPE takes no argument and only reads from the descriptor, which `file` keeps open.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(NetNsError::NotANamespace { path });
        }
        Ok(NetNs { file: Arc::new(file), path, inode: meta.ino() })
    }

    /// A new one, in which the calling thread, and only it, is from now on.
    pub fn fresh() -> Result<Self, NetNsError> {
        // SAFETY: plain system call; no memory is passed.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let (path, source) = (PathBuf::from("/proc/thread-self/ns/net"), io::Error::last_os_error());
            return Err(match source.raw_os_error() {
                Some(libc::EPERM) => NetNsError::Privilege { path },
                _ => NetNsError::Enter { path, source },
            });
        }
        Self::current()
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// What identifies the namespace on this machine, whatever path it was opened by.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread, and only it, into the namespace. Where it is already nobody needs a right to be.
    pub fn enter(&self) -> Result<(), NetNsError> {
        if fs::metadata("/proc/thread-self/ns/net").is_ok_and(|own| own.ino() == self.inode) {
            return Ok(());
        }
        // SAFETY: plain system call on a descriptor that `self` keeps open; no memory is passed.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
            return Ok(());
        }
        let path = self.path.clone();
        let source = io::Error::last_os_error();
        Err(match source.raw_os_error() {
            Some(libc::EPERM) => NetNsError::Privilege { path },
            _ => NetNsError::Enter { path, source },
        })
    }

    /// Starts an OS thread that runs `work` inside the namespace; returns once it has entered, or why it could not.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Option<T>>, NetNsError> {
        let ns = self.clone();
        let (entered_tx, entered_rx) = mpsc::sync_channel(1); // thread --may it go on--> caller
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let entered = ns.enter();
                let go = entered.is_ok();
                let _ = entered_tx.send(entered);
                go.then(work)
            })
            .map_err(NetNsError::Thread)?;
        match entered_rx.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetNsError::Thread(io::Error::other("the thread ended before it had entered"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_lives_in_the_namespace_and_the_caller_does_not_move() {
        let here = NetNs::current().unwrap();
        let seen = here.spawn("in-ns", || NetNs::current().unwrap().inode()).unwrap().join().unwrap();
        assert_eq!(seen, Some(here.inode()));
        assert_eq!(NetNs::current().unwrap().inode(), here.inode());
    }

    #[test]
    fn what_is_no_namespace_is_refused_with_the_next_step() {
        assert!(matches!(NetNs::open("/run/netns/no-such-one"), Err(NetNsError::Missing { .. })));
        assert!(matches!(NetNs::open("/dev/null"), Err(NetNsError::NotANamespace { .. })));
        assert!(matches!(NetNs::open("/proc/self/ns/mnt"), Err(NetNsError::NotANamespace { .. })));
    }
}
