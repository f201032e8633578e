//! What is not told: credentials. By name, since a value does not say what it is.

use std::borrow::Cow;

use mirrord_protocol::records::MASK;

use super::text::Text;

/// Headers whose whole value is a credential.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
/// A header or a query's field is one too if its name, in lower case and without `-` and `_`, has one of these in it.
const PARTS: [&str; 10] = ["token", "secret", "password", "passwd", "apikey", "accesskey", "privatekey", "signature", "credential", "jwt"];
/// Likewise, if its name is one of these.
const NAMES: [&str; 8] = ["auth", "key", "pwd", "pass", "sig", "sid", "session", "sessionid"];

/// Whether a header's value is a credential.
pub fn is_credential(header: &[u8]) -> bool {
    HEADERS.iter().any(|name| header.eq_ignore_ascii_case(name.as_bytes())) || is_secret(header)
}

fn is_secret(name: &[u8]) -> bool {
    let plain: String = name.iter().filter(|byte| !b"-_".contains(byte)).map(|byte| byte.to_ascii_lowercase() as char).collect();
    let bare = plain.strip_prefix('x').unwrap_or(&plain);
    PARTS.iter().any(|part| plain.contains(part)) || NAMES.contains(&plain.as_str()) || NAMES.contains(&bare)
}

/// A request's target with what looks like a credential masked.
pub fn target(target: &[u8]) -> Cow<'_, [u8]> {
    let start = without_user(target);
    let query = memchr::memchr(b'?', target);
    if start.is_none() && query.is_none() {
        return Cow::Borrowed(target);
    }
    let mut out = Vec::with_capacity(target.len());
    let end = query.map_or(target.len(), |at| at + 1);
    copy_without_user(&target[..end], |part| out.extend_from_slice(part));
    for (index, field) in target[end..].split(|byte| *byte == b'&').enumerate().filter(|_| query.is_some()) {
        if index > 0 {
            out.push(b'&');
        }
        match field.iter().position(|byte| *byte == b'=') {
            Some(at) if is_secret(&field[..at]) => {
                out.extend_from_slice(&field[..=at]);
                out.extend_from_slice(MASK.as_bytes());
            }
            _ => out.extend_from_slice(field),
        }
    }
    Cow::Owned(out)
}

/// The same with every value of the query masked, for what is kept.
#[inline]
pub fn target_into<const N: usize>(target: &[u8], text: &mut Text<N>) {
    // Almost all begin with a slash, and most have no query.
    match memchr::memchr(b'?', target) {
        None if target.first() == Some(&b'/') => text.set(target),
        query => masked_into(target, query, text),
    }
}

#[cold]
#[inline(never)]
fn masked_into<const N: usize>(target: &[u8], query: Option<usize>, text: &mut Text<N>) {
    text.set(b"");
    let end = query.map_or(target.len(), |at| at + 1);
    copy_without_user(&target[..end], |part| text.push(part));
    for (index, field) in target[end..].split(|byte| *byte == b'&').enumerate().filter(|_| query.is_some()) {
        if text.is_full() {
            return;
        }
        if index > 0 {
            text.push(b"&");
        }
        match field.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                text.push(&field[..=at]);
                text.push(MASK.as_bytes());
            }
            // `?TOKEN`: it may as well be a value.
            None if field.is_empty() => {}
            None => text.push(MASK.as_bytes()),
        }
    }
}

fn copy_without_user(target: &[u8], mut out: impl FnMut(&[u8])) {
    match without_user(target) {
        Some((scheme, rest)) => {
            out(&target[..scheme]);
            out(MASK.as_bytes());
            out(&target[rest..]);
        }
        None => out(target),
    }
}

/// `scheme://USER:PASSWORD@host/…`: where the user begins and the `@` stands.
fn without_user(target: &[u8]) -> Option<(usize, usize)> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let start = memchr::memmem::find(target, b"://")? + 3;
    let authority = target[start..].iter().position(|byte| b"/?#".contains(byte)).map_or(target.len(), |end| start + end);
    let at = target[start..authority].iter().rposition(|byte| *byte == b'@')?;
    Some((start, start + at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(of: &str) -> String {
        let mut text = Text::<64>::default();
        target_into(of.as_bytes(), &mut text);
        text.to_text()
    }

    fn shown(of: &str) -> String {
        String::from_utf8(target(of.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn credentials_are_known_by_their_names() {
        for name in ["Authorization", "COOKIE", "x-api-key", "X-Auth-Token", "x-amz-security-token", "client_secret", "X-Session-Id"] {
            assert!(is_credential(name.as_bytes()), "{name}");
        }
        for name in ["content-type", "x-user", "host", "accept", "x-request-id", "keep-alive", "author", "x-monkey"] {
            assert!(!is_credential(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_shown_keeps_what_is_no_credential() {
        assert_eq!(shown("/a/b"), "/a/b");
        assert_eq!(shown("/?item=7&token=abc&x"), "/?item=7&token=…&x");
        assert_eq!(shown("/?"), "/?");
        assert_eq!(shown("http://u:p@h/a?api_key=1"), "http://…@h/a?api_key=…");
        assert_eq!(shown("/a@b://c@d"), "/a@b://c@d");
    }

    #[test]
    fn what_is_kept_has_no_value_of_a_query() {
        assert_eq!(kept("/a"), "/a");
        assert_eq!(kept("*"), "*");
        assert_eq!(kept("/?item=7&token=abc&secret&"), "/?item=…&token=…&…&");
        assert_eq!(kept("http://u:p@h/?a=1"), "http://…@h/?a=…");
        let long = kept(&format!("/{}", "?a=1&".repeat(30)));
        assert!(long.ends_with('…') && long.len() <= 64 && !long.contains('1'), "{long}");
    }
}
