//! Reads and writes sysctls, also where `/proc/sys` is mounted read-only, as in every container that is not privileged.
//!
//! With CAP_SYS_ADMIN, which entering a namespace needs anyway, the kernel makes a second procfs that nobody else sees: a
//! mount that is attached nowhere and goes with its descriptor.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

const FSCONFIG_CMD_CREATE: u32 = 6;

/// The value of `net/ipv4/…`, in the namespace of the calling thread.
pub fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).map(|value| value.trim().to_owned())
}

/// Sets it, unless it is so already.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    if read(name)? == value {
        return Ok(());
    }
    match fs::write(Path::new("/proc/sys").join(name), value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let mount = detached_procfs().map_err(|_| error)?;
            fs::write(format!("/proc/self/fd/{}/sys/{name}", mount.as_raw_fd()), value)
        }
        other => other,
    }
}

fn detached_procfs() -> io::Result<OwnedFd> {
    let kind: &CStr = c"proc";
    let nothing = std::ptr::null::<u8>();
    // SAFETY: `kind` is a C string that outlives the call; the command takes no key, value or auxiliary number; results
    // ≥ 0 are descriptors that nobody else owns.
    unsafe {
        let context = descriptor(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC))?;
        if libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, nothing, nothing, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        descriptor(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, 0))
    }
}

/// # Safety
/// `result` is what a system call returned that opens a descriptor, or fails with a negative number.
unsafe fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the caller's promise.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
