//! Children and signals: what a child gets before it runs, which signals reach us and from whom, who has ended or stopped, and
//! ending or stopping ourselves the way the program did.

use std::{
    io, mem,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
};

use crate::{privileges::Capabilities, sys::check};

/// Signals that the command line takes in while the program runs. Not among them: SIGKILL and SIGSTOP, which nobody can take, and
/// those that say that we ourselves are broken (SIGSEGV and the like).
const WATCHED: &[libc::c_int] = &[
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCHLD,
];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub signal: i32,
    /// The process that sent it; `None`: the kernel did, for instance because of a key at the terminal.
    pub sender: Option<i32>,
}

/// The watched signals, held back from their usual effect and readable instead. For the rest of this process's life.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    pub fn watch() -> io::Result<Self> {
        // SAFETY: the sets are initialised by sigemptyset before use; signalfd returns a new descriptor that nobody else owns.
        unsafe {
            // Inherited as "ignored", the kernel would reap the children itself and say nothing.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in WATCHED {
                libc::sigaddset(&mut set, *signal);
            }
            let mut before: libc::sigset_t = mem::zeroed();
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, &mut before))?;
            let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Self { fd: OwnedFd::from_raw_fd(fd), before })
        }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The next one that has arrived, if any.
    pub fn next(&self) -> Option<Arrived> {
        // SAFETY: signalfd_siginfo is plain data, and the kernel writes whole records of its size or nothing.
        unsafe {
            let mut info: libc::signalfd_siginfo = mem::zeroed();
            let size = mem::size_of_val(&info);
            if libc::read(self.fd(), ptr::from_mut(&mut info).cast(), size) != size as isize {
                return None;
            }
            // SI_USER (kill), SI_QUEUE (sigqueue) and SI_TKILL (tgkill) are 0 or below; the kernel's own reasons are above.
            let sender = (info.ssi_code <= 0).then_some(info.ssi_pid as i32);
            Some(Arrived { signal: info.ssi_signo as i32, sender })
        }
    }

    /// The program starts with the signals as we found them, and dies with us however we die.
    pub fn prepare_program(&self, command: &mut Command) {
        let (before, parent) = (self.before, std::process::id());
        // SAFETY: the closure makes only async-signal-safe system calls on its own copies.
        unsafe {
            command.pre_exec(move || {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong))?;
                // Had we died before that call, nobody would ever send the signal.
                if libc::getppid() as u32 != parent {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                check(libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut())).map(drop)
            });
        }
    }
}

/// What the agent and the intproxy get: a process group of their own, so that keys at the terminal are not for them; no descriptor
/// but the three that they are given (a pipe of the user's would stay open as long as they live); and `keep`, for an agent that
/// is not run as root and whose own children need the rights too.
pub fn prepare_helper(command: &mut Command, keep: Capabilities) {
    command.process_group(0).env_remove("LD_PRELOAD");
    // SAFETY: the closure makes only async-signal-safe system calls on its own copies.
    unsafe {
        command.pre_exec(move || {
            // Writing to the terminal from the background must not stop it (`stty tostop`).
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            // Marked, not closed: std reports a failing exec on one of them. Kernels before 5.11 cannot; nothing depends on it.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            raise_ambient(keep)
        });
    }
}

/// Makes permitted capabilities outlast exec.
fn raise_ambient(keep: Capabilities) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    if keep.is_empty() {
        return Ok(());
    }
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout of linux/capability.h, version 3; prctl takes plain numbers.
    unsafe {
        check(libc::syscall(libc::SYS_capget, &mut header, &mut data) as libc::c_int)?;
        for (half, data) in data.iter_mut().enumerate() {
            data.inheritable |= (keep.bits() >> (32 * half)) as u32 & data.permitted;
        }
        check(libc::syscall(libc::SYS_capset, &header, &data) as libc::c_int)?;
        for capability in keep.numbers() {
            check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, capability as libc::c_ulong, 0, 0))?;
        }
    }
    Ok(())
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(i32),
    Killed(i32),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// News of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Ended(i32, Outcome),
    Stopped(i32, i32),
}

/// The next news of any child, if there is some. An ended child is reaped, whoever it is.
pub fn news() -> Option<News> {
    let mut status = 0;
    // SAFETY: waitpid writes one int.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED) };
    if pid <= 0 {
        None
    } else if libc::WIFSTOPPED(status) {
        Some(News::Stopped(pid, libc::WSTOPSIG(status)))
    } else if libc::WIFSIGNALED(status) {
        Some(News::Ended(pid, Outcome::Killed(libc::WTERMSIG(status))))
    } else {
        Some(News::Ended(pid, Outcome::Exited(libc::WEXITSTATUS(status))))
    }
}

/// Sends a signal to a child that has not been reaped; its number cannot be another's meanwhile.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: plain numbers. It can fail only because the child has ended, which is what most signals are for.
    unsafe { libc::kill(pid, signal) };
}

/// Stops this process as `signal` does by default; returns when it is continued.
pub fn stop_self(signal: i32) {
    // SAFETY: the set is initialised before use; the rest are plain numbers.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        // Sent while held back, it takes effect at the unblocking, before that call returns.
        libc::kill(libc::getpid(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
}

/// Ends this process by `signal`, without a core file: the program's own is the one of interest.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: the set is initialised before use; the rest are plain numbers.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
    // The first process of a container does not die of a signal; shells write such an end so.
    std::process::exit(128 + signal)
}
