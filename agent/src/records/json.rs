//! Lines of JSON, written field by field: each request of an inspected port makes one, and a general serializer costs more than
//! all else that is done for it.

use std::net::SocketAddr;

/// Writes one object at the end of a buffer.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_first: true }
    }

    pub fn end(self) {
        self.out.push(b'}');
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(if self.is_first { b"\"" } else { b",\"" });
        self.is_first = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        digits(self.out, number);
    }

    /// Text that needs no escapes.
    pub fn word(&mut self, name: &str, word: &str) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b'"');
    }

    pub fn text(&mut self, name: &str, text: &[u8]) {
        self.name(name);
        string(self.out, text);
    }

    pub fn address(&mut self, name: &str, address: SocketAddr) {
        self.name(name);
        self.out.push(b'"');
        match address {
            // Formatting one in the usual way takes as long as the rest of the line.
            SocketAddr::V4(v4) => {
                for (at, part) in v4.ip().octets().into_iter().enumerate() {
                    if at > 0 {
                        self.out.push(b'.');
                    }
                    digits(self.out, part.into());
                }
                self.out.push(b':');
                digits(self.out, v4.port().into());
            }
            SocketAddr::V6(v6) => self.out.extend_from_slice(v6.to_string().as_bytes()),
        }
        self.out.push(b'"');
    }

    /// What few lines have, by way of the usual serializer.
    pub fn value(&mut self, name: &str, value: &impl serde::Serialize) {
        self.name(name);
        if serde_json::to_writer(&mut *self.out, value).is_err() {
            self.out.extend_from_slice(b"null");
        }
    }
}

fn digits(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    if text.iter().all(|&byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, &super::exchanges::text(text)).is_err() {
        out.extend_from_slice(b"\"\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut line = Vec::new();
        let mut object = Object::begin(&mut line);
        object.number("zero", 0);
        object.number("most", u64::MAX);
        object.word("word", "pass");
        object.text("plain", b"/a?b=c");
        object.text("odd", b"a\"b\\c\n\x01");
        object.text("utf8", "é…".as_bytes());
        object.text("latin1", b"\xe9\xff");
        object.address("v4", "10.0.255.1:65535".parse().unwrap());
        object.address("v6", "[fd00::1]:80".parse().unwrap());
        object.value("value", &Some(vec![("a", "b")]));
        object.end();
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let expected = serde_json::json!({
            "zero": 0, "most": u64::MAX, "word": "pass", "plain": "/a?b=c", "odd": "a\"b\\c\n\u{1}", "utf8": "é…", "latin1": "éÿ",
            "v4": "10.0.255.1:65535", "v6": "[fd00::1]:80", "value": [["a", "b"]],
        });
        assert_eq!(read, expected);
    }
}
