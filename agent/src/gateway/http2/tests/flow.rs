//! Back-pressure: what one stream's reader does not take is held back at its sender, and only there.

use bytes::Bytes;

use super::{
    World, fetch, get, post, run, settle,
    world::{read, send},
};

/// All buffers on a stream's way: windows, send buffers and pipes of both connections.
const ON_THE_WAY: usize = 2 << 20;

#[test]
fn a_big_response_waits_for_its_reader() {
    run(async {
        for headers in [&[][..], &[("x-to", "1")][..]] {
            let world = World::new();
            let client = world.client().await;
            let size = 64 << 20;
            let (response, _) = client.sender.clone().send_request(get(&format!("/big/{size}"), headers), true).unwrap();
            let response = response.await.unwrap();
            settle().await;
            let sent = world.sent.get();
            assert!(sent < ON_THE_WAY, "{sent} bytes are on the way to a reader that does not read");
            settle().await;
            assert_eq!(world.sent.get(), sent);

            let mut body = response.into_body();
            let mut got = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                got += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
                assert!(world.sent.get() < got + ON_THE_WAY);
            }
            assert_eq!(got, size);
        }
    });
}

#[test]
fn a_big_upload_waits_for_its_reader() {
    run(async {
        for headers in [&[][..], &[("x-to", "1")][..]] {
            let world = World::new();
            let client = world.client().await;
            let size = 64 << 20;
            let (response, mut to) = client.sender.clone().send_request(post("/held", headers), false).unwrap();
            let sent = std::rc::Rc::new(std::cell::Cell::new(0));
            let counter = sent.clone();
            let upload = tokio::task::spawn_local(async move {
                for _ in 0..size / (16 << 10) {
                    send(&mut to, Bytes::from(vec![1; 16 << 10])).await.unwrap();
                    counter.set(counter.get() + (16 << 10));
                }
                to.send_data(Bytes::new(), true).unwrap();
            });
            settle().await;
            assert!(sent.get() < ON_THE_WAY, "{} bytes are on the way to a handler that does not read", sent.get());
            world.go.notify_one();
            assert_eq!(read(response).await.unwrap().text(), size.to_string());
            upload.await.unwrap();
        }
    });
}

#[test]
fn stalled_streams_of_a_session_hold_nobody_else() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        // 80 uploads that the program does not read, each as much as it may.
        let mut stalled = Vec::new();
        for _ in 0..80 {
            let (response, mut to) = client.sender.clone().send_request(post("/held", &[("x-to", "1")]), false).unwrap();
            let upload = tokio::task::spawn_local(async move { send(&mut to, Bytes::from(vec![1; 4 << 20])).await });
            stalled.push((response, upload));
        }
        settle().await;
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
        let (response, mut to) = client.sender.clone().send_request(post("/count", &[]), false).unwrap();
        send(&mut to, Bytes::from(vec![1; 5 << 20])).await.unwrap();
        to.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(response).await.unwrap().text(), (5 << 20).to_string());
        for (_, upload) in stalled {
            upload.abort();
        }
    });
}

#[test]
fn many_small_frames_do_not_end_the_connection() {
    run(async {
        let world = World::new();
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/count", &[]), false).unwrap();
        for n in 0..20_000 {
            send(&mut to, Bytes::from_static(b"x")).await.unwrap();
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        to.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(response).await.unwrap().text(), "20000");
    });
}

#[test]
fn stalled_downloads_hold_no_other() {
    run(async {
        for headers in [&[][..], &[("x-to", "1")][..]] {
            let world = World::new();
            let client = world.client().await;
            // Each fills its windows and waits for a reader.
            let mut stalled = Vec::new();
            for _ in 0..80 {
                let (response, _) = client.sender.clone().send_request(get("/big/4194304", headers), true).unwrap();
                stalled.push(response.await.unwrap());
            }
            settle().await;
            let before = world.sent.get();
            let got = fetch(&client, get("/big/5242880", headers)).await.unwrap();
            assert_eq!(got.body.len(), 5 << 20);
            assert!(world.sent.get() < before + (6 << 20) + ON_THE_WAY, "the stalled ones are not read for that");
            for response in stalled {
                let mut body = response.into_body();
                let mut got = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    got += data.len();
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                assert_eq!(got, 4 << 20);
            }
        }
    });
}
