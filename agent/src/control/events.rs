//! The bodies of replies: mostly a few bytes, or lines of JSON that go on. A session's is its life: dropped with the connection, it
//! ends the session.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use mirrord_protocol::control::Event;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{explain::Following, inspect::Inspecting};
use crate::{app::App, gateway::steer::SessionId};

/// Reply bodies.
pub enum Reply {
    Bytes(Option<Bytes>),
    Events(Events),
    Decisions(Following),
    Inspecting(Inspecting),
}

/// A line of JSON.
pub fn line(value: &impl Serialize) -> Option<Bytes> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    Some(line.into())
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
                Poll::Ready(event.and_then(|event| line(&event)).map(|line| Ok(Frame::data(line))))
            }
            Reply::Decisions(decisions) => decisions.poll_line(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
            Reply::Inspecting(inspecting) => inspecting.poll_line(cx).map(|lines| lines.map(|lines| Ok(Frame::data(lines)))),
        }
    }
}
