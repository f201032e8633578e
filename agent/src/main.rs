//! `mirrord-agent`: started by the command line (or as a container) in or for a target's network namespace. Says `ready` or
//! one line of JSON with the reason on standard output, then serves until its last session has gone and it has drained.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use mirrord_agent::{
    app::{App, failure},
    guard,
    redirect::leftovers::{self, Fix},
    settings::{Command, Role, Settings},
};
use mirrord_protocol::control::ErrorReply;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let settings = match Command::parse() {
        Command { role: Some(Role::Guard), .. } => return guard::run(),
        Command { role: Some(Role::Leftovers { fix, netns }), .. } => {
            let fix = if fix { Fix::Remove } else { Fix::Look };
            netns.into_iter().for_each(|path| say(&leftovers::look(path, fix)));
            return ExitCode::SUCCESS;
        }
        Command { role: Some(Role::Kernel), .. } => {
            match leftovers::kernel() {
                Ok(kernel) => say(&kernel),
                Err(error) => say(&failure(error, "")),
            }
            return ExitCode::SUCCESS;
        }
        Command { settings, .. } => settings,
    };
    let filter = EnvFilter::try_new(&settings.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if settings.json_log {
        log.json().init()
    } else {
        log.init()
    }
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reply) => {
            tracing::error!(error = %reply.error, help = %reply.help, "the agent ends");
            // Whoever started us reads one line; if nobody does any more, the log has it.
            let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(&reply).unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn say(value: &impl serde::Serialize) {
    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(value).unwrap_or_default());
}

fn run(settings: Settings) -> Result<(), ErrorReply> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ErrorReply { error: format!("cannot start a runtime: {error}"), help: String::new() })?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let app = App::new(settings).await?;
        let _ = writeln!(std::io::stdout(), "ready").and_then(|()| std::io::stdout().flush());
        app.run().await
    })
}
