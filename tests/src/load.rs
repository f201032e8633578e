//! Other people's traffic: many clients with kept and with new connections, each of which notices any answer that is late,
//! cut, wrong or missing.

use std::{
    collections::BTreeMap,
    io::BufReader,
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    http::{get, read_response, shown},
    netns::Handle,
    pod::{Pod, WEB},
    wait::eventually,
};

/// How many clients.
pub const CLIENTS: usize = 64;
/// A request of others that takes longer has been disturbed: a lost SYN costs a second.
pub const LATE: Duration = Duration::from_millis(900);

/// Something that an innocent client noticed. Times since the load began.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was noticed.
    pub at: Duration,
    /// When the connection was begun.
    pub connected: Duration,
    /// What happened.
    pub what: String,
}

/// What the clients have to tell.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were answered well.
    pub answered: u64,
    /// Connections made.
    pub connections: u64,
    /// Who answered how many of them: `pod`, or `pod NAME`.
    pub by: BTreeMap<String, u64>,
    /// All else.
    pub failures: Vec<Failure>,
    /// The longest time that a request, with its connection if new, has taken, and when it began.
    pub slowest: Duration,
    /// When the slowest began.
    pub slowest_at: Duration,
    /// How much of it was the connect: a second there is a lost SYN.
    pub slowest_connect: Duration,
}

impl Report {
    /// Panics if anybody noticed anything.
    #[track_caller]
    pub fn assert_undisturbed(&self, least: u64) {
        println!(
            "others: {} requests on {} connections, {} failed, slowest {:?}",
            self.answered,
            self.connections,
            self.failures.len(),
            self.slowest
        );
        assert!(
            self.failures.is_empty(),
            "{} of {} failed; the first: {:#?}",
            self.failures.len(),
            self.answered,
            &self.failures[..self.failures.len().min(5)]
        );
        assert!(
            self.slowest < LATE,
            "somebody waited {:?} for an answer, {:?} of it to connect, {:?} after the start",
            self.slowest,
            self.slowest_connect,
            self.slowest_at
        );
        assert!(self.answered >= least, "only {} requests: the load proves nothing", self.answered);
    }
}

/// The running load.
pub struct Others {
    began: Instant,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Report>>,
}

impl Others {
    /// 64 clients of the pod's web server, half of them with a new connection for each request.
    pub fn load(pod: &Pod) -> Self {
        Self::load_with(pod, CLIENTS, &[])
    }

    /// So many clients, whose requests have these header lines.
    pub fn load_with(pod: &Pod, clients: usize, headers: &[&str]) -> Self {
        // Every fourth comes by IPv6.
        let (v4, v6) = (pod.address(WEB), pod.address_v6(WEB));
        Self::start(&pod.clients, &[v4, v4, v4, v6], clients, headers)
    }

    /// So many clients in a namespace, who take turns with the addresses.
    pub fn start(from: &Handle, addresses: &[SocketAddr], clients: usize, headers: &[&str]) -> Self {
        let (began, over, answered) = (Instant::now(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let headers: Vec<String> = headers.iter().map(|&header| header.into()).collect();
        let start = |number: usize| {
            let mut other = Other {
                number,
                address: addresses[number % addresses.len()],
                headers: headers.clone(),
                began,
                over: Arc::clone(&over),
                answered: Arc::clone(&answered),
                report: Report::default(),
            };
            from.spawn(move || {
                other.run();
                other.report
            })
        };
        let threads = (0..clients).map(start).collect();
        let others = Self { began, over, threads, answered };
        others.wait_for(clients as u64 * 2);
        others
    }

    /// Time since the load began; failures are told in it.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until so many more requests have been answered.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually(&format!("others get {more} more answers"), || (self.answered.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the load after the requests that are under way.
    pub fn stop(mut self) -> Report {
        self.over.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for thread in self.threads.drain(..) {
            let one = thread.join().unwrap();
            sum.answered += one.answered;
            sum.connections += one.connections;
            sum.failures.extend(one.failures);
            for (who, answers) in one.by {
                *sum.by.entry(who).or_default() += answers;
            }
            if one.slowest > sum.slowest {
                (sum.slowest, sum.slowest_at, sum.slowest_connect) = (one.slowest, one.slowest_at, one.slowest_connect);
            }
        }
        sum.failures.sort_by_key(|failure| failure.at);
        sum
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Other {
    number: usize,
    address: SocketAddr,
    headers: Vec<String>,
    began: Instant,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    report: Report,
}

impl Other {
    fn run(&mut self) {
        let mut count = 0;
        // Kept connections live for five to ninety requests: some are older than a session, some younger, some outlive it.
        let (kept, pause) = if self.number.is_multiple_of(2) { (5 + 7 * (self.number as u64 % 13), 5) } else { (1, 20) };
        while !self.over.load(Ordering::Relaxed) {
            let connected = self.began.elapsed();
            let mut start = Instant::now();
            let mut stream = match TcpStream::connect_timeout(&self.address, Duration::from_secs(5)) {
                Ok(stream) => BufReader::new(stream),
                Err(error) => {
                    self.fail(connected, format!("connect: {error}"));
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            self.report.connections += 1;
            let mut connect = start.elapsed();
            let _ = stream.get_ref().set_nodelay(true);
            let _ = stream.get_ref().set_read_timeout(Some(Duration::from_secs(5)));
            for _ in 0..kept {
                count += 1;
                let last = match self.exchange(&mut stream, count) {
                    Ok(last) => last,
                    Err(what) => {
                        self.fail(connected, what);
                        break;
                    }
                };
                self.note(start, connect);
                connect = Duration::ZERO;
                // A pace, so that the clients leave some of the machine to what they test.
                thread::sleep(Duration::from_millis(pause));
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
                if last {
                    break;
                }
                start = Instant::now();
            }
        }
    }

    /// One request and its answer; whether the server means to close the connection.
    fn exchange(&mut self, stream: &mut BufReader<TcpStream>, count: u64) -> Result<bool, String> {
        let path = format!("/others/{}/{count}", self.number);
        let headers: Vec<_> = self.headers.iter().map(String::as_str).collect();
        stream.get_mut().write_all(&get(&path, &headers)).map_err(|error| format!("send: {error}"))?;
        let response = read_response(stream).map_err(|error| format!("receive: {error}"))?;
        let text = response.text();
        let who = text.strip_suffix(&format!(" GET {path}\n")).filter(|who| *who == "pod" || who.starts_with("pod "));
        let untouched = !String::from_utf8_lossy(&response.head).to_lowercase().contains("mirrord");
        if let Some(who) = who.filter(|_| response.status == 200 && untouched) {
            // A name is made once, not for each answer.
            match self.report.by.get_mut(who) {
                Some(answers) => *answers += 1,
                None => _ = self.report.by.insert(who.into(), 1),
            }
            return Ok(response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")));
        }
        Err(format!("wrong answer to {path}: {}{}", shown(&response.head), shown(&response.body)))
    }

    fn note(&mut self, start: Instant, connect: Duration) {
        let took = start.elapsed();
        self.report.answered += 1;
        self.answered.fetch_add(1, Ordering::Relaxed);
        if took > self.report.slowest {
            self.report.slowest = took;
            self.report.slowest_at = start - self.began;
            self.report.slowest_connect = connect;
        }
    }

    fn fail(&mut self, connected: Duration, what: String) {
        self.report.failures.push(Failure { at: self.began.elapsed(), connected, what });
    }
}
