//! What the tests stand on: the real `Layers` server, real programs with the real library preloaded, and a driver that plays the
//! deliveries: it registers where a connection is from, connects to where the program listens, and reads the answer.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(dead_code)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc, Arc, Mutex, OnceLock,
    },
    thread,
    time::{Duration, Instant},
};

use mirrord_intproxy::layers::{Layers, PortChange, Registry};
use mirrord_protocol::layer::{Origin, ADDRESS_VARIABLE};

/// The client that each delivery is from, and what it connected to in the pod.
pub const CLIENT: &str = "203.0.113.7:4711";
pub const DESTINATION: &str = "198.51.100.1:80";
const DEADLINE: Duration = Duration::from_secs(20);

pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The library as this build made it, beside the tests themselves.
pub fn library() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = deps.join("libmirrord_layer.so");
    assert!(library.exists(), "{} is missing: cargo build --release -p mirrord-layer", library.display());
    library
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// The C server, compiled once.
pub fn c_server() -> &'static Path {
    static SERVER: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SERVER.get_or_init(|| {
        // Statics are not dropped: the directory is of this build, and used again by the next run.
        let folder = tempfile::Builder::new().prefix("layer-tests-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("server");
        let fresh = folder.path().join("server");
        let gcc = Command::new("gcc").args(["-O1", "-pthread", "-o"]).arg(&fresh).arg(source("server.c")).status().unwrap();
        assert!(gcc.success());
        std::fs::rename(&fresh, &path).unwrap();
        let _ = std::fs::remove_dir(folder.path());
        (folder, path)
    });
    path
}

/// A port that nobody has, below those that the kernel gives to clients, and no other test of this process gets.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % 100 * 100) as u16;
    let candidates = std::iter::repeat_with(|| 20_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
    candidates.take(12_000).find(|port| std::net::TcpListener::bind(("::", *port)).is_ok()).unwrap()
}

/// A session without an agent: it notes which ports are open.
pub struct Session {
    pub address: String,
    pub registry: Registry,
    open: Arc<Mutex<BTreeSet<u16>>>,
    history: Arc<Mutex<Vec<String>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Session {
    pub fn start() -> Session {
        Session::start_refusing(0)
    }

    /// One port's traffic stays with the target.
    pub fn start_refusing(refused: u16) -> Session {
        let (open, history) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Mutex::new(Vec::new())));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (started, address) = mpsc::channel();
        let (ports, log) = (open.clone(), history.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let layers = Layers::bind().unwrap();
                started.send((layers.address(), layers.registry())).unwrap();
                let (changes, mut asked) = tokio::sync::mpsc::channel(8);
                let session = async {
                    while let Some(change) = asked.recv().await {
                        match change {
                            PortChange::Opened { port, done } if port == refused => {
                                let _ = done.send(Err(format!("port {port} is not asked for")));
                            }
                            PortChange::Opened { port, done } => {
                                log.lock().unwrap().push(format!("+{port}"));
                                ports.lock().unwrap().insert(port);
                                let _ = done.send(Ok(()));
                            }
                            PortChange::Closed { port, done } => {
                                log.lock().unwrap().push(format!("-{port}"));
                                ports.lock().unwrap().remove(&port);
                                let _ = done.send(());
                            }
                        }
                    }
                };
                tokio::select! { () = layers.run(changes) => {}, () = session => {}, _ = stopped => {} }
            });
        });
        let (address, registry) = address.recv().unwrap();
        Session { address, registry, open, history, stop: Some(stop), thread: Some(thread) }
    }

    pub fn is_open(&self, port: u16) -> bool {
        self.open.lock().unwrap().contains(&port)
    }

    /// Each opening (+) and closing (-) of a port, in order.
    pub fn history(&self) -> Vec<String> {
        self.history.lock().unwrap().clone()
    }

    pub fn until_open(&self, port: u16) {
        eventually("port open", || self.is_open(port).then_some(()));
    }

    pub fn until_closed(&self, port: u16) {
        eventually("port closed", || (!self.is_open(port)).then_some(()));
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LD_PRELOAD", library()).env(ADDRESS_VARIABLE, &self.address);
        command
    }

    pub fn c(&self, mode: &str, port: u16) -> Program {
        Program::start(self.command(c_server()).arg(mode).arg(port.to_string()))
    }

    /// What the program answers to a request that a client in the pod's network has sent.
    pub fn deliver(&self, port: u16, request: &str) -> String {
        self.try_deliver(port, request).unwrap()
    }

    pub fn try_deliver(&self, port: u16, request: &str) -> std::io::Result<String> {
        self.deliver_from(CLIENT, port, request)
    }

    pub fn deliver_from(&self, client: &str, port: u16, request: &str) -> std::io::Result<String> {
        let to = self.registry.bound(port).ok_or(std::io::ErrorKind::NotFound)?;
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
        let own: SocketAddr = if to.is_ipv4() { "127.0.0.1:0".parse().unwrap() } else { "[::1]:0".parse().unwrap() };
        socket.bind(&own.into())?;
        let own = socket.local_addr()?.as_socket().unwrap();
        let origin = Origin { client: client.parse().unwrap(), destination: DESTINATION.parse().unwrap() };
        let _guard = self.registry.origin(own, origin);
        socket.connect(&to.into())?;
        exchange(socket.into(), request)
    }

    pub fn get(&self, port: u16, path: &str) -> String {
        self.deliver(port, &format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client on this machine that has nothing to do with the session.
pub fn visit(port: u16, request: &str) -> std::io::Result<String> {
    exchange(TcpStream::connect(("127.0.0.1", port))?, request)
}

fn exchange(mut stream: TcpStream, request: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A program under test; it and all of its process group end with this.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    pub fn start(command: &mut Command) -> Program {
        let mut child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for stream in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Program { child, lines }
    }

    /// The next line of output.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line of output")
    }

    /// All further output, once the program has ended.
    pub fn rest(&mut self) -> (i32, Vec<String>) {
        let status = eventually("the program ends", || self.child.try_wait().unwrap());
        (status.code().unwrap_or(-1), self.lines.iter().collect())
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}
