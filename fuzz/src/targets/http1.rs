//! The pure parts of the gateway's HTTP/1: what the first bytes are, heads, bodies, edits.

use mirrord_filter_sdk::abi;
use mirrord_filters::{Edit, Field};

use super::{choices, cut};
use crate::gateway::{
    detect::{Guess, first_bytes},
    http1::{
        framing::Body,
        head::{self, Asks, Read},
    },
    http1_private::{
        edit,
        lines::{Lines, until_empty},
    },
};

/// Prefixes longer than this are sampled, or long inputs would take for ever.
const EVERY_PREFIX: usize = 300;

fn prefixes(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |at| *at < EVERY_PREFIX || at % 97 == 0 || length - at < 10)
}

/// What was decided on some bytes holds for all that begin with them.
pub fn detect(data: &[u8]) {
    let undecided = |guess: &Guess| matches!(guess, Guess::More | Guess::MoreDoubtful);
    let whole = first_bytes(data);
    if let Some((at, decided)) = prefixes(data.len()).map(|at| (at, first_bytes(&data[..at]))).find(|(_, guess)| !undecided(guess)) {
        assert_eq!(decided, whole, "decided after {at} bytes");
    }
}

/// A head is the same whatever follows it, and nothing before its last byte. It ends where a search for the empty line says.
pub fn request(data: &[u8]) {
    match head::request(data, |view| view.fields.len()) {
        Read::Head((request, fields)) => {
            let whole = &data[..request.len];
            check_lines(whole, fields);
            for at in prefixes(request.len) {
                assert_eq!(head::request(&data[..at], |_| ()), Read::Partial, "{at} bytes of {}", request.len);
            }
            assert_eq!(head::request(whole, |view| view.fields.len()), Read::Head((request, fields)));
            let steered = head::request(data, |view| {
                assert!(!view.method.is_empty() && !view.target.is_empty());
                view.fields.iter().for_each(check_field);
                fields_named(view.fields, "transfer-encoding")
            });
            let Read::Head((_, codings)) = steered else { panic!("read once and not twice") };
            assert_eq!(codings > 0, matches!(request.body, Body::Chunked(_)));
            assert!(request.body != Body::UntilClose);
        }
        Read::Ambiguous(why) => {
            // More bytes make nothing certain.
            let more = [data, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"].concat();
            assert!(matches!(head::request(&more, |_| ()), Read::Ambiguous(_)), "{why:?}");
        }
        Read::Partial => assert!(!contains_end(data), "an end that was not seen"),
    }
}

/// The same of responses.
pub fn response(data: &[u8]) {
    let ([asks], data) = choices(data);
    let asks = Asks { head: asks & 1 != 0, connect: asks & 2 != 0, http10: asks & 4 != 0, ..Asks::default() };
    let read = |bytes: &[u8]| head::response(bytes, asks, Some(|_, fields: &[Field<'_>]| fields.len()));
    match read(data) {
        Read::Head((response, fields)) => {
            // Empty lines before a response are skipped, as clients do; before a request they are not.
            let skipped = data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            check_lines(&data[skipped..response.len], fields.unwrap_or_default());
            for at in prefixes(response.len) {
                assert_eq!(read(&data[..at]), Read::Partial, "{at} bytes of {}", response.len);
            }
            assert_eq!(read(&data[..response.len]), Read::Head((response, fields)));
            assert!((100..1000).contains(&response.status));
            assert!(!response.is_interim() || response.body == Body::Empty);
            assert!(response.body != Body::UntilClose || response.close);
        }
        Read::Ambiguous(why) => {
            let more = [data, b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"].concat();
            assert!(matches!(read(&more), Read::Ambiguous(_)), "{why:?}");
        }
        Read::Partial => assert!(!contains_end(data), "an end that was not seen"),
    }
}

fn contains_end(data: &[u8]) -> bool {
    // An empty line first is skipped by the parser that finds the lines, and refused by us once the head is complete.
    let start = data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    memchr::memmem::find(&data[start..], b"\r\n\r\n").is_some()
}

fn check_lines(head: &[u8], fields: usize) {
    assert!(head.ends_with(b"\r\n\r\n"));
    let mut scanned = 0;
    assert_eq!(until_empty(head, &mut scanned), Lines::Complete);
    assert_eq!(scanned + 1, head.len());
    // One line for each field: nothing is folded, skipped or split.
    assert_eq!(head.iter().filter(|byte| **byte == b'\n').count(), fields + 2);
    assert_eq!(head.iter().filter(|byte| **byte == b'\r').count(), fields + 2);
    assert!(!head.contains(&0));
}

fn check_field(field: &Field<'_>) {
    assert!(!field.name.is_empty() && !field.name.iter().any(|byte| b" \t:\r\n".contains(byte)));
    assert!(!field.value.iter().any(|byte| b"\r\n\0".contains(byte)));
}

fn fields_named(fields: &[Field<'_>], name: &str) -> usize {
    fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).count()
}

/// A body ends at the same byte however it is cut, and a chunked one where a reader of whole buffers says.
pub fn body(data: &[u8]) {
    let ([kind, seed], data) = choices(data);
    let begin = match kind & 3 {
        0 => Body::UntilClose,
        1 => Body::length(u64::from(kind >> 2) * 3),
        _ => Body::chunked(),
    };
    let follow = |pieces: &[&[u8]]| {
        let (mut body, mut taken) = (begin, 0);
        for piece in pieces {
            match body.take(piece) {
                Ok(count) => {
                    taken += count;
                    assert!(count == piece.len() || body.is_done(), "stopped before the end");
                    if count < piece.len() {
                        break;
                    }
                }
                Err(_) => return None,
            }
        }
        assert!(!body.is_done() || body.take(b"x") == Ok(0), "went on after the end");
        Some((taken, body))
    };
    let whole = follow(&cut(data, 0));
    for seed in [1, seed.max(2)] {
        assert_eq!(follow(&cut(data, seed)), whole, "cut by {seed}");
    }
    if kind & 3 > 1 {
        let expected = match whole {
            None => Chunked::Bad,
            Some((taken, body)) if body.is_done() => Chunked::Ends(taken),
            Some(_) => Chunked::Partial,
        };
        assert_eq!(chunked(data), expected);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Chunked {
    Ends(usize),
    Partial,
    Bad,
}

/// RFC 9112 section 7.1 by lines, for buffers below the limits of lines.
fn chunked(data: &[u8]) -> Chunked {
    let text = |line: &[u8]| line.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    // A line up to its CR LF, `None` if it is not complete; an octet that no line has is bad at once.
    let line = |from: usize| {
        let rest = &data[from..];
        let end = rest.iter().position(|byte| *byte == b'\r').unwrap_or(rest.len());
        match (text(&rest[..end]), rest.get(end + 1)) {
            (false, _) => Err(&rest[..end]),
            (true, Some(b'\n')) => Ok(Some(&rest[..end])),
            (true, Some(_)) => Err(&rest[..end]),
            (true, None) => Ok(None),
        }
    };
    let mut at = 0;
    loop {
        // Size and extension.
        let digits = data[at..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let after = data.get(at + digits);
        match after {
            None if digits <= 15 => return Chunked::Partial,
            Some(b'\r' | b';') if (1..=15).contains(&digits) => {}
            _ => return Chunked::Bad,
        }
        let found = match line(at) {
            Ok(Some(found)) => found,
            Ok(None) if data.len() - at > 4096 => return Chunked::Bad,
            Ok(None) => return Chunked::Partial,
            Err(_) => return Chunked::Bad,
        };
        if found.len() > 4096 {
            return Chunked::Bad;
        }
        let size = found[..digits].iter().fold(0u64, |size, digit| size << 4 | u64::from((*digit as char).to_digit(16).unwrap()));
        at += found.len() + 2;
        if size == 0 {
            break;
        }
        if size > (data.len() - at) as u64 {
            return Chunked::Partial;
        }
        at += size as usize;
        match &data[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Chunked::Partial,
            _ => return Chunked::Bad,
        }
    }
    loop {
        match data.get(at) {
            None => return Chunked::Partial,
            Some(b' ' | b'\t' | b':') => return Chunked::Bad,
            Some(_) => {}
        }
        match line(at) {
            Ok(Some([])) => return Chunked::Ends(at + 2),
            Ok(Some(found)) => at += found.len() + 2,
            Ok(None) => return Chunked::Partial,
            Err(_) => return Chunked::Bad,
        }
    }
}

/// An edited head is one that is read for certain, with the framing that it had, and says what the edits say.
/// Input: edits as lines `op name:value`, an empty line, the head.
pub fn edits(data: &[u8]) {
    let Some(split) = memchr::memmem::find(data, b"\n\n") else { return };
    let edits: Vec<_> = data[..split].split(|byte| *byte == b'\n').filter_map(edit_of).collect();
    let head = &data[split + 2..];
    let describe =
        |bytes: &[u8]| head::request(bytes, |view| view.fields.iter().map(|f| (f.name.to_vec(), f.value.to_vec())).collect::<Vec<_>>());
    let Read::Head((before, mut expected)) = describe(head) else { return };
    let mut edited = Vec::new();
    edit::edited(&head[..before.len], &edits, None, &mut edited);
    if edits.is_empty() {
        assert_eq!(edited, head[..before.len]);
    }
    for edit in &edits {
        let same = |name: &[u8]| name.eq_ignore_ascii_case(edit.name());
        match edit {
            Edit::Append { name, value } => expected.push((name.clone(), value.clone())),
            Edit::Remove { .. } => expected.retain(|(name, _)| !same(name)),
            Edit::Set { name, value } => {
                let place = expected.iter().position(|(name, _)| same(name));
                expected.retain(|(name, _)| !same(name));
                expected.insert(place.unwrap_or(expected.len()), (name.clone(), value.clone()));
            }
        }
    }
    for (_, value) in &mut expected {
        // White space around a value is the line's, not the value's.
        *value = trimmed(value);
    }
    // A filter may still say a second Host, or one that the target contradicts, or more fields than are read: the head goes
    // on as the filter made it. Everything else is as it was.
    let hosts = expected.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"host")).count();
    if hosts > 1 || !head.contains(&b'/') || memchr::memmem::find(head, b"://").is_some() || expected.len() > 100 {
        return;
    }
    // Names by which some gateways take a field for the framing.
    if expected.iter().any(|(name, _)| name.contains(&b'_')) {
        return;
    }
    match describe(&edited) {
        Read::Head((after, fields)) => {
            assert_eq!((after.body, after.len), (before.body, edited.len()));
            assert_eq!((after.asks.close, after.asks.head), (before.asks.close, before.asks.head));
            assert_eq!(fields, expected);
        }
        other => panic!("{other:?}: {}", edited.escape_ascii()),
    }
}

fn edit_of(line: &[u8]) -> Option<Edit> {
    let (op, rest) = line.split_first()?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let (name, value) = (rest[..colon].to_vec(), rest[colon + 1..].to_vec());
    // The host refuses the others before the relay sees them.
    abi::edit_problem(&name, &value).is_none().then_some(match op {
        b'+' => Edit::Append { name, value },
        b'-' => Edit::Remove { name },
        _ => Edit::Set { name, value },
    })
}

fn trimmed(value: &[u8]) -> Vec<u8> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |end| end + 1);
    value[start..end].to_vec()
}
