//! C edge: the system calls that the layer itself needs, as safe functions. None of them allocates behind the program's back.
//! Called inside the layer, where the detours pass everything on (`state::Inside`).

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ptr::{addr_of, addr_of_mut},
    time::Duration,
};

use libc::{c_int, c_void, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t};

/// An errno value.
pub type Errno = c_int;

/// A socket address as C has it.
#[derive(Clone, Copy)]
pub struct Name {
    storage: sockaddr_storage,
    length: socklen_t,
}

impl Name {
    fn empty() -> Name {
        // SAFETY: all zero bytes are a valid sockaddr_storage.
        Name { storage: unsafe { std::mem::zeroed() }, length: size_of::<sockaddr_storage>() as socklen_t }
    }

    /// The C form of an address.
    pub fn of(address: SocketAddr) -> Name {
        let mut name = Name::empty();
        let storage = addr_of_mut!(name.storage);
        match address {
            SocketAddr::V4(v4) => {
                name.length = size_of::<sockaddr_in>() as socklen_t;
                // SAFETY: sockaddr_storage is large enough and aligned for a sockaddr_in; it is ours alone.
                let raw = unsafe { &mut *storage.cast::<sockaddr_in>() };
                raw.sin_family = libc::AF_INET as _;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                name.length = size_of::<sockaddr_in6>() as socklen_t;
                // SAFETY: as above, for a sockaddr_in6.
                let raw = unsafe { &mut *storage.cast::<sockaddr_in6>() };
                raw.sin6_family = libc::AF_INET6 as _;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_flowinfo = v6.flowinfo();
                raw.sin6_scope_id = v6.scope_id();
            }
        }
        name
    }

    /// Pointer and length for a call; valid while the name lives.
    pub fn as_raw(&self) -> (*const sockaddr, socklen_t) {
        (addr_of!(self.storage).cast(), self.length)
    }

    fn inet(&self) -> Option<SocketAddr> {
        // SAFETY: storage holds `length` valid bytes, and the rest are zero.
        unsafe { inet(addr_of!(self.storage).cast(), self.length) }
    }
}

/// The IPv4 or IPv6 address at `address`; `None` for all other families and for what is too short to be one.
///
/// # Safety
/// `address` is null or points to `length` readable bytes.
pub unsafe fn inet(address: *const sockaddr, length: socklen_t) -> Option<SocketAddr> {
    if address.is_null() || (length as usize) < size_of::<sockaddr_in>() {
        return None;
    }
    // SAFETY: there are at least 16 readable bytes; a caller's pointer may be unaligned.
    let v4 = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
    match c_int::from(v4.sin_family) {
        libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()), u16::from_be(v4.sin_port)).into()),
        libc::AF_INET6 if length as usize >= size_of::<sockaddr_in6>() => {
            // SAFETY: the length says that there are as many bytes.
            let v6 = unsafe { address.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Where a caller of accept, getsockname or getpeername wants an address; taken before the call, which overwrites the room.
pub struct Room {
    address: *mut sockaddr,
    length: *mut socklen_t,
    capacity: socklen_t,
}

impl Room {
    /// # Safety
    /// Both pointers are as those calls want them: null, or valid for writes until [`Room::put`].
    pub unsafe fn of(address: *mut sockaddr, length: *mut socklen_t) -> Room {
        // SAFETY: not null means readable; whoever lied to us has lied to the kernel too.
        let capacity = if address.is_null() || length.is_null() { 0 } else { unsafe { length.read_unaligned() } };
        Room { address, length, capacity }
    }

    /// Writes an address as the kernel would: cut off at the capacity, with the full length.
    pub fn put(self, address: Option<SocketAddr>) {
        let (Some(address), false) = (address, self.address.is_null() || self.length.is_null()) else { return };
        let name = Name::of(address);
        let count = (self.capacity as usize).min(name.length as usize);
        // SAFETY: the caller of the call gave `capacity` bytes at `address` and a length at `length` (contract of `of`),
        // and the kernel has just written there with success.
        unsafe {
            std::ptr::copy_nonoverlapping(addr_of!(name.storage).cast::<u8>(), self.address.cast::<u8>(), count);
            self.length.write_unaligned(name.length);
        }
    }
}

fn ask_name(fd: c_int, call: unsafe extern "C" fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int) -> Option<SocketAddr> {
    let mut name = Name::empty();
    // SAFETY: the room is ours and as long as `length` says.
    let result = unsafe { call(fd, addr_of_mut!(name.storage).cast(), addr_of_mut!(name.length)) };
    if result == 0 {
        name.inet()
    } else {
        None
    }
}

/// The kernel's own address of a socket.
pub fn local(fd: c_int) -> Option<SocketAddr> {
    ask_name(fd, libc::getsockname)
}

/// The kernel's own idea of a socket's peer.
pub fn peer(fd: c_int) -> Option<SocketAddr> {
    ask_name(fd, libc::getpeername)
}

/// Binds, as the program would have.
pub fn bind(fd: c_int, address: SocketAddr) -> Result<(), Errno> {
    let name = Name::of(address);
    let (raw, length) = name.as_raw();
    // SAFETY: the name lives until after the call.
    check(unsafe { libc::bind(fd, raw, length) })
}

fn check(result: c_int) -> Result<(), Errno> {
    if result == -1 {
        Err(errno())
    } else {
        Ok(())
    }
}

/// The calling thread's errno.
pub fn errno() -> Errno {
    // SAFETY: glibc's pointer to this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(value: Errno) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value };
}

/// An option of a socket that is a number.
pub fn option(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: value and length are ours and fit each other.
    let result = unsafe { libc::getsockopt(fd, level, name, addr_of_mut!(value).cast::<c_void>(), &mut length) };
    (result == 0).then_some(value)
}

/// Whether it is a TCP socket, of IPv4 or IPv6.
pub fn is_tcp(fd: c_int) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

/// Whether it is a socket that listens.
pub fn listens(fd: c_int) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Some(1)
}

/// Whether several sockets may share its address (SO_REUSEPORT).
pub fn shares_port(fd: c_int) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT) == Some(1)
}

/// What a descriptor is, whatever its number: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Whether it is a socket.
    pub socket: bool,
}

/// Asks the kernel what a descriptor is.
pub fn identity(fd: c_int) -> Option<Identity> {
    // SAFETY: all zero bytes are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: stat is ours.
    let result = unsafe { libc::fstat(fd, &mut stat) };
    (result == 0).then_some(Identity { device: stat.st_dev, inode: stat.st_ino, socket: stat.st_mode & libc::S_IFMT == libc::S_IFSOCK })
}

/// A socket's identity.
pub fn socket(fd: c_int) -> Option<Identity> {
    identity(fd).filter(|identity| identity.socket)
}

/// This process, as the kernel says: in a child of vfork or of a bare clone it is not the one that the layer started in.
pub fn pid() -> c_int {
    // SAFETY: cannot fail.
    unsafe { libc::getpid() }
}

/// Descriptors that are open now.
pub fn descriptors() -> Vec<c_int> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Closes a descriptor of our own.
pub fn close(fd: c_int) {
    // SAFETY: no memory is involved.
    unsafe { libc::close(fd) };
}

/// Closes a range, by the kernel's own call: no detour of ours, and no need for a C library that knows it.
pub fn close_range(first: u32, last: u32, flags: c_int) -> c_int {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int }
}

/// Duplicates to a number that programs rarely reach, closed by exec. Not at the very end of a large table: fork copies it up to there.
pub fn move_high(fd: c_int) -> Option<c_int> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    let lowest = if known { limit.rlim_cur.saturating_sub(16).min(1000) } else { 0 } as c_int;
    // SAFETY: no memory is involved.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) };
    (copy != -1).then_some(copy)
}

/// Connects to an abstract unix socket; waits for room there no longer than `patience`, which also bounds each later send and
/// receive. `None` if there is nobody, or somebody who is neither root nor this user.
pub fn connect_abstract(name: &[u8], patience: Duration) -> Option<c_int> {
    // SAFETY: all zero bytes are a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    for (to, from) in address.sun_path.get_mut(1..=name.len())?.iter_mut().zip(name) {
        *to = *from as _;
    }
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd == -1 {
        return None;
    }
    set_patience(fd, patience);
    let length = size_of::<libc::sa_family_t>() + 1 + name.len();
    // SAFETY: the address is ours and longer than `length`.
    let connected = unsafe { libc::connect(fd, addr_of!(address).cast(), length as socklen_t) } == 0;
    if connected && is_trusted(fd) {
        return Some(fd);
    }
    close(fd);
    None
}

fn set_patience(fd: c_int, patience: Duration) {
    let value = libc::timeval { tv_sec: patience.as_secs() as _, tv_usec: patience.subsec_micros() as _ };
    for name in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let length = size_of::<libc::timeval>() as socklen_t;
        // SAFETY: value is ours and as long as it says.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, addr_of!(value).cast(), length) };
    }
}

// Anybody on this machine may take the name once the intproxy has gone; he must not tell this program where to connect to.
fn is_trusted(fd: c_int) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: 0 };
    let mut length = size_of::<libc::ucred>() as socklen_t;
    // SAFETY: peer and length are ours and fit each other; the other two calls cannot fail.
    unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, addr_of_mut!(peer).cast(), &mut length) == 0
            && [0, libc::geteuid(), libc::getuid()].contains(&peer.uid)
    }
}

/// Sends some bytes. Never raises SIGPIPE.
pub fn send(fd: c_int, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is readable.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| errno())
}

/// Receives some bytes; 0 is the end.
pub fn receive(fd: c_int, bytes: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is writable.
    let received = unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(received).map_err(|_| errno())
}

/// Writes to a descriptor; what cannot be written is lost.
pub fn write(fd: c_int, bytes: &[u8]) {
    // SAFETY: the slice is readable.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Has the three functions called around each fork that the C library makes, also those inside `daemon` and `forkpty`.
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> bool {
    extern "C" {
        fn pthread_atfork(prepare: Option<extern "C" fn()>, parent: Option<extern "C" fn()>, child: Option<extern "C" fn()>) -> c_int;
    }
    // SAFETY: the functions live as long as the library, which is never unloaded.
    unsafe { pthread_atfork(Some(prepare), Some(parent), Some(child)) == 0 }
}

/// Ends the process at once.
pub fn exit(status: c_int) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(status) }
}

/// An address in the family that a socket of `like`'s family speaks: IPv4 is mapped into IPv6 and back. `None` where there is no way.
pub fn in_family_of(like: SocketAddr, address: SocketAddr) -> Option<SocketAddr> {
    match (like, address.ip().to_canonical()) {
        (SocketAddr::V4(_), IpAddr::V6(_)) => None,
        (SocketAddr::V6(_), IpAddr::V4(v4)) => Some(SocketAddr::new(v4.to_ipv6_mapped().into(), address.port())),
        (SocketAddr::V6(_), IpAddr::V6(_)) => Some(address),
        (SocketAddr::V4(_), ip) => Some(SocketAddr::new(ip, address.port())),
    }
}
