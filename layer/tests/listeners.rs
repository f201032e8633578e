//! When a port counts as listened on: through fork, exec, dup, daemons and the ways in which descriptors end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{c_server, eventually, free_port, Program, Session};

const FROM_THE_CLIENT: &str = "client=203.0.113.7:4711 own=198.51.100.1:80";

#[test]
fn each_way_of_serving_gets_the_clients_address() {
    for mode in ["accept", "poll", "select", "forking", "dup2", "dup", "fcntl", "closeall", "exec"] {
        let (session, port) = (Session::start(), free_port());
        let program = session.c(mode, port);
        assert_eq!(program.line(), format!("bound 0.0.0.0:{port}"), "{mode}");
        for _ in 0..5 {
            let answer = eventually("an answer", || session.try_deliver(port, "hello\n").ok().filter(|answer| !answer.is_empty()));
            assert!(answer.starts_with(FROM_THE_CLIENT), "{mode}: {answer}");
        }
        drop(program);
        session.until_closed(port);
        assert_eq!(session.history(), [format!("+{port}"), format!("-{port}")], "{mode}: opened and closed once");
    }
}

#[test]
fn the_last_of_several_processes_closes_the_port() {
    let (session, port) = (Session::start(), free_port());
    let mut program = session.c("prefork", port);
    program.line();
    assert_eq!(program.line(), "forked");
    program.kill();
    // The parent has gone, the children serve on: each QUIT or EXIT is one less.
    let mut pids = Vec::new();
    for _ in 0..3 {
        assert!(session.is_open(port));
        let answer = session.deliver(port, "EXIT\n");
        assert!(answer.starts_with(FROM_THE_CLIENT), "{answer}");
        let pid = answer.trim().rsplit_once("pid=").unwrap().1.to_owned();
        eventually("the child is gone", || (!alive(&pid)).then_some(()));
        pids.push(pid);
    }
    session.until_closed(port);
    assert_eq!(session.history(), [format!("+{port}"), format!("-{port}")]);
}

fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_daemon_takes_its_listener_along() {
    for mode in ["doublefork", "daemon"] {
        let (session, port) = (Session::start(), free_port());
        let mut program = session.c(mode, port);
        program.line();
        eventually("the first process ends", || (!alive(&program.pid().to_string())).then_some(()));
        for _ in 0..3 {
            assert!(session.deliver(port, "hello\n").starts_with(FROM_THE_CLIENT), "{mode}");
        }
        session.deliver(port, "EXIT\n");
        session.until_closed(port);
        assert_eq!(session.history(), [format!("+{port}"), format!("-{port}")], "{mode}");
        program.rest();
    }
}

#[test]
fn a_connection_handed_to_another_program_keeps_its_client() {
    let (session, port) = (Session::start(), free_port());
    let program = session.c("execinetd", port);
    program.line();
    let answer = session.deliver(port, "hello\n");
    assert!(answer.starts_with(FROM_THE_CLIENT), "{answer}");
    drop(program);
}

#[test]
fn closing_ends_it_while_the_program_lives_on() {
    let (session, port) = (Session::start(), free_port());
    let program = session.c("accept", port);
    program.line();
    session.deliver(port, "QUIT\n");
    session.until_closed(port);
    assert!(alive(&program.pid().to_string()));

    let (session, port) = (Session::start(), free_port());
    let program = session.c("closefrom", port);
    program.line();
    session.until_closed(port);
    drop(program);
}

#[test]
fn a_signals_handler_may_close_the_listener() {
    let (session, port) = (Session::start(), free_port());
    let program = session.c("signal", port);
    program.line();
    session.deliver(port, "hello\n");
    program.signal("USR1");
    session.until_closed(port);
}

#[test]
fn a_thread_blocked_in_accept_can_be_cancelled() {
    let (session, port) = (Session::start(), free_port());
    let program = session.c("cancel", port);
    program.line();
    assert_eq!(program.line(), "cancelled");
    assert!(session.deliver(port, "hello\n").starts_with(FROM_THE_CLIENT));
}

#[test]
fn killed_is_closed() {
    let (session, port) = (Session::start(), free_port());
    let mut program = session.c("accept", port);
    program.line();
    assert!(session.is_open(port));
    program.kill();
    session.until_closed(port);
}

#[test]
fn a_dual_stack_listener_sees_clients_of_both_families() {
    let (session, port) = (Session::start(), free_port());
    let program = Program::start(session.command(c_server()).args(["accept", &port.to_string(), "::"]));
    assert_eq!(program.line(), format!("bound [::]:{port}"));
    let answer = session.deliver(port, "hello\n");
    assert!(answer.starts_with("client=[::ffff:203.0.113.7]:4711 own=[::ffff:198.51.100.1]:80"), "{answer}");
    let answer = session.deliver_from("[2001:db8::9]:99", port, "hello\n").unwrap();
    assert!(answer.starts_with("client=[2001:db8::9]:99"), "{answer}");
}
