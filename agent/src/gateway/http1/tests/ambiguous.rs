//! What two parsers could read in two ways is the pod's, byte for byte, and so is all that follows.

use super::*;
use crate::gateway::{
    http1::relay::{Down, To, Up},
    steer::Ambiguity,
};

/// Heads (and bodies) of which none may ever be stolen, though each carries the header.
const AMBIGUOUS: &[&str] = &[
    // Line ends, white space, control characters.
    "GET / HTTP/1.1\nX-User: me\n\n",
    "GET / HTTP/1.1\r\nX-User: me\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\n\n",
    "GET / HTTP/1.1\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\rX-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\n\rX\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n X-User: me\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n\tc\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\n X-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\nA: b\x00c\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\nA: b\x0bc\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\nA: b\x7f\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User : me\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\n: empty\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\nno colon\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\nA(b): c\r\n\r\n",
    "GET / HTTP/1.1\r\nX-User: me\r\nA\u{e4}: c\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nX-User: me\r\n\r\n",
    "\nGET / HTTP/1.1\r\nX-User: me\r\n\r\n",
    // Request lines.
    "GET  / HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET /  HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1 \r\nX-User: me\r\n\r\n",
    "GET\t/ HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET /a b HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.2\r\nX-User: me\r\n\r\n",
    "GET / HTTP/2.0\r\nX-User: me\r\n\r\n",
    "GET / HTTP/01.1\r\nX-User: me\r\n\r\n",
    "GET / http/1.1\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1x\r\nX-User: me\r\n\r\n",
    "GET a HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET * HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET http://a/ HTTP/1.1\r\nHost: b\r\nX-User: me\r\n\r\n",
    "GET ftp://a/ HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n",
    "G(T / HTTP/1.1\r\nX-User: me\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nX-User: me\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    // Framing.
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 5, 5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: +5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: -5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 5 5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 0x5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 5.0\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 010\r\n\r\nabcdefghij",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length:\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent-Length: 18446744073709551617\r\n\r\na",
    "POST / HTTP/1.1\r\nX-User: me\r\nContent_Length: 5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: identity\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding:\r\n\r\n",
    "POST / HTTP/1.1\r\nX-User: me\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nX-User: me\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nX-User: me\r\nContent-Length: 1\r\n\r\nx",
];

/// Chunked bodies that break.
const BROKEN: &[&str] = &[
    "5\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-1\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello\rX0\r\n\r\n",
    "5\rXhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\x00\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "0\r\nA: b\n\r\n",
    "0\r\n A: b\r\n\r\n",
    "0\r\n\n",
    "0\r\n\rX",
    "0\n\r\n",
];

const AFTER: &str = "GET /after HTTP/1.1\r\nX-User: me\r\n\r\n";

#[test]
fn ambiguous_heads_go_to_the_pod_as_they_came_and_so_does_all_after_them() {
    for head in AMBIGUOUS {
        // Bytes above 0x7f stand for themselves.
        let bytes = format!("{head}{AFTER}").into_bytes();
        for before in ["", "GET /before HTTP/1.1\r\nX-User: me\r\n\r\n", "GET /before HTTP/1.1\r\n\r\n"] {
            for pieces in cuts(&bytes) {
                let mut stage = Stage::new(by_user);
                stage.client_says(before);
                let answerer = if before.contains("me") { SESSION } else { POD };
                if !before.is_empty() {
                    assert_eq!(stage.heard(answerer), before);
                    stage.says(answerer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
                let sessions = stage.opened(SESSION);
                pieces.iter().for_each(|piece| stage.client_says(piece));
                assert!(matches!(stage.exit, Some(Exit::Opaque(_) | Exit::NotHttp)), "{head:?} {:?} {pieces:?}", stage.exit);
                // What the machine did not read is still in the socket.
                let rest = stage.rest();
                let unread = drain(&stage.client);
                assert_eq!(stage.heard(POD), "");
                assert_eq!([rest.up, unread].concat(), bytes, "{head:?}");
                assert_eq!((stage.opened(SESSION), stage.heard(SESSION)), (sessions, String::new()));
            }
        }
    }
}

#[test]
fn refused_they_get_a_400_and_the_pod_nothing() {
    for head in AMBIGUOUS {
        for pieces in cuts(format!("{head}{AFTER}").as_bytes()) {
            let mut stage = Stage::with(by_user, 0, true);
            stage.client_says("GET /before HTTP/1.1\r\n\r\n");
            assert_eq!(stage.heard(POD), "GET /before HTTP/1.1\r\n\r\n");
            stage.pod_says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            stage.client_heard();
            pieces.iter().for_each(|piece| stage.client_says(piece));
            let heard = stage.client_heard();
            assert!(heard.starts_with("HTTP/1.1 400 Bad Request\r\n") && heard.contains("\r\nConnection: close\r\n"), "{heard}");
            assert!(stage.client.finished());
            assert_eq!((stage.heard(POD), stage.opened(SESSION), stage.exit), (String::new(), 0, None));
            stage.client_ends();
            assert_eq!(stage.exit, Some(Exit::Done));
        }
    }
}

fn drain(client: &Memory) -> Vec<u8> {
    let mut left = Vec::new();
    let mut buf = [0; 4096];
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(Ok(read @ 1..)) = crate::gateway::sock::read(&mut client.clone(), &mut cx, &mut buf) {
        left.extend_from_slice(&buf[..read]);
    }
    left
}

#[test]
fn a_passed_body_that_breaks_is_the_pods_from_there_on() {
    for body in BROKEN {
        let bytes = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}{AFTER}").into_bytes();
        for pieces in cuts(&bytes) {
            let mut stage = Stage::new(by_user);
            pieces.iter().for_each(|piece| stage.client_says(piece));
            assert_eq!(stage.exit, Some(Exit::Opaque(Ambiguity::Chunk)), "{body:?}");
            let rest = stage.rest();
            let all = [stage.heard(POD).into_bytes(), rest.up, drain(&stage.client)].concat();
            assert_eq!((all, stage.opened(SESSION)), (bytes.clone(), 0));
        }
    }
}

#[test]
fn a_stolen_body_that_breaks_cuts_its_session_off_and_nobody_else() {
    for body in BROKEN {
        let bytes = format!("POST / HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked\r\n\r\n{body}{AFTER}").into_bytes();
        for pieces in cuts(&bytes) {
            let mut stage = Stage::new(by_user);
            pieces.iter().for_each(|piece| stage.client_says(piece));
            assert!(stage.client_heard().starts_with("HTTP/1.1 400 "), "{body:?}");
            assert!(stage.stream(SESSION).aborted() && stage.client.finished());
            assert!(!stage.heard(SESSION).contains("/after"));
            assert_eq!((stage.heard(POD), stage.exit), (String::new(), None));
        }
    }
}

#[test]
fn limits_of_a_head() {
    let many = (0..101).map(|n| format!("A{n}: b\r\n")).collect::<String>();
    let long = "v".repeat(64 * 1024);
    for head in [
        format!("GET / HTTP/1.1\r\n{many}X-User: me\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nX-User: me\r\nA: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nX-User: me\r\n\r\n"),
    ] {
        for piece in [head.len(), head.len() / 2, 100, 3] {
            let mut stage = Stage::new(by_user);
            head.as_bytes().chunks(piece).for_each(|bytes| stage.client_says(bytes));
            assert!(matches!(stage.exit, Some(Exit::Opaque(_))), "{piece} {:?}", stage.exit);
            assert_eq!([stage.rest().up, drain(&stage.client)].concat(), head.as_bytes());
        }
    }
}

#[test]
fn a_head_that_does_not_come_in_time_and_one_that_is_cut_short() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut stage = Stage::new(by_user);
    stage.client_says("GET / HTTP/1.1\r\nX-User: me\r\n");
    assert!(matches!(stage.relay.waiting(), Some(super::super::relay::Waiting::Head(_))));
    assert_eq!(stage.relay.expired(&mut cx, &mut [0; 64]), Err(Exit::Opaque(Ambiguity::HeadTooSlow)));

    let mut stage = Stage::new(by_user);
    stage.client_says("NATS");
    assert_eq!(stage.relay.waiting(), Some(super::super::relay::Waiting::Doubtful));
    assert_eq!(stage.relay.expired(&mut cx, &mut [0; 64]), Err(Exit::NotHttp));

    let mut stage = Stage::new(by_user);
    stage.client_says("GET / HTTP/1.1\r\nX-User: me\r\n");
    stage.client_ends();
    assert_eq!(stage.exit, Some(Exit::Opaque(Ambiguity::Head)));
    let rest = stage.rest();
    assert!(rest.client_ended && rest.up.ends_with(b"me\r\n"));
}

#[test]
fn responses_that_cannot_be_read_are_copied() {
    for answer in [
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "hello\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
    ] {
        for pieces in cuts(answer.as_bytes()) {
            let mut stage = Stage::new(by_user);
            stage.client_says("GET / HTTP/1.1\r\n\r\n");
            pieces.iter().for_each(|piece| stage.pod_says(piece));
            assert_eq!(stage.exit, Some(Exit::Opaque(Ambiguity::Response)), "{answer:?}");
            let rest = stage.rest();
            assert_eq!([stage.client_heard().into_bytes(), rest.down, drain(&stage.stream(POD))].concat(), answer.as_bytes());
        }
    }
}

/// What every peer was told in the end, and what is left for the pod.
fn outcome(bytes: &[u8], cut: usize, refuse: bool) -> (Vec<u8>, String, String) {
    let mut stage = Stage::with(by_user, 0, refuse);
    bytes.chunks(cut).for_each(|piece| stage.client_says(piece));
    stage.client_ends();
    // Whoever was asked answers: what the client pipelined comes next.
    while stage.exit.is_none() && stage.relay.down == Down::Head && matches!(stage.relay.up, Up::Wait | Up::Over) {
        let upstream = if stage.relay.to == To::Pod { POD } else { SESSION };
        stage.says(upstream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    let mut pod: Vec<u8> = stage.heard(POD).chars().map(|char| char as u8).collect();
    let (mut session, client) = (stage.heard(SESSION), stage.client_heard());
    if matches!(stage.exit, Some(Exit::Opaque(_) | Exit::NotHttp | Exit::Http2 | Exit::Closing)) {
        pod.extend(stage.rest().up);
        pod.extend(drain(&stage.client));
    }
    if client.contains("HTTP/1.1 400") {
        // How much of a broken body had gone before it broke depends on how it came; whoever got it was cut off.
        session.truncate(session.find("\r\n\r\n").unwrap_or(0));
        let head = pod.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0);
        pod.truncate(head);
    }
    (pod, session, client)
}

#[test]
fn any_damage_is_read_the_same_in_every_cut_and_loses_no_byte() {
    let valid = [
        "POST /a HTTP/1.1\r\nHost: a\r\nX-User: me\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        "GET /c HTTP/1.1\r\nHost: a\r\nX-User: me\r\nContent-Length: 0\r\n\r\nGET /d HTTP/1.1\r\n\r\n",
        "PUT /e HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    ];
    let odd = b"\r\n\0 \t:;,0159afxX\x7f\xff-+/\"";
    let mut seed = 7u32;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    for round in 0..20_000 {
        let mut bytes = valid[round % valid.len()].as_bytes().to_vec();
        for _ in 0..1 + random(2) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = odd[random(odd.len())],
                1 => bytes.insert(at, odd[random(odd.len())]),
                _ => drop(bytes.remove(at)),
            }
        }
        let refuse = round % 2 == 0;
        let whole = outcome(&bytes, bytes.len(), refuse);
        for cut in [1, 2, 1 + random(bytes.len())] {
            assert_eq!(outcome(&bytes, cut, refuse), whole, "{} cut {cut}", bytes.escape_ascii());
        }
        let (pod, session, client) = whole;
        if session.is_empty() && !client.contains("HTTP/1.1 400") {
            assert_eq!(pod, bytes, "{}", bytes.escape_ascii());
        }
    }
}
