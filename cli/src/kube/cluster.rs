//! `mirrord cluster` as the command line that starts it sees it.

use std::{
    io,
    time::{Duration, Instant},
};

use mirrord_protocol::control::{ErrorReply, Level};
use thiserror::Error;

use super::process::{Ready, Report, Settings};
use crate::{console, helper::Helper, lines::Line, progress};

/// How long it may take to end.
const CLOSE: Duration = Duration::from_secs(5);

/// Why there are no agents.
#[derive(Debug, Error)]
pub enum ClusterError {
    #[error("the connection to the cluster cannot be started: {0}")]
    Spawn(io::Error),
    #[error("{}", .0.error)]
    Failed(ErrorReply),
    #[error("the connection to the cluster ended before the agents were ready")]
    Ended,
}

impl ClusterError {
    /// The next step.
    pub fn help(&self) -> &str {
        match self {
            Self::Failed(reply) => &reply.help,
            Self::Spawn(_) | Self::Ended => "run the command again",
        }
    }
}

/// That process; dropping this ends it.
#[derive(Debug)]
pub struct Cluster(Helper);

impl Cluster {
    /// Starts it and waits until the agents are ready.
    pub fn start(settings: &Settings) -> Result<(Self, Ready), ClusterError> {
        let mut cluster = Self(Helper::start("cluster", settings).map_err(ClusterError::Spawn)?);
        loop {
            // It has time-outs of its own, which say what for.
            match cluster.0.wait(Instant::now() + Duration::from_secs(3600)) {
                Line::Text(line) => match serde_json::from_str(&line) {
                    Ok(Report::Ready(ready)) => return Ok((cluster, ready)),
                    Ok(Report::Failed(reply)) => return Err(ClusterError::Failed(reply)),
                    Ok(told) => show(told),
                    Err(_) => {}
                },
                Line::NotYet => {}
                Line::End => return Err(ClusterError::Ended),
            }
        }
    }

    pub fn fd(&self) -> Option<i32> {
        self.0.fd()
    }

    /// Shows what it has for the user.
    pub fn read_reports(&mut self) {
        while let Line::Text(line) = self.0.next() {
            if let Ok(told) = serde_json::from_str(&line) {
                show(told);
            }
        }
    }
}

fn show(told: Report) {
    match told {
        Report::Step(what) => progress::step(&what),
        Report::Detail(what) => progress::detail(&what),
        Report::Notice { level, message } => console::notice(level, &message),
        Report::Failed(reply) => console::notice(Level::Warn, &reply.error),
        Report::Ready(_) => {}
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.0.end(Instant::now() + CLOSE);
    }
}
