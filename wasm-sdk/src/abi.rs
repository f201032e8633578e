//! The filter ABI, version 1: names, numbers, limits and what a header edit may hold.
//!
//! The host (`mirrord-filters`) and the guest (the rest of this crate) both take them from here, so they cannot drift
//! apart. `docs/abi.md` says the same in prose, for authors in other languages.

/// The version that this crate speaks.
pub const VERSION: u32 = 1;

/// The module name of all imports.
pub const MODULE: &str = "mirrord";

/// What a filter exports.
pub mod export {
    /// Its linear memory.
    pub const MEMORY: &str = "memory";
    /// `() -> ()`, never called: says which ABI the module speaks.
    pub const VERSION_1: &str = "mirrord_abi_version_1";
    /// What the markers of all versions begin with.
    pub const VERSION_PREFIX: &str = "mirrord_abi_version_";
    /// `() -> ()`, optional: called once, first, if it is there (WASI reactors have it).
    pub const INITIALIZE: &str = "_initialize";
    /// `() -> i32`: 0 accepts the config, anything else refuses it.
    pub const CONFIGURE: &str = "mirrord_configure";
    /// `() -> i32`: the verdict on one request, from its head.
    pub const ON_REQUEST: &str = "mirrord_on_request";
    /// `(token: i64) -> ()`, optional: may edit the head of a response that the filter asked to see.
    pub const ON_RESPONSE: &str = "mirrord_on_response";
    /// Names of a later version. A host of version 1 refuses a module that has them: it would never call them.
    pub const RESERVED: [&str; 2] = ["mirrord_on_request_body", "mirrord_on_response_body"];
}

/// What a filter may import from [`MODULE`]. Types in the comments; all pointers are offsets into the guest's memory.
pub mod import {
    /// `(what: i32, buf: i32, cap: i32) -> i32`: see [`super::what`].
    pub const GET: &str = "get";
    /// `(name: i32, name_len: i32, nth: i32, buf: i32, cap: i32) -> i32`: the nth header of that name, from 0.
    pub const GET_HEADER: &str = "get_header";
    /// `(index: i32, buf: i32, cap: i32) -> i64`: the header at that index, name and value one after the other.
    pub const GET_HEADER_AT: &str = "get_header_at";
    /// `() -> i32`: the response's status; -1 in other hooks.
    pub const GET_STATUS: &str = "get_status";
    /// `(target: i32, op: i32, name: i32, name_len: i32, value: i32, value_len: i32)`.
    pub const EDIT_HEADER: &str = "edit_header";
    /// `(token: i64)`: asks for the response hook, which gets the token back.
    pub const WATCH_RESPONSE: &str = "watch_response";
    /// `(status: i32, body: i32, body_len: i32)`: the answer that goes with [`super::verdict::RESPOND`].
    pub const RESPOND: &str = "respond";
    /// `(text: i32, len: i32)`: why this verdict, or why the config is refused.
    pub const REASON: &str = "reason";
    /// `(level: i32, text: i32, len: i32)`.
    pub const LOG: &str = "log";
}

/// First argument of [`import::GET`].
pub mod what {
    /// The filter's config, as the user wrote it. In every hook.
    pub const CONFIG: i32 = 0;
    /// The request's method. This and the following in the request hook only.
    pub const METHOD: i32 = 1;
    /// The request target as sent: path and query.
    pub const PATH: i32 = 2;
    /// The client's address, `192.0.2.7:50312` or `[2001:db8::7]:50312`.
    pub const CLIENT: i32 = 3;
    /// The address that the client connected to, in the same form.
    pub const DESTINATION: i32 = 4;
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub const PROTOCOL: i32 = 5;
}

/// What the request hook returns.
pub mod verdict {
    /// To the pod, as if there were no filter.
    pub const PASS: i32 = 0;
    /// To the session, instead of the pod.
    pub const STEAL: i32 = 1;
    /// To the pod, and a copy to the session.
    pub const MIRROR: i32 = 2;
    /// Answered here, with what [`super::import::RESPOND`] was given.
    pub const RESPOND: i32 = 3;
}

/// First argument of [`import::EDIT_HEADER`].
pub mod target {
    /// The request, on its way to wherever the verdict sends it. In the request hook only.
    pub const REQUEST: i32 = 0;
    /// Its response; with [`super::verdict::RESPOND`], the headers of that answer.
    pub const RESPONSE: i32 = 1;
}

/// Second argument of [`import::EDIT_HEADER`].
pub mod op {
    /// Replace all headers of that name by one, or add it.
    pub const SET: i32 = 0;
    /// Add one more.
    pub const APPEND: i32 = 1;
    /// Remove all of that name; the value is not looked at.
    pub const REMOVE: i32 = 2;
}

/// First argument of [`import::LOG`].
pub mod level {
    /// Something is wrong. A panic's message travels so.
    pub const ERROR: i32 = 0;
    /// Something looks wrong.
    pub const WARN: i32 = 1;
    /// Worth knowing.
    pub const INFO: i32 = 2;
    /// For the filter's author.
    pub const DEBUG: i32 = 3;
}

/// Returned by the getters for what is not there.
pub const ABSENT: i32 = -1;

/// The sizes within which a filter stays; in bytes unless they say otherwise.
pub mod limit {
    /// A module.
    pub const MODULE: usize = 32 << 20;
    /// A config.
    pub const CONFIG: usize = 64 << 10;
    /// Header edits of one hook call and target, a number.
    pub const EDITS: usize = 64;
    /// Names and values of all edits of one hook call together.
    pub const EDIT_BYTES: usize = 64 << 10;
    /// The body of a `respond` answer.
    pub const BODY: usize = 256 << 10;
    /// A reason; what is longer is cut.
    pub const REASON: usize = 256;
    /// A log line; what is longer is cut.
    pub const LOG: usize = 1024;
    /// A body's window: what a filter sees of it at once.
    pub const BODY_WINDOW: usize = 1 << 20;
    /// A delay; what is longer is shortened.
    pub const DELAY: core::time::Duration = core::time::Duration::from_secs(30);
}

/// Headers that say where a message ends or what becomes of the connection. They belong to the relay: a filter that
/// changed one could make two readers see two different messages.
pub const UNTOUCHABLE: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Why a header edit is refused, or nothing. `name` must be a token (RFC 9110 section 5.6.2) and none of
/// [`UNTOUCHABLE`], `value` free of control characters other than tab (section 5.5).
pub fn edit_problem(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Some("the header's name is not an HTTP token");
    }
    if UNTOUCHABLE.iter().any(|fixed| name.eq_ignore_ascii_case(fixed.as_bytes())) {
        return Some("this header frames the message and cannot be edited");
    }
    if value.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
        return Some("the header's value holds a control character");
    }
    None
}

/// Why an answer cannot be sent, or nothing.
pub fn answer_problem(status: i32, body_len: usize) -> Option<&'static str> {
    if !(200..=599).contains(&status) {
        return Some("the status is not in 200..=599");
    }
    if body_len > limit::BODY {
        return Some("the body is longer than 256 KiB");
    }
    if matches!(status, 204 | 205 | 304) && body_len != 0 {
        return Some("an answer with this status has no body");
    }
    None
}

pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_edits_are_fine() {
        for (name, value) in [("x-a", "b"), ("Cookie", "a=1;\tb=2"), ("x", ""), ("!#$%&'*+-.^_`|~", "caf\u{e9}")] {
            assert_eq!(edit_problem(name.as_bytes(), value.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn nothing_that_could_split_or_reframe_a_message_gets_through() {
        for (name, value) in [
            ("", "v"),
            ("a b", "v"),
            ("a:", "v"),
            (":path", "/"),
            ("a\r\nb", "v"),
            ("a", "v\r\nb: c"),
            ("a", "v\nb"),
            ("a", "v\0"),
            ("a", "\x7f"),
            ("\u{e9}", "v"),
            ("Content-Length", "0"),
            ("TRANSFER-ENCODING", "chunked"),
            ("Connection", "close"),
        ] {
            assert!(edit_problem(name.as_bytes(), value.as_bytes()).is_some(), "{name:?}: {value:?}");
        }
    }

    #[test]
    fn answers_are_whole_final_responses() {
        assert_eq!(answer_problem(200, 5), None);
        assert_eq!(answer_problem(304, 0), None);
        for (status, body) in [(101, 0), (0, 0), (-1, 0), (600, 0), (204, 1), (200, limit::BODY + 1)] {
            assert!(answer_problem(status, body).is_some(), "{status} {body}");
        }
    }
}
