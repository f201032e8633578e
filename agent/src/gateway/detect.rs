//! Says from a client's first bytes what it speaks. Pure; the answer is the same however the bytes are cut.

/// The bytes with which HTTP/2 begins (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No method is longer; other protocols' first words may be.
const LONGEST_METHOD: usize = 24;
/// How far a first line without its end is looked at for bytes that no request line has.
const LOOKED_AT: usize = 256;

/// Methods that clients use. A lone word that begins none of them is probably another protocol's.
const METHODS: [&[u8]; 22] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"SEARCH ",
    b"REPORT ",
    b"PURGE ",
    b"NOTIFY ",
    b"SUBSCRIBE ",
    b"UNSUBSCRIBE ",
];

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// A piece of a request line, or of HTTP/2's preface.
    More,
    /// A piece of what could be a request line with a method that we have never seen.
    MoreDoubtful,
    /// Its first line is a request line, though perhaps a bad one.
    Http1,
    Http2,
    Other,
}

/// Looks at all bytes that have come so far.
pub fn first_bytes(bytes: &[u8]) -> Guess {
    if bytes.starts_with(PREFACE) {
        return Guess::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Guess::More;
    }
    // Robust servers skip empty lines before a request; the strict reader will not, but it is HTTP all the same.
    let skipped = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[skipped..];
    let window = &bytes[..bytes.len().min(LONGEST_METHOD + 1)];
    // A tab, too, ends a method for some servers.
    let Some(space) = memchr::memchr2(b' ', b'\t', window) else {
        return match window.iter().all(|byte| is_token(*byte)) && window.len() <= LONGEST_METHOD {
            true if METHODS.iter().any(|method| method.starts_with(window)) => Guess::More,
            true => Guess::MoreDoubtful,
            false => Guess::Other,
        };
    };
    if space == 0 || !window[..space].iter().all(|byte| is_token(*byte)) {
        return Guess::Other;
    }
    let start = &bytes[..bytes.len().min(LOOKED_AT)];
    let binary = start.iter().any(|byte| *byte < b' ' && !matches!(byte, b'\r' | b'\n' | b'\t'));
    match memchr::memchr(b'\n', if binary { start } else { bytes }) {
        Some(end) if memchr::memmem::find(&bytes[..end], b"HTTP/").is_some() => Guess::Http1,
        Some(_) => Guess::Other,
        None if binary && start.len() == LOOKED_AT => Guess::Other,
        None if binary => Guess::MoreDoubtful,
        None => Guess::More,
    }
}

/// Whether a server's first bytes begin as a SETTINGS frame does, with which each HTTP/2 server may greet before its client has
/// said anything (RFC 9113 §3.4).
pub fn greets_as_http2(bytes: &[u8]) -> bool {
    // Its length is of one byte or two for all servers that we know, and a multiple of a setting's.
    let Some([0, high, low, 4, rest @ ..]) = bytes.get(..) else { return false };
    u16::from_be_bytes([*high, *low]).is_multiple_of(6) && rest.iter().take(5).all(|byte| *byte == 0)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_same_for_every_cut() {
        let cases: [(&[u8], Guess); 12] = [
            (b"GET / HTTP/1.1\r\n", Guess::Http1),
            (b"BREW /pot HTTP/1.1\r\n", Guess::Http1),
            (b"GET / HTTP/1.1 \n", Guess::Http1),
            (b"GET\t/ HTTP/1.1\n", Guess::Http1),
            (b"GET / HTTP/\x001.1\n", Guess::Http1),
            (b"\r\nGET / HTTP/3.9\r\n", Guess::Http1),
            (PREFACE, Guess::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Guess::Http1),
            (b"\x16\x03\x01\x02\x00\x01", Guess::Other),
            (b"PING\r\n", Guess::Other),
            (b"EHLO example.com\r\n", Guess::Other),
            (b"*1\r\n$4\r\nPING\r\n", Guess::Other),
        ];
        for (bytes, guess) in cases {
            let decided = (0..=bytes.len()).map(|end| first_bytes(&bytes[..end])).find(|g| !matches!(g, Guess::More | Guess::MoreDoubtful));
            assert_eq!(decided, Some(guess), "{}", bytes.escape_ascii());
            assert_eq!(first_bytes(bytes), guess, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_greeting_of_http2_is_no_other_protocols() {
        assert!(greets_as_http2(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64"));
        assert!(greets_as_http2(b"\0\0\0\x04\0\0"));
        for other in
            [&b"220 mail\r\n"[..], b"SSH-2.0-x", b"J\0\0\0\n8.0.36", b"\0\0\x12", b"\0\0\x12\x04\x01\0\0\0\0", b"\0\0\x13\x04\0\0\0\0\0"]
        {
            assert!(!greets_as_http2(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn an_unknown_word_is_doubtful_and_a_method_is_not() {
        assert_eq!(first_bytes(b"OPT"), Guess::More);
        assert_eq!(first_bytes(b"NATS"), Guess::MoreDoubtful);
        assert_eq!(first_bytes(b""), Guess::More);
    }
}
