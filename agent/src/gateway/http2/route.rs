//! Where one request goes: pod, session or our own answer, and what becomes of it if it cannot be had there.
//!
//! ```text
//! undecided, delayed: held.rs ┐
//! steering ─ pod ─────────────→ exchange ─ fails → as the pod's own failure: reset, or the connection closes
//!          ├ session ─────────→ exchange ─ fails → pod, if nothing was lost yet; else 502
//!          └ respond ─────────→ answered, the body read and thrown away
//! ```

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::Poll,
};

use h2::{Reason, RecvStream, server::SendResponse};
use http::{Method, Request};
use mirrord_filters::{LocalResponse, Side};
use mirrord_protocol::records::End;
use mirrord_tunnel::Outgoing;

use super::{
    copies::{Copies, head_of},
    exchange::{Clock, Edits, Failed, Fault, Incoming, exchange, fault},
    head,
    link::{Link, Signal},
    pump::Body,
    upstreams::{Key, Upstreams},
    windows::Windows,
};
use crate::gateway::steer::{Event, Extra, Flow, SessionId, Steered, Steering, Surroundings, Target, Upstream};

/// How a request ends that a filter wants reset.
const ABORTED: Reason = Reason::INTERNAL_ERROR;

/// What the requests of one client connection share.
pub(super) struct Shared<S: Surroundings> {
    pub(super) surroundings: Rc<S>,
    pub(super) flow: Flow,
    pub(super) upstreams: Rc<Upstreams<S>>,
    pub(super) copies: Copies<S>,
    /// What the client may send ahead.
    pub(super) windows: Rc<Windows>,
    /// Requests that are with a session now.
    pub(super) stolen: Cell<usize>,
    /// Requests that wait for the client's connection to be closed, because the pod's was.
    pub(super) parked: Cell<usize>,
    /// Set when such a request begins to wait.
    pub(super) broken: Signal<()>,
}

/// What else becomes of a stolen request.
struct Stolen {
    edits: Edits,
    /// The head with what a filter changed, if it did.
    edited: Option<Request<()>>,
    pod_copy: bool,
}

impl<S: Surroundings> Shared<S> {
    /// Asks the filters and starts the copies. Done as requests come in, so that filters see them in their order.
    pub(super) fn steer(self: Rc<Self>, request: Request<RecvStream>, respond: SendResponse<Outgoing>) -> impl Future<Output = ()> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let mut steered = head::with_request(&self.flow, &head, body.is_end_stream(), |parts| self.surroundings.steer(&self.flow, parts));
        let mut incoming = Incoming { body: Body::new(body, self.windows.clone()), respond, observer: None, clock: Clock::default() };
        if let Steered::Decided(steering) = &mut steered {
            self.begin(steering, &head, &mut incoming);
        }
        self.conduct(steered, head, incoming)
    }

    /// Starts the copies, and shows the exchange to whoever looks on.
    pub(super) fn begin(&self, steering: &mut Steering, head: &Request<()>, Incoming { body, observer, .. }: &mut Incoming) {
        if let Some(looks) = steering.observer.take() {
            body.observe(Some(&looks), Side::Request);
            *observer = Some(looks);
        }
        for &session in &steering.copies {
            self.copies.start(Upstream::Session(session), head, body.is_end_stream(), &mut body.taps);
        }
    }

    async fn conduct(self: Rc<Self>, steered: Steered, head: Request<()>, mut incoming: Incoming) {
        let steering = match steered {
            Steered::Decided(steering) if steering.extra.as_ref().is_none_or(|extra| extra.delay.is_none()) => steering,
            // Boxed, as are other branches: every task is as large as its largest one, and almost all go to the pod as they came.
            held => match Box::pin(self.hold(held, &head, &mut incoming)).await {
                Some(steering) => steering,
                None => return,
            },
        };
        let Steering { target, extra, decided, .. } = steering;
        incoming.clock.decided = decided;
        match (target, extra) {
            (Target::Pod, None) => self.to_pod(head, &mut incoming, &Edits::default()).await,
            (target, extra) => Box::pin(self.route(target, extra.map(|extra| *extra).unwrap_or_default(), head, &mut incoming)).await,
        }
    }

    async fn route(&self, target: Target, extra: Extra, head: Request<()>, incoming: &mut Incoming) {
        let Extra { request_edits, path, response_edits, follow, pod_copy, delay: _ } = extra;
        let edits = Edits { response: response_edits, follow: follow.map(|follow| Rc::new(RefCell::new(follow))) };
        let edited = (path.is_some() || !request_edits.is_empty()).then(|| {
            let mut edited = head_of(&head);
            head::edit_request(&mut edited, &request_edits);
            if let Some(path) = path {
                head::set_path(&mut edited, &path);
            }
            edited
        });
        match target {
            Target::Pod => self.to_pod(edited.unwrap_or(head), incoming, &edits).await,
            Target::Session(session) => self.to_session(session, head, incoming, Stolen { edits, edited, pod_copy }).await,
            Target::Respond(local) => answer(local, head.method(), incoming).await,
            Target::Abort => incoming.respond.send_reset(ABORTED),
        }
    }

    async fn to_pod(&self, head: Request<()>, incoming: &mut Incoming, edits: &Edits) {
        let link = match self.upstreams.ready(Key::Pod) {
            Some(link) => link,
            None => match Box::pin(self.open(Key::Pod, incoming)).await {
                Some(Ok(link)) => link,
                // The client asked for a pod that is not there: without us it would not have got a connection.
                Some(Err(_)) => return self.pod_broke(|| incoming.respond.send_reset(Reason::REFUSED_STREAM)).await,
                None => return,
            },
        };
        // What is needed of the head if a filter replaces the answer.
        let method = edits.follow.is_some().then(|| head.method().clone());
        let ended = exchange(&link, head, incoming, edits).await;
        self.note_time(Upstream::Pod, incoming);
        match ended {
            Ok(()) | Err(Failed::ClientGone) => {}
            Err(Failed::Replaced(local)) => Box::pin(answer(local, &method.unwrap_or_default(), incoming)).await,
            Err(Failed::Aborted) => incoming.respond.send_reset(ABORTED),
            Err(Failed::Unanswered(error)) => match fault(&error) {
                Fault::Reset(reason) => incoming.respond.send_reset(reason),
                Fault::Unprocessed => incoming.respond.send_reset(Reason::REFUSED_STREAM),
                Fault::Broken => self.pod_broke(|| incoming.respond.send_reset(Reason::INTERNAL_ERROR)).await,
            },
            Err(Failed::CutOff(error, mut to_client)) => match fault(&error) {
                Fault::Reset(reason) => to_client.send_reset(reason),
                Fault::Unprocessed | Fault::Broken => self.pod_broke(|| to_client.send_reset(Reason::INTERNAL_ERROR)).await,
            },
        }
    }

    /// The pod's connection broke, so the client's breaks too, unless a session is answering on it: then only the stream does.
    async fn pod_broke(&self, reset: impl FnOnce()) {
        if self.stolen.get() > 0 {
            return reset();
        }
        self.parked.set(self.parked.get() + 1);
        self.broken.set(());
        std::future::pending::<()>().await;
        // Never reached: what `reset` holds keeps the stream open, so that h2 says nothing of it before the close.
        drop(reset);
    }

    async fn to_session(&self, session: SessionId, head: Request<()>, incoming: &mut Incoming, way: Stolen) {
        if self.surroundings.purse(session).is_some_and(|purse| !purse.has_room_for_new(0)) {
            drop(way);
            return self.fall_back(session, "it does not take what it has been sent already", head, incoming).await;
        }
        let stolen = Counted::one(&self.stolen);
        let link = match self.open(Key::Session(session), incoming).await {
            Some(Ok(link)) if link.understands(&head) => link,
            Some(refused) => {
                let why = refused.err().unwrap_or_else(|| "it does not offer extended CONNECT (WebSocket over HTTP/2)".into());
                drop((stolen, way));
                return self.fall_back(session, &why, head, incoming).await;
            }
            None => return,
        };
        let Stolen { edits, edited, pod_copy } = way;
        if pod_copy {
            // Not before: the pod would get a request twice that the session does not take.
            self.copies.start(Upstream::Pod, &head, incoming.body.is_end_stream(), &mut incoming.body.taps);
        }
        let method = head.method().clone();
        let (spare, edited) = match edited {
            Some(edited) => (head::is_idempotent(&method).then_some(head), edited),
            None => (head::is_idempotent(&method).then(|| head_of(&head)), head),
        };
        let ended = exchange(&link, edited, incoming, &edits).await;
        self.note_time(Upstream::Session(session), incoming);
        match ended {
            Ok(()) | Err(Failed::ClientGone) => {}
            Err(Failed::Replaced(local)) => answer(local, &method, incoming).await,
            Err(Failed::Aborted) => incoming.respond.send_reset(ABORTED),
            Err(Failed::Unanswered(error)) => match (fault(&error), spare) {
                // The program's own word.
                (Fault::Reset(reason), _) if error.is_remote() => incoming.respond.send_reset(reason),
                (_, Some(head)) if !incoming.body.is_touched() => {
                    incoming.body.unfollow();
                    drop((stolen, edits));
                    self.fall_back(session, &error.to_string(), head, incoming).await;
                }
                _ => {
                    tracing::warn!(session, %error, "a stolen request could not be answered");
                    self.surroundings.count(Event::BadGateway);
                    let why = format!("{error} (check that the program is still running, and its log)");
                    answer(head::bad_gateway(&why), &method, incoming).await;
                }
            },
            Err(Failed::CutOff(error, mut to_client)) => to_client.send_reset(match fault(&error) {
                Fault::Reset(reason) => reason,
                Fault::Unprocessed | Fault::Broken => Reason::INTERNAL_ERROR,
            }),
        }
    }

    async fn fall_back(&self, session: SessionId, why: &str, head: Request<()>, incoming: &mut Incoming) {
        tracing::warn!(session, why, "a stolen request goes to the pod");
        self.surroundings.count(Event::FellBack);
        if let Some(observer) = &incoming.observer {
            observer.fell_back();
        }
        Box::pin(self.to_pod(head, incoming, &Edits::default())).await;
    }

    fn note_time(&self, upstream: Upstream, incoming: &mut Incoming) {
        if let Some(took) = incoming.clock.take() {
            self.surroundings.answered(upstream, took);
        }
    }

    /// Opens a connection, unless the client gives up before.
    async fn open(&self, key: Key, incoming: &mut Incoming) -> Option<Result<Link, Rc<str>>> {
        incoming.body.set_stuck(true);
        let link = tokio::select! {
            link = self.upstreams.get(key) => Some(link),
            _ = poll_fn(|cx| incoming.respond.poll_reset(cx)) => None,
        };
        incoming.body.set_stuck(false);
        link
    }
}

/// Answers in a filter's name, or our own; the request's body is read and thrown away.
async fn answer(local: LocalResponse, method: &Method, incoming: &mut Incoming) {
    if let Some(observer) = &incoming.observer {
        observer.local(&local);
        observer.end(End::Complete);
    }
    let (response, mut body) = head::local_response(local, method);
    let Ok(mut to_client) = incoming.respond.send_response(response, body.is_empty()) else { return };
    let send = async {
        while !body.is_empty() {
            to_client.reserve_capacity(body.len());
            let granted = poll_fn(|cx| match to_client.capacity() {
                0 => to_client.poll_capacity(cx).map(|granted| granted.and_then(Result::ok).map(|_| to_client.capacity())),
                granted => Poll::Ready(Some(granted)),
            });
            let Some(granted) = granted.await else { return };
            let part = body.split_to(granted.min(body.len()));
            let ends = body.is_empty();
            if to_client.send_data(part.into(), ends).is_err() {
                return;
            }
        }
    };
    tokio::join!(send, incoming.body.drain());
}

/// Counts while it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn one(cell: &'a Cell<usize>) -> Self {
        cell.set(cell.get() + 1);
        Counted(cell)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
