//! The session's intproxy: this same program, run as `mirrord intproxy`. However we end, it ends the session.

use std::{
    io,
    time::{Duration, Instant},
};

use mirrord_intproxy::settings::{Report, Settings};
use mirrord_protocol::control::ErrorReply;
use thiserror::Error;

use crate::{console, helper::Helper, lines::Line};

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
pub struct Intproxy(Helper);

impl Intproxy {
    /// Starts it and waits for the session; also gives the value of the layer's variable.
    pub fn start(settings: &Settings) -> Result<(Self, String), IntproxyError> {
        let mut intproxy = Self(Helper::start("intproxy", settings).map_err(IntproxyError::Spawn)?);
        match intproxy.open() {
            Ok(address) => Ok((intproxy, address)),
            Err(error) => {
                intproxy.close();
                Err(error)
            }
        }
    }

    fn open(&mut self) -> Result<String, IntproxyError> {
        let deadline = Instant::now() + OPEN;
        loop {
            match self.0.wait(deadline) {
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
        self.0.pid()
    }

    /// It has ended, and its number is another's from now on.
    pub fn set_reaped(&mut self) {
        self.0.set_reaped();
    }

    /// Its output, until that ends.
    pub fn fd(&self) -> Option<i32> {
        self.0.fd()
    }

    /// Shows what it has for the user. If it has lost the session it says why.
    pub fn read_reports(&mut self) -> Option<ErrorReply> {
        while let Line::Text(line) = self.0.next() {
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
        self.0.let_go();
        let deadline = Instant::now() + CLOSE;
        while let Line::Text(line) = self.0.wait(deadline) {
            if let Ok(Report::Notice { level, message }) = serde_json::from_str(&line) {
                console::notice(level, &message);
            }
        }
        self.0.end(deadline);
    }
}
