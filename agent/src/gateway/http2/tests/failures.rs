//! What becomes of a request when the pod, a session or the client fails, at each stage.

use std::future::poll_fn;

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{
    World, fetch, get, post, run,
    world::{eventually, read, send},
};
use crate::gateway::steer::Event;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn resets_keep_their_reason_on_the_way_to_the_client() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        for headers in [&[][..], &[("x-to", "1")][..]] {
            for reason in [Reason::REFUSED_STREAM, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::from(77)] {
                let error = fetch(&client, get(&format!("/reset/{}", u32::from(reason)), headers)).await.unwrap_err();
                assert_eq!((error.reason(), error.is_reset(), error.is_remote()), (Some(reason), true, true));
            }
            let (response, _) = client.sender.clone().send_request(get("/reset-midway", headers), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "half");
            assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(Reason::INADEQUATE_SECURITY));
        }
        assert!(world.events.borrow().is_empty());
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
    });
}

#[test]
fn resets_keep_their_reason_on_the_way_to_the_server() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        for (name, headers) in [("pod", &[][..]), ("one", &[("x-to", "1")][..])] {
            let (_response, mut to) = client.sender.clone().send_request(get("/never", headers), true).unwrap();
            eventually("it arrived", || world.saw(&format!("{name}: GET /never"))).await;
            to.send_reset(Reason::NO_ERROR);
            eventually("given up", || world.saw(&format!("{name}: given up NO_ERROR"))).await;

            let (response, mut to) = client.sender.clone().send_request(post("/echo", headers), false).unwrap();
            send(&mut to, Bytes::from_static(b"some")).await.unwrap();
            let mut from = response.await.unwrap().into_body();
            assert_eq!(from.data().await.unwrap().unwrap(), "some");
            to.send_reset(Reason::INTERNAL_ERROR);
            eventually("given up", || world.saw(&format!("{name}: reset by Some(INTERNAL_ERROR)"))).await;
        }
    });
}

#[test]
fn an_early_answer_stops_the_upload() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/early", &[]), false).unwrap();
        let got = read(response).await.unwrap();
        assert_eq!((got.head.status.as_u16(), got.text()), (413, "too much"));
        assert_eq!(poll_fn(|cx| to.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
    });
}

#[test]
fn a_client_that_vanishes_cancels_all() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let mut kept = Vec::new();
        for headers in [&[][..], &[("x-to", "1")][..]] {
            kept.push(client.sender.clone().send_request(get("/never", headers), true).unwrap());
        }
        eventually("they arrived", || world.saw("pod: GET /never") && world.saw("one: GET /never")).await;
        client.connection.abort();
        eventually("all is closed", || world.saw("pod: closed") && world.saw("one: closed")).await;
    });
}

#[test]
fn the_pods_goaway_reaches_the_client_and_nothing_is_lost() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let (held, mut to) = client.sender.clone().send_request(post("/held", &[]), false).unwrap();
        to.send_data(Bytes::from_static(b"abc"), true).unwrap();
        eventually("it arrived", || world.saw("pod: POST /held")).await;
        assert_eq!(fetch(&client, get("/goaway", &[])).await.unwrap().text(), "pod");
        // The client learns of it without asking, while a request is still open.
        let refused = loop {
            match poll_fn(|cx| client.sender.poll_ready(cx)).await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert_eq!((refused.is_go_away(), refused.reason()), (true, Some(Reason::NO_ERROR)));
        world.go.notify_one();
        assert_eq!(read(held).await.unwrap().text(), "3");
        eventually("the connection is closed", || client.served.is_finished()).await;
    });
}

#[test]
fn the_pods_goaway_does_not_touch_a_client_that_a_session_answers() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (held, mut to) = client.sender.clone().send_request(post("/held", &[("x-to", "1")]), false).unwrap();
        eventually("it arrived", || world.saw("one: POST /held")).await;
        assert_eq!(fetch(&client, get("/goaway", &[])).await.unwrap().text(), "pod");
        eventually("the pod's connection is gone", || world.saw("pod: closed")).await;
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod", "on a new connection");
        world.go.notify_one();
        to.send_data(Bytes::from_static(b"abc"), true).unwrap();
        assert_eq!(read(held).await.unwrap().text(), "3");
    });
}

#[test]
fn an_error_of_the_pods_connection_has_its_code_at_the_client() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        assert!(fetch(&client, get("/goaway-hard", &[])).await.is_err());
        let error = (&mut client.connection).await.unwrap().unwrap_err();
        assert_eq!((error.is_go_away(), error.reason()), (true, Some(Reason::ENHANCE_YOUR_CALM)));
        eventually("closed", || client.served.is_finished()).await;
    });
}

#[test]
fn a_pod_that_dies_breaks_the_connection_as_it_would_without_us() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (never, _) = client.sender.clone().send_request(get("/never", &[]), true).unwrap();
        eventually("it arrived", || world.saw("pod: GET /never")).await;
        assert!(fetch(&client, get("/die", &[])).await.unwrap_err().is_io());
        assert!(read(never).await.unwrap_err().is_io());
        eventually("closed", || client.served.is_finished()).await;
    });
}

#[test]
fn a_pod_that_dies_leaves_a_sessions_streams_alone() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (held, mut to) = client.sender.clone().send_request(post("/held", &[("x-to", "1")]), false).unwrap();
        eventually("it arrived", || world.saw("one: POST /held")).await;
        assert!(fetch(&client, get("/die", &[])).await.unwrap_err().is_reset());
        world.go.notify_one();
        to.send_data(Bytes::from_static(b"abc"), true).unwrap();
        assert_eq!(read(held).await.unwrap().text(), "3");
    });
}

#[test]
fn a_pod_that_is_not_there_closes_the_connection_but_sessions_answer() {
    run(async {
        let world = World::new();
        *world.pod.borrow_mut() = None;
        let client = world.client().await;
        assert_eq!(fetch(&client, get("/name", &[("x-to", "1")])).await.unwrap().text(), "one");
        assert!(fetch(&client, get("/name", &[])).await.unwrap_err().is_io());
        eventually("closed", || client.served.is_finished()).await;
    });
}

#[test]
fn what_a_pod_without_http2_says_reaches_the_client() {
    run(async {
        let world = World::new();
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        *world.pod.borrow_mut() = Some(World::says(answer));
        let (mut near, far) = duplex(64 << 10);
        near.write_all(b"what the pod does not understand").await.unwrap();
        let served = world.serve_early(far, PREFACE.to_vec()).await;
        let mut got = Vec::new();
        near.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, answer);
        drop(near);
        served.await.unwrap();
    });
}

#[test]
fn a_session_that_cannot_take_a_request_leaves_it_to_the_pod() {
    run(async {
        for program in [None, Some(World::says(b"")), Some(World::says(b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n"))] {
            let world = World::new();
            world.sessions.borrow_mut().clear();
            world.sessions.borrow_mut().extend(program.map(|program| (1, program)));
            let client = world.client().await;
            let (response, mut to) = client.sender.clone().send_request(post("/count", &[("x-to", "1"), ("x-edit", "1")]), false).unwrap();
            send(&mut to, Bytes::from(vec![1; 300_000])).await.unwrap();
            to.send_data(Bytes::new(), true).unwrap();
            let got = read(response).await.unwrap();
            assert_eq!((got.text(), got.header("x-server"), got.header("x-mark")), ("300000", Some("pod"), None));
            assert_eq!(*world.events.borrow(), [Event::FellBack]);
        }
    });
}

#[test]
fn a_session_that_dies_before_it_answers() {
    run(async {
        let world = World::new();
        let program = std::rc::Rc::downgrade(&world);
        // Dies under its first request, whatever that is.
        world.sessions.borrow_mut().insert(
            1,
            std::rc::Rc::new(move |io| {
                let world = program.upgrade().unwrap();
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(io).await.unwrap();
                    let _request = connection.accept().await;
                    world.log.borrow_mut().push("one: died".into());
                });
            }),
        );
        let client = world.client().await;
        // Idempotent and nothing lost: the pod answers.
        assert_eq!(fetch(&client, get("/name", &[("x-to", "1")])).await.unwrap().text(), "pod");
        assert_eq!(*world.events.borrow(), [Event::FellBack]);
        world.events.borrow_mut().clear();

        let (response, mut to) = client.sender.clone().send_request(post("/name", &[("x-to", "1")]), false).unwrap();
        to.send_data(Bytes::from_static(b"order"), true).unwrap();
        let got = read(response).await.unwrap();
        assert_eq!(got.head.status.as_u16(), 502);
        assert!(got.text().starts_with("mirrord: ") && got.text().contains("check that the program"), "{}", got.text());
        assert_eq!(*world.events.borrow(), [Event::BadGateway]);
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod", "the connection lives on");

        // What the pod does with a request that fell back is what it would have done.
        assert!(fetch(&client, get("/die", &[("x-to", "1")])).await.unwrap_err().is_io());
    });
}

#[test]
fn nonsense_ends_its_own_stream_only() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/count", &[("content-length", "3")]), false).unwrap();
        to.send_data(Bytes::from_static(b"four"), true).unwrap();
        assert_eq!(read(response).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
    });
}

#[test]
fn stolen_requests_do_not_wait_for_a_pod_that_hangs() {
    run(async {
        let world = World::new();
        *world.pod.borrow_mut() = Some(World::stopped());
        let client = world.client().await;
        let (_waits, _) = client.sender.clone().send_request(get("/name", &[]), true).unwrap();
        assert_eq!(fetch(&client, get("/name", &[("x-to", "1")])).await.unwrap().text(), "one");
    });
}
