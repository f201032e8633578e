//! `mirrord`: the command line. `args` reads it, `exec` does it; how the program ends is how this process ends.

mod agent;
mod args;
mod chain;
mod console;
mod container;
mod doctor;
mod elf;
mod error;
mod exec;
mod explain;
mod feeds;
mod files;
mod filter;
mod forward;
mod helper;
mod inspect;
mod intproxy;
mod kube;
mod lines;
mod namespace;
mod paint;
mod privileges;
mod process;
mod program;
mod progress;
mod scope;
mod session;
mod sys;
mod verify;
mod when;

use std::{env, path::PathBuf, process::ExitCode};

use mirrord_config::{Config, Flags};

use crate::{args::Task, process::Outcome};

fn main() -> ExitCode {
    match args::read(env::args_os()) {
        Ok(Task::Intproxy) => {
            // Started by way of /proc/self/exe, `ps` and `top` would call it `exe`.
            let _ = std::fs::write("/proc/self/comm", "mirrord");
            mirrord_intproxy::run()
        }
        Ok(Task::Cluster) => {
            let _ = std::fs::write("/proc/self/comm", "mirrord");
            crate::kube::run()
        }
        Ok(Task::Exec { flags, file, key, watch }) => end(config(*flags, file, key, variable).and_then(|config| exec::exec(config, watch))),
        Ok(Task::Explain(line)) => done(line.resolve(variable).and_then(|explain| explain::explain(&explain))),
        Ok(Task::Inspect(line, filters)) => done(line.resolve(filters, variable).and_then(inspect::inspect)),
        Ok(Task::Doctor(line)) => match doctor::doctor(*line, variable) {
            Ok(is_well) => ExitCode::from(u8::from(!is_well)),
            Err(error) => done(Err(error)),
        },
        Ok(Task::Dump(line)) => done(line.resolve(variable).and_then(inspect::inspect)),
        Ok(Task::Forward(line, filters)) => end(forward::forward(*line, filters, variable)),
        Ok(Task::Ls(line)) => ls(line),
        Ok(Task::Verify(line)) => {
            console::out(&verify::verify(&line, variable).to_string());
            ExitCode::SUCCESS
        }
        Ok(Task::Rbac(line)) => {
            console::out(line.text().trim_end());
            ExitCode::SUCCESS
        }
        Ok(Task::Filter(command)) => filter::run(command),
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        Err(error) => usage(&error),
    }
}

/// Lists targets. Whoever reads JSON reads errors as JSON, too.
fn ls(line: crate::kube::list::Line) -> ExitCode {
    let is_json = line.is_json();
    let listed = files::config_file(line.config_file(), None, variable)
        .and_then(|file| crate::kube::list::list(line, file.cluster).map_err(error::Error::Kube));
    match listed {
        Err(error) if is_json => {
            console::say(&console::json_error(&error, &error.help()));
            ExitCode::from(error.status() as u8)
        }
        listed => done(listed),
    }
}

/// Flags and variables, with the config file that they name.
fn config(
    flags: Flags,
    file: Option<PathBuf>,
    key: Option<String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, error::Error> {
    let file = files::config_file(file, key, &variable)?;
    Ok(Config::resolve(flags, variable, file)?)
}

/// A value that is no text is none that any of our variables may have; it is quoted back as far as it can be.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn done(result: Result<(), error::Error>) -> ExitCode {
    end(result.map(|()| Outcome::Exited(0)))
}

fn end(result: Result<Outcome, error::Error>) -> ExitCode {
    match result {
        Ok(Outcome::Exited(status)) => ExitCode::from(status as u8),
        // Shells and supervisors tell the two apart: after Ctrl-C a script goes on unless its command died of the signal.
        Ok(Outcome::Killed(signal)) => process::die_of(signal),
        Err(error) => {
            progress::failed(&error.to_string());
            console::error(&error, &error.help());
            ExitCode::from(error.status() as u8)
        }
    }
}

/// What clap has to say, in our form.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let text = error.render().to_string();
    let text = text.trim_end().trim_start_matches("error: ");
    let text = text.strip_suffix("For more information, try '--help'.").unwrap_or(text).trim_end();
    let command = env::args().nth(1).filter(|word| {
        ["explain", "inspect", "filter", "ls", "rbac", "verify-config", "doctor", "port-forward", "dump"].contains(&word.as_str())
    });
    // An argument of the program's, more often than not.
    let is_exec = command.is_none() && error.kind() == ErrorKind::UnknownArgument;
    let dashes = if is_exec { "put -- before the program if this is for it; " } else { "" };
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        console::say(text);
    } else {
        let command = command.as_deref().unwrap_or("exec");
        console::say(&format!("mirrord: error: {text}\n  help: {dashes}`mirrord {command} --help` shows every flag, and examples"));
    }
    ExitCode::from(2)
}
