//! System calls that std has no name for and that look at things: files, namespaces, identities, the terminal.
//! Everything unsafe of the command line is here and in `process.rs`.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Real and effective user and group of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: u32,
    pub effective_user: u32,
    pub effective_group: u32,
}

pub fn identity() -> Identity {
    // SAFETY: these calls take nothing and cannot fail.
    unsafe { Identity { user: libc::getuid(), effective_user: libc::geteuid(), effective_group: libc::getegid() } }
}

/// Whether standard output is a pipe, socket or terminal whose other end is closed: whoever writes learns that only by writing.
pub fn nobody_reads() -> bool {
    let mut poll = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
    // SAFETY: one pollfd is given, which lives through the call; with no events asked for, only errors are told.
    let told = unsafe { libc::poll(&mut poll, 1, 0) };
    told > 0 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

/// Bits from the kernel; where it has none to give, the clock's will do.
pub fn random() -> u64 {
    let mut bits = [0_u8; 8];
    // SAFETY: the kernel writes at most 8 bytes to `bits`.
    let written = unsafe { libc::getrandom(bits.as_mut_ptr().cast(), bits.len(), 0) };
    if written == bits.len() as isize {
        return u64::from_ne_bytes(bits);
    }
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64
}

/// The user at the other end of a unix socket, as the kernel knows it.
pub fn peer_user(stream: &std::os::unix::net::UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = std::mem::size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `peer`, which is plain data.
    check(unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, std::ptr::from_mut(&mut peer).cast(), &mut length)
    })?;
    Ok(peer.uid)
}

/// Whether exec may run this file, by the rights of the effective user as exec itself sees them.
pub fn executable(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }).map(drop)
}

/// Whether the file carries capabilities of its own (`setcap`).
pub fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = c_path(path) else { return false };
    // SAFETY: both strings are NUL-terminated; a null buffer of length 0 asks for the size only.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Whether an open file is a network namespace.
pub fn is_network_namespace(file: &File) -> bool {
    /// `_IO(0xb7, 3)` of linux/nsfs.h.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this request takes no argument; on a file of another kind it fails.
    unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) == libc::CLONE_NEWNET }
}

/// The host name in a UTS namespace, or nothing if it is our own.
pub fn host_name(namespace: File) -> io::Result<Option<String>> {
    use std::os::unix::fs::MetadataExt;
    if namespace.metadata()?.ino() == std::fs::metadata("/proc/thread-self/ns/uts")?.ino() {
        return Ok(None);
    }
    // A thread that enters never leaves; nobody else may run on it.
    let look = move || {
        // SAFETY: plain call on a descriptor that `namespace` keeps open; no memory is passed.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUTS) })?;
        std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| Some(name.trim().to_owned()))
    };
    let thread = std::thread::Builder::new().name("hostname".into()).spawn(look)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked has failed")))
}

/// Whether this process's group is the one that its terminal, if it has one, listens to.
pub fn in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    // SAFETY: plain calls on an open descriptor.
    unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() }
}

/// Reads of this descriptor return at once from now on.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain calls on a descriptor; F_SETFL takes an int.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)).map(drop)
    }
}

/// Waits until one of the descriptors can be read (or has ended); which one is for the caller to try. `None` waits for ever.
pub fn wait_readable(fds: &[RawFd], timeout: Option<std::time::Duration>) -> io::Result<()> {
    let mut fds: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    // Rounded up: a wait that ends just before its deadline would spin.
    let timeout = timeout.map_or(-1, |time| i32::try_from(time.as_millis() + 1).unwrap_or(i32::MAX));
    // SAFETY: `fds` is a valid array of its own length.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// The result of a system call that says -1 on failure.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    let bytes: &OsStr = path.as_os_str();
    CString::new(bytes.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A moment by the clock on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    pub year: i32,
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
}

/// The local time of seconds since 1970.
pub fn local_time(seconds: i64) -> LocalTime {
    // SAFETY: `tm` is plain data (its zone's name may be null) that localtime_r fills in, or leaves as it is.
    let time = unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&(seconds as libc::time_t), &mut time);
        time
    };
    LocalTime {
        year: time.tm_year + 1900,
        month: time.tm_mon + 1,
        day: time.tm_mday,
        hour: time.tm_hour,
        minute: time.tm_min,
        second: time.tm_sec,
    }
}

/// The columns of the terminal that standard output is, if it is one and says so.
pub fn columns() -> Option<usize> {
    // SAFETY: `size` is a valid winsize, which the request fills in.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        check(libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size)).ok()?;
        size
    };
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
