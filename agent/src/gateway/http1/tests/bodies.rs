//! Bodies that filters look at after the verdict, and responses that they change.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost:  a\r\nContent-Length: 11\r\n\r\nmy cat says";
const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\nmy cat\r\n5\r\n says\r\n0\r\nT: 1\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer:  x\r\nContent-Length: 11\r\n\r\na cat there";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

type Log = Rc<RefCell<Vec<String>>>;

/// Every request to `to`, followed by what `follower` makes.
fn followed(to: Upstream, follower: impl Fn() -> Follower + 'static) -> (impl Fn(&RequestParts<'_>) -> Steering + 'static, Log) {
    let log = Log::default();
    let logs = log.clone();
    let steer = move |_: &RequestParts<'_>| {
        let follow = Follower { log: FollowerLog(logs.clone()), ..follower() };
        Steering {
            target: to.into(),
            extra: Some(Box::new(Extra { follow: Some(Box::new(follow)), ..Extra::default() })),
            ..Steering::default()
        }
    };
    (steer, log)
}

fn watching() -> Follower {
    Follower { window: Some(4), response_window: Some(4), on_response: Some(ResponseDecision::default()), ..Follower::default() }
}

#[test]
fn whoever_only_looks_changes_nothing_and_sees_everything() {
    for to in [POD, SESSION] {
        for (ask, answer) in [
            (POST, ANSWER),
            (
                CHUNKED,
                "HTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;q\r\na c\r\n8\r\nat there\r\n0\r\nx: y\r\n\r\n",
            ),
        ] {
            for pieces in cuts(ask.as_bytes()).into_iter().zip(cuts(answer.as_bytes())) {
                let (steer, log) = followed(to, watching);
                let mut stage = Stage::with(steer, 1, false);
                for _ in 0..2 {
                    pieces.0.iter().for_each(|piece| stage.client_says(piece));
                    assert_eq!(stage.heard(to), ask);
                    pieces.1.iter().for_each(|piece| stage.says(to, piece));
                    assert_eq!((stage.client_heard(), stage.exit), (answer.into(), None));
                    let seen = std::mem::take(&mut *log.borrow_mut());
                    let text = |side| seen.iter().filter_map(|line| line.strip_prefix(side)).collect::<String>();
                    assert_eq!((text("Request "), text("Response ")), ("my cat says.".into(), "a cat there.".into()));
                    assert_eq!((seen.iter().filter(|line| *line == "status 200").count(), seen.last().unwrap().as_str()), (1, "end"));
                }
            }
        }
    }
}

#[test]
fn what_is_replaced_reaches_the_other_side_framed_anew() {
    let replacing = |window| {
        move || Follower { window: Some(window), response_window: Some(window), replaces: Some(("cat", "dormouse")), ..Follower::default() }
    };
    for to in [POD, SESSION] {
        for (window, ask, expected) in [
            (100, POST, "POST / HTTP/1.1\r\nHost:  a\r\nContent-Length: 16\r\n\r\nmy dormouse says"),
            (6, POST, "POST / HTTP/1.1\r\nHost:  a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nmy dormouse\r\n5\r\n says\r\n0\r\n\r\n"),
            (100, CHUNKED, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nmy dormouse says\r\n0\r\nT: 1\r\n\r\n"),
            (100, GET, GET),
        ] {
            for pieces in cuts(ask.as_bytes()) {
                let (steer, log) = followed(to, replacing(window));
                let mut stage = Stage::with(steer, 1, false);
                for _ in 0..2 {
                    pieces.iter().for_each(|piece| stage.client_says(piece));
                    assert_eq!(stage.heard(to), expected);
                    stage.says(to, OK);
                    assert_eq!((stage.client_heard(), stage.exit), (OK.into(), None));
                    assert_eq!(log.borrow_mut().pop().as_deref(), Some("end"));
                }
            }
        }
        let close = "HTTP/1.1 200 OK\r\n\r\na cat there";
        for (window, answer, expected) in [
            (100, ANSWER, "HTTP/1.1 200 OK\r\nServer:  x\r\nContent-Length: 16\r\n\r\na dormouse there"),
            (
                5,
                ANSWER,
                "HTTP/1.1 200 OK\r\nServer:  x\r\nTransfer-Encoding: chunked\r\n\r\na\r\na dormouse\r\n5\r\n ther\r\n1\r\ne\r\n0\r\n\r\n",
            ),
            (100, close, "HTTP/1.1 200 OK\r\n\r\na dormouse there"),
            (100, OK, OK),
            (100, "HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n"),
        ] {
            for pieces in cuts(answer.as_bytes()) {
                let (steer, log) = followed(to, replacing(window));
                let mut stage = Stage::with(steer, 1, false);
                for _ in 0..2 {
                    stage.client_says(GET);
                    pieces.iter().for_each(|piece| stage.says(to, piece));
                    if answer == close {
                        stage.ends(to);
                        let exit = stage.exit;
                        let heard = match exit {
                            Some(_) => format!("{}{}", stage.client_heard(), String::from_utf8(stage.rest().down).unwrap()),
                            None => stage.client_heard(),
                        };
                        assert_eq!((heard.as_str(), exit), (expected, (to == POD).then_some(Exit::Closing)));
                        break;
                    }
                    assert_eq!((stage.client_heard(), stage.exit), (expected.into(), None));
                    assert_eq!(log.borrow_mut().pop().as_deref(), Some("end"));
                }
            }
        }
    }
}

#[test]
fn a_client_of_http_1_0_reads_what_is_replaced_to_the_end() {
    for to in [POD, SESSION] {
        let (steer, _) = followed(to, || Follower { response_window: Some(5), replaces: Some(("cat", "dormouse")), ..Follower::default() });
        let mut stage = Stage::with(steer, 0, false);
        stage.client_says("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        stage.says(to, ANSWER);
        assert_eq!(stage.client_heard(), "HTTP/1.1 200 OK\r\nServer:  x\r\nConnection: close\r\n\r\na dormouse there");
        assert!(stage.client.finished());
        stage.client_ends();
        assert_eq!(stage.exit, Some(Exit::Done));
    }
}

#[test]
fn a_body_that_is_held_back_is_asked_for_by_us() {
    let head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let (steer, _) = followed(POD, || Follower { window: Some(100), replaces: Some(("cat", "dog")), ..Follower::default() });
    let mut stage = Stage::with(steer, 0, false);
    stage.client_says(head);
    assert_eq!((stage.client_heard(), stage.heard(POD)), ("HTTP/1.1 100 Continue\r\n\r\n".into(), String::new()));
    stage.client_says("cat");
    assert_eq!(stage.heard(POD), format!("{head}dog"));
    stage.pod_says(format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"));
    assert_eq!(stage.client_heard(), OK);
}

#[test]
fn a_filter_that_aborts_cuts_both_sides() {
    for to in [POD, SESSION] {
        let (steer, log) =
            followed(to, || Follower { window: Some(4), response_window: Some(4), abort_on: Some("cat"), ..Follower::default() });
        let mut stage = Stage::with(steer, 0, false);
        stage.client_says("POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nthe cat ...");
        assert_eq!((stage.exit, stage.client_heard()), (Some(Exit::Reset), String::new()));
        assert_eq!(log.borrow_mut().pop().as_deref(), Some("end"));

        let (steer, _) = followed(to, || Follower {
            response_window: Some(4),
            abort_on: Some("cat"),
            replaces: Some(("x", "y")),
            ..Follower::default()
        });
        let mut stage = Stage::with(steer, 0, false);
        stage.client_says(GET);
        let upstream = stage.stream(to);
        stage.says(to, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthe cat is out");
        assert_eq!((stage.exit, upstream.0.borrow().aborted), (Some(Exit::Reset), true));
        assert!(!stage.client_heard().contains("cat"));
    }
}

#[test]
fn another_response_takes_the_place_of_the_upstreams() {
    let local = || LocalResponse { status: 451, headers: vec![(b"X-By".to_vec(), b"filter".to_vec())], body: b"no".to_vec() };
    let replacing = move || Follower {
        on_response: Some(ResponseDecision { replace: Some(local()), ..ResponseDecision::default() }),
        ..Follower::default()
    };
    let expected = "HTTP/1.1 451 Unavailable For Legal Reasons\r\nX-By: filter\r\nContent-Length: 2\r\n";
    for to in [POD, SESSION] {
        for pieces in cuts(ANSWER.as_bytes()) {
            let (steer, log) = followed(to, replacing);
            let mut stage = Stage::with(steer, 1, false);
            for _ in 0..2 {
                stage.client_says(GET);
                pieces.iter().for_each(|piece| stage.says(to, piece));
                assert_eq!((stage.client_heard(), stage.exit), (format!("{expected}\r\nno"), None));
                assert_eq!(log.borrow_mut().drain(..).collect::<Vec<_>>(), ["status 200", "end"]);
            }
            assert_eq!(stage.opened(to), 1);
        }
        // One that goes on without end is not read away.
        let (steer, _) = followed(to, replacing);
        let mut stage = Stage::with(steer, 0, false);
        stage.client_says(GET);
        stage.says(to, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        assert_eq!(stage.client_heard(), format!("{expected}Connection: close\r\n\r\nno"));
        assert!(stage.client.finished());
    }
}

#[test]
fn broken_bodies_are_nobodys_guess() {
    // Towards the pod the request's own bytes go on, those that were held first.
    let broken = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncat\r\nx\r\n";
    for pieces in cuts(broken.as_bytes()) {
        let (steer, _) = followed(POD, || Follower { window: Some(100), replaces: Some(("cat", "dog")), ..Follower::default() });
        let mut stage = Stage::with(steer, 0, false);
        pieces.iter().for_each(|piece| stage.client_says(piece));
        assert!(matches!(stage.exit, Some(Exit::Opaque(_))));
        let rest = String::from_utf8(stage.rest().up).unwrap();
        // What came after it was known is still the client's.
        let heard = format!("{}{rest}", stage.heard(POD));
        assert!(broken.starts_with(&heard) && heard.contains("\r\nx"), "{heard}");
    }
    // What no filter has judged does not reach the client.
    for to in [POD, SESSION] {
        let (steer, _) = followed(to, || Follower { response_window: Some(100), replaces: Some(("cat", "dog")), ..Follower::default() });
        let mut stage = Stage::with(steer, 0, false);
        stage.client_says(GET);
        stage.says(to, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncat\r\nx\r\n");
        assert_eq!((stage.exit, stage.client_heard()), (Some(Exit::Reset), String::new()));
    }
}

#[test]
fn a_response_that_comes_before_the_request_is_complete() {
    let (steer, log) = followed(POD, || Follower { window: Some(4), replaces: Some(("cat", "dormouse")), ..Follower::default() });
    let mut stage = Stage::with(steer, 0, false);
    stage.client_says("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\nmy c");
    stage.pod_says(OK);
    assert_eq!(stage.client_heard(), OK);
    stage.client_says("at says");
    assert_eq!(stage.heard(POD), "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmy c\r\n4\r\nat s\r\n3\r\nays\r\n0\r\n\r\n");
    assert_eq!(log.borrow_mut().pop().as_deref(), Some("end"));
    stage.client_says(GET);
    assert_eq!((stage.heard(POD), stage.exit), (GET.into(), None));
}

#[test]
fn a_request_that_a_session_cannot_take_goes_to_the_pod_as_it_came() {
    let (steer, log) = followed(SESSION, || Follower { window: Some(100), replaces: Some(("cat", "dog")), ..Follower::default() });
    let mut stage = Stage::with(steer, 0, false);
    stage.scene.unreachable.borrow_mut().push(1);
    stage.client_says(POST);
    assert_eq!((stage.heard(POD), log.borrow().last().map(String::as_str)), (POST.into(), Some("end")));
}
