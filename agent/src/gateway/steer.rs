//! What the gateway asks about a connection or a request, and the answer: plain data, and the one trait behind which
//! subscriptions, filters, the pod and the sessions stand. The worker implements it; tests implement it in memory.

use std::{io, net::SocketAddr, rc::Rc};

use mirrord_filters::{Edit, LocalResponse, RequestParts, ResponseParts};
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All of it goes to one upstream, unread: nobody subscribes the port (any more), or a session without filters steals it.
    /// If a session cannot take it, the pod gets it.
    Opaque(Upstream),
    /// It is read: as HTTP each request is steered on its own; anything else goes to `other`, with copies to `copies`.
    Read {
        /// Where a connection goes that is not HTTP.
        other: Upstream,
        /// Sessions that get a copy of such a connection's bytes.
        copies: Vec<SessionId>,
    },
}

/// What becomes of one request.
#[derive(Debug, Default)]
pub struct Steering {
    /// Who answers.
    pub target: Target,
    /// Sessions that get a copy of the request. Empty for almost all requests (an empty `Vec` does not allocate).
    pub copies: Vec<SessionId>,
    /// Edits of the request's head before it goes to the target. Copies get the head as it came.
    pub request_edits: Vec<Edit>,
    /// Edits of the response's head, decided with the request.
    pub response_edits: Vec<Edit>,
    /// Present if a filter wants to see the head of the response.
    pub watch: Option<Watch>,
    /// Present if somebody inspects the port: is told what passes.
    pub observer: Option<Observer>,
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
}

/// A filter that wants to see the response of a request that it took: opaque to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    pub session: SessionId,
    pub filter: usize,
    pub token: u64,
}

/// The surroundings of a connection: who subscribes its port, what their filters say, how upstreams are reached.
/// One for each worker thread (`Rc`), so nothing here is shared between threads.
pub trait Surroundings: 'static {
    /// A byte stream to an upstream.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// What to do with a new connection.
    fn plan(&self, flow: &Flow) -> Plan;

    /// Asks the filters of all subscriptions of the port about a request. Never fails, never waits.
    fn steer(&self, flow: &Flow, request: &RequestParts<'_>) -> Steering;

    /// Asks a filter about the response of a request that it took.
    fn response_edits(&self, watch: Watch, response: &ResponseParts<'_>) -> Vec<Edit>;

    /// Whether a subscription of the port wants ambiguous bytes refused (400) rather than passed to the pod.
    fn refuse_ambiguous(&self, flow: &Flow) -> bool;

    /// Connects to an upstream. A session's program that does not take the connection is `ConnectionRefused`.
    fn open(self: &Rc<Self>, flow: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Self::Stream>> + 'static;

    /// Connects to a session's program for copies: what it answers is thrown away.
    fn open_copy(self: &Rc<Self>, flow: &Flow, session: SessionId) -> impl Future<Output = io::Result<Self::Stream>> + 'static {
        self.open(flow, Upstream::Session(session))
    }

    /// Makes dropping a stream abrupt (a reset rather than an end), if it can. Nothing else is done with it afterwards.
    fn abort(&self, _stream: &mut Self::Stream) {}

    /// Whether this agent ends: connections are to end as soon as nothing is under way on them.
    fn is_parting(&self) -> bool {
        false
    }

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
