//! The parts of a request target: its path, its query, and the names and values in that (`application/x-www-form-urlencoded`
//! as browsers and servers read it: WHATWG URL, "urlencoded parsing"). The same reader serves a form's body.
//!
//! Decoding gives bytes, as clients put all sorts of things there; what is no `%XX` stays as it stands.

use std::borrow::Cow;

/// The first value of that name, decoded: `get(request.path(), "page")`.
pub fn get<'a>(target: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    pairs(query(target)?).find(|(own, _)| own.as_ref() == name.as_bytes()).map(|(_, value)| value)
}

/// The path of a request target: without the query, and without scheme and host where a proxy's client sent them.
pub fn path(target: &[u8]) -> &[u8] {
    let target = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    });
    match rest {
        None => target,
        Some(rest) => rest.iter().position(|&byte| byte == b'/').and_then(|slash| rest.get(slash..)).unwrap_or(b"/"),
    }
}

/// What follows the first `?`, if there is one.
pub fn query(target: &[u8]) -> Option<&[u8]> {
    let mark = target.iter().position(|&byte| byte == b'?')?;
    target.get(mark + 1..)
}

/// Names and values of a query or of a form's body, decoded, in order. A name without `=` has an empty value.
pub fn pairs(query: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut parts = pair.splitn(2, |&byte| byte == b'=');
        let mut part = || decode(parts.next().unwrap_or_default(), Plus::IsBlank);
        (part(), part())
    })
}

/// What a `+` means: a blank in queries and forms, itself in paths and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    /// In queries and forms.
    IsBlank,
    /// Elsewhere.
    IsPlus,
}

/// Turns `%XX` into its byte, once. Nothing is copied when there is nothing to turn.
pub fn decode(text: &[u8], plus: Plus) -> Cow<'_, [u8]> {
    if !text.iter().any(|&byte| byte == b'%' || (byte == b'+' && plus == Plus::IsBlank)) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, others @ ..] = rest {
        rest = others;
        out.push(match (first, others) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            (b'+', _) if plus == Plus::IsBlank => b' ',
            (&byte, _) => byte,
        });
    }
    Cow::Owned(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Vec<(String, String)> {
        let text = |bytes: Cow<'_, [u8]>| String::from_utf8_lossy(&bytes).into_owned();
        pairs(query.as_bytes()).map(|(name, value)| (text(name), text(value))).collect()
    }

    /// From the web platform's tests (`url/urlencoded-parser.any.js`).
    #[test]
    fn queries_are_read_as_browsers_read_them() {
        for (query, expected) in [
            ("test", &[("test", "")][..]),
            ("\u{feff}test=\u{feff}", &[("\u{feff}test", "\u{feff}")]),
            ("%EF%BB%BFtest=%EF%BB%BF", &[("\u{feff}test", "\u{feff}")]),
            ("%EF%BF%BF=%EF%BF%BF", &[("\u{ffff}", "\u{ffff}")]),
            ("%FE%FF", &[("\u{fffd}\u{fffd}", "")]),
            ("†&†=x", &[("†", ""), ("†", "x")]),
            ("%C2", &[("\u{fffd}", "")]),
            ("_charset_=windows-1252&test=%C2x", &[("_charset_", "windows-1252"), ("test", "\u{fffd}x")]),
            ("", &[]),
            ("a", &[("a", "")]),
            ("a=b", &[("a", "b")]),
            ("a=", &[("a", "")]),
            ("=b", &[("", "b")]),
            ("&", &[]),
            ("&a", &[("a", "")]),
            ("a&", &[("a", "")]),
            ("a&a", &[("a", ""), ("a", "")]),
            ("a&&b", &[("a", ""), ("b", "")]),
            ("a=b&c=d", &[("a", "b"), ("c", "d")]),
            ("a=b&c=d&", &[("a", "b"), ("c", "d")]),
            ("&&&a=b&&&&c=d&", &[("a", "b"), ("c", "d")]),
            ("a=a&a=b&a=c", &[("a", "a"), ("a", "b"), ("a", "c")]),
            ("a==a", &[("a", "=a")]),
            ("a=a+b+c+d", &[("a", "a b c d")]),
            ("%=a", &[("%", "a")]),
            ("%a=a", &[("%a", "a")]),
            ("%a_=a", &[("%a_", "a")]),
            ("%61=a", &[("a", "a")]),
            ("%61+%4d%4D=", &[("a MM", "")]),
            ("id=0&value=%", &[("id", "0"), ("value", "%")]),
            ("b=%2sf%2a", &[("b", "%2sf*")]),
            ("b=%2%2af%2a", &[("b", "%2*f*")]),
            ("b=%%2a", &[("b", "%*")]),
        ] {
            let expected: Vec<(String, String)> = expected.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            assert_eq!(read(query), expected, "{query:?}");
        }
    }

    #[test]
    fn a_target_is_path_and_query() {
        for (target, own_path, own_query) in [
            ("/", "/", None),
            ("/a/b?c=d?e", "/a/b", Some("c=d?e")),
            ("/a?", "/a", Some("")),
            ("*", "*", None),
            ("http://shop/a?b", "/a", Some("b")),
            ("HTTPS://shop?b", "/", Some("b")),
            ("http://", "/", None),
            ("/http://x", "/http://x", None),
        ] {
            assert_eq!(path(target.as_bytes()), own_path.as_bytes(), "{target}");
            assert_eq!(query(target.as_bytes()), own_query.map(str::as_bytes), "{target}");
        }
    }

    #[test]
    fn a_value_is_found_by_its_decoded_name() {
        let target = b"/x?pa%67e=2&page=3&empty";
        assert_eq!(get(target, "page").unwrap(), &b"2"[..]);
        assert_eq!(get(target, "empty").unwrap(), &b""[..]);
        assert_eq!(get(target, "pag"), None);
        assert_eq!(get(b"/x", "page"), None);
    }

    #[test]
    fn decoding_is_done_once_and_only_where_needed() {
        assert!(matches!(decode(b"a+b", Plus::IsPlus), Cow::Borrowed(b"a+b")));
        assert_eq!(decode(b"%2525+", Plus::IsPlus), &b"%25+"[..]);
        assert_eq!(decode(b"%00%ff", Plus::IsPlus), &b"\x00\xff"[..]);
    }
}
