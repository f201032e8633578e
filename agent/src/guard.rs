//! The process that outlives the agent and gives the pod its traffic back.
//!
//! ```text
//! agent ── stdin: what to undo (one line of JSON), at the end "clean" ──► guard
//! agent ◄── stdout: "armed" ── guard, which then holds no descriptor of the agent's but these (and the lock)
//! ```
//! If the pipe closes, or the process ends, or the thread that has started the guard, without "clean", everything listed is
//! undone. All of it is worked out beforehand, so that nothing needs to be looked up when it counts.

use crate::{
    folder,
    redirect::{sysctls, transparent},
};
use mirrord_protocol::control::key_variable;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// What the guard does when the agent has died.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Undo {
    /// `recent` lists to empty, first of all: from then on the redirect rules match nothing. Microseconds.
    pub leases: Vec<PathBuf>,
    /// Run side by side, one input after the other.
    pub commands: Vec<UndoCommand>,
    /// The mark whose routing is to be removed.
    pub routing_mark: u32,
    /// Names and values to be set at last, when the agent's connections are closed.
    pub sysctls: Vec<(String, String)>,
    /// Removed if they are still the same files: another agent may have made new ones meanwhile.
    pub remove_files: Vec<FileIdentity>,
    /// Removed if empty.
    pub remove_folders: Vec<PathBuf>,
}

/// A file as it was when the guard was armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UndoCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// One atomic change each, the most urgent first.
    pub inputs: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("cannot start the guard process {command:?}: {source}. It is the agent's own program: check that it can be executed there")]
    Start { command: OsString, source: io::Error },
    #[error("the guard process did not answer: {0}. Nothing was changed in the target; try again")]
    Arm(io::Error),
}

/// The agent's side: a guard that is watching. Dropped without `stand_down`, it undoes everything.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    orders: Option<ChildStdin>, // agent --what to undo, "clean"--> guard
}

impl Guard {
    /// Starts `command` (this program, with arguments that lead to [`run`]) in the caller's network namespace and waits
    /// until it watches. `lock` stays open in it, so that nobody else starts while it still has work to do.
    pub fn arm(command: &[OsString], undo: &Undo, lock: OwnedFd) -> Result<Self, GuardError> {
        let program = command.first().cloned().unwrap_or_default();
        let mut child = Command::new(&program)
            .args(command.get(1..).unwrap_or_default())
            // Whoever looks at the process list should see whose guard it is, not /proc/self/exe.
            .arg0("mirrord-agent")
            .current_dir("/")
            // It has no use for the keys.
            .env_remove(key_variable("tls.key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not for writing: it is the one more descriptor that a child can be given by safe means.
            .stderr(Stdio::from(lock))
            .spawn()
            .map_err(|source| GuardError::Start { command: program, source })?;
        let mut orders = child.stdin.take();
        let armed = (|| {
            let (Some(orders), Some(answer)) = (&mut orders, child.stdout.take()) else {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            };
            serde_json::to_writer(&mut *orders, undo)?;
            orders.write_all(b"\n")?;
            // A test harness may print before the guard does.
            BufReader::new(answer.take(64 << 10))
                .lines()
                .find(|line| line.as_ref().is_ok_and(|line| line.ends_with(ARMED)))
                .unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
        })();
        match armed {
            Ok(_) => Ok(Guard { child, orders }),
            Err(error) => {
                drop(orders);
                let _ = child.kill();
                let _ = child.wait();
                Err(GuardError::Arm(error))
            }
        }
    }

    /// The guard's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resolves when the guard with this process id, a child of ours, has ended.
    pub async fn ended(pid: u32) -> io::Result<()> {
        // SAFETY: an owned descriptor stays the same and open until it is dropped, by this very value.
        let process = unsafe { AsyncFd::register_with_interest(pidfd(pid)?, Interest::READABLE)? };
        process.readable().await.map(drop)
    }

    /// Everything is clean: the guard ends at once, having done nothing.
    pub fn stand_down(mut self) {
        if let Some(mut orders) = self.orders.take() {
            let _ = orders.write_all(b"clean\n");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.orders.take();
        let _ = self.child.wait();
    }
}

const ARMED: &str = "guard armed";
const CLEAN: &str = "clean";

/// The guard's whole life. `main` calls this when the program is started as `guard`.
pub fn run() -> ExitCode {
    match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn watch() -> io::Result<()> {
    detach();
    let agent = pidfd(std::os::unix::process::parent_id())?;
    let mut orders = BufReader::new(io::stdin().lock());
    let mut line = String::new();
    orders.read_line(&mut line)?;
    let undo: Undo = serde_json::from_str(&line)?;
    println!("{ARMED}");
    io::stdout().flush()?;
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    // SAFETY: both descriptors are open; stdout's pipe is closed by it, nobody else holds it.
    unsafe { libc::dup2(null.as_raw_fd(), 1) };

    let mut word = String::new();
    wait_readable(&[0, agent.as_raw_fd()], None)?;
    // The agent may have said "clean" and ended in one go. If its threads are dying one by one, the pipe may still be open.
    if wait_readable(&[0], Some(Duration::ZERO))? {
        // Cannot hang, unless the agent is alive and sends half a word, which it never does.
        orders.read_line(&mut word)?;
    }
    if word.trim_end() != CLEAN {
        undo.carry_out();
        // How long broken connections are remembered must be as the agent wanted it until the last of them is broken.
        let _ = wait_readable(&[agent.as_raw_fd()], Some(Duration::from_secs(1)));
        undo.restore_sysctls()?;
    }
    Ok(())
}

impl Undo {
    /// Undoes all, as far as it is there. Never stops at a failure: whatever can be given back is.
    pub fn carry_out(&self) {
        for list in &self.leases {
            let _ = fs::write(list, "/");
        }
        let inputs: usize = self.commands.iter().map(|command| command.inputs.len()).max().unwrap_or(0);
        let urgent = self.start(0);
        let _ = transparent::remove_routing(self.routing_mark);
        for file in &self.remove_files {
            if FileIdentity::of(&file.path).is_ok_and(|found| found == *file) {
                let _ = fs::remove_file(&file.path);
            }
        }
        for path in &self.remove_folders {
            folder::remove(path);
        }
        let mut refused = finish(urgent);
        for nth in 1..inputs {
            refused.extend(finish(self.start(nth)));
        }
        if !refused.is_empty() {
            // What is not there cannot be removed. Or it was just about to come: a last change of the agent's that the
            // kernel was carrying out. So once more, after a moment.
            std::thread::sleep(Duration::from_millis(50));
            finish(refused.into_iter().map(|(command, input)| Started { command, input, child: command.start(input) }).collect());
        }
    }

    fn restore_sysctls(&self) -> io::Result<()> {
        sysctls::put(self.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// Starts all commands with their nth input.
    fn start(&self, nth: usize) -> Vec<Started<'_>> {
        let commands = self.commands.iter().filter_map(|command| Some((command, command.inputs.get(nth)?)));
        commands.map(|(command, input)| Started { command, input, child: command.start(input) }).collect()
    }
}

struct Started<'a> {
    command: &'a UndoCommand,
    input: &'a str,
    child: io::Result<Child>,
}

/// Waits for all; which were refused.
fn finish(started: Vec<Started<'_>>) -> Vec<(&UndoCommand, &str)> {
    let refused = |child: io::Result<Child>| !child.is_ok_and(|mut child| child.wait().is_ok_and(|status| status.success()));
    started.into_iter().filter_map(|one| refused(one.child).then_some((one.command, one.input))).collect()
}

impl FileIdentity {
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(FileIdentity { path: path.to_owned(), device: meta.dev(), inode: meta.ino() })
    }
}

impl UndoCommand {
    fn start(&self, input: &str) -> io::Result<Child> {
        let null = Stdio::null;
        let mut child = Command::new(&self.program).args(&self.args).stdin(Stdio::piped()).stdout(null()).stderr(null()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        Ok(child)
    }
}

/// Away from the agent's session, terminal signals and descriptors: what ends the agent must not end the guard.
fn detach() {
    // SAFETY: the name is a C string that outlives its call, the other calls take no pointers. The signal dispositions set
    // are the kernel's own "ignore". Nothing in this process has opened a descriptor above 2 yet: those that are open were
    // inherited by mistake.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"mirrord-guard".as_ptr());
        // It sleeps until the moment in which every millisecond counts, also on a busy machine. Where that may not be had, no harm.
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
        // A process that is killed is dead when its last thread is, and its listeners are closed some time before that: its
        // control thread's end is the first sign. The handler has nothing to do, what waits is interrupted.
        libc::signal(DYING, woken as extern "C" fn(libc::c_int) as libc::sighandler_t);
        libc::prctl(libc::PR_SET_PDEATHSIG, DYING);
        libc::close_range(3, u32::MAX, 0);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE, libc::SIGUSR1, libc::SIGALRM] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; a result ≥ 0 is a descriptor that nobody else owns.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd as i32)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sent by the kernel when the thread of the agent's that has started the guard ends.
const DYING: libc::c_int = libc::SIGUSR2;
static IS_DYING: AtomicBool = AtomicBool::new(false);

extern "C" fn woken(_: libc::c_int) {
    IS_DYING.store(true, Relaxed);
}

/// Waits until one of the descriptors can be read or was closed at the other end, the time is over, or the agent is dying.
/// Whether it is one of the descriptors.
fn wait_readable(fds: &[i32], limit: Option<Duration>) -> io::Result<bool> {
    let mut polled: Vec<_> = fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let limit = limit.map_or(-1, |limit| limit.as_millis() as libc::c_int);
    loop {
        // SAFETY: the pointer and the count describe `polled`, which lives across the call.
        match unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, limit) } {
            0.. => return Ok(polled.iter().any(|one| one.revents != 0)),
            _ if limit != 0 && IS_DYING.load(Relaxed) => return Ok(false),
            _ => {}
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
