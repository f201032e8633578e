//! Cookies of a request (RFC 6265). Read as servers read them: pairs between semicolons, blanks around them dropped, a
//! pair of quotes around a value taken off; names are compared with regard to case. Nothing is decoded.

use crate::Request;

/// The first cookie of that name, in whichever `Cookie` header it is. HTTP/2 clients may send one header a cookie.
pub fn get<'a>(request: &'a Request, name: &str) -> Option<&'a [u8]> {
    request.header_values("cookie").find_map(|header| find(header, name))
}

/// The first cookie of that name in one `Cookie` header.
pub fn find<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pairs(header).find(|(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
}

/// All cookies of one `Cookie` header, in order. What has no `=` or no name is left out, as no server can ask for it.
pub fn pairs(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    header.split(|&byte| byte == b';').filter_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = pair.split_at_checked(equals)?;
        let name = trim(name);
        (!name.is_empty()).then(|| (name, unquoted(trim(value.get(1..).unwrap_or_default()))))
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// Blanks as HTTP has them: space and tab.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(start) = bytes.iter().position(|byte| !blank(byte)) else { return &[] };
    let end = bytes.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    bytes.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Vec<(String, String)> {
        pairs(header.as_bytes()).map(|(n, v)| (String::from_utf8_lossy(n).into(), String::from_utf8_lossy(v).into())).collect()
    }

    #[test]
    fn the_examples_of_rfc_6265_are_read() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("SID=31d4d96e407aad42"), [pair("SID", "31d4d96e407aad42")]);
        assert_eq!(read("SID=31d4d96e407aad42; lang=en-US"), [pair("SID", "31d4d96e407aad42"), pair("lang", "en-US")]);
    }

    #[test]
    fn a_value_keeps_its_equals_signs_and_loses_its_quotes() {
        assert_eq!(find(b"a=b=c==", "a"), Some(&b"b=c=="[..]));
        assert_eq!(find(b"a=\"b c\"", "a"), Some(&b"b c"[..]));
        assert_eq!(find(b"a=\"", "a"), Some(&b"\""[..]));
        assert_eq!(find(b"a=\"\"", "a"), Some(&b""[..]));
    }

    #[test]
    fn names_are_whole_and_case_matters() {
        let header = b"xsid=1; SID=2; sid=3; sid=4";
        assert_eq!(find(header, "sid"), Some(&b"3"[..]));
        assert_eq!(find(header, "SID"), Some(&b"2"[..]));
        assert_eq!(find(header, "id"), None);
    }

    #[test]
    fn nonsense_is_left_out() {
        assert_eq!(read(""), []);
        assert_eq!(read(";;; ;\t;"), []);
        assert_eq!(read("flag; =x; = ;a"), []);
        assert_eq!(find(b"junk;;\xff=\xfe;a=1", "a"), Some(&b"1"[..]));
        assert_eq!(find(b" \t a \t=\t 1 ", "a"), Some(&b"1"[..]));
    }
}
