//! Programs of several languages take the container's host name for their machine's, and can look it up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::process::Command;

use common::{source, Program, Session};
use mirrord_protocol::layer::HOSTNAME_VARIABLE;

const SHOP: &str = "shop-6f7d9c-x2x4z";

/// What a program prints that runs in a session and is to see a host name.
fn lines(name: &str, command: impl Fn(&Session) -> Command) -> Vec<String> {
    let session = Session::start();
    let (status, lines) = Program::start(command(&session).env(HOSTNAME_VARIABLE, name)).rest();
    assert_eq!(status, 0, "{lines:?}");
    lines
}

fn words<'a>(words: &'a [&str]) -> impl Fn(&Session) -> Command + 'a {
    |session| {
        let mut command = session.command(words[0]);
        command.args(&words[1..]);
        command
    }
}

fn own() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

#[test]
fn c_sees_it_by_every_call_and_can_look_it_up() {
    let folder = tempfile::tempdir().unwrap();
    // Hardened, as distributions compile: gethostname is another function then.
    for level in ["0", "2"] {
        let program = folder.path().join(format!("names{level}"));
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-U_FORTIFY_SOURCE", &format!("-D_FORTIFY_SOURCE={level}"), "-o"]).arg(&program).arg(source("names.c"));
        assert!(gcc.status().unwrap().success());
        let lines = lines(SHOP, |session| session.command(&program));
        assert_eq!(lines, [format!("{SHOP} {SHOP} {SHOP}"), "-1 1 sho".into(), "0 found".into()]);
    }
}

#[test]
fn shells_python_node_and_java_see_it_and_children_too() {
    assert_eq!(lines(SHOP, words(&["uname", "-n"])), [SHOP]);
    assert_eq!(lines(SHOP, words(&["bash", "-c", "echo $HOSTNAME; uname -n"])), [SHOP, SHOP]);
    let python = "import os, socket, platform\nname = socket.gethostname()\nsocket.getaddrinfo(name, 80)\nsocket.gethostbyname(name)\n\
                  print(name, os.uname().nodename, platform.node())";
    assert_eq!(lines(SHOP, words(&["python3", "-c", python])), [format!("{SHOP} {SHOP} {SHOP}")]);
    assert_eq!(lines(SHOP, words(&["node", "-e", "console.log(require('os').hostname())"])), [SHOP]);
    assert_eq!(lines(SHOP, |session| words(&["java", source("Name.java").to_str().unwrap()])(session)), [SHOP]);
}

#[test]
fn what_is_no_host_name_is_not_shown() {
    for nonsense in ["", "a b", "a\nb", &"x".repeat(65)] {
        assert_eq!(lines(nonsense, words(&["uname", "-n"])), [own()], "{nonsense:?}");
    }
    let longest = "x".repeat(64);
    assert_eq!(lines(&longest, words(&["uname", "-n"])), std::slice::from_ref(&longest));
}
