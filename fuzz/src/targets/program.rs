//! What the command line reads of the program that it is to run: not a peer's, but anybody's file.

use std::{cell::OnceCell, ffi::OsStr, fs::File, io, os::fd::AsRawFd, os::fd::FromRawFd, os::unix::fs::FileExt};

use crate::{elf, program};

/// Any bytes make an answer, from within the file.
pub fn elf(data: &[u8]) {
    let _ = elf::inspect(|at, buffer| {
        let at = usize::try_from(at).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = at.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(data.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    });
}

/// A file in memory that holds the bytes is checked by its path, as a program is: `#!` lines are followed.
pub fn script(data: &[u8]) {
    thread_local!(static FILE: OnceCell<File> = const { OnceCell::new() });
    FILE.with(|file| {
        let file = file.get_or_init(|| {
            // SAFETY: the name is NUL-terminated; the descriptor is checked, and owned by nobody else.
            unsafe {
                let fd = libc::memfd_create(c"fuzz".as_ptr(), 0);
                assert!(fd >= 0);
                File::from_raw_fd(fd)
            }
        });
        file.set_len(0).unwrap();
        file.write_all_at(data, 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        if let Err(error) = program::check(OsStr::new(&path), Some(OsStr::new("/usr/bin:/bin"))) {
            assert!(!error.to_string().is_empty() && !error.help().is_empty());
        }
    });
}
