//! Reads the head of a request or a response where it lies, strictly: what two parsers could read in two ways is no head
//! but an [`Ambiguity`]. `httparse` finds the lines; what it is lenient about (bare LF, leading empty lines, framing) is
//! checked here. From: bytes that the relay or the mirror holds. To: a few flags and the body's framing.

use std::mem::MaybeUninit;

use httparse::{Header, Status};
use mirrord_filters::{Field, Version};

use super::framing::Body;
use crate::gateway::steer::Ambiguity;

/// A head over this many bytes is passed on unread.
pub const MAX_HEAD: usize = 64 * 1024;
/// Likewise one with more lines than this.
const MAX_FIELDS: usize = 100;
/// So many fields fit an array on the stack that costs little to clear; few heads have more.
const FEW_FIELDS: usize = 24;
const NO_FIELD: Field<'static> = Field { name: b"", value: b"" };

/// What became of reading a head.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// More bytes are needed.
    Partial,
    /// These bytes cannot be read for certain.
    Ambiguous(Ambiguity),
    /// It is complete.
    Head(T),
}

/// The parts of a request's head that a filter sees.
#[derive(Debug)]
pub struct RequestView<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: Version,
    pub fields: &'a [Field<'a>],
    /// No body follows.
    pub end: bool,
}

/// What the relay needs to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Length of the head in bytes.
    pub len: usize,
    pub body: Body,
    pub asks: Asks,
}

/// What a request says about its response and its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// `HEAD`: the response has no body whatever its head says.
    pub head: bool,
    /// `CONNECT`: a 2xx response opens a tunnel.
    pub connect: bool,
    /// The connection is not kept after the response.
    pub close: bool,
    /// `Expect: 100-continue`: the body may never come if the final response comes first.
    pub expects: bool,
    /// We have told the client to continue: the upstream's own word is not passed on.
    pub continued: bool,
    /// HTTP/1.0: the connection is kept only if both sides say so.
    pub http10: bool,
    /// Sending it twice does what sending it once does (RFC 9110 §9.2.2).
    pub idempotent: bool,
}

/// What the relay needs to know of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Length of the head in bytes.
    pub len: usize,
    pub status: u16,
    pub body: Body,
    /// The connection is not kept after it.
    pub close: bool,
}

impl Response {
    /// 1xx, followed by another head.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// What follows is no HTTP any more.
    pub fn opens_tunnel(&self, asks: Asks) -> bool {
        self.status == 101 || (asks.connect && self.status / 100 == 2)
    }
}

/// Reads a request's head from the start of `buf`; `with` sees its parts if it is complete and certain.
pub fn request<R>(buf: &[u8], with: impl FnOnce(&RequestView<'_>) -> R) -> Read<(Request, R)> {
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(buf, &mut headers) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return partial(buf),
        Err(_) => return Read::Ambiguous(Ambiguity::Head),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Read::Ambiguous(Ambiguity::Head);
    };
    if len > MAX_HEAD {
        return Read::Ambiguous(Ambiguity::HeadTooLong);
    }
    // "METHOD SP target SP HTTP/1.x CR LF", from the first byte on: an empty line before it is not skipped.
    let line = method.len() + target.len() + 2 + "HTTP/1.1".len();
    if !lines_end_in_crlf(buf, line, len, parsed.headers) || !target_is_plain(method, target) {
        return Read::Ambiguous(Ambiguity::Head);
    }
    let (version, minor_zero) = if minor == 0 { (Version::Http10, true) } else { (Version::Http11, false) };
    let (body, asks) = match request_framing(method, target, minor_zero, parsed.headers) {
        Ok(framing) => framing,
        Err(why) => return Read::Ambiguous(why),
    };
    let end = body.is_done();
    let result = with_fields(parsed.headers, |fields| {
        with(&RequestView { method: method.as_bytes(), target: target.as_bytes(), version, fields, end })
    });
    Read::Head((Request { len, body, asks }, result))
}

/// Reads a response's head from the start of `buf`. `with`, if any, sees its status and fields if it is complete and certain.
pub fn response<R>(buf: &[u8], asks: Asks, with: Option<impl FnOnce(u16, &[Field<'_>]) -> R>) -> Read<(Response, Option<R>)> {
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let len = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, buf, &mut headers) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return partial(buf),
        Err(_) => return Read::Ambiguous(Ambiguity::Response),
    };
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else { return Read::Ambiguous(Ambiguity::Response) };
    let Some(line) = memchr::memchr(b'\r', buf) else { return Read::Ambiguous(Ambiguity::Response) };
    if len > MAX_HEAD || status < 100 || !lines_end_in_crlf(buf, line, len, parsed.headers) {
        return Read::Ambiguous(Ambiguity::Response);
    }
    let Some((body, close)) = response_framing(status, minor == 0, asks, parsed.headers) else {
        return Read::Ambiguous(Ambiguity::Response);
    };
    let result = with.map(|with| with_fields(parsed.headers, |fields| with(status, fields)));
    Read::Head((Response { len, status, body, close }, result))
}

fn partial<T>(buf: &[u8]) -> Read<T> {
    if buf.len() > MAX_HEAD { Read::Ambiguous(Ambiguity::HeadTooLong) } else { Read::Partial }
}

fn with_fields<R>(headers: &[Header<'_>], with: impl FnOnce(&[Field<'_>]) -> R) -> R {
    if headers.len() <= FEW_FIELDS {
        let mut fields = [NO_FIELD; FEW_FIELDS];
        for (field, header) in fields.iter_mut().zip(headers) {
            *field = Field { name: header.name.as_bytes(), value: header.value };
        }
        with(&fields[..headers.len()])
    } else {
        with(&headers.iter().map(|header| Field { name: header.name.as_bytes(), value: header.value }).collect::<Vec<_>>())
    }
}

/// Whether the first line ends at `line`, each header line begins where the line before ended, and the empty line ends
/// at `len`, with CR LF everywhere. `httparse` has already refused a lone CR, NUL, folded lines and a space before a colon.
fn lines_end_in_crlf(buf: &[u8], line: usize, len: usize, headers: &[Header<'_>]) -> bool {
    let base = buf.as_ptr() as usize;
    let crlf = |at: usize| buf.get(at..at + 2) == Some(b"\r\n");
    if !crlf(line) {
        return false;
    }
    let mut at = line + 2;
    for header in headers {
        if header.name.as_ptr() as usize - base != at {
            return false;
        }
        at += header.name.len() + 1;
        if !header.value.is_empty() {
            at = header.value.as_ptr() as usize - base + header.value.len();
        }
        while matches!(buf.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        if !crlf(at) {
            return false;
        }
        at += 2;
    }
    crlf(at) && at + 2 == len
}

/// Origin form, `*`, absolute form or (for CONNECT) an authority. A fragment never belongs on the wire: servers differ in
/// whether it is a part of the path.
fn target_is_plain(method: &str, target: &str) -> bool {
    let form = match target.as_bytes() {
        _ if method == "CONNECT" => !target.is_empty() && !target.contains('/'),
        [b'/', ..] => true,
        b"*" => method == "OPTIONS",
        _ => authority(target).is_some(),
    };
    form && memchr::memchr(b'#', target.as_bytes()).is_none()
}

/// The authority of a target in absolute form.
fn authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (known && end > 0).then(|| &rest[..end])
}

/// The framing fields of a head. Compared by length first: almost no other field is looked at twice.
#[derive(Default)]
struct Framing<'a> {
    length: Option<&'a [u8]>,
    lengths: usize,
    coding: Option<&'a [u8]>,
    codings: usize,
    host: Option<&'a [u8]>,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    expects: bool,
    /// A name that some gateways (CGI, WSGI) take for a framing field: `Content_Length`.
    disguised: bool,
}

impl<'a> Framing<'a> {
    fn of(headers: &[Header<'a>]) -> Self {
        let mut found = Framing::default();
        for header in headers {
            let name = header.name.as_bytes();
            // Length and first letter rule out almost every other field.
            match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
                (4, Some(b'h')) if name.eq_ignore_ascii_case(b"host") => {
                    found.hosts += 1;
                    found.host = Some(header.value);
                }
                (6, Some(b'e')) if name.eq_ignore_ascii_case(b"expect") => found.expects = true,
                (10, Some(b'c')) if name.eq_ignore_ascii_case(b"connection") => {
                    found.close |= has_token(header.value, b"close");
                    found.keep_alive |= has_token(header.value, b"keep-alive");
                }
                (14, Some(b'c')) if name.eq_ignore_ascii_case(b"content-length") => {
                    found.lengths += 1;
                    found.length = Some(header.value);
                }
                (14, Some(b'c')) => found.disguised |= name.eq_ignore_ascii_case(b"content_length"),
                (17, Some(b't')) if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    found.codings += 1;
                    found.coding = Some(header.value);
                }
                (17, Some(b't')) => found.disguised |= name.eq_ignore_ascii_case(b"transfer_encoding"),
                _ => {}
            }
        }
        found
    }

    /// Whether the connection ends after this message (RFC 9112 §9.3).
    fn closes(&self, http10: bool) -> bool {
        self.close || (http10 && !self.keep_alive)
    }
}

fn request_framing(method: &str, target: &str, http10: bool, headers: &[Header<'_>]) -> Result<(Body, Asks), Ambiguity> {
    let found = Framing::of(headers);
    if found.lengths > 1 || found.codings > 1 || (found.length.is_some() && found.coding.is_some()) || found.disguised {
        return Err(Ambiguity::Framing);
    }
    if found.hosts > 1 || !host_agrees(target, found.host) {
        return Err(Ambiguity::Head);
    }
    let body = match (found.length, found.coding) {
        (Some(length), _) => number(length).map(Body::length).ok_or(Ambiguity::Framing)?,
        // HTTP/1.0 has no codings: some servers read this body, some do not (RFC 9112 §6.1).
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && !http10 => Body::chunked(),
        (None, Some(_)) => return Err(Ambiguity::Framing),
        (None, None) => Body::Empty,
    };
    let connect = method == "CONNECT";
    if connect && body != Body::Empty {
        return Err(Ambiguity::Framing);
    }
    let asks = Asks {
        head: method == "HEAD",
        connect,
        close: found.closes(http10),
        http10,
        expects: found.expects,
        continued: false,
        idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
    };
    Ok((body, asks))
}

/// A target in absolute form names a host as well: if `Host` says another one, servers differ in whom they believe.
fn host_agrees(target: &str, host: Option<&[u8]>) -> bool {
    if target.starts_with('/') {
        return true;
    }
    match (authority(target), host) {
        (Some(authority), Some(host)) => authority.as_bytes().eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// `None`: clients would read it differently. Two equal lengths are no such case.
fn response_framing(status: u16, http10: bool, asks: Asks, headers: &[Header<'_>]) -> Option<(Body, bool)> {
    let found = Framing::of(headers);
    let close = found.closes(http10);
    if never_has_body(status, asks) {
        return Some((Body::Empty, close));
    }
    if found.codings > 1 || found.disguised || (found.coding.is_some() && (found.length.is_some() || http10)) {
        return None;
    }
    if found.lengths > 1 {
        let differs = |header: &&Header<'_>| header.name.eq_ignore_ascii_case("content-length") && Some(header.value) != found.length;
        if headers.iter().any(|header| differs(&header)) {
            return None;
        }
    }
    let body = match (found.coding, found.length) {
        (Some(coding), _) if last_token(coding).eq_ignore_ascii_case(b"chunked") => Body::chunked(),
        (Some(_), _) | (None, None) => Body::UntilClose,
        (None, Some(length)) => Body::length(digits(length)?),
    };
    Some((body, close || body == Body::UntilClose))
}

/// Whether a response ends with its head, whatever its fields say (RFC 9112, 6.3).
pub(super) fn never_has_body(status: u16, asks: Asks) -> bool {
    asks.head || status < 200 || status == 204 || status == 304 || (asks.connect && status / 100 == 2)
}

/// A request's length: no leading zero, which some read as octal or refuse.
fn number(value: &[u8]) -> Option<u64> {
    matches!(value, [b'0'] | [b'1'..=b'9', ..]).then(|| digits(value)).flatten()
}

/// Decimal digits and nothing else, as many as cannot overflow.
fn digits(value: &[u8]) -> Option<u64> {
    let plain = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    plain.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.len() >= token.len() && list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

fn last_token(list: &[u8]) -> &[u8] {
    list.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
}
