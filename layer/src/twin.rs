//! C edge: a second socket that is like the first, to take its place. A socket that is bound stays bound, so what has to go to
//! another port after `bind` has to be another socket. Used by `ops.rs`.

use std::mem::size_of;

use libc::{c_int, socklen_t};

use crate::sys::{self, errno, Errno};

/// What a program can have said of a TCP socket before it listens, and what the connections take over from it.
const OPTIONS: [(c_int, &[c_int]); 4] = [
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_REUSEADDR,
            libc::SO_REUSEPORT,
            libc::SO_KEEPALIVE,
            libc::SO_LINGER,
            libc::SO_OOBINLINE,
            libc::SO_RCVLOWAT,
            libc::SO_RCVTIMEO,
            libc::SO_SNDTIMEO,
            libc::SO_PRIORITY,
            libc::SO_MARK,
            libc::SO_BINDTODEVICE,
        ],
    ),
    (libc::IPPROTO_IP, &[libc::IP_TOS, libc::IP_TTL, libc::IP_FREEBIND, libc::IP_TRANSPARENT]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_V6ONLY, libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS]),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_NODELAY,
            libc::TCP_CORK,
            libc::TCP_MAXSEG,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
            libc::TCP_SYNCNT,
            libc::TCP_LINGER2,
            libc::TCP_DEFER_ACCEPT,
            libc::TCP_WINDOW_CLAMP,
            libc::TCP_CONGESTION,
            libc::TCP_USER_TIMEOUT,
            libc::TCP_FASTOPEN,
            libc::TCP_NOTSENT_LOWAT,
        ],
    ),
];

/// The longest value of an option: a name of an algorithm or an interface.
const LONGEST: usize = 16;

/// Makes a socket of the same family and type with the same options, closed by exec, bound to nothing. `None` if there is no room.
/// A filter that the program has attached (BPF) cannot be read back in all its forms, and is not taken along.
pub fn of(fd: c_int) -> Option<c_int> {
    let domain = sys::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    // SAFETY: no memory is involved.
    let twin = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP) };
    if twin == -1 {
        return None;
    }
    for (level, names) in OPTIONS {
        names.iter().for_each(|name| copy(fd, twin, level, *name));
    }
    for name in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        // The kernel tells twice what it was told. Untouched it stays so: a size that was said is never adapted.
        let sizes = [fd, twin].map(|of| sys::option(of, libc::SOL_SOCKET, name));
        if let ([Some(size), _], true) = (sizes, sizes[0] != sizes[1]) {
            set(twin, libc::SOL_SOCKET, name, &(size / 2).to_ne_bytes());
        }
    }
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(twin, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL)) };
    Some(twin)
}

// Only what differs: much of this only root may set, and most of it nobody has. What cannot be set stays as it is.
fn copy(from: c_int, to: c_int, level: c_int, name: c_int) {
    let (wanted, had) = (get(from, level, name), get(to, level, name));
    if let (Some((value, length)), true) = (wanted, wanted != had) {
        set(to, level, name, &value[..length.min(LONGEST)]);
    }
}

fn get(fd: c_int, level: c_int, name: c_int) -> Option<([u8; LONGEST], usize)> {
    let mut value = [0; LONGEST];
    let mut length = LONGEST as socklen_t;
    // SAFETY: value and length are ours and fit each other.
    let result = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut length) };
    (result == 0).then_some((value, length as usize))
}

fn set(fd: c_int, level: c_int, name: c_int, value: &[u8]) {
    // SAFETY: the slice is readable.
    unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as socklen_t) };
}

/// Listens.
pub fn listen(fd: c_int, backlog: c_int) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    match unsafe { libc::listen(fd, backlog) } {
        -1 => Err(errno()),
        _ => Ok(()),
    }
}

/// Puts a socket in a descriptor's place, which stays open after exec, or does not, as it was.
pub fn put(twin: c_int, fd: c_int) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags == -1 {
        return Err(errno());
    }
    let flags = if flags & libc::FD_CLOEXEC == 0 { 0 } else { libc::O_CLOEXEC };
    // SAFETY: no memory is involved.
    match unsafe { libc::dup3(twin, fd, flags) } {
        -1 => Err(errno()),
        _ => Ok(()),
    }
}

// The longest of the options that are no names.
const _: () = assert!(size_of::<libc::timeval>() <= LONGEST && size_of::<libc::linger>() <= LONGEST);
