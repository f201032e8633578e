//! A request that does not go on yet: a filter wants to see its body first, waits for something, or delays it. Only this request
//! is held: `input` has it as it came, with what has come of its body, and once it may go on it does so as if it had just come.

use std::{
    borrow::Cow,
    task::{Context, Poll},
    time::Duration,
};

use mirrord_filters::RequestParts;

use super::{
    framing::{Body, Part},
    head::{self, MAX_HEAD, Read, Request, RequestView},
    passage::MOST_FRAMING,
    relay::{Down, Exit, Relay, Up, Waiting},
};
use crate::gateway::{
    link::Link,
    room::Room,
    sock::Sock,
    steer::{Ambiguity, Event, Flow, MOST_QUESTIONS, Steered, Steering, Surroundings, Target, Undecided, Upstream},
};

/// Why a request is held.
#[derive(Debug)]
pub(super) enum Why {
    Undecided(Box<dyn Undecided>),
    Delayed(Steering, Duration),
}

/// What is known of a request that is held; its bytes are in `input`.
#[derive(Debug)]
pub(super) struct Held {
    why: Why,
    /// What is left of its body after the bytes that have been read of it.
    body: Body,
    /// So many bytes of `input` have been read.
    read: usize,
    /// Of a chunked body: what it carries, as far as it has been read.
    data: Vec<u8>,
    is_broken: bool,
    questions: u8,
    room: Room,
}

impl Held {
    pub(super) fn waiting(&self, request: u32) -> Waiting {
        match &self.why {
            Why::Undecided(_) => Waiting::Undecided(request),
            Why::Delayed(_, delay) => Waiting::Delayed(request, *delay),
        }
    }

    /// Reads what has come of the body.
    fn read(&mut self, input: &[u8]) {
        let chunked = matches!(self.body, Body::Chunked(_));
        let data = &mut self.data;
        let taken = self.body.read(&input[self.read..], |part| {
            if let (Part::Data(bytes), true) = (part, chunked) {
                data.extend_from_slice(bytes);
            }
        });
        match taken {
            Ok(taken) => self.read += taken,
            Err(_) => self.is_broken = true,
        }
    }

    /// What the body carries, as far as it has been read.
    fn data<'a>(&'a self, input: &'a [u8], request: Request) -> &'a [u8] {
        if matches!(request.body, Body::Chunked(_)) { &self.data } else { &input[request.len..self.read] }
    }
}

/// What a filter sees of a request.
pub(super) fn parts<'a>(flow: &Flow, view: &RequestView<'a>) -> RequestParts<'a> {
    RequestParts {
        method: view.method,
        path: view.target,
        headers: view.fields,
        client: flow.client,
        destination: flow.destination,
        version: view.version,
        end: view.end,
    }
}

impl<S: Surroundings> Relay<S> {
    /// Holds the request that `data` begins with.
    pub(super) fn hold(&mut self, request: Request, why: Why, data: Vec<u8>) {
        self.asks = request.asks;
        self.input = data;
        (self.up, self.down) = (Up::Held(request), Down::Hold);
        let held =
            Held { why, body: request.body, read: request.len, data: Vec::new(), is_broken: false, questions: 0, room: Room::default() };
        self.held = Some(Box::new(held));
    }

    /// Asks about the request that is held, or waits for what is needed to ask.
    pub(super) fn held(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Sock,
        scratch: &mut [u8],
        request: Request,
    ) -> Result<bool, Exit> {
        let Some(mut held) = self.held.take() else {
            self.fresh = true;
            self.up = Up::Head;
            return Ok(true);
        };
        let mut wanted = MAX_HEAD;
        if let Why::Undecided(_) = held.why {
            let (next, more) = match self.ask(cx, held, request) {
                Asked::Waits(held) => (held, 0),
                Asked::Needs(held, more) => (held, more),
                Asked::Decided(steering) => return self.release(cx, scratch, request, steering).map(|()| true),
            };
            held = next;
            if more > 0 {
                wanted = more;
                if self.input.len() == request.len {
                    self.say_continue(request);
                }
                if self.client_ended {
                    let steering = self.give_up(*held);
                    return self.release(cx, scratch, request, steering).map(|()| true);
                }
            }
        }
        self.held = Some(held);
        self.read_more(cx, client, scratch, request.len + wanted)
    }

    /// The time for which a request may be held is over.
    pub(super) fn held_long_enough(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], request: Request) -> Result<(), Exit> {
        let Some(held) = self.held.take() else { return Ok(()) };
        let steering = match *held {
            Held { why: Why::Delayed(steering, _), .. } => steering,
            held => self.give_up(held),
        };
        self.release(cx, scratch, request, steering)
    }

    /// Has a client go on that waits for a word of the upstream, which has not heard of its request yet. Once.
    pub(super) fn say_continue(&mut self, request: Request) {
        if request.asks.expects && !request.asks.http10 && !self.asks.continued {
            self.to_client.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.asks.continued = true;
        }
    }

    /// Puts the questions that can be put now.
    fn ask(&mut self, cx: &mut Context<'_>, mut held: Box<Held>, request: Request) -> Asked {
        loop {
            held.read(&self.input);
            let Why::Undecided(undecided) = &mut held.why else { return Asked::Waits(held) };
            let (window, flow) = (undecided.window(), self.flow);
            let input = &self.input;
            let done = held.body.is_done();
            let steered = if let Some(window) = window {
                let len = held.data(input, request).len();
                let fits = held.room.hold(input.len() + held.data.len()) && input.len() <= request.len + 2 * window + MOST_FRAMING;
                if held.is_broken || held.questions == MOST_QUESTIONS {
                    return Asked::Decided(self.give_up(*held));
                }
                if len < window && !done {
                    return if fits { Asked::Needs(held, 2 * window + MOST_FRAMING) } else { Asked::Decided(self.give_up(*held)) };
                }
                held.questions += 1;
                let Why::Undecided(undecided) = std::mem::replace(&mut held.why, Why::nothing()) else { return Asked::Waits(held) };
                let body = &held.data(input, request)[..len.min(window)];
                with_parts(&flow, input, |parts| undecided.with_body(parts, body, done && len <= window))
            } else {
                match with_parts(&flow, input, |parts| undecided.poll(cx, parts)) {
                    Some(Poll::Ready(steered)) => Some(steered),
                    Some(Poll::Pending) => return Asked::Waits(held),
                    None => None,
                }
            };
            match steered {
                Some(Steered::Undecided(next)) => held.why = Why::Undecided(next),
                Some(Steered::Decided(steering)) => return Asked::Decided(steering),
                // Its head could be read before.
                None => return Asked::Decided(Steering::default()),
            }
        }
    }

    fn give_up(&mut self, held: Held) -> Steering {
        self.count(Event::Skipped);
        match held.why {
            Why::Undecided(undecided) => with_parts(&self.flow, &self.input, |parts| undecided.skip(parts)).unwrap_or_default(),
            Why::Delayed(steering, _) => steering,
        }
    }

    /// Lets go of a request that was held.
    fn release(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], mut request: Request, mut steering: Steering) -> Result<(), Exit> {
        self.held = None;
        if self.asks.continued {
            (request.asks.continued, request.asks.expects) = (true, false);
        }
        if matches!(steering.target, Target::Pod) {
            self.renew_pod(cx, scratch)?;
        }
        let data = std::mem::take(&mut self.input);
        match steering.take_delay() {
            Some(delay) => {
                self.hold(request, Why::Delayed(steering, delay), data);
                Ok(())
            }
            None => self.route(cx, request, steering, Cow::Owned(data)),
        }
    }

    /// While we held the request the pod may have closed a connection that it took for idle, perhaps with a word about it. The
    /// client has said all that it had to: it gets another one.
    fn renew_pod(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Exit> {
        if !matches!(self.pod, Link::Open(_)) {
            return Ok(());
        }
        match self.pod.poll_read(cx, scratch) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(read)) if read > 0 && !scratch[..read].starts_with(b"HTTP/1.") => {
                self.to_client.extend_from_slice(&scratch[..read]);
                return Err(Exit::Opaque(Ambiguity::Response));
            }
            Poll::Ready(_) => {}
        }
        self.pod = Link::open(&self.surroundings, &self.flow, Upstream::Pod);
        self.pod_neglected = false;
        Ok(())
    }

    /// Reads on, so that `input` has as much as is needed, and sees the client go away.
    fn read_more(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8], most: usize) -> Result<bool, Exit> {
        if self.client_ended || self.input.len() > most {
            return Ok(false);
        }
        self.take_in(cx, client, scratch)
    }
}

/// What came of asking.
enum Asked {
    Decided(Steering),
    /// Something else has to happen first.
    Waits(Box<Held>),
    /// More of the body is needed, if it has more; of its bytes at most so many are worth holding.
    Needs(Box<Held>, usize),
}

impl Why {
    /// In place of a question that is being put.
    fn nothing() -> Self {
        Why::Delayed(Steering::default(), Duration::ZERO)
    }
}

fn with_parts<R>(flow: &Flow, input: &[u8], ask: impl FnOnce(&RequestParts<'_>) -> R) -> Option<R> {
    match head::request(input, |view| ask(&parts(flow, view))) {
        Read::Head((_, answer)) => Some(answer),
        Read::Partial | Read::Ambiguous(_) => None,
    }
}
