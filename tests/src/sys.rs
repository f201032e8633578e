//! The few kernel calls that std lacks; the only unsafe code of the harness.

use std::{fs::File, io, os::fd::AsRawFd};

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter_netns(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call; the call touches no memory of ours.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

pub(crate) fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: touches no memory of ours.
    checked(unsafe { libc::kill(pid as i32, signal) })
}

/// Stops one thread of another process until the calling thread ends.
pub(crate) fn hold_thread(tid: u32) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take no pointers to memory of ours, and wait is told not to write anything.
    unsafe {
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            if libc::ptrace(request, tid as libc::pid_t, none, none) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::waitpid(tid as libc::pid_t, std::ptr::null_mut(), libc::__WALL) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Locks an open file against other processes and other openings of it; waits until it is free.
pub(crate) fn flock(file: &File, operation: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call.
    checked(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

/// Has the C library call this when the process exits by itself.
pub(crate) fn at_exit(work: extern "C" fn()) {
    // SAFETY: a function is there for as long as the process is; if there is no memory for the note, it is not called.
    unsafe { libc::atexit(work) };
}
