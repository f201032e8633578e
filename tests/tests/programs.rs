//! Unmodified programs of many kinds in a session: each listens where it wants, as it believes, and sees the real client.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
};

use socket2::{Domain, Socket, Type};

use mirrord_tests::{
    Exec, Pod, Program, eventually,
    http::read_response,
    machine,
    pod::WEB,
    processes::Process,
    programs::{PYTHON, source},
    session::{ME, shell_status},
};

#[test]
fn python_with_http_server() {
    is_served_by(&Program::python("one", &[WEB]));
}

#[test]
fn python_with_asyncio() {
    is_served_by(&Program::asyncio("one", &[WEB]));
}

#[test]
fn python_from_the_path_even_if_it_is_a_script() {
    is_served_by(&Program::new(&["python3", &source("server.py")], "one", &[WEB]));
}

#[test]
fn python_behind_a_shell_and_env() {
    is_served_by(&Program::new(&["sh", "-c", "env A=b \"$0\" \"$@\"; exit $?", PYTHON, &source("server.py")], "one", &[WEB]));
}

#[test]
fn node_with_http() {
    is_served_by(&Program::node("one", &[WEB]));
}

#[test]
fn java_with_its_own_server() {
    is_served_by(&Program::java("one", &[WEB]));
}

#[test]
fn c_with_threads() {
    is_served_by(&Program::c("one", &[WEB]));
}

fn is_served_by(program: &Program) {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(program);
    let mut client = pod.connect(WEB);
    for number in 0..5 {
        let path = format!("/{number}");
        client.send(format!("POST {path} HTTP/1.1\r\nHost: pod\r\nX-User: me\r\nContent-Length: 4\r\n\r\nbody").as_bytes());
        assert_eq!(client.response().text(), format!("program one POST {path} body=4\n"));
        assert_eq!(client.get(&path, &[]).who(), "pod");
    }
    let seen = session.seen();
    assert_eq!(seen.len(), 5);
    assert!(
        seen.iter().all(|seen| seen.peer == pod.client_v4 && seen.local == WEB),
        "the real client and the port asked for: {:?}",
        seen[0]
    );
    drop(client);
    session.end();
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    pod.assert_pristine();
}

#[test]
fn a_port_of_the_pod_can_be_mapped_to_another_of_the_program() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).map(WEB, 9123).run(&Program::python("one", &[9123]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    assert_eq!(session.seen()[0].local, 9123, "the program sees its own port");
    assert!(!pod.redirects(9123));
}

#[test]
fn a_port_that_is_not_asked_for_stays_with_the_pod() {
    let pod = Pod::new();
    let _session = Exec::steal_mine(&pod).map(WEB, WEB).run(&Program::python("one", &[WEB, 8080]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    assert!(!pod.redirects(8080));
    assert_eq!(pod.request(pod.address(8080), "GET", "/").with(ME).send().who(), "pod");
}

#[test]
fn a_port_that_is_busy_on_this_machine_is_no_obstacle() {
    let pod = Pod::new();
    let busy = TcpListener::bind("[::]:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let session = Exec::steal_mine(&pod).map(WEB, port).run(&Program::python("one", &[port]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    assert_eq!(session.seen()[0].local, port);
}

#[test]
fn nor_is_one_that_gets_busy_between_bind_and_listen() {
    let pod = Pod::new();
    // Two sockets may be bound to one port if both say SO_REUSEADDR, as most servers do; only one of them may then listen.
    // Two sessions whose programs want one port and start at once meet this.
    let other = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    other.set_reuse_address(true).unwrap();
    other.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    let port = other.local_addr().unwrap().as_socket().unwrap().port();
    let script = "
import os, socket, sys
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('::', int(sys.argv[3])))
open(sys.argv[2], 'a').write('bound\\n')
open(sys.argv[2] + '.listen').read()
s.listen()
open(sys.argv[2], 'a').write('listening %d\\n' % s.getsockname()[1])
c = s.accept()[0]
c.recv(1000)
c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 11\\r\\n\\r\\nprogram one')
c.recv(1000)
";
    let pipe = pod.folder.path().join("one.log.listen");
    machine::run(std::process::Command::new("mkfifo").arg(&pipe));
    let mut session = Exec::steal_mine(&pod).map(WEB, port).start(&Program::new(&[PYTHON, "-c", script], "one", &[port]));
    session.wait_for_log(&["bound".into()]);
    other.listen(1).unwrap();
    drop(fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    session.wait_for_log(&[format!("listening {port}")]);
    eventually("it is redirected", || pod.redirects(WEB).then_some(()));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
}

#[test]
fn the_subscription_begins_when_the_program_listens_and_ends_when_it_closes() {
    let pod = Pod::new();
    let script = "
import os, socket, sys
def wait(name):
    fd = os.open(sys.argv[2] + '.' + name, os.O_RDONLY); os.read(fd, 1); os.close(fd)
def say(line):
    open(sys.argv[2], 'a').write(line + '\\n')
wait('listen')
s = socket.create_server(('', int(sys.argv[3])))
say('listening ' + sys.argv[3])
wait('close')
s.close()
say('closed')
wait('end')
";
    let step = |name: &str| pod.folder.path().join(format!("one.log.{name}"));
    for name in ["listen", "close", "end"] {
        machine::run(std::process::Command::new("mkfifo").arg(step(name)));
    }
    let mut session = Exec::steal_mine(&pod).start(&Program::new(&[PYTHON, "-c", script], "one", &[WEB]));
    // Opening the pipe for writing waits until the program reads: it runs, and has not listened.
    let mut listen = fs::OpenOptions::new().write(true).open(step("listen")).unwrap();
    assert!(!pod.redirects(WEB));
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    listen.write_all(b"x").unwrap();
    session.wait_for_log(&["listening 80".into()]);
    eventually("it is redirected", || pod.redirects(WEB).then_some(()));
    fs::OpenOptions::new().write(true).open(step("close")).unwrap().write_all(b"x").unwrap();
    session.wait_for_log(&["closed".into()]);
    eventually("it is no longer redirected", || (!pod.redirects(WEB)).then_some(()));
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    fs::OpenOptions::new().write(true).open(step("end")).unwrap().write_all(b"x").unwrap();
    assert!(session.wait().success());
    drop(session);
    pod.assert_pristine();
}

#[test]
fn a_program_finds_its_own_port_from_itself() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    // The program's own connections to the port that it thinks it listens on must reach itself.
    let script = format!(
        "import http.server, threading, urllib.request\ns = http.server.ThreadingHTTPServer(('', {WEB}), http.server.SimpleHTTPRequestHandler)\nthreading.Thread(target=s.serve_forever, daemon=True).start()\nprint('own', urllib.request.urlopen('http://localhost:{WEB}/').headers['Server'])"
    );
    let output = machine::output(&mut Exec::steal_mine(&pod).command(&[PYTHON.into(), "-c".into(), script]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("own SimpleHTTP"), "{text}");
    drop(session);
}

#[test]
fn what_else_the_program_does_stays_on_this_machine() {
    let pod = Pod::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let script = format!("import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'from the program')");
    let mut session = Exec::steal_mine(&pod).start(&Program::new(&[PYTHON, "-c", &script], "one", &[]));
    let mut text = String::new();
    other.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from the program");
    assert!(session.wait().success());
}

#[test]
fn clients_on_this_machine_reach_the_program_as_themselves() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    // Where the program really listens, somebody on this machine may connect too: no client of the pod.
    let port = listening_port(session.program());
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let mut stream = std::io::BufReader::new(stream);
    stream.get_mut().write_all(b"GET /local HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut stream).unwrap().who(), "program one");
    assert_eq!(session.seen()[0].peer.to_string(), "127.0.0.1");
}

#[test]
fn the_exit_status_is_the_programs() {
    let pod = Pod::new();
    for status in [0, 1, 7, 255] {
        let output = machine::output(&mut Exec::steal_mine(&pod).command(&["sh".into(), "-c".into(), format!("exit {status}")]));
        assert_eq!(shell_status(output.status), status);
    }
    let output = machine::output(&mut Exec::steal_mine(&pod).command(&["sh".into(), "-c".into(), "kill -9 $$".into()]));
    assert_eq!(shell_status(output.status), 128 + 9);
    pod.assert_pristine();
}

#[test]
fn signals_go_on_to_the_program() {
    let pod = Pod::new();
    for (signal, name) in [(libc::SIGTERM, "term"), (libc::SIGINT, "int")] {
        let mut session = Exec::steal_mine(&pod).run(&Program::python(name, &[WEB]));
        session.signal(signal);
        assert_eq!(shell_status(session.wait()), 5, "the program's own answer to the signal");
        assert!(session.log().contains(&format!("signal {signal}")), "{:?}", session.log());
    }
    pod.assert_pristine();
}

#[test]
fn output_and_input_are_the_programs_own() {
    let pod = Pod::new();
    let mut command = Exec::steal_mine(&pod).command(&["sh".into(), "-c".into(), "read line; echo \"got $line\"; echo oops >&2".into()]);
    let input = pod.folder.path().join("input");
    fs::write(&input, "hello\n").unwrap();
    let output = machine::output(command.stdin(fs::File::open(input).unwrap()));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got hello\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("oops"));
}

/// The port of this machine on which a process listens.
fn listening_port(process: Process) -> u16 {
    let listing = machine::run(&mut machine::command("ss -Hltnp"));
    let line = listing.lines().find(|line| line.contains(&format!("pid={},", process.0))).unwrap_or_else(|| panic!("{listing}"));
    line.split_whitespace().nth(3).unwrap().rsplit(':').next().unwrap().parse().unwrap()
}
