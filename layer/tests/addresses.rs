//! Addresses that are not to be had on this machine, and what the program is told instead; and what happens without a session.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use common::{c_server, free_port, library, source, visit, Program, Session};
use mirrord_protocol::layer::ADDRESS_VARIABLE;
use socket2::{Domain, Socket, Type};

#[test]
fn a_busy_port_is_moved_and_the_program_does_not_notice() {
    let busy = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let session = Session::start();
    let program = session.c("accept", port);
    assert_eq!(program.line(), format!("bound 0.0.0.0:{port}"));
    session.until_open(port);
    assert_ne!(session.registry.bound(port).unwrap().port(), port);
    assert!(session.deliver(port, "hello\n").starts_with("client=203.0.113.7:4711 own=198.51.100.1:80"));
    // Another process of the session finds it where it believes it to be; the rest of the machine finds what was there.
    let (status, lines) = session.c("client", port).rest();
    assert_eq!(status, 0, "{lines:?}");
    assert!(lines[0].starts_with(&format!("peer 127.0.0.1:{port} client=127.0.0.1:")), "{lines:?}");
    assert!(lines[0].contains(&format!("own=127.0.0.1:{port} ")), "{lines:?}");
    // And finds it taken.
    let (status, lines) = session.c("accept", port).rest();
    assert_eq!((status, lines.as_slice()), (1, &["bind: Address already in use".to_owned()][..]));
    drop(program);
    session.until_closed(port);
}

#[test]
fn a_second_bind_of_one_address_fails_as_ever() {
    let session = Session::start();
    let busy = TcpListener::bind("0.0.0.0:0").unwrap();
    for port in [free_port(), busy.local_addr().unwrap().port()] {
        let (status, lines) = session.c("twice", port).rest();
        assert_eq!((status, lines.as_slice()), (1, &["bind: Address already in use".to_owned()][..]));
        session.until_closed(port);
    }
}

// Two sockets that both say SO_REUSEADDR may be bound to one port; only one of them may then listen.
#[test]
fn a_port_that_gets_busy_between_bind_and_listen_is_moved() {
    let session = Session::start();
    for (any, nobody, domain) in [("0.0.0.0", "0.0.0.0:0", Domain::IPV4), ("::", "[::]:0", Domain::IPV6)] {
        let other = Socket::new(domain, Type::STREAM, None).unwrap();
        other.set_reuse_address(true).unwrap();
        other.bind(&nobody.parse::<SocketAddr>().unwrap().into()).unwrap();
        let port = other.local_addr().unwrap().as_socket().unwrap().port();
        let program = Program::start(session.command(c_server()).args(["late", &port.to_string(), any]));
        let options = [program.line(), program.line()];
        other.listen(8).unwrap();
        program.signal("USR1");
        assert_eq!([program.line(), program.line()], options, "of the descriptor and of its copy");
        assert_eq!(program.line().rsplit_once(':').unwrap().1, port.to_string());
        session.until_open(port);
        assert_ne!(session.registry.bound(port).unwrap().port(), port);
        // At the copy: the other descriptor is closed by now.
        assert!(session.deliver(port, "hello\n").contains("client="));
        // The rest of the machine finds what was there.
        let (visitor, (accepted, _)) = (TcpStream::connect(("127.0.0.1", port)).unwrap(), other.accept().unwrap());
        assert_eq!(accepted.peer_addr().unwrap().as_socket().unwrap().port(), visitor.local_addr().unwrap().port());
        drop(program);
        session.until_closed(port);
    }
}

#[test]
fn one_that_the_session_itself_listens_on_is_not() {
    let (session, port) = (Session::start(), free_port());
    let mut late = session.c("late", port);
    let _options = [late.line(), late.line()];
    let first = session.c("accept", port);
    first.line();
    late.signal("USR1");
    let (status, lines) = late.rest();
    assert_eq!((status, lines.as_slice()), (1, &["listen: Address already in use".to_owned()][..]));
    assert_eq!(session.registry.bound(port).unwrap().port(), port);
}

#[test]
fn sockets_that_share_a_port_share_it_wherever_it_is() {
    let session = Session::start();
    let busy = TcpListener::bind("0.0.0.0:0").unwrap();
    for port in [free_port(), busy.local_addr().unwrap().port()] {
        let program = session.c("group", port);
        assert_eq!([program.line(), program.line()], [format!("bound 0.0.0.0:{port}"), format!("bound 0.0.0.0:{port}")]);
        let mut pids = std::collections::HashSet::new();
        common::eventually("both have served", || {
            let answer = session.deliver(port, "hello\n");
            pids.insert(answer.rsplit_once("pid=").unwrap().1.to_owned());
            (pids.len() == 2).then_some(())
        });
        drop(program);
        session.until_closed(port);
    }
}

#[test]
fn another_machines_address_becomes_loopback() {
    let (session, port) = (Session::start(), free_port());
    for (address, shown) in [("192.0.2.55", "192.0.2.55"), ("2001:db8::55", "[2001:db8::55]")] {
        let program = Program::start(session.command(c_server()).args(["accept", &port.to_string(), address]));
        assert_eq!(program.line(), format!("bound {shown}:{port}"));
        let bound = session.registry.bound(port).unwrap();
        assert!(bound.ip().is_loopback(), "{bound}");
        assert!(session.deliver(port, "hello\n").contains("client="));
        drop(program);
        session.until_closed(port);
    }
}

#[test]
fn an_ordinary_users_program_gets_port_80() {
    let session = Session::start();
    // The library and the program have to be readable for that user.
    let folder = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir_in("/tmp").unwrap();
    let (copy, program) = (folder.path().join("layer.so"), folder.path().join("server"));
    std::fs::copy(library(), &copy).unwrap();
    std::fs::copy(c_server(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "env"]);
    command.arg(format!("LD_PRELOAD={}", copy.display())).arg(format!("{ADDRESS_VARIABLE}={}", session.address));
    let program = Program::start(command.arg(program).args(["accept", "80"]));
    assert_eq!(program.line(), "bound 0.0.0.0:80");
    session.until_open(80);
    assert!(session.deliver(80, "hello\n").starts_with("client=203.0.113.7:4711"));
}

#[test]
fn a_port_that_stays_local_works_locally() {
    let port = free_port();
    let session = Session::start_refusing(port);
    let program = session.c("accept", port);
    program.line();
    assert!(!session.is_open(port));
    assert!(visit(port, "hello\n").unwrap().starts_with("client=127.0.0.1:"));
}

#[test]
fn port_0_stays_local() {
    let session = Session::start();
    let program = session.c("accept", 0);
    let port: u16 = program.line().rsplit_once(':').unwrap().1.parse().unwrap();
    assert_ne!(port, 0);
    assert!(visit(port, "hello\n").unwrap().contains(&format!("own=127.0.0.1:{port} ")));
    assert!(session.history().is_empty());
}

#[test]
fn without_a_session_all_is_as_without_the_layer() {
    let addresses = ["nobody-is-here,token".to_owned(), {
        let session = Session::start();
        session.address.clone()
    }];
    for address in addresses {
        let port = free_port();
        let mut command = Command::new(c_server());
        command.env("LD_PRELOAD", library()).env(ADDRESS_VARIABLE, &address).args(["accept", &port.to_string()]);
        let program = Program::start(&mut command);
        let lines = [program.line(), program.line()];
        assert!(lines.contains(&format!("bound 0.0.0.0:{port}")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("mirrord: ")), "{lines:?}");
        assert!(visit(port, "hello\n").unwrap().starts_with("client=127.0.0.1:"));
        // A port in use is in use.
        let mut second = Program::start(&mut command);
        let (status, lines) = second.rest();
        assert_eq!(status, 1);
        assert!(lines.contains(&"bind: Address already in use".to_owned()), "{lines:?}");
    }
}

#[test]
fn a_wrong_token_is_told_so_and_nothing_more() {
    let (session, port) = (Session::start(), free_port());
    let name = session.address.split_once(',').unwrap().0;
    let mut command = session.command(c_server());
    let program = Program::start(command.env(ADDRESS_VARIABLE, format!("{name},wrong")).args(["accept", &port.to_string()]));
    let lines = [program.line(), program.line()];
    assert!(lines.iter().any(|line| line.contains("token")), "{lines:?}");
    assert!(!session.is_open(port));
    assert!(visit(port, "hello\n").unwrap().starts_with("client=127.0.0.1:"));
}

#[test]
fn an_address_that_is_none_is_an_error_at_start() {
    let mut command = Command::new("/bin/true");
    let output = command.env("LD_PRELOAD", library()).env(ADDRESS_VARIABLE, "nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}

#[test]
fn a_session_that_ends_leaves_the_program_running() {
    let (session, port) = (Session::start(), free_port());
    let program = Program::start(session.command("python3").arg(source("http_server.py")).arg(port.to_string()));
    session.until_open(port);
    session.get(port, "/");
    drop(session);
    let answer = visit(port, "GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(answer.contains("client=127.0.0.1:"), "{answer}");
    drop(program);
}
