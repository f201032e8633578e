//! The pod: a network namespace with a web server, connected by a veth pair to a namespace of clients and to nothing else.
//!
//! ```text
//!   clients 10.N.0.1, fdN::1  ──veth──  pod 10.N.0.2, fdN::2   nginx: "pod" on 80 and 8080, HTTP/2 on 8082
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    http::{Client, Request},
    machine::{self, MARK, Share, command, run},
    netns::Namespace,
    processes::{self, Process},
    state::{self, Snapshot},
    wait::{eventually, within},
};

/// The port of nginx that most tests use.
pub const WEB: u16 = 80;
/// A second port of nginx.
pub const WEB_TOO: u16 = 8080;
/// How long a session's rests may take to go, once it has ended and its connections are closed.
const GONE: Duration = Duration::from_secs(8);
/// nginx with HTTP/2, prior knowledge only.
pub const WEB_H2: u16 = 8082;

/// A pod-like namespace with its clients; all of it goes when this is dropped, also when a test fails.
pub struct Pod {
    /// The pod's namespace.
    pub inside: Namespace,
    /// The clients' namespace.
    pub clients: Namespace,
    /// The pod's addresses.
    pub v4: Ipv4Addr,
    /// IPv6 too.
    pub v6: Ipv6Addr,
    /// Where the clients come from.
    pub client_v4: Ipv4Addr,
    /// IPv6 too.
    pub client_v6: Ipv6Addr,
    /// Files of this pod and its sessions: logs, nginx's own.
    pub folder: TempDir,
    servers: Vec<Child>,
    before: Snapshot,
    _share: Share,
}

impl Pod {
    /// A pod with nginx, beside other tests.
    pub fn new() -> Self {
        Self::build(Share::shared)
    }

    /// A pod with nginx while no other test runs: for what measures time.
    pub fn alone() -> Self {
        Self::build(Share::alone)
    }

    fn build(share: fn() -> Share) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        machine::ready();
        let share = share();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mt{}x{number}", std::process::id());
        let (pod, clients) = (format!("{name}p"), format!("{name}c"));
        let (inside, outside) = (Namespace::new(&pod), Namespace::new(&clients));
        let octet = 100 + (number % 100) as u8;
        let address =
            |last: u8| (Ipv4Addr::new(10, octet, 0, last), Ipv6Addr::new(0xfd00 + u16::from(octet), 0, 0, 0, 0, 0, 0, last.into()));
        let ((client_v4, client_v6), (v4, v6)) = (address(1), address(2));
        for namespace in [&inside, &outside] {
            // No link-local addresses: routes that come late would look like something that a session has left.
            namespace.run(|| fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap());
        }
        run(&mut command(&format!("ip -n {pod} link add eth0 type veth peer name eth0 netns {clients}")));
        for (namespace, v4, v6) in [(&pod, v4, v6), (&clients, client_v4, client_v6)] {
            run(&mut command(&format!("ip -n {namespace} addr add {v4}/24 dev eth0")));
            run(&mut command(&format!("ip -n {namespace} addr add {v6}/64 dev eth0 nodad")));
            run(&mut command(&format!("ip -n {namespace} link set eth0 up")));
        }
        // Many short connections must not run out of ports; that would be the clients' fault and look like ours.
        outside.run(|| {
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535").unwrap();
            fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
        });
        let folder = tempfile::Builder::new().prefix(&name).tempdir_in("/tmp").unwrap();
        // Routes say `linkdown` until the kernel has looked at the other end; that is no change of a session's.
        eventually("the link is up", || {
            let routes = ["ip route show table all", "ip -6 route show table all"].map(|question| inside.sh(question)).concat();
            (!routes.contains("linkdown") && routes.contains(&format!("local {v6} "))).then_some(())
        });
        let before = Snapshot::of(&inside);
        let mut pod = Self { inside, clients: outside, v4, v6, client_v4, client_v6, folder, servers: Vec::new(), before, _share: share };
        pod.start_nginx();
        pod
    }

    /// Value of [`MARK`] for all that belongs to this pod.
    pub fn mark(&self) -> String {
        format!("{}.{}", std::process::id(), self.inside.name)
    }

    /// `netns/NAME`.
    pub fn target(&self) -> String {
        format!("netns/{}", self.inside.name)
    }

    /// Address of one of the pod's ports.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.into(), port)
    }

    /// The same over IPv6.
    pub fn address_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6.into(), port)
    }

    /// The address that clients come from, as the given family has it.
    pub fn client_of(&self, address: SocketAddr) -> IpAddr {
        if address.is_ipv4() { self.client_v4.into() } else { self.client_v6.into() }
    }

    /// Starts a server in the pod that runs until the pod is dropped. Standard output and error go to `NAME.out`.
    pub fn start(&mut self, name: &str, server: &mut Command) -> Process {
        let out = fs::File::create(self.folder.path().join(format!("{name}.out"))).unwrap();
        let child = server.env(MARK, self.mark()).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        let process = Process(child.id());
        self.servers.push(child);
        process
    }

    /// A request to the pod's [`WEB`] port from its clients.
    pub fn get(&self, path: &str) -> Request<'_> {
        Request::new(&self.clients, self.address(WEB), "GET", path)
    }

    /// A request to any address, from the clients.
    pub fn request(&self, address: SocketAddr, method: &str, path: &str) -> Request<'_> {
        Request::new(&self.clients, address, method, path)
    }

    /// A connection from the clients that stays open.
    pub fn connect(&self, port: u16) -> Client {
        Client::connect(&self.clients, self.address(port))
    }

    /// `curl` among the clients; gives what it printed, or its complaint.
    pub fn curl(&self, words: &str) -> String {
        curl(&self.clients, words)
    }

    /// `curl` in the pod itself.
    pub fn curl_inside(&self, words: &str) -> String {
        curl(&self.inside, words)
    }

    /// Processes of mirrord that belong to this pod: command lines, intproxies, agent, guard.
    pub fn mirrord(&self) -> Vec<Process> {
        processes::of_mirrord(self.inside.inode, &self.mark())
    }

    /// The agent of this pod.
    #[track_caller]
    pub fn agent(&self) -> Process {
        self.one_of("the agent", |process| process.program() == "mirrord-agent" && !is_guard(*process))
    }

    /// The process that undoes the rules if the agent dies.
    #[track_caller]
    pub fn guard(&self) -> Process {
        self.one_of("the guard", |process| process.program() == "mirrord-agent" && is_guard(*process))
    }

    #[track_caller]
    fn one_of(&self, what: &str, wanted: impl Fn(&Process) -> bool) -> Process {
        let all = self.mirrord();
        let found: Vec<_> = all.iter().filter(|process| wanted(process)).collect();
        assert_eq!(found.len(), 1, "{what} should be one process among {:?}", describe(&all));
        *found[0]
    }

    /// What the agent has logged.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.agent_log_path()).unwrap_or_default()
    }

    /// Where the agent logs to.
    pub fn agent_log_path(&self) -> PathBuf {
        self.folder.path().join("agent.log")
    }

    /// Are connections to this port redirected?
    pub fn redirects(&self, port: u16) -> bool {
        state::redirects(&self.inside, port)
    }

    /// Waits until rules, routes, switches, processes and files are as they were before the first session.
    #[track_caller]
    pub fn assert_pristine(&self) {
        let left = within(GONE, || self.leftovers().is_empty().then_some(())).map_or_else(|| self.leftovers(), |()| String::new());
        assert!(left.is_empty(), "left in or around the pod:\n{left}\nagent's log:\n{}", self.agent_log());
    }

    /// What differs from before the first session; empty if nothing does.
    pub fn leftovers(&self) -> String {
        let mut left = self.before.difference(&Snapshot::of(&self.inside));
        let running = self.mirrord();
        if !running.is_empty() {
            left += &format!("processes: {}\n", describe(&running));
        }
        for file in state::agent_files(self.inside.inode) {
            left += &format!("file: {}\n", file.display());
        }
        for file in fs::read_dir(self.session_tmp()).unwrap().flatten() {
            left += &format!("file in TMPDIR: {}\n", file.path().display());
        }
        left
    }

    /// `TMPDIR` of this pod's sessions, so that files left there are surely theirs.
    pub fn session_tmp(&self) -> PathBuf {
        let folder = self.folder.path().join("tmp");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A file of this size in nginx's folder, as `/files/NAME`. It is sparse and costs nothing.
    pub fn add_file(&self, name: &str, size: u64) {
        fs::File::create(self.folder.path().join("files").join(name)).unwrap().set_len(size).unwrap();
    }

    fn start_nginx(&mut self) {
        let prefix = self.folder.path().to_owned();
        fs::create_dir(prefix.join("files")).unwrap();
        fs::write(prefix.join("nginx.conf"), NGINX.replace("PREFIX", prefix.to_str().unwrap())).unwrap();
        let conf = prefix.join("nginx.conf");
        let mut nginx = self.inside.command("nginx");
        nginx.arg("-p").arg(&prefix).arg("-c").arg(conf).arg("-e").arg(prefix.join("error.log"));
        self.start("nginx", &mut nginx);
        eventually("nginx answers", || {
            self.inside.run(|| std::net::TcpStream::connect_timeout(&self.address(WEB), Duration::from_secs(1)).ok())
        });
    }
}

impl Default for Pod {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent's log of {}:\n{}", self.inside.name, tail(&self.agent_log()));
        }
        // In an order that lets each end by itself is a test's business; here all must go, whatever has happened.
        for process in self.mirrord() {
            process.kill();
        }
        for server in &mut self.servers {
            let tree = processes::tree(Process(server.id()));
            tree.iter().for_each(|process| process.kill());
            let _ = server.wait();
        }
    }
}

fn is_guard(process: Process) -> bool {
    process.arguments().get(1).is_some_and(|word| word == "guard")
}

fn describe(processes: &[Process]) -> String {
    processes.iter().map(|process| format!("{} {}", process.0, process.arguments().join(" "))).collect::<Vec<_>>().join("; ")
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn curl(namespace: &Namespace, words: &str) -> String {
    let output = machine::output(
        namespace.command("curl").stdin(Stdio::null()).args(["-sS", "--max-time", "10", "--noproxy", "*"]).args(words.split_whitespace()),
    );
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const NGINX: &str = r#"
daemon off;
worker_processes 1;
pid PREFIX/nginx.pid;
error_log PREFIX/error.log;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 100000000;
    client_max_body_size 0;
    client_body_temp_path PREFIX/body;
    proxy_temp_path PREFIX/proxy;
    fastcgi_temp_path PREFIX/fastcgi;
    uwsgi_temp_path PREFIX/uwsgi;
    scgi_temp_path PREFIX/scgi;
    default_type text/plain;
    server {
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        listen 8080;
        listen [::]:8080;
        listen unix:PREFIX/plain.sock;
        location / { return 200 "pod $request_method $uri\n"; }
        location /client { return 200 "pod $remote_addr $server_addr $server_port\n"; }
        location /files/ { alias PREFIX/files/; }
    }
    server {
        listen 8082 http2;
        listen [::]:8082 http2;
        http2_max_concurrent_streams 1000;
        # By way of another server, so that bodies are read to their end before the answer.
        location / { proxy_pass http://unix:PREFIX/plain.sock; }
    }
}
"#;
