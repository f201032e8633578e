//! The unmodified programs that sessions run (`tests/programs/`). Each answers `program NAME METHOD PATH body=N` and writes to
//! its log where it listens and what it was asked.

use std::{fs, net::IpAddr, path::Path, process::Command, sync::OnceLock};

use crate::machine::{self, manifest, run, scratch};

/// Debian's own interpreter: `python3` in the path may be a shell script that looks for another.
pub const PYTHON: &str = "/usr/bin/python3";

/// A program to run in a session. `{log}` in its command becomes its log's path.
#[derive(Clone, Debug)]
pub struct Program {
    /// How it names itself in its answers.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The ports that it listens on.
    pub ports: Vec<u16>,
}

impl Program {
    /// Any command.
    pub fn new(command: &[&str], name: &str, ports: &[u16]) -> Self {
        let mut command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        command.extend([name.to_owned(), "{log}".to_owned()]);
        command.extend(ports.iter().map(u16::to_string));
        Self { name: name.into(), command, ports: ports.into() }
    }

    /// Python's http.server, threaded.
    pub fn python(name: &str, ports: &[u16]) -> Self {
        Self::new(&[PYTHON, &source("server.py")], name, ports)
    }

    /// Python's asyncio, on IPv4.
    pub fn asyncio(name: &str, ports: &[u16]) -> Self {
        Self::new(&[PYTHON, &source("asyncio_server.py")], name, ports)
    }

    /// Node's http.
    pub fn node(name: &str, ports: &[u16]) -> Self {
        Self::new(&["node", &source("server.mjs")], name, ports)
    }

    /// Node's http2, without TLS.
    pub fn node_http2(name: &str, ports: &[u16]) -> Self {
        Self::new(&["node", &source("h2c.mjs")], name, ports)
    }

    /// The JDK's own server.
    pub fn java(name: &str, ports: &[u16]) -> Self {
        static CLASSES: OnceLock<String> = OnceLock::new();
        let classes = CLASSES.get_or_init(|| {
            let folder = scratch().join("java");
            run(Command::new("javac").arg("-d").arg(&folder).arg(source("Server.java")));
            folder.to_str().unwrap().into()
        });
        Self::new(&["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", classes, "Server"], name, ports)
    }

    /// Plain C with threads.
    pub fn c(name: &str, ports: &[u16]) -> Self {
        static BINARY: OnceLock<String> = OnceLock::new();
        let binary = BINARY.get_or_init(|| compile("server.c", "server", &["-pthread"]));
        Self::new(&[binary], name, ports)
    }

    /// The same, linked statically: nothing can be preloaded into it.
    pub fn static_c(name: &str, ports: &[u16]) -> Self {
        static BINARY: OnceLock<String> = OnceLock::new();
        let binary = BINARY.get_or_init(|| compile("server.c", "server-static", &["-pthread", "-static"]));
        Self::new(&[binary], name, ports)
    }

    /// A TCP server that speaks first, then sends everything back.
    pub fn raw(name: &str, ports: &[u16]) -> Self {
        Self::new(&[PYTHON, &source("raw.py")], name, ports)
    }
}

/// Path of a program's source.
pub fn source(name: &str) -> String {
    manifest().join("programs").join(name).to_str().unwrap().into()
}

fn compile(source_name: &str, name: &str, flags: &[&str]) -> String {
    // Two test binaries may compile at once: each under its own name, then put in place.
    let (made, own) = (scratch().join(name), scratch().join(format!("{name}.{}", std::process::id())));
    run(Command::new("cc").args(["-O2", "-o"]).arg(&own).arg(source(source_name)).args(flags));
    fs::rename(own, &made).unwrap();
    made.to_str().unwrap().into()
}

/// A request, as the program noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, …
    pub method: String,
    /// As sent.
    pub path: String,
    /// Who the program believes the client to be.
    pub peer: IpAddr,
    /// The port that the program believes it was reached on.
    pub local: u16,
    /// Length of the body.
    pub body: u64,
    /// Value of `x-user`.
    pub user: String,
}

/// Reads a program's log. Missing: it has not said anything yet.
pub fn log_lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The requests in a program's log.
pub fn seen(log: &Path) -> Vec<Seen> {
    log_lines(log).iter().filter_map(|line| line.strip_prefix("request ").map(parse)).collect()
}

fn parse(line: &str) -> Seen {
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut value = |key: &str| {
        let word = words.next().unwrap_or_else(|| panic!("no {key} in {line}"));
        word.strip_prefix(key).unwrap_or_else(|| panic!("no {key} in {line}")).to_owned()
    };
    let peer = value("peer=").parse::<IpAddr>().unwrap().to_canonical();
    let local = value("local=").parse().unwrap();
    let body = value("body=").parse().unwrap();
    Seen { method, path, peer, local, body, user: value("user=") }
}

/// Needed by tests that run a program without a session.
pub fn command_of(program: &Program, log: &Path) -> Command {
    machine::ready();
    let words: Vec<_> = program.command.iter().map(|word| word.replace("{log}", log.to_str().unwrap())).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}
