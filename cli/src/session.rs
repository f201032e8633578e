//! While the program runs: signals go on to it, it is stopped and continued with us, the intproxy's words go to the user, and if
//! the session is lost the program is ended. One thread, one wait.
//!
//! The program is in our process group, so that a key at the terminal reaches it as it would without us. Such a signal (the
//! kernel sends it) is not passed on, lest it come twice; one that another process sends is, as it may be meant for us alone. Sent
//! to the whole group by kill(2) it comes twice, as it does with timeout(1). What the program's own tree sends is not passed on:
//! `kill 0` in a script has reached all of it.

use std::{
    fs,
    time::{Duration, Instant},
};

use mirrord_protocol::control::ErrorReply;
use thiserror::Error;

use crate::{
    intproxy::Intproxy,
    kube::Cluster,
    process::{self, Arrived, News, Outcome, Signals},
    sys,
};

/// From the request to end until the program is killed.
const GRACE: Duration = Duration::from_secs(2);

/// The session ended before the program did.
#[derive(Debug, Error)]
pub enum Lost {
    #[error("{}", .0.error)]
    Reported(ErrorReply),
    #[error("the session is lost: the local proxy has ended ({0})")]
    Intproxy(Outcome),
    #[error("the session is lost: waiting for the program failed: {0}")]
    Wait(std::io::Error),
}

impl Lost {
    /// The next step.
    pub fn help(&self) -> String {
        let ours = "the target serves all its traffic itself again and the program was ended; run the command again";
        match self {
            Self::Reported(reply) if !reply.help.is_empty() => format!("{}; the program was ended", reply.help),
            _ => ours.into(),
        }
    }
}

/// A program and the session that it is in.
pub struct Session {
    signals: Signals,
    program: i32,
    intproxy: Intproxy,
    /// The connection to the cluster, if that is where the target is.
    cluster: Option<Cluster>,
    /// A stop signal has reached us, so we are to stop as the program does.
    asked_to_stop: bool,
    lost: Option<Lost>,
    kill_at: Option<Instant>,
}

impl Session {
    pub fn new(signals: Signals, program: i32, intproxy: Intproxy, cluster: Option<Cluster>) -> Self {
        Self { signals, program, intproxy, cluster, asked_to_stop: false, lost: None, kill_at: None }
    }

    /// Until the program has ended and the session is closed.
    pub fn run(mut self) -> Result<Outcome, Lost> {
        let outcome = loop {
            if let Err(error) = self.wait() {
                self.lose(Lost::Wait(error));
            }
            while let Some(arrived) = self.signals.next() {
                self.pass_on(arrived);
            }
            if let Some(cluster) = &mut self.cluster {
                cluster.read_reports();
            }
            if let Some(reply) = self.intproxy.read_reports() {
                self.lose(Lost::Reported(reply));
            }
            if let Some(outcome) = self.children() {
                break outcome;
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_at = None;
                process::kill(self.program, libc::SIGKILL);
            }
        };
        self.intproxy.close();
        // Behind the session, which it carries.
        drop(self.cluster);
        self.lost.map_or(Ok(outcome), Err)
    }

    fn wait(&self) -> std::io::Result<()> {
        let cluster = self.cluster.as_ref().and_then(Cluster::fd);
        let fds: Vec<_> = [Some(self.signals.fd()), self.intproxy.fd(), cluster].into_iter().flatten().collect();
        sys::wait_readable(&fds, self.kill_at.map(|at| at.saturating_duration_since(Instant::now())))
    }

    /// How the program ended, if it has.
    fn children(&mut self) -> Option<Outcome> {
        let mut ended = None;
        while let Some(news) = process::news() {
            match news {
                News::Ended(pid, outcome) if pid == self.program => ended = Some(outcome),
                News::Ended(pid, outcome) if pid == self.intproxy.pid() => {
                    self.intproxy.set_reaped();
                    // What it said last says more than how it ended.
                    let lost = self.intproxy.read_reports().map_or(Lost::Intproxy(outcome), Lost::Reported);
                    self.lose(lost);
                }
                News::Stopped(pid, signal) if pid == self.program => self.stop_too(signal),
                // The agent, perhaps: the intproxy notices and knows more about it.
                News::Ended(..) | News::Stopped(..) => {}
            }
        }
        ended
    }

    fn pass_on(&mut self, Arrived { signal, sender }: Arrived) {
        match signal {
            libc::SIGCHLD => return,
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.asked_to_stop = true,
            libc::SIGCONT => self.asked_to_stop = false,
            _ => {}
        }
        if sender.is_some_and(|sender| !descends(sender, self.program)) {
            process::kill(self.program, signal);
        }
    }

    /// The shell sees only us stop, and only so gives the user a prompt. Where there is no job control we go on: whoever stopped just
    /// the program will continue just the program.
    fn stop_too(&mut self, signal: i32) {
        if self.asked_to_stop || sys::in_foreground() {
            self.asked_to_stop = false;
            process::stop_self(signal);
        }
    }

    fn lose(&mut self, why: Lost) {
        if self.lost.is_none() {
            self.lost = Some(why);
            self.kill_at = Some(Instant::now() + GRACE);
            process::kill(self.program, libc::SIGTERM);
            // A stopped program would sleep through it.
            process::kill(self.program, libc::SIGCONT);
        }
    }
}

/// Whether a process is the program or descends from it. One that is gone is nobody's.
fn descends(mut pid: i32, program: i32) -> bool {
    for _ in 0..64 {
        if pid == program {
            return true;
        }
        match parent(pid) {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// Field 4 of `/proc/PID/stat`, behind the name, which may hold anything.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_descend_from_our_parent_and_it_not_from_us() {
        let we = std::process::id() as i32;
        let parent = parent(we).unwrap();
        assert!(descends(we, we) && descends(we, parent) && !descends(parent, we));
        assert!(!descends(i32::MAX, we));
    }
}
