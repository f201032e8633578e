//! What others send and get is the same, byte for byte, as without mirrord; and what two parsers could read in two ways is the
//! pod's to read, never stolen, and nothing behind it either.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod corpus;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use corpus::Case;
use mirrord_tests::{
    Exec, Pod, Program, Recorder, Session,
    http::{Pieces, get, shown},
    pod::WEB,
    programs::PYTHON,
    recorder::{Recorded, Step},
    session::ME,
};

/// The recorder's port; the sessions' programs want it too.
const PORT: u16 = 9000;
const QUIET: Duration = Duration::from_millis(1500);
/// Of the ambiguous heads those that nobody would call a request.
const NO_HTTP: [&str; 2] = ["not HTTP at all", "TLS"];
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npod";

#[test]
fn odd_but_valid_messages_pass_untouched_both_ways_however_they_are_cut() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[PORT]));
    let mut wrong = Vec::new();
    for case in corpus::valid() {
        for pieces in Pieces::ALL {
            converse(&pod, &recorder, &case, pieces).unwrap_or_else(|what| wrong.push(format!("{} {pieces:?}: {what}", case.name)));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_not_reached(&session);
    assert_can_be_reached(&pod, &session);
}

#[test]
fn megabytes_pass_untouched() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[PORT]));
    let noise: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let with_length = |line: &str| [format!("{line}Content-Length: {}\r\n\r\n", noise.len()).as_bytes(), &noise].concat();
    let mut chunks = Vec::new();
    for chunk in noise.chunks(70_001) {
        chunks.extend(format!("{:X};n\r\n", chunk.len()).bytes().chain(chunk.iter().copied()).chain(*b"\r\n"));
    }
    let chunked = |line: &str| [format!("{line}Transfer-Encoding: chunked\r\n\r\n").as_bytes(), &chunks, b"0\r\nT: t\r\n\r\n"].concat();
    for (name, request, answer) in [
        ("length", with_length("POST / HTTP/1.1\r\nHost: pod\r\n"), with_length("HTTP/1.1 200 OK\r\n")),
        ("chunks", chunked("POST / HTTP/1.1\r\nHost: pod\r\n"), chunked("HTTP/1.1 200 OK\r\n")),
    ] {
        let case = Case { name, exchanges: vec![(request, answer), (get("/", &[]), ANSWER.to_vec())], close: false, pipelined: false };
        for pieces in [Pieces::Whole, Pieces::Halves] {
            converse(&pod, &recorder, &case, pieces).unwrap();
        }
    }
    assert_not_reached(&session);
}

#[test]
fn what_is_no_http_passes_untouched_and_a_server_that_speaks_first_need_not_wait() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[PORT]));
    let step = |after, answer: &[u8]| Step { after, answer: answer.to_vec(), pieces: Pieces::Whole, close: false };
    let mut slowest = Duration::ZERO;
    for pieces in Pieces::ALL {
        recorder.play(vec![step(0, b"220 welcome\r\n"), step(6, b"250 hello\r\n"), step(20, b"\0\xff")]);
        let start = Instant::now();
        let mut client = pod.connect(PORT);
        assert_eq!(client.read_up_to(13, QUIET), b"220 welcome\r\n");
        slowest = slowest.max(start.elapsed());
        client.send_in(b"EHLO\r\n", pieces);
        assert_eq!(client.read_up_to(11, QUIET), b"250 hello\r\n");
        client.send_in(b"GET / HTTP/1.", pieces);
        client.send_in(b"1", pieces);
        assert_eq!(client.read_up_to(2, QUIET), b"\0\xff");
        client.finish();
        assert_eq!(recorder.finished()[0].bytes, b"EHLO\r\nGET / HTTP/1.1");
    }
    assert!(slowest < Duration::from_millis(400), "a server that speaks first was kept waiting for {slowest:?}");
    assert_not_reached(&session);
}

#[test]
fn a_client_that_says_it_will_send_no_more_is_answered() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let request = get("/half", &[]);
    let bare = half_closed(&pod, &recorder, &request);
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[PORT]));
    assert_eq!(half_closed(&pod, &recorder, &request), bare);
    assert_eq!(bare.0, ANSWER);
    assert_not_reached(&session);
}

fn half_closed(pod: &Pod, recorder: &Recorder, request: &[u8]) -> (Vec<u8>, Vec<Recorded>) {
    // The answer's last part comes when the end of the request has been seen for long.
    recorder.play(vec![Step { after: request.len(), answer: ANSWER.to_vec(), pieces: Pieces::Bytes, close: false }]);
    let mut client = pod.connect(PORT);
    client.send(request);
    client.finish();
    (client.ending(QUIET).0, recorder.finished())
}

#[test]
fn a_head_that_comes_too_slowly_is_the_pods_even_if_it_is_mine() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let mut client = pod.connect(WEB);
    client.send(b"GET /slow HTTP/1.1\r\nHost: pod\r\n");
    // Longer than the gateway waits for a head (5 s); shorter than nginx does (60 s).
    assert_eq!(client.ending(Duration::from_millis(5500)), (Vec::new(), "open"));
    client.send(b"x-user: me\r\n\r\n");
    assert_eq!(client.response().who(), "pod");
    assert_eq!(client.get("/behind", &[ME]).who(), "pod", "what follows on that connection is the pod's too");
    assert!(session.seen().is_empty());
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
}

#[test]
fn a_stolen_request_reaches_the_program_untouched_and_its_answer_gets_one_header_more() {
    let pod = Pod::new();
    let script = "
import socket, sys
s = socket.create_server(('', int(sys.argv[3])))
open(sys.argv[2], 'a').write('listening %s\\n' % sys.argv[3])
while True:
    c = s.accept()[0]
    got = b''
    while not got.endswith(b'end\\r\\n\\r\\n'):
        data = c.recv(65536)
        if not data: break
        got += data
    open(sys.argv[2], 'a').write('got ' + got.hex() + '\\n')
    c.sendall(b'HTTP/1.1 200 fine Then\\r\\nX-a:  1\\r\\nTRANSFER-encoding: chunked\\r\\nx-A:2 \\r\\n\\r\\n3;q\\r\\nabc\\r\\n00\\r\\nT: t\\r\\n\\r\\n')
    c.close()
";
    let session = Exec::steal_mine(&pod).run(&Program::new(&[PYTHON, "-c", script], "one", &[PORT]));
    let request = b"PUT /a//b?c=%20 HTTP/1.1\r\nhOST:pod\r\nX-uSER:  me\r\nA: 1\r\nB:\r\na: 2 \r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nLast: end\r\n\r\n";
    let hex: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
    for pieces in Pieces::ALL {
        let mut client = pod.connect(PORT);
        client.send_in(request, pieces);
        let (answer, _) = client.ending(QUIET);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("x-mirrord-filter: header\r\n"), "{answer}");
        let rest = answer.replace("x-mirrord-filter: header\r\n", "");
        assert_eq!(
            rest,
            "HTTP/1.1 200 fine Then\r\nX-a:  1\r\nTRANSFER-encoding: chunked\r\nx-A:2 \r\n\r\n3;q\r\nabc\r\n00\r\nT: t\r\n\r\n"
        );
        assert_eq!(session.log().last().unwrap(), &format!("got {hex}"));
    }
}

#[test]
fn the_pod_sees_the_clients_own_address() {
    let pod = Pod::new();
    let _session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    for address in [pod.address(WEB), pod.address_v6(WEB)] {
        let answer = pod.request(address, "GET", "/client").send();
        assert_eq!(answer.text(), format!("pod {} {} {WEB}\n", pod.client_of(address), address.ip()));
    }
}

#[test]
fn ambiguous_messages_reach_the_pod_as_without_mirrord_and_are_never_stolen() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let cases: Vec<_> = corpus::ambiguous_heads().into_iter().chain(corpus::broken_bodies()).collect();
    let all = || -> Vec<_> {
        let ways = cases.iter().flat_map(|(name, bytes)| Pieces::ALL.map(|pieces| (*name, bytes, pieces)));
        ways.filter(|(_, bytes, pieces)| bytes.len() < 10_000 || *pieces != Pieces::Bytes)
            .map(|(name, bytes, pieces)| (format!("{name} {pieces:?}"), with_another_behind(&pod, &recorder, bytes, pieces)))
            .collect()
    };
    let bare = all();
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[PORT]));
    let redirected = all();
    let differ: Vec<_> = bare
        .iter()
        .zip(&redirected)
        .filter(|(bare, with)| bare != with)
        .map(|(bare, with)| format!("{}:\n  without {:?}\n  with    {:?}", bare.0, bare.1, with.1))
        .collect();
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), bare.len(), differ.join("\n"));
    assert_not_reached(&session);
    assert_can_be_reached(&pod, &session);
}

#[test]
fn a_real_server_answers_ambiguous_messages_as_without_mirrord() {
    let pod = Pod::new();
    let cases: Vec<_> = corpus::ambiguous_heads().into_iter().chain(corpus::broken_bodies()).collect();
    // What nginx makes of a broken message depends on how it comes in pieces; each of its answers is as good as another.
    let all = || -> Vec<BTreeSet<String>> {
        thread::scope(|scope| {
            let asked: Vec<_> = cases.iter().map(|(_, bytes)| scope.spawn(|| answers_of_nginx(&pod, bytes))).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let bare = all();
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[WEB]));
    let redirected = all();
    let mut wrong = Vec::new();
    for (((name, _), bare), with) in cases.iter().zip(&bare).zip(&redirected) {
        wrong.extend(with.difference(bare).map(|answer| format!("{name}:\n  {answer:?}\n  in place of one of {bare:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_not_reached(&session);
    let some = |text: &str| bare.iter().flatten().any(|answer| answer.contains(text));
    assert!(some("400 Bad Request") && some("pod POST"), "the corpus is refused by nginx in parts only");
}

#[test]
fn with_refuse_ambiguous_heads_get_400_and_the_pod_nothing() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let session = Exec::steal_mine(&pod).option("--ambiguous refuse").run(&Program::raw("one", &[PORT]));
    let mut wrong = Vec::new();
    // What is surely no HTTP comes in the test after this.
    for (name, bytes) in corpus::ambiguous_heads().into_iter().filter(|(name, _)| !NO_HTTP.contains(name)) {
        recorder.play(vec![Step { after: 1, answer: ANSWER.to_vec(), pieces: Pieces::Whole, close: false }]);
        let mut client = pod.connect(PORT);
        let _ = client.try_send(&[&bytes[..], &get("/behind", &[ME])].concat(), Pieces::Whole);
        let (answer, ending) = client.ending(QUIET);
        let got: Vec<_> = recorder.seen().into_iter().flat_map(|seen| seen.bytes).collect();
        if !answer.starts_with(b"HTTP/1.1 400 ") || ending == "open" || !got.is_empty() {
            wrong.push(format!("{name}: client {} ({ending}), pod {}", shown(&answer), shown(&got)));
        }
    }
    assert!(wrong.is_empty(), "{} were not refused:\n{}", wrong.len(), wrong.join("\n"));
    assert_not_reached(&session);

    // Sound requests are served as ever.
    recorder.play(vec![Step { after: get("/", &[]).len(), answer: ANSWER.to_vec(), pieces: Pieces::Whole, close: false }]);
    assert_eq!(pod.request(pod.address(PORT), "GET", "/").send().text(), "pod");
    assert_can_be_reached(&pod, &session);
}

#[test]
fn with_refuse_what_is_no_http_does_not_reach_the_pod_either() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, PORT);
    let _session = Exec::steal_mine(&pod).option("--ambiguous refuse").run(&Program::raw("one", &[PORT]));
    for (name, bytes) in corpus::ambiguous_heads().into_iter().filter(|(name, _)| NO_HTTP.contains(name)) {
        recorder.play(Vec::new());
        let mut client = pod.connect(PORT);
        let _ = client.try_send(&bytes, Pieces::Whole);
        let (_, ending) = client.ending(QUIET);
        let got: Vec<_> = recorder.seen().into_iter().flat_map(|seen| seen.bytes).collect();
        // A server behind might skip what it does not know and find a request in it that no filter has seen.
        assert!(got.is_empty(), "{name}: the pod gets {}", shown(&got));
        assert_ne!(ending, "open", "{name}");
    }
}

#[test]
fn a_stolen_request_whose_body_breaks_is_cut_off_and_nothing_behind_it_reaches_the_program() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    for (name, bytes) in corpus::broken_bodies() {
        let stolen = String::from_utf8(bytes).unwrap().replace("Host: pod\r\n", "Host: pod\r\nx-user: me\r\n");
        let mut client = pod.connect(WEB);
        let _ = client.try_send(&[stolen.as_bytes(), &get("/behind", &[ME])].concat(), Pieces::Whole);
        client.finish();
        let (answer, _) = client.ending(QUIET);
        assert!(!answer.windows(7).any(|part| part == b"/behind"), "{name}: {}", shown(&answer));
    }
    assert!(session.seen().iter().all(|seen| seen.path != "/behind"), "{:?}", session.seen());
    assert_eq!(pod.get("/sound").with(ME).send().who(), "program one");
}

/// One conversation through the gateway; both ends must see exactly what the other has sent.
fn converse(pod: &Pod, recorder: &Recorder, case: &Case, pieces: Pieces) -> Result<(), String> {
    let mut after = 0;
    let last = case.exchanges.len() - 1;
    let steps = case.exchanges.iter().enumerate().map(|(index, (request, answer))| {
        after += request.len();
        Step { after, answer: answer.clone(), pieces, close: case.close && index == last }
    });
    recorder.play(steps.collect());
    let mut client = pod.connect(PORT);
    let sent: Vec<u8> = case.exchanges.iter().flat_map(|(request, _)| request.clone()).collect();
    if case.pipelined {
        client.try_send(&sent, pieces).map_err(|error| format!("cannot send: {error}"))?;
    }
    for (request, answer) in &case.exchanges {
        if !case.pipelined {
            client.try_send(request, pieces).map_err(|error| format!("cannot send: {error}"))?;
        }
        same("the client gets", &client.read_up_to(answer.len(), QUIET), answer)?;
    }
    let (rest, ending) = if case.close { client.ending(QUIET) } else { (Vec::new(), "closed") };
    client.finish();
    if !rest.is_empty() || ending != "closed" {
        return Err(format!("after the server closed, the client gets {} and {ending}", shown(&rest)));
    }
    let seen = recorder.finished();
    if seen.len() != 1 || seen[0].peer != pod.client_v4 {
        return Err(format!("the pod saw connections from {:?}", seen.iter().map(|one| one.peer).collect::<Vec<_>>()));
    }
    same("the pod gets", &seen[0].bytes, &sent)
}

fn same(who: &str, got: &[u8], wanted: &[u8]) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let at = got.iter().zip(wanted).take_while(|(got, wanted)| got == wanted).count();
    Err(format!(
        "{who} {} bytes in place of {}; from byte {at} on {}\n    in place of {}",
        got.len(),
        wanted.len(),
        shown(&got[at..]),
        shown(&wanted[at..])
    ))
}

/// Sends the bytes and, behind them, a request that would be stolen on its own. What the pod saw, what the client got.
fn with_another_behind(pod: &Pod, recorder: &Recorder, bytes: &[u8], pieces: Pieces) -> (Vec<Recorded>, String) {
    let behind = get("/behind", &[ME]);
    let step = |after| Step { after, answer: ANSWER.to_vec(), pieces: Pieces::Whole, close: false };
    recorder.play(vec![step(bytes.len()), step(bytes.len() + behind.len())]);
    let mut client = pod.connect(PORT);
    let _ = client.try_send(&[bytes, &behind].concat(), pieces);
    let answer = client.read_up_to(2 * ANSWER.len(), QUIET);
    client.finish();
    let (rest, ending) = client.ending(QUIET);
    (recorder.finished(), format!("{}{} {ending}", shown(&answer), shown(&rest)))
}

/// nginx's whole answers, without the date, to the bytes with another request behind them, cut in several ways.
fn answers_of_nginx(pod: &Pod, bytes: &[u8]) -> BTreeSet<String> {
    let whole = [bytes, &get("/behind", &[ME])].concat();
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let cuts = [vec![], vec![head], vec![bytes.len()], vec![head, bytes.len()], vec![whole.len() / 2], vec![head, head + 1]];
    let answer = |cuts: &[usize]| {
        let mut client = pod.connect(WEB);
        let (mut from, mut rest) = (0, &whole[..]);
        for cut in cuts {
            let (piece, behind) = rest.split_at((cut - from).min(rest.len()));
            let _ = client.try_send(piece, Pieces::Whole);
            thread::sleep(Duration::from_millis(30));
            (from, rest) = (*cut, behind);
        }
        let _ = client.try_send(rest, Pieces::Whole);
        client.finish();
        let (answer, ending) = client.ending(QUIET * 2);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("Date: ")).collect();
        // After an answer that closes, whether the rest of the request meets a FIN or a reset is the kernel's affair.
        format!("{} {}", lines.join("\n"), if ending == "reset" { "closed" } else { ending })
    };
    cuts.iter().map(|cuts| answer(cuts)).collect()
}

#[track_caller]
fn assert_not_reached(session: &Session<'_>) {
    let connections: Vec<_> = session.log().into_iter().filter(|line| !line.starts_with("listening")).collect();
    assert!(connections.is_empty(), "the program was reached: {connections:?}");
}

/// The proof that nothing was reached would mean nothing if nothing could be.
#[track_caller]
fn assert_can_be_reached(pod: &Pod, session: &Session<'_>) {
    let mut client = pod.connect(PORT);
    client.send(&get("/", &[ME]));
    // The program speaks no HTTP; that its connection is noted suffices.
    let _ = client.read_up_to(1, QUIET);
    assert!(session.log().iter().any(|line| line.starts_with("connection")), "{:?}", session.log());
}
