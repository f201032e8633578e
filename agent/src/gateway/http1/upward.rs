//! The client's side of the relay: heads are read, bodies followed to their end, and what the client sends ahead is held.
//! `route.rs` sends them on their way.

use std::{
    borrow::Cow,
    task::{Context, Poll},
};

use super::{
    framing::Body,
    head::{self, MAX_HEAD, Read},
    held::{Why, parts},
    lines::{self, Lines},
    relay::{Down, Exit, Relay, To, Up},
    special::Special,
};
use crate::gateway::{
    detect::{Guess, first_bytes},
    link::Link,
    sock::{self, Sock},
    steer::{Ambiguity, Steered, Surroundings, Target},
};

/// What a read of the client brought.
enum Got<'a> {
    Bytes(Cow<'a, [u8]>),
    End,
    Nothing,
}

impl<S: Surroundings> Relay<S> {
    /// Moves the client's bytes until one side has to wait.
    pub(super) fn upward(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<(), Exit> {
        loop {
            if !self.to_up.is_empty() && self.send_up(cx, &[]).is_pending() {
                return Ok(());
            }
            let moved = match self.up {
                Up::Head => self.head(cx, client, scratch)?,
                Up::Held(request) => self.held(cx, client, scratch, request)?,
                Up::Opening(request) => self.opening(cx, request, scratch)?,
                Up::Body(body) => self.body(cx, client, scratch, body)?,
                Up::Wait => self.read_ahead(cx, client, scratch)?,
                Up::Finish => self.finish_up(cx),
                Up::Drain => match client.poll_read(cx, scratch) {
                    Poll::Ready(Ok(0)) => {
                        self.up = Up::Over;
                        false
                    }
                    Poll::Ready(Ok(_)) => true,
                    Poll::Ready(Err(_)) => return Err(Exit::Gone),
                    Poll::Pending => false,
                },
                Up::Dead | Up::Over => false,
            };
            if !moved {
                return Ok(());
            }
        }
    }

    /// The bytes held, if they are worth looking at, or more of the client's.
    fn next<'a>(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &'a mut [u8]) -> Result<Got<'a>, Exit> {
        if std::mem::take(&mut self.fresh) {
            return Ok(Got::Bytes(Cow::Owned(std::mem::take(&mut self.input))));
        }
        if self.client_ended {
            return Ok(Got::End);
        }
        match client.poll_read(cx, scratch) {
            Poll::Pending => Ok(Got::Nothing),
            Poll::Ready(Err(_)) => Err(Exit::Gone),
            Poll::Ready(Ok(0)) => {
                self.client_ended = true;
                Ok(Got::End)
            }
            Poll::Ready(Ok(read)) if self.input.is_empty() => Ok(Got::Bytes(Cow::Borrowed(&scratch[..read]))),
            Poll::Ready(Ok(read)) => {
                let mut held = std::mem::take(&mut self.input);
                held.extend_from_slice(&scratch[..read]);
                Ok(Got::Bytes(Cow::Owned(held)))
            }
        }
    }

    fn head(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<bool, Exit> {
        let mut data = match self.next(cx, client, scratch)? {
            Got::Bytes(data) => data,
            Got::Nothing => return Ok(false),
            // Nothing was for a pod that takes no connections: nobody has to know.
            Got::End if self.input.is_empty() && matches!(self.pod, Link::Closed(_)) => {
                self.close();
                return Ok(true);
            }
            // The pod is told, and has the last word, also about a request that was cut short.
            Got::End if self.input.is_empty() => return Err(Exit::Closing),
            Got::End => {
                self.ambiguous(cx, Ambiguity::Head, scratch)?;
                return Ok(true);
            }
        };
        if self.requests == 0 {
            self.doubtful = false;
            match first_bytes(&data) {
                Guess::Http1 if !self.greeted => {}
                guess @ (Guess::Http1 | Guess::Other | Guess::Http2) => {
                    self.input = data.into_owned();
                    return Err(if guess == Guess::Http2 { Exit::Http2 } else { Exit::NotHttp });
                }
                guess @ (Guess::More | Guess::MoreDoubtful) if data.len() <= MAX_HEAD => {
                    self.doubtful = guess == Guess::MoreDoubtful;
                    self.input = data.into_owned();
                    return Ok(true);
                }
                Guess::More | Guess::MoreDoubtful => {}
            }
        }
        // A head that came in pieces is parsed once, when its lines are complete: the work stays linear.
        let whole = self.scanned == 0 || lines::until_empty(&data, &mut self.scanned) == Lines::Complete;
        let read = if whole {
            head::request(&data, |view| self.surroundings.steer(&self.flow, &parts(&self.flow, view)))
        } else if data.len() > MAX_HEAD {
            Read::Ambiguous(Ambiguity::HeadTooLong)
        } else {
            Read::Partial
        };
        let why = match read {
            Read::Head((request, steered)) => {
                self.scanned = 0;
                match steered {
                    Steered::Decided(mut steering) => {
                        if let Some(delay) = steering.take_delay() {
                            self.hold(request, Why::Delayed(steering, delay), data.into_owned());
                            return Ok(true);
                        }
                        if self.pod_neglected && matches!(steering.target, Target::Pod) {
                            self.input = data.into_owned();
                            self.freshen_pod(cx, scratch)?;
                            data = Cow::Owned(std::mem::take(&mut self.input));
                        }
                        self.route(cx, request, steering, data)?;
                    }
                    Steered::Undecided(undecided) => self.hold(request, Why::Undecided(undecided), data.into_owned()),
                }
                return Ok(true);
            }
            Read::Partial if lines::until_empty(&data, &mut self.scanned) == Lines::Partial => {
                self.input = data.into_owned();
                return Ok(true);
            }
            Read::Partial => Ambiguity::Head,
            Read::Ambiguous(why) => why,
        };
        self.input = data.into_owned();
        self.ambiguous(cx, why, scratch)?;
        Ok(true)
    }

    fn body(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8], mut body: Body) -> Result<bool, Exit> {
        let scratch = self.bounded(scratch);
        let data = match self.next(cx, client, scratch)? {
            Got::Bytes(data) => data,
            Got::Nothing => return Ok(false),
            Got::End => {
                self.cut_copies();
                self.give_back();
                self.up = if self.to == To::Nobody { Up::Over } else { Up::Finish };
                return Ok(true);
            }
        };
        if self.special.as_deref().is_some_and(|special| special.upload.is_some()) {
            return self.special_upload(cx, body, data);
        }
        let Ok(taken) = body.take(&data) else {
            self.input = data.into_owned();
            return self.broken_body().map(|()| true);
        };
        self.upload(cx, body, &data, taken, &data[..taken]);
        Ok(true)
    }

    /// `data[..taken]`, after which `body` is left of the request, goes on as `out`.
    pub(super) fn upload(&mut self, cx: &mut Context<'_>, body: Body, data: &[u8], taken: usize, out: &[u8]) {
        self.copy(&data[..taken]);
        self.up = Up::Body(body);
        if body.is_done() {
            self.end_copies();
            self.up = if self.down == Down::Idle { Up::Head } else { Up::Wait };
        }
        let _ = self.send_up(cx, out);
        if taken < data.len() {
            (self.input, self.fresh) = (data[taken..].to_vec(), true);
        }
    }

    /// `input` begins with a piece of a body in which a chunk is broken.
    pub(super) fn broken_body(&mut self) -> Result<(), Exit> {
        self.cut_copies();
        let passes = self.to == To::Pod && !self.surroundings.refuse_ambiguous(&self.flow) && self.give_back();
        if passes {
            return Err(Exit::Opaque(Ambiguity::Chunk));
        }
        if self.to == To::Nobody {
            // Our response is complete or on its way: nothing to add but the end.
            (self.up, self.down, self.input) = (Up::Drain, Down::Closing, Vec::new());
            return Ok(());
        }
        self.drop_upstream();
        if self.answered {
            return Err(Exit::Reset);
        }
        self.refuse(400, "a chunk of the request's body is malformed; send chunks as RFC 9112 has them");
        Ok(())
    }

    pub(super) fn cut_pod(&mut self) {
        if let Link::Open(stream) = &mut self.pod {
            self.surroundings.abort(stream);
        }
        self.pod.take();
    }

    /// While a response is under way: an eye on the client, and what it pipelines, up to a bound.
    fn read_ahead(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<bool, Exit> {
        if self.client_ended {
            if self.input.is_empty() {
                self.up = Up::Finish;
                return Ok(true);
            }
            return Ok(false);
        }
        if self.input.len() > MAX_HEAD {
            return Ok(false);
        }
        let scratch = self.bounded(scratch);
        let came = self.take_in(cx, client, scratch)?;
        self.note_held();
        self.fresh |= came && !self.client_ended;
        Ok(came)
    }

    /// Adds what the client says next to `input`. `false`: nothing, for now.
    pub(super) fn take_in(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<bool, Exit> {
        match client.poll_read(cx, scratch) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(Exit::Gone),
            Poll::Ready(Ok(read)) => {
                self.client_ended = read == 0;
                self.input.extend_from_slice(&scratch[..read]);
                Ok(true)
            }
        }
    }

    /// Where the client's bytes are read to: not many at a time while their session has as much under way as it may.
    fn bounded<'a>(&self, scratch: &'a mut [u8]) -> &'a mut [u8] {
        match self.special.as_deref() {
            Some(Special { budget: Some(budget), .. }) => budget.bounds(scratch),
            _ => scratch,
        }
    }

    /// Counts what is held here for a session.
    fn note_held(&mut self) {
        if let Some(Special { budget: Some(budget), .. }) = self.special.as_deref_mut() {
            budget.set(self.to_up.len() + self.input.len());
        }
    }

    /// Passes on that the client has ended.
    fn finish_up(&mut self, cx: &mut Context<'_>) -> bool {
        // A link that cannot be finished shows it in what it says.
        if self.target().is_some_and(|link| link.poll_finish(cx).is_pending()) {
            return false;
        }
        self.up = Up::Over;
        false
    }

    /// Bytes for whoever answers this request. If they cannot be written, its response may still say why.
    pub(super) fn send_up(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<()> {
        let mut pending = std::mem::take(&mut self.to_up);
        let sent = match self.target() {
            Some(link) => sock::send(link, cx, &mut pending, bytes),
            None => return Poll::Ready(()),
        };
        match sent {
            Poll::Ready(Ok(())) => {
                self.note_held();
                Poll::Ready(())
            }
            Poll::Pending => {
                self.to_up = pending;
                self.note_held();
                Poll::Pending
            }
            Poll::Ready(Err(_)) => {
                if matches!(self.up, Up::Body(_) | Up::Wait | Up::Finish) {
                    self.up = Up::Dead;
                    self.cut_copies();
                }
                Poll::Ready(())
            }
        }
    }
}
