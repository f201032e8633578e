//! The local proxy of one session: layers on one side, the tunnel to the agent on the other. Run by the command line as a
//! process of its own (`mirrord intproxy`), it takes [`settings::Settings`] on standard input and reports on standard output.

#![forbid(unsafe_code)]

mod agent;
pub mod agents;
pub mod ask;
mod delivery;
mod forward;
pub mod layers;
mod passing;
pub mod private;
pub mod push;
pub mod records;
mod session;
pub mod settings;

use std::{
    ffi::OsString,
    io::{self, BufRead, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use mirrord_protocol::{control::ErrorReply, deliver::Kind};
use tokio::net::unix::pipe;

pub use session::lifeline;
use session::{End, Session};
use settings::{Report, Settings};

/// Longest settings line, bytes: filters' configurations are the bulk of it.
const MAX_SETTINGS: u64 = 16 << 20;

/// How flows travel, where that can be chosen: `socket` (connections to the program are passed to the agent, which is on the same
/// machine) or `tunnel` (their bytes are copied, as they are to a far agent).
const DELIVERY: &str = "MIRRORD_DELIVERY";

/// Runs a session as the settings on standard input say, until standard input ends.
pub fn run() -> ExitCode {
    match start() {
        Ok(End::Orderly) => ExitCode::SUCCESS,
        Ok(End::Lost(reply)) => {
            report(Report::Lost(reply));
            ExitCode::FAILURE
        }
        Err(reply) => {
            report(Report::Failed(reply));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<End, ErrorReply> {
    let internal = |error: &dyn std::fmt::Display| ErrorReply {
        error: format!("the local proxy cannot start: {error}"),
        help: "`mirrord exec` starts it; it is not run by hand".into(),
    };
    let settings = read_settings().map_err(|error| internal(&error))?;
    let wanted = wanted(std::env::var_os(DELIVERY))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| internal(&error))?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|error| internal(&error))?;
        let stdin = pipe::Receiver::from_owned_fd(stdin).map_err(|error| internal(&error))?;
        let session = Session::open(&settings, wanted, report).await?;
        report(Report::Ready { layer_address: session.layer_address() });
        Ok(session.serve(session::lifeline(stdin), report).await)
    })
}

fn wanted(value: Option<OsString>) -> Result<Kind, ErrorReply> {
    match value.as_ref().map(|value| value.to_str()) {
        None | Some(Some("" | "socket")) => Ok(Kind::Sockets),
        Some(Some("tunnel")) => Ok(Kind::Tunnel),
        Some(_) => {
            let value = value.unwrap_or_default();
            let error = format!("{DELIVERY} is `{}`, which is no way to deliver", value.display());
            Err(ErrorReply { error, help: format!("set {DELIVERY} to `socket` or to `tunnel`, or do not set it") })
        }
    }
}

/// Reads one line without reading on: what follows is the lifeline.
fn read_settings() -> io::Result<Settings> {
    let mut line = Vec::new();
    io::stdin().lock().take(MAX_SETTINGS).read_until(b'\n', &mut line)?;
    serde_json::from_slice(&line).map_err(io::Error::from)
}

/// One line on standard output. Nobody reads it any more if the command line is gone; then the lifeline has ended too.
fn report(report: Report) {
    if let Ok(line) = serde_json::to_string(&report) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}
