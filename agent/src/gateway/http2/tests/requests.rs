//! Where requests go, and that they arrive as they were sent.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};

use super::{
    World, fetch, get, post, run,
    world::{eventually, read, send},
};
use crate::gateway::steer::Event;

#[test]
fn interleaved_requests_reach_the_right_side() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let mut answers = Vec::new();
        for n in 0..250 {
            let (headers, expected): (&[_], _) = match n % 5 {
                0 => (&[("x-to", "1")], "one"),
                1 => (&[], "pod"),
                2 => (&[("x-to", "2")], "two"),
                3 => (&[("x-to", "respond")], "filter"),
                _ => (&[("x-copy", "1,2")], "pod"),
            };
            let (response, _) = client.sender.clone().send_request(get("/name", headers), true).unwrap();
            answers.push((response, expected));
        }
        for (response, expected) in answers {
            let got = read(response).await.unwrap();
            match expected {
                "filter" => {
                    assert_eq!((got.head.status.as_u16(), got.header("x-by"), got.body.len()), (418, Some("filter"), 200_000));
                    assert_eq!(got.header("content-length"), Some("200000"));
                }
                name => assert_eq!((got.text(), got.header("x-server")), (name, Some(name))),
            }
        }
        // 50 stolen and 50 copied each.
        for name in ["one", "two"] {
            eventually("copies", || world.count_of(&format!("{name}: GET /name")) == 100).await;
        }
        assert_eq!(world.count_of("pod: GET /name"), 100);
        assert_eq!(world.opened.get(), 5, "one connection for the pod, one for each session, one for each session's copies");
        assert!(world.events.borrow().is_empty());
    });
}

#[test]
fn a_thousand_streams_at_once() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let answers: Vec<_> = (0..1000)
            .map(|n| {
                let headers: &[_] = if n % 2 == 0 { &[("x-to", "1")] } else { &[] };
                client.sender.clone().send_request(get("/name", headers), true).unwrap().0
            })
            .collect();
        for (n, response) in answers.into_iter().enumerate() {
            assert_eq!(read(response).await.unwrap().text(), if n % 2 == 0 { "one" } else { "pod" });
        }
    });
}

#[test]
fn the_client_is_offered_what_the_pod_offers() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        fetch(&client, get("/name", &[])).await.unwrap();
        assert_eq!(client.sender.current_max_send_streams(), 300);
    });
}

#[test]
fn body_and_trailers_pass_both_ways() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        for headers in [&[][..], &[("x-to", "1")][..]] {
            let (response, mut to) = client.sender.clone().send_request(post("/echo", headers), false).unwrap();
            send(&mut to, Bytes::from(vec![7; 1000])).await.unwrap();
            let mut trailers = HeaderMap::new();
            trailers.append("grpc-status", HeaderValue::from_static("0"));
            trailers.append("x-twice", HeaderValue::from_static("a"));
            trailers.append("x-twice", HeaderValue::from_static("b"));
            to.send_trailers(trailers.clone()).unwrap();
            let got = read(response).await.unwrap();
            assert_eq!((got.body, got.trailers), (vec![7; 1000], Some(trailers)));
        }
    });
}

#[test]
fn messages_go_to_and_fro_on_one_stream() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        for headers in [&[][..], &[("x-to", "1")][..], &[("x-copy", "2")][..]] {
            let (response, mut to) = client.sender.clone().send_request(post("/echo", headers), false).unwrap();
            let mut from = response.await.unwrap().into_body();
            for n in 0..100u8 {
                let message = Bytes::from(vec![0, 0, 0, 0, 1, n]);
                send(&mut to, message.clone()).await.unwrap();
                let mut answer = Vec::new();
                while answer.len() < message.len() {
                    let data = from.data().await.unwrap().unwrap();
                    from.flow_control().release_capacity(data.len()).unwrap();
                    answer.extend_from_slice(&data);
                }
                assert_eq!(answer, message);
            }
            to.send_data(Bytes::new(), true).unwrap();
            assert!(from.data().await.is_none_or(|data| data.unwrap().is_empty()));
        }
    });
}

#[test]
fn an_answer_of_trailers_only_ends_with_its_head() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (response, _) = client.sender.clone().send_request(get("/trailers-only", &[]), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(response.body().is_end_stream(), "END_STREAM came with the head");
    });
}

#[test]
fn informational_responses_pass() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        for headers in [&[][..], &[("x-to", "1")][..]] {
            let (mut response, _) = client.sender.clone().send_request(get("/hints", headers), true).unwrap();
            let hints = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!((hints.status().as_u16(), &hints.headers()["link"]), (103, &HeaderValue::from_static("</a.css>")));
            assert_eq!(read(response).await.unwrap().text(), "after hints");
        }
    });
}

#[test]
fn heads_are_edited_where_a_filter_says_so_and_nowhere_else() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let got = fetch(&client, get("/headers", &[])).await.unwrap();
        assert_eq!(got.text(), "none shop false");
        assert_eq!(got.head.headers.len(), 2, "nothing was added: {:?}", got.head.headers);

        let got = fetch(&client, get("/headers", &[("x-edit", "1"), ("x-to", "1"), ("x-watch", "1")])).await.unwrap();
        assert_eq!(got.text(), "by filter edited false");
        assert_eq!((got.header("x-mark"), got.header("x-watched")), (Some("stolen"), Some("200")));
        assert_eq!(got.header("connection"), None, "it would make the response malformed");
    });
}

#[test]
fn a_request_without_authority_passes() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let request = Request::builder().version(http::Version::HTTP_11).uri("/headers").header("host", "shop").body(()).unwrap();
        assert_eq!(fetch(&client, request).await.unwrap().text(), "none  false");
    });
}

#[test]
fn head_requests_keep_their_length() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let mut request = get("/name", &[("x-to", "respond")]);
        *request.method_mut() = http::Method::HEAD;
        let got = fetch(&client, request).await.unwrap();
        assert_eq!((got.header("content-length"), got.body.len()), (Some("200000"), 0));
    });
}

#[test]
fn a_copy_has_the_whole_body() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/count", &[("x-copy", "1,2")]), false).unwrap();
        send(&mut to, Bytes::from(vec![1; 200_000])).await.unwrap();
        to.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(response).await.unwrap().text(), "200000");
        drop(client);
        for name in ["one", "two"] {
            eventually("the copy, also after the client has gone", || world.saw(&format!("{name}: counted 200000"))).await;
        }
        assert!(world.events.borrow().is_empty());
    });
}

#[test]
fn a_program_that_does_not_read_loses_its_copy_and_holds_nobody() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let size = 8 << 20;
        let (response, mut to) = client.sender.clone().send_request(post("/held/one", &[("x-copy", "1")]), false).unwrap();
        send(&mut to, Bytes::from(vec![1; size])).await.unwrap();
        to.send_data(Bytes::new(), true).unwrap();
        let got = read(response).await.unwrap();
        assert_eq!((got.text(), got.header("x-server")), (size.to_string().as_str(), Some("pod")));
        assert_eq!(*world.events.borrow(), [Event::CopyDropped]);
        world.go.notify_one();
        eventually("the copy is reset", || world.saw("one: count: reset")).await;
    });
}

#[test]
fn copies_for_a_program_that_is_gone_are_dropped() {
    run(async {
        let world = World::new();
        world.sessions.borrow_mut().clear();
        let client = world.client().await;
        assert_eq!(fetch(&client, get("/name", &[("x-copy", "1")])).await.unwrap().text(), "pod");
        eventually("counted", || *world.events.borrow() == [Event::CopyDropped]).await;
    });
}

#[test]
fn copies_for_a_program_that_does_not_answer_are_bounded() {
    run(async {
        let world = World::new();
        let clients = [world.client().await, world.client().await];
        for n in 0..6000 {
            let got = fetch(&clients[n % 2], get("/held/one", &[("x-copy", "1")])).await.unwrap();
            assert_eq!(got.header("x-server"), Some("pod"));
        }
        let dropped = world.events.borrow().len();
        assert!(dropped > 1000 && dropped < 5000, "{dropped}");
        // Other sessions still get theirs.
        fetch(&clients[0], get("/name", &[("x-copy", "2")])).await.unwrap();
        eventually("the other's copy", || world.saw("two: GET /name")).await;
    });
}

#[test]
fn extended_connect_is_offered_if_the_pod_offers_it() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        fetch(&client, get("/name", &[])).await.unwrap();
        assert!(client.sender.is_extended_connect_protocol_enabled());
        // The session's program knows nothing of it: its request goes to the pod.
        for headers in [&[][..], &[("x-to", "1")][..]] {
            let mut request = post("/echo", headers);
            *request.method_mut() = http::Method::CONNECT;
            request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
            let (response, mut to) = client.sender.clone().send_request(request, false).unwrap();
            send(&mut to, Bytes::from_static(b"ping")).await.unwrap();
            to.send_data(Bytes::new(), true).unwrap();
            assert_eq!(read(response).await.unwrap().text(), "ping");
        }
        assert_eq!(world.count_of("pod: CONNECT /echo"), 2);
        assert_eq!(*world.events.borrow(), [Event::FellBack]);
    });
}
