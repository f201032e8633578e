//! Writes a head anew: the edited lines differ, all others go on byte for byte, in their order. Also the responses that
//! are ours: a filter's, and the few errors that a client may see because of us.

use mirrord_filters::{Edit, Field, LocalResponse};

use super::head::Asks;

/// Appends to `out` the head `head` (with its empty line, CR LF throughout) after `edits`, in their order. `target`: what its
/// request line asks for instead.
pub fn edited(head: &[u8], edits: &[Edit], target: Option<&[u8]>, out: &mut Vec<u8>) {
    let first = memchr::memchr(b'\n', head).map_or(head.len(), |at| at + 1);
    push_first(out, &head[..first], target);
    edited_fields(&head[first..], edits, out);
}

/// Appends to `out` the lines `lines` of a head or of trailers, with their empty line, after `edits`.
pub fn edited_fields(lines: &[u8], edits: &[Edit], out: &mut Vec<u8>) {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    // Room for most heads at once: grown from nothing it would be moved three times.
    let mut fields: Vec<(&[u8], Line<'_>)> = Vec::with_capacity(32);
    fields.extend(lines.filter(|line| *line != b"\r\n").map(|line| (name_of(line), Line::AsItCame(line))));
    for edit in edits {
        match edit {
            Edit::Append { name, value } => fields.push((name, Line::New(name, value))),
            Edit::Remove { name } => fields.retain(|(found, _)| !found.eq_ignore_ascii_case(name)),
            Edit::Set { name, value } => {
                // The first line of that name gives its place.
                let place = fields.iter().position(|(found, _)| found.eq_ignore_ascii_case(name));
                fields.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
                fields.insert(place.unwrap_or(fields.len()), (name, Line::New(name, value)));
            }
        }
    }
    for (_, line) in fields {
        match line {
            Line::AsItCame(line) => out.extend_from_slice(line),
            Line::New(name, value) => push_field(out, name, value),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// "METHOD SP target SP version CR LF", as it came or with another target.
fn push_first(out: &mut Vec<u8>, line: &[u8], target: Option<&[u8]>) {
    let ends = (memchr::memchr(b' ', line), memchr::memrchr(b' ', line));
    match (target, ends) {
        (Some(target), (Some(before), Some(after))) if before < after => {
            for part in [&line[..=before], target, &line[after..]] {
                out.extend_from_slice(part);
            }
        }
        _ => out.extend_from_slice(line),
    }
}

/// How a body is framed that is no longer as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// To the connection's end.
    UntilClose,
}

/// Appends to `out` the head `head`, whose body has a length, with another framing in that line's place.
pub fn reframed(head: &[u8], framing: Framing, out: &mut Vec<u8>) {
    let mut placed = false;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let is_length = name_of(line).eq_ignore_ascii_case(b"content-length");
        if !is_length && line != b"\r\n" {
            out.extend_from_slice(line);
            continue;
        }
        if !std::mem::replace(&mut placed, true) {
            match framing {
                Framing::Length(length) => push_field(out, b"Content-Length", length.to_string().as_bytes()),
                Framing::Chunked => push_field(out, b"Transfer-Encoding", b"chunked"),
                Framing::UntilClose => push_field(out, b"Connection", b"close"),
            }
        }
        if line == b"\r\n" {
            out.extend_from_slice(line);
        }
    }
}

/// The fields of such lines, as filters see them.
pub fn fields(lines: &[u8]) -> Vec<Field<'_>> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines
        .filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            Some(Field { name: &line[..colon], value: line[colon + 1..].trim_ascii() })
        })
        .collect()
}

enum Line<'a> {
    AsItCame(&'a [u8]),
    New(&'a [u8], &'a [u8]),
}

fn name_of(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b':').next().unwrap_or_default()
}

fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// A filter's response to a request that asked `asks`; `close` if the connection ends after it.
pub fn local_response(response: &LocalResponse, asks: Asks, close: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + response.body.len());
    push_status(&mut out, response.status);
    for (name, value) in &response.headers {
        push_field(&mut out, name, value);
    }
    if !matches!(response.status, 204 | 304) {
        push_field(&mut out, b"Content-Length", response.body.len().to_string().as_bytes());
    }
    if close {
        push_field(&mut out, b"Connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !asks.head && !matches!(response.status, 204 | 304) {
        out.extend_from_slice(&response.body);
    }
    out
}

/// An error that is ours, and the end of the connection. The body says why, and what to do.
pub fn error_response(status: u16, why: &str, asks: Asks) -> Vec<u8> {
    let body = format!("mirrord: {why}\n").into_bytes();
    let headers = vec![(b"Content-Type".to_vec(), b"text/plain; charset=utf-8".to_vec())];
    local_response(&LocalResponse { status, headers, body }, asks, true)
}

fn push_status(out: &mut Vec<u8>, status: u16) {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(head: &str, edits: &[Edit]) -> String {
        let mut out = Vec::new();
        edited(head.as_bytes(), edits, None, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_edited_lines_differ() {
        let head = "GET / HTTP/1.1\r\nhOST:a\r\nX-A:  1 \r\nx-b: 2\r\nX-a: 3\r\n\r\n";
        let set = Edit::Set { name: b"x-A".to_vec(), value: b"9".to_vec() };
        assert_eq!(edit(head, &[set]), "GET / HTTP/1.1\r\nhOST:a\r\nx-A: 9\r\nx-b: 2\r\n\r\n");
        let remove = Edit::Remove { name: b"X-B".to_vec() };
        let append = Edit::Append { name: b"X-B".to_vec(), value: b"".to_vec() };
        assert_eq!(edit(head, &[remove, append]), "GET / HTTP/1.1\r\nhOST:a\r\nX-A:  1 \r\nX-a: 3\r\nX-B: \r\n\r\n");
        assert_eq!(edit(head, &[]), head);
    }

    #[test]
    fn a_response_to_head_has_no_body_but_its_length() {
        let response = LocalResponse { status: 403, headers: vec![], body: b"no".to_vec() };
        let asks = Asks { head: true, ..Asks::default() };
        assert_eq!(local_response(&response, asks, false), b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n");
    }

    #[test]
    fn another_target_leaves_method_and_version() {
        for (head, expected) in [
            ("GET /a?b HTTP/1.1\r\nA:b\r\n\r\n", "GET /new HTTP/1.1\r\nA:b\r\n\r\n"),
            ("POST http://a/b HTTP/1.0\r\n\r\n", "POST /new HTTP/1.0\r\n\r\n"),
        ] {
            let mut out = Vec::new();
            edited(head.as_bytes(), &[], Some(b"/new"), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn another_framing_takes_the_lengths_place() {
        for (framing, line) in [
            (Framing::Length(7), "Content-Length: 7\r\n"),
            (Framing::Chunked, "Transfer-Encoding: chunked\r\n"),
            (Framing::UntilClose, "Connection: close\r\n"),
        ] {
            for (head, expected) in [
                ("GET / HTTP/1.1\r\na: b\r\ncontent-length: 3\r\nc: d\r\n\r\n", format!("GET / HTTP/1.1\r\na: b\r\n{line}c: d\r\n\r\n")),
                ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", format!("HTTP/1.1 200 OK\r\n{line}\r\n")),
                ("HTTP/1.1 200 OK\r\na: b\r\n\r\n", format!("HTTP/1.1 200 OK\r\na: b\r\n{line}\r\n")),
            ] {
                let mut out = Vec::new();
                reframed(head.as_bytes(), framing, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), expected);
            }
        }
    }
}
