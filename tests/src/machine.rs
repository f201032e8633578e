//! What all tests share on this machine: the built product, the right to measure alone, and the rests of runs that were
//! killed, which are removed before the first pod is made.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Once, OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use crate::{
    processes::{self, Process},
    sys, watchdog,
};

/// Variable in the environment of everything that the harness starts: `TEST_PID.POD`. A later run finds rests by it.
pub const MARK: &str = "MIRRORD_TESTS";

/// Panics with a clear message unless the tests can run at all; removes rests of killed runs once.
pub fn ready() {
    static ONCE: Once = Once::new();
    assert!(sys::is_root(), "these tests make network namespaces: run them as root (sudo -E make test)");
    ONCE.call_once(sweep);
}

/// The folder of built programs; the test's own executable is in `deps` below it.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = env::current_exe().unwrap();
        let folder = own.ancestors().nth(2).unwrap().to_path_buf();
        for name in ["mirrord", "mirrord-agent", "libmirrord_layer.so"] {
            assert!(folder.join(name).exists(), "{} is missing: run `make build` first", folder.join(name).display());
        }
        folder
    })
}

/// An example filter, or one of the filters that misbehave (`.wat`, kept with the agent's own tests).
pub fn filter(name: &str) -> PathBuf {
    let good = built().parent().unwrap().join("filters").join(format!("{name}.wasm"));
    let bad = manifest().join("../agent/filters/tests/guests").join(format!("{name}.wat"));
    let own = manifest().join("programs").join(format!("{name}.wat"));
    [good, bad, own].into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no filter named {name}: run `make build` first"))
}

/// The folder of this crate.
pub fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A place for what tests compile; it is in the target folder and stays.
pub fn scratch() -> PathBuf {
    let folder = built().parent().unwrap().join("tmp/programs");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a command to its end; panics with its output if it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output(command.stdin(Stdio::null()));
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever that is; one that does not end within a minute is killed, and says so.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let process = Process(child.id());
    let _waiting = watchdog::waiting(format!("the end of {command:?}"));
    let (ended, end) = mpsc::channel::<()>();
    // Kills all of it, as what it has started would keep its output open.
    let watch = thread::spawn(move || {
        if end.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("killed, because it did not end within a minute: {:?}", process.arguments());
            processes::tree(process).into_iter().for_each(Process::kill);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watch.join().unwrap();
    output
}

/// A command from words.
pub fn command(words: &str) -> Command {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// A share of this machine, across test binaries; dropping it gives it back.
pub struct Share {
    _lock: File,
}

impl Share {
    /// Beside others.
    pub fn shared() -> Self {
        Self::lock(libc::LOCK_SH)
    }

    /// With no other test running: for what measures time.
    pub fn alone() -> Self {
        Self::lock(libc::LOCK_EX)
    }

    fn lock(operation: i32) -> Self {
        // The crate's own folder can be locked as well as a file, and leaves none behind.
        let lock = File::open(manifest()).unwrap();
        watchdog::pause();
        let waiting = watchdog::waiting("other tests to give the machine back");
        sys::flock(&lock, operation).unwrap();
        drop(waiting);
        watchdog::watch();
        Self { _lock: lock }
    }
}

/// Ends processes and removes namespaces and folders of test runs whose own process is gone.
fn sweep() {
    remove_all_of(|pid| !is_test_run(pid));
}

/// The same for this very process, which is about to exit.
pub(crate) fn remove_own() {
    remove_all_of(|pid| pid == std::process::id());
}

fn remove_all_of(is_meant: impl Fn(u32) -> bool) {
    let of_mark = |mark: &str| mark.split('.').next().and_then(|pid| pid.parse().ok()).is_some_and(&is_meant);
    for process in processes::all().into_iter().filter(|process| process.0 != std::process::id()) {
        if process.variable(MARK).is_some_and(|mark| of_mark(&mark)) {
            process.kill();
        }
    }
    for name in rests("/run/netns", &is_meant) {
        crate::netns::remove(&name);
    }
    for name in rests("/tmp", &is_meant) {
        let _ = fs::remove_dir_all(Path::new("/tmp").join(name));
    }
}

/// Names in a folder that begin as those of pods do (`mtPIDx…`), of the runs that are meant.
fn rests(folder: &str, is_meant: impl Fn(u32) -> bool) -> Vec<String> {
    let owner = |name: &str| name.strip_prefix("mt")?.split_once('x')?.0.parse::<u32>().ok();
    let names = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| owner(name).is_some_and(&is_meant)).collect()
}

fn is_test_run(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.to_string_lossy().contains("/deps/")
}
