//! What few exchanges need: heads that are edited, and filters that follow them after the verdict, whose windows bodies go
//! through (`passage.rs`). All others never come here.

use std::{borrow::Cow, task::Context};

use mirrord_filters::{Edit, LocalResponse, ResponseDecision, ResponseParts, Side};
use mirrord_protocol::records::End;

use super::{
    edit,
    framing::Body,
    head::{Request, Response, never_has_body},
    passage::{Passage, Stop},
    relay::{Down, Exit, Relay, To, Up},
};
use crate::gateway::{
    link::Link,
    room::Budget,
    sock::Sock,
    steer::{Extra, Follow, Surroundings},
};

/// What edits add to a head mostly fits in so many bytes.
const ROOM_FOR_EDITS: usize = 256;
/// So much of a response that a filter replaces is read away, so that its connection can be used again.
const DISCARDED: u64 = 1 << 20;

/// One exchange's own.
#[derive(Debug, Default)]
pub(super) struct Special {
    request_edits: Vec<Edit>,
    path: Option<Vec<u8>>,
    response_edits: Vec<Edit>,
    /// The filters that follow the exchange.
    follow: Option<Box<dyn Follow>>,
    /// The request's body on its way through them.
    pub upload: Option<Passage>,
    /// The response's.
    pub download: Option<Passage>,
    /// The client reads the response to the connection's end.
    closes: bool,
    /// The head as it came, as long as the request can go to somebody else.
    pub replay: Vec<u8>,
    /// The request itself, to be replayed.
    pub request: Option<Request>,
    /// The session's connection served a request before: its end may only mean that it was idle for too long.
    pub reused: bool,
    /// What the session may have under way of it.
    pub budget: Option<Budget>,
}

impl Special {
    pub(super) fn new(extra: Extra) -> Self {
        let Extra { request_edits, path, response_edits, follow, delay: _, pod_copy: _ } = extra;
        Special { request_edits, path, response_edits, follow, ..Special::default() }
    }

    /// What the filters say about a response's head.
    pub(super) fn judge(&mut self, response: &ResponseParts<'_>) -> ResponseDecision {
        if response.status < 200 && response.status != 101 {
            return ResponseDecision::default();
        }
        let mut decision = match self.follow.as_deref_mut().filter(|follow| follow.wants_response()) {
            Some(follow) => follow.on_response(response),
            None => ResponseDecision::default(),
        };
        if !self.response_edits.is_empty() {
            let mut edits = self.response_edits.clone();
            edits.append(&mut decision.edits);
            decision.edits = edits;
        }
        decision
    }
}

impl<S: Surroundings> Relay<S> {
    /// The bytes with which a request begins that do not go on as they came: its head, and what goes on of its body's beginning.
    pub(super) fn special_start(&mut self, head: &[u8], rest: &[u8], request: Request) -> Result<Option<Vec<u8>>, Stop> {
        let Some(special) = self.special.as_deref_mut() else { return Ok(None) };
        let path = special.path.as_deref().filter(|_| !request.asks.connect);
        let mut edited = Vec::new();
        let is_edited = path.is_some() || !special.request_edits.is_empty();
        if is_edited {
            edited.reserve(head.len() + rest.len() + ROOM_FOR_EDITS);
            edit::edited(head, &special.request_edits, path, &mut edited);
        }
        let follow = special.follow.as_deref_mut().filter(|follow| follow.window(Side::Request).is_some() && !request.body.is_done());
        let Some(follow) = follow else {
            edited.extend_from_slice(rest);
            return Ok(is_edited.then_some(edited));
        };
        let head = if is_edited { edited.as_slice() } else { head };
        let (mut out, mut body) = (Vec::new(), request.body);
        let mut passage = Passage::new(Side::Request, follow, head, body, request.asks.http10, &mut out);
        passage.take(rest, &mut body, follow, &mut out)?;
        let waits = passage.is_held() && rest.is_empty();
        special.upload = (!body.is_done()).then_some(passage);
        if waits {
            self.say_continue(request);
        }
        Ok(Some(out))
    }

    /// A piece of a request's body that filters look at.
    pub(super) fn special_upload(&mut self, cx: &mut Context<'_>, mut body: Body, data: Cow<'_, [u8]>) -> Result<bool, Exit> {
        let Some(Special { upload: Some(passage), follow: Some(follow), .. }) = self.special.as_deref_mut() else { return Ok(false) };
        let mut out = Vec::new();
        let taken = match passage.take(&data, &mut body, &mut **follow, &mut out) {
            Ok(taken) => taken,
            Err(Stop::BadChunk) => {
                self.input = data.into_owned();
                return self.broken_body().map(|()| true);
            }
            Err(Stop::Abort) => {
                self.cut();
                return Ok(true);
            }
        };
        if body.is_done() {
            if let Some(special) = self.special.as_deref_mut() {
                special.upload = None;
            }
            if self.down == Down::Idle {
                self.special = None;
            }
        }
        self.upload(cx, body, &data, taken, &out);
        Ok(true)
    }

    /// Sends on what is held of a request's body as it came. `false`: it cannot go on so.
    pub(super) fn give_back(&mut self) -> bool {
        let Some(mut passage) = self.special.as_deref_mut().and_then(|special| special.upload.take()) else { return true };
        match passage.give_back() {
            Some(mut raw) => {
                self.to_up.append(&mut raw);
                true
            }
            None => false,
        }
    }

    /// A response whose head ends at `end` of `data` and begins at `at`, after interim ones; `decision` is about it.
    pub(super) fn special_response(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Sock,
        response: Response,
        decision: ResponseDecision,
        data: &[u8],
        at: usize,
    ) -> Result<bool, Exit> {
        let end = at + response.len;
        if decision.abort {
            self.cut();
            return Ok(true);
        }
        if let Some(local) = decision.replace {
            self.to_client.extend_from_slice(&data[..at]);
            return self.replace(response, &local, &decision.edits, &data[end..]);
        }
        let mut out = Vec::with_capacity(data.len() + ROOM_FOR_EDITS);
        out.extend_from_slice(&data[..at]);
        let asks = self.asks;
        let special = self.special.as_deref_mut();
        let tunnel = response.opens_tunnel(asks);
        if let Some(Special { follow: Some(follow), download, .. }) = special
            && follow.window(Side::Response).is_some()
            && !tunnel
            && !never_has_body(response.status, asks)
        {
            let mut head = Vec::with_capacity(response.len + ROOM_FOR_EDITS);
            edit::edited(&data[at..end], &decision.edits, None, &mut head);
            *download = Some(Passage::new(Side::Response, &**follow, &head, response.body, asks.http10, &mut out));
            self.closes_after = response.close;
            return self.special_download(cx, client, response.body, &data[end..], out);
        }
        edit::edited(&data[at..end], &decision.edits, None, &mut out);
        let from = out.len();
        // In one piece: a second write costs more than this copy, here and at the client.
        out.extend_from_slice(&data[end..]);
        if tunnel {
            self.observed(End::Upgraded);
            self.to_client.append(&mut out);
            return Err(Exit::Tunnel);
        }
        self.response_bytes(cx, client, response, &out, from)
    }

    /// A piece of a response's body that filters look at; `out`: what goes before it.
    pub(super) fn special_download(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Sock,
        mut body: Body,
        bytes: &[u8],
        mut out: Vec<u8>,
    ) -> Result<bool, Exit> {
        let Some(Special { download: Some(passage), follow: Some(follow), closes, .. }) = self.special.as_deref_mut() else {
            return Err(Exit::Reset);
        };
        let taken = match passage.take(bytes, &mut body, &mut **follow, &mut out) {
            Ok(taken) => taken,
            Err(Stop::BadChunk) if !passage.is_held() && passage.give_back().map(|mut held| out.append(&mut held)).is_some() => {
                self.give(cx, client, &out)?;
                return self.unreadable(bytes);
            }
            // What is not judged is not for the client.
            Err(Stop::BadChunk | Stop::Abort) => {
                self.give(cx, client, &out)?;
                self.cut();
                return Ok(true);
            }
        };
        *closes |= passage.closes();
        self.observe(&bytes[..taken]);
        self.down = Down::Body(body);
        self.give(cx, client, &out)?;
        if !body.is_done() {
            return Ok(false);
        }
        if let Some(special) = self.special.as_deref_mut() {
            special.download = None;
        }
        let close = self.closes_after;
        self.follow(cx, client, body, close, &bytes[taken..], 0)
    }

    /// The upstream has ended within a response that filters look at.
    pub(super) fn end_download(&mut self, broken: bool) -> Result<(), Exit> {
        let Down::Body(body) = self.down else { return Ok(()) };
        let Some(Special { download: Some(passage), follow: Some(follow), .. }) = self.special.as_deref_mut() else { return Ok(()) };
        let mut out = Vec::new();
        let ended = body == Body::UntilClose && !broken && passage.end(&mut **follow, &mut out).is_ok();
        if !ended && passage.is_held() {
            return Err(Exit::Reset);
        }
        self.to_client.append(&mut out);
        if let Some(special) = self.special.as_deref_mut() {
            special.download = None;
        }
        Ok(())
    }

    /// Gives the client another response. What there is of the upstream's own is read away, if that does not take long.
    fn replace(&mut self, response: Response, local: &LocalResponse, edits: &[Edit], rest: &[u8]) -> Result<bool, Exit> {
        let mut body = response.body;
        let whole = body.take(rest) == Ok(rest.len());
        let short = match body {
            Body::Length(left) => left <= DISCARDED,
            body => body.is_done(),
        };
        let keeps = whole && short;
        let close = response.close || self.asks.close || !keeps;
        let bytes = edit::local_response(local, self.asks, close);
        let end = memchr::memmem::find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        edit::edited(&bytes[..end], edits, None, &mut self.to_client);
        self.to_client.extend_from_slice(&bytes[end..]);
        if keeps {
            self.closes_after = close;
            self.down = Down::Discard(body);
            return Ok(true);
        }
        self.drop_upstream();
        self.cut_copies();
        self.special = None;
        self.close();
        Ok(true)
    }

    /// A piece of a response that the client does not get.
    pub(super) fn discard(&mut self, mut body: Body, bytes: &[u8]) -> Result<(), Exit> {
        match body.take(bytes) {
            Ok(taken) if taken == bytes.len() => self.down = Down::Discard(body),
            _ => {
                // More than it was asked: nobody knows what follows.
                self.drop_upstream();
                self.close();
            }
        }
        Ok(())
    }

    /// Resets the exchange, and with it the connection, towards both sides.
    pub(super) fn cut(&mut self) {
        self.drop_upstream();
        self.cut_copies();
        (self.special, self.input, self.to_up) = (None, Vec::new(), Vec::new());
        (self.up, self.down) = (Up::Dead, Down::Cut);
    }

    /// Lets go of whoever answers, abruptly.
    pub(super) fn drop_upstream(&mut self) {
        match self.to {
            To::Pod => self.cut_pod(),
            To::Session(id) => {
                let surroundings = self.surroundings.clone();
                if let Some(Link::Open(stream)) = self.session(id) {
                    surroundings.abort(stream);
                }
                self.drop_session(id);
            }
            To::Nobody => {}
        }
    }

    /// The response is complete, while perhaps the request is not.
    pub(super) fn end_special(&mut self) -> bool {
        let Some(special) = self.special.as_deref_mut() else { return false };
        let closes = special.closes;
        if special.upload.is_none() || !matches!(self.up, Up::Body(_)) {
            self.special = None;
        }
        closes
    }
}
