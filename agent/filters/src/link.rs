//! One link of a chain at work on one thread, whatever its filter is made of. The chain owns the links and knows only
//! this; `own` (docs/abi.md) and `proxy_wasm` implement it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::{Callout, CalloutResponse, ConnectionParts, Edit, Fault, Field, LocalResponse, RequestParts, ResponseParts, Verdict};

/// Names one request of one link to that link, until it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange(pub(crate) u64);

/// What a link still wants to see of an exchange. A window is the number of bytes of which the link likes to see a body
/// at once, at most [`crate::abi::limit::BODY_WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    pub request_body: Option<usize>,
    pub response: bool,
    pub response_body: Option<usize>,
    /// What follows those bodies.
    pub trailers: bool,
    pub end: bool,
}

impl Wants {
    pub(crate) fn nothing(self) -> bool {
        self == Wants::default()
    }
}

/// What a link says about a request.
pub(crate) enum LinkStep {
    /// Nothing, and it wants to see no more of it: most requests.
    Pass,
    Decided(Decision),
    /// It needs so many bytes of the body, or all of it, first.
    NeedsBody(Exchange, usize),
    /// It waits for something else, and wakes who polls.
    Waits(Exchange),
    /// It failed, and has forgotten the request.
    Failed(Fault),
}

/// One link's decision on one request.
#[derive(Default)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) request_edits: Vec<Edit>,
    pub(crate) response_edits: Vec<Edit>,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) delay: Option<Duration>,
    pub(crate) reason: Option<Arc<str>>,
    /// What the link wants to see of the exchange that is named. With nothing it has forgotten the request.
    pub(crate) wants: Wants,
    pub(crate) exchange: Option<Exchange>,
}

/// What a link says about a response's head.
#[derive(Default)]
pub(crate) struct LinkResponse {
    pub(crate) edits: Vec<Edit>,
    pub(crate) replace: Option<LocalResponse>,
    pub(crate) abort: bool,
    pub(crate) reason: Option<Arc<str>>,
    /// It wants to see the body after all (or no longer).
    pub(crate) response_body: Option<usize>,
}

/// What a link says about a piece of a body.
#[derive(Default)]
pub(crate) struct LinkBody {
    pub(crate) replaced: Option<Vec<u8>>,
    pub(crate) abort: bool,
}

/// What a link says about a connection.
#[derive(Default)]
pub(crate) struct LinkConnection {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Option<Arc<str>>,
}

/// Whose body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// A filter's work on one thread. After an `Err` the link has forgotten the exchange.
pub(crate) trait Link {
    /// Whether it could replace bytes of a body that it looks at, or has to judge them before they go on. Nobody waits for one that
    /// cannot. Asked when the head of that side has been decided.
    fn may_change_body(&mut self, _exchange: Exchange, _side: Side) -> bool {
        true
    }

    /// Makes its Wasm instance now instead of at the first request. A failure shows at that request.
    fn warm_up(&mut self);

    fn on_request(&mut self, request: &RequestParts<'_>) -> LinkStep;

    /// Asked after [`LinkStep::NeedsBody`], with the body's beginning, `end` if that is all.
    fn on_undecided_body(&mut self, exchange: Exchange, request: &RequestParts<'_>, body: &[u8], end: bool) -> LinkStep;

    /// Asked after [`LinkStep::Waits`].
    fn poll(&mut self, _cx: &mut Context<'_>, _exchange: Exchange, _request: &RequestParts<'_>) -> Poll<LinkStep> {
        Poll::Ready(LinkStep::Pass)
    }

    fn on_body(&mut self, exchange: Exchange, side: Side, window: &[u8], end: bool) -> Result<LinkBody, Fault>;

    fn on_response(&mut self, exchange: Exchange, response: &ResponseParts<'_>) -> Result<LinkResponse, Fault>;

    /// The exchange is over: forget it; `tell`: the filter asked to be told. For exchanges that named wants, and for undecided
    /// ones that nobody waits for any longer.
    fn on_end(&mut self, exchange: Exchange, tell: bool) -> Result<(), Fault>;

    fn on_connection(&mut self, _connection: &ConnectionParts<'_>) -> Result<LinkConnection, Fault> {
        Ok(LinkConnection::default())
    }

    /// What follows a body that has trailers; its edits.
    fn on_trailers(&mut self, _exchange: Exchange, _side: Side, _trailers: &[Field<'_>]) -> Result<Vec<Edit>, Fault> {
        Ok(Vec::new())
    }

    /// Does what is due without a request, and says when next; wakes `cx` when there is something to do earlier.
    fn background(&mut self, _cx: &mut Context<'_>) -> Result<Option<Duration>, Fault> {
        Ok(None)
    }

    /// HTTP calls that it wants to be made.
    fn take_callouts(&mut self, _link: usize, _out: &mut Vec<Callout>) {}

    /// What came of one; nothing: it failed.
    fn on_callout(&mut self, _generation: u32, _token: u32, _response: Option<CalloutResponse>) -> Result<(), Fault> {
        Ok(())
    }
}
