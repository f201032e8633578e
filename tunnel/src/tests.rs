//! The two ends against each other over an in-memory pipe.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::LocalSet,
};

use crate::{Client, Refusal, Server};

/// Counts how often it was woken.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn on_one_thread(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(LocalSet::new().run_until(test));
}

/// A client whose peer answers each stream by its path: `/echo`, `/refuse`, `/stall` (accepts and never reads).
async fn pair() -> Client {
    let (near, far) = duplex(64 << 10);
    tokio::task::spawn_local(async move {
        let mut server = Server::accept(far).await.unwrap();
        let mut stalled = Vec::new();
        while let Ok(Some(offer)) = server.next().await {
            match offer.head.uri().path() {
                "/echo" => {
                    let mut stream = offer.accept().unwrap();
                    tokio::task::spawn_local(async move {
                        let mut buffer = vec![0; 16 << 10];
                        loop {
                            match stream.read(&mut buffer).await {
                                Ok(0) | Err(_) => break,
                                Ok(n) => stream.write_all(&buffer[..n]).await.unwrap(),
                            }
                        }
                        let _ = stream.shutdown().await;
                    });
                }
                "/stall" => stalled.push(offer.accept().unwrap()),
                _ => offer.refuse(Response::builder().status(502).body(()).unwrap()).unwrap(),
            }
        }
    });
    let (client, driver) = Client::connect(near).await.unwrap();
    tokio::task::spawn_local(driver);
    client
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://tunnel{path}")).body(()).unwrap()
}

#[test]
fn bytes_go_both_ways_and_both_ends_close() {
    on_one_thread(async {
        let client = pair().await;
        let mut stream = client.open(post("/echo")).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let mut received = Vec::new();
        let (wrote, read) = tokio::join!(
            async {
                write.write_all(&sent).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut received)
        );
        wrote.unwrap();
        read.unwrap();
        assert!(sent == received);
    });
}

#[test]
fn a_refusal_carries_its_head() {
    on_one_thread(async {
        match pair().await.open(post("/refuse")).await {
            Err(Refusal::Answered(head)) => assert_eq!(head.status(), StatusCode::BAD_GATEWAY),
            other => panic!("{:?}", other.map(drop)),
        }
    });
}

#[test]
fn stopped_readers_stall_nobody_else() {
    on_one_thread(async {
        let client = Rc::new(pair().await);
        let mut held = Vec::new();
        for _ in 0..100 {
            let mut stream = client.open(post("/stall")).await.unwrap();
            // Fills the window; the rest would wait for the reader.
            let full = tokio::time::timeout(std::time::Duration::from_millis(20), stream.write_all(&vec![0; 1 << 20])).await;
            assert!(full.is_err(), "the window must hold a writer back");
            held.push(stream);
        }
        let mut stream = client.open(post("/echo")).await.unwrap();
        stream.write_all(b"still here").await.unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"still here");
    });
}

#[test]
fn a_transport_that_takes_nothing_holds_up_its_streams_and_a_bounded_number_of_bytes() {
    on_one_thread(async {
        let (near, far) = duplex(64 << 10);
        let (stop_tx, mut stop_rx) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Receiver<()>>(1);
        tokio::task::spawn_local(async move {
            let mut server = Server::accept(far).await.unwrap();
            loop {
                tokio::select! {
                    // Nobody drives the connection meanwhile: nothing is read.
                    Some(go_on) = stop_rx.recv() => go_on.await.unwrap(),
                    offer = server.next() => {
                        let Ok(Some(offer)) = offer else { return };
                        let mut stream = offer.accept().unwrap();
                        tokio::task::spawn_local(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
                    }
                }
            }
        });
        let (client, driver) = Client::connect(near).await.unwrap();
        tokio::task::spawn_local(driver);
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(client.open(post("/")).await.unwrap());
        }
        let (go_on, waits) = tokio::sync::oneshot::channel();
        stop_tx.send(waits).await.unwrap();
        let taken = Rc::new(std::cell::Cell::new(0));
        let writers: Vec<_> = streams
            .into_iter()
            .map(|mut stream| {
                let taken = taken.clone();
                tokio::task::spawn_local(async move {
                    for _ in 0..8 {
                        stream.write_all(&[0; 32 << 10]).await.unwrap();
                        taken.set(taken.get() + (32 << 10));
                    }
                    stream
                })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let most = crate::SEND_PURSE + (1 << 20);
        assert!(taken.get() > crate::SEND_PURSE / 2 && taken.get() < most, "{} bytes were taken", taken.get());
        go_on.send(()).unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(taken.get(), 200 * (256 << 10));
    });
}

#[test]
fn a_dropped_stream_is_reset() {
    on_one_thread(async {
        let (near, far) = duplex(64 << 10);
        let (client, driver) = {
            let server = tokio::task::spawn_local(async move {
                let mut server = Server::accept(far).await.unwrap();
                let mut stream = server.next().await.unwrap().unwrap().accept().unwrap();
                let read = tokio::task::spawn_local(async move { stream.read_u8().await.map_err(|error| error.kind()) });
                while let Ok(Some(_)) = server.next().await {}
                read.await.unwrap()
            });
            let (client, driver) = Client::connect(near).await.unwrap();
            tokio::task::spawn_local(driver);
            (client, server)
        };
        drop(client.open(post("/")).await.unwrap());
        drop(client);
        assert_eq!(driver.await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_copy_passes_on_half_closes_and_stops_at_errors() {
    on_one_thread(async {
        let ((mut near, left), (right, mut far)) = (duplex(16), duplex(16));
        let copying = tokio::task::spawn_local(crate::copy(left, right));
        let asking = tokio::task::spawn_local(async move {
            near.write_all(&[7; 1000]).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut asked = Vec::new();
        far.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, [7; 1000], "the end of the question arrives while the answer is still open");
        far.write_all(&[8; 1000]).await.unwrap();
        drop(far);
        assert_eq!(asking.await.unwrap(), [8; 1000]);
        copying.await.unwrap().unwrap();
    });
}
