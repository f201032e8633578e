//! C edge: the host name that the program sees, where it is another than this machine's: the container's. The command line hands it
//! over in a variable, which children inherit. Names are also looked up (Java's `getLocalHost`), and nobody on this machine knows
//! the container's: then this machine's own stands for it.

use std::ffi::{CStr, CString};

use libc::{c_char, utsname};
use mirrord_protocol::layer::HOSTNAME_VARIABLE;

use crate::{state, sys};

/// Longest host name of Linux, bytes.
const LONGEST: usize = 64;

/// The two names.
pub struct HostName {
    shown: CString,
    /// This machine's.
    own: CString,
}

impl HostName {
    /// If the variable has something that could be one.
    pub fn from_environment() -> Option<HostName> {
        let name = std::env::var(HOSTNAME_VARIABLE).ok()?;
        let is_name = (1..=LONGEST).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        let shown = CString::new(name).ok().filter(|_| is_name)?;
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Some(HostName { shown, own: CString::new(own.trim()).ok()? })
    }
}

fn get() -> Option<&'static HostName> {
    state::get()?.hostname.as_ref()
}

/// Writes the name as gethostname does: with its NUL; cut off where the room is too small, which is an error. `None`: it is the
/// machine's.
///
/// # Safety
/// `room` points to `length` writable bytes.
pub unsafe fn put(room: *mut c_char, length: usize) -> Option<Result<(), sys::Errno>> {
    let name = get()?.shown.as_bytes_with_nul();
    let count = name.len().min(length);
    // SAFETY: `count` bytes are there on both sides; ours are not the caller's.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), room.cast(), count) };
    Some(if count < name.len() { Err(libc::ENAMETOOLONG) } else { Ok(()) })
}

/// Puts the name in what uname has said.
///
/// # Safety
/// `about` points to a utsname that can be written.
pub unsafe fn put_in(about: *mut utsname) {
    if let Some(name) = get() {
        let name = name.shown.as_bytes_with_nul();
        // SAFETY: there are 65 bytes, as many as LONGEST and the NUL.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), std::ptr::addr_of_mut!((*about).nodename).cast(), name.len()) };
    }
}

/// What is looked up: the machine's own name where the shown one is `asked`, in any case of letters; else what was asked.
///
/// # Safety
/// `asked` is null or a C string.
pub unsafe fn looked_up(asked: *const c_char) -> *const c_char {
    let Some(name) = get() else { return asked };
    // SAFETY: not null, so a C string.
    let is_it = !asked.is_null() && unsafe { CStr::from_ptr(asked) }.to_bytes().eq_ignore_ascii_case(name.shown.to_bytes());
    if is_it {
        name.own.as_ptr()
    } else {
        asked
    }
}
