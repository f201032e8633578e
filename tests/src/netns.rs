//! Network namespaces: making them, entering them with a thread, running commands in them.

use std::{
    fs::{self, File},
    ops::Deref,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crate::{
    machine::{command, output, run},
    processes, sys,
};

/// A named network namespace; the name goes when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    /// As `ip netns` knows it.
    pub name: String,
    /// What identifies it to the kernel.
    pub inode: u64,
    handle: Handle,
}

/// A way into a namespace that may outlive its name.
#[derive(Clone, Debug)]
pub struct Handle(Arc<File>);

impl Handle {
    /// Into the namespace with this name.
    #[track_caller]
    pub fn named(name: &str) -> Self {
        Self::open(&path(name))
    }

    /// Into the namespace that a process lives in.
    #[track_caller]
    pub fn of_process(pid: u32) -> Self {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    #[track_caller]
    fn open(path: &Path) -> Self {
        Self(Arc::new(File::open(path).unwrap_or_else(|error| panic!("no namespace at {}: {error}", path.display()))))
    }

    /// A command that will run inside, for as long as this is there when it starts.
    pub fn command(&self, program: &str) -> Command {
        enter(Path::new(&format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())), program)
    }

    /// Runs a command line inside; gives what it printed.
    #[track_caller]
    pub fn sh(&self, words: &str) -> String {
        let mut words = words.split_whitespace();
        run(self.command(words.next().unwrap()).args(words))
    }

    /// Runs `work` on a thread inside. Sockets made there stay inside, wherever they are used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::enter_netns(&self.0).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let handle = self.clone();
        thread::spawn(move || {
            sys::enter_netns(&handle.0).unwrap();
            work()
        })
    }
}

impl Namespace {
    /// A new one, with `lo` up.
    pub fn new(name: &str) -> Self {
        run(&mut command(&format!("ip netns add {name}")));
        run(&mut command(&format!("ip -n {name} link set lo up")));
        let file = File::open(path(name)).unwrap();
        let inode = file.metadata().unwrap().ino();
        Self { name: name.into(), inode, handle: Handle(Arc::new(file)) }
    }

    /// A way in that can be kept elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        enter(&path(&self.name), program)
    }
}

impl Deref for Namespace {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// `nsenter`, because `ip netns exec` hides the cgroups of what it runs.
fn enter(namespace: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
    command
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Ends the processes inside a namespace made by a test, and removes it with the agent's socket for it.
pub(crate) fn remove(name: &str) {
    if let Ok(meta) = fs::metadata(path(name)) {
        for process in processes::all().into_iter().filter(|process| process.0 != std::process::id() && process.is_in(meta.ino())) {
            process.kill();
        }
        for socket in crate::state::agent_files(meta.ino()) {
            let _ = fs::remove_file(socket);
        }
    }
    output(&mut command(&format!("ip netns del {name}")));
}
