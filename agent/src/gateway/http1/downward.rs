//! The upstreams' side of the relay: responses are followed to their end and moved to the client.

use std::task::{Context, Poll};

use mirrord_filters::{Field, ResponseDecision, ResponseParts};
use mirrord_protocol::records::End;

use super::{
    framing::Body,
    head::{self, MAX_HEAD, Read, Response},
    lines::{self, Lines},
    relay::{Down, Exit, Relay, To, Up},
};
use crate::gateway::{
    detect::greets_as_http2,
    link::Link,
    sock::{self, Sock},
    steer::{Ambiguity, Event, Surroundings, Upstream},
};

impl<S: Surroundings> Relay<S> {
    /// Moves the upstreams' bytes until one side has to wait. `true`: the client's side may go on.
    pub(super) fn downward(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<bool, Exit> {
        loop {
            if !self.to_client.is_empty() {
                match sock::flush(client, cx, &mut self.to_client) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Err(Exit::Gone),
                }
            }
            match self.down {
                Down::Idle => return self.idle(cx, scratch),
                Down::Hold | Down::Over => return Ok(false),
                Down::Own => {
                    self.finish(self.asks.close)?;
                    if self.down == Down::Idle {
                        return Ok(true);
                    }
                }
                Down::Discard(body) if body.is_done() => {
                    self.finish(self.closes_after)?;
                    return Ok(true);
                }
                Down::Cut => return Err(Exit::Reset),
                Down::Closing => match client.poll_finish(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(_) => {
                        self.down = Down::Over;
                        return Ok(false);
                    }
                },
                Down::Head | Down::Body(_) | Down::Discard(_) => {
                    let read = match self.target().map(|link| link.poll_read(cx, scratch)) {
                        Some(Poll::Pending) => return Ok(false),
                        Some(Poll::Ready(read)) => read,
                        None => Ok(0),
                    };
                    let read = match read {
                        Ok(read) if read > 0 => read,
                        ended => {
                            self.upstream_ended(ended.is_err())?;
                            return Ok(true);
                        }
                    };
                    let go_on = match self.down {
                        Down::Body(body) => self.response_body(cx, client, body, &scratch[..read])?,
                        Down::Discard(body) => {
                            self.discard(body, &scratch[..read])?;
                            continue;
                        }
                        _ => self.response_head(cx, client, &scratch[..read])?,
                    };
                    if go_on {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Between requests: whether an upstream ends, or speaks unasked.
    fn idle(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Exit> {
        match (self.up, self.to) {
            // What it said is told once it is known to whom.
            (Up::Head, _) if self.greeted => return Ok(false),
            (Up::Head, _) => {
                // A session's stream that ends or speaks now is of no more use.
                self.sessions.retain_mut(|(_, link)| link.poll_read(cx, scratch).is_pending());
            }
            (Up::Body(_), To::Pod) => {}
            (Up::Dead | Up::Finish | Up::Over, To::Pod) => return Err(Exit::Closing),
            (Up::Dead | Up::Finish | Up::Over, _) => {
                self.close();
                return Ok(true);
            }
            // What is left of the body concerns somebody else.
            _ => return Ok(false),
        }
        loop {
            match self.pod.poll_open(cx) {
                // That the pod takes no connection matters as soon as something is for it.
                Poll::Ready(Err(_)) | Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => {}
            }
            match self.pod.poll_read(cx, scratch) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(read)) if read > 0 && self.requests == 0 && greets_as_http2(&scratch[..read]) => {
                    self.answer = scratch[..read].to_vec();
                    self.greeted = true;
                    return Ok(false);
                }
                Poll::Ready(Ok(read)) if read > 0 => {
                    self.to_client.extend_from_slice(&scratch[..read]);
                    return Err(if self.requests == 0 { Exit::NotHttp } else { Exit::Opaque(Ambiguity::Response) });
                }
                // The pod took this connection for idle while sessions answered on it: that was no reason to close it.
                Poll::Ready(_) if self.up == Up::Head && std::mem::take(&mut self.pod_neglected) => {
                    self.pod = Link::open(&self.surroundings, &self.flow, Upstream::Pod);
                }
                Poll::Ready(Ok(_)) => {
                    self.pod_ended = true;
                    return Err(Exit::Closing);
                }
                Poll::Ready(Err(_)) => return Err(Exit::Reset),
            }
        }
    }

    /// A piece of a response's head, or all of it and more. `true`: the client's side may go on.
    fn response_head(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, bytes: &[u8]) -> Result<bool, Exit> {
        let mut held = std::mem::take(&mut self.answer);
        let data = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held
        };
        // As with requests: a head that comes in pieces is parsed once.
        if self.answer_scanned > 0 && data.len() <= MAX_HEAD && lines::until_empty(data, &mut self.answer_scanned) == Lines::Partial {
            self.answer = held;
            return Ok(false);
        }
        self.answer_scanned = 0;
        let mut at = 0;
        let asks = self.asks;
        let (response, decision) = loop {
            let judge = (self.special.is_some() || self.observer.is_some())
                .then_some(|status, fields: &[Field<'_>]| self.judge(&ResponseParts { status, headers: fields }));
            match head::response(&data[at..], asks, judge) {
                Read::Head((response, _)) if response.status == 100 && asks.continued => {
                    // The client has had that word from us.
                    self.asks.continued = false;
                    let others = [&data[..at], &data[at + response.len..]].concat();
                    return if others.is_empty() { Ok(false) } else { self.response_head(cx, client, &others) };
                }
                Read::Head((response, _)) if response.is_interim() => at += response.len,
                Read::Head((response, decision)) => break (response, decision),
                Read::Partial if data.len() - at <= MAX_HEAD => {
                    self.answer = data[at..].to_vec();
                    lines::until_empty(&self.answer, &mut self.answer_scanned);
                    self.give(cx, client, &data[..at])?;
                    return Ok(false);
                }
                _ => return self.unreadable(data),
            }
        };
        self.answered = true;
        if let Some(decision) = decision.flatten() {
            return self.special_response(cx, client, response, decision, data, at);
        }
        let end = at + response.len;
        if response.opens_tunnel(self.asks) {
            self.observed(End::Upgraded);
            self.to_client.extend_from_slice(data);
            return Err(Exit::Tunnel);
        }
        self.response_bytes(cx, client, response, data, end)
    }

    /// Gives the client `bytes`, of which the body begins at `from`.
    pub(super) fn response_bytes(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Sock,
        response: Response,
        bytes: &[u8],
        from: usize,
    ) -> Result<bool, Exit> {
        let mut body = response.body;
        match body.take(&bytes[from..]) {
            Ok(taken) => {
                self.observe(&bytes[from..from + taken]);
                self.follow(cx, client, body, response.close, bytes, from + taken)
            }
            Err(_) => self.unreadable(bytes),
        }
    }

    fn response_body(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, mut body: Body, bytes: &[u8]) -> Result<bool, Exit> {
        if self.special.as_deref().is_some_and(|special| special.download.is_some()) {
            return self.special_download(cx, client, body, bytes, Vec::new());
        }
        let close = self.closes_after;
        match body.take(bytes) {
            Ok(taken) => {
                self.observe(&bytes[..taken]);
                self.follow(cx, client, body, close, bytes, taken)
            }
            Err(_) => self.unreadable(bytes),
        }
    }

    /// Gives the client `bytes[..end]`, after which `body` is left of the response.
    pub(super) fn follow(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Sock,
        body: Body,
        close: bool,
        bytes: &[u8],
        end: usize,
    ) -> Result<bool, Exit> {
        self.down = Down::Body(body);
        self.closes_after = close;
        if !body.is_done() {
            return self.give(cx, client, bytes).map(|()| false);
        }
        if end == bytes.len() {
            self.give(cx, client, bytes)?;
            return self.finish(close).map(|()| true);
        }
        // The upstream said more than it was asked. From the pod this is what the client would see without us.
        match self.to {
            To::Session(id) => {
                self.give(cx, client, &bytes[..end])?;
                self.drop_session(id);
                self.finish(close).map(|()| true)
            }
            _ => {
                self.to_client.extend_from_slice(bytes);
                Err(Exit::Opaque(Ambiguity::Response))
            }
        }
    }

    pub(super) fn give(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, bytes: &[u8]) -> Result<(), Exit> {
        match sock::send(client, cx, &mut self.to_client, bytes) {
            Poll::Ready(Err(_)) => Err(Exit::Gone),
            _ => Ok(()),
        }
    }

    /// What there is to say about a response's head.
    fn judge(&mut self, response: &ResponseParts<'_>) -> Option<ResponseDecision> {
        if let Some(observer) = self.observer.as_ref().filter(|_| response.status >= 200 || response.status == 101) {
            observer.response_head(response);
        }
        self.special.as_deref_mut().map(|special| special.judge(response))
    }

    /// A piece of the response's body, for whoever looks at it.
    pub(super) fn observe(&self, bytes: &[u8]) {
        if let Some(observer) = &self.observer {
            observer.response_body(bytes);
        }
    }

    /// Whoever looks at this exchange has seen all of it.
    pub(super) fn observed(&mut self, end: End) {
        if let Some(observer) = self.observer.take() {
            observer.end(end);
        }
    }

    /// The response is complete.
    fn finish(&mut self, close: bool) -> Result<(), Exit> {
        self.observed(End::Complete);
        if self.end_special() {
            self.drop_upstream();
            self.close();
            return Ok(());
        }
        let up_is_over = matches!(self.up, Up::Dead | Up::Finish | Up::Over);
        match self.to {
            // The pod is about to close, or cannot go on: it decides when.
            To::Pod if close || self.asks.close || up_is_over => return Err(Exit::Closing),
            To::Session(id) if close => self.drop_session(id),
            To::Pod | To::Session(_) | To::Nobody => {}
        }
        self.pod_neglected = self.to != To::Pod;
        if self.to != To::Pod && (close || self.asks.close || up_is_over) {
            self.close();
            return Ok(());
        }
        self.down = Down::Idle;
        if self.up == Up::Wait {
            self.up = Up::Head;
        }
        Ok(())
    }

    /// The client is told that nothing more comes, and what it still says is thrown away.
    pub(super) fn close(&mut self) {
        self.down = Down::Closing;
        self.input = Vec::new();
        self.up = if self.client_ended { Up::Over } else { Up::Drain };
    }

    /// The upstream that answers has ended, or (`broken`) its connection has.
    fn upstream_ended(&mut self, broken: bool) -> Result<(), Exit> {
        if self.special.is_some() {
            self.end_download(broken)?;
        }
        if let Down::Discard(_) = self.down {
            // The client has its answer.
            self.drop_upstream();
            self.close();
            return Ok(());
        }
        match (self.to, self.down) {
            (To::Pod, _) if broken => Err(Exit::Reset),
            (To::Pod, down) => {
                if matches!(down, Down::Body(Body::UntilClose)) {
                    self.observed(End::Complete);
                }
                self.pod_ended = true;
                Err(Exit::Closing)
            }
            (_, Down::Body(Body::UntilClose)) if !broken => self.finish(true),
            _ if self.answered => Err(Exit::Reset),
            _ => self.session_failed(),
        }
    }

    /// The session's stream has ended before it answered.
    fn session_failed(&mut self) -> Result<(), Exit> {
        let To::Session(id) = self.to else { return Err(Exit::Reset) };
        self.drop_session(id);
        if let Some(special) = self.special.as_deref_mut()
            && let Some(request) = special.request
            && !special.replay.is_empty()
        {
            // Sent again it does no harm: first on a new stream, if it was an old one that ended, else to the pod.
            let mut input = std::mem::take(&mut special.replay);
            input.append(&mut self.input);
            (self.input, self.fresh, self.answer, self.to_up) = (input, false, Vec::new(), Vec::new());
            self.answer_scanned = 0;
            (self.up, self.down) = (Up::Opening(request), Down::Hold);
            if !std::mem::take(&mut special.reused) {
                // Opening fails at once, which is what makes it the pod's.
                self.sessions.push((id, Link::Closed(std::io::ErrorKind::ConnectionReset)));
            }
            return Ok(());
        }
        self.count(Event::BadGateway);
        self.refuse(502, "the session's program ended before it answered this request; send it again");
        Ok(())
    }

    /// Bytes of an upstream that cannot be read as a response for certain.
    pub(super) fn unreadable(&mut self, bytes: &[u8]) -> Result<bool, Exit> {
        match self.to {
            To::Pod => {
                self.to_client.extend_from_slice(bytes);
                Err(Exit::Opaque(Ambiguity::Response))
            }
            To::Session(id) => {
                self.drop_session(id);
                if self.answered {
                    return Err(Exit::Reset);
                }
                self.count(Event::BadGateway);
                self.refuse(502, "the session's program answered with something that is no HTTP/1 response; look at its output");
                Ok(true)
            }
            To::Nobody => Err(Exit::Reset),
        }
    }
}
