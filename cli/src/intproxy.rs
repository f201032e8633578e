//! The session's intproxy: this same program, run as `mirrord intproxy`. Settings go in as one line, reports come out as lines, and
//! the pipe that the settings came through is its lifeline: however we end, the kernel closes it and the intproxy ends the session.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mirrord_intproxy::settings::{Report, Settings};
use mirrord_protocol::control::ErrorReply;
use thiserror::Error;

use crate::{
    console,
    lines::{Line, Lines},
    privileges::Capabilities,
    process,
};

/// How long the session may take to open; compiling large filters on a busy machine is what takes time.
const OPEN: Duration = Duration::from_secs(200);
/// How long the intproxy may take to end the session in order.
const CLOSE: Duration = Duration::from_secs(5);

/// Why there is no session.
#[derive(Debug, Error)]
pub enum IntproxyError {
    #[error("the local proxy cannot be started: {0}")]
    Spawn(io::Error),
    #[error("{}", .0.error)]
    Failed(ErrorReply),
    #[error("the local proxy ended before the session was open")]
    Ended,
    #[error("the session was not open within {} s", OPEN.as_secs())]
    Slow,
}

impl IntproxyError {
    /// The next step.
    pub fn help(&self) -> &str {
        match self {
            Self::Failed(reply) if !reply.help.is_empty() => &reply.help,
            Self::Failed(_) => "correct that and run the command again; nothing has changed in the target",
            Self::Spawn(_) | Self::Ended | Self::Slow => "run the command again; nothing has changed in the target",
        }
    }
}

/// A running intproxy whose session is open.
#[derive(Debug)]
pub struct Intproxy {
    child: Child,
    /// Its end of the pipe is the intproxy's standard input.
    lifeline: Option<ChildStdin>,
    reports: Lines<ChildStdout>,
    reaped: bool,
}

impl Intproxy {
    /// Starts it and waits for the session; also gives the value of the layer's variable.
    pub fn start(settings: &Settings) -> Result<(Self, String), IntproxyError> {
        // The file that is running, even if another one has been put at its path since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("mirrord").arg("intproxy").stdin(Stdio::piped()).stdout(Stdio::piped());
        process::prepare_helper(&mut command, Capabilities::default());
        let mut child = command.spawn().map_err(IntproxyError::Spawn)?;
        let (Some(lifeline), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Err(IntproxyError::Ended) };
        let reports = Lines::new(stdout).map_err(IntproxyError::Spawn)?;
        let mut intproxy = Self { child, lifeline: Some(lifeline), reports, reaped: false };
        let opened = intproxy.open(settings);
        match opened {
            Ok(address) => Ok((intproxy, address)),
            Err(error) => {
                intproxy.close();
                Err(error)
            }
        }
    }

    fn open(&mut self, settings: &Settings) -> Result<String, IntproxyError> {
        let mut line = serde_json::to_vec(settings).map_err(|error| IntproxyError::Spawn(error.into()))?;
        line.push(b'\n');
        // An intproxy that has ended says why on its output, if it could.
        let _ = self.lifeline.as_mut().map(|lifeline| lifeline.write_all(&line));
        let deadline = Instant::now() + OPEN;
        loop {
            match self.reports.wait(deadline) {
                Line::Text(line) => match serde_json::from_str(&line) {
                    Ok(Report::Ready { layer_address }) => return Ok(layer_address),
                    Ok(Report::Failed(reply) | Report::Lost(reply)) => return Err(IntproxyError::Failed(reply)),
                    Ok(Report::Notice { level, message }) => console::notice(level, &message),
                    // The same program wrote it; there are no other lines.
                    Err(_) => {}
                },
                Line::NotYet => return Err(IntproxyError::Slow),
                Line::End => return Err(IntproxyError::Ended),
            }
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// It has ended, and its number is another's from now on.
    pub fn set_reaped(&mut self) {
        self.reaped = true;
    }

    /// Its output, until that ends.
    pub fn fd(&self) -> Option<i32> {
        self.reports.fd()
    }

    /// Shows what it has for the user. If it has lost the session it says why.
    pub fn read_reports(&mut self) -> Option<ErrorReply> {
        while let Line::Text(line) = self.reports.next() {
            match serde_json::from_str(&line) {
                Ok(Report::Notice { level, message }) => console::notice(level, &message),
                Ok(Report::Lost(reply) | Report::Failed(reply)) => return Some(reply),
                Ok(Report::Ready { .. }) | Err(_) => {}
            }
        }
        None
    }

    /// Ends the session: the intproxy gets the time to do it in order, and its last words are heard.
    pub fn close(mut self) {
        drop(self.lifeline.take());
        let deadline = Instant::now() + CLOSE;
        while let Line::Text(line) = self.reports.wait(deadline) {
            if let Ok(Report::Notice { level, message }) = serde_json::from_str(&line) {
                console::notice(level, &message);
            }
        }
        // Its output ends a moment before it does.
        while !self.reaped && matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
