//! Clients that connect anew, again and again, and together know to some milliseconds when the pod could not be reached.

use std::{
    io::{self, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{
    http::{get, read_response},
    pod::{Pod, WEB},
};

/// Below those that the clients' kernel gives out.
const PORTS: std::ops::Range<u16> = 1024..10_000;
/// While one waits for an answer that does not come, the others go on.
const CLIENTS: u16 = 6;

/// One attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Before the connect.
    pub began: Instant,
    /// After the whole answer, or the failure.
    pub ended: Instant,
    /// Who answered, or what went wrong.
    pub result: Result<String, String>,
}

/// The running clients.
pub struct Probe {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Probe {
    /// Starts connecting to the pod's web server.
    pub fn start(pod: &Pod) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let address = pod.address(WEB);
        let own = pod.client_of(address);
        let client = |number: u16| {
            let ends = Arc::clone(&over);
            pod.clients.spawn(move || {
                let mut attempts = Vec::new();
                // A port of its own for each, which no other client gets: the kernel may remember for ten seconds where a
                // connection that was broken had been redirected to.
                for port in PORTS.skip(number.into()).step_by(CLIENTS.into()).cycle() {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let began = Instant::now();
                    let result = attempt(SocketAddr::new(own, port), address);
                    attempts.push(Attempt { began, ended: Instant::now(), result });
                    thread::sleep(Duration::from_millis(CLIENTS.into()));
                }
                attempts
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { over, threads }
    }

    /// Ends it; gives all attempts, in the order in which they began.
    pub fn stop(mut self) -> Vec<Attempt> {
        self.over.store(true, Ordering::Relaxed);
        let mut attempts: Vec<_> = self.threads.drain(..).flat_map(|thread| thread.join().unwrap()).collect();
        attempts.sort_by_key(|attempt| attempt.began);
        attempts
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn attempt(from: SocketAddr, to: SocketAddr) -> Result<String, String> {
    let limit = Duration::from_millis(500);
    let stream = connect_from(from, to, limit).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(limit)).map_err(|error| error.to_string())?;
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&get("/probe", &[])).map_err(|error| format!("send: {error}"))?;
    read_response(&mut stream).map(|response| response.who()).map_err(|error| format!("receive: {error}"))
}

/// Connects from an address and port, in the calling thread's namespace.
pub fn connect_from(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), limit)?;
    Ok(socket.into())
}

/// How long after `moment` the last connection began that was not served; zero if all were. By when it began: how long it then took
/// is this machine's affair. Whoever came before `moment` may have met what it is about. `None`: nobody was served after that.
pub fn recovery(attempts: &[Attempt], moment: Instant) -> Option<Duration> {
    let later: Vec<_> = attempts.iter().filter(|attempt| attempt.began > moment).collect();
    let last = later.iter().rposition(|attempt| attempt.result.as_deref() != Ok("pod"));
    match last {
        None => (!later.is_empty()).then_some(Duration::ZERO),
        Some(index) => (index + 1 < later.len()).then(|| later[index].began - moment),
    }
}

/// What happened from `moment` on, like attempts together, for a person to read.
pub fn story(attempts: &[Attempt], moment: Instant) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    for attempt in attempts.iter().filter(|attempt| attempt.ended > moment) {
        let result = attempt.result.clone().unwrap_or_else(|error| error);
        let times = format!("begun {:?} ended {:?}", attempt.began.saturating_duration_since(moment), attempt.ended - moment);
        match lines.last_mut() {
            Some((last, until)) if *last == result => *until = format!("{} … {times}", until.split(" … ").next().unwrap_or_default()),
            _ => lines.push((result, times)),
        }
    }
    lines.iter().map(|(result, times)| format!("{result}: {times}\n")).collect()
}
