//! Filters that see more than heads, on a real pod: who answers by a request's body, what leaves the pod redacted, faults, TLS
//! connections by name; and what is nobody's stays as it came, however it is cut.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::Read,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Client, Exec, Pod, Program, Recorder, Session, eventually,
    http::Pieces,
    pod::WEB,
    recorder::Step,
    session::{Delivery, ME},
};

/// The recorder's port; the sessions' programs want it too.
const PORT: u16 = 9000;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npod";

/// A body with its length, or in chunks of five bytes with extensions and a trailer.
fn bodies(line: &str, body: &str) -> [Vec<u8>; 2] {
    let chunks: String =
        body.as_bytes().chunks(5).map(|part| format!("{:x};n=1\r\n{}\r\n", part.len(), String::from_utf8_lossy(part))).collect();
    [
        format!("{line}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        format!("{line}Transfer-Encoding:  chunked\r\n\r\n{chunks}0\r\nX-T: t\r\n\r\n").into_bytes(),
    ]
}

/// Sends a request to a pod that answers after its whole length; what the pod got and what the client.
fn ask(pod: &Pod, recorder: &Recorder, request: &[u8], pieces: Pieces) -> (Vec<u8>, String) {
    recorder.play(vec![Step { after: request.len(), answer: ANSWER.to_vec(), pieces: Pieces::Whole, close: false }]);
    let mut client = pod.connect(PORT);
    client.send_in(request, pieces);
    let response = client.response();
    client.finish();
    drop(client);
    let got = recorder.seen().into_iter().flat_map(|one| one.bytes).collect();
    (got, response.text())
}

/// All that the program got, as it came.
fn received(session: &Session<'_>) -> String {
    let lines = session.log();
    let hex: String = lines.iter().filter_map(|line| line.strip_prefix("received ")).collect();
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_request_goes_where_its_body_says_and_no_byte_is_changed() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal(&pod).filter("graphql", r#"{"operations":["AddToCart"]}"#).run(&Program::raw("one", &[PORT]));
    let line = "POST /graphql HTTP/1.1\r\nHost:  pod\r\nContent-Type: application/json\r\n";
    let mine = r#"{"query":"mutation AddToCart { add(item: 7) { id } }"}"#;
    let others = r#"{"query":"mutation Checkout { pay { id } }"}"#;
    let mut stolen = String::new();
    for pieces in Pieces::ALL {
        for request in bodies(line, others) {
            let (got, answer) = ask(&pod, &recorder, &request, pieces);
            assert_eq!((String::from_utf8_lossy(&got), answer.as_str()), (String::from_utf8_lossy(&request), "pod"), "{pieces:?}");
        }
        for request in bodies(line, mine) {
            let (got, _) = ask(&pod, &recorder, &request, pieces);
            assert!(got.is_empty(), "the pod got {}", String::from_utf8_lossy(&got));
            stolen += &String::from_utf8_lossy(&request);
            eventually("the program got it all", || (received(&session) == stolen).then_some(()));
        }
    }
    session.end();
    drop(recorder);
    pod.assert_pristine();
}

#[test]
fn the_pod_gets_a_copy_of_what_the_session_answers_and_nobody_waits_for_the_pod() {
    for delivery in Delivery::ALL {
        let pod = Pod::new();
        let recorder = Recorder::new(&pod.inside, PORT);
        let session = Exec::steal(&pod).delivery(delivery).filter("both", "").run(&Program::node("one", &[PORT]));
        // What the pod answers goes nowhere; and the last one it does not answer.
        let all = [
            &bodies("POST /a HTTP/1.1\r\nHost:  pod\r\nX-User: a\r\n", "twenty letters of text")[..],
            &[b"GET /b HTTP/1.1\r\nHost: pod\r\n\r\n".to_vec()],
        ]
        .concat();
        let answered = [all[0].len(), all[0].len() + all[1].len()];
        recorder.play(answered.map(|after| Step { after, answer: ANSWER.to_vec(), pieces: Pieces::Whole, close: false }).to_vec());
        let mut client = pod.connect(PORT);
        for request in &all {
            client.send(request);
            assert_eq!(client.response().who(), "program one");
        }
        let copied = || recorder.seen().into_iter().flat_map(|one| one.bytes).collect::<Vec<_>>();
        eventually("the pod has its copies", || (copied().len() >= all.concat().len()).then_some(()));
        assert_eq!(String::from_utf8_lossy(&copied()), String::from_utf8_lossy(&all.concat()), "{delivery:?}");
        assert_eq!(session.seen().iter().map(|seen| seen.body).collect::<Vec<_>>(), [22, 22, 0]);
        session.end();
        drop((client, recorder));
        pod.assert_pristine();
    }
}

#[test]
fn a_client_that_waits_to_be_told_to_continue_is_told() {
    let pod = Pod::new();
    let _session = Exec::steal(&pod).filter("graphql", r#"{"operations":["AddToCart"]}"#).run(&Program::c("one", &[WEB]));
    for (operation, who) in [("AddToCart", "program one"), ("Checkout", "pod")] {
        let body = format!(r#"{{"query":"mutation {operation} {{ x }}"}}"#);
        let mut client = pod.connect(WEB);
        let head = format!(
            "POST /graphql HTTP/1.1\r\nHost: pod\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.send(head.as_bytes());
        let mut told = [0; 25];
        client.socket().read_exact(&mut told).unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send(body.as_bytes());
        let response = client.response();
        assert_eq!((response.status, response.who()), (200, who.into()), "told once, then answered");
    }
}

#[test]
fn secrets_do_not_leave_the_pod_with_a_stolen_request() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let config = r#"{"header":"x-user","value":"me","fields":["password"]}"#;
    let session = Exec::steal(&pod).filter("redact", config).run(&Program::raw("one", &[PORT]));
    let body = r#"{"name":"ann","password":"hunter2","note":"hello"}"#;
    let line = "POST / HTTP/1.1\r\nHost:  pod\r\nContent-Type: application/json\r\n";
    for pieces in Pieces::ALL {
        for request in bodies(line, body) {
            let (got, answer) = ask(&pod, &recorder, &request, pieces);
            assert_eq!((String::from_utf8_lossy(&got), answer.as_str()), (String::from_utf8_lossy(&request), "pod"), "{pieces:?}");
        }
    }
    // This program speaks before it is asked, which ends its connection: what it got before is all there is.
    for (count, request) in bodies(&format!("{line}{ME}\r\n"), body).into_iter().enumerate() {
        let (got, _) = ask(&pod, &recorder, &request, Pieces::Whole);
        assert!(got.is_empty(), "the pod got {}", String::from_utf8_lossy(&got));
        let all = eventually("the program got it", || Some(received(&session)).filter(|all| all.matches("\"note\"").count() == count + 1));
        assert_eq!((all.matches("hunter2").count(), all.matches("\"***\"").count()), (0, count + 1), "{all}");
    }
}

#[test]
fn what_is_redacted_has_its_own_length_however_it_comes() {
    let pod = Pod::new();
    let config = r#"{"header":"x-user","value":"me","fields":["password"]}"#;
    let session = Exec::steal(&pod).filter("redact", config).run(&Program::python("one", &[WEB]));
    let body = r#"{"password":"hunter2"}"#;
    let line = format!("POST / HTTP/1.1\r\nHost:  pod\r\nContent-Type: application/json\r\n{ME}\r\n");
    let mut count = 0;
    for pieces in Pieces::ALL {
        // A server of Python's own kind reads no chunks.
        let request = &bodies(&line, body)[0];
        let mut client = pod.connect(WEB);
        client.send_in(request, pieces);
        assert_eq!(client.response().who(), "program one", "{pieces:?}");
        count += 1;
        assert_eq!(session.wait_for_requests(count).pop().unwrap().body, r#"{"password":"***"}"#.len() as u64, "{pieces:?}");
    }
}

#[test]
fn a_fault_meets_its_own_request_alone() {
    let pod = Pod::new();
    let config = r#"{"header":"x-user","value":"me","percent":100,"delay_ms":600,"then":"abort"}"#;
    let session = Exec::steal(&pod).filter("fault", config).run(&Program::c("one", &[WEB]));
    let mut mine: Client = pod.connect(WEB);
    let began = Instant::now();
    mine.send(&mirrord_tests::http::get("/", &[ME]));
    let mut others = pod.connect(WEB);
    for _ in 0..20 {
        assert_eq!(others.get("/", &[]).who(), "pod");
    }
    assert!(began.elapsed() < Duration::from_millis(500), "the others waited: {:?}", began.elapsed());
    let error = mine.try_response().expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(began.elapsed() >= Duration::from_millis(600), "after {:?}", began.elapsed());
    assert!(session.seen().is_empty());
}

#[test]
fn only_a_sessions_own_requests_tell_what_became_of_them() {
    let pod = Pod::new();
    let _session = Exec::steal_mine(&pod).option("--show-decision").run(&Program::c("one", &[WEB]));
    let mut client = pod.connect(WEB);
    let stolen = client.get("/", &[ME]);
    let told = stolen.header("x-mirrord-decision").expect("the header");
    assert!(stolen.who() == "program one" && told.starts_with("steal; filter=header"), "{told}");
    assert_eq!(client.get("/", &[]).header("x-mirrord-decision"), None, "another's");
    drop(_session);
    let _quiet = Exec::steal_mine(&pod).run(&Program::c("two", &[WEB]));
    let stolen = pod.connect(WEB).get("/", &[ME]);
    assert_eq!((stolen.who().as_str(), stolen.header("x-mirrord-decision")), ("program two", None), "not asked for");
}

/// A TLS client's first message for that server.
fn client_hello(name: &str) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let names = long(&[&[0][..], &long(name.as_bytes())].concat());
    let extensions = [&[0, 0][..], &long(&names)].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    let message = [&[1, 0][..], &long(&body)].concat();
    [&[22, 3, 1][..], &long(&message)].concat()
}

#[test]
fn a_tls_connection_goes_by_the_name_that_it_asks_for() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal(&pod).filter("sni-route", r#"{"names":["me.shop.example"]}"#).run(&Program::raw("one", &[PORT]));
    let mut stolen = String::new();
    for pieces in Pieces::ALL {
        let mine = client_hello("me.shop.example");
        recorder.play(Vec::new());
        let mut client = pod.connect(PORT);
        client.send_in(&mine, pieces);
        stolen += &String::from_utf8_lossy(&mine);
        eventually("the program got it", || (received(&session) == stolen).then_some(()));
        assert!(recorder.seen().iter().all(|one| one.bytes.is_empty()), "the pod got something");
        drop(client);
        let others = client_hello("shop.example");
        recorder.play(Vec::new());
        let mut client = pod.connect(PORT);
        client.send_in(&others, pieces);
        eventually("the pod got it", || recorder.seen().iter().any(|one| one.bytes == others).then_some(()));
        assert_eq!(received(&session), stolen);
    }
}
