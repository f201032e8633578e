//! One client connection that speaks HTTP/1, between the pod and the sessions: a machine without I/O of its own that
//! moves bytes as they came and holds them only while a head is incomplete or a peer does not take them.
//!
//! ```text
//!  client ──bytes──► up:   Head → (Opening) → Body → Wait ─► Head …       one request at a time, in order
//!                            │ steer (→ Held)   └► pod | session | nobody
//!  client ◄──bytes── down: Idle → Head → Body → Idle …                     from whoever answers this request
//! ```
//!
//! What it cannot do ends it with an [`Exit`]: from then on a connection is somebody else's (`opaque.rs`, HTTP/2).
//! `upward.rs` moves requests, `held.rs` keeps those that are not to go on yet, `route.rs` sends them on their way, `downward.rs`
//! moves responses, `special.rs` has the part of filters that follow an exchange.

use std::{rc::Rc, task::Context, time::Duration};

use super::{
    edit,
    framing::Body,
    head::{Asks, Request},
    held::Held,
    special::Special,
};
use crate::{
    gateway::{
        link::Link,
        mirror::Tap,
        room::Budget,
        sock::Sock,
        steer::{Ambiguity, DECISION_TIME, Event, Flow, OPENING_TIME, SessionId, Surroundings, Upstream},
    },
    records::exchanges::Observer,
};

/// A head that takes longer is passed on unread.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// First bytes that look like no method that we know are not kept for long.
const DOUBTFUL_TIME: Duration = Duration::from_millis(200);
/// What a pod said that begins as HTTP/2 servers do is kept for so long, for a client that begins as HTTP/2 clients do.
const GREETED_TIME: Duration = Duration::from_secs(1);
/// After our last word a client has this long to close: closing with its bytes unread would reset what we said.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// What happens to the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Up {
    /// A head is expected. `input` holds a piece of it, if any.
    Head,
    /// `input` begins with a request that does not go on yet.
    Held(Request),
    /// `input` begins with a request for a session that is being reached.
    Opening(Request),
    /// The request's body goes on.
    Body(Body),
    /// The request is complete; what the client pipelines is held in `input`.
    Wait,
    /// The upstream does not take the request's rest; its response, if any, ends the connection.
    Dead,
    /// The client has ended, which is being passed on.
    Finish,
    /// The client has ended, and its upstream knows.
    Over,
    /// Whatever still comes is thrown away.
    Drain,
}

/// What happens to an upstream's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Down {
    /// No response is expected.
    Idle,
    Head,
    Body(Body),
    /// What is left of a response that the client does not get.
    Discard(Body),
    /// A request waits for a filter or its session: nobody is listened to.
    Hold,
    /// A response of our own is on its way.
    Own,
    /// After what `to_client` holds, the client sees a reset.
    Cut,
    /// After what `to_client` holds, the client is told that nothing more comes.
    Closing,
    Over,
}

/// Who answers the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum To {
    Pod,
    Session(SessionId),
    Nobody,
}

/// How a connection stops being ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is said.
    Done,
    /// The client is gone: so are we, abruptly.
    Gone,
    /// The client has to see a reset, as the pod or the session gave it.
    Reset,
    /// The client speaks HTTP/2: `take_rest().up` holds its first bytes.
    Http2,
    /// The first bytes are no HTTP.
    NotHttp,
    /// From here on all bytes are the pod's, unread.
    Opaque(Ambiguity),
    /// From here on the bytes are no HTTP, by agreement: an upgrade, or CONNECT.
    Tunnel,
    /// The pod has ended or is about to: what still comes is copied, and nothing is read as a request.
    Closing,
}

/// What was in the machine when it stopped.
#[derive(Debug)]
pub struct Rest<T> {
    /// The upstream that goes on: the pod, or the session of a tunnel.
    pub link: Link<T>,
    /// Bytes for the upstream.
    pub up: Vec<u8>,
    /// Bytes for the client.
    pub down: Vec<u8>,
    pub client_ended: bool,
    pub upstream_ended: bool,
    /// What the session may have under way of it, if it is one that goes on.
    pub budget: Option<Budget>,
}

/// What the machine waits for with a limit of time. A new value is a new wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Head(u32),
    Doubtful,
    Greeted,
    Undecided(u32),
    Delayed(u32, Duration),
    Opening(u32),
    Drain,
}

impl Waiting {
    /// How long at most.
    pub fn limit(self) -> Duration {
        match self {
            Waiting::Head(_) => HEAD_TIME,
            Waiting::Doubtful => DOUBTFUL_TIME,
            Waiting::Greeted => GREETED_TIME,
            Waiting::Undecided(_) => DECISION_TIME,
            Waiting::Delayed(_, delay) => delay,
            Waiting::Opening(_) => OPENING_TIME,
            Waiting::Drain => DRAIN_TIME,
        }
    }
}

/// The machine. See the module's comment.
pub struct Relay<S: Surroundings> {
    pub(super) surroundings: Rc<S>,
    pub(super) flow: Flow,
    pub(super) pod: Link<S::Stream>,
    pub(super) sessions: Vec<(SessionId, Link<S::Stream>)>,
    pub(super) taps: Vec<Tap>,
    pub(super) up: Up,
    pub(super) down: Down,
    pub(super) to: To,
    pub(super) asks: Asks,
    /// Bytes of the client that nobody has taken.
    pub(super) input: Vec<u8>,
    /// How far `input` has been looked through for the end of a head.
    pub(super) scanned: usize,
    /// `input` holds bytes that have not been looked at.
    pub(super) fresh: bool,
    pub(super) to_up: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    /// A piece of a response's head.
    pub(super) answer: Vec<u8>,
    pub(super) answer_scanned: usize,
    pub(super) special: Option<Box<Special>>,
    /// Looks at the exchange under way, if somebody inspects.
    pub(super) observer: Option<Observer>,
    pub(super) held: Option<Box<Held>>,
    pub(super) client_ended: bool,
    pub(super) pod_ended: bool,
    pub(super) doubtful: bool,
    /// The pod spoke first, as HTTP/2 servers do: `answer` holds what it said until the client shows what it speaks.
    pub(super) greeted: bool,
    /// The final response's head has gone to the client.
    pub(super) answered: bool,
    /// The response under way is the last on its upstream's connection.
    pub(super) closes_after: bool,
    /// Sessions have answered since the pod last did: the pod thinks of this connection as idle, the client does not.
    pub(super) pod_neglected: bool,
    /// Requests so far.
    pub(super) requests: u32,
}

impl<S: Surroundings> Relay<S> {
    /// A connection whose upstream to the pod is being opened.
    pub fn new(surroundings: Rc<S>, flow: Flow, pod: Link<S::Stream>) -> Self {
        Relay {
            surroundings,
            flow,
            pod,
            sessions: Vec::new(),
            taps: Vec::new(),
            up: Up::Head,
            down: Down::Idle,
            to: To::Pod,
            asks: Asks::default(),
            input: Vec::new(),
            scanned: 0,
            fresh: false,
            to_up: Vec::new(),
            to_client: Vec::new(),
            answer: Vec::new(),
            answer_scanned: 0,
            special: None,
            observer: None,
            held: None,
            client_ended: false,
            pod_ended: false,
            doubtful: false,
            greeted: false,
            answered: false,
            closes_after: false,
            pod_neglected: false,
            requests: 0,
        }
    }

    /// Moves whatever can be moved. `Ok`: all wakers are armed.
    pub fn drive(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<(), Exit> {
        loop {
            self.upward(cx, client, scratch)?;
            if !self.downward(cx, client, scratch)? {
                break;
            }
        }
        if self.up == Up::Over && self.down == Down::Over { Err(Exit::Done) } else { Ok(()) }
    }

    /// What is being waited for with a limit of time.
    pub fn waiting(&self) -> Option<Waiting> {
        match self.up {
            Up::Head if self.greeted => Some(Waiting::Greeted),
            Up::Head if self.input.is_empty() => None,
            Up::Head if self.doubtful => Some(Waiting::Doubtful),
            Up::Head => Some(Waiting::Head(self.requests)),
            Up::Held(_) => self.held.as_deref().map(|held| held.waiting(self.requests)),
            Up::Opening(_) => Some(Waiting::Opening(self.requests)),
            Up::Drain => Some(Waiting::Drain),
            Up::Body(_) | Up::Wait | Up::Dead | Up::Finish | Up::Over => None,
        }
    }

    /// The time for what [`Self::waiting`] said is over.
    pub fn expired(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Exit> {
        match self.up {
            Up::Head if self.doubtful || self.greeted => Err(Exit::NotHttp),
            Up::Head => self.ambiguous(cx, Ambiguity::HeadTooSlow, scratch),
            Up::Held(request) => self.held_long_enough(cx, scratch, request),
            Up::Opening(request) => self.fall_back(cx, request, scratch),
            _ => Err(Exit::Done),
        }
    }

    /// Who serves this connection.
    pub fn surroundings(&self) -> Rc<S> {
        self.surroundings.clone()
    }

    /// Ends the connection if nothing is under way on it; whether it has begun to.
    pub fn part(&mut self) -> bool {
        let idle = (self.up, self.down) == (Up::Head, Down::Idle) && self.input.is_empty() && self.to_client.is_empty();
        if idle {
            self.close();
        }
        idle
    }

    /// Takes apart what is left after an exit.
    pub fn take_rest(&mut self, exit: Exit) -> Rest<S::Stream> {
        let link = match self.to {
            To::Session(id) if exit == Exit::Tunnel => self.session(id).map(Link::take),
            _ => None,
        };
        let link = link.unwrap_or_else(|| self.pod.take());
        let may_go_on = self.give_back();
        let budget = self.special.as_deref_mut().and_then(|special| special.budget.take()).filter(|_| exit == Exit::Tunnel);
        let mut up = std::mem::take(&mut self.to_up);
        if may_go_on {
            up.append(&mut self.input);
        } else {
            // What was sent of the body is framed anew, and nobody would go on with that.
            self.client_ended = true;
        }
        let mut down = std::mem::take(&mut self.to_client);
        down.append(&mut self.answer);
        Rest { link, up, down, client_ended: self.client_ended, upstream_ended: self.pod_ended, budget }
    }

    /// Tells every upstream and every copy that this ends badly.
    pub fn abort(&mut self) {
        if let Link::Open(stream) = &mut self.pod {
            self.surroundings.abort(stream);
        }
        for tap in &mut self.taps {
            tap.cut();
        }
    }

    /// The connection of whoever answers this request.
    pub(super) fn target(&mut self) -> Option<&mut Link<S::Stream>> {
        match self.to {
            To::Pod => Some(&mut self.pod),
            To::Session(id) => self.session(id),
            To::Nobody => None,
        }
    }

    pub(super) fn session(&mut self, id: SessionId) -> Option<&mut Link<S::Stream>> {
        self.sessions.iter_mut().find(|(found, _)| *found == id).map(|(_, link)| link)
    }

    pub(super) fn drop_session(&mut self, id: SessionId) {
        self.sessions.retain(|(found, _)| *found != id);
    }

    /// Bytes that cannot be read for certain begin where a request's head should: `input` holds them.
    pub(super) fn ambiguous(&mut self, cx: &mut Context<'_>, why: Ambiguity, scratch: &mut [u8]) -> Result<(), Exit> {
        if self.surroundings.refuse_ambiguous(&self.flow) {
            self.asks = Asks::default();
            self.refuse(400, reason(why));
            return Ok(());
        }
        self.freshen_pod(cx, scratch)?;
        self.to = To::Pod;
        Err(Exit::Opaque(why))
    }

    /// An answer of ours, after which the connection ends.
    pub(super) fn refuse(&mut self, status: u16, why: &str) {
        self.to_client.extend_from_slice(&edit::error_response(status, why, self.asks));
        if let Some(observer) = self.observer.take() {
            observer.own(status);
        }
        self.input = Vec::new();
        self.to_up = Vec::new();
        (self.up, self.down, self.to) = (if self.client_ended { Up::Over } else { Up::Drain }, Down::Closing, To::Nobody);
        for tap in &mut self.taps {
            tap.cut();
        }
    }

    /// Whether the client has said all of its last request: what comes next begins another one.
    pub fn has_whole_request(&self) -> bool {
        !matches!(self.up, Up::Body(_) | Up::Dead)
    }

    /// Answers 400 to first bytes that are no HTTP, instead of passing them on unread.
    pub fn refuse_unread(&mut self) {
        self.count(Event::Opaque(Ambiguity::NotHttp));
        self.to_client = Vec::new();
        self.refuse(400, "a session on this port refuses what its filter cannot read, and these bytes are no HTTP");
    }

    /// While sessions answered, the pod may have closed a connection that it took for idle. The client could not know:
    /// it gets another one. Whether the pod's connection was found to be as it should.
    pub(super) fn freshen_pod(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Exit> {
        if !std::mem::take(&mut self.pod_neglected) || self.pod.poll_open(cx).is_pending() {
            return Ok(());
        }
        match self.pod.poll_read(cx, scratch) {
            std::task::Poll::Pending => Ok(()),
            std::task::Poll::Ready(Ok(read)) if read > 0 => {
                self.to_client.extend_from_slice(&scratch[..read]);
                Err(Exit::Opaque(Ambiguity::Response))
            }
            std::task::Poll::Ready(_) => {
                self.pod = Link::open(&self.surroundings, &self.flow, Upstream::Pod);
                Ok(())
            }
        }
    }

    pub(super) fn count(&self, event: Event) {
        self.surroundings.count(event);
    }
}

/// What a client is told whose bytes are refused.
fn reason(why: Ambiguity) -> &'static str {
    match why {
        Ambiguity::HeadTooLong => "the request's head is too long; shorten its headers",
        Ambiguity::HeadTooSlow => "the request's head did not come in time; send it again",
        Ambiguity::Framing => "the request's length can be read in two ways; send one Content-Length or one Transfer-Encoding: chunked",
        Ambiguity::Chunk => "a chunk of the request's body is malformed; send chunks as RFC 9112 has them",
        _ => "the request's head can be read in two ways; send it as RFC 9112 has it, with CR LF line ends",
    }
}
