//! One accepted connection from its first byte to its last: what is planned for its port, what the client speaks, and
//! which machine moves its bytes (`http1` and `opaque` on this task's own polls, `http2` on hyper's).

use std::{future::poll_fn, pin::Pin, rc::Rc, task::Poll, time::Duration};

use tokio::{net::TcpStream, time::Sleep};

use super::{
    http1::relay::{Exit, Relay, Rest, Waiting},
    http2,
    link::Link,
    mirror::Tap,
    opaque::{self, Pump},
    sock::{Sock, Tcp, with_scratch},
    steer::{Ambiguity, Event, Flow, Plan, SessionId, Surroundings, Upstream},
};

/// A session that does not take a connection in this time loses it to the pod.
const OPENING_TIME: Duration = Duration::from_secs(5);
/// How long a client may stay silent after the pod has ended an HTTP connection: what the kernel grants to an orphan.
const CLOSING_PATIENCE: Duration = Duration::from_secs(60);
/// The same for bytes that we do not read, where half a connection may be all that is wanted.
const OPAQUE_PATIENCE: Duration = Duration::from_secs(3600);

/// Serves a connection until both sides have ended.
pub async fn serve<S: Surroundings>(surroundings: Rc<S>, flow: Flow, client: TcpStream) {
    let mut client = Tcp(client);
    let (other, copies) = match surroundings.plan(&flow) {
        Plan::Read { other, copies } => (other, copies),
        Plan::Opaque(upstream) => {
            let pod = Link::open_if_pod(&surroundings, &flow, upstream);
            // What few connections need lives in boxes: an idle connection is to be small.
            return Box::pin(unread(surroundings, flow, client, Rest::of(pod), upstream, Vec::new())).await;
        }
    };
    let pod = Link::open(&surroundings, &flow, Upstream::Pod);
    let mut relay = Relay::new(surroundings.clone(), flow, pod);
    let mut exit = read(&mut relay, &mut client).await;
    let refuses = surroundings.refuse_ambiguous(&flow);
    if exit == Exit::NotHttp && other == Upstream::Pod && refuses {
        relay.refuse_unread();
        exit = read(&mut relay, &mut client).await;
    }
    match exit {
        Exit::Done => return,
        Exit::Gone => return relay.abort(),
        Exit::Reset => return client.abort(),
        Exit::Http2 | Exit::NotHttp | Exit::Opaque(_) | Exit::Tunnel | Exit::Closing => {}
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
        Exit::NotHttp => {
            surroundings.count(Event::Opaque(Ambiguity::NotHttp));
            Box::pin(unread(surroundings, flow, client, rest, other, copies)).await;
        }
        Exit::Opaque(why) => {
            surroundings.count(Event::Opaque(why));
            Box::pin(pump(surroundings, client, rest, Vec::new(), OPAQUE_PATIENCE)).await;
        }
        Exit::Tunnel => Box::pin(pump(surroundings, client, rest, Vec::new(), OPAQUE_PATIENCE)).await,
        _ => Box::pin(pump(surroundings, client, rest, Vec::new(), CLOSING_PATIENCE)).await,
    }
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
async fn unread<S: Surroundings>(
    surroundings: Rc<S>,
    flow: Flow,
    client: Tcp,
    mut rest: Rest<S::Stream>,
    to: Upstream,
    copies: Vec<SessionId>,
) {
    if let Upstream::Session(_) = to {
        let opened = tokio::time::timeout(OPENING_TIME, surroundings.open(&flow, to)).await;
        if let Ok(Ok(stream)) = opened {
            // What the pod may have said meanwhile was not meant for a client of the session's.
            rest = Rest { up: rest.up, client_ended: rest.client_ended, ..Rest::of(Link::Open(stream)) };
        } else {
            surroundings.count(Event::FellBack);
            if let Link::Closed(_) = rest.link {
                rest.link = Link::open(&surroundings, &flow, Upstream::Pod);
            }
        }
    }
    let copies = copies.into_iter().map(|session| Tap::new(&surroundings, flow, session)).collect();
    pump(surroundings, client, rest, copies, OPAQUE_PATIENCE).await;
}

async fn pump<S: Surroundings>(surroundings: Rc<S>, mut client: Tcp, rest: Rest<S::Stream>, copies: Vec<Tap>, patience: Duration) {
    opaque::run(Pump::new(surroundings, rest, copies), &mut client, patience).await;
}

impl<T> Rest<T> {
    /// A connection's beginning.
    fn of(link: Link<T>) -> Self {
        Rest { link, up: Vec::new(), down: Vec::new(), client_ended: false, upstream_ended: false }
    }
}
