//! The gateway of these tests, which says where a connection wanted to go and relays it to the pod; and this test binary as
//! other processes: the tests `role_…` run as an agent or its guard.

use crate::net::Net;
use mirrord_agent::{
    netns::NetNs,
    redirect::Options,
    socket::{self, Destination, PodConnector},
};
use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::Instant,
};

/// Starts the gateway's thread in the namespace; returns its port and where to tell it how the pod is reached.
pub fn gateway(ns: &NetNs) -> (u16, std::sync::mpsc::SyncSender<PodConnector>) {
    let (port_tx, port_rx) = std::sync::mpsc::channel();
    let (connector_tx, connector_rx) = std::sync::mpsc::sync_channel(1);
    ns.spawn("gateway", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listeners = socket::listeners(0).unwrap();
            port_tx.send(listeners.port).unwrap();
            let connector = tokio::task::spawn_blocking(move || connector_rx.recv()).await.unwrap();
            let Ok(connector) = connector else { return };
            let v4 = tokio::net::TcpListener::from_std(listeners.v4).unwrap();
            let v6 = tokio::net::TcpListener::from_std(listeners.v6.unwrap()).unwrap();
            loop {
                let (stream, client) = tokio::select! { one = v4.accept() => one, one = v6.accept() => one }.unwrap();
                tokio::spawn(relay(stream, client, connector));
            }
        })
    })
    .unwrap();
    (port_rx.recv().unwrap(), connector_tx)
}

async fn relay(mut stream: tokio::net::TcpStream, client: SocketAddr, connector: PodConnector) {
    use tokio::io::AsyncWriteExt;
    let Destination::Redirected(pod) = socket::original_destination(&stream).unwrap() else { return };
    let _ = stream.write_all(format!("gw {pod}\n").as_bytes()).await;
    match connector.connect(pod, client).await {
        Ok(mut upstream) => drop(tokio::io::copy_bidirectional(&mut stream, &mut upstream).await),
        Err(error) => drop(stream.write_all(format!("no pod: {error}\n").as_bytes()).await),
    }
}

pub fn role(name: &str) -> Vec<OsString> {
    let exe = std::env::current_exe().unwrap();
    vec![exe.into(), "--exact".into(), format!("role_{name}").into(), "--nocapture".into(), "--ignored".into(), "--quiet".into()]
}

pub fn options() -> Options {
    Options { guard: role("guard"), ..Options::default() }
}

/// An agent in a process of its own.
pub struct Agent {
    child: Child,
    pub guard: i32,
    stdin: Option<ChildStdin>,
}

impl Agent {
    pub fn start(net: &Net, socket: &std::path::Path) -> Agent {
        Self::start_as(&[], net, socket)
    }

    /// Starts it by way of another program, which in the end becomes it.
    pub fn start_as(wrapper: &[&str], net: &Net, socket: &std::path::Path) -> Agent {
        let role: Vec<OsString> = wrapper.iter().map(OsString::from).chain(role("agent")).collect();
        let mut child = Command::new(&role[0])
            .args(&role[1..])
            .env("MRD_TEST_NETNS", net.pod.path())
            .env("MRD_TEST_SOCKET", socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Agent { child, guard: 0, stdin };
        let ready = stdout.lines().map_while(Result::ok).find_map(|line| line.split_once("ready ").map(|(_, pid)| pid.to_owned()));
        agent.guard = ready.expect("the agent ended early").trim().parse().unwrap();
        agent
    }

    pub fn kill(&mut self) -> Instant {
        let killed = Instant::now();
        self.child.kill().unwrap();
        killed
    }

    pub fn kill_with_guard(&mut self) -> Instant {
        let killed = Instant::now();
        send_signal(self.guard, libc::SIGKILL);
        self.child.kill().unwrap();
        killed
    }

    pub fn signal(&self, signal: i32) {
        send_signal(self.child.id() as i32, signal);
    }

    pub fn finish(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    pub fn guard_runs(&self) -> bool {
        // A killed guard may remain as a zombie of whoever adopted it.
        std::fs::read_to_string(format!("/proc/{}/stat", self.guard)).is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send_signal(pid: i32, signal: i32) {
    // SAFETY: no memory is passed; the process was started by this test and is a child, or a child's child, not yet reaped.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// A child that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
