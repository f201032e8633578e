//! The part of WASI preview 1 that a guest without files needs: Go's runtime and C's standard library call it before the
//! filter's own code runs. Standard output and error are log lines, time has milliseconds, there are no arguments, no
//! environment and no files; everything else is answered with the error that says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::{Caller, Linker, Memory, Result};

use crate::error::HostFault;
use crate::{FaultKind, LogLevel};

/// The module name of the imports.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";
/// The same before it was called so, which the AssemblyScript SDK of proxy-wasm imports. Some functions differ from their successors;
/// these do not.
pub(crate) const UNSTABLE: &str = "wasi_unstable";
const UNCHANGED: [&str; 8] =
    ["args_get", "args_sizes_get", "clock_time_get", "environ_get", "environ_sizes_get", "fd_write", "proc_exit", "random_get"];

/// What a store's data must have for guests that import WASI.
pub(crate) trait WasiHost: 'static {
    /// The guest's exported memory, as soon as there is one.
    fn memory(&self) -> Option<Memory>;
    /// A line that the guest wrote to its standard output or error.
    fn line(&mut self, level: LogLevel, text: &[u8]);
    /// What it has written of the next line: Go writes a panic's message word by word.
    fn unfinished_line(&mut self) -> &mut Vec<u8>;
}

/// Error numbers (WASI preview 1, `errno`).
mod errno {
    pub(super) const SUCCESS: i32 = 0;
    pub(super) const BADF: i32 = 8;
    pub(super) const FAULT: i32 = 21;
    pub(super) const INVAL: i32 = 28;
    pub(super) const NOSYS: i32 = 52;
    pub(super) const NOTSUP: i32 = 58;
}

/// Random bytes of one call.
const MAX_RANDOM: usize = 64 << 10;
/// Buffers and bytes of one `fd_write`; what is longer is written in several calls.
const MAX_VECTORS: u32 = 64;
const MAX_WRITE: usize = 4 << 10;
/// `fdstat` of a character device that can be written to.
const FDSTAT: [u8; 24] = {
    let mut stat = [0; 24];
    stat[0] = 2;
    stat[8] = 0x40;
    stat
};
/// Size and offsets of a subscription and an event of `poll_oneoff`.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;
const MAX_SUBSCRIPTIONS: u32 = 16;

/// Whether a guest may import this function of [`MODULE`].
pub(crate) fn knows(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether a guest may import this function of [`UNSTABLE`].
pub(crate) fn knows_unstable(name: &str) -> bool {
    UNCHANGED.contains(&name)
}

const NAMES: [&str; 19] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_seek",
    "fd_write",
    "path_open",
    "poll_oneoff",
    "proc_exit",
    "random_get",
    "sched_yield",
];

/// Adds them all to a linker.
pub(crate) fn add<T: WasiHost>(linker: &mut Linker<T>) -> Result<()> {
    linker.func_wrap(MODULE, "args_get", |_: i32, _: i32| errno::SUCCESS)?;
    linker.func_wrap(MODULE, "args_sizes_get", no_strings::<T>)?;
    linker.func_wrap(MODULE, "environ_get", |_: i32, _: i32| errno::SUCCESS)?;
    linker.func_wrap(MODULE, "environ_sizes_get", no_strings::<T>)?;
    linker.func_wrap(MODULE, "clock_res_get", |mut caller: Caller<'_, T>, _: i32, out: u32| {
        store(&mut caller, out, &1_000_000_u64.to_le_bytes())
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |mut caller: Caller<'_, T>, clock: i32, _: i64, out: u32| match clock {
        // The time of day will do for a monotonic clock too: nothing here measures by it.
        0 | 1 => store(&mut caller, out, &now_nanos().to_le_bytes()),
        _ => errno::NOTSUP,
    })?;
    linker.func_wrap(MODULE, "random_get", random_get::<T>)?;
    linker.func_wrap(MODULE, "sched_yield", || errno::SUCCESS)?;
    linker.func_wrap(MODULE, "poll_oneoff", poll_oneoff::<T>)?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<()> {
        Err(HostFault::error(FaultKind::Trap, format!("it called exit({code})")))
    })?;
    linker.func_wrap(MODULE, "fd_write", fd_write::<T>)?;
    linker.func_wrap(MODULE, "fd_read", |_: i32, _: i32, _: i32, _: i32| errno::BADF)?;
    linker.func_wrap(MODULE, "fd_seek", |_: i32, _: i64, _: i32, _: i32| errno::BADF)?;
    linker.func_wrap(MODULE, "fd_close", |_: i32| errno::BADF)?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut caller: Caller<'_, T>, fd: i32, out: u32| match fd {
        0..=2 => store(&mut caller, out, &FDSTAT),
        _ => errno::BADF,
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |fd: i32, _: i32| if (0..=2).contains(&fd) { errno::SUCCESS } else { errno::BADF })?;
    linker.func_wrap(MODULE, "fd_prestat_get", |_: i32, _: i32| errno::BADF)?;
    linker.func_wrap(MODULE, "fd_prestat_dir_name", |_: i32, _: i32, _: i32| errno::BADF)?;
    linker.func_wrap(MODULE, "path_open", |_: i32, _: i32, _: i32, _: i32, _: i32, _: i64, _: i64, _: i32, _: i32| errno::NOSYS)?;
    for name in UNCHANGED {
        linker.alias(MODULE, name, UNSTABLE, name)?;
    }
    Ok(())
}

/// The time of day as the kernel noted it last, some milliseconds ago: a fifth of what the exact one costs.
pub(crate) fn coarse_now() -> SystemTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    UNIX_EPOCH + Duration::try_from(now).unwrap_or_default()
}

/// The time of day, as exact as filters see it.
pub(crate) fn now_nanos() -> u64 {
    nanos(SystemTime::now())
}

/// A time since 1970, no finer than a millisecond.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(0) * 1_000_000
}

fn no_strings<T: WasiHost>(mut caller: Caller<'_, T>, count: u32, size: u32) -> i32 {
    match store(&mut caller, count, &[0; 4]) {
        errno::SUCCESS => store(&mut caller, size, &[0; 4]),
        error => error,
    }
}

fn random_get<T: WasiHost>(mut caller: Caller<'_, T>, at: u32, len: u32) -> i32 {
    if len as usize > MAX_RANDOM {
        return errno::INVAL;
    }
    let Some(out) = place(&mut caller, at, len as usize) else {
        return errno::FAULT;
    };
    // The kernel's own; a short read happens only when a signal arrives, and asking again does it.
    let mut filled = 0;
    while filled < out.len() {
        match rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(got) => filled += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return errno::NOSYS,
        }
    }
    errno::SUCCESS
}

/// A guest that sleeps would hold up its worker: whatever it waits for has happened.
fn poll_oneoff<T: WasiHost>(mut caller: Caller<'_, T>, subscriptions: u32, events: u32, count: u32, out: u32) -> i32 {
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return errno::INVAL;
    }
    for index in 0..count as usize {
        let Some(subscription) = bytes(&mut caller, subscriptions.saturating_add((index * SUBSCRIPTION) as u32), SUBSCRIPTION) else {
            return errno::FAULT;
        };
        let mut event = [0; EVENT];
        event[..8].copy_from_slice(&subscription[..8]);
        event[10] = subscription[8];
        if store(&mut caller, events.saturating_add((index * EVENT) as u32), &event) != errno::SUCCESS {
            return errno::FAULT;
        }
    }
    store(&mut caller, out, &count.to_le_bytes())
}

fn fd_write<T: WasiHost>(mut caller: Caller<'_, T>, fd: i32, vectors: u32, count: u32, written: u32) -> i32 {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return errno::BADF,
    };
    let (mut text, mut taken) = (Vec::new(), 0_u32);
    for index in 0..count.min(MAX_VECTORS) {
        let Some(vector) = bytes(&mut caller, vectors.saturating_add(index * 8), 8) else {
            return errno::FAULT;
        };
        let (at, len) = (word(&vector[..4]), word(&vector[4..]));
        let room = MAX_WRITE - text.len();
        let Some(part) = bytes(&mut caller, at, (len as usize).min(room)) else {
            return errno::FAULT;
        };
        text.extend_from_slice(part);
        taken = taken.saturating_add(len);
        if len as usize > room {
            break;
        }
    }
    // What did not fit is dropped, not offered again: a guest must not be kept busy by its own output.
    let mut pieces = text.split(|&byte| byte == b'\n').peekable();
    while let Some(piece) = pieces.next() {
        let host = caller.data_mut();
        let line = host.unfinished_line();
        line.extend_from_slice(piece);
        if !line.is_empty() && (pieces.peek().is_some() || line.len() >= MAX_WRITE) {
            let line = std::mem::take(line);
            host.line(level, &line);
        }
    }
    store(&mut caller, written, &taken.to_le_bytes())
}

fn word(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

fn place<'a, T: WasiHost>(caller: &'a mut Caller<'_, T>, at: u32, len: usize) -> Option<&'a mut [u8]> {
    let memory = caller.data().memory()?;
    let start = at as usize;
    memory.data_mut(caller).get_mut(start..start.checked_add(len)?)
}

fn bytes<'a, T: WasiHost>(caller: &'a mut Caller<'_, T>, at: u32, len: usize) -> Option<&'a [u8]> {
    place(caller, at, len).map(|bytes| &*bytes)
}

fn store<T: WasiHost>(caller: &mut Caller<'_, T>, at: u32, value: &[u8]) -> i32 {
    match place(caller, at, value.len()) {
        Some(out) => {
            out.copy_from_slice(value);
            errno::SUCCESS
        }
        None => errno::FAULT,
    }
}
