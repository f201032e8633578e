//! What filters may ask beyond a verdict on the head: to see bodies before and after it, to wait, delay, abort, rewrite, replace.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use mirrord_filters::{BodyDecision, LocalResponse, RequestParts, ResponseDecision, ResponseParts, Side};
use tokio::time::Instant;

use super::{
    World, fetch, get, post, run, settle,
    world::{Client, eventually, read, send},
};
use crate::gateway::{
    room::{Room, WORKER_ROOM},
    steer::{Event, Extra, Follow, Steered, Steering, Target, Undecided},
};

/// What tests' filters tell, in order.
type Told = Rc<RefCell<Vec<String>>>;

/// Steals to session 1 what says `steal` within its window.
#[derive(Debug)]
struct ByBody {
    window: usize,
    told: Told,
}

impl Undecided for ByBody {
    fn window(&self) -> Option<usize> {
        Some(self.window)
    }

    fn with_body(self: Box<Self>, request: &RequestParts<'_>, body: &[u8], end: bool) -> Steered {
        assert!(body.len() == self.window || (end && body.len() < self.window));
        assert_eq!(request.method, b"POST");
        self.told.borrow_mut().push(format!("{} {end}", body.len()));
        let mine = body.windows(5).any(|word| word == b"steal");
        Steered::Decided(Steering { target: if mine { Target::Session(1) } else { Target::Pod }, ..Steering::default() })
    }

    fn poll(&mut self, _: &mut Context<'_>, _: &RequestParts<'_>) -> Poll<Steered> {
        panic!("it waits for a body")
    }

    fn skip(self: Box<Self>, _: &RequestParts<'_>) -> Steering {
        self.told.borrow_mut().push("skipped".into());
        Steering::default()
    }
}

impl Drop for ByBody {
    fn drop(&mut self) {
        self.told.borrow_mut().push("over".into());
    }
}

/// A world whose filter looks at the body of each POST.
fn by_body(window: usize) -> (Rc<World>, Told) {
    let (world, told) = (World::new(), Told::default());
    let notes = told.clone();
    *world.filter.borrow_mut() = Some(Box::new(move |request, steering| match request.method {
        b"POST" => Steered::Undecided(Box::new(ByBody { window, told: notes.clone() })),
        _ => Steered::Decided(steering),
    }));
    (world, told)
}

/// A world whose filter has this to say to each request.
fn says(extra: impl Fn() -> Extra + 'static) -> Rc<World> {
    let world = World::new();
    *world.filter.borrow_mut() = Some(Box::new(move |_, mut steering| {
        steering.extra = Some(Box::new(extra()));
        Steered::Decided(steering)
    }));
    world
}

/// Sends a request with a body and trailers.
async fn echo(client: &Client, body: &[&'static [u8]], headers: &[(&'static str, &str)]) -> Result<super::world::Got, h2::Error> {
    let (response, mut to) = client.sender.clone().send_request(post("/echo", headers), false)?;
    for piece in body {
        send(&mut to, Bytes::from_static(piece)).await.unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-trailer", "t".parse().unwrap());
    to.send_trailers(trailers)?;
    read(response).await
}

#[test]
fn a_request_is_decided_by_its_body_and_goes_on_whole() {
    run(async {
        for window in [1, 9, 10, 1000] {
            let (world, _) = by_body(window);
            let client = world.client().await;
            for (body, who) in [([&b"pass"[..], b" this "], "pod"), ([&b"ste"[..], b"al this"], if window < 5 { "pod" } else { "one" })] {
                let got = echo(&client, &body, &[]).await.unwrap();
                assert_eq!((got.text(), got.header("x-server")), (&*String::from_utf8(body.concat()).unwrap(), Some(who)), "{window}");
                assert_eq!(got.trailers.unwrap()["x-trailer"], "t");
            }
        }
    });
}

#[test]
fn a_body_longer_than_the_streams_window_can_be_asked_for() {
    run(async {
        let (world, told) = by_body(1 << 20);
        let client = world.client().await;
        for (size, who) in [(900_000, "one"), (1 << 20, "one"), (3 << 20, "one")] {
            let (response, mut to) = client.sender.clone().send_request(post("/count", &[]), false).unwrap();
            let mut body = vec![b'x'; size];
            body[700_000..700_005].copy_from_slice(b"steal");
            send(&mut to, body.into()).await.unwrap();
            to.send_data(Bytes::new(), true).unwrap();
            let got = read(response).await.unwrap();
            assert_eq!((got.text(), got.header("x-server")), (&*size.to_string(), Some(who)));
        }
        // Whether a whole window is all is not known before the stream ends.
        assert_eq!(*told.borrow(), ["900000 true", "over", "1048576 false", "over", "1048576 false", "over"]);
    });
}

#[test]
fn only_the_stream_of_an_undecided_request_is_held_and_not_for_ever() {
    run(async {
        let (world, told) = by_body(100);
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/echo", &[]), false).unwrap();
        send(&mut to, Bytes::from_static(b"slow")).await.unwrap();
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
        settle().await;
        assert!(!world.log.borrow().iter().any(|line| line.contains("/echo")), "{:?}", world.log);
        let held = Instant::now();
        let response = response.await.unwrap();
        assert!(held.elapsed() >= Duration::from_secs(4));
        assert_eq!(response.headers()["x-server"], "pod");
        to.send_data(Bytes::from_static(b"er"), true).unwrap();
        let mut body = response.into_body();
        let mut got = Vec::new();
        while let Some(data) = body.data().await {
            got.extend_from_slice(&data.unwrap());
        }
        assert_eq!(got, b"slower");
        assert_eq!(*told.borrow(), ["skipped", "over"]);
        assert_eq!(*world.events.borrow(), [Event::Skipped]);
    });
}

#[test]
fn an_undecided_request_whose_client_gives_up_is_over() {
    run(async {
        let (world, told) = by_body(100);
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/echo", &[]), false).unwrap();
        settle().await;
        to.send_reset(Reason::CANCEL);
        eventually("the filter hears of it", || *told.borrow() == ["over"]).await;
        drop(response);
        assert!(!world.log.borrow().iter().any(|line| line.contains("/echo")));
    });
}

#[test]
fn without_room_a_request_is_not_held() {
    run(async {
        let (world, told) = by_body(1000);
        let client = world.client().await;
        let mut others = Room::default();
        assert!(others.hold(WORKER_ROOM - 10));
        let got = echo(&client, &[b"more than ten bytes", b" to steal"], &[]).await.unwrap();
        assert_eq!((got.text(), got.header("x-server")), ("more than ten bytes to steal", Some("pod")));
        assert_eq!(*told.borrow(), ["skipped", "over"]);
    });
}

/// Waits for a word.
#[derive(Debug)]
struct ByWord(Rc<RefCell<(Option<u64>, Option<Waker>)>>);

impl Undecided for ByWord {
    fn window(&self) -> Option<usize> {
        None
    }

    fn with_body(self: Box<Self>, _: &RequestParts<'_>, _: &[u8], _: bool) -> Steered {
        panic!("it needs no body")
    }

    fn poll(&mut self, cx: &mut Context<'_>, _: &RequestParts<'_>) -> Poll<Steered> {
        let mut word = self.0.borrow_mut();
        match word.0 {
            Some(session) => Poll::Ready(Steered::Decided(Steering { target: Target::Session(session), ..Steering::default() })),
            None => {
                word.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn skip(self: Box<Self>, _: &RequestParts<'_>) -> Steering {
        Steering::default()
    }
}

#[test]
fn a_request_waits_for_what_its_filter_waits_for() {
    run(async {
        let (world, word) = (World::new(), Rc::new(RefCell::new((None, None::<Waker>))));
        let asked = word.clone();
        *world.filter.borrow_mut() = Some(Box::new(move |request, steering| match request.path {
            b"/name" => Steered::Decided(steering),
            _ => Steered::Undecided(Box::new(ByWord(asked.clone()))),
        }));
        let client = world.client().await;
        let (response, _) = client.sender.clone().send_request(get("/held-up", &[]), true).unwrap();
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
        let waker = word.borrow_mut().1.take();
        word.borrow_mut().0 = Some(2);
        waker.expect("it was asked").wake();
        assert_eq!(read(response).await.unwrap().text(), "two");
        // A body that has come meanwhile is not lost.
        word.borrow_mut().0 = None;
        let (response, mut to) = client.sender.clone().send_request(post("/count", &[]), false).unwrap();
        send(&mut to, Bytes::from(vec![1; 200_000])).await.unwrap();
        to.send_data(Bytes::new(), true).unwrap();
        settle().await;
        word.borrow_mut().0 = Some(1);
        word.borrow_mut().1.take().unwrap().wake();
        assert_eq!(read(response).await.unwrap().text(), "200000");
    });
}

#[test]
fn a_delay_holds_one_request() {
    run(async {
        let world = World::new();
        *world.filter.borrow_mut() = Some(Box::new(|request, mut steering| {
            let delay = (request.path == b"/late").then_some(Duration::from_millis(300));
            steering.extra = Some(Box::new(Extra { delay, ..Extra::default() }));
            Steered::Decided(steering)
        }));
        let client = world.client().await;
        let began = Instant::now();
        let (late, _) = client.sender.clone().send_request(get("/late", &[("x-to", "1")]), true).unwrap();
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
        assert!(began.elapsed() < Duration::from_millis(300), "others are not held");
        assert_eq!(read(late).await.unwrap().text(), "one");
        assert!(began.elapsed() >= Duration::from_millis(300));
    });
}

#[test]
fn an_aborted_request_is_reset_and_reaches_nobody() {
    run(async {
        let world = World::new();
        *world.filter.borrow_mut() = Some(Box::new(|request, steering| match request.path {
            b"/never" => Steered::Decided(Steering { target: Target::Abort, ..Steering::default() }),
            _ => Steered::Decided(steering),
        }));
        let client = world.client().await;
        let error = fetch(&client, get("/never", &[])).await.unwrap_err();
        assert!(error.is_reset() && error.is_remote());
        assert_eq!(fetch(&client, get("/name", &[])).await.unwrap().text(), "pod");
        assert!(!world.log.borrow().iter().any(|line| line.contains("/never")));
    });
}

#[test]
fn a_path_is_rewritten_for_who_answers() {
    run(async {
        let world = says(|| Extra { path: Some(b"/headers?q=1".to_vec()), ..Extra::default() });
        let client = world.client().await;
        for (headers, name) in [(&[][..], "pod"), (&[("x-to", "1")][..], "one")] {
            let got = fetch(&client, get("/other", headers)).await.unwrap();
            assert_eq!(got.text(), "none shop false");
            assert_eq!(got.header("x-server"), Some(name));
        }
        assert!(!world.log.borrow().iter().any(|line| line.contains("/other")), "{:?}", world.log);
    });
}

#[test]
fn the_pod_gets_a_copy_of_what_a_session_answers_unless_it_answers_itself() {
    run(async {
        let world = says(|| Extra { pod_copy: true, ..Extra::default() });
        let client = world.client().await;
        let got = echo(&client, &[b"body"], &[("x-to", "1")]).await.unwrap();
        assert_eq!((got.text(), got.header("x-server")), ("body", Some("one")));
        let (response, mut to) = client.sender.clone().send_request(post("/count", &[("x-to", "1")]), false).unwrap();
        to.send_data(Bytes::from_static(b"12345"), true).unwrap();
        assert_eq!(read(response).await.unwrap().header("x-server"), Some("one"));
        eventually("the pod has its copies", || {
            let log = world.log.borrow();
            log.contains(&"pod: POST /echo".into()) && log.contains(&"pod: counted 5".into())
        })
        .await;
        world.log.borrow_mut().clear();
        // Session 3 does not exist.
        let got = echo(&client, &[b"body"], &[("x-to", "3")]).await.unwrap();
        assert_eq!((got.text(), got.header("x-server")), ("body", Some("pod")));
        settle().await;
        assert_eq!(world.log.borrow().iter().filter(|line| line.contains("/echo")).count(), 1);
    });
}

/// Follows an exchange: replaces `a` by `bbb` in the bodies that it looks at, in windows.
#[derive(Debug, Default)]
struct Follower {
    windows: [Option<usize>; 2],
    replaces: bool,
    wants_response: bool,
    says: ResponseDecision,
    abort_on: Option<&'static str>,
    told: Notes,
}

/// Notes the end of who has it.
#[derive(Debug, Default)]
struct Notes(Told);

impl Notes {
    fn note(&self, line: String) {
        self.0.borrow_mut().push(line);
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.note("over".into());
    }
}

impl Follow for Follower {
    fn window(&self, side: Side) -> Option<usize> {
        self.windows[side as usize]
    }

    fn may_replace(&self, side: Side) -> bool {
        self.replaces && self.window(side).is_some()
    }

    fn on_body(&mut self, side: Side, bytes: &[u8], end: bool) -> BodyDecision {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.told.note(format!("{side:?} {text} {end}"));
        let abort = self.abort_on.is_some_and(|word| text.contains(word));
        BodyDecision { replaced: text.contains('a').then(|| text.replace('a', "bbb").into_bytes()), abort, ..BodyDecision::default() }
    }

    fn wants_response(&self) -> bool {
        self.wants_response
    }

    fn on_response(&mut self, response: &ResponseParts<'_>) -> ResponseDecision {
        self.told.note(format!("response {}", response.status));
        self.wants_response = false;
        self.says.clone()
    }
}

fn followed(follower: impl Fn() -> Follower + 'static) -> (Rc<World>, Told) {
    let told = Told::default();
    let notes = told.clone();
    let world = says(move || {
        let follow = Follower { told: Notes(notes.clone()), ..follower() };
        Extra { follow: Some(Box::new(follow)), ..Extra::default() }
    });
    (world, told)
}

#[test]
fn what_a_filter_replaces_goes_on_instead_with_the_right_length() {
    run(async {
        for window in [2, 3, 100] {
            for to in [&[][..], &[("x-to", "1")][..]] {
                let (world, told) = followed(move || Follower { windows: [Some(window), None], replaces: true, ..Follower::default() });
                let client = world.client().await;
                // gRPC and its like say no length.
                let got = echo(&client, &[b"ab", b"ca"], to).await.unwrap();
                assert_eq!((got.text(), &got.trailers.as_ref().unwrap()["x-trailer"]), ("bbbbcbbb", &"t".parse().unwrap()));
                // Others do, and h2 holds who says one to it.
                let request = [to, &[("content-length", "4")][..]].concat();
                let (response, mut to) = client.sender.clone().send_request(post("/count", &request), false).unwrap();
                to.send_data(Bytes::from_static(b"abca"), true).unwrap();
                assert_eq!(read(response).await.unwrap().text(), "8");
                let seen = told.borrow().iter().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect::<String>();
                assert_eq!(seen, "abcaabca");
                eventually("both exchanges are over", || told.borrow().iter().filter(|line| *line == "over").count() == 2).await;
            }
        }
    });
}

#[test]
fn a_responses_body_is_replaced_and_its_trailers_stay() {
    run(async {
        for window in [1, 2, 2000] {
            let (world, _) = followed(move || Follower { windows: [None, Some(window)], replaces: true, ..Follower::default() });
            let client = world.client().await;
            let got = echo(&client, &[b"ab", b"ca"], &[]).await.unwrap();
            assert_eq!((got.text(), &got.trailers.as_ref().unwrap()["x-trailer"]), ("bbbbcbbb", &"t".parse().unwrap()));
            // A length that was said stays if all of the body is known before it is said again.
            let got = fetch(&client, get("/big/1000", &[])).await.unwrap();
            assert_eq!(got.body.len(), 1000);
            assert_eq!(got.header("content-length"), (window == 2000).then_some("1000"));
            assert_eq!(fetch(&client, get("/trailers-only", &[])).await.unwrap().header("grpc-status"), Some("12"));
        }
    });
}

#[test]
fn who_only_looks_holds_nothing_and_sees_all() {
    run(async {
        let (world, told) = followed(|| Follower { windows: [Some(3), Some(3)], ..Follower::default() });
        let client = world.client().await;
        let (response, mut to) = client.sender.clone().send_request(post("/echo", &[]), false).unwrap();
        // A conversation: each side waits for the other's words, which fill no window.
        let mut body = response.await.unwrap().into_body();
        for word in [&b"a"[..], b"bcd", b"e"] {
            to.send_data(Bytes::from_static(word), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), word);
        }
        to.send_data(Bytes::new(), true).unwrap();
        while let Some(data) = body.data().await {
            assert!(data.unwrap().is_empty());
        }
        for side in ["Request", "Response"] {
            let lines = ["abc false", "de true"].map(|line| format!("{side} {line}"));
            assert!(lines.iter().all(|line| told.borrow().contains(line)), "{told:?}");
        }
        eventually("it is told of the end", || told.borrow().last().is_some_and(|line| line == "over")).await;
    });
}

#[test]
fn a_filter_may_answer_instead_of_the_upstream_or_reset_the_exchange() {
    run(async {
        let instead = || ResponseDecision {
            replace: Some(LocalResponse { status: 503, headers: vec![(b"x-by".to_vec(), b"filter".to_vec())], body: b"no".to_vec() }),
            ..ResponseDecision::default()
        };
        for to in [&[][..], &[("x-to", "1")][..]] {
            let (world, told) = followed(move || Follower { wants_response: true, says: instead(), ..Follower::default() });
            let client = world.client().await;
            let got = fetch(&client, get("/big/10000000", to)).await.unwrap();
            assert_eq!((got.head.status.as_u16(), got.text(), got.header("x-by")), (503, "no", Some("filter")));
            let got = echo(&client, &[b"ab"], to).await.unwrap();
            assert_eq!((got.head.status.as_u16(), got.text()), (503, "no"));
            eventually("it is told of both ends", || told.borrow().iter().filter(|line| *line == "over").count() == 2).await;

            let abort = || ResponseDecision { abort: true, ..ResponseDecision::default() };
            let (world, _) = followed(move || Follower { wants_response: true, says: abort(), ..Follower::default() });
            let client = world.client().await;
            assert!(fetch(&client, get("/name", to)).await.unwrap_err().is_reset());
        }
        for (side, windows) in [("request", [Some(2), None]), ("response", [None, Some(2)])] {
            let (world, told) = followed(move || Follower { windows, replaces: true, abort_on: Some("c"), ..Follower::default() });
            let client = world.client().await;
            assert!(echo(&client, &[b"abca"], &[]).await.unwrap_err().is_reset(), "{side}");
            eventually("it is told of the end", || told.borrow().last().is_some_and(|line| line == "over")).await;
        }
    });
}

#[test]
fn an_exchange_is_over_for_its_filter_however_it_ends() {
    run(async {
        for path in ["/name", "/reset/2", "/reset-midway", "/never", "/die", "/trailers-only"] {
            let (world, told) = followed(|| Follower { wants_response: true, ..Follower::default() });
            let client = world.client().await;
            let (response, mut to) = client.sender.clone().send_request(post(path, &[("x-to", "1")]), false).unwrap();
            settle().await;
            match path {
                "/never" => to.send_reset(Reason::CANCEL),
                _ => drop(to.send_data(Bytes::new(), true)),
            }
            let _ = read(response).await;
            eventually(path, || told.borrow().last().is_some_and(|line| line == "over")).await;
        }
        // And when the client goes.
        let (world, told) = followed(Follower::default);
        let client = world.client().await;
        let (response, _to) = client.sender.clone().send_request(post("/never", &[]), false).unwrap();
        settle().await;
        drop((response, client));
        eventually("it is over", || *told.borrow() == ["over"]).await;
    });
}
