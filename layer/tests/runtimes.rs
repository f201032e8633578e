//! Unmodified servers of several languages get what is delivered, on the port they think they listen on, and see its client.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{free_port, source, visit, Program, Session, CLIENT, DESTINATION};

fn assert_is_from_the_client(answer: &str) {
    assert!(answer.contains(&format!("client={CLIENT}")), "{answer}");
    assert!(answer.contains(&format!("own={DESTINATION}")), "{answer}");
}

#[test]
fn python_http_server() {
    let (session, port) = (Session::start(), free_port());
    let program = Program::start(session.command("python3").arg(source("http_server.py")).arg(port.to_string()));
    session.until_open(port);
    assert_eq!(program.line(), format!("bound 0.0.0.0:{port}"));
    assert_is_from_the_client(&session.get(port, "/"));
    assert_eq!(program.line(), "served 203.0.113.7");
    assert!(session.get(port, "/child").ends_with(" child"));
    assert!(session.is_open(port), "a subprocess that closes everything closes nothing of ours");
    assert_is_from_the_client(&session.get(port, "/"));
    // Whoever comes from this machine is told apart.
    assert!(visit(port, "GET / HTTP/1.0\r\n\r\n").unwrap().contains("client=127.0.0.1:"));
    drop(program);
    session.until_closed(port);
}

#[test]
fn python_http_server_module() {
    let (session, port) = (Session::start(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["-m", "http.server", "--directory", folder.path().to_str().unwrap(), &port.to_string()];
    let program = Program::start(session.command("python3").env("PYTHONUNBUFFERED", "1").args(arguments));
    assert!(program.line().contains(&format!("port {port}")));
    session.until_open(port);
    assert!(session.get(port, "/").contains("Directory listing"));
    assert!(program.line().starts_with("203.0.113.7 - - "));
}

#[test]
fn python_asyncio() {
    let (session, port) = (Session::start(), free_port());
    let program = Program::start(session.command("python3").arg(source("asyncio_server.py")).arg(port.to_string()));
    session.until_open(port);
    assert!(program.line().contains(&format!("('0.0.0.0', {port})")));
    assert_is_from_the_client(&session.deliver(port, "hello\n"));
    assert_is_from_the_client(&session.deliver(port, "QUIT\n"));
    session.until_closed(port);
    drop(program);
}

#[test]
fn node_http() {
    let (session, port) = (Session::start(), free_port());
    let program = Program::start(session.command("node").arg(source("server.mjs")).arg(port.to_string()));
    assert_eq!(program.line(), format!("bound :: {port}"));
    assert!(session.is_open(port), "listening means that traffic can arrive");
    let answer = session.get(port, "/");
    assert!(answer.contains(&format!("client=::ffff:{CLIENT} own=::ffff:{DESTINATION}")), "{answer}");
    session.get(port, "/stop");
    session.until_closed(port);
    assert_eq!(session.history(), [format!("+{port}"), format!("-{port}")]);
    drop(program);
}

#[test]
fn node_cluster() {
    for policy in ["rr", "none"] {
        let (session, port) = (Session::start(), free_port());
        let program = Program::start(session.command("node").arg(source("cluster.mjs")).args([policy, &port.to_string()]));
        let line = program.line();
        assert_eq!(line, "listening", "{policy}: {:?}", std::array::from_fn::<_, 9, _>(|_| program.line()));
        for _ in 0..3 {
            let answer = session.get(port, "/");
            assert!(answer.contains(&format!("client=::ffff:{CLIENT}")), "{policy}: {answer}");
        }
        drop(program);
        session.until_closed(port);
    }
}

#[test]
fn java_httpserver() {
    let (session, port) = (Session::start(), free_port());
    let program = Program::start(session.command("java").arg(source("Server.java")).arg(port.to_string()));
    assert!(program.line().contains(&format!(":{port}")));
    assert!(session.is_open(port));
    let answer = session.get(port, "/");
    assert!(answer.contains(&format!("client=/{CLIENT} own=/{DESTINATION}")), "{answer}");
    session.get(port, "/stop");
    session.until_closed(port);
    drop(program);
}

#[test]
fn curl_as_a_client() {
    let (session, port) = (Session::start(), free_port());
    let server = Program::start(session.command("python3").arg(source("http_server.py")).arg(port.to_string()));
    session.until_open(port);
    let url = format!("http://127.0.0.1:{port}/");
    let mut curl = Program::start(session.command("curl").args(["-sS", "-w", "\n%{remote_ip}:%{remote_port}\n", &url]));
    let (status, lines) = curl.rest();
    assert_eq!(status, 0, "{lines:?}");
    assert!(lines[0].starts_with("client=127.0.0.1:"), "{lines:?}");
    assert_eq!(lines[1], format!("127.0.0.1:{port}"));
    drop(server);
}
