//! The other kind of delivery connection: the agent asks for connections to the program, and each is passed to it as it is
//! (see `mirrord_protocol::passing`). Only whose it was is remembered here, until the agent says that it has ended.
//!
//! ```text
//! agent --Ask--> serve --Flow--> connect (a task for each) --Answer, socket--> replies --> agent
//! ```

use std::{cell::RefCell, collections::HashMap, io, net::TcpStream, os::fd::AsFd, rc::Rc};

use mirrord_protocol::passing::{Answer, Ask, MAX_ASKED};
use mirrord_tunnel::{Inbox, Passing};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use crate::{
    delivery::{Flow, Program},
    layers::OriginGuard,
};

/// Connections that are being made, or are made and not yet passed, at a time: each needs a descriptor of this process.
const MAX_CONNECTING: usize = 256;

/// An answer, with the socket that belongs to it.
type Reply = (Answer, Option<TcpStream>);

/// What has become of a connection that was asked for and has not been closed.
enum State {
    Connecting(AbortHandle),
    /// The agent has it.
    Passed(#[expect(dead_code, reason = "the program may ask whose it is while this lives")] OriginGuard),
    Refused,
}

type Connections = Rc<RefCell<HashMap<u32, State>>>;

/// Serves a delivery connection to its end.
pub async fn serve(passing: Passing, program: Rc<Program>) -> io::Result<()> {
    // connecting --Reply--> agent; bounded by what may be asked for.
    let (replies, outbox) = mpsc::unbounded_channel();
    tokio::select! {
        result = listen(&passing, program, replies) => result,
        result = speak(&passing, outbox) => result,
    }
}

async fn speak(passing: &Passing, mut outbox: mpsc::UnboundedReceiver<Reply>) -> io::Result<()> {
    while let Some((answer, socket)) = outbox.recv().await {
        passing.send(&answer.encode(), socket.as_ref().map(AsFd::as_fd)).await?;
    }
    Ok(())
}

async fn listen(passing: &Passing, program: Rc<Program>, replies: mpsc::UnboundedSender<Reply>) -> io::Result<()> {
    let connections = Connections::default();
    let permits = Rc::new(Semaphore::new(MAX_CONNECTING));
    let mut connecting = JoinSet::new();
    let mut inbox = Inbox::default();
    while passing.receive(&mut inbox).await? {
        let bytes = std::mem::take(&mut inbox.bytes);
        let mut rest = &bytes[..];
        while let Some(ask) = Ask::decode(&mut rest).map_err(io::Error::other)? {
            while connecting.try_join_next().is_some() {}
            match ask {
                Ask::Open { id, port, origin } => {
                    if connecting.len() >= MAX_ASKED || connections.borrow().contains_key(&id) {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent asks for too much"));
                    }
                    let task = connect(id, Flow { port, origin }, program.clone(), permits.clone(), connections.clone(), replies.clone());
                    let task = connecting.spawn_local(task);
                    connections.borrow_mut().insert(id, State::Connecting(task));
                }
                Ask::Closed { id } => {
                    if let Some(State::Connecting(task)) = connections.borrow_mut().remove(&id) {
                        task.abort();
                        let _ = replies.send((Answer::Refused { id, reason: "nobody waits for it any more".into() }, None));
                    }
                }
            }
        }
        inbox.bytes = rest.to_vec();
        // The agent has nothing to pass to us.
        inbox.check()?;
    }
    Ok(())
}

async fn connect(
    id: u32,
    flow: Flow,
    program: Rc<Program>,
    permits: Rc<Semaphore>,
    connections: Connections,
    replies: mpsc::UnboundedSender<Reply>,
) {
    let connected = async {
        let _permit = permits.acquire().await.map_err(io::Error::other)?;
        let (stream, origin) = program.connect(flow).await?;
        Ok::<_, io::Error>((stream.into_std()?, origin))
    };
    let (state, reply) = match connected.await {
        Ok((stream, origin)) => (State::Passed(origin), (Answer::Connected { id }, Some(stream))),
        Err(error) => (State::Refused, (Answer::Refused { id, reason: error.to_string() }, None)),
    };
    connections.borrow_mut().insert(id, state);
    let _ = replies.send(reply);
}
