//! What filters do without a request: ticks, items in queues, and the HTTP calls that they make while they decide. One task a
//! session on each worker, off the request path; it ends some seconds after its chain.
//!
//! ```text
//!   chain --Callout--> task: connect from the target's namespace, HTTP/1.1 or 2, within the call's time --response--> chain
//!                                                                                     └─► wakes the request that waits
//! ```
//!
//! The sockets carry the agent's mark: a call to a port that is redirected must reach the pod, and not the filter again.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::{Rc, Weak},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use mirrord_filters::{Callout, CalloutResponse, Chain, Fault, MAX_CALLOUT_RESPONSE};
use tokio::task::spawn_local;

use crate::socket::PodConnector;

/// How an upstream is declared that speaks HTTP/2.
const HTTP2: &str = "http2://";
/// After this time at the latest a task sees that its chain is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where a chain is, for as long as there is one, and who hears of its faults.
struct Attended<T> {
    owner: Weak<T>,
    chain: fn(&T) -> &RefCell<Chain>,
    fault: Box<dyn Fn(&Fault)>,
    pod: PodConnector,
}

/// Looks after the owner's chain for as long as there is one. Within a `LocalSet`.
pub(super) fn start<T: 'static>(owner: &Rc<T>, chain: fn(&T) -> &RefCell<Chain>, pod: PodConnector, fault: impl Fn(&Fault) + 'static) {
    if chain(owner).borrow().wants_background() {
        spawn_local(look_after(Rc::new(Attended { owner: Rc::downgrade(owner), chain, fault: Box::new(fault), pod })));
    }
}

async fn look_after<T: 'static>(attended: Rc<Attended<T>>) {
    loop {
        // Woken by the chain, or when the time is over that it named.
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let mut is_armed = false;
        let goes_on = poll_fn(|cx| {
            if is_armed && timer.as_mut().poll(cx).is_pending() {
                // Not the timer: look what the chain wants, and take the time anew.
                return Poll::Ready(attended.owner.strong_count() > 0);
            }
            let Some(owner) = attended.owner.upgrade() else { return Poll::Ready(false) };
            let chain = (attended.chain)(&owner);
            let background = chain.borrow_mut().background(cx);
            background.faults.iter().for_each(&attended.fault);
            for callout in chain.borrow_mut().take_callouts() {
                spawn_local(carry_out(attended.clone(), callout));
            }
            let next = background.next.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
            timer.as_mut().reset(tokio::time::Instant::now() + next);
            is_armed = true;
            match timer.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if !goes_on {
            return;
        }
        // A filter whose queue never empties takes turns with requests.
        tokio::task::yield_now().await;
    }
}

async fn carry_out<T: 'static>(attended: Rc<Attended<T>>, callout: Callout) {
    let (id, filter, address, timeout) = (callout.id, callout.filter.clone(), callout.address.clone(), callout.timeout);
    let response = match tokio::time::timeout(timeout, call(callout, attended.pod)).await {
        Ok(Ok(response)) => Some(response),
        Ok(Err(error)) => {
            tracing::debug!(filter, address, %error, "a filter's HTTP call failed");
            None
        }
        Err(_) => {
            tracing::debug!(filter, address, "a filter's HTTP call took longer than it allows");
            None
        }
    };
    let Some(owner) = attended.owner.upgrade() else { return };
    let fault = (attended.chain)(&owner).borrow_mut().on_callout(id, response);
    if let Some(fault) = fault {
        (attended.fault)(&fault);
    }
}

async fn call(callout: Callout, pod: PodConnector) -> io::Result<CalloutResponse> {
    let Callout { address, method, path, authority, headers, body, .. } = callout;
    let (is_http2, address) = match address.strip_prefix(HTTP2) {
        Some(address) => (true, address),
        None => (false, &*address),
    };
    let mut request = Request::builder().method(&*method);
    request = match is_http2 {
        true => request.uri(format!("http://{authority}{path}")),
        false => request.uri(path).header(HOST, authority),
    };
    for (name, value) in headers {
        request = request
            .header(HeaderName::from_bytes(&name).map_err(io::Error::other)?, HeaderValue::from_bytes(&value).map_err(io::Error::other)?);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(io::Error::other)?;
    let destination = tokio::net::lookup_host(address).await?.next().ok_or_else(|| io::Error::other("its name has no address"))?;
    let stream = TokioIo::new(pod.connect_plainly(destination).await?);
    let (_driver, response) = match is_http2 {
        true => {
            let (mut sender, connection) = http2::handshake(LocalExecutor, stream).await.map_err(io::Error::other)?;
            let driver = Driver(spawn_local(async move { drop(connection.await) }));
            // The connection ends with its last sender.
            (driver, (sender.send_request(request).await.map_err(io::Error::other)?, Some(sender)))
        }
        false => {
            let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
            let driver = Driver(spawn_local(async move { drop(connection.await) }));
            (driver, (sender.send_request(request).await.map_err(io::Error::other)?, None))
        }
    };
    let (response, _sender) = response;
    let fields = |map: &http::HeaderMap| map.iter().map(|(name, value)| (name.as_str().into(), value.as_bytes().into())).collect();
    let mut own = CalloutResponse { status: response.status().as_u16(), headers: fields(response.headers()), ..CalloutResponse::default() };
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame.map_err(io::Error::other)?.into_data() {
            Ok(data) => {
                let room = MAX_CALLOUT_RESPONSE - own.body.len();
                own.body.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    break;
                }
            }
            Err(frame) => own.trailers = frame.trailers_ref().map(fields).unwrap_or_default(),
        }
    }
    Ok(own)
}

/// Runs what an HTTP/2 connection does beside its calls, on this thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}

/// Ends a connection with whoever waits for its response.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
