//! What a filter decides about one request.

/// Where a request goes. Header edits made on the request go with any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// To the pod, as if there were no filter.
    Pass,
    /// To the session's process, instead of the pod.
    Steal,
    /// To the pod, and a copy to the session's process, whose answer is thrown away.
    Mirror,
    /// To the session's process, which answers; the pod gets a copy, whose answer is thrown away.
    StealAndMirror,
    /// Answered at once, by neither.
    Respond(Reply),
    /// Nothing is answered: the connection (HTTP/1) or the stream (HTTP/2) is reset.
    Abort,
    /// Not yet: [`crate::Filter::decide_by_body`] is asked. [`crate::Request::need_body`] says how much it needs.
    NeedBody,
}

impl Verdict {
    /// An answer with a text body: `Verdict::respond(403, "not today")`.
    pub fn respond(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Verdict::Respond(Reply::new(status).body(body))
    }
}

/// The answer of [`Verdict::Respond`]. `Content-Length` is added for you.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// In this order; names are HTTP tokens, values free of control characters.
    pub headers: Vec<(String, Vec<u8>)>,
    /// At most 256 KiB; empty for 204, 205 and 304.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer without headers or body.
    pub fn new(status: u16) -> Self {
        Reply { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Replaces the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}
