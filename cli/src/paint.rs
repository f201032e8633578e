//! What lines of a command look like: colours where somebody watches, and never a character that commands the terminal.

use std::{
    borrow::Cow,
    io::{self, IsTerminal},
};

/// Colours of the sixteen that every terminal has, as its user has set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Dim,
    Red,
    Green,
    Yellow,
    Magenta,
    Cyan,
}

/// Whether and how text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// Somebody watches: standard output is a terminal.
    pub watched: bool,
    coloured: bool,
}

impl Paint {
    /// For standard output. `NO_COLOR` and `TERM=dumb` are heeded (no-color.org).
    pub fn for_stdout() -> Self {
        let watched = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self { watched, coloured: watched && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb") }
    }

    /// The text in a colour. Empty text stays empty.
    pub fn text<'a>(&self, colour: Colour, text: &'a str) -> Cow<'a, str> {
        if !self.coloured || text.is_empty() {
            return Cow::Borrowed(text);
        }
        let code = match colour {
            Colour::Dim => 2,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Magenta => 35,
            Colour::Cyan => 36,
        };
        Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
    }
}

/// Without control characters: the text comes from the pod's clients, and the terminal would obey it.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        return Cow::Owned(text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect());
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_watches_no_colours_and_no_commands() {
        let paint = Paint { watched: false, coloured: false };
        assert_eq!(paint.text(Colour::Red, "x"), "x");
        assert_eq!(Paint { watched: true, coloured: true }.text(Colour::Red, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(plain("a\x1b[2J\u{9b}é"), "a\u{fffd}[2J\u{fffd}é");
    }
}
