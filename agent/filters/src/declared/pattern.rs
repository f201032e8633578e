//! Regular expressions of the config file: Rust's syntax plus look-around and back-references. Those without the additions take
//! time in proportion to the text; those with them may take longer, so they have a limit of steps and of text, beyond which they
//! give up.

use fancy_regex::{Regex, RegexBuilder};

/// Longest pattern, bytes.
pub(super) const LONGEST: usize = 4 << 10;
/// Compiled size of a pattern, bytes.
const COMPILED: usize = 256 << 10;
/// Steps back of one search: some milliseconds.
const STEPS: usize = 50_000;
/// Longest text that is searched by backtracking, bytes.
const BACKTRACKED: usize = 16 << 10;

/// Whether the case of letters counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Counts,
    Ignored,
}

pub(super) struct Pattern {
    regex: Regex,
    backtracks: bool,
}

/// The limit of a search was reached.
#[derive(Debug)]
pub(super) struct GaveUp;

impl Pattern {
    /// The error is for the user.
    pub(super) fn new(text: &str, case: Case) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("a pattern of {} bytes is longer than {LONGEST}", text.len()));
        }
        let mut builder = RegexBuilder::new(text);
        builder.case_insensitive(case == Case::Ignored).backtrack_limit(STEPS).delegate_size_limit(COMPILED).max_prog_size(LONGEST);
        let regex = builder.build().map_err(|error| format!("`{text}` is no regular expression: {}", one_line(&error)))?;
        Ok(Self { regex, backtracks: backtracks(text) })
    }

    pub(super) fn finds(&self, text: &str) -> Result<bool, GaveUp> {
        if self.backtracks && text.len() > BACKTRACKED {
            return Err(GaveUp);
        }
        self.regex.is_match(text).map_err(|_| GaveUp)
    }
}

/// Whether a pattern may have one of the additions: what it says in too many cases costs the bound on the text only.
fn backtracks(pattern: &str) -> bool {
    const ADDITIONS: [&str; 9] = ["(?=", "(?!", "(?<", "(?>", "(?(", "\\k", "\\K", "\\G", "*+"];
    ADDITIONS.iter().any(|addition| pattern.contains(addition))
        || pattern.as_bytes().windows(2).any(|pair| (pair[0] == b'\\' && matches!(pair[1], b'1'..=b'9')) || pair == b"++" || pair == b"?+")
}

fn one_line(error: &fancy_regex::Error) -> String {
    let text = error.to_string();
    // Rust's own errors draw the pattern and an arrow first.
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text, Case::Counts).unwrap()
    }

    #[test]
    fn look_around_and_back_references_work() {
        assert!(pattern("^user-agent: (?!kube-probe)").finds("user-agent: curl").unwrap());
        assert!(!pattern("^user-agent: (?!kube-probe)").finds("user-agent: kube-probe/1").unwrap());
        assert!(pattern(r"(a+)-\1$").finds("aa-aa").unwrap());
    }

    #[test]
    fn what_would_take_for_ever_gives_up_soon() {
        let evil = pattern(r"^(?=(a+)+$)(a|aa)+\1b$");
        let started = std::time::Instant::now();
        for length in [40, 1000, BACKTRACKED, BACKTRACKED + 1, 1 << 20] {
            let _ = evil.finds(&"a".repeat(length));
        }
        assert!(evil.finds(&"a".repeat(BACKTRACKED + 1)).is_err());
        assert!(started.elapsed().as_millis() < 2000, "{:?}", started.elapsed());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        for text in ["(?:a{1000}){1000}", "(((a{100}){100}){100})", &"a".repeat(LONGEST + 1), "(", "(?=(a{1000}){1000})"] {
            assert!(Pattern::new(text, Case::Counts).is_err(), "{text}");
        }
    }
}
