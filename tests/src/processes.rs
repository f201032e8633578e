//! Processes as `/proc` shows them: who belongs to a pod or a session, and how much memory they take.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{sys, wait::eventually};

/// A process by its id. It may end at any time: then everything about it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process(pub u32);

/// A thread that stands still while this lives.
pub struct Held {
    let_go: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go.take();
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}

/// All processes that can be seen.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Process).collect()
}

/// A process and all that descends from it.
pub fn tree(root: Process) -> Vec<Process> {
    let parents: Vec<_> = all().into_iter().map(|process| (process, process.parent())).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, its)| *its == Some(parent)).map(|(child, _)| *child));
        next += 1;
    }
    found
}

impl Process {
    /// Not ended, and not a zombie either: one whose threads have all ended.
    pub fn is_alive(self) -> bool {
        self.thread_states().any(|state| state.is_some_and(|state| !matches!(state, 'Z' | 'X')))
    }

    /// The arguments, the program first.
    pub fn arguments(self) -> Vec<String> {
        let bytes = fs::read(self.path("cmdline")).unwrap_or_default();
        bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// File name of the executable.
    pub fn program(self) -> String {
        let exe = fs::read_link(self.path("exe")).unwrap_or_default();
        exe.file_name().map(|name| name.to_string_lossy().trim_end_matches(" (deleted)").to_owned()).unwrap_or_default()
    }

    /// A variable of the environment that it was started with.
    pub fn variable(self, name: &str) -> Option<String> {
        let bytes = fs::read(self.path("environ")).ok()?;
        let mut pairs = bytes.split(|byte| *byte == 0).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    /// Does any of its threads live in the network namespace with this inode?
    pub fn is_in(self, inode: u64) -> bool {
        let Ok(threads) = fs::read_dir(self.path("task")) else { return false };
        threads.flatten().any(|thread| fs::metadata(thread.path().join("ns/net")).is_ok_and(|meta| meta.ino() == inode))
    }

    /// Resident memory, bytes.
    pub fn memory(self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory so far, bytes.
    pub fn peak_memory(self) -> u64 {
        self.status("VmHWM:")
    }

    /// Makes [`Process::peak_memory`] count from now.
    pub fn reset_peak_memory(self) {
        fs::write(self.path("clear_refs"), "5").unwrap();
    }

    /// Processor time used so far, in clock ticks (10 ms).
    pub fn ticks(self) -> u64 {
        let (_, rest) = self.stat().unwrap_or_default();
        let field = |index: usize| rest.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        field(10) + field(11)
    }

    /// When it was started, since the machine was; to 10 ms.
    pub fn started(self) -> Duration {
        let (_, rest) = self.stat().unwrap_or_default();
        let ticks = rest.get(18).and_then(|text| text.parse().ok()).unwrap_or(0);
        Duration::from_millis(10 * ticks)
    }

    /// Ends it at once.
    pub fn kill(self) {
        self.signal(libc::SIGKILL);
    }

    /// Sends a signal; a process that has ended already is no error.
    pub fn signal(self, signal: i32) {
        let _ = sys::kill(self.0, signal);
    }

    /// Stops it, and returns when it stands still: until then its threads may go on for a while on a busy machine.
    #[track_caller]
    pub fn stop(self) {
        self.signal(libc::SIGSTOP);
        eventually("a stopped process stands still", || self.stands_still().then_some(()));
    }

    /// Stops the thread of this name, and no other, until the value is dropped.
    pub fn hold_thread(self, name: &str) -> Held {
        let tasks = fs::read_dir(self.path("task")).unwrap().flatten();
        let is_it = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name);
        let task = tasks.into_iter().find(is_it).unwrap_or_else(|| panic!("process {} has no thread {name}", self.0));
        let tid = task.file_name().to_str().unwrap().parse().unwrap();
        let ((let_go, told), (holds, is_held)) = (mpsc::channel::<()>(), mpsc::channel());
        // Whoever holds a thread is a thread itself: when it ends, the kernel lets go.
        let holder = thread::spawn(move || {
            holds.send(sys::hold_thread(tid)).unwrap();
            let _ = told.recv();
        });
        is_held.recv().unwrap().unwrap();
        Held { let_go: Some(let_go), holder: Some(holder) }
    }

    /// Whether none of its threads can go on.
    fn stands_still(self) -> bool {
        self.thread_states().all(|state| state.is_some_and(|state| matches!(state, 'T' | 'Z' | 'X')))
    }

    /// The state letter of each thread, which stands behind its name in brackets.
    fn thread_states(self) -> impl Iterator<Item = Option<char>> {
        let threads = fs::read_dir(self.path("task")).into_iter().flatten().flatten();
        let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
        stats.map(|stat| stat.rsplit_once(") ")?.1.chars().next())
    }

    /// Its parent.
    pub fn parent(self) -> Option<Self> {
        self.stat()?.1.first()?.parse().ok().map(Self)
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    /// The state letter, and the fields behind it. The name in brackets before may hold anything.
    fn stat(self) -> Option<(String, Vec<String>)> {
        let text = fs::read_to_string(self.path("stat")).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
        Some((fields.next()?, fields.collect()))
    }

    fn status(self, field: &str) -> u64 {
        let text = fs::read_to_string(self.path("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
    }
}

/// Processes of mirrord that serve the namespace with this inode, or that carry this mark in their environment.
pub fn of_mirrord(inode: u64, mark: &str) -> Vec<Process> {
    let ours: HashSet<_> = all()
        .into_iter()
        .filter(|process| process.program().starts_with("mirrord") && !process.program().starts_with("mirrord_tests"))
        .collect();
    let mut found: Vec<_> = ours
        .into_iter()
        .filter(|process| process.is_in(inode) || process.variable(crate::machine::MARK).as_deref() == Some(mark))
        .filter(|process| process.is_alive())
        .collect();
    found.sort();
    found
}
