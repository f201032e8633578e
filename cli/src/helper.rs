//! A process of ours that works for the command line: this same program, run as another command. Settings go in as one line, reports
//! come out as lines, and the pipe that the settings came through is its lifeline: however we end, the kernel closes it.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    lines::{Line, Lines},
    privileges::Capabilities,
    process,
};

/// A running one.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    /// Its end of the pipe is the helper's standard input.
    lifeline: Option<ChildStdin>,
    reports: Lines<ChildStdout>,
    reaped: bool,
}

impl Helper {
    /// Starts `mirrord COMMAND` and gives it its settings.
    pub fn start(command: &str, settings: &impl Serialize) -> io::Result<Self> {
        let mut line = serde_json::to_vec(settings)?;
        line.push(b'\n');
        // The file that is running, even if another one has been put at its path since.
        let mut helper = Command::new("/proc/self/exe");
        helper.arg0("mirrord").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
        process::prepare_helper(&mut helper, Capabilities::default());
        let mut child = helper.spawn()?;
        let (Some(mut lifeline), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let reports = Lines::new(stdout)?;
        // One that has ended says why on its output, if it could.
        let _ = lifeline.write_all(&line);
        Ok(Self { child, lifeline: Some(lifeline), reports, reaped: false })
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

    /// What it has reported so far.
    pub fn next(&mut self) -> Line {
        self.reports.next()
    }

    /// What it reports next.
    pub fn wait(&mut self, deadline: Instant) -> Line {
        self.reports.wait(deadline)
    }

    /// Tells it to end.
    pub fn let_go(&mut self) {
        drop(self.lifeline.take());
    }

    /// Has it end, by force once the time is over.
    pub fn end(&mut self, deadline: Instant) {
        self.let_go();
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
