//! A piece of a body, as a filter that follows it sees it.

use crate::abi::what;
use crate::source::Source;

/// A piece of a request's or a response's body: at most the window that was asked for, less at the body's end.
pub struct Body {
    source: Source,
    token: u64,
    end: bool,
}

impl Body {
    pub(crate) fn new(source: Source, token: u64, end: bool) -> Self {
        Body { source, token, end }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn into_source(self) -> Source {
        self.source
    }

    /// The exchange's token ([`crate::Request::set_token`]).
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The bytes, decoded from their framing (but not from any `Content-Encoding`).
    pub fn bytes(&self) -> &[u8] {
        self.source.body()
    }

    /// Whether this piece is the last one. It may be empty.
    pub fn is_end(&self) -> bool {
        self.end
    }

    /// Puts these bytes (possibly none) in the piece's place, at most 2 MiB. What is kept back now can be given with a later
    /// piece. Called again, it adds to them. Without a call the piece goes on as it came.
    pub fn replace(&mut self, bytes: impl AsRef<[u8]>) {
        self.source.replace_body(bytes.as_ref());
    }

    /// Resets the exchange: nothing more goes on.
    pub fn abort(&mut self) {
        self.source.abort();
    }
}

/// A connection that is not HTTP, after its first bytes.
pub struct Connection {
    source: Source,
}

impl Connection {
    pub(crate) fn new(source: Source) -> Self {
        Connection { source }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn into_source(self) -> Source {
        self.source
    }

    /// The client's address, `192.0.2.7:50312` or `[2001:db8::7]:50312`.
    pub fn client(&self) -> &str {
        self.text(what::CLIENT)
    }

    /// The address that the client connected to, in the same form.
    pub fn destination(&self) -> &str {
        self.text(what::DESTINATION)
    }

    /// The name that a TLS client asks for.
    pub fn sni(&self) -> Option<&str> {
        core::str::from_utf8(self.source.get(what::SNI)?).ok()
    }

    /// The protocols that a TLS client offers, in its order.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let all = self.source.get(what::ALPN).unwrap_or_default();
        all.split(|&byte| byte == b',').filter(|protocol| !protocol.is_empty())
    }

    /// What the client has sent so far.
    pub fn first_bytes(&self) -> &[u8] {
        self.source.get(what::FIRST_BYTES).unwrap_or_default()
    }

    /// Says why, for `mirrord explain` and the logs.
    pub fn reason(&mut self, text: impl AsRef<str>) {
        self.source.reason(text.as_ref());
    }

    fn text(&self, what: i32) -> &str {
        self.source.get(what).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}
