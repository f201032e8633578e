//! Requests that do not go on at once: a filter wants their bodies, waits, or delays them.

use std::{
    cell::Cell,
    task::{Poll, Waker},
    time::Duration,
};

use super::*;
use crate::gateway::{http1::relay::Waiting, steer::Undecided};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PASSED: &str = "GET /p HTTP/1.1\r\nHost: a\r\n\r\n";

/// Wants a window of the body, and steals the request if that says `me`; else asks for more, up to `more` times.
#[derive(Debug)]
struct Reader {
    window: usize,
    more: u8,
    extra: bool,
}

impl Undecided for Reader {
    fn window(&self) -> Option<usize> {
        Some(self.window)
    }

    fn with_body(self: Box<Self>, request: &RequestParts<'_>, body: &[u8], end: bool) -> Steered {
        assert_eq!(request.path, b"/b");
        assert!(body.len() == self.window || (end && body.len() < self.window), "{} of {}, {end}", body.len(), self.window);
        let mine = memchr::memmem::find(body, b"me").is_some();
        if !mine && self.more > 0 {
            return Steered::Undecided(Box::new(Reader { window: self.window * 2, more: self.more - 1, ..*self }));
        }
        let mut steering = Steering { target: if mine { Target::Session(1) } else { Target::Pod }, ..Steering::default() };
        if self.extra && mine {
            steering.extra.get_or_insert_default().path = Some(b"/mine".to_vec());
        }
        Steered::Decided(steering)
    }

    fn poll(&mut self, _: &mut Context<'_>, _: &RequestParts<'_>) -> Poll<Steered> {
        unreachable!("it waits for a body")
    }

    fn skip(self: Box<Self>, _: &RequestParts<'_>) -> Steering {
        Steering::default()
    }
}

/// Waits until somebody says where to.
#[derive(Debug, Default, Clone)]
struct Waiter(Rc<Cell<Option<SessionId>>>, Rc<RefCell<Option<Waker>>>);

impl Undecided for Waiter {
    fn window(&self) -> Option<usize> {
        None
    }

    fn with_body(self: Box<Self>, _: &RequestParts<'_>, _: &[u8], _: bool) -> Steered {
        unreachable!("it wants no body")
    }

    fn poll(&mut self, cx: &mut Context<'_>, _: &RequestParts<'_>) -> Poll<Steered> {
        *self.1.borrow_mut() = Some(cx.waker().clone());
        match self.0.get() {
            Some(id) => Poll::Ready(Steered::Decided(Steering { target: Target::Session(id), ..Steering::default() })),
            None => Poll::Pending,
        }
    }

    fn skip(self: Box<Self>, _: &RequestParts<'_>) -> Steering {
        Steering::default()
    }
}

/// Only requests for `/b` are read.
fn reads(window: usize, more: u8, extra: bool) -> impl Fn(&RequestParts<'_>) -> Steered {
    move |request| match request.path {
        b"/b" => Steered::Undecided(Box::new(Reader { window, more, extra })),
        _ => Steered::Decided(Steering::default()),
    }
}

fn with_length(body: &str) -> String {
    format!("POST /b HTTP/1.1\r\nHost:  a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    let chunks: String =
        body.as_bytes().chunks(3).map(|piece| format!("{:x};q\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece))).collect();
    format!("POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\nT: 1\r\n\r\n")
}

#[test]
fn who_gets_a_request_by_its_body_and_not_a_byte_is_changed() {
    for (body, to) in [("I am me", SESSION), ("I am not", POD), ("", POD), ("0123456789 me", SESSION), ("far too far away: me", POD)] {
        for request in [with_length(body), chunked(body)] {
            for pieces in cuts(format!("{request}{PASSED}").as_bytes()) {
                let mut stage = Stage::asking(reads(4, 2, false), 1, false);
                for _ in 0..2 {
                    pieces.iter().for_each(|piece| stage.client_says(piece));
                    assert_eq!(stage.heard(to), request, "{body}");
                    stage.says(to, OK);
                    assert_eq!(stage.heard(POD), PASSED);
                    stage.pod_says(OK);
                    assert_eq!((stage.client_heard(), stage.exit), (format!("{OK}{OK}"), None));
                }
            }
        }
    }
}

#[test]
fn nobody_hears_of_it_before_it_is_decided() {
    let mut stage = Stage::asking(reads(8, 0, true), 0, false);
    stage.client_says("POST /b HTTP/1.1\r\nContent-Length: 100\r\n\r\nI am m");
    assert_eq!((stage.heard(POD), stage.heard(SESSION)), (String::new(), String::new()));
    assert_eq!(stage.relay.waiting(), Some(Waiting::Undecided(0)));
    stage.client_says("e!");
    assert_eq!(stage.heard(SESSION), "POST /mine HTTP/1.1\r\nContent-Length: 100\r\n\r\nI am me!");
    stage.client_says("x".repeat(92));
    assert_eq!(stage.heard(SESSION), "x".repeat(92));
}

#[test]
fn a_client_that_waits_to_be_told_to_continue_is_told_once() {
    let head = "POST /b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    for body in ["meme", "nope"] {
        let to = if body == "meme" { SESSION } else { POD };
        for answer in [
            OK.to_owned(),
            format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"),
            format!("HTTP/1.1 102 P\r\n\r\nHTTP/1.1 100 C\r\nA: b\r\n\r\n{OK}"),
        ] {
            for pieces in cuts(answer.as_bytes()) {
                let mut stage = Stage::asking(reads(4, 0, false), 1, false);
                for _ in 0..2 {
                    stage.client_says(head);
                    assert_eq!(stage.client_heard(), "HTTP/1.1 100 Continue\r\n\r\n");
                    assert_eq!(stage.heard(POD), "");
                    stage.client_says(body);
                    assert_eq!(stage.heard(to), format!("{head}{body}"));
                    pieces.iter().for_each(|piece| stage.says(to, piece));
                    let others = if answer.contains("102") { "HTTP/1.1 102 P\r\n\r\n" } else { "" };
                    assert_eq!((stage.client_heard(), stage.exit), (format!("{others}{OK}"), None));
                }
            }
        }
    }
    // One that does not wait is not told.
    let mut stage = Stage::asking(reads(4, 0, false), 0, false);
    stage.client_says(format!("{head}no"));
    assert_eq!(stage.client_heard(), "");
    stage.client_says("pe");
    stage.pod_says(format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"));
    assert_eq!(stage.client_heard(), format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"));
}

#[test]
fn what_takes_too_long_is_not_waited_for() {
    let begun = "POST /b HTTP/1.1\r\nContent-Length: 9\r\n\r\nme";
    let mut stage = Stage::asking(reads(8, 0, false), 0, false);
    stage.client_says(begun);
    stage.expire();
    assert_eq!((stage.heard(POD), stage.scene.events.borrow_mut().pop()), (begun.into(), Some(Event::Skipped)));
    stage.client_says("1234567");
    assert_eq!(stage.heard(POD), "1234567");
    stage.pod_says(OK);
    assert_eq!((stage.client_heard(), stage.exit), (OK.into(), None));

    // So is a client that ends, one whose chunks are broken, and one that sends framing without end.
    let mut stage = Stage::asking(reads(8, 0, false), 0, false);
    stage.client_says(begun);
    stage.client_ends();
    assert_eq!((stage.heard(POD), stage.stream(POD).finished()), (begun.into(), true));
    let broken = "POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nme\r\nx\r\n";
    for pieces in cuts(broken.as_bytes()) {
        let mut stage = Stage::asking(reads(8, 0, false), 0, false);
        pieces.iter().for_each(|piece| stage.client_says(piece));
        assert!(matches!(stage.exit, Some(Exit::Opaque(_))));
        let rest = stage.rest();
        let rest = String::from_utf8(rest.up).unwrap();
        // What came after it was known is still the client's.
        let heard = format!("{}{rest}", stage.heard(POD));
        assert!(broken.starts_with(&heard) && heard.contains("\r\nx"), "{heard}");
    }
    let mut stage = Stage::asking(reads(1000, 0, false), 0, false);
    stage.client_says("POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("1;{}\r\nx\r\n", "y".repeat(4000));
    let mut said = 0;
    while stage.scene.events.borrow().is_empty() {
        stage.client_says(&chunk);
        said += chunk.len();
        assert!(said < 100_000);
    }
    assert!(stage.heard(POD).len() > said);
}

#[test]
fn a_filter_that_asks_without_end_is_skipped() {
    #[derive(Debug)]
    struct Insatiable;
    impl Undecided for Insatiable {
        fn window(&self) -> Option<usize> {
            Some(1)
        }
        fn with_body(self: Box<Self>, _: &RequestParts<'_>, _: &[u8], _: bool) -> Steered {
            Steered::Undecided(self)
        }
        fn poll(&mut self, _: &mut Context<'_>, _: &RequestParts<'_>) -> Poll<Steered> {
            Poll::Pending
        }
        fn skip(self: Box<Self>, _: &RequestParts<'_>) -> Steering {
            Steering { target: Target::Session(1), ..Steering::default() }
        }
    }
    let mut stage = Stage::asking(|_| Steered::Undecided(Box::new(Insatiable)), 0, false);
    stage.client_says(with_length("abc"));
    assert_eq!(stage.heard(SESSION), with_length("abc"), "its failure policy has the word");
}

#[test]
fn a_filter_that_waits_holds_its_request_alone() {
    let waiter = Waiter::default();
    let asked = waiter.clone();
    let mut stage = Stage::asking(
        move |request| {
            if request.path == b"/w" { Steered::Undecided(Box::new(asked.clone())) } else { Steered::Decided(Steering::default()) }
        },
        0,
        false,
    );
    stage.client_says(PASSED);
    stage.heard(POD);
    stage.pod_says(OK);
    let request = "GET /w HTTP/1.1\r\nHost: a\r\n\r\n";
    stage.client_says(format!("{request}{PASSED}"));
    assert_eq!((stage.heard(POD), stage.opened(SESSION)), (String::new(), 0));
    // The pod may let go of the connection meanwhile.
    stage.ends(POD);
    assert!(waiter.1.borrow().is_some(), "it can wake the connection");
    waiter.0.set(Some(1));
    stage.run_once();
    assert_eq!(stage.heard(SESSION), request);
    stage.says(SESSION, OK);
    assert_eq!((stage.client_heard(), stage.exit), (format!("{OK}{OK}"), None));

    // Too long: the pod gets it, on another connection than the one that it gave up, with a word here.
    let mut stage = Stage::asking(
        |request| match request.path {
            b"/w" => Steered::Undecided(Box::new(Waiter::default())),
            _ => Steered::Decided(Steering::default()),
        },
        0,
        false,
    );
    stage.client_says(PASSED);
    stage.pod_says(OK);
    stage.client_says(request);
    stage.pod_says("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n");
    stage.ends(POD);
    stage.expire();
    assert_eq!((stage.opened(POD), stage.heard(POD)), (2, request.into()));
    stage.pod_says(OK);
    assert_eq!((stage.client_heard(), stage.exit), (format!("{OK}{OK}"), None));

    // The client goes away.
    let mut stage = Stage::asking(|_| Steered::Undecided(Box::new(Waiter::default())), 0, false);
    stage.client_says(request);
    stage.client.break_off();
    stage.run_once();
    assert_eq!(stage.exit, Some(Exit::Gone));
}

#[test]
fn a_delayed_request_goes_on_later_as_it_came() {
    let request = with_length("hello");
    for to in [POD, SESSION] {
        let delayed = move |_: &RequestParts<'_>| {
            let extra = Extra { delay: Some(Duration::from_secs(3)), ..Extra::default() };
            Steering { target: to.into(), extra: Some(Box::new(extra)), ..Steering::default() }
        };
        for pieces in cuts(request.as_bytes()) {
            let mut stage = Stage::with(delayed, 1, false);
            pieces.iter().for_each(|piece| stage.client_says(piece));
            assert_eq!((stage.heard(POD), stage.opened(SESSION)), (String::new(), 0));
            assert_eq!(stage.relay.waiting().map(Waiting::limit), Some(Duration::from_secs(3)));
            stage.expire();
            assert_eq!(stage.heard(to), request);
            stage.says(to, OK);
            assert_eq!((stage.client_heard(), stage.exit), (OK.into(), None));
        }
    }
}

#[test]
fn an_aborted_request_resets_its_connection_after_what_was_said_before() {
    let steer = |request: &RequestParts<'_>| Steering {
        target: if request.path == b"/b" { Target::Abort } else { Target::Pod },
        ..Steering::default()
    };
    let mut stage = Stage::with(steer, 1, false);
    stage.client_says(format!("{PASSED}{}", with_length("abc")));
    assert_eq!(stage.heard(POD), PASSED);
    stage.pod_says(OK);
    assert_eq!((stage.client_heard(), stage.exit, stage.heard(POD)), (OK.into(), Some(Exit::Reset), String::new()));
}
