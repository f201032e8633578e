//! A request's and a response's head as a filter sees them.
//!
//! Reading shows the message as it came; edits are noted and take effect when the hook returns, so a filter never sees
//! its own. Where the bytes lie is the business of `source`: behind host calls in WebAssembly, in memory elsewhere.

use std::time::Duration;

use crate::abi::{op, target, what};
use crate::source::Source;
use crate::{Reply, Verdict};

/// The head of one request.
pub struct Request {
    source: Source,
    token: u64,
}

impl Request {
    pub(crate) fn new(source: Source, token: u64) -> Self {
        Request { source, token }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn into_source(self) -> Source {
        self.source
    }

    /// `GET`, `POST`, …; case matters.
    pub fn method(&self) -> &str {
        self.text(what::METHOD)
    }

    /// The request target as sent, query included: `/cart?id=3`. Bytes, because clients send all sorts of things.
    pub fn path(&self) -> &[u8] {
        self.source.get(what::PATH).unwrap_or_default()
    }

    /// The first header of that name, compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.source.header(name, 0)
    }

    /// The same as text; nothing if it is not UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// The values of all headers of that name, in order.
    pub fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        (0..).map_while(move |nth| self.source.header(name, nth))
    }

    /// All headers, in the order and spelling in which they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        (0..).map_while(|index| self.source.header_at(index))
    }

    /// The client's address, `192.0.2.7:50312` or `[2001:db8::7]:50312`.
    pub fn client(&self) -> &str {
        self.text(what::CLIENT)
    }

    /// The address that the client connected to, in the same form.
    pub fn destination(&self) -> &str {
        self.text(what::DESTINATION)
    }

    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub fn protocol(&self) -> &str {
        self.text(what::PROTOCOL)
    }

    /// Replaces all headers of that name by one, or adds it.
    ///
    /// The edits fail the filter (the request then passes unedited) when `name` is no HTTP token or says how the
    /// message is framed ([`crate::abi::UNTOUCHABLE`]), or when `value` holds a control character.
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.source.edit(target::REQUEST, op::SET, name, value.as_ref());
    }

    /// Adds one more header of that name.
    pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.source.edit(target::REQUEST, op::APPEND, name, value.as_ref());
    }

    /// Removes all headers of that name.
    pub fn remove_header(&mut self, name: &str) {
        self.source.edit(target::REQUEST, op::REMOVE, name, b"");
    }

    /// Decides now that the response will carry this header, and no other of that name.
    pub fn set_response_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.source.edit(target::RESPONSE, op::SET, name, value.as_ref());
    }

    /// Decides now that the response will carry one more header of that name.
    pub fn append_response_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.source.edit(target::RESPONSE, op::APPEND, name, value.as_ref());
    }

    /// Decides now that the response will carry no header of that name.
    pub fn remove_response_header(&mut self, name: &str) {
        self.source.edit(target::RESPONSE, op::REMOVE, name, b"");
    }

    /// Sends it to another path (and query) of wherever the verdict sends it. It begins with `/`; what is not plain ASCII is
    /// encoded as `%XX`.
    pub fn set_path(&mut self, path: impl AsRef<[u8]>) {
        self.source.set_path(path.as_ref());
    }

    /// Holds this request, and no other, for that long before it goes on, at most 30 s.
    pub fn delay(&mut self, time: Duration) {
        self.source.delay(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    }

    /// The verdict for "it depends on the body": [`crate::Filter::decide_by_body`] gets as many bytes of it (at most 1 MiB),
    /// or all of it if that is less. Until then the request is held. What is to be watched after the verdict is asked for there.
    #[must_use]
    pub fn need_body(&mut self, window: usize) -> Verdict {
        self.source.watch_request_body(window);
        Verdict::NeedBody
    }

    /// What the later hooks of this exchange get as its token: something that names it to you. Requests are interleaved.
    pub fn set_token(&mut self, token: u64) {
        self.token = token;
        self.source.set_token(token);
    }

    /// What was set, also in [`crate::Filter::decide_by_body`].
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Asks for [`crate::Filter::on_response`] to be called for this request's response. The token is yours: it comes
    /// back as [`Response::token`].
    pub fn watch_response(&mut self, token: u64) {
        self.token = token;
        self.source.watch_response(token);
    }

    /// Asks for [`crate::Filter::on_request_body`], which gets the body from its start in pieces of that many bytes, at most
    /// 1 MiB, on its way to wherever the verdict sends it.
    pub fn watch_request_body(&mut self, window: usize) {
        self.source.watch_request_body(window);
    }

    /// Asks for [`crate::Filter::on_response_body`] in the same way.
    pub fn watch_response_body(&mut self, window: usize) {
        self.source.watch_response_body(window);
    }

    /// Asks for [`crate::Filter::on_end`] once the exchange is over, however it ended.
    pub fn watch_end(&mut self) {
        self.source.watch_end();
    }

    /// Says why, for `mirrord explain` and the logs: at most 256 bytes, no credentials.
    pub fn reason(&mut self, text: impl AsRef<str>) {
        self.source.reason(text.as_ref());
    }

    fn text(&self, what: i32) -> &str {
        self.source.get(what).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// The head of the response to an earlier request.
pub struct Response {
    source: Source,
    token: u64,
}

impl Response {
    pub(crate) fn new(source: Source, token: u64) -> Self {
        Response { source, token }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn into_source(self) -> Source {
        self.source
    }

    /// What was given to [`Request::watch_response`]. After a failure of the filter it may be one that an earlier
    /// instance gave out: treat an unknown token as "nothing to do".
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The status code, 200 to 599.
    pub fn status(&self) -> u16 {
        self.source.status()
    }

    /// The first header of that name, compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.source.header(name, 0)
    }

    /// The values of all headers of that name, in order.
    pub fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        (0..).map_while(move |nth| self.source.header(name, nth))
    }

    /// All headers, in the order and spelling in which they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        (0..).map_while(|index| self.source.header_at(index))
    }

    /// Replaces all headers of that name by one, or adds it; same rules as [`Request::set_header`].
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.source.edit(target::RESPONSE, op::SET, name, value.as_ref());
    }

    /// Answers with this instead of the response, whose edits are forgotten.
    ///
    /// # Panics
    /// Natively, on an answer that the agent would refuse.
    pub fn respond(&mut self, reply: &Reply) {
        self.source.respond(reply);
    }

    /// Resets the exchange instead of passing the response on.
    pub fn abort(&mut self) {
        self.source.abort();
    }

    /// Asks for [`crate::Filter::on_response_body`], in pieces of that many bytes; replaces what was asked for with the
    /// request.
    pub fn watch_body(&mut self, window: usize) {
        self.source.watch_response_body(window);
    }

    /// Says why, for `mirrord explain` and the logs.
    pub fn reason(&mut self, text: impl AsRef<str>) {
        self.source.reason(text.as_ref());
    }

    /// Adds one more header of that name.
    pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.source.edit(target::RESPONSE, op::APPEND, name, value.as_ref());
    }

    /// Removes all headers of that name.
    pub fn remove_header(&mut self, name: &str) {
        self.source.edit(target::RESPONSE, op::REMOVE, name, b"");
    }
}
