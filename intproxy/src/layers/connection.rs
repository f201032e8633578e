//! One layer's connection: hello, then questions and answers, then, when it ends, what the process had is given back.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mirrord_protocol::{
    layer::{self, Listener, Message, Reply},
    limits::HELLO_TIMEOUT,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::{Registry, Visit, kernel, ports::Ports};

/// How long a listener may be without a process that has told of it, while the kernel still has it: a child of fork that has yet to
/// connect, a program in the middle of exec.
const GRACE: Duration = Duration::from_millis(100);
/// How long a layer may take to send the rest of a message, or to take an answer.
const STALL: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Connection {
    number: u64,
    stream: UnixStream,
    registry: Registry,
    ports: Ports,
}

impl Connection {
    pub(super) fn new(number: u64, stream: UnixStream, registry: Registry, ports: Ports) -> Connection {
        Connection { number, stream, registry, ports }
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self, token: Arc<str>, visit: Visit) {
        if matches!(timeout(HELLO_TIMEOUT, self.greet(&token)).await, Ok(Ok(true))) {
            drop(visit);
            // However it ends, what follows is the same: the process is gone, or as good as.
            drop(self.serve().await);
            self.part().await;
        }
    }

    async fn greet(&mut self, token: &str) -> io::Result<bool> {
        let refusal = match self.receive().await? {
            Message::Hello { version, .. } if version != layer::VERSION => {
                format!(
                    "the layer is of version {version}, the proxy of {}; start the program anew with one build's `mirrord exec`",
                    layer::VERSION
                )
            }
            Message::Hello { token: shown, .. } if is_same(&shown, token) => {
                self.send(&Reply::Done).await?;
                return Ok(true);
            }
            _ => "the session's token is another; start the program with `mirrord exec`".into(),
        };
        self.send(&Reply::Refused(refusal)).await?;
        Ok(false)
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            let message = self.receive().await?;
            let reply = self.answer(message).await;
            self.send(&reply).await?;
        }
    }

    async fn answer(&self, message: Message) -> Reply {
        match message {
            Message::Hello { .. } => Reply::Refused("a second hello".into()),
            Message::Listen(listener) => self.listen(listener).await.map_or_else(Reply::Refused, |()| Reply::Done),
            Message::Close { bound, is_closed } => {
                if is_closed {
                    self.await_heirs(|held| held == bound).await;
                }
                self.settle(self.registry.release(self.number, bound)).await;
                Reply::Done
            }
            Message::Adopt { bound } => Reply::Adopted(self.registry.adopt(self.number, &bound)),
            Message::Origin { peer } => Reply::Origin(self.registry.find_origin(peer)),
            Message::Find { asked } => Reply::Moved(self.registry.find(asked)),
        }
    }

    async fn listen(&self, listener: Listener) -> Result<(), String> {
        let port = listener.asked.port();
        if port == 0 || listener.bound.port() == 0 {
            return Err("port 0 stays local".into());
        }
        self.registry.hold(self.number, listener)?;
        self.ports.settle(port).await
    }

    async fn settle(&self, ports: Vec<u16>) {
        for port in ports {
            // A port that others still hold may be one that could not be opened: its own layer has heard so.
            drop(self.ports.settle(port).await);
        }
    }

    // The process has ended, has become another program, or has lost the connection: all of its listeners may live on elsewhere.
    async fn part(mut self) {
        drop(self.stream.shutdown().await);
        self.await_heirs(|_| true).await;
        for (Listener { bound, .. }, _) in self.registry.held_by(self.number) {
            let ports = self.registry.release(self.number, bound);
            for port in ports {
                drop(self.ports.settle(port).await);
            }
        }
    }

    async fn await_heirs(&self, which: impl Fn(SocketAddr) -> bool) {
        let deadline = Instant::now() + GRACE;
        while self.has_none_for_some(&which) && Instant::now() < deadline {
            sleep(GRACE / 20).await;
        }
    }

    // Whether a listener is open that no other process has told of.
    fn has_none_for_some(&self, which: impl Fn(SocketAddr) -> bool) -> bool {
        let held = self.registry.held_by(self.number).into_iter();
        let mut held = held.filter(|(listener, is_last)| *is_last && which(listener.bound)).peekable();
        if held.peek().is_none() {
            return false;
        }
        let listening = kernel::listening();
        held.any(|(listener, _)| listening.as_ref().is_none_or(|all| all.contains(&listener.bound)))
    }

    async fn receive(&mut self) -> io::Result<Message> {
        let mut prefix = [0; 4];
        // A layer is silent for as long as its program has nothing to say.
        self.stream.read_exact(&mut prefix[..1]).await?;
        let rest = async {
            self.stream.read_exact(&mut prefix[1..]).await?;
            let mut payload = vec![0; layer::frame_length(prefix)?];
            self.stream.read_exact(&mut payload).await?;
            layer::decode(&payload)
        };
        timeout(STALL, rest).await?
    }

    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let frame = layer::encode(reply)?;
        timeout(STALL, self.stream.write_all(&frame)).await?
    }
}

/// Compares without telling by its time how much is right.
fn is_same(shown: &str, token: &str) -> bool {
    let differences = shown.bytes().zip(token.bytes()).fold(0, |sum, (one, other)| sum | (one ^ other));
    shown.len() == token.len() && std::hint::black_box(differences) == 0
}
