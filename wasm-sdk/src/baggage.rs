//! W3C Baggage: what a request carries on from hop to hop (`baggage: session=me,region=eu;ttl=3`).
//!
//! Reading is lenient (a member that is none is left out), writing is strict, and never longer than what every
//! platform must carry on: 8,192 bytes and 64 members.

use std::borrow::Cow;

use crate::abi::{edit_problem, is_token};
use crate::cookies::trim;
use crate::query::{decode, Plus};
use crate::Request;

/// A `baggage` header holds no more than this, in bytes.
pub const BYTES: usize = 8192;
/// Nor more members than this.
pub const MEMBERS: usize = 64;

/// The value of that key, in whichever `baggage` header it is. Bytes that are no UTF-8 are replaced by U+FFFD.
pub fn get<'a>(request: &'a Request, key: &str) -> Option<Cow<'a, str>> {
    request.header_values("baggage").find_map(|header| find(header, key))
}

/// The value of that key in one `baggage` header.
pub fn find<'a>(header: &'a [u8], key: &str) -> Option<Cow<'a, str>> {
    members(header).find(|member| member.key == key).map(|member| member.value())
}

/// One `key=value;properties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// An HTTP token; case matters.
    pub key: &'a str,
    /// As it was sent; [`Member::value`] decodes it.
    pub raw_value: &'a [u8],
    /// What follows the first `;`, as it was sent.
    pub properties: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Member<'a> {
    /// The value, percent-decoded.
    pub fn value(&self) -> Cow<'a, str> {
        match decode(self.raw_value, Plus::IsPlus) {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// The members of one `baggage` header, in order.
pub fn members(header: &[u8]) -> impl Iterator<Item = Member<'_>> {
    header.split(|&byte| byte == b',').filter_map(|whole| {
        let whole = trim(whole);
        let mut parts = whole.splitn(2, |&byte| byte == b';');
        let mut pair = parts.next()?.splitn(2, |&byte| byte == b'=');
        let (key, raw_value) = (trim(pair.next()?), trim(pair.next()?));
        let key = std::str::from_utf8(key).ok().filter(|key| is_key(key))?;
        Some(Member { key, raw_value, properties: trim(parts.next().unwrap_or_default()), whole })
    })
}

/// Why a member cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The key is no HTTP token.
    Key,
    /// It does not fit into [`BYTES`] together with what is there already.
    Full,
}

/// The header with that member set: in place of the one of that key, if there is one, else as the first (the end is
/// where others cut). The others stay as they were sent, properties included, but for those that do not fit any more, and
/// those that no header may hold. Give it all `baggage` headers of the request, and set the result with
/// [`Request::set_header`], which replaces them all.
///
/// # Errors
/// A key that is no token; a member that is too long by itself.
pub fn with<'a>(headers: impl IntoIterator<Item = &'a [u8]>, key: &str, value: &str) -> Result<Vec<u8>, Problem> {
    if !is_key(key) {
        return Err(Problem::Key);
    }
    let mut own = format!("{key}=").into_bytes();
    encode(value.as_bytes(), &mut own);
    if own.len() > BYTES {
        return Err(Problem::Full);
    }
    let mut others: Vec<&[u8]> = Vec::new();
    let mut place = None;
    let (mut bytes, mut count) = (own.len(), 1);
    for member in headers.into_iter().flat_map(members) {
        if member.key == key {
            place.get_or_insert(others.len());
        } else if count < MEMBERS && bytes + 1 + member.whole.len() <= BYTES && edit_problem(b"baggage", member.whole).is_none() {
            bytes += 1 + member.whole.len();
            count += 1;
            others.push(member.whole);
        }
    }
    others.insert(place.unwrap_or(0).min(others.len()), &own);
    Ok(others.join(&b","[..]))
}

/// Writes a value with `%XX` for all that a baggage value may not hold (and for `%`).
fn encode(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'%' | 0..=b' ' | b'"' | b',' | b';' | b'\\' | 0x7f.. => {
                out.push(b'%');
                out.extend([byte >> 4, byte & 15].map(|digit| b"0123456789ABCDEF"[usize::from(digit)]));
            }
            _ => out.push(byte),
        }
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Vec<(String, String, String)> {
        members(header.as_bytes())
            .map(|m| (m.key.to_owned(), m.value().into_owned(), String::from_utf8_lossy(m.properties).into_owned()))
            .collect()
    }

    fn written(headers: &[&str], key: &str, value: &str) -> String {
        String::from_utf8(with(headers.iter().map(|header| header.as_bytes()), key, value).unwrap()).unwrap()
    }

    fn member(key: &str, value: &str, properties: &str) -> (String, String, String) {
        (key.into(), value.into(), properties.into())
    }

    /// The examples of the specification (W3C Baggage, section 3.3 and 3.4).
    #[test]
    fn the_examples_of_the_specification_are_read() {
        assert_eq!(
            read("key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue"),
            [
                member("key1", "value1", "property1;property2"),
                member("key2", "value2", ""),
                member("key3", "value3", "propertyKey=propertyValue")
            ]
        );
        assert_eq!(read("userId=alice,serverNode=DF%2028,isProduction=false")[1], member("serverNode", "DF 28", ""));
        assert_eq!(read("userId=Am%C3%A9lie,serverNode=DF%2028,isProduction=false")[0], member("userId", "Amélie", ""));
    }

    #[test]
    fn what_is_no_member_is_left_out() {
        assert_eq!(read(""), []);
        assert_eq!(read(",,a, =b,c d=e,ok=1,\u{e9}=2"), [member("ok", "1", "")]);
        assert_eq!(read("a=b=c,a=%ff+%"), [member("a", "b=c", ""), member("a", "\u{fffd}+%", "")]);
    }

    #[test]
    fn setting_replaces_in_place_and_leaves_the_others_as_they_were() {
        assert_eq!(written(&[], "session", "me"), "session=me");
        assert_eq!(written(&["a=1;p,  b=%20"], "session", "me"), "session=me,a=1;p,b=%20");
        assert_eq!(written(&["a=1,session=you;old", "session=x,b=2"], "session", "me"), "a=1,session=me,b=2");
        assert_eq!(written(&["connection=1"], "te", "x"), "te=x,connection=1");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let value = "a b,c;d\"e\\f%g=é\u{1f600}\r\n\0";
        let header = written(&["x=1"], "k", value);
        assert!(header.bytes().all(|byte| byte.is_ascii_graphic()), "{header}");
        assert_eq!(find(header.as_bytes(), "k").unwrap(), value);
        assert_eq!(find(header.as_bytes(), "x").unwrap(), "1");
    }

    #[test]
    fn it_stays_within_what_every_platform_carries() {
        let many = (0..500).map(|n| format!("key{n}={n}")).collect::<Vec<_>>().join(",");
        let header = written(&[&many], "session", "me");
        assert_eq!(members(header.as_bytes()).count(), MEMBERS);
        assert_eq!(find(header.as_bytes(), "session").unwrap(), "me");
        let long = format!("long={}", "x".repeat(BYTES - 5));
        assert_eq!(written(&[&long, "b=2"], "session", "me"), "session=me,b=2");
        // A whole header of only ours, replaced at an index beyond what was kept.
        assert_eq!(written(&[&long, "session=you"], "session", "me"), "session=me");
        assert_eq!(with([], "k", &"x".repeat(BYTES)), Err(Problem::Full));
        for key in ["", "a b", "a=b", "a\r\n", "é"] {
            assert_eq!(with([], key, ""), Err(Problem::Key), "{key:?}");
        }
    }
}
