//! Log lines of filters: cut, cleaned of control characters, and at most so many a second for each filter, however many
//! instances it has. By default they go to `tracing`, target `mirrord::filter`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::abi::{level, limit};

/// Lines a second and filter; as many again at level debug, so that an SDK which logs each of its steps, as AssemblyScript's does, does
/// not crowd out what the filter's author says.
const LINES_A_SECOND: u32 = 20;

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl LogLevel {
    /// What the guest passes; unknown numbers are of no weight.
    pub(crate) fn from_abi(number: i32) -> Self {
        match number {
            level::ERROR => LogLevel::Error,
            level::WARN => LogLevel::Warn,
            level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        }
    }
}

/// Receives the filter's name, the level and the line. Called on the thread that runs the filter: be quick.
pub type LogSink = Arc<dyn Fn(&str, LogLevel, &str) + Send + Sync>;

/// The sink of one engine when the settings name none.
pub(crate) fn to_tracing(filter: &str, level: LogLevel, line: &str) {
    match level {
        LogLevel::Error => tracing::error!(target: "mirrord::filter", filter, "{line}"),
        LogLevel::Warn => tracing::warn!(target: "mirrord::filter", filter, "{line}"),
        LogLevel::Info => tracing::info!(target: "mirrord::filter", filter, "{line}"),
        LogLevel::Debug => tracing::debug!(target: "mirrord::filter", filter, "{line}"),
    }
}

/// One filter's way into the log.
pub(crate) struct FilterLog {
    name: String,
    sink: LogSink,
    window: Mutex<Window>,
}

struct Window {
    start: Instant,
    lines: u32,
    debug_lines: u32,
    dropped: u64,
}

impl Window {
    fn new() -> Self {
        Window { start: Instant::now(), lines: 0, debug_lines: 0, dropped: 0 }
    }
}

impl FilterLog {
    pub(crate) fn new(name: &str, sink: LogSink) -> Self {
        FilterLog { name: name.into(), sink, window: Mutex::new(Window::new()) }
    }

    pub(crate) fn line(&self, level: LogLevel, text: &[u8]) {
        let dropped = {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            let mut dropped = 0;
            if window.start.elapsed() >= Duration::from_secs(1) {
                dropped = window.dropped;
                *window = Window::new();
            }
            let lines = if level == LogLevel::Debug { &mut window.debug_lines } else { &mut window.lines };
            if *lines >= LINES_A_SECOND {
                window.dropped += u64::from(level != LogLevel::Debug);
                return;
            }
            *lines += 1;
            dropped
        };
        if dropped > 0 {
            (self.sink)(&self.name, LogLevel::Warn, &format!("{dropped} of its log lines were dropped, it logs too much"));
        }
        (self.sink)(&self.name, level, &clean(text, limit::LOG));
    }
}

/// Text of a guest, fit for one line of a log: at most `max` bytes, control characters made visible.
pub(crate) fn clean(text: &[u8], max: usize) -> String {
    let cut = text.len() > max;
    if !cut && text.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return String::from_utf8_lossy(text).into_owned();
    }
    let mut out = String::with_capacity(text.len().min(max) + 3);
    for c in String::from_utf8_lossy(&text[..text.len().min(max)]).chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if cut {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_forge_another_one() {
        assert_eq!(clean(b"a\nERROR b\x1b[0m", 99), "a\\nERROR b\\u{1b}[0m");
        assert_eq!(clean("é€".as_bytes(), 3), "é\u{fffd}…");
    }

    #[test]
    fn a_flood_is_cut_off() {
        let lines = Arc::new(Mutex::new(0));
        let count = lines.clone();
        let log = FilterLog::new("f", Arc::new(move |_, _, _| *count.lock().unwrap() += 1));
        // Two windows at most, should a second pass meanwhile.
        for (level, least) in [(LogLevel::Debug, LINES_A_SECOND), (LogLevel::Info, 2 * LINES_A_SECOND)] {
            (0..10_000).for_each(|_| log.line(level, b"again"));
            let lines = *lines.lock().unwrap();
            assert!((least..=2 * least + 1).contains(&lines), "{lines}");
        }
    }
}
