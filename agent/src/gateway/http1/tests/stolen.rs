//! Requests that a session or we answer, between others that are the pod's.

use super::*;

const STOLEN: &str = "GET /s HTTP/1.1\r\nX-User: me\r\n\r\n";
const PASSED: &str = "GET /p HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn each_request_reaches_the_right_side_in_order() {
    let local = "POST /r HTTP/1.1\r\nX-User: mE\r\nContent-Length: 3\r\n\r\nabc";
    let body = "POST /b HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let all = [PASSED, STOLEN, local, body, PASSED, PASSED, STOLEN, local, local, PASSED].concat();
    for slow in [0, 1] {
        for piece in [all.len(), 50, 7, 1] {
            let mut stage = Stage::with(by_user, slow, false);
            all.as_bytes().chunks(piece).for_each(|bytes| stage.client.say(bytes));
            stage.run();
            for (upstream, request, answer) in [
                (POD, PASSED, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"),
                (SESSION, STOLEN, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n"),
                (SESSION, body, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3"),
                (POD, PASSED, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n4"),
                (POD, PASSED, "HTTP/1.1 204 OK\r\n\r\n"),
                (SESSION, STOLEN, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n6"),
                (POD, PASSED, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7"),
            ] {
                assert_eq!(stage.heard(upstream), request);
                stage.says(upstream, answer);
                let heard = stage.client_heard().replace("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nmine", "");
                assert_eq!(heard, answer);
            }
            assert_eq!((stage.exit, stage.opened(SESSION), stage.opened(POD)), (None, 1, 1));
        }
    }
}

#[test]
fn a_session_that_cannot_be_reached_leaves_the_request_to_the_pod() {
    for request in [STOLEN, "POST /s HTTP/1.1\r\nX-User: me\r\nContent-Length: 3\r\n\r\nabc"] {
        for pieces in cuts(request.as_bytes()) {
            let mut stage = Stage::with(by_user, 1, false);
            stage.scene.unreachable.borrow_mut().push(1);
            for _ in 0..2 {
                pieces.iter().for_each(|piece| stage.client_says(piece));
                assert_eq!(stage.heard(POD), request);
                stage.pod_says(OK);
                assert_eq!((stage.client_heard(), stage.exit), (OK.into(), None));
            }
            assert_eq!(*stage.scene.events.borrow(), [Event::FellBack, Event::FellBack]);
        }
    }
}

#[test]
fn a_session_that_ends_before_it_answers() {
    // Harmless to send again: the pod gets it.
    for answer in ["", "HTTP/1.1 200 OK\r\nConte", "HTTP/1.1 102 Processing\r\n\r\n"] {
        let mut stage = Stage::new(by_user);
        stage.client_says(format!("{STOLEN}{PASSED}"));
        stage.says(SESSION, answer);
        stage.ends(SESSION);
        assert_eq!(stage.heard(POD), STOLEN);
        stage.pod_says(OK);
        assert!(stage.client_heard().ends_with(OK));
        assert_eq!(stage.heard(POD), PASSED);
        assert_eq!((stage.exit, stage.scene.events.borrow()[0]), (None, Event::FellBack));
    }
    // Not harmless: 502.
    for request in ["POST /s HTTP/1.1\r\nX-User: me\r\nContent-Length: 3\r\n\r\nabc", "PATCH /s HTTP/1.1\r\nX-User: me\r\n\r\n"] {
        let mut stage = Stage::new(by_user);
        stage.client_says(format!("{request}{PASSED}"));
        stage.stream(SESSION).break_off();
        stage.run();
        let heard = stage.client_heard();
        assert!(heard.starts_with("HTTP/1.1 502 ") && heard.contains("mirrord: the session's program ended"), "{heard}");
        assert_eq!((stage.heard(POD), stage.client.finished()), (String::new(), true));
        stage.client_ends();
        assert_eq!((stage.exit, stage.scene.events.borrow()[0]), (Some(Exit::Done), Event::BadGateway));
    }
}

#[test]
fn a_session_that_breaks_in_its_answer_breaks_the_client() {
    for broken in [false, true] {
        let mut stage = Stage::new(by_user);
        stage.client_says(STOLEN);
        stage.says(SESSION, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        if broken {
            stage.stream(SESSION).break_off()
        } else {
            stage.stream(SESSION).end()
        }
        stage.run();
        assert_eq!((stage.exit, stage.heard(POD)), (Some(Exit::Reset), String::new()));
    }
}

#[test]
fn an_old_stream_that_has_ended_is_opened_anew() {
    // It ended while idle, or just as the request was on its way.
    for late in [false, true] {
        let mut stage = Stage::new(by_user);
        stage.client_says(STOLEN);
        stage.says(SESSION, OK);
        stage.heard(SESSION);
        if late {
            stage.client_says(STOLEN)
        } else {
            stage.ends(SESSION)
        }
        if late {
            stage.ends(SESSION)
        } else {
            stage.client_says(STOLEN)
        }
        assert_eq!((stage.opened(SESSION), stage.heard(SESSION)), (2, STOLEN.into()));
        stage.says(SESSION, OK);
        assert_eq!((stage.client_heard(), stage.exit), (format!("{OK}{OK}"), None));
        assert_eq!(stage.heard(POD), "");
    }
}

#[test]
fn an_answer_that_is_no_http_is_a_502() {
    let mut stage = Stage::new(by_user);
    stage.client_says(STOLEN);
    stage.says(SESSION, "Segmentation fault\n");
    assert!(stage.client_heard().starts_with("HTTP/1.1 502 "));
    assert_eq!(stage.heard(POD), "");
}

#[test]
fn an_answer_that_closes_closes_the_client() {
    for (request, answer, ends) in [
        (STOLEN, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        (STOLEN, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false),
        (STOLEN, "HTTP/1.1 200 OK\r\n\r\nok", true),
        ("GET /s HTTP/1.0\r\nX-User: me\r\n\r\n", OK, false),
    ] {
        let mut stage = Stage::new(by_user);
        stage.client_says(request);
        stage.says(SESSION, answer);
        if ends {
            stage.ends(SESSION);
        }
        assert_eq!((stage.client_heard(), stage.client.finished()), (answer.into(), true));
        stage.client_ends();
        assert_eq!(stage.exit, Some(Exit::Done));
    }
}

#[test]
fn the_pod_may_close_while_sessions_answer() {
    // It ends under a session's response, or between: the next request for it finds a new connection.
    for during in [false, true] {
        let mut stage = Stage::new(by_user);
        stage.client_says(STOLEN);
        if during {
            stage.ends(POD);
        }
        stage.says(SESSION, OK);
        if !during {
            stage.ends(POD);
        }
        assert_eq!((stage.client_heard(), stage.exit), (OK.into(), None));
        stage.client_says(PASSED);
        assert_eq!((stage.opened(POD), stage.heard(POD)), (2, PASSED.into()));
        stage.pod_says(OK);
        stage.ends(POD);
        assert_eq!((stage.client_heard(), stage.exit), (OK.into(), Some(Exit::Closing)));
    }
}

#[test]
fn the_pod_may_speak_while_sessions_answer() {
    let mut stage = Stage::new(by_user);
    stage.client_says(STOLEN);
    stage.pod_says("HTTP/1.1 408 Timeout\r\n\r\n");
    assert_eq!(stage.client_heard(), "");
    stage.says(SESSION, OK);
    assert!(matches!(stage.exit, Some(Exit::Opaque(_))));
}

#[test]
fn a_tunnel_to_a_session() {
    let mut stage = Stage::new(by_user);
    stage.client_says("GET /s HTTP/1.1\r\nX-User: me\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nraw");
    stage.says(SESSION, "HTTP/1.1 101 Switching\r\n\r\n");
    assert_eq!(stage.exit, Some(Exit::Tunnel));
    let rest = stage.rest();
    assert_eq!(rest.up, b"raw");
    let Link::Open(link) = rest.link else { panic!("no link") };
    link.say(b"x");
    assert_eq!(drain_one(&stage.stream(SESSION)), b"x");
}

fn drain_one(stream: &Memory) -> Vec<u8> {
    let mut buf = [0; 16];
    match crate::gateway::sock::read(&mut stream.clone(), &mut Context::from_waker(std::task::Waker::noop()), &mut buf) {
        std::task::Poll::Ready(Ok(read)) => buf[..read].to_vec(),
        _ => Vec::new(),
    }
}

#[test]
fn our_own_answer_reads_the_body_away() {
    let request = "POST /r HTTP/1.1\r\nX-User: mE\r\nContent-Length: 10\r\n\r\n";
    let mut stage = Stage::with(by_user, 1, false);
    stage.client_says(request);
    assert!(stage.client_heard().starts_with("HTTP/1.1 403 "));
    stage.client_says("GET / HTTP");
    stage.client_says(PASSED);
    assert_eq!((stage.heard(POD), stage.exit), (PASSED.into(), None));

    // A pod that ends meanwhile gets none of it.
    let mut stage = Stage::new(by_user);
    stage.client_says(request);
    stage.ends(POD);
    stage.client_says("0123456789");
    assert_eq!((stage.heard(POD), stage.opened(POD), stage.exit), (String::new(), 2, None));
}

#[test]
fn whoever_expects_to_be_told_to_continue_is_answered_and_closed() {
    let mut stage = Stage::new(by_user);
    stage.client_says("POST /r HTTP/1.1\r\nX-User: mE\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    assert!(stage.client_heard().contains("Connection: close"));
    stage.client_says(PASSED);
    assert_eq!(stage.heard(POD), "");
    stage.client_ends();
    assert_eq!(stage.exit, Some(Exit::Done));
}

#[test]
fn the_clients_end_reaches_the_session() {
    let mut stage = Stage::new(by_user);
    stage.client_says(STOLEN);
    stage.client_ends();
    assert!(stage.stream(SESSION).finished());
    stage.says(SESSION, OK);
    assert_eq!((stage.client_heard(), stage.client.finished(), stage.exit), (OK.into(), true, Some(Exit::Done)));
}

#[test]
fn a_session_that_has_as_much_under_way_as_it_may_loses_what_is_new_to_the_pod() {
    let purse = Purse::new(100);
    let mut stage = Stage::new(by_user);
    *stage.scene.purse.borrow_mut() = Some(purse.clone());
    let others = purse.hold(190);
    stage.client_says(STOLEN);
    assert_eq!((stage.heard(POD), stage.opened(SESSION)), (STOLEN.into(), 0));
    stage.pod_says(OK);
    drop(others);
    stage.client_says(STOLEN);
    assert_eq!(stage.heard(SESSION), STOLEN);
    stage.says(SESSION, OK);
    assert_eq!(stage.client_heard(), [OK, OK].concat());
    assert_eq!(*stage.scene.events.borrow(), [Event::FellBack]);
    assert!(purse.has_room_for_new(200), "nothing is left behind");
}
