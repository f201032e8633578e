//! What the user reads, all on standard error: it is the program's terminal too, so as little as possible.

use std::{
    fmt::Display,
    io::{self, Write},
};

use mirrord_protocol::control::Level;

use crate::progress;

/// How a command prints a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// An error and its next step.
pub fn error(error: &dyn Display, help: &str) {
    let help = if help.is_empty() { String::new() } else { format!("\n  help: {}", plain(help)) };
    say(&format!("mirrord: error: {}{help}", plain(&error.to_string())));
}

/// An error as editors read it.
pub fn json_error(error: &dyn Display, help: &str) -> String {
    serde_json::json!({ "message": error.to_string(), "severity": "error", "causes": [], "help": help }).to_string()
}

/// A line that the agent or the intproxy has for the user.
pub fn notice(level: Level, message: &str) {
    if progress::notice(level, message) {
        return;
    }
    let level = match level {
        Level::Info => "info",
        Level::Warn => "warning",
        Level::Error => "error",
    };
    say(&format!("mirrord: {level}: {}", plain(message)));
}

/// What a command was asked for, on standard output. Nobody may be reading any more.
pub fn out(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Text that is ours as it stands. A closed standard error is no reason to end (`eprintln!` would panic).
pub fn say(text: &str) {
    progress::aside(|| {
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// Without control characters: some of the text comes from the pod's side, and the terminal would obey it.
pub fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_commands_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}d é"), "a [2Jb c d é");
    }
}
