//! A small JSON reader (RFC 8259): [`parse`] checks the whole document once, then values are looked up where they lie,
//! without building a tree. Strict where parsers differ dangerously: nothing but UTF-8, no comments, no trailing comma, and
//! of two members of one name the last one counts, as in Python, Go, JavaScript and serde_json.
//!
//! ```
//! let order = mirrord_filter_sdk::json::parse(br#"{"items": [{"sku": "a-1", "price": 3.5}]}"#).unwrap();
//! assert_eq!(order.pointer("/items/0/sku").unwrap().as_str().unwrap(), "a-1");
//! ```

use std::borrow::Cow;
use std::fmt;

/// Arrays and objects lie at most this deep in one another.
pub const DEPTH: u32 = 128;

/// Why and where a document is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Bytes before it.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at byte {}", self.what, self.at)
    }
}

/// A value in a document that is known to be JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a str);

/// What a [`Value`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "JSON's own names")]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// Checks a document and gives its one value.
///
/// # Errors
/// What is not JSON, or nested deeper than [`DEPTH`].
pub fn parse(document: &[u8]) -> Result<Value<'_>, Problem> {
    let text = std::str::from_utf8(document).map_err(|e| Problem { at: e.valid_up_to(), what: "not UTF-8" })?;
    let mut reader = Reader { text: document, at: 0 };
    reader.document().map_err(|what| Problem { at: reader.at, what })?;
    Ok(Value(text.trim_matches(is_blank)))
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// Checks. One bit a level tells arrays from objects, so that no input makes it recurse or allocate.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<(), &'static str> {
        let (mut objects, mut depth) = (0u128, 0);
        self.blanks();
        'value: loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH {
                        return Err("nested too deep");
                    }
                    depth += 1;
                    objects = objects << 1 | u128::from(open == b'{');
                    self.at += 1;
                    self.blanks();
                    if self.peek() != Some(open + 2) {
                        if open == b'{' {
                            self.name()?;
                        }
                        continue 'value;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.word(b"true")?,
                Some(b'f') => self.word(b"false")?,
                Some(b'n') => self.word(b"null")?,
                _ => return Err("a value is expected"),
            }
            // Behind a value, or before the end of an empty array or object.
            loop {
                self.blanks();
                let in_object = objects & 1 == 1;
                match self.peek() {
                    None if depth == 0 => return Ok(()),
                    Some(b',') if depth > 0 => {
                        self.at += 1;
                        self.blanks();
                        if in_object {
                            self.name()?;
                        }
                        continue 'value;
                    }
                    Some(b'}') if depth > 0 && in_object => {}
                    Some(b']') if depth > 0 && !in_object => {}
                    _ if depth == 0 => return Err("the end is expected"),
                    _ => return Err("a comma or the end of the array or object is expected"),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| is_blank(byte.into())) {
            self.at += 1;
        }
    }

    /// A member's name, the colon, and what is blank around them.
    fn name(&mut self) -> Result<(), &'static str> {
        if self.peek() != Some(b'"') {
            return Err("a member's name is expected");
        }
        self.string()?;
        self.blanks();
        self.word(b":").map_err(|_| "a colon is expected")?;
        self.blanks();
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), &'static str> {
        let is_there = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        self.at += if is_there { word.len() } else { 0 };
        is_there.then_some(()).ok_or("a value is expected")
    }

    fn string(&mut self) -> Result<(), &'static str> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                        Some(b'u') => {
                            let digits = self.text.get(self.at + 1..self.at + 5).unwrap_or_default();
                            if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err("\\u wants four digits");
                            }
                            self.at += 4;
                        }
                        _ => return Err("no such escape"),
                    }
                }
                Some(0..=0x1f) => return Err("a control character in a string"),
                Some(_) => {}
                None => return Err("a string has no end"),
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), &'static str> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), &'static str> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            Err("a digit is expected")
        } else {
            Ok(())
        }
    }
}

impl<'a> Value<'a> {
    /// What stands for a document that is none.
    pub const NULL: Value<'static> = Value("null");

    /// The text of it, as it stands in the document.
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// What it is.
    pub fn kind(self) -> Kind {
        match self.0.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Number,
        }
    }

    /// A string's text, escapes resolved; half of a surrogate pair becomes U+FFFD.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let text = self.0.strip_prefix('"')?.strip_suffix('"')?;
        Some(if text.contains('\\') { Cow::Owned(unescape(text)) } else { Cow::Borrowed(text) })
    }

    /// True or false.
    pub fn as_bool(self) -> Option<bool> {
        self.0.parse().ok()
    }

    /// A whole number without sign, fraction and exponent.
    pub fn as_u64(self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// A whole number without fraction and exponent.
    pub fn as_i64(self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// Any number, rounded to the nearest that an `f64` can hold.
    pub fn as_f64(self) -> Option<f64> {
        if self.kind() == Kind::Number {
            self.0.parse().ok()
        } else {
            None
        }
    }

    /// The items of an array; of something else, none.
    pub fn items(self) -> impl Iterator<Item = Value<'a>> {
        let mut parts = Parts::of(self, '[');
        std::iter::from_fn(move || parts.value())
    }

    /// Names and values of an object, in order; of something else, none.
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        let mut parts = Parts::of(self, '{');
        std::iter::from_fn(move || Some((parts.value()?.as_str()?, parts.value()?)))
    }

    /// The member of that name; the last one, if there are several.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.members().filter(|(own, _)| own == name).last().map(|(_, value)| value)
    }

    /// The value that a JSON pointer names (RFC 6901): `/items/0/price`; the empty pointer names this one.
    pub fn pointer(self, pointer: &str) -> Option<Value<'a>> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self, |value, token| match value.kind() {
            Kind::Object => value.get(&token.replace("~1", "/").replace("~0", "~")),
            // No sign, no leading zero.
            Kind::Array if token == "0" || token.starts_with(|first| matches!(first, '1'..='9')) => value.items().nth(token.parse().ok()?),
            _ => None,
        })
    }
}

/// Goes through the inside of an array or object that is known to be well-formed.
struct Parts<'a>(&'a str);

impl<'a> Parts<'a> {
    fn of(value: Value<'a>, open: char) -> Self {
        Parts(value.0.strip_prefix(open).unwrap_or_default())
    }

    /// The next value or name; commas and colons before it are passed over.
    fn value(&mut self) -> Option<Value<'a>> {
        let text = self.0.trim_start_matches(|character| is_blank(character) || matches!(character, ',' | ':'));
        let (value, rest) = text.split_at_checked(length(text.as_bytes()))?;
        self.0 = rest;
        (!value.is_empty()).then_some(Value(value))
    }
}

/// How long the value is that the text begins with; 0 at the end of what it lies in.
fn length(text: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, &byte) in text.iter().enumerate() {
        if in_string {
            if escaped {
                escaped = false;
            } else if byte == b'\\' {
                escaped = true;
            } else if byte == b'"' {
                in_string = false;
                if depth == 0 {
                    return at + 1;
                }
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn unescape(text: &str) -> String {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    let mut pair = [0; 2];
    while let Some(character) = characters.next() {
        let plain = match character {
            '\\' => match characters.next().unwrap_or('\\') {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits = characters.by_ref().take(4).filter_map(|digit| digit.to_digit(16));
                    units.push(digits.fold(0, |unit, digit| unit << 4 | digit as u16));
                    continue;
                }
                itself => itself,
            },
            character => character,
        };
        units.extend_from_slice(plain.encode_utf16(&mut pair));
    }
    String::from_utf16_lossy(&units)
}

/// Appends text as a JSON string, quotes included.
pub fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\0'..='\x1f' => {
                out.push_str("\\u00");
                out.extend([character as u32 >> 4, character as u32 & 15].into_iter().filter_map(|digit| char::from_digit(digit, 16)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
#[path = "json/tests.rs"]
mod tests;
