//! Runs a program of the iptables family and reads what it prints. The child inherits the network namespace of the calling
//! thread, which is therefore always the control thread.

use super::RedirectError;
use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Finds a program in `PATH` or where administration tools live; in many images `PATH` lacks the sbin folders.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs `program` to its end with `input` on its stdin; its stdout, or the error that it printed.
pub fn run(program: &Path, args: &[&str], input: &str) -> Result<String, RedirectError> {
    let failed = |detail: String| RedirectError::Tool { command: format!("{} {}", program.display(), args.join(" ")), detail };
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A child that outlived the agent could commit a change after the guard has undone everything.
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read its input to the end says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    outcome(output, failed)
}

/// What a program printed, or why it failed.
pub fn outcome(output: Output, failed: impl Fn(String) -> RedirectError) -> Result<String, RedirectError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if ["Permission denied", "Operation not permitted"].iter().any(|text| detail.contains(text)) {
        return Err(RedirectError::Privilege);
    }
    Err(failed(if detail.is_empty() { output.status.to_string() } else { detail }))
}
