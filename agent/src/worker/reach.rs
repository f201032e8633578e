//! How a worker reaches upstreams: the pod's listener, a session's program by a passed socket or through its tunnel.

use std::{future::Future, io, rc::Rc};

use http::{Request, StatusCode};
use mirrord_protocol::deliver;
use mirrord_tunnel::{Client, Refusal};

use super::{
    latency::Timed,
    table::{Delivery, Worker},
    thread::Stream,
    tied::Tied,
};
use crate::gateway::steer::{Flow, Upstream};

impl Worker {
    /// Connects to an upstream.
    pub(super) fn reach(
        self: &Rc<Self>,
        flow: &Flow,
        upstream: Upstream,
    ) -> impl Future<Output = io::Result<Timed<Tied<Stream>>>> + 'static {
        let (flow, this) = (*flow, self.clone());
        async move {
            let stream = match upstream {
                Upstream::Pod => Tied { stream: Stream::Tcp(this.pod.connect(flow.destination, flow.client).await?), tie: None },
                Upstream::Session(id) => {
                    let refused = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
                    let subscriber = this.sessions.borrow().get(&id).cloned();
                    let subscriber =
                        subscriber.filter(|one| !one.is_aside.get()).ok_or_else(|| refused("the session has ended or stands still"))?;
                    let link = subscriber.link.borrow().clone().ok_or_else(|| refused("the session has ended"))?;
                    let tie = subscriber.ties.tie().ok_or_else(|| refused("the session has as many streams as it may"))?;
                    let opening = async {
                        match link {
                            Delivery::Tunnel(client) => deliver(&client, &flow).await.map(Stream::Tunnel),
                            Delivery::Sockets(sockets) => sockets.open(&flow).await.map(Stream::Passed),
                        }
                    };
                    tie.hold(opening).await?
                }
            };
            Ok(this.stopwatch.watch(stream, &flow, upstream))
        }
    }
}

/// Opens a delivery stream; resolves once the intproxy has connected to the program. The gateway limits the time.
async fn deliver(link: &Client, flow: &Flow) -> io::Result<mirrord_tunnel::Stream> {
    let head = Request::post(format!("http://mirrord{}", deliver::PATH))
        .header(deliver::PORT, flow.destination.port())
        .header(deliver::CLIENT, flow.client.to_string())
        .header(deliver::DESTINATION, flow.destination.to_string())
        .body(())
        .map_err(io::Error::other)?;
    match link.open(head).await {
        Ok(stream) => Ok(stream),
        Err(Refusal::Answered(response)) if response.status() == StatusCode::BAD_GATEWAY => {
            let why = response.headers().get(deliver::ERROR).and_then(|why| why.to_str().ok()).unwrap_or("the program does not take it");
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned()))
        }
        Err(Refusal::Answered(response)) => Err(io::Error::other(format!("the intproxy answered {}", response.status()))),
        Err(Refusal::Failed(error)) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, error)),
    }
}
