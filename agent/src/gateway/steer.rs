//! What the gateway asks about a connection or a request, and the answer: plain data, and the one trait behind which
//! subscriptions, filters, the pod and the sessions stand. The worker implements it; tests implement it in memory.

use std::{
    fmt, io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use mirrord_filters::{BodyDecision, ConnectionParts, Edit, Field, LocalResponse, RequestParts, ResponseDecision, ResponseParts, Side};
use mirrord_tunnel::Purse;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::records::exchanges::Observer;

/// A session, unique within the agent.
pub type SessionId = u64;

/// An accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client connected to, before the redirect; its port is the subscribed one.
    pub destination: SocketAddr,
}

/// Where bytes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// The pod's own listener.
    Pod,
    /// The program of a session.
    Session(SessionId),
}

/// What is known of a connection before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All of it goes to one upstream, unread: nobody subscribes the port (any more), or a session without filters steals it.
    /// If a session cannot take it, the pod gets it.
    Opaque(Upstream),
    /// It is read: as HTTP each request is steered on its own; about anything else [`Surroundings::connection`] is asked.
    Read,
}

/// A session that does not take a request or a connection in this time, or whose program says nothing on it, loses it to the pod.
pub const OPENING_TIME: Duration = Duration::from_secs(5);

/// What becomes of one request.
#[derive(Debug, Default)]
pub struct Steering {
    /// Who answers.
    pub target: Target,
    /// Sessions that get a copy of the request. Empty for almost all requests (an empty `Vec` does not allocate).
    pub copies: Vec<SessionId>,
    /// What few requests need.
    pub extra: Option<Box<Extra>>,
    /// Present if somebody inspects the port: is told what passes.
    pub observer: Option<Observer>,
    /// When it was decided, of a request on HTTP/2 whose upstream's time to answer is measured.
    pub decided: Option<Instant>,
}

/// What a filter wants of a request besides who answers it.
#[derive(Debug, Default)]
pub struct Extra {
    /// Edits of the request's head before it goes to the target. Copies get the head as it came.
    pub request_edits: Vec<Edit>,
    /// What the request asks for instead: a path that begins with `/`.
    pub path: Option<Vec<u8>>,
    /// Edits of the response's head, decided with the request.
    pub response_edits: Vec<Edit>,
    /// How long this request waits before it goes on.
    pub delay: Option<Duration>,
    /// The pod gets a copy, too, and its answer is thrown away.
    pub pod_copy: bool,
    /// The filters that want to see more of the exchange.
    pub follow: Option<Box<dyn Follow>>,
}

impl Steering {
    /// Takes out how long the request is to wait.
    pub fn take_delay(&mut self) -> Option<Duration> {
        self.extra.as_mut()?.delay.take()
    }
}

/// Who answers a request.
#[derive(Debug, Default)]
pub enum Target {
    /// The pod, as without us.
    #[default]
    Pod,
    /// The program of a session.
    Session(SessionId),
    /// We, in a filter's name; the request's body is read and thrown away.
    Respond(LocalResponse),
    /// Nobody: the connection (HTTP/1) or the stream (HTTP/2) is reset.
    Abort,
}

impl From<Upstream> for Target {
    fn from(upstream: Upstream) -> Self {
        match upstream {
            Upstream::Pod => Target::Pod,
            Upstream::Session(id) => Target::Session(id),
        }
    }
}

/// What the filters say about a request that they have seen the head of.
#[derive(Debug)]
pub enum Steered {
    Decided(Steering),
    /// One of them has not decided: the request is held, and nothing else.
    Undecided(Box<dyn Undecided>),
}

/// How long filters may take to decide about one request, all together.
pub const DECISION_TIME: Duration = Duration::from_secs(5);
/// More questions about one request's body are not asked.
pub const MOST_QUESTIONS: u8 = 64;

/// A request that a filter has not decided yet. It is [`Undecided::skip`]ped when it takes too long or too much; dropped, the
/// filters are told that the exchange has ended.
pub trait Undecided: fmt::Debug {
    /// `Some`: so many bytes of the body are needed, or all of it. `None`: it is to be [`Undecided::poll`]ed.
    fn window(&self) -> Option<usize>;

    /// Gives it the body's beginning, without framing; `end`: that is all of it.
    fn with_body(self: Box<Self>, request: &RequestParts<'_>, body: &[u8], end: bool) -> Steered;

    /// Whether what it waits for has come. After `Ready` it is spent.
    fn poll(&mut self, cx: &mut Context<'_>, request: &RequestParts<'_>) -> Poll<Steered>;

    /// Goes on without that filter, for which its failure policy speaks, and without any other that does not decide at once.
    fn skip(self: Box<Self>, request: &RequestParts<'_>) -> Steering;
}

/// Filters that follow an exchange after the verdict. Dropping it tells them that the exchange is over, however it ended.
pub trait Follow: fmt::Debug {
    /// Of how many bytes somebody wants to see the body at once; `None`: nobody looks at it (any more). For the response this may
    /// change with [`Follow::on_response`].
    fn window(&self, side: Side) -> Option<usize>;

    /// Whether anybody who looks at that body could replace bytes of it. If not, they need not wait for it.
    fn may_replace(&self, side: Side) -> bool;

    /// A window of a body without its framing, shorter at its `end` (or when there is no room to hold a whole one).
    fn on_body(&mut self, side: Side, bytes: &[u8], end: bool) -> BodyDecision;

    /// Whether somebody who looks at bodies wants to see what follows them.
    fn wants_trailers(&self) -> bool {
        false
    }

    /// What follows a body, which has ended; what is to become of it.
    fn on_trailers(&mut self, _side: Side, _trailers: &[Field<'_>]) -> Vec<Edit> {
        Vec::new()
    }

    /// Whether somebody wants to see the response's head.
    fn wants_response(&self) -> bool;

    /// The head of the final response.
    fn on_response(&mut self, response: &ResponseParts<'_>) -> ResponseDecision;
}

/// What becomes of a connection that is no HTTP.
#[derive(Debug, Default)]
pub struct Connecting {
    /// Who gets it; never [`Target::Respond`].
    pub target: Target,
    /// Sessions that get a copy of its bytes.
    pub copies: Vec<SessionId>,
    /// The pod gets a copy, too, and its answer is thrown away.
    pub pod_copy: bool,
}

/// The surroundings of a connection: who subscribes its port, what their filters say, how upstreams are reached.
/// One for each worker thread (`Rc`), so nothing here is shared between threads.
pub trait Surroundings: 'static {
    /// A byte stream to an upstream.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// What to do with a new connection.
    fn plan(&self, flow: &Flow) -> Plan;

    /// Asks the filters of all subscriptions of the port about a request. Never fails, never waits.
    fn steer(self: &Rc<Self>, flow: &Flow, request: &RequestParts<'_>) -> Steered;

    /// Whether a filter looks at connections that are no HTTP, so that it is worth waiting for a TLS client's whole first message.
    fn looks_at_connections(&self, _flow: &Flow) -> bool {
        false
    }

    /// Asks all subscriptions of the port about a connection that is no HTTP.
    fn connection(&self, flow: &Flow, connection: &ConnectionParts<'_>) -> Connecting;

    /// Whether a subscription of the port wants ambiguous bytes refused (400) rather than passed to the pod.
    fn refuse_ambiguous(&self, flow: &Flow) -> bool;

    /// Connects to an upstream. A session's program that does not take the connection is `ConnectionRefused`.
    fn open(self: &Rc<Self>, flow: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Self::Stream>> + 'static;

    /// Connects to an upstream for copies: what it answers is thrown away.
    fn open_copy(self: &Rc<Self>, flow: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Self::Stream>> + 'static {
        self.open(flow, upstream)
    }

    /// What bounds the bytes that a session's requests have under way.
    fn purse(&self, _session: SessionId) -> Option<Purse> {
        None
    }

    /// Makes dropping a stream abrupt (a reset rather than an end), if it can. Nothing else is done with it afterwards.
    fn abort(&self, _stream: &mut Self::Stream) {}

    /// Whether this agent ends: connections are to end as soon as nothing is under way on them.
    fn is_parting(&self) -> bool {
        false
    }

    /// Takes note of how long an upstream took to answer a request that is measured.
    fn answered(&self, _upstream: Upstream, _took: Duration) {}

    /// Takes note of something that an operator counts.
    fn count(&self, event: Event);
}

/// What the gateway counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A connection or the rest of one became opaque, and why.
    Opaque(Ambiguity),
    /// A copy was dropped because a session's program is slow or gone.
    CopyDropped,
    /// A request that was to be stolen went to the pod because the session could not take it.
    FellBack,
    /// A stolen request was answered 502.
    BadGateway,
    /// A filter did not decide about a request in time, or wanted more of it than there is room for: it was not waited for.
    Skipped,
}

/// Why bytes cannot be read as HTTP for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ambiguity {
    /// The first bytes are no HTTP (also TLS, and protocols in which the server speaks first).
    NotHttp,
    /// A head that cannot be parsed, or that others would parse differently (bare LF, obs-fold, NUL, space before the colon, odd version …).
    Head,
    /// A head over the limit.
    HeadTooLong,
    /// A head that did not come to its end in time.
    HeadTooSlow,
    /// Content-Length and Transfer-Encoding, differing or malformed lengths, unknown codings.
    Framing,
    /// A chunk that cannot be parsed.
    Chunk,
    /// The pod's response cannot be read: what follows it is nobody's guess.
    Response,
}
