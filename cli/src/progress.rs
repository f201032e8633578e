//! What is being done while a session starts: for who watches a terminal a line that changes, elsewhere a line a step, for editors
//! JSON (`MIRRORD_PROGRESS_MODE`). Each step's time is told, and at the end what the start was made of.
//!
//! A step lasts until the next one begins. Everything else that is said goes through [`aside`], which keeps the changing line whole.

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mirrord_protocol::control::Level;
use serde_json::{Value, json};

use crate::console::plain;

/// A shorter step is no part of the sum.
const WORTH_TELLING: Duration = Duration::from_millis(50);

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Terminal,
    Lines,
    Json,
    Off,
}

impl Mode {
    fn of(word: Option<&str>, watched: bool) -> Self {
        match word {
            Some("off") => Self::Off,
            Some("json") => Self::Json,
            Some("dumb" | "simple") => Self::Lines,
            _ if watched => Self::Terminal,
            _ => Self::Lines,
        }
    }
}

/// The task that is under way, and its steps.
struct Task {
    mode: Mode,
    /// Its name, once it has begun.
    name: Option<String>,
    began: Instant,
    step: Option<(String, Instant)>,
    done: Vec<(String, Duration)>,
    /// A line on the terminal that will change.
    open: Option<String>,
}

static TASK: Mutex<Option<Task>> = Mutex::new(None);

fn with<T>(work: impl FnOnce(&mut Task) -> T) -> T {
    let mut task = TASK.lock().unwrap_or_else(PoisonError::into_inner);
    work(task.get_or_insert_with(|| {
        let mode = Mode::of(env::var("MIRRORD_PROGRESS_MODE").ok().as_deref(), io::stderr().is_terminal());
        Task { mode, name: None, began: Instant::now(), step: None, done: Vec::new(), open: None }
    }))
}

/// A task begins.
pub fn begin(name: &str) {
    with(|task| {
        (task.name, task.began) = (Some(name.to_owned()), Instant::now());
        task.json(&json!({ "type": "NewTask", "name": name, "parent": null }));
    });
}

/// A step begins, and the one before it is done. Without a task (the program runs already) it is a line.
pub fn step(what: &str) {
    with(|task| {
        if task.name.is_none() {
            task.json(&json!({ "type": "Info", "message": plain(what) }));
            return task.line(&plain(what));
        }
        task.finish_step(true);
        task.step = Some((plain(what), Instant::now()));
        task.show("");
        let name = task.name.clone();
        task.json(&json!({ "type": "NewTask", "name": plain(what), "parent": name }));
    });
}

/// What is seen within a step. Editors have no place for it.
pub fn detail(what: &str) {
    with(|task| task.show(&plain(what)));
}

/// The task is done; `ready` says what runs now. One without steps, which took no time, is told only to who watches.
pub fn done(ready: &str) {
    with(|task| {
        task.finish_step(true);
        let long = task.done.drain(..).filter(|(_, took)| *took >= WORTH_TELLING);
        let steps: Vec<_> = long.map(|(what, took)| format!("{what} {}", seconds(took))).collect();
        let steps = if steps.is_empty() { String::new() } else { format!(": {}", steps.join(", ")) };
        let text = format!("{} ({}{steps})", plain(ready), seconds(task.began.elapsed()));
        if task.mode == Mode::Terminal || !steps.is_empty() {
            task.line(&text);
        }
        task.finish_task(true, None);
    });
}

/// It has come to nothing. Why is said to the user as an error, and to editors here.
pub fn failed(why: &str) {
    with(|task| {
        task.finish_step(false);
        task.finish_task(false, Some(why));
    });
}

/// A line for the user beside the steps; `false`: nobody reads JSON, so it has to be said otherwise.
pub fn notice(level: Level, message: &str) -> bool {
    with(|task| {
        let kind = if level == Level::Info { "Info" } else { "Warning" };
        task.json(&json!({ "type": kind, "message": plain(message) }));
        task.mode == Mode::Json
    })
}

/// Says something else on standard error, above the line that changes.
pub fn aside(say: impl FnOnce()) {
    let Ok(mut task) = TASK.try_lock() else { return say() };
    let open = task.as_mut().and_then(|task| task.open.take());
    if open.is_some() {
        write("\r\x1b[2K");
    }
    say();
    if let (Some(task), Some(line)) = (task.as_mut(), open) {
        write(&line);
        task.open = Some(line);
    }
}

impl Task {
    fn finish_step(&mut self, success: bool) {
        let Some((what, began)) = self.step.take() else { return };
        if self.open.take().is_some() {
            write(&format!("\r\x1b[2Kmirrord: {what} ({})\n", seconds(began.elapsed())));
        }
        self.json(&json!({ "type": "FinishedTask", "name": what, "success": success, "message": null }));
        self.done.push((what, began.elapsed()));
    }

    fn finish_task(&mut self, success: bool, message: Option<&str>) {
        if let Some(name) = self.name.take() {
            self.json(&json!({ "type": "FinishedTask", "name": name, "success": success, "message": message }));
        }
    }

    /// The step under way, with what is seen of it.
    fn show(&mut self, detail: &str) {
        let Some((what, _)) = &self.step else { return };
        match self.mode {
            Mode::Terminal => {
                let text = if detail.is_empty() { format!("mirrord: {what} …") } else { format!("mirrord: {what}: {detail} …") };
                let start = if self.open.is_some() { "\r\x1b[2K" } else { "" };
                write(&format!("{start}{text}"));
                self.open = Some(text);
            }
            Mode::Lines => {
                let text = if detail.is_empty() { what.clone() } else { format!("  {detail}") };
                write(&format!("mirrord: {text} ({})\n", seconds(self.began.elapsed())));
            }
            Mode::Json | Mode::Off => {}
        }
    }

    fn line(&self, text: &str) {
        if matches!(self.mode, Mode::Terminal | Mode::Lines) {
            write(&format!("mirrord: {text}\n"));
        }
    }

    fn json(&self, value: &Value) {
        if self.mode == Mode::Json {
            let _ = writeln!(io::stdout().lock(), "{value}");
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f32())
}

fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_is_told_otherwise_than_who_reads_later() {
        assert_eq!(Mode::of(None, true), Mode::Terminal);
        assert_eq!(Mode::of(Some("standard"), false), Mode::Lines);
        assert_eq!(Mode::of(Some("simple"), true), Mode::Lines);
        assert_eq!(Mode::of(Some("json"), true), Mode::Json);
        assert_eq!(Mode::of(Some("off"), true), Mode::Off);
    }
}
