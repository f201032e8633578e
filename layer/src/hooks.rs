//! C edge: the detours. Each reads its arguments, asks a safe function what to do, and calls the C library's own.

// redhook's macros expand to what these name; the expansion is not ours to write differently.
#![allow(unsafe_op_in_unsafe_fn, static_mut_refs, non_upper_case_globals)]

use libc::{addrinfo, c_char, c_int, c_long, c_uint, hostent, size_t, sockaddr, socklen_t, utsname};
use redhook::{hook, real};

use crate::{
    hostname, names,
    ops::{self, Closing},
    state,
    sys::{self, Name, Room},
};

/// Run by the loader before the program's own code.
#[used]
#[link_section = ".init_array"]
static START: extern "C" fn() = {
    extern "C" fn start() {
        // No panic crosses into the loader; a layer that is not started passes everything on.
        drop(std::panic::catch_unwind(state::start));
    }
    start
};

fn fail(errno: c_int) -> c_int {
    sys::set_errno(errno);
    -1
}

hook! { unsafe fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int => layer_bind {
    // SAFETY: the caller's contract for bind.
    match unsafe { sys::inet(address, length) }.and_then(|asked| ops::bind(fd, asked)) {
        Some(Ok(())) => 0,
        Some(Err(errno)) => fail(errno),
        // SAFETY: passed on as it came.
        None => unsafe { real!(bind)(fd, address, length) },
    }
} }

hook! { unsafe fn listen(fd: c_int, backlog: c_int) -> c_int => layer_listen {
    let is_unnamed = ops::is_unnamed(fd);
    // SAFETY: passed on as it came.
    let mut result = unsafe { real!(listen)(fd, backlog) };
    if result == -1 && sys::errno() == libc::EADDRINUSE && !is_unnamed && ops::listen_elsewhere(fd, backlog) {
        result = 0;
    }
    if result == 0 {
        ops::listening(fd, is_unnamed);
    }
    result
} }

hook! { unsafe fn accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int => layer_accept {
    // SAFETY: the caller's contract for accept; passed on as it came.
    let (room, accepted) = unsafe { (Room::of(address, length), real!(accept)(fd, address, length)) };
    if accepted >= 0 {
        room.put(names::accepted(fd, accepted));
    }
    accepted
} }

hook! { unsafe fn accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int => layer_accept4 {
    // SAFETY: the caller's contract for accept4; passed on as it came.
    let (room, accepted) = unsafe { (Room::of(address, length), real!(accept4)(fd, address, length, flags)) };
    if accepted >= 0 {
        room.put(names::accepted(fd, accepted));
    }
    accepted
} }

hook! { unsafe fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int => layer_getpeername {
    // SAFETY: the caller's contract for getpeername; passed on as it came.
    let (room, result) = unsafe { (Room::of(address, length), real!(getpeername)(fd, address, length)) };
    if result == 0 {
        room.put(names::peer(fd));
    }
    result
} }

hook! { unsafe fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int => layer_getsockname {
    // SAFETY: the caller's contract for getsockname; passed on as it came.
    let (room, result) = unsafe { (Room::of(address, length), real!(getsockname)(fd, address, length)) };
    if result == 0 {
        room.put(names::local(fd));
    }
    result
} }

hook! { unsafe fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int => layer_connect {
    // SAFETY: the caller's contract for connect.
    let moved = unsafe { sys::inet(address, length) }.and_then(|asked| ops::moved(fd, asked)).map(Name::of);
    let (address, length) = moved.as_ref().map_or((address, length), Name::as_raw);
    // SAFETY: passed on as it came, or with an address of ours that lives until after the call.
    unsafe { real!(connect)(fd, address, length) }
} }

hook! { unsafe fn close(fd: c_int) -> c_int => layer_close {
    match ops::closing(fd) {
        Closing::Ours => fail(libc::EBADF),
        Closing::Theirs(gone) => {
            // SAFETY: passed on as it came.
            let result = unsafe { real!(close)(fd) };
            ops::closed(gone);
            result
        }
    }
} }

hook! { unsafe fn dup2(old: c_int, new: c_int) -> c_int => layer_dup2 {
    let gone = ops::replacing(old, new);
    // SAFETY: passed on as it came.
    let result = unsafe { real!(dup2)(old, new) };
    ops::closed(gone);
    result
} }

hook! { unsafe fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int => layer_dup3 {
    let gone = ops::replacing(old, new);
    // SAFETY: passed on as it came.
    let result = unsafe { real!(dup3)(old, new, flags) };
    ops::closed(gone);
    result
} }

hook! { unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => layer_close_range {
    if first > last || flags & libc::CLOSE_RANGE_CLOEXEC as c_int != 0 {
        return sys::close_range(first, last, flags);
    }
    let (ranges, gone) = ops::closing_range(first, last);
    let result = ranges.into_iter().map(|(first, last)| sys::close_range(first, last, flags)).min().unwrap_or(0);
    ops::closed(gone);
    result
} }

hook! { unsafe fn closefrom(first: c_int) -> () => layer_closefrom {
    let (ranges, gone) = ops::closing_range(first.max(0) as c_uint, c_uint::MAX);
    if ranges.into_iter().any(|(first, last)| sys::close_range(first, last, 0) != 0) {
        // SAFETY: passed on as it came; a kernel without close_range.
        unsafe { real!(closefrom)(first) };
    }
    ops::closed(gone);
} }

hook! { unsafe fn gethostname(name: *mut c_char, length: size_t) -> c_int => layer_gethostname {
    // SAFETY: the caller's contract for gethostname.
    match unsafe { hostname::put(name, length) } {
        Some(Ok(())) => 0,
        Some(Err(errno)) => fail(errno),
        // SAFETY: passed on as it came.
        None => unsafe { real!(gethostname)(name, length) },
    }
} }

// What gethostname becomes in programs that glibc's headers have hardened.
hook! { unsafe fn __gethostname_chk(name: *mut c_char, length: size_t, room: size_t) -> c_int => layer_gethostname_chk {
    if length > room {
        // SAFETY: passed on as it came: it ends the program.
        return unsafe { real!(__gethostname_chk)(name, length, room) };
    }
    // SAFETY: the caller's contract for gethostname.
    unsafe { layer_gethostname(name, length) }
} }

hook! { unsafe fn uname(about: *mut utsname) -> c_int => layer_uname {
    // SAFETY: passed on as it came.
    let result = unsafe { real!(uname)(about) };
    if result == 0 {
        // SAFETY: the call has filled it in.
        unsafe { hostname::put_in(about) };
    }
    result
} }

hook! { unsafe fn getaddrinfo(
    node: *const c_char, service: *const c_char, hints: *const addrinfo, found: *mut *mut addrinfo
) -> c_int => layer_getaddrinfo {
    // SAFETY: the caller's contract for getaddrinfo; passed on as it came, or with a name of ours that is never freed.
    unsafe { real!(getaddrinfo)(hostname::looked_up(node), service, hints, found) }
} }

hook! { unsafe fn gethostbyname(name: *const c_char) -> *mut hostent => layer_gethostbyname {
    // SAFETY: as above.
    unsafe { real!(gethostbyname)(hostname::looked_up(name)) }
} }

// Variadic in C. On x86_64 and aarch64 fixed arguments lie where variadic ones do. libuv closes its sockets this way.
hook! { unsafe fn syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long => layer_syscall {
    if number == libc::SYS_close {
        // SAFETY: the caller's contract for close.
        return unsafe { layer_close(a as c_int) }.into();
    }
    if number == libc::SYS_uname {
        // SAFETY: the caller's contract for uname.
        return unsafe { layer_uname(a as *mut utsname) }.into();
    }
    // SAFETY: passed on as it came.
    unsafe { real!(syscall)(number, a, b, c, d, e, f) }
} }
