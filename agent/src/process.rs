//! The few things that only libc can do for a process.

/// Leaves the terminal's session. Fails only for a group leader, which has its own session already.
pub fn new_session() {
    // SAFETY: setsid takes and returns plain integers.
    unsafe { libc::setsid() };
}

/// Gives memory that is free back to the system: a peak (a filter compiled, a thousand clients) would stay resident for ever.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a plain integer; the allocator locks what it works on.
    unsafe {
        libc::malloc_trim(0);
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
