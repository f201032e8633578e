//! `POST /v1/inspect`: a session that only looks. It subscribes its ports like any other, has no delivery connections, and its
//! lines come as its workers write them.
//!
//! `workers --Batch--> control --InspectLines--> whoever asked`

use std::{
    collections::BTreeSet,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{Request, StatusCode, body::Incoming};
use mirrord_protocol::{
    control::{Event, Mode},
    limits::MAX_PORTS,
    records::{InspectLine, InspectRequest, MAX_INSPECT_BODY},
};
use tokio::sync::mpsc;

use super::{
    events::{EndSession, Reply, line},
    service::{Connection, Failure, Manner, read, refused},
};
use crate::records::exchanges::{Batch, Lines, Wanted};

/// The lines of an inspecting session.
pub struct Inspecting {
    /// The first line.
    opened: Option<Bytes>,
    notices: mpsc::Receiver<Event>,
    batches: mpsc::Receiver<Batch>,
    #[expect(dead_code, reason = "its drop ends the session")]
    ends: EndSession,
}

impl Connection {
    /// Opens the session; it is answered once all new connections to its ports are looked at.
    pub(super) async fn inspect(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let request: InspectRequest = read(request, "a request to inspect").await?;
        self.may_open().await?;
        let ports = self.ports(&request.ports).await?;
        let wanted = Wanted { headers: request.headers, body: request.body.min(MAX_INSPECT_BODY), credentials: request.show_credentials };
        let (lines, batches) = Lines::new();
        let session = self.new_session(request.owner, Mode::Inspect, Manner::default(), 0, &request.chain, Some((wanted, lines))).await?;
        let (id, notices) = session;
        let ends = EndSession { app: self.app.clone(), id };
        for &port in &ports {
            self.app.sessions.borrow_mut().subscribe(id, port).map_err(|error| refused(StatusCode::CONFLICT, error, ""))?;
        }
        self.app.apply().await.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error, ""))?;
        tracing::info!(session = id, ?ports, "ports are inspected");
        let opened = line(&InspectLine::Inspecting { id, ports: ports.into_iter().collect() });
        Ok(Reply::Inspecting(Inspecting { opened, notices, batches, ends }))
    }

    /// Ends it: its lines end once all that was seen is told.
    pub(super) async fn end_inspection(&self) -> Result<Reply, Failure> {
        self.app.close_session(self.own_session()?).await;
        Ok(Reply::Bytes(None))
    }

    async fn ports(&self, wanted: &[u16]) -> Result<BTreeSet<u16>, Failure> {
        let ports: BTreeSet<u16> = match wanted {
            [] => {
                let found = self.app.listening().await;
                found.map_err(|error| {
                    let error = format!("cannot tell on which ports the target listens: {error}");
                    refused(StatusCode::INTERNAL_SERVER_ERROR, error, "name them with -p")
                })?
            }
            ports => ports.iter().copied().filter(|port| *port != 0).collect(),
        };
        if ports.is_empty() {
            let help = "start its server first, or name the port with -p";
            return Err(refused(StatusCode::CONFLICT, "the target listens on no port that others can reach", help));
        }
        if ports.len() > MAX_PORTS {
            let error = format!("more than {MAX_PORTS} ports");
            return Err(refused(StatusCode::BAD_REQUEST, error, "name those that matter with -p"));
        }
        Ok(ports)
    }
}

impl Inspecting {
    /// Ends when the session has ended and all is told.
    pub fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opened) = self.opened.take() {
            return Poll::Ready(Some(opened));
        }
        if let Poll::Ready(Some(event)) = Pin::new(&mut self.notices).poll_recv(cx) {
            return Poll::Ready(line(&event));
        }
        Pin::new(&mut self.batches).poll_recv(cx).map(|batch| batch.map(|batch| batch.lines.clone()))
    }
}
