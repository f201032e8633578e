//! One accepted connection from its first byte to its last: what is planned for its port, what the client speaks, and
//! which machine moves its bytes (`http1` and `opaque` on this task's own polls, `http2` on hyper's).

use std::{future::poll_fn, pin::Pin, rc::Rc, task::Poll, time::Duration};

use mirrord_filters::ConnectionParts;
use tokio::{net::TcpStream, time::Sleep};

use super::{
    hello,
    http1::relay::{Exit, Relay, Rest, Waiting},
    http2,
    link::Link,
    mirror::Tap,
    opaque::{self, Pump},
    room::Budget,
    sock::{Sock, Tcp, with_scratch},
    steer::{Ambiguity, Connecting, Event, Flow, OPENING_TIME, Plan, Surroundings, Target, Upstream},
};

/// A TLS client whose first message does not come in this time is judged by what has come.
const HELLO_TIME: Duration = Duration::from_secs(2);
/// How long a client may stay silent after the pod has ended an HTTP connection: what the kernel grants to an orphan.
const CLOSING_PATIENCE: Duration = Duration::from_secs(60);
/// The same for bytes that we do not read, where half a connection may be all that is wanted.
const OPAQUE_PATIENCE: Duration = Duration::from_secs(3600);

/// Serves a connection until both sides have ended.
pub async fn serve<S: Surroundings>(surroundings: Rc<S>, flow: Flow, client: TcpStream) {
    let mut client = Tcp(client);
    if let Plan::Opaque(upstream) = surroundings.plan(&flow) {
        let rest = Rest::of(Link::open_if_pod(&surroundings, &flow, upstream));
        let way = Connecting { target: upstream.into(), ..Connecting::default() };
        // What few connections need lives in boxes: an idle connection is to be small.
        return Box::pin(unread(surroundings, flow, client, rest, way)).await;
    }
    let pod = Link::open(&surroundings, &flow, Upstream::Pod);
    let mut relay = Relay::new(surroundings.clone(), flow, pod);
    match read(&mut relay, &mut client).await {
        Exit::Done => {}
        Exit::Gone => relay.abort(),
        Exit::Reset => client.abort(),
        exit => Box::pin(go_on(surroundings, flow, client, relay, exit)).await,
    }
}

/// A connection that is no longer the relay's.
async fn go_on<S: Surroundings>(surroundings: Rc<S>, flow: Flow, mut client: Tcp, mut relay: Relay<S>, mut exit: Exit) {
    let refuses = surroundings.refuse_ambiguous(&flow);
    if exit == Exit::NotHttp {
        let rest = relay.take_rest(exit);
        let (rest, way) = Box::pin(look(&surroundings, &flow, &mut client, rest)).await;
        if !refuses || !matches!(way.target, Target::Pod) {
            drop(relay);
            surroundings.count(Event::Opaque(Ambiguity::NotHttp));
            return Box::pin(unread(surroundings, flow, client, rest, way)).await;
        }
        relay.refuse_unread();
        exit = read(&mut relay, &mut client).await;
    }
    match exit {
        Exit::Done | Exit::NotHttp => return,
        Exit::Gone => return relay.abort(),
        Exit::Reset => return client.abort(),
        Exit::Http2 | Exit::Opaque(_) | Exit::Tunnel | Exit::Closing => {}
    }
    let asked_all = relay.has_whole_request();
    let mut rest = relay.take_rest(exit);
    drop(relay);
    if refuses && asked_all && matches!(exit, Exit::Opaque(_) | Exit::Closing) {
        // The pod has its last word. What the client still says would be a request that nobody has read.
        (rest.up, rest.client_ended) = (Vec::new(), true);
    }
    match exit {
        Exit::Http2 => {
            let pod = if let Link::Open(stream) = rest.link { Some(stream) } else { None };
            Box::pin(http2::serve(surroundings, flow, client.0, rest.up, pod, rest.down)).await;
        }
        Exit::Opaque(why) => {
            surroundings.count(Event::Opaque(why));
            Box::pin(pump(surroundings, client, rest, Vec::new(), OPAQUE_PATIENCE)).await;
        }
        Exit::Tunnel => Box::pin(pump(surroundings, client, rest, Vec::new(), OPAQUE_PATIENCE)).await,
        _ => Box::pin(pump(surroundings, client, rest, Vec::new(), CLOSING_PATIENCE)).await,
    }
}

/// Asks what becomes of a connection that is no HTTP, whose first bytes are in `rest`. Of a client that speaks TLS its whole first
/// message is awaited, if a filter looks at it; nobody waits where the pod has spoken first.
async fn look<S: Surroundings>(
    surroundings: &Rc<S>,
    flow: &Flow,
    client: &mut Tcp,
    mut rest: Rest<S::Stream>,
) -> (Rest<S::Stream>, Connecting) {
    if rest.down.is_empty() && surroundings.looks_at_connections(flow) {
        let whole = poll_fn(|cx| {
            while !rest.client_ended && hello::start(&rest.up) == hello::Start::Partial {
                let read = with_scratch(|scratch| {
                    client.poll_read(cx, scratch).map_ok(|read| {
                        rest.up.extend_from_slice(&scratch[..read]);
                        read
                    })
                });
                match read {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(read) => rest.client_ended |= !read.is_ok_and(|read| read > 0),
                }
            }
            Poll::Ready(())
        });
        // What is there then is what is asked about.
        let _ = tokio::time::timeout(HELLO_TIME, whole).await;
    }
    let mut joined = Vec::new();
    let hello = hello::read(&rest.up, &mut joined).unwrap_or_default();
    let way = surroundings.connection(
        flow,
        &ConnectionParts { client: flow.client, destination: flow.destination, sni: hello.sni, alpn: &hello.alpn, first_bytes: &rest.up },
    );
    (rest, way)
}

/// Runs the relay until the connection is somebody else's, and minds its limits of time.
async fn read<S: Surroundings>(relay: &mut Relay<S>, client: &mut Tcp) -> Exit {
    let mut timer: Option<(Waiting, Pin<Box<Sleep>>)> = None;
    let surroundings = relay.surroundings();
    poll_fn(|cx| {
        with_scratch(|scratch| {
            loop {
                if let Err(exit) = relay.drive(cx, client, scratch) {
                    return Poll::Ready(exit);
                }
                if surroundings.is_parting() && relay.part() {
                    continue;
                }
                let Some(waiting) = relay.waiting() else {
                    timer = None;
                    return Poll::Pending;
                };
                let (_, sleep) = match &mut timer {
                    Some(timer) if timer.0 == waiting => timer,
                    timer => timer.insert((waiting, Box::pin(tokio::time::sleep(waiting.limit())))),
                };
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                timer = None;
                if let Err(exit) = relay.expired(cx, scratch) {
                    return Poll::Ready(exit);
                }
            }
        })
    })
    .await
}

/// A connection that is not read goes to one upstream; to the pod, if that is a session which does not take it.
async fn unread<S: Surroundings>(surroundings: Rc<S>, flow: Flow, mut client: Tcp, mut rest: Rest<S::Stream>, way: Connecting) {
    let mut pod_copy = way.pod_copy;
    match way.target {
        Target::Abort => {
            if let Link::Open(stream) = &mut rest.link {
                surroundings.abort(stream);
            }
            return client.abort();
        }
        Target::Session(id) => {
            let budget = surroundings.purse(id).map(|purse| Budget::begin(&purse, rest.up.len()));
            let opened = match budget {
                Some(None) => None,
                _ => tokio::time::timeout(OPENING_TIME, surroundings.open(&flow, Upstream::Session(id))).await.ok().and_then(Result::ok),
            };
            if let Some(stream) = opened {
                // What the pod may have said meanwhile was not meant for a client of the session's.
                rest = Rest { up: rest.up, client_ended: rest.client_ended, budget: budget.flatten(), ..Rest::of(Link::Open(stream)) };
            } else {
                pod_copy = false;
                surroundings.count(Event::FellBack);
                if let Link::Closed(_) = rest.link {
                    rest.link = Link::open(&surroundings, &flow, Upstream::Pod);
                }
            }
        }
        Target::Pod | Target::Respond(_) => {}
    }
    let pod = pod_copy.then_some(Upstream::Pod);
    let copies = way.copies.into_iter().map(Upstream::Session).chain(pod).map(|to| Tap::new(&surroundings, flow, to)).collect();
    pump(surroundings, client, rest, copies, OPAQUE_PATIENCE).await;
}

async fn pump<S: Surroundings>(surroundings: Rc<S>, mut client: Tcp, rest: Rest<S::Stream>, copies: Vec<Tap>, patience: Duration) {
    opaque::run(Pump::new(surroundings, rest, copies), &mut client, patience).await;
}

impl<T> Rest<T> {
    /// A connection's beginning.
    fn of(link: Link<T>) -> Self {
        Rest { link, up: Vec::new(), down: Vec::new(), client_ended: false, upstream_ended: false, budget: None }
    }
}
