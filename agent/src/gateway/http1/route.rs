//! What becomes of a request that has been steered: it goes to the pod, to a session, which has to be reached first and
//! loses it to the pod if it cannot be, or it is answered here; copies go to the taps.

use std::{
    borrow::Cow,
    task::{Context, Poll},
};

use super::{
    edit,
    head::Request,
    relay::{Down, Exit, Relay, To, Up},
    special::Special,
};
use crate::gateway::{
    link::Link,
    mirror::Tap,
    room::Budget,
    sock::Sock,
    steer::{Event, Steering, Surroundings, Target, Upstream},
};

impl<S: Surroundings> Relay<S> {
    /// Sends a request on its way.
    pub(super) fn route(&mut self, cx: &mut Context<'_>, request: Request, steering: Steering, data: Cow<'_, [u8]>) -> Result<(), Exit> {
        self.requests = self.requests.wrapping_add(1);
        (self.asks, self.answered, self.special) = (request.asks, false, None);
        let Steering { target, copies, extra, observer, decided: _ } = steering;
        self.observer = observer;
        for id in copies {
            self.begin_copy(Upstream::Session(id), &data[..request.len], request);
        }
        if extra.is_some() || matches!(target, Target::Session(_)) {
            let extra = extra.map(|extra| *extra).unwrap_or_default();
            if extra.pod_copy {
                self.begin_copy(Upstream::Pod, &data[..request.len], request);
            }
            self.special = Some(Box::new(Special::new(extra)));
        }
        match target {
            Target::Pod => {
                self.to = To::Pod;
                self.start(cx, request, data)
            }
            Target::Session(id) => {
                self.to = To::Session(id);
                self.input = data.into_owned();
                (self.up, self.down) = (Up::Opening(request), Down::Hold);
                Ok(())
            }
            Target::Respond(response) => {
                self.to = To::Nobody;
                // A client that was not told to continue may never send the body: what follows could be either.
                let close = request.asks.close || request.asks.http10 || (request.asks.expects && !request.body.is_done());
                self.asks.close = close;
                if let Some(observer) = &self.observer {
                    observer.local(&response);
                }
                self.to_client.extend_from_slice(&edit::local_response(&response, request.asks, close));
                self.start(cx, request, data)?;
                self.down = Down::Own;
                Ok(())
            }
            Target::Abort => {
                self.to = To::Nobody;
                self.cut();
                Ok(())
            }
        }
    }

    /// Sends the request's head, and what has come of its body.
    fn start(&mut self, cx: &mut Context<'_>, request: Request, data: Cow<'_, [u8]>) -> Result<(), Exit> {
        let mut body = request.body;
        // A broken chunk is met with the body, after the head has gone, however the bytes came.
        let (end, body) = match body.take(&data[request.len..]) {
            Ok(taken) => (request.len + taken, body),
            Err(_) => (request.len, request.body),
        };
        self.copy(&data[request.len..end]);
        let edited = match self.special.is_some() && self.to != To::Nobody {
            true => match self.special_start(&data[..request.len], &data[request.len..end], request) {
                Ok(edited) => edited,
                Err(_) => {
                    self.cut();
                    return Ok(());
                }
            },
            false => None,
        };
        self.down = Down::Head;
        if body.is_done() {
            self.up = Up::Wait;
            self.end_copies();
        } else {
            self.up = Up::Body(body);
        }
        let _ = self.send_up(cx, edited.as_deref().unwrap_or(&data[..end]));
        if end < data.len() {
            self.fresh = true;
            self.input = match data {
                Cow::Borrowed(data) => data[end..].to_vec(),
                Cow::Owned(mut data) => {
                    data.drain(..end);
                    data
                }
            };
        }
        Ok(())
    }

    /// Waits for the session to take the request that `input` begins with.
    pub(super) fn opening(&mut self, cx: &mut Context<'_>, request: Request, scratch: &mut [u8]) -> Result<bool, Exit> {
        let To::Session(id) = self.to else { return Ok(false) };
        let first = self.special.as_deref().is_none_or(|special| special.request.is_none());
        if first {
            let budget = match self.surroundings.purse(id).map(|purse| Budget::begin(&purse, self.input.len())) {
                Some(None) => return self.fall_back(cx, request, scratch).map(|()| true),
                budget => budget.flatten(),
            };
            // A kept connection that says something or has ended is of no more use.
            let reused = self.session(id).is_some_and(|link| link.poll_read(cx, scratch).is_pending());
            if !reused {
                self.drop_session(id);
            }
            let special = self.special.get_or_insert_default();
            (special.request, special.reused, special.budget) = (Some(request), reused, budget);
        }
        if self.session(id).is_none() {
            self.sessions.push((id, Link::open(&self.surroundings, &self.flow, Upstream::Session(id))));
        }
        match self.target().map(|link| link.poll_open(cx)) {
            Some(Poll::Pending) => Ok(false),
            Some(Poll::Ready(Ok(()))) => {
                let data = std::mem::take(&mut self.input);
                if let Some(special) = self.special.as_deref_mut().filter(|_| request.asks.idempotent && request.body.is_done()) {
                    special.replay = data[..request.len].to_vec();
                }
                self.start(cx, request, Cow::Owned(data))?;
                Ok(true)
            }
            Some(Poll::Ready(Err(_))) | None => {
                self.fall_back(cx, request, scratch)?;
                Ok(true)
            }
        }
    }

    /// The session cannot take the request that `input` begins with: the pod gets it as it came.
    pub(super) fn fall_back(&mut self, cx: &mut Context<'_>, request: Request, scratch: &mut [u8]) -> Result<(), Exit> {
        self.count(Event::FellBack);
        if let Some(observer) = &self.observer {
            observer.fell_back();
        }
        if let To::Session(id) = self.to {
            self.drop_session(id);
        }
        self.special = None;
        self.freshen_pod(cx, scratch)?;
        self.to = To::Pod;
        let data = std::mem::take(&mut self.input);
        self.start(cx, request, Cow::Owned(data))
    }

    fn begin_copy(&mut self, to: Upstream, head: &[u8], request: Request) {
        let index = self.taps.iter().position(|tap| tap.upstream() == to).unwrap_or_else(|| {
            self.taps.push(Tap::new(&self.surroundings, self.flow, to));
            self.taps.len() - 1
        });
        let Some(tap) = self.taps.get_mut(index) else { return };
        if !tap.begin(head, request.asks) {
            self.count(Event::CopyDropped);
        }
    }

    /// A piece of the body, for all who have a copy of this request, or look at it.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if let Some(observer) = &self.observer {
            observer.request_body(bytes);
        }
        for tap in &mut self.taps {
            if !tap.more(bytes) {
                self.surroundings.count(Event::CopyDropped);
            }
        }
    }

    pub(super) fn end_copies(&mut self) {
        self.taps.iter_mut().for_each(Tap::end);
    }

    pub(super) fn cut_copies(&mut self) {
        self.taps.iter_mut().for_each(Tap::cut);
    }
}
