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
    /// `(token: i64, end: i32) -> i32`, optional: with a piece of the request's body. The verdict if there is none yet.
    pub const ON_REQUEST_BODY: &str = "mirrord_on_request_body";
    /// `(token: i64, end: i32) -> ()`, optional: with a piece of the response's body.
    pub const ON_RESPONSE_BODY: &str = "mirrord_on_response_body";
    /// `(token: i64) -> ()`, optional: the exchange is over.
    pub const ON_END: &str = "mirrord_on_end";
    /// `() -> i32`, optional: the verdict on a connection that is not HTTP.
    pub const ON_CONNECTION: &str = "mirrord_on_connection";
    /// What all names of the ABI begin with. A host refuses a module whose exports begin so and are none that it knows: it
    /// would never call them.
    pub const PREFIX: &str = "mirrord_";
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
    /// `(name: i32, name_len: i32, buf: i32, cap: i32) -> i32`: a property of the session.
    pub const GET_PROPERTY: &str = "get_property";
    /// `(offset: i32, buf: i32, cap: i32) -> i32`: the piece of a body that the hook is about, from that offset on.
    pub const GET_BODY: &str = "get_body";
    /// `(target: i32, op: i32, name: i32, name_len: i32, value: i32, value_len: i32)`.
    pub const EDIT_HEADER: &str = "edit_header";
    /// `(path: i32, len: i32)`: rewrites the request target.
    pub const SET_PATH: &str = "set_path";
    /// `(bytes: i32, len: i32)`: these instead of the piece; further calls add to them.
    pub const REPLACE_BODY: &str = "replace_body";
    /// `(token: i64)`: asks for the response hook, which gets the token back.
    pub const WATCH_RESPONSE: &str = "watch_response";
    /// `(window: i32)`: asks for the request's body, so many bytes at once.
    pub const WATCH_REQUEST_BODY: &str = "watch_request_body";
    /// `(window: i32)`: asks for the response's body.
    pub const WATCH_RESPONSE_BODY: &str = "watch_response_body";
    /// `()`: asks for the end hook.
    pub const WATCH_END: &str = "watch_end";
    /// `(token: i64)`: what the later hooks of this exchange get.
    pub const SET_TOKEN: &str = "set_token";
    /// `(status: i32, body: i32, body_len: i32)`: the answer that goes with [`super::verdict::RESPOND`]; in the response hook
    /// the one that replaces the response.
    pub const RESPOND: &str = "respond";
    /// `(milliseconds: i32)`: how long to hold the request.
    pub const DELAY: &str = "delay";
    /// `()`: resets the exchange, in hooks that return no verdict.
    pub const ABORT: &str = "abort";
    /// `(text: i32, len: i32)`: why this verdict, or why the config is refused.
    pub const REASON: &str = "reason";
    /// `(level: i32, text: i32, len: i32)`.
    pub const LOG: &str = "log";
    /// `(key: i32, key_len: i32, buf: i32, cap: i32) -> i32`: a value of the filter's state.
    pub const GET_STATE: &str = "get_state";
    /// `(key: i32, key_len: i32, value: i32, value_len: i32, ttl: i32)`: keeps a value so many milliseconds.
    pub const SET_STATE: &str = "set_state";
    /// `(key: i32, key_len: i32, delta: i64, ttl: i32) -> i64`: adds to a number, which begins as 0 and keeps its time.
    pub const ADD_STATE: &str = "add_state";
    /// `(key: i32, key_len: i32)`.
    pub const REMOVE_STATE: &str = "remove_state";
    /// `() -> i64`: 64 random bits, the same sequence for the same seed.
    pub const RANDOM: &str = "random";
    /// `() -> i64`: milliseconds since 1970.
    pub const NOW: &str = "now";
    /// `(name: i32, name_len: i32, delta: i64)`: adds to a counter.
    pub const COUNT: &str = "count";
    /// `(name: i32, name_len: i32, value: i64)`: an observation of a histogram.
    pub const OBSERVE: &str = "observe";
}

/// First argument of [`import::GET`].
pub mod what {
    /// The filter's config, as the user wrote it. In every hook.
    pub const CONFIG: i32 = 0;
    /// The request's method. This, the target and the protocol as long as the request is undecided.
    pub const METHOD: i32 = 1;
    /// The request target as sent: path and query.
    pub const PATH: i32 = 2;
    /// The client's address, `192.0.2.7:50312` or `[2001:db8::7]:50312`. Also of a connection.
    pub const CLIENT: i32 = 3;
    /// The address that the client connected to, in the same form.
    pub const DESTINATION: i32 = 4;
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub const PROTOCOL: i32 = 5;
    /// The server's name that a TLS client asks for. This and the following in the connection hook only.
    pub const SNI: i32 = 6;
    /// The protocols that a TLS client offers, separated by commas.
    pub const ALPN: i32 = 7;
    /// The first bytes that the client sent.
    pub const FIRST_BYTES: i32 = 8;
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
    /// To the session, which answers; the pod gets a copy, whose answer is thrown away.
    pub const STEAL_AND_MIRROR: i32 = 4;
    /// Reset: the connection (HTTP/1) or the stream (HTTP/2).
    pub const ABORT: i32 = 5;
    /// Not yet: the body hook is called, with as much as [`super::import::WATCH_REQUEST_BODY`] asked for, and has to decide.
    pub const NEED_BODY: i32 = 6;
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
    /// The window of who asks for none.
    pub const USUAL_WINDOW: usize = 64 << 10;
    /// What may replace one piece of a body.
    pub const REPLACEMENT: usize = 2 << 20;
    /// A rewritten request target.
    pub const PATH: usize = 8 << 10;
    /// A key of the state.
    pub const STATE_KEY: usize = 256;
    /// A value of the state.
    pub const STATE_VALUE: usize = 8 << 10;
    /// Entries of the state, a number.
    pub const STATE_ENTRIES: usize = 8192;
    /// Keys and values of the state together.
    pub const STATE_BYTES: usize = 2 << 20;
    /// How long the state keeps anything at most, in milliseconds: a day.
    pub const STATE_TTL: u64 = 86_400_000;
    /// Counters and histograms of a filter, a number.
    pub const METRICS: usize = 64;
    /// The name of a counter or histogram: letters, digits and `_`, no digit first.
    pub const METRIC_NAME: usize = 64;
    /// A delay; what is longer is shortened.
    pub const DELAY: core::time::Duration = core::time::Duration::from_secs(30);
}

/// Headers that say where a message ends or what becomes of the connection. They belong to the relay: a filter that
/// changed one could make two readers see two different messages.
pub const UNTOUCHABLE: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Whether a header's name is one of [`UNTOUCHABLE`], in any case.
pub fn is_untouchable(name: &[u8]) -> bool {
    UNTOUCHABLE.iter().any(|fixed| name.eq_ignore_ascii_case(fixed.as_bytes()))
}

/// Why a header edit is refused, or nothing. `name` must be a token (RFC 9110 section 5.6.2) and none of
/// [`UNTOUCHABLE`], `value` free of control characters other than tab (section 5.5).
pub fn edit_problem(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Some("the header's name is not an HTTP token");
    }
    if is_untouchable(name) {
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

/// Why a request target cannot be rewritten to this, or nothing.
pub fn path_problem(path: &[u8]) -> Option<&'static str> {
    if path.first() != Some(&b'/') {
        return Some("the path does not begin with /");
    }
    if path.len() > limit::PATH {
        return Some("the path is longer than 8 KiB");
    }
    if path.iter().any(|&byte| !(0x21..=0x7e).contains(&byte) || byte == b'#') {
        return Some("the path holds white space, a control character, # or a byte outside of ASCII; encode it as %XX");
    }
    None
}

/// Why a counter or histogram cannot have this name, or nothing.
pub fn metric_problem(name: &[u8]) -> Option<&'static str> {
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if name.is_empty() || name.len() > limit::METRIC_NAME || name[0].is_ascii_digit() || !name.iter().all(fine) {
        return Some("a metric's name is 1 to 64 letters, digits and _, and does not begin with a digit");
    }
    None
}

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2), which methods and names of headers are.
pub fn is_token(byte: u8) -> bool {
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
    fn a_path_stays_one_word_of_the_request_line() {
        for path in ["/", "/a?b=c&d", "/%20", "//x"] {
            assert_eq!(path_problem(path.as_bytes()), None, "{path}");
        }
        let long = format!("/{}", "a".repeat(limit::PATH));
        for path in ["", "*", "a", "http://a/", "/a b", "/a\r\nb: c", "/\t", "/a#b", "/\u{e9}", "/\x7f", &long] {
            assert!(path_problem(path.as_bytes()).is_some(), "{path:?}");
        }
    }

    #[test]
    fn metrics_have_plain_names() {
        assert_eq!(metric_problem(b"retries_total2"), None);
        for name in ["", "2a", "a-b", "a{b=\"c\"}", "a b", "\u{e9}", &"a".repeat(65)] {
            assert!(metric_problem(name.as_bytes()).is_some(), "{name:?}");
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
