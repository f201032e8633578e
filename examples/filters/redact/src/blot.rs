//! Goes through JSON byte by byte and blots out the values of some members, whatever they are. It never holds more than one
//! member's name, so that a body of any length goes through in pieces, cut wherever they are.
//!
//! ```text
//! {"user": "me", "password": "secret", "card": {"number": 1}}      fields: password, card
//! {"user": "me", "password": "***", "card": "***"}
//! ```

/// A member's name is remembered up to this length, in bytes as they are sent.
pub const LONGEST_NAME: usize = 128;

const INSTEAD: &[u8] = b"\"***\"";

/// How far it is.
#[derive(Debug, Default)]
pub struct Blot {
    state: State,
    /// The string that is being read, or the last one.
    name: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Between strings, where nothing is to be hidden.
    #[default]
    Between,
    String {
        escaped: bool,
    },
    /// Behind a string that is a secret's name; a colon makes it one.
    Name,
    /// Behind that colon: the value comes.
    Value,
    HiddenString {
        escaped: bool,
    },
    /// A number, true, false or null.
    HiddenWord,
    /// An array or object with so many open brackets.
    HiddenNest {
        depth: u32,
        in_string: bool,
        escaped: bool,
    },
}

impl Blot {
    /// The next piece; what may be seen of it is added to `out`.
    pub fn piece(&mut self, piece: &[u8], fields: &[String], out: &mut Vec<u8>) {
        for &byte in piece {
            self.byte(byte, fields, out);
        }
    }

    fn byte(&mut self, byte: u8, fields: &[String], out: &mut Vec<u8>) {
        use State::{Between, HiddenNest, HiddenString, HiddenWord, Name, String, Value};
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let (next, shown) = match self.state {
            Between => (self.begin(byte), true),
            String { escaped: false } if byte == b'"' => (if self.is_secret(fields) { Name } else { Between }, true),
            String { escaped } => {
                if self.name.len() <= LONGEST_NAME * 6 {
                    self.name.push(byte);
                }
                (String { escaped: !escaped && byte == b'\\' }, true)
            }
            Name if blank => (Name, true),
            Name if byte == b':' => (Value, true),
            // It was a value that is spelt like a name.
            Name => (self.begin(byte), true),
            Value if blank => (Value, true),
            Value => {
                out.extend_from_slice(INSTEAD);
                let next = match byte {
                    b'"' => HiddenString { escaped: false },
                    b'{' | b'[' => HiddenNest { depth: 1, in_string: false, escaped: false },
                    _ => HiddenWord,
                };
                (next, false)
            }
            HiddenString { escaped: false } if byte == b'"' => (Between, false),
            HiddenString { escaped } => (HiddenString { escaped: !escaped && byte == b'\\' }, false),
            HiddenWord if blank || matches!(byte, b',' | b'}' | b']') => (Between, true),
            HiddenWord => (HiddenWord, false),
            HiddenNest { depth, in_string: true, escaped } => {
                let in_string = escaped || byte != b'"';
                (HiddenNest { depth, in_string, escaped: !escaped && byte == b'\\' }, false)
            }
            HiddenNest { depth, .. } => {
                let depth = match byte {
                    b'{' | b'[' => depth.saturating_add(1),
                    b'}' | b']' => depth - 1,
                    _ => depth,
                };
                (if depth == 0 { Between } else { HiddenNest { depth, in_string: byte == b'"', escaped: false } }, false)
            }
        };
        self.state = next;
        if shown {
            out.push(byte);
        }
    }

    fn begin(&mut self, byte: u8) -> State {
        if byte == b'"' {
            self.name.clear();
            return State::String { escaped: false };
        }
        State::Between
    }

    /// Compared as JSON reads it: `"\u0070assword"` is `password`.
    fn is_secret(&self, fields: &[String]) -> bool {
        if !self.name.contains(&b'\\') {
            return fields.iter().any(|field| field.as_bytes() == self.name);
        }
        let quoted = [b"\"", &*self.name, b"\""].concat();
        let name = mirrord_filter_sdk::json::parse(&quoted).ok().and_then(mirrord_filter_sdk::json::Value::as_str);
        // A name that cannot be read may be any.
        name.is_none_or(|name| fields.iter().any(|field| *field == name))
    }
}
