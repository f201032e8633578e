//! Finds the program as exec would, and follows it (scripts to their interpreters) to what the dynamic loader will see, so that
//! what the layer cannot be preloaded into is refused before anything starts.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    elf::{self, ElfError},
    sys::{self, Identity},
};

/// Why a program cannot be run with the layer.
#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("{}: command not found", .0.display())]
    NotFound(OsString),
    #[error("{}: no such file", .0.display())]
    NoFile(PathBuf),
    #[error("{} is a directory", .0.display())]
    Directory(PathBuf),
    #[error("{} is not executable", .0.display())]
    NotExecutable(PathBuf),
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: its interpreter {} is missing", script.display(), interpreter.display())]
    NoInterpreter { script: PathBuf, interpreter: OsString },
    #[error("{} is a script whose interpreter is a script, and so on without end", .0.display())]
    EndlessScript(PathBuf),
    #[error("{} is a static program, which cannot be hooked yet; nothing was run", .0.display())]
    Static(PathBuf),
    #[error("{} is a Go program, which cannot be hooked yet (it calls the kernel past the C library); nothing was run", .0.display())]
    Go(PathBuf),
    #[error("{} is linked to {libc}, which cannot be hooked yet by this build of mirrord; nothing was run", path.display())]
    OtherLibc { path: PathBuf, libc: &'static str },
    #[error("{} cannot be hooked: {error}; nothing was run", path.display())]
    Elf { path: PathBuf, error: ElfError },
    #[error("{} runs with rights of its own ({why}), so that the system preloads nothing into it; nothing was run", path.display())]
    Secure { path: PathBuf, why: &'static str },
}

impl ProgramError {
    /// The next step.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "check the name, or give its path; under sudo PATH may be another one",
            Self::NoFile(_) | Self::Directory(_) => "check the path: it must be that of a program",
            Self::NotExecutable(_) => "make it executable (chmod +x), or put its interpreter before it",
            Self::Unreadable { .. } => "mirrord has to read a program to see whether it can be hooked; give yourself the right to read it",
            Self::NoInterpreter { .. } => "install it, or correct the script's first line",
            Self::EndlessScript(_) => "name the interpreter on the command line",
            Self::Static(_) => "run a dynamically linked build of it, or the interpreter or debugger that you develop with",
            Self::Go(_) => "run the part that you develop in another language, or wait for a version that hooks Go",
            Self::OtherLibc { .. } => "run a build of it that is linked to glibc",
            Self::Elf { .. } => "run a build of it for this machine",
            Self::Secure { .. } => "run a copy of it without these rights (cp drops them), as root if it needs them",
        }
    }
}

/// The path at which exec will find `program`, and nothing that would keep the layer out.
pub fn check(program: &OsStr, search_path: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    let found = find(program, search_path)?;
    hookable(&found, search_path, sys::identity())?;
    Ok(found)
}

/// Looks a program up as execvp does: a name with a slash is a path, another one is searched; what may not be run is passed over, and
/// is the answer only if there is nothing better.
fn find(program: &OsStr, search_path: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return runnable(&path).map(|()| path);
    }
    let mut denied = None;
    for folder in env::split_paths(search_path.unwrap_or(OsStr::new("/bin:/usr/bin"))) {
        // An empty part stands for the current folder.
        let path = if folder.as_os_str().is_empty() { Path::new(".").join(program) } else { folder.join(program) };
        match runnable(&path) {
            Ok(()) => return Ok(path),
            Err(error @ ProgramError::NotExecutable(_)) => denied = denied.or(Some(error)),
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or_else(|| ProgramError::NotFound(program.into())))
}

fn runnable(path: &Path) -> Result<(), ProgramError> {
    match fs::metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(ProgramError::NoFile(path.into()))
        }
        Err(_) => Err(ProgramError::NotExecutable(path.into())),
        Ok(metadata) if metadata.is_dir() => Err(ProgramError::Directory(path.into())),
        // Only a regular file can be run, and opening a pipe to look at it would hang.
        Ok(metadata) if !metadata.is_file() => Err(ProgramError::NotExecutable(path.into())),
        Ok(_) => sys::executable(path).map_err(|_| ProgramError::NotExecutable(path.into())),
    }
}

/// More interpreters in a row than the kernel follows.
const MAX_SCRIPTS: usize = 6;
/// The kernel looks no further for the end of a script's first line.
const MAX_FIRST_LINE: u64 = 256;

fn hookable(found: &Path, search_path: Option<&OsStr>, we: Identity) -> Result<(), ProgramError> {
    let mut path = found.to_owned();
    for _ in 0..MAX_SCRIPTS {
        let unreadable = |error| ProgramError::Unreadable { path: path.clone(), error };
        let mut file = File::open(&path).map_err(unreadable)?;
        let mut start = Vec::new();
        (&mut file).take(MAX_FIRST_LINE).read_to_end(&mut start).map_err(unreadable)?;
        if start.starts_with(elf::MAGIC) {
            return elf_hookable(&path, &file, we);
        }
        let script = path.clone();
        let missing = |interpreter: &OsStr| ProgramError::NoInterpreter { script: script.clone(), interpreter: interpreter.into() };
        // exec itself runs a text without `#!` by the shell.
        let interpreter = interpreter(&start).unwrap_or(Interpreter { program: "/bin/sh".into(), searched: None });
        runnable(Path::new(&interpreter.program)).map_err(|_| missing(&interpreter.program))?;
        path = PathBuf::from(interpreter.program);
        if let Some(searched) = interpreter.searched {
            // `env` is hooked too: it runs before the program that it looks up.
            let file = File::open(&path).map_err(|error| ProgramError::Unreadable { path: path.clone(), error })?;
            elf_hookable(&path, &file, we)?;
            path = find(&searched, search_path).map_err(|_| missing(&searched))?;
        }
    }
    Err(ProgramError::EndlessScript(found.into()))
}

fn elf_hookable(path: &Path, file: &File, we: Identity) -> Result<(), ProgramError> {
    let read_at = |at: u64, buffer: &mut [u8]| file.read_exact_at(buffer, at);
    let elf = elf::inspect(read_at).map_err(|error| ProgramError::Elf { path: path.into(), error })?;
    let Some(loader) = elf.loader else {
        return Err(if elf.go { ProgramError::Go(path.into()) } else { ProgramError::Static(path.into()) });
    };
    if elf.go {
        return Err(ProgramError::Go(path.into()));
    }
    if let Some(libc) = other_libc(&loader) {
        return Err(ProgramError::OtherLibc { path: path.into(), libc });
    }
    let metadata = file.metadata().map_err(|error| ProgramError::Unreadable { path: path.into(), error })?;
    let rights =
        Rights { mode: metadata.mode(), user: metadata.uid(), group: metadata.gid(), capabilities: sys::has_file_capabilities(path) };
    match rights.kept_from_preload(we) {
        Some(why) => Err(ProgramError::Secure { path: path.into(), why }),
        None => Ok(()),
    }
}

/// A C library that the layer (built for the same one as this program) does not fit.
fn other_libc(loader: &str) -> Option<&'static str> {
    let musl = loader.rsplit('/').next().is_some_and(|name| name.starts_with("ld-musl"));
    match (musl, cfg!(target_env = "musl")) {
        (true, false) => Some("musl"),
        (false, true) => Some("glibc"),
        _ => None,
    }
}

/// Rights that a program file gives to whoever runs it.
#[derive(Clone, Copy, Debug)]
struct Rights {
    mode: u32,
    user: u32,
    group: u32,
    capabilities: bool,
}

impl Rights {
    /// Why the loader would ignore LD_PRELOAD (secure execution, ld.so(8)): exec changes who we are, or adds capabilities, which it
    /// does not count for root.
    fn kept_from_preload(self, we: Identity) -> Option<&'static str> {
        const SETGID: u32 = libc::S_ISGID | libc::S_IXGRP;
        if self.mode & libc::S_ISUID != 0 && self.user != we.effective_user {
            Some("setuid")
        } else if self.mode & SETGID == SETGID && self.group != we.effective_group {
            Some("setgid")
        } else if self.capabilities && we.user != 0 {
            Some("file capabilities")
        } else {
            None
        }
    }
}

/// Who reads a script.
#[derive(Debug, PartialEq, Eq)]
struct Interpreter {
    program: OsString,
    /// For `#!/usr/bin/env NAME`: what env looks up.
    searched: Option<OsString>,
}

/// Reads a script's first line as the kernel does: the interpreter, and the rest as one argument.
fn interpreter(start: &[u8]) -> Option<Interpreter> {
    let line = start.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let end = line.iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(line.len());
    let (program, argument) = line.split_at(end);
    if program.is_empty() {
        return None;
    }
    let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let is_env = program.rsplit(|byte| *byte == b'/').next() == Some(b"env");
    let searched = if is_env { searched_by_env(argument).map(os) } else { None };
    Some(Interpreter { program: os(program), searched })
}

/// The program in env's arguments: what is neither an option nor an assignment. `-S`, which splits the rest, needs no care here.
fn searched_by_env(argument: &[u8]) -> Option<&[u8]> {
    let mut words = argument.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        match word {
            b"-u" | b"-C" | b"--unset" | b"--chdir" => drop(words.next()),
            [b'-', b'S', rest @ ..] if !rest.is_empty() && !rest.contains(&b'=') => return Some(rest),
            [b'-', ..] => {}
            word if word.contains(&b'=') => {}
            word => return Some(word),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(line: &str) -> Option<(String, Option<String>)> {
        let text = |word: OsString| word.into_string().unwrap();
        interpreter(line.as_bytes()).map(|found| (text(found.program), found.searched.map(text)))
    }

    #[test]
    fn a_first_line_is_read_as_the_kernel_and_env_read_it() {
        let cases = [
            ("#!/bin/sh\necho", "/bin/sh", None),
            ("#! /usr/bin/python3 -u\n", "/usr/bin/python3", None),
            ("#!/usr/bin/env python3\n", "/usr/bin/env", Some("python3")),
            ("#!/usr/bin/env -S node --inspect\n", "/usr/bin/env", Some("node")),
            ("#!/usr/bin/env -Snode --inspect\n", "/usr/bin/env", Some("node")),
            ("#!/usr/bin/env -S -u HOME A=1 deno run\n", "/usr/bin/env", Some("deno")),
            ("#!/usr/bin/env\n", "/usr/bin/env", None),
        ];
        for (line, program, searched) in cases {
            assert_eq!(reads(line), Some((program.into(), searched.map(Into::into))), "{line}");
        }
        assert_eq!(reads("echo"), None);
        assert_eq!(reads("#!\n"), None);
        assert_eq!(reads("#!   "), None);
    }

    #[test]
    fn preload_is_lost_only_where_exec_changes_who_we_are() {
        let user = Identity { user: 1000, effective_user: 1000, effective_group: 1000 };
        let root = Identity { user: 0, effective_user: 0, effective_group: 0 };
        let plain = Rights { mode: 0o755, user: 0, group: 0, capabilities: false };
        assert_eq!(plain.kept_from_preload(user), None);
        let setuid = Rights { mode: 0o4755, ..plain };
        assert_eq!((setuid.kept_from_preload(user), setuid.kept_from_preload(root)), (Some("setuid"), None));
        let setgid = Rights { mode: 0o2755, group: 42, ..plain };
        assert_eq!(setgid.kept_from_preload(root), Some("setgid"));
        // Without the group's right to run it, the bit means mandatory locking.
        assert_eq!(Rights { mode: 0o2745, ..setgid }.kept_from_preload(root), None);
        let capable = Rights { capabilities: true, ..plain };
        assert_eq!((capable.kept_from_preload(user), capable.kept_from_preload(root)), (Some("file capabilities"), None));
    }

    #[test]
    fn what_everybody_runs_is_hookable() {
        for program in ["/bin/sh", "env", "cat"] {
            check(OsStr::new(program), Some(OsStr::new("/usr/bin:/bin"))).unwrap();
        }
    }

    #[test]
    fn the_search_passes_over_what_may_not_be_run() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cat"), "").unwrap();
        let path = env::join_paths([folder.path(), Path::new("/bin")]).unwrap();
        assert_eq!(find(OsStr::new("cat"), Some(&path)).unwrap(), Path::new("/bin/cat"));
        let alone = find(OsStr::new("cat"), Some(folder.path().as_os_str()));
        assert!(matches!(alone, Err(ProgramError::NotExecutable(_))));
    }

    #[test]
    fn musl_is_told_from_glibc() {
        assert_eq!(other_libc("/lib/ld-musl-x86_64.so.1"), Some("musl"));
        assert_eq!(other_libc("/lib64/ld-linux-x86-64.so.2"), None);
    }
}
