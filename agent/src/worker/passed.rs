//! Delivery by sockets: the intproxy connects to the program and passes that connection to us (see `mirrord_protocol::passing`).
//! From then on it is ours like one to the pod, with no copy in between; only that it ends with its session.
//!
//! ```text
//! gateway --open--> Sockets --Ask--> driver ==unix socket==> intproxy
//!         <-Passed-         <-Answer, fd-
//! ```

#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use mirrord_protocol::{
    layer::Origin,
    passing::{Answer, Ask, MAX_ASKED},
};
use mirrord_tunnel::{Inbox, Passing};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Notify, oneshot},
};

use crate::gateway::steer::Flow;

/// Closed connections are told with the next question, or when so many bytes of them have gathered.
const TELL_CLOSED: usize = 1024;

/// A session's connection for passed sockets; clones share it.
#[derive(Clone, Default)]
pub struct Sockets(Rc<Shared>);

#[derive(Default)]
struct Shared {
    ended: Cell<bool>,
    last_id: Cell<u32>,
    /// Asked for and not answered, also if nobody waits any more: they are on their way, and bounded.
    asked: RefCell<HashMap<u32, oneshot::Sender<io::Result<TcpStream>>>>,
    /// Connections that live or are being opened, and whom to wake when the session ends.
    members: RefCell<HashMap<u32, [Option<Waker>; 2]>>,
    /// Not yet sent.
    out: RefCell<Vec<u8>>,
    /// There is something to send, or it has ended.
    wake: Notify,
}

/// A connection's place among its session's.
struct Member {
    shared: Rc<Shared>,
    id: u32,
}

/// The program's end of a connection.
pub struct Passed {
    pub socket: TcpStream,
    member: Member,
    /// What the session would wake: reader and writer.
    armed: [Option<Waker>; 2],
}

#[derive(Clone, Copy)]
enum Side {
    Reader = 0,
    Writer = 1,
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "the session has ended")
}

impl Sockets {
    /// Asks for a connection to the program. The gateway limits the time.
    pub async fn open(&self, flow: &Flow) -> io::Result<Passed> {
        let shared = &self.0;
        if shared.ended.get() {
            return Err(ended());
        }
        if shared.asked.borrow().len() >= MAX_ASKED {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the intproxy does not answer"));
        }
        let id = shared.free_id();
        let (answer, answered) = oneshot::channel();
        shared.asked.borrow_mut().insert(id, answer);
        shared.members.borrow_mut().insert(id, [None, None]);
        let member = Member { shared: shared.clone(), id };
        let origin = Origin { client: flow.client, destination: flow.destination };
        shared.tell(Ask::Open { id, port: flow.destination.port(), origin });
        let socket = answered.await.map_err(|_| ended())??;
        Ok(Passed { socket, member, armed: [None, None] })
    }

    /// Drives it until the intproxy is gone or [`Sockets::end`] is called.
    pub async fn drive(&self, passing: Passing) -> io::Result<()> {
        let result = tokio::select! {
            result = self.0.listen(&passing) => result,
            result = self.0.speak(&passing) => result,
        };
        self.end();
        result
    }

    /// Ends it and all its connections: whoever reads or writes them meets a reset.
    pub fn end(&self) {
        if self.0.ended.replace(true) {
            return;
        }
        self.0.wake.notify_one();
        self.0.asked.take();
        let members = self.0.members.take();
        members.into_values().flatten().flatten().for_each(Waker::wake);
    }
}

impl Shared {
    fn free_id(&self) -> u32 {
        let (asked, members) = (self.asked.borrow(), self.members.borrow());
        let mut id = self.last_id.get();
        loop {
            id = id.wrapping_add(1);
            if !asked.contains_key(&id) && !members.contains_key(&id) {
                self.last_id.set(id);
                return id;
            }
        }
    }

    fn tell(&self, ask: Ask) {
        let mut out = self.out.borrow_mut();
        ask.encode(&mut out);
        // Nobody waits for the intproxy to forget, unless it is still trying.
        let at_once = match ask {
            Ask::Open { .. } => true,
            Ask::Closed { id } => out.len() >= TELL_CLOSED || self.asked.borrow().contains_key(&id),
        };
        if at_once {
            self.wake.notify_one();
        }
    }

    async fn speak(&self, passing: &Passing) -> io::Result<()> {
        loop {
            self.wake.notified().await;
            if self.ended.get() {
                return Ok(());
            }
            let out = self.out.take();
            passing.send(&out, None).await?;
        }
    }

    async fn listen(&self, passing: &Passing) -> io::Result<()> {
        let mut inbox = Inbox::default();
        while passing.receive(&mut inbox).await? {
            self.take_answers(&mut inbox)?;
        }
        Ok(())
    }

    fn take_answers(&self, inbox: &mut Inbox) -> io::Result<()> {
        let bytes = std::mem::take(&mut inbox.bytes);
        let mut rest = &bytes[..];
        while let Some(answer) = Answer::decode(&mut rest).map_err(io::Error::other)? {
            let (id, outcome) = match answer {
                Answer::Connected { id } => (id, inbox.descriptor().and_then(checked)),
                Answer::Refused { id, reason } => (id, Err(io::Error::new(io::ErrorKind::ConnectionRefused, reason))),
            };
            let waiting = self.asked.borrow_mut().remove(&id);
            let waiting = waiting.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer to nothing that was asked"))?;
            // Whoever has given up waiting leaves the connection to be closed.
            let _ = waiting.send(outcome);
        }
        inbox.bytes = rest.to_vec();
        inbox.check()
    }
}

/// A connected TCP socket and nothing else.
fn checked(descriptor: OwnedFd) -> io::Result<TcpStream> {
    let socket = socket2::Socket::from(descriptor);
    let is_ip = matches!(socket.domain()?, socket2::Domain::IPV4 | socket2::Domain::IPV6);
    let is_tcp = socket.r#type()? == socket2::Type::STREAM && socket.protocol()? == Some(socket2::Protocol::TCP);
    if !is_ip || !is_tcp || socket.peer_addr().is_err() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the intproxy passed something that is no TCP connection"));
    }
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket.into())
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.shared.ended.get() {
            self.shared.members.borrow_mut().remove(&self.id);
            self.shared.tell(Ask::Closed { id: self.id });
        }
    }
}

impl Passed {
    #[inline]
    fn check(&self) -> io::Result<()> {
        if self.member.shared.ended.get() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    /// The session's end will wake this task, too. The same task comes again and again: mostly nothing changes.
    #[inline]
    fn arm(&mut self, side: Side, cx: &Context<'_>) {
        let armed = &mut self.armed[side as usize];
        if armed.as_ref().is_some_and(|armed| armed.will_wake(cx.waker())) {
            return;
        }
        *armed = Some(cx.waker().clone());
        if let Some(wakers) = self.member.shared.members.borrow_mut().get_mut(&self.member.id) {
            wakers[side as usize].clone_from(armed);
        }
    }
}

impl AsyncRead for Passed {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        if polled.is_pending() {
            self.arm(Side::Reader, cx);
        }
        polled
    }
}

impl AsyncWrite for Passed {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let polled = Pin::new(&mut self.socket).poll_write(cx, data);
        if polled.is_pending() {
            self.arm(Side::Writer, cx);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
