//! Passed sockets against an intproxy that behaves and one that does not.

use std::os::fd::AsFd;

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, UnixStream},
    task::LocalSet,
};

use super::*;

/// The intproxy's end.
struct Peer {
    passing: Passing,
    inbox: Inbox,
}

impl Peer {
    async fn asked(&mut self) -> Ask {
        loop {
            let mut rest = &self.inbox.bytes[..];
            if let Some(ask) = Ask::decode(&mut rest).unwrap() {
                self.inbox.bytes = rest.to_vec();
                return ask;
            }
            assert!(self.passing.receive(&mut self.inbox).await.unwrap(), "the agent has ended it");
        }
    }

    async fn opened(&mut self) -> u32 {
        loop {
            match self.asked().await {
                Ask::Open { id, port: 80, .. } => return id,
                // What has ended is told when there is something to ask.
                Ask::Closed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn is_left(&mut self) {
        while self.passing.receive(&mut self.inbox).await.unwrap() {}
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Sockets, Peer) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (near, far) = UnixStream::pair().unwrap();
        let sockets = Sockets::default();
        let driver = sockets.clone();
        tokio::task::spawn_local(async move { driver.drive(Passing::new(near)).await });
        test(sockets, Peer { passing: Passing::new(far), inbox: Inbox::default() }).await;
    });
}

fn ask(sockets: &Sockets) -> tokio::task::JoinHandle<io::Result<Passed>> {
    let sockets = sockets.clone();
    let flow = Flow { client: "10.0.0.9:5000".parse().unwrap(), destination: "10.0.0.1:80".parse().unwrap() };
    tokio::task::spawn_local(async move { sockets.open(&flow).await })
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[test]
fn connections_come_in_any_order_and_end_with_the_session() {
    run(|sockets, mut peer| async move {
        let (one, two) = (ask(&sockets), ask(&sockets));
        let (first, second) = (peer.opened().await, peer.opened().await);
        let (near, mut program) = connection().await;
        peer.passing.send(&Answer::Connected { id: second }.encode(), Some(near.as_fd())).await.unwrap();
        peer.passing.send(&Answer::Refused { id: first, reason: "not now".into() }.encode(), None).await.unwrap();
        drop(near);
        let refused = one.await.unwrap().err().unwrap();
        assert_eq!((refused.kind(), refused.to_string().as_str()), (io::ErrorKind::ConnectionRefused, "not now"));
        let mut passed = two.await.unwrap().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut program, b"x").await.unwrap();
        assert_eq!(passed.read_u8().await.unwrap(), b'x');
        let reading = tokio::task::spawn_local(async move { passed.read_u8().await });
        tokio::task::yield_now().await;
        sockets.end();
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(program.read(&mut [0]).await.unwrap(), 0, "nobody holds it any more");
        peer.is_left().await;
        assert_eq!(ask(&sockets).await.unwrap().err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn an_intproxy_that_goes_takes_all_its_connections_along() {
    run(|sockets, mut peer| async move {
        let (one, two) = (ask(&sockets), ask(&sockets));
        let (near, _program) = connection().await;
        let id = peer.opened().await;
        peer.passing.send(&Answer::Connected { id }.encode(), Some(near.as_fd())).await.unwrap();
        let mut passed = one.await.unwrap().unwrap();
        drop(peer);
        assert_eq!(passed.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(two.await.unwrap().err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_nobody_waits_for_any_more_is_closed_and_said_so() {
    run(|sockets, mut peer| async move {
        let opening = ask(&sockets);
        let id = peer.opened().await;
        opening.abort();
        assert_eq!(peer.asked().await, Ask::Closed { id });
        let (near, mut program) = connection().await;
        peer.passing.send(&Answer::Connected { id }.encode(), Some(near.as_fd())).await.unwrap();
        drop(near);
        assert_eq!(program.read(&mut [0]).await.unwrap(), 0);
        assert!(!sockets.0.ended.get(), "that is in order");
    });
}

#[test]
fn only_connections_are_taken() {
    run(|sockets, mut peer| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for wrong in [listener.as_fd(), unix.as_fd(), file.as_fd()] {
            let opening = ask(&sockets);
            let id = peer.opened().await;
            peer.passing.send(&Answer::Connected { id }.encode(), Some(wrong)).await.unwrap();
            assert!(opening.await.unwrap().is_err(), "{wrong:?}");
        }
        assert!(!sockets.0.ended.get(), "that one connection was wrong, no more");
    });
}

#[test]
fn an_intproxy_that_speaks_unasked_is_left() {
    for (bytes, carries) in [(Answer::Connected { id: 7 }.encode(), true), (Answer::Connected { id: 7 }.encode(), false), (vec![9], false)]
    {
        run(|sockets, mut peer| async move {
            let opening = ask(&sockets);
            peer.opened().await;
            let (near, mut program) = connection().await;
            peer.passing.send(&bytes, carries.then(|| near.as_fd())).await.unwrap();
            drop(near);
            peer.is_left().await;
            assert!(opening.await.unwrap().is_err());
            assert_eq!(program.read(&mut [0]).await.unwrap(), 0);
        });
    }
}
