//! W3C Trace Context: `traceparent` and `tracestate`, read and written. A filter that marks a request for the hops
//! behind it does so in `tracestate` or in [`crate::baggage`].

use std::fmt;

use crate::cookies::trim;

/// A `traceparent` header: which trace, which span of it, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// 0 today. A later version is read as far as version 0 goes, as the specification wants it.
    pub version: u8,
    /// Never all zero.
    pub trace_id: [u8; 16],
    /// The sender's span; never all zero.
    pub parent_id: [u8; 8],
    /// Bit 0: the sender may have recorded this trace.
    pub flags: u8,
}

impl TraceParent {
    /// Reads the header; nothing for what the specification calls invalid. More than one `traceparent` header is
    /// invalid too, which only the caller sees.
    pub fn read(header: &[u8]) -> Option<Self> {
        let mut rest = trim(header);
        let mut field = |len: usize| {
            let (field, after) = rest.split_at_checked(len)?;
            rest = after.strip_prefix(b"-").unwrap_or(after);
            // A field that no dash ends must be the last one.
            (after.is_empty() || rest.len() < after.len()).then_some((field, after.is_empty()))
        };
        let version = hex::<1>(field(2)?.0)?[0];
        let (trace_id, parent_id) = (hex(field(32)?.0)?, hex(field(16)?.0)?);
        let (flags, is_last) = field(2)?;
        let whole = match version {
            0 => is_last,
            0xff => false,
            _ => true,
        };
        let valid = whole && trace_id != [0; 16] && parent_id != [0; 8];
        Some(TraceParent { version, trace_id, parent_id, flags: hex::<1>(flags)?[0] }).filter(|_| valid)
    }

    /// May the sender have recorded it?
    pub fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The header for a hop further on, with a span of its own: always version 0, and of the flags only the one that
    /// version 0 knows.
    #[must_use]
    pub fn child(&self, parent_id: [u8; 8]) -> Self {
        TraceParent { version: 0, parent_id, flags: self.flags & 1, ..*self }
    }
}

/// As the header is written.
impl fmt::Display for TraceParent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:02x}-", self.version)?;
        self.trace_id.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
        out.write_str("-")?;
        self.parent_id.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
        write!(out, "-{:02x}", self.flags)
    }
}

/// Lower-case digits only, as the specification has it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    let mut pairs = text.chunks_exact(2);
    for byte in &mut out {
        let [high, low] = pairs.next()? else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    pairs.next().is_none().then_some(out)
}

/// Members of a `tracestate`, no more than the specification allows.
pub const STATE_MEMBERS: usize = 32;
/// A written `tracestate` is no longer than this, in bytes: what everybody must carry on.
pub const STATE_BYTES: usize = 512;

/// The `tracestate` of a request: vendors' notes, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceState<'a>(Vec<(&'a str, &'a str)>);

impl<'a> TraceState<'a> {
    /// Reads all `tracestate` headers of a request, in order. One bad member makes the whole invalid, as the specification
    /// has it: then it is as if there were none.
    pub fn read(headers: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut members: Vec<(&str, &str)> = Vec::new();
        for header in headers {
            for member in header.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty()) {
                let (key, value) = std::str::from_utf8(member).ok()?.split_once('=')?;
                let again = members.iter().any(|(own, _)| *own == key);
                if again || members.len() == STATE_MEMBERS || !is_key(key) || !is_value(value) {
                    return None;
                }
                members.push((key, value));
            }
        }
        Some(TraceState(members))
    }

    /// The value of that key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(own, _)| *own == key).map(|(_, value)| *value)
    }

    /// Keys and values in order.
    pub fn members(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.0.iter().copied()
    }

    /// Puts a member first, where a changed one belongs, and takes an older one of that key out. False, and unchanged,
    /// when key or value are none.
    pub fn set(&mut self, key: &'a str, value: &'a str) -> bool {
        let valid = is_key(key) && is_value(value);
        if valid {
            self.0.retain(|(own, _)| *own != key);
            self.0.insert(0, (key, value));
            self.0.truncate(STATE_MEMBERS);
        }
        valid
    }

    /// The header. Whole members go until it fits into [`STATE_BYTES`]: first those of over 128 bytes, then from the end.
    pub fn write(&self) -> String {
        let size = |members: &[(&str, &str)]| members.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
        let mut members = self.0.clone();
        while size(&members) > STATE_BYTES + 1 {
            let large = members.iter().rposition(|(key, value)| key.len() + value.len() + 1 > 128);
            members.remove(large.unwrap_or(members.len() - 1));
        }
        members.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }
}

/// `simple-key` or `tenant@system`.
fn is_key(key: &str) -> bool {
    let part = |part: &str, longest: usize, may_start_with_digit: bool| {
        let starts = |byte: &u8| byte.is_ascii_lowercase() || (may_start_with_digit && byte.is_ascii_digit());
        let goes_on = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/');
        part.len() <= longest && part.as_bytes().first().is_some_and(starts) && part.bytes().all(goes_on)
    };
    match key.split_once('@') {
        None => part(key, 256, true),
        Some((tenant, system)) => part(tenant, 241, true) && part(system, 14, false),
    }
}

fn is_value(value: &str) -> bool {
    let printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(printable) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn state(header: &str) -> Option<TraceState<'_>> {
        TraceState::read([header.as_bytes()])
    }

    #[test]
    fn the_specifications_example_is_read_and_written() {
        let parent = TraceParent::read(EXAMPLE.as_bytes()).unwrap();
        assert_eq!((parent.trace_id[0], parent.parent_id[7], parent.sampled()), (0x4b, 0xb7, true));
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(TraceParent::read(format!(" {EXAMPLE}\t").as_bytes()), Some(parent));
        assert_eq!(parent.child([1; 8]).to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01");
    }

    /// The cases of the working group's test suite (trace-context `test/test.py`).
    #[test]
    fn invalid_parents_are_none() {
        for header in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-.0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-.bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47360-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-.0f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ".0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00 4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future-will-be-like",
        ] {
            assert_eq!(TraceParent::read(header.as_bytes()), None, "{header}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_this_one_goes() {
        for after in ["", "-", "-what-the-future-will-be-like"] {
            let header = format!("cc{}{after}", &EXAMPLE[2..]);
            assert_eq!(TraceParent::read(header.as_bytes()).map(|parent| parent.trace_id[0]), Some(0x4b), "{header}");
        }
    }

    #[test]
    fn states_are_read_in_order() {
        let read = TraceState::read([&b"rojo=00f067aa0ba902b7 , "[..], b"congo=t61rcWkgMzE"]).unwrap();
        assert_eq!(read.members().collect::<Vec<_>>(), [("rojo", "00f067aa0ba902b7"), ("congo", "t61rcWkgMzE")]);
        assert_eq!(read.get("congo"), Some("t61rcWkgMzE"));
        assert_eq!(state(""), Some(TraceState::default()));
        for valid in [
            "foo@bar=1",
            "0a=1",
            "z*-_/9=\"x\";~",
            "fw529a3039@dt=FfAAAAAMAAAAAQ",
            &format!("{}=1", "z".repeat(256)),
            &format!("a={}", "0".repeat(256)),
        ] {
            assert!(state(valid).is_some(), "{valid}");
        }
    }

    #[test]
    fn one_bad_member_makes_a_state_invalid() {
        let (long_key, long_value) = (format!("{}=1", "z".repeat(257)), format!("a={}", "0".repeat(257)));
        let (long_tenant, long_system) = (format!("{}@v=1", "t".repeat(242)), format!("t@{}=1", "v".repeat(15)));
        let many = (0..33).map(|n| format!("bar{n}=1")).collect::<Vec<_>>().join(",");
        for header in [
            "foo",
            "foo =1",
            "FOO=1",
            "foo.bar=1",
            "foo@=1,bar=2",
            "@foo=1",
            "foo@@bar=1",
            "foo@bar@baz=1",
            "foo@0=1",
            "foo=bar=baz",
            "foo=,bar=3",
            "foo=1,foo=2",
            "foo=\u{e9}",
            &long_key,
            &long_value,
            &long_tenant,
            &long_system,
            &many,
        ] {
            assert_eq!(state(header), None, "{header}");
        }
    }

    #[test]
    fn what_is_set_comes_first_and_the_whole_fits() {
        let mut changed = state("a=1,b=2,c=3").unwrap();
        assert!(changed.set("b", "4"));
        assert_eq!(changed.write(), "b=4,a=1,c=3");
        for (key, value) in [("B", "1"), ("b", ""), ("b", "1,c=2"), ("b", "1 ")] {
            assert!(!changed.set(key, value));
        }
        let large = format!("large={},{}", "x".repeat(200), (0..28).map(|n| format!("key{n}=0123456789")).collect::<Vec<_>>().join(","));
        let mut state = state(&large).unwrap();
        assert!(state.set("mirrord", "me"));
        let written = state.write();
        assert!(written.starts_with("mirrord=me,key0=") && written.len() <= STATE_BYTES, "{written}");
        assert!(written.ends_with("key27=0123456789"), "{written}");
    }
}
