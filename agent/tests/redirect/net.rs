//! Namespaces with a pod and a client in them, the pod's process, and a client that reads lines.

use mirrord_agent::{
    netns::NetNs,
    redirect::iptables::{RulesSnapshot, rules_snapshot},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub const POD_V4: &str = "10.213.0.2";
pub const POD_V6: &str = "fd00:213::2";
pub const CLIENT_V4: &str = "10.213.0.1";
pub const CLIENT_V6: &str = "fd00:213::1";
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Rules, and what else a redirect may touch.
pub type Everything = (RulesSnapshot, String);

/// A pod and a client, each in a namespace of its own.
pub struct Net {
    pub name: String,
    pub pod: NetNs,
    pub client: NetNs,
}

impl Net {
    pub fn new() -> Net {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mrd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (pod, client) = (format!("{name}-pod"), format!("{name}-cli"));
        // From here on Drop cleans up, whatever fails.
        let mut guard = Cleanup(Some(name.clone()));
        sh("ip", &["netns", "add", &pod]);
        sh("ip", &["netns", "add", &client]);
        sh("ip", &["-n", &pod, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &client]);
        for (ns, v4, v6) in [(&pod, POD_V4, POD_V6), (&client, CLIENT_V4, CLIENT_V6)] {
            sh("ip", &["-n", ns, "link", "set", "lo", "up"]);
            sh("ip", &["-n", ns, "addr", "add", &format!("{v4}/24"), "dev", "eth0"]);
            sh("ip", &["-n", ns, "addr", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
            sh("ip", &["-n", ns, "link", "set", "eth0", "up"]);
        }
        let open = |ns: &str| NetNs::open(format!("/run/netns/{ns}")).unwrap();
        let (pod, client) = (open(&pod), open(&client));
        guard.0 = None;
        Net { name, pod, client }
    }

    /// A pod's process: on accept it says whom it sees, then echoes. One listener a family.
    pub fn serve(&self, ns: &NetNs, port: u16) {
        for any in ["0.0.0.0", "[::]"] {
            self.listen(ns, format!("{any}:{port}"), Family::Own);
        }
    }

    /// The same on one listener for both families, as Java and Node do it.
    pub fn serve_both_families(&self, ns: &NetNs, port: u16) {
        self.listen(ns, format!("[::]:{port}"), Family::Both);
    }

    fn listen(&self, ns: &NetNs, address: String, family: Family) {
        let address: SocketAddr = address.parse().unwrap();
        let listener = self.within(ns, move || {
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
            if address.is_ipv6() {
                socket.set_only_v6(family == Family::Own).unwrap();
            }
            socket.set_reuse_address(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(1024).unwrap();
            TcpListener::from(socket)
        });
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                std::thread::spawn(move || echo(connection));
            }
        });
    }

    /// Runs in the pod's or the client's namespace.
    pub fn within<T: Send + 'static>(&self, ns: &NetNs, work: impl FnOnce() -> T + Send + 'static) -> T {
        ns.spawn("within", work).unwrap().join().unwrap().unwrap()
    }

    pub fn dial(&self, ns: &NetNs, address: impl ToString) -> std::io::Result<Talk> {
        let address: SocketAddr = address.to_string().parse().unwrap();
        self.within(ns, move || Talk::dial(address))
    }

    pub fn client_dials(&self, address: impl ToString) -> Talk {
        self.dial(&self.client, address).unwrap()
    }

    pub fn rules(&self) -> RulesSnapshot {
        self.within(&self.pod, || rules_snapshot().unwrap())
    }

    /// All that a redirect may touch: rules, routing, sysctls.
    pub fn everything(&self) -> Everything {
        let routing = [["-4", "rule"], ["-6", "rule"]].map(|args| self.in_pod("ip", &args)).concat();
        let tables = ["-4", "-6"].map(|family| self.in_pod("ip", &[family, "route", "show", "table", "all"])).concat();
        // Other tables fill when the kernel gets round to it (link state, IPv6 addresses).
        let tables = tables.lines().filter(|line| line.contains("table 28009")).collect::<String>();
        let names = ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];
        (self.rules(), routing + &tables + &self.in_pod("sysctl", &names))
    }

    pub fn in_pod(&self, program: &str, args: &[&str]) -> String {
        let net = format!("--net=/run/netns/{}-pod", self.name);
        let all: Vec<&str> = [net.as_str(), program].into_iter().chain(args.iter().copied()).collect();
        sh("nsenter", &all)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(Cleanup(Some(std::mem::take(&mut self.name))));
    }
}

/// What a listener on [::] takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Own,
    Both,
}

struct Cleanup(Option<String>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for ns in self.0.iter().flat_map(|name| ["pod", "cli"].map(|end| format!("{name}-{end}"))) {
            let _ = Command::new("ip").args(["netns", "del", &ns]).stderr(Stdio::null()).status();
        }
    }
}

fn sh(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn echo(mut connection: TcpStream) {
    let peer = connection.peer_addr().unwrap();
    let _ = connection.write_all(format!("pod sees {peer}\n").as_bytes());
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = connection.read(&mut bytes) {
        if connection.write_all(&bytes[..n]).is_err() {
            return;
        }
    }
}

/// A client's connection.
pub struct Talk(pub BufReader<TcpStream>);

impl Talk {
    pub fn dial(address: SocketAddr) -> std::io::Result<Talk> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Talk(BufReader::new(stream)))
    }

    /// This end's address.
    pub fn own(&self) -> SocketAddr {
        self.0.get_ref().local_addr().unwrap()
    }

    /// Whom the pod says it sees, if it is the pod that answers next.
    pub fn pod_sees(&mut self) -> Option<SocketAddr> {
        let seen: SocketAddr = self.line().strip_prefix("pod sees ")?.parse().ok()?;
        Some(SocketAddr::new(seen.ip().to_canonical(), seen.port()))
    }

    /// The next line, or "" at the end of the stream, however it ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return String::new(),
            read => read.unwrap(),
        };
        line.trim_end().to_owned()
    }

    /// After what the gateway and the pod say first.
    pub fn greeted(mut self) -> Talk {
        loop {
            match self.line() {
                line if line.starts_with("pod ") => return self,
                line => assert!(line.starts_with("gw "), "not served: {line:?}"),
            }
        }
    }

    pub fn echoes(&mut self, text: &str) {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
        assert_eq!(self.line(), text);
    }
}

/// Polls until `check` holds; a failure names what was awaited.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}
