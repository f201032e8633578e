//! JSON Web Tokens (RFC 7519, in the compact form of RFC 7515).
//!
//! To pick requests, reading the claims is enough: [`Token::unverified`]. Where somebody could gain something by making up
//! a token, check it first: `Token::verify`, with the feature `jwt-verify` (HS256, HS384, HS512, RS256, RS384, RS512).
//! What is not used of this does not get into a module.

use std::borrow::Cow;
use std::fmt;

use crate::cookies::trim;
use crate::{json, Request};

#[cfg(feature = "jwt-verify")]
mod verify;
#[cfg(feature = "jwt-verify")]
pub use verify::Key;

/// A longer token is not looked at, in bytes.
pub const LONGEST: usize = 16 << 10;

/// The token of `Authorization: Bearer …`.
pub fn bearer(request: &Request) -> Option<&[u8]> {
    request.header("authorization").and_then(bearer_of)
}

fn bearer_of(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(b"bearer ".len())?;
    let token = trim(token);
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Why a token is none, or not to be believed. The texts hold nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Over [`LONGEST`] bytes.
    TooLong,
    /// Not three parts in base64url, of which the first two are JSON objects.
    NotAToken,
    /// Its algorithm is not one that the key is for. `none` is never one.
    Algorithm,
    /// It asks for extensions that we do not understand (`crit`).
    Critical,
    /// The signature is another one.
    Signature,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Problem::TooLong => "the token is longer than 16 KiB",
            Problem::NotAToken => "not a JSON Web Token",
            Problem::Algorithm => "the token's algorithm is not the key's",
            Problem::Critical => "the token has critical extensions",
            Problem::Signature => "the token's signature does not fit the key",
        })
    }
}

/// A token that has the right form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token<'a> {
    header: Vec<u8>,
    claims: Vec<u8>,
    #[cfg_attr(not(feature = "jwt-verify"), allow(dead_code))]
    signed: &'a [u8],
    #[cfg_attr(not(feature = "jwt-verify"), allow(dead_code))]
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes it apart.
    ///
    /// # Errors
    /// What is no token.
    pub fn read(token: &'a [u8]) -> Result<Self, Problem> {
        if token.len() > LONGEST {
            return Err(Problem::TooLong);
        }
        let mut parts = token.splitn(3, |&byte| byte == b'.');
        let mut part = || parts.next().ok_or(Problem::NotAToken).map(|part| (part, base64url(part)));
        let ((header_text, header), (claims_text, claims), (_, signature)) = (part()?, part()?, part()?);
        let (Some(header), Some(claims), Some(signature)) = (header, claims, signature) else { return Err(Problem::NotAToken) };
        let is_object = |text| json::parse(text).is_ok_and(|value| value.kind() == json::Kind::Object);
        if !is_object(&header) || !is_object(&claims) {
            return Err(Problem::NotAToken);
        }
        let signed = token.get(..header_text.len() + 1 + claims_text.len()).unwrap_or_default();
        Ok(Token { header, claims, signed, signature })
    }

    /// The claims, which anybody may have written: `unverified().get("tenant")`.
    pub fn unverified(&self) -> json::Value<'_> {
        json::parse(&self.claims).unwrap_or(json::Value::NULL)
    }

    /// The header, likewise unverified.
    pub fn header(&self) -> json::Value<'_> {
        json::parse(&self.header).unwrap_or(json::Value::NULL)
    }

    /// `alg`: how it says that it is signed.
    pub fn algorithm(&self) -> Option<Cow<'_, str>> {
        self.header().get("alg")?.as_str()
    }

    /// `kid`: which key it says that it is signed with.
    pub fn key_id(&self) -> Option<Cow<'_, str>> {
        self.header().get("kid")?.as_str()
    }
}

/// Are these claims good at that time (seconds since 1970), as `exp` and `nbf` say? Either may be missing.
pub fn is_current(claims: json::Value<'_>, now: f64) -> bool {
    let time = |name| claims.get(name).map(json::Value::as_f64);
    // A time that is no number is one that cannot be kept.
    time("exp").is_none_or(|expires| expires.is_some_and(|expires| now < expires))
        && time("nbf").is_none_or(|starts| starts.is_some_and(|starts| now >= starts))
}

/// Base64 with the URL's alphabet and without padding (RFC 7515 section 2); strict, so that a token has one spelling.
pub fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let bits = group.iter().try_fold(0u32, |bits, &byte| Some(bits << 6 | u32::from(digit(byte)?)))?;
        // So many whole bytes, and what is left over is zero.
        let (bytes, spare) = match group.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        out.extend((bits >> spare).to_be_bytes().iter().skip(4 - bytes));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendix A.1.
    pub(super) const HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    #[test]
    fn the_rfcs_example_is_read() {
        let token = Token::read(HS256.as_bytes()).unwrap();
        assert_eq!((token.algorithm().unwrap(), token.key_id()), ("HS256".into(), None));
        let claims = token.unverified();
        assert_eq!(claims.get("iss").unwrap().as_str().unwrap(), "joe");
        assert_eq!(claims.get("http://example.com/is_root").unwrap().as_bool(), Some(true));
        assert!(is_current(claims, 1_300_819_379.0) && !is_current(claims, 1_300_819_380.0));
    }

    #[test]
    fn time_is_kept_when_it_is_stated() {
        let at = |claims: &str, now| is_current(json::parse(claims.as_bytes()).unwrap(), now);
        assert!(at("{}", 0.0) && at(r#"{"nbf": 10, "exp": 20.5}"#, 20.0));
        assert!(
            !at(r#"{"nbf": 10}"#, 9.0) && !at(r#"{"exp": 10}"#, 10.0) && !at(r#"{"exp": "never"}"#, 0.0) && !at(r#"{"nbf": null}"#, 9e9)
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for token in [
            "",
            ".",
            "..",
            "a.b.c",
            "e30.e30",
            "e30.W10.",
            "W10.e30.",
            "e30.e30.x",
            "e30.e30.aa=",
            "e30.e30.e30.e30",
            "e30=.e30.",
            "e30.e31.",
            " e30.e30.",
        ] {
            assert_eq!(Token::read(token.as_bytes()), Err(Problem::NotAToken), "{token}");
        }
        assert!(Token::read(b"e30.e30.").is_ok());
        assert_eq!(Token::read(&[b'a'; LONGEST + 1]), Err(Problem::TooLong));
    }

    #[test]
    fn bearers_are_found() {
        assert_eq!(bearer_of(b"Bearer  abc "), Some(&b"abc"[..]));
        assert_eq!(bearer_of(b"bearer abc"), Some(&b"abc"[..]));
        for other in ["", "Bearer", "Bearer ", "Basic abc", "Bearerabc"] {
            assert_eq!(bearer_of(other.as_bytes()), None, "{other}");
        }
    }

    /// RFC 4648, section 10, without the padding.
    #[test]
    fn base64_is_the_rfcs_and_has_one_spelling() {
        for (text, bytes) in
            [("", ""), ("Zg", "f"), ("Zm8", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob"), ("Zm9vYmE", "fooba"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64url(text.as_bytes()).unwrap(), bytes.as_bytes());
        }
        assert_eq!(base64url(b"-_8").unwrap(), [0xfb, 0xff]);
        for bad in ["Z", "Zh", "Zm9", "Zg==", "+/8", "Zm9vY", "Zm 9", "\u{e9}"] {
            assert_eq!(base64url(bad.as_bytes()), None, "{bad}");
        }
    }
}
