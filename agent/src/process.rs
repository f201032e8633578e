//! The few things that only libc can do for a process.

/// Leaves the terminal's session. Fails only for a group leader, which has its own session already.
pub fn new_session() {
    // SAFETY: setsid takes and returns plain integers.
    unsafe { libc::setsid() };
}

/// Has the kernel end this process before others of its pod where memory is short. Making it worse for oneself needs no right.
pub fn go_first() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::warn!(%error, "if the pod runs out of memory, the kernel may choose others before the agent");
    }
}

/// Gives memory that is free back to the system: a peak (a filter compiled, a thousand clients) would stay resident for ever.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a plain integer; the allocator locks what it works on.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes of this process's own that are resident but free: what [`trim`] could give back, and what it has to leave.
pub fn free_memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').skip(1).filter_map(|pages| pages.parse::<u64>().ok());
    let own = pages.next().unwrap_or(0).saturating_sub(pages.next().unwrap_or(0)) * page_size();
    own.saturating_sub(allocated())
}

fn page_size() -> u64 {
    // SAFETY: takes a plain integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn allocated() -> u64 {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes nothing; the allocator locks what it looks at.
        let info = unsafe { libc::mallinfo() };
        // Signed for history's sake; together they are right up to 4 GiB.
        u64::from((info.uordblks as u32).wrapping_add(info.hblkhd as u32))
    }
    #[cfg(not(target_env = "gnu"))]
    u64::MAX
}

/// Lets go of the pages of this program's code: what is run again comes back from the system's cache within microseconds, and the
/// compiler's megabytes, which are not, no longer count as ours.
pub fn let_go_of_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let exe = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&*exe.to_string_lossy())) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        if let Some((start, end)) = range.and_then(|(start, end)| number(start).zip(number(end))) {
            // SAFETY: a file's pages that cannot be written, mapped as long as the program runs: they are read again when needed.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// The host name that a process sees.
pub fn host_name(pid: u32) -> std::io::Result<String> {
    use std::{fs::File, io, os::fd::AsRawFd};
    let namespace = File::open(format!("/proc/{pid}/ns/uts"))?;
    let own = File::open("/proc/thread-self/ns/uts")?;
    let same = std::os::unix::fs::MetadataExt::ino(&namespace.metadata()?) == std::os::unix::fs::MetadataExt::ino(&own.metadata()?);
    // A thread that enters never leaves; nobody else may run on it.
    let look = move || {
        // SAFETY: plain system call on a descriptor that `namespace` keeps open; no memory is passed.
        if !same && unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUTS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned())
    };
    let thread = std::thread::Builder::new().name("hostname".into()).spawn(look)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked has failed")))
}

/// Milliseconds since 1970 as of the kernel's last tick: some 4 ms old, and a fifth of the price of the time of now.
pub fn coarse_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; the clock exists since Linux 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// How many files are open; 0 where the kernel does not say (before Linux 6.2, which made it the size of that folder).
pub fn open_files() -> u64 {
    std::fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len())
}

/// The soft limit of open files; it may be changed from outside at any time.
pub fn open_file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => u64::MAX,
    }
}

/// Raises the soft limit of open files to the hard one: each proxied connection needs two.
pub fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
