//! What a process gets that is no layer, or a bad one: nothing, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddress, UnixStream},
    },
    thread,
    time::Duration,
};

use mirrord_intproxy::layers::{Layers, PortChange};
use mirrord_protocol::layer::{self, Listener, Message, Reply, VERSION};
use tokio::sync::oneshot;

/// A server whose session opens every port but 666.
struct Server {
    name: String,
    token: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Server {
        let layers = Layers::bind().unwrap();
        let (name, token) = layers.address().split_once(',').map(|(name, token)| (name.into(), token.into())).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (changes, mut asked) = tokio::sync::mpsc::channel(1);
                let session = async {
                    while let Some(change) = asked.recv().await {
                        match change {
                            PortChange::Opened { port: 666, done } => drop(done.send(Err("not that one".into()))),
                            PortChange::Opened { done, .. } => drop(done.send(Ok(()))),
                            PortChange::Closed { done, .. } => drop(done.send(())),
                        }
                    }
                };
                tokio::select! { () = layers.run(changes) => {}, () = session => {}, _ = stopped => {} }
            });
        });
        Server { name, token, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect_addr(&UnixAddress::from_abstract_name(&self.name).unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn layer(&self) -> UnixStream {
        let mut stream = self.connect();
        assert_eq!(ask(&mut stream, &self.hello(VERSION, &self.token)), Reply::Done);
        stream
    }

    fn hello(&self, version: &str, token: &str) -> Message {
        Message::Hello { version: version.into(), token: token.into(), pid: 1 }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn ask(stream: &mut UnixStream, message: &Message) -> Reply {
    layer::write(stream, message).unwrap();
    layer::read(stream).unwrap()
}

fn assert_closed(mut stream: UnixStream) {
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
}

fn at(port: u16) -> Listener {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Listener { asked: address, bound: address }
}

#[test]
fn without_the_token_nothing_is_answered() {
    let server = Server::start();
    for hello in [server.hello(VERSION, "guess"), server.hello(VERSION, ""), server.hello("0.0.0-other", &server.token)] {
        let mut stream = server.connect();
        assert!(matches!(ask(&mut stream, &hello), Reply::Refused(why) if why.contains("mirrord exec")));
        assert_closed(stream);
    }
    let mut stream = server.connect();
    assert!(matches!(ask(&mut stream, &Message::Listen(at(80))), Reply::Refused(_)));
    assert_closed(stream);
}

#[test]
fn a_frame_that_is_none_ends_only_its_own_connection() {
    let server = Server::start();
    let mut good = server.layer();
    let mut hostile = server.layer();
    hostile.write_all(&[0xff; 8]).unwrap();
    assert_closed(hostile);
    let mut garbage = server.layer();
    garbage.write_all(&[3, 0, 0, 0, 99, 99, 99]).unwrap();
    assert_closed(garbage);
    assert_eq!(ask(&mut good, &Message::Find { asked: at(80).asked }), Reply::Moved(None));
}

#[test]
fn many_that_say_nothing_keep_nobody_out_for_long() {
    let server = Server::start();
    let mut good = server.layer();
    let silent: Vec<_> = (0..200).map(|_| server.connect()).collect();
    assert_eq!(ask(&mut good, &Message::Find { asked: at(80).asked }), Reply::Moved(None));
    // Each is let go without a hello; then there is room again.
    for stream in silent {
        assert_closed(stream);
    }
    server.layer();
}

#[test]
fn replies_are_one_for_each_message_and_in_order() {
    let server = Server::start();
    let mut stream = server.layer();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = at(listening.local_addr().unwrap().port());
    for message in [Message::Listen(own), Message::Listen(at(666)), Message::Listen(at(0)), Message::Find { asked: own.asked }] {
        layer::write(&mut stream, &message).unwrap();
    }
    let replies: [Reply; 4] = std::array::from_fn(|_| layer::read(&mut stream).unwrap());
    assert_eq!(replies[0], Reply::Done);
    assert_eq!(replies[1], Reply::Refused("not that one".into()));
    assert!(matches!(replies[2], Reply::Refused(_)));
    assert_eq!(replies[3], Reply::Moved(Some(own.bound)));
    assert_eq!(ask(&mut stream, &Message::Adopt { bound: vec![own.bound] }), Reply::Adopted(vec![own]));
    assert_eq!(ask(&mut stream, &Message::Close { bound: own.bound, is_closed: false }), Reply::Done);
    assert_eq!(ask(&mut stream, &Message::Find { asked: own.asked }), Reply::Moved(None));
}
