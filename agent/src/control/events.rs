//! The body of a session's reply: its events as JSON lines. Dropped with the connection, it ends the session.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use mirrord_protocol::control::Event;
use tokio::sync::mpsc;

use crate::{app::App, gateway::steer::SessionId};

/// Reply bodies: a session's events, or a few bytes.
pub enum Reply {
    Bytes(Option<Bytes>),
    Events(Events),
}

/// A live session.
pub struct Events {
    /// The first line.
    pub opened: Option<Event>,
    /// workers, control --Event--> session's user
    pub lines: mpsc::Receiver<Event>,
    #[expect(dead_code, reason = "its drop ends the session")]
    pub ends: EndSession,
}

/// Ends the session when its exchange is over, for whatever reason.
pub struct EndSession {
    pub app: Rc<App>,
    pub id: SessionId,
}

impl Drop for EndSession {
    fn drop(&mut self) {
        let (app, id) = (self.app.clone(), self.id);
        tokio::task::spawn_local(async move { app.close_session(id).await });
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Reply::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Reply::Events(events) => {
                let event = match events.opened.take() {
                    Some(opened) => Some(opened),
                    None => ready!(events.lines.poll_recv(cx)),
                };
                let line = event.and_then(|event| serde_json::to_vec(&event).ok()).map(|mut line| {
                    line.push(b'\n');
                    Ok(Frame::data(line.into()))
                });
                Poll::Ready(line)
            }
        }
    }
}
