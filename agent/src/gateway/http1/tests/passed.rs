//! What goes to the pod arrives as it was sent, and its responses come back so.

use super::*;

/// Odd but valid exchanges on a connection that is kept.
const EXCHANGES: &[(&str, &str)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("get /?q=%00 HTTP/1.1\r\nhOsT:a\r\nX-A:\t 1 \t\r\nx-a:\r\nX_b: \"q;,=\"\r\n\r\n", "HTTP/1.1 200\r\ncontent-length:0\r\n\r\n"),
    ("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    ("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n"),
    ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
    (
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\n\r\nGET /",
        "HTTP/1.1 201 Created\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n.",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-encoding: Chunked\r\n\r\n5;a=b;c=\"d\"\r\nhello\r\n00a\r\n0123456789\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n1\r\na\r\n0;z\r\nX: y\r\nZ:\r\n\r\n",
    ),
    (
        "PUT /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\nA\r\n\r\n0\r\n\r\n\r\n1\r\n0\r\nX-Sum: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\n\r\n\r\r\n0\r\n\r\n",
    ),
    (
        "POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    ),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 \u{e9}\r\nContent-Length: 0\r\n\r\n"),
    ("GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n", "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"),
    ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n!"),
    ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\nCookie: \u{e4}\r\nCookie: b\r\n\r\n", "HTTP/1.1 404 Not Found\r\nContent-Length: 000\r\n\r\n"),
    (
        "X-ODD!#$ / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 405 No\r\nContent-Length: 0\r\nAllow:\r\n\r\n",
    ),
];

fn exchanges() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all: Vec<_> = EXCHANGES.iter().map(|(ask, answer)| (ask.as_bytes().to_vec(), answer.as_bytes().to_vec())).collect();
    let many = (0..99).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>();
    let long = "v".repeat(60_000);
    all.push((
        format!("GET / HTTP/1.1\r\n{many}Host: a\r\n\r\n").into_bytes(),
        format!("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
    ));
    all
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| *byte as char).collect()
}

#[test]
fn bytes_are_the_same_in_every_cut_and_with_slow_peers() {
    for (ask, answer) in exchanges() {
        let asks = if ask.len() > 1000 { vec![vec![&ask[..]], ask.chunks(7).collect()] } else { cuts(&ask) };
        for (n, pieces) in asks.iter().enumerate() {
            let slow = if n % 2 == 0 { 0 } else { 1 };
            let mut stage = Stage::with(pass, slow, false);
            pieces.iter().for_each(|piece| stage.client_says(piece));
            assert_eq!(stage.heard(POD), text(&ask));
            let answers = if answer.len() > 1000 { vec![answer.chunks(1000).collect()] } else { cuts(&answer) };
            answers[n % answers.len()].iter().for_each(|piece| stage.pod_says(piece));
            assert_eq!(stage.client_heard(), text(&answer));
            assert_eq!((stage.exit, stage.relay.requests), (None, 1), "{}", text(&ask));
            assert!(stage.relay.waiting().is_none() && stage.relay.down == super::super::relay::Down::Idle);
        }
        for pieces in if answer.len() > 1000 { vec![vec![&answer[..]], answer.chunks(7).collect()] } else { cuts(&answer) } {
            let mut stage = Stage::with(pass, 1, false);
            stage.client_says(&ask);
            pieces.iter().for_each(|piece| stage.pod_says(piece));
            assert_eq!((stage.client_heard(), stage.exit), (text(&answer), None));
        }
    }
}

#[test]
fn all_of_them_follow_one_another_on_one_connection() {
    for slow in [0, 1, 3] {
        let mut stage = Stage::with(pass, slow, false);
        for (ask, answer) in exchanges() {
            stage.client_says(&ask);
            assert_eq!(stage.heard(POD), text(&ask));
            stage.pod_says(&answer);
            assert_eq!(stage.client_heard(), text(&answer));
        }
        assert_eq!((stage.relay.requests as usize, stage.exit), (exchanges().len(), None));
        stage.client_ends();
        assert_eq!(stage.exit, Some(Exit::Closing));
    }
}

#[test]
fn pipelined_requests_go_one_by_one_in_order() {
    let all: Vec<u8> = exchanges().into_iter().flat_map(|(ask, _)| ask).collect();
    for piece in [all.len(), 1000, 1] {
        let mut stage = Stage::new(pass);
        for bytes in all.chunks(piece) {
            stage.client_says(bytes);
        }
        for (ask, answer) in exchanges() {
            assert_eq!(stage.heard(POD), text(&ask));
            assert_eq!(stage.client_heard(), "");
            stage.pod_says(&answer);
            assert_eq!(stage.client_heard(), text(&answer));
        }
    }
}

#[test]
fn what_a_client_pipelines_is_held_up_to_a_bound() {
    let mut stage = Stage::new(pass);
    stage.client_says("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..1000 {
        stage.client.say(&[b'x'; 4096]);
    }
    stage.run();
    assert!(stage.relay.input.len() <= 80 * 1024, "{}", stage.relay.input.len());
}

#[test]
fn an_idle_connection_keeps_no_buffers() {
    let mut stage = Stage::with(pass, 1, false);
    for (ask, answer) in exchanges() {
        ask.chunks(5).for_each(|piece| stage.client_says(piece));
        answer.chunks(5).for_each(|piece| stage.pod_says(piece));
    }
    let relay = &stage.relay;
    let held = [&relay.input, &relay.to_up, &relay.to_client, &relay.answer].map(Vec::capacity);
    assert_eq!((held, relay.special.is_some()), ([0; 4], false));
}

#[test]
fn a_response_until_close_ends_with_the_pod() {
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nabc",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: identity\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    ] {
        let mut stage = Stage::new(pass);
        stage.client_says("GET / HTTP/1.1\r\n\r\n");
        stage.pod_says(answer);
        stage.client_says("GET /never HTTP/1.1\r\n\r\n");
        stage.ends(POD);
        let rest = stage.rest();
        assert_eq!(format!("{}{}", stage.client_heard(), text(&rest.down)), answer);
        assert!(stage.exit.is_some());
    }
}

#[test]
fn after_a_response_that_closes_nothing_is_read_as_a_request() {
    let mut stage = Stage::new(by_user);
    stage.client_says("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nX-User: me\r\n\r\n");
    stage.pod_says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(stage.exit, Some(Exit::Closing));
    let rest = stage.rest();
    assert_eq!((text(&rest.up), stage.opened(SESSION)), ("GET / HTTP/1.1\r\nX-User: me\r\n\r\n".into(), 0));
}

#[test]
fn a_response_may_come_before_the_request_is_complete() {
    let mut stage = Stage::new(pass);
    stage.client_says("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab");
    stage.pod_says("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(stage.client_heard(), "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
    stage.client_says("cdGET /2 HTTP/1.1\r\n\r\n");
    assert_eq!(stage.heard(POD), "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcdGET /2 HTTP/1.1\r\n\r\n");
    assert_eq!(stage.exit, None);
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    for (ask, answer) in [
        (
            "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "HTTP/1.1 200 Connected\r\n\r\n"),
    ] {
        let mut stage = Stage::new(pass);
        stage.client_says(format!("{ask}GET / HTTP/1.1\r\nX-User: me\r\n\r\n"));
        stage.pod_says(format!("{answer}\x01\x02"));
        assert_eq!(stage.exit, Some(Exit::Tunnel));
        let rest = stage.rest();
        assert_eq!((text(&rest.up), text(&rest.down)), ("GET / HTTP/1.1\r\nX-User: me\r\n\r\n".into(), format!("{answer}\x01\x02")));
        assert_eq!(stage.heard(POD), ask);
    }
}

#[test]
fn the_pod_speaks_first_or_unasked() {
    let mut stage = Stage::new(pass);
    stage.pod_says("220 mail\r\n");
    assert_eq!((stage.exit, text(&stage.rest().down)), (Some(Exit::NotHttp), "220 mail\r\n".into()));

    let mut stage = Stage::new(pass);
    stage.client_says("GET / HTTP/1.1\r\n\r\n");
    stage.pod_says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let timeout = "HTTP/1.1 408 Request Timeout\r\n\r\n";
    stage.pod_says(timeout);
    assert!(matches!(stage.exit, Some(Exit::Opaque(_))));
    assert_eq!(text(&stage.rest().down), timeout);
}

#[test]
fn a_pod_that_greets_as_http2_servers_do_is_heard_when_the_client_has_spoken() {
    let settings = "\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\0\x04\x08\0\0\0\0\0\0\x0f\0\x01";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (client, exit) in [(preface, Exit::Http2), ("GET / HTTP/1.1\r\n\r\n", Exit::NotHttp), ("\x16\x03\x01", Exit::NotHttp)] {
        let mut stage = Stage::new(pass);
        stage.pod_says(settings);
        assert_eq!((stage.exit, stage.client_heard()), (None, String::new()));
        stage.client_says(client);
        let rest = stage.rest();
        assert_eq!((stage.exit, text(&rest.up), text(&rest.down)), (Some(exit), client.into(), settings.into()));
    }
    // A client that waits for the server is no client of HTTP/2.
    let mut stage = Stage::new(pass);
    stage.pod_says(settings);
    assert_eq!(stage.relay.waiting(), Some(super::super::relay::Waiting::Greeted));
    stage.exit = stage.relay.expired(&mut std::task::Context::from_waker(std::task::Waker::noop()), &mut [0; 64]).err();
    assert_eq!((stage.exit, text(&stage.rest().down)), (Some(Exit::NotHttp), settings.into()));
}

#[test]
fn a_pod_that_closes_or_breaks_does_so_for_the_client() {
    let mut stage = Stage::new(pass);
    stage.ends(POD);
    assert_eq!((stage.exit, stage.rest().upstream_ended), (Some(Exit::Closing), true));

    let mut stage = Stage::new(pass);
    stage.client_says("GET / HTTP/1.1\r\n\r\n");
    stage.pod_says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    stage.stream(POD).break_off();
    stage.run();
    assert_eq!(stage.exit, Some(Exit::Reset));

    let mut stage = Stage::new(pass);
    stage.client_says("GET / HTTP/1.1\r\n\r\n");
    stage.client.break_off();
    stage.run();
    assert_eq!(stage.exit, Some(Exit::Gone));
}

#[test]
fn the_clients_end_is_passed_on_and_the_response_finished() {
    let mut stage = Stage::new(pass);
    stage.client_says("GET / HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    stage.client_ends();
    assert!(!stage.stream(POD).finished(), "there is one more request");
    stage.pod_says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(stage.stream(POD).finished());
    stage.pod_says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!");
    assert_eq!(stage.exit, Some(Exit::Closing));
    assert!(stage.client_heard().ends_with('!'));

    let mut stage = Stage::new(pass);
    stage.client_says("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc");
    stage.client_ends();
    assert!(stage.stream(POD).finished());
    stage.pod_says("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(stage.client_heard(), "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn edits_change_the_head_and_nothing_else() {
    let steer = |_: &RequestParts<'_>| {
        let watched = Edit::Append { name: b"X-Watched".to_vec(), value: b"7".to_vec() };
        let said = ResponseDecision { edits: vec![watched], ..ResponseDecision::default() };
        let extra = Extra {
            request_edits: vec![Edit::Set { name: b"Host".to_vec(), value: b"b".to_vec() }],
            path: Some(b"/new?x".to_vec()),
            response_edits: vec![Edit::Remove { name: b"server".to_vec() }],
            follow: Some(Box::new(Follower { on_response: Some(said), ..Follower::default() })),
            ..Extra::default()
        };
        Steering { extra: Some(Box::new(extra)), ..Steering::default() }
    };
    let ask = "POST / HTTP/1.1\r\nA:1\r\nhost:  a\r\nContent-Length: 2\r\n\r\nhi";
    let answer = "HTTP/1.1 100 Continue\r\nServer: x\r\n\r\nHTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok";
    for pieces in cuts(ask.as_bytes()) {
        let mut stage = Stage::with(steer, 1, false);
        for _ in 0..2 {
            pieces.iter().for_each(|piece| stage.client_says(piece));
            assert_eq!(stage.heard(POD), "POST /new?x HTTP/1.1\r\nA:1\r\nHost: b\r\nContent-Length: 2\r\n\r\nhi");
            stage.pod_says(answer);
            let expected = "HTTP/1.1 100 Continue\r\nServer: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Watched: 7\r\n\r\nok";
            assert_eq!(stage.client_heard(), expected);
        }
    }
}

#[test]
fn any_mix_in_any_cuts_at_any_speed() {
    // A linear congruential generator: the same mixes in every run.
    let mut seed = 1u32;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let short: Vec<_> = exchanges().into_iter().filter(|(ask, answer)| ask.len() + answer.len() < 1000).collect();
    for _ in 0..200 {
        let mut stage = Stage::with(pass, random(4), false);
        let mix: Vec<_> = (0..1 + random(8)).map(|_| &short[random(short.len())]).collect();
        let (asked, answered): (Vec<_>, Vec<_>) = mix.iter().map(|(ask, answer)| (ask.clone(), answer.clone())).unzip();
        let all = asked.concat();
        let (mut sent, mut told, mut heard, mut due) = (0, 0, String::new(), 0);
        let (mut got, answers) = (String::new(), text(&answered.concat()));
        for _ in 0..100_000 {
            if got == answers {
                break;
            }
            let piece = (1 + random(60)).min(all.len() - sent);
            stage.client_says(&all[sent..sent + piece]);
            sent += piece;
            heard += &stage.heard(POD);
            // The pod answers what is complete, in pieces of its own.
            if due < asked.len() && heard.chars().count() == asked[..=due].concat().len() {
                let piece = (1 + random(30)).min(answered[due].len() - told);
                stage.pod_says(&answered[due][told..told + piece]);
                told += piece;
                if told == answered[due].len() {
                    (due, told) = (due + 1, 0);
                }
            }
            got += &stage.client_heard();
        }
        assert_eq!((heard, got), (text(&all), answers));
        assert_eq!(stage.exit, None);
    }
}

#[test]
fn after_a_request_that_closes_the_rest_is_the_pods() {
    for ask in ["GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"] {
        let mut stage = Stage::new(by_user);
        stage.client_says(format!("{ask}GET / HTTP/1.1\r\nX-User: me\r\n\r\n"));
        stage.pod_says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((stage.exit, stage.opened(SESSION)), (Some(Exit::Closing), 0));
    }
}
