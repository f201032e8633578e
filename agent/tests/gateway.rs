//! The gateway between real sockets on loopback: ends, resets, upgrades, large bodies, copies, as clients and pods see them.

// Helpers of tests, too, stop a test by panicking.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mirrord_agent::gateway::{
    connection,
    steer::{Connecting, Event, Flow, Plan, SessionId, Steered, Steering, Surroundings, Target, Upstream},
};
use mirrord_filters::{ConnectionParts, RequestParts};

const DEADLINE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const STOLEN: &[u8] = b"GET / HTTP/1.1\r\nX-User: me\r\n\r\n";
const MIRRORED: &[u8] = b"GET / HTTP/1.1\r\nX-Copy: 1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[derive(Clone)]
struct World {
    plan: Plan,
    /// Who gets what is no HTTP, and who a copy of it.
    other: Upstream,
    copied_to: Vec<SessionId>,
    /// A filter looks at the server's name: session 1 has `mine.test`, with a copy for the pod, and `none.test` is reset.
    by_name: bool,
    pod: SocketAddr,
    sessions: HashMap<SessionId, SocketAddr>,
    events: Arc<Mutex<Vec<Event>>>,
    refuse: bool,
}

impl Surroundings for World {
    type Stream = tokio::net::TcpStream;

    fn plan(&self, _: &Flow) -> Plan {
        self.plan
    }

    /// `X-User: me` is for session 1, `X-Copy` is copied to it.
    fn steer(self: &Rc<Self>, _: &Flow, request: &RequestParts<'_>) -> Steered {
        let has = |name: &[u8]| request.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
        let target = if has(b"x-user") { Target::Session(1) } else { Target::Pod };
        let copies = if has(b"x-copy") { vec![1] } else { Vec::new() };
        Steered::Decided(Steering { target, copies, ..Steering::default() })
    }

    fn looks_at_connections(&self, _: &Flow) -> bool {
        self.by_name
    }

    fn connection(&self, _: &Flow, connection: &ConnectionParts<'_>) -> Connecting {
        let other = Connecting { target: self.other.into(), copies: self.copied_to.clone(), pod_copy: false };
        match connection.sni.filter(|_| self.by_name) {
            Some(b"mine.test") => Connecting { target: Target::Session(1), pod_copy: true, ..Connecting::default() },
            Some(b"none.test") => Connecting { target: Target::Abort, ..Connecting::default() },
            _ => other,
        }
    }

    fn refuse_ambiguous(&self, _: &Flow) -> bool {
        self.refuse
    }

    fn open(self: &Rc<Self>, _: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Self::Stream>> + 'static {
        let address = match upstream {
            Upstream::Pod => Some(self.pod),
            Upstream::Session(id) => self.sessions.get(&id).copied(),
        };
        async move {
            match address {
                Some(address) => tokio::net::TcpStream::connect(address).await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        }
    }

    fn abort(&self, stream: &mut Self::Stream) {
        let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
    }

    fn count(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

/// A gateway on a thread of its own, which ends with it.
struct Gateway {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

fn gateway_with(plan: Plan, pod: SocketAddr, sessions: &[(SessionId, SocketAddr)]) -> Gateway {
    let sessions = sessions.iter().copied().collect();
    gateway_in(World { sessions, ..world(plan, pod) })
}

/// Without sessions; what is no HTTP is the pod's.
fn world(plan: Plan, pod: SocketAddr) -> World {
    let (other, copied_to, sessions, events) = (Upstream::Pod, Vec::new(), HashMap::new(), Arc::default());
    World { plan, other, copied_to, by_name: false, pod, sessions, events, refuse: false }
}

fn gateway_in(world: World) -> Gateway {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let events = Arc::clone(&world.events);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let accept = async move {
            let (listener, world) = (tokio::net::TcpListener::from_std(listener).unwrap(), Rc::new(world));
            loop {
                let (client, from) = listener.accept().await.unwrap();
                tokio::task::spawn_local(connection::serve(world.clone(), Flow { client: from, destination: address }, client));
            }
        };
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            tokio::select! { () = accept => (), _ = stopped => () }
        });
    });
    Gateway { address, events, stop: Some(stop), thread: Some(thread) }
}

fn gateway(pod: SocketAddr) -> Gateway {
    gateway_with(Plan::Read, pod, &[])
}

impl Gateway {
    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.set_write_timeout(Some(DEADLINE)).unwrap();
        client
    }
}

/// A server that does `serve` with each connection, on threads that end with their connections.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads until `end` has come; what came.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    while !all.ends_with(end) {
        match stream.read(&mut buf) {
            Ok(read) if read > 0 => all.extend_from_slice(&buf[..read]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    all
}

fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}

/// Answers requests without a body until the client ends.
fn answer_all(mut stream: TcpStream, answer: &[u8]) {
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buf) {
        all.extend_from_slice(&buf[..read]);
        while let Some(at) = all.windows(4).position(|window| window == b"\r\n\r\n") {
            all.drain(..at + 4);
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_reset(result: &io::Result<Vec<u8>>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn a_half_closed_request_gets_its_whole_response() {
    let pod = server(|mut stream| {
        let asked = read_to_end(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        stream.write_all(&asked).unwrap();
    });
    let gateway = gateway(pod);
    let mut client = gateway.connect();
    client.write_all(REQUEST).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), [b"HTTP/1.1 200 OK\r\n\r\n", REQUEST].concat());
}

#[test]
fn an_end_is_an_end_and_a_reset_a_reset() {
    let pod = server(|mut stream| {
        let asked = read_until(&mut stream, b"\r\n\r\n");
        stream.write_all(OK).unwrap();
        if asked.starts_with(b"GET /reset") {
            read_until(&mut stream, b"x");
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    let gateway = gateway(pod);
    let mut client = gateway.connect();
    client.write_all(REQUEST).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), OK);

    let mut client = gateway.connect();
    client.write_all(b"GET /reset HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_until(&mut client, OK), OK);
    client.write_all(b"\x00x").unwrap();
    assert!(is_reset(&read_to_end(&mut client)));
}

#[test]
fn a_pod_that_refuses_resets_as_soon_as_something_is_for_it() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let session = server(|stream| answer_all(stream, OK));
    let gateway = gateway_with(Plan::Read, nobody, &[(1, session)]);
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.write_all(STOLEN).unwrap();
        assert_eq!(read_until(&mut client, OK), OK);
    }
    client.write_all(REQUEST).unwrap();
    assert!(is_reset(&read_to_end(&mut client)));
}

#[test]
fn a_client_that_resets_resets_the_pod() {
    let (tx, rx) = mpsc::channel();
    let pod = server(move |mut stream| {
        read_until(&mut stream, b"\r\n\r\n");
        tx.send(None).unwrap();
        tx.send(Some(read_to_end(&mut stream))).unwrap();
    });
    let gateway = gateway(pod);
    let mut client = gateway.connect();
    client.write_all(REQUEST).unwrap();
    rx.recv_timeout(DEADLINE).unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(is_reset(&rx.recv_timeout(DEADLINE).unwrap().unwrap()));
}

#[test]
fn whoever_expects_100_continue_is_told_by_the_pod() {
    let pod = server(|mut stream| {
        read_until(&mut stream, b"\r\n\r\n");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        read_until(&mut stream, b"body");
        stream.write_all(OK).unwrap();
    });
    let gateway = gateway(pod);
    let mut client = gateway.connect();
    client.write_all(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").unwrap();
    assert_eq!(read_until(&mut client, b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").unwrap();
    assert_eq!(read_until(&mut client, OK), OK);
}

#[test]
fn upgrades_of_the_pod_and_of_a_session_carry_bytes_both_ways() {
    let upgrade = |name: &'static [u8]| {
        server(move |mut stream| {
            // The pod sees a connection without a request when the session takes it.
            if stream.peek(&mut [0]).unwrap() == 0 {
                return;
            }
            read_until(&mut stream, b"\r\n\r\n");
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
            stream.write_all(name).unwrap();
            let sent = read_to_end(&mut stream).unwrap();
            stream.write_all(&sent).unwrap();
        })
    };
    let gateway = gateway_with(Plan::Read, upgrade(b"pod!"), &[(1, upgrade(b"session!"))]);
    for (head, name) in [(&b"GET / HTTP/1.1\r\n"[..], &b"pod!"[..]), (b"GET / HTTP/1.1\r\nX-User: me\r\n", b"session!")] {
        let mut client = gateway.connect();
        client.write_all(&[head, b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n"].concat()).unwrap();
        read_until(&mut client, name);
        client.write_all(STOLEN).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client).unwrap(), STOLEN);
    }
}

#[test]
fn servers_that_speak_first_are_not_kept_waiting_and_tls_goes_through() {
    let pod = server(|mut stream| {
        stream.write_all(b"220 ready\r\n").unwrap();
        let sent = read_to_end(&mut stream).unwrap();
        stream.write_all(&sent).unwrap();
    });
    let gateway = gateway(pod);
    let mut client = gateway.connect();
    assert_eq!(read_until(&mut client, b"\r\n"), b"220 ready\r\n");
    client.write_all(STOLEN).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), STOLEN);

    let mut client = gateway.connect();
    client.write_all(b"\x16\x03\x01\x00\x05hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), b"220 ready\r\n\x16\x03\x01\x00\x05hello");
}

#[test]
fn an_unread_connection_is_the_sessions_or_else_the_pods() {
    let pod = server(|mut stream| stream.write_all(b"pod").unwrap());
    let session = server(|mut stream| stream.write_all(b"session").unwrap());
    for (sessions, answer, events) in [(vec![(1, session)], &b"session"[..], 0), (vec![], b"pod", 1)] {
        for plan in [Plan::Opaque(Upstream::Session(1)), Plan::Read] {
            let sessions = sessions.iter().copied().collect();
            let gateway = gateway_in(World { sessions, other: Upstream::Session(1), ..world(plan, pod) });
            let mut client = gateway.connect();
            assert_eq!(read_until(&mut client, answer), answer);
            let events_of_falling = gateway.events.lock().unwrap().iter().filter(|event| **event == Event::FellBack).count();
            assert_eq!(events_of_falling, events, "{plan:?}");
        }
    }
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_large_body_takes_no_memory_however_slow_its_reader() {
    const ALONE: &str = "MIRRORD_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // Memory is counted by process, and other tests take some: this one gets a process of its own.
        let own = std::env::current_exe().unwrap();
        let name = "a_large_body_takes_no_memory_however_slow_its_reader";
        let output = std::process::Command::new(own).args([name, "--exact"]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    const BODY: usize = 256 << 20;
    let pod = server(|mut stream| {
        let mut block = vec![b'x'; 1 << 20];
        read_until(&mut stream, b"\r\n\r\n");
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").as_bytes()).unwrap();
        (0..BODY / block.len()).for_each(|_| stream.write_all(&block).unwrap());
        // And as much the other way.
        read_until_head(&mut stream);
        let mut left = format!("{BODY:x}\r\n").len() + BODY + b"\r\n0\r\n\r\n".len();
        while left > 0 {
            left -= stream.read(&mut block).unwrap();
        }
        stream.write_all(OK).unwrap();
        read_to_end(&mut stream).unwrap();
    });
    let gateway = gateway(pod);
    let before = resident();
    let mut client = gateway.connect();
    client.write_all(REQUEST).unwrap();
    read_until_head(&mut client);
    let block = vec![b'y'; 1 << 20];
    let mut buf = vec![0; 1 << 16];
    let (mut got, mut most) = (0, 0);
    while got < BODY {
        // The first 8 MiB at about 100 MB/s, the rest as fast as it goes.
        if got < 8 << 20 {
            thread::sleep(Duration::from_micros(500));
        }
        got += client.read(&mut buf).unwrap();
        most = most.max(resident());
    }
    assert_eq!(got, BODY);
    client.write_all(format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{BODY:x}\r\n").as_bytes()).unwrap();
    for _ in 0..BODY / block.len() {
        client.write_all(&block).unwrap();
        most = most.max(resident());
    }
    client.write_all(b"\r\n0\r\n\r\n").unwrap();
    assert_eq!(read_until(&mut client, OK), OK);
    assert!(most.saturating_sub(before) < 16 << 20, "grew by {} MiB", (most - before) >> 20);
}

fn read_until_head(stream: &mut TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

/// A program that counts the requests it sees, and closes after each if `close`.
fn program(close: bool) -> (SocketAddr, Arc<Mutex<usize>>) {
    let seen = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&seen);
    let address = server(move |mut stream| {
        let (mut all, mut buf) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut buf) {
            all.extend_from_slice(&buf[..read]);
            while let Some(at) = all.windows(4).position(|window| window == b"\r\n\r\n") {
                all.drain(..at + 4);
                *counted.lock().unwrap() += 1;
                let answer: &[u8] = if close { b"HTTP/1.0 200 OK\r\n\r\nbye" } else { OK };
                if stream.write_all(answer).is_err() || close {
                    return;
                }
            }
        }
    });
    (address, seen)
}

#[test]
fn every_copied_request_is_seen_also_by_a_program_that_closes_after_each() {
    for close in [false, true] {
        let (session, seen) = program(close);
        let gateway = gateway_with(Plan::Read, server(|stream| answer_all(stream, OK)), &[(1, session)]);
        for _ in 0..10 {
            let mut client = gateway.connect();
            for _ in 0..50 {
                client.write_all(MIRRORED).unwrap();
                assert_eq!(read_until(&mut client, OK), OK);
            }
        }
        eventually("500 copies", || *seen.lock().unwrap() == 500);
        assert!(gateway.events.lock().unwrap().is_empty());
    }
}

#[test]
fn a_program_that_stands_still_holds_nobody_up_and_loses_whole_copies() {
    let (held, release) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let session = server(move |stream| {
        // Until the test ends it reads nothing.
        let _ = held.lock().unwrap().send(());
        thread::sleep(DEADLINE);
        drop(stream);
    });
    let gateway = gateway_with(Plan::Read, server(|stream| answer_all(stream, OK)), &[(1, session)]);
    let mut client = gateway.connect();
    let padded = [&MIRRORED[..MIRRORED.len() - 2], b"Pad: ", &[b'p'; 4000][..], b"\r\n\r\n"].concat();
    let start = Instant::now();
    for _ in 0..2000 {
        client.write_all(&padded).unwrap();
        assert_eq!(read_until(&mut client, OK), OK);
    }
    assert!(start.elapsed() < DEADLINE);
    release.recv_timeout(DEADLINE).unwrap();
    let dropped = gateway.events.lock().unwrap().iter().filter(|event| **event == Event::CopyDropped).count();
    assert!((1500..2000).contains(&dropped), "{dropped}");
}

#[test]
fn a_raw_connection_is_copied_in_order() {
    let (tx, rx) = mpsc::channel();
    let session = server(move |mut stream| tx.send(read_to_end(&mut stream).unwrap()).unwrap());
    let pod = server(|mut stream| {
        let sent = read_to_end(&mut stream).unwrap();
        stream.write_all(&sent).unwrap();
    });
    let gateway = gateway_in(World { copied_to: vec![1], sessions: [(1, session)].into(), ..world(Plan::Read, pod) });
    let mut client = gateway.connect();
    let bytes: Vec<u8> = (0..50_000u32).flat_map(u32::to_be_bytes).collect();
    for piece in bytes.chunks(1000) {
        client.write_all(piece).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), bytes);
    assert_eq!(rx.recv_timeout(DEADLINE).unwrap(), bytes);
}

/// A TLS client's first message for that server, in records of at most so many bytes.
fn client_hello(name: &str, record: usize) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let names = long(&[&[0][..], &long(name.as_bytes())].concat());
    let extensions = [&[0, 0][..], &long(&names)].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    let message = [&[1, 0][..], &long(&body)].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &long(part)].concat()).collect()
}

#[test]
fn a_tls_connection_goes_by_the_name_that_it_asks_for() {
    let (tx, copies) = mpsc::channel();
    let echo = |mut stream: TcpStream, name: &[u8]| {
        let heard = read_to_end(&mut stream).unwrap();
        let _ = stream.write_all(name).and_then(|()| stream.write_all(&heard));
        heard
    };
    let pod = server(move |stream| tx.send(echo(stream, b"pod")).unwrap());
    let session = server(move |stream| drop(echo(stream, b"session")));
    let gateway = gateway_in(World { by_name: true, sessions: [(1, session)].into(), ..world(Plan::Read, pod) });
    for (record, piece) in [(1 << 14, 1 << 14), (40, 1 << 14), (1 << 14, 1), (9, 17)] {
        for (name, answer) in [("mine.test", &b"session"[..]), ("else.test", b"pod")] {
            let hello = client_hello(name, record);
            let mut client = gateway.connect();
            client.set_nodelay(true).unwrap();
            hello.chunks(piece).for_each(|piece| client.write_all(piece).unwrap());
            client.write_all(b"more").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let sent = [&hello[..], b"more"].concat();
            assert_eq!(read_to_end(&mut client).unwrap(), [answer, &sent].concat());
            // A connection to the pod that was opened for nothing says nothing.
            let heard = std::iter::repeat_with(|| copies.recv_timeout(DEADLINE).unwrap()).find(|heard| !heard.is_empty()).unwrap();
            assert_eq!(heard, sent, "the pod has it all, or a copy");
        }
    }
    let mut client = gateway.connect();
    client.write_all(&client_hello("none.test", 1 << 14)).unwrap();
    assert!(is_reset(&read_to_end(&mut client)));
    // Half a message is the pod's after a while.
    let mut client = gateway.connect();
    let hello = client_hello("mine.test", 1 << 14);
    client.write_all(&hello[..20]).unwrap();
    thread::sleep(Duration::from_millis(2100));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), [b"pod", &hello[..20]].concat());
}

#[test]
fn a_pod_that_closes_an_idle_connection_closes_the_clients() {
    let pod = server(|mut stream| {
        read_until(&mut stream, b"\r\n\r\n");
        stream.write_all(OK).unwrap();
    });
    let gateway = gateway(pod);
    let mut client = gateway.connect();
    client.write_all(REQUEST).unwrap();
    let start = Instant::now();
    assert_eq!(read_to_end(&mut client).unwrap(), OK);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn an_idle_connection_is_small() {
    let world = Rc::new(world(Plan::Read, ([127, 0, 0, 1], 1).into()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let size = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        std::mem::size_of_val(&connection::serve(world, Flow { client: address, destination: address }, client))
    });
    assert!(size <= 2048, "{size} bytes");
    println!("a connection's future: {size} bytes");
}

#[test]
fn words_that_are_no_method_and_heads_that_never_end_reach_the_pod_in_time() {
    let pod = server(|mut stream| {
        let mut buf = [0; 4096];
        let read = stream.read(&mut buf).unwrap();
        stream.write_all(&buf[..read]).unwrap();
    });
    let gateway = gateway(pod);
    for (bytes, at_most) in [(&b"NATS"[..], 1), (b"GET / HTTP/1.1\r\nX-User: me\r\nX-Half", 7)] {
        let start = Instant::now();
        let mut client = gateway.connect();
        client.write_all(bytes).unwrap();
        assert_eq!(read_to_end(&mut client).unwrap(), bytes);
        assert!(start.elapsed() < Duration::from_secs(at_most));
    }
}

#[test]
fn a_last_word_reaches_a_client_that_is_still_sending() {
    let pod = server(|mut stream| {
        read_until_head(&mut stream);
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // A server that closes with bytes unread would reset what it said: it reads on, as nginx does.
        read_to_end(&mut stream).unwrap();
    });
    let world = World { refuse: true, ..world(Plan::Read, pod) };
    let gateway = gateway_in(world);
    let heads: [(&[u8], &[u8]); 2] = [
        (b"POST / HTTP/1.1\r\nContent-Length: 8388608\r\n\r\n", b"HTTP/1.1 413 "),
        (b"POST / HTTP/1.1\r\nContent-Length: 8388608\r\nContent-Length: 1\r\n\r\n", b"HTTP/1.1 400 "),
    ];
    for (head, answer) in heads {
        let mut client = gateway.connect();
        client.write_all(head).unwrap();
        for _ in 0..8 {
            client.write_all(&[b'x'; 1 << 20]).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        let said = read_to_end(&mut client).unwrap();
        assert!(said.starts_with(answer), "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn a_copy_is_the_request_as_it_came_also_with_a_body_and_after_the_program_closed_an_idle_stream() {
    let request = b"POST /c HTTP/1.1\r\nX-Copy: 1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n";
    let (tx, rx) = mpsc::channel();
    // Says that it keeps the stream, and closes it all the same.
    let session = server(move |mut stream| {
        tx.send(read_until(&mut stream, b"T: 1\r\n\r\n")).unwrap();
        stream.write_all(OK).unwrap();
    });
    let pod = server(|mut stream| {
        for _ in 0..5 {
            read_until(&mut stream, b"T: 1\r\n\r\n");
            stream.write_all(OK).unwrap();
        }
    });
    let gateway = gateway_with(Plan::Read, pod, &[(1, session)]);
    let mut client = gateway.connect();
    for _ in 0..5 {
        for piece in request.chunks(9) {
            client.write_all(piece).unwrap();
        }
        assert_eq!(read_until(&mut client, OK), OK);
        assert_eq!(rx.recv_timeout(DEADLINE).unwrap(), request);
    }
}
