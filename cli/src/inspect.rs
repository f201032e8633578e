//! `mirrord inspect`: each request and response of the target as it passes, and a summary. Nothing runs here and nothing changes
//! there: it is a session that only looks.
//!
//! `agent --lines--> Feed --> View: terminal or pipe, HAR file, summary`

pub mod dump;
mod har;
mod line;
mod summary;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use mirrord_config::{ClusterSettings, ConfigError, Filter, FilterFlag, Target, ports, resolve};
use mirrord_intproxy::records::{self, Next};
use mirrord_protocol::{
    control::ErrorReply,
    records::{Exchange, InspectLine, InspectRequest},
};
use serde_json::Value;

use crate::{
    agent,
    args::ClusterArgs,
    chain::{self, ChainFlags},
    console,
    error::Error,
    exec,
    feeds::Feeds,
    kube::{self, Cluster},
    namespace,
    paint::{Paint, plain},
    progress, sys,
};
use har::Har;
use line::{Lines, Pace};
use summary::Summary;

/// The command line, but for the filters, whose order matters.
#[derive(Args, Debug)]
pub struct Line {
    /// Whose requests: deployment/NAME, pod/NAME … in a cluster (all of its pods); netns/NAME, pid/N or container/ID on this machine
    /// [env: MIRRORD_IMPERSONATED_TARGET]
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// Only this port of the target; without -p: each port that it listens on now
    #[arg(short, long, value_name = "PORT", allow_negative_numbers = true)]
    port: Vec<String>,

    /// Filters: what they would say to each request is shown; it has no effect
    #[command(flatten)]
    chain: ChainFlags,

    /// Only requests that the filters pick
    #[arg(long, requires = "ChainFlags")]
    picked: bool,

    /// Show so many bytes of each body, as they are
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    body: usize,

    /// A line of JSON for each exchange, headers included
    #[arg(long, conflicts_with = "har")]
    json: bool,

    /// Write the exchanges to FILE, for a browser's network tools or `mirrord filter test`
    #[arg(long, value_name = "FILE")]
    har: Option<PathBuf>,

    /// Show credentials (Authorization, cookies, tokens …) instead of masking them
    #[arg(long)]
    show_credentials: bool,

    /// Print every line, also where they come faster than can be read
    #[arg(long)]
    all: bool,
}

impl Line {
    pub fn resolve(self, filters: Vec<FilterFlag>, variable: impl Fn(&str) -> Option<String>) -> Result<Inspect, Error> {
        Ok(Inspect {
            target: resolve::target(self.target, &variable, None)?,
            cluster: ClusterSettings::resolve(self.cluster.flags(), &variable, ClusterSettings::default()).map_err(ConfigError::from)?,
            ports: target_ports(&self.port)?,
            filters: mirrord_config::filters::chain(filters)?,
            picked: self.picked,
            body: self.body,
            json: self.json,
            har: self.har,
            show_credentials: self.show_credentials,
            all: self.all,
            format: Format::Lines,
        })
    }
}

/// Ports of the target, which have no other port here.
fn target_ports(texts: &[String]) -> Result<Vec<u16>, Error> {
    let ports = ports::parse_all(texts).map_err(ConfigError::from)?;
    match ports.iter().find(|map| map.pod != map.local) {
        Some(map) => Err(Error::NoLocalPort(map.pod)),
        None => Ok(ports.into_iter().map(|map| map.pod).collect()),
    }
}

/// What is to be looked at, and how it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspect {
    pub target: Target,
    /// How a cluster is reached, and how the agent looks there.
    pub cluster: ClusterSettings,
    /// Empty: those on which the target listens.
    pub ports: Vec<u16>,
    /// Asked for their verdict, which is shown and has no effect.
    pub filters: Vec<Filter>,
    /// Only requests that the filters pick.
    pub picked: bool,
    /// Bytes of each body.
    pub body: usize,
    pub json: bool,
    pub har: Option<PathBuf>,
    pub show_credentials: bool,
    /// Every line, also where somebody watches and cannot read so fast.
    pub all: bool,
    pub format: Format,
}

/// How exchanges are shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line each, and a summary.
    Lines,
    /// As they went over the wire, headers and bodies.
    Dump,
}

/// How often what is shown is looked at anew.
const TICK: Duration = Duration::from_millis(250);

/// Looks until Ctrl-C.
pub fn inspect(inspect: Inspect) -> Result<(), Error> {
    let filters = chain::links(inspect.filters.clone())?;
    let har = inspect.har.as_ref().map(|path| Har::create(path)).transpose()?;
    let request = InspectRequest {
        owner: exec::owner("mirrord inspect".as_ref()),
        ports: inspect.ports.clone(),
        chain: Vec::new(),
        headers: inspect.har.is_some() || inspect.json || inspect.format == Format::Dump,
        body: inspect.body,
        show_credentials: inspect.show_credentials,
    };
    let join = |socket| {
        let feed = match records::inspect(socket, filters.clone(), request.clone()) {
            Ok(feed) => feed,
            Err(error) => return ControlFlow::Break(Err(Error::Asked(error))),
        };
        match feed.next(Duration::from_secs(60)) {
            Next::Lines(lines) => ControlFlow::Break(Ok((feed, lines))),
            Next::NotYet => ControlFlow::Break(Err(lost("the agent does not answer"))),
            Next::End(error) => ControlFlow::Continue(error.map_or_else(|| lost("the agent does not answer"), Error::Asked)),
        }
    };
    // In a cluster the connection lasts as long as this.
    let (_cluster, joined) = match &inspect.target {
        Target::Cluster(_) => {
            progress::begin("mirrord inspect");
            progress::step("connecting to the cluster");
            let settings = kube::Settings {
                target: inspect.target.to_string(),
                cluster: inspect.cluster.clone(),
                owner: request.owner.clone(),
                environment: false,
                agents: kube::Wanted::All,
            };
            let (cluster, ready) = Cluster::start(&settings)?;
            let (mut feeds, mut first) = (Vec::new(), Vec::new());
            for (pod, socket) in ready.agents {
                let (ControlFlow::Break(joined) | ControlFlow::Continue(joined)) = join(socket).map_continue(Err);
                let (feed, lines) = joined?;
                first.push((feeds.len(), lines));
                feeds.push((pod, feed));
            }
            progress::done(&format!("looking at {} pods of {}", feeds.len(), inspect.target));
            (Some(cluster), (Feeds::several(feeds), first))
        }
        target => {
            let keep = exec::privileges(target)?;
            let (feed, lines) = agent::with_agent(&namespace::find(target)?, keep, join)?;
            (None, (Feeds::one(feed), vec![(0, lines)]))
        }
    };
    let (feeds, first) = joined;
    let mut view = View {
        out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
        lines: Lines::new(Paint::for_stdout(), !inspect.filters.is_empty()),
        pace: Pace::new(),
        har,
        summary: Summary::new(),
        closing: None,
        pod: None,
        feeds,
        inspect,
    };
    view.lines.pods = view.feeds.are_several();
    let ended = view.run(first);
    view.finish(ended)
}

/// A line of JSON as the agent wrote it, with the pod that it is of, if that is not plain.
pub fn with_pod(line: &[u8], pod: Option<&str>) -> String {
    let text = || String::from_utf8_lossy(line).into_owned();
    let Some(pod) = pod else { return text() };
    match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(mut members)) => {
            members.insert("pod".into(), pod.into());
            Value::Object(members).to_string()
        }
        _ => text(),
    }
}

/// [`Error::help`] knows the next step.
fn lost(why: &str) -> Error {
    Error::Asked(ErrorReply { error: why.into(), help: String::new() })
}

struct View<W: Write> {
    inspect: Inspect,
    feeds: Feeds,
    /// Whose lines are being shown, if that is not plain.
    pod: Option<(usize, String)>,
    out: BufWriter<W>,
    lines: Lines,
    pace: Pace,
    har: Option<Har<File>>,
    summary: Summary,
    /// Why the agent ends the session.
    closing: Option<String>,
}

fn name(pod: &Option<(usize, String)>) -> Option<&str> {
    pod.as_ref().map(|(_, name)| name.as_str())
}

/// How looking came to its end.
enum Ended {
    /// As the user wished.
    Asked,
    /// Nobody reads what is printed.
    Unread,
    Failed(Error),
}

impl<W: Write> View<W> {
    fn run(&mut self, first: Vec<(usize, Vec<u8>)>) -> Ended {
        let mut first = first.into_iter();
        let mut next = first.next().map_or((0, Next::NotYet), |(at, lines)| (at, Next::Lines(lines)));
        let mut tick = Instant::now();
        loop {
            let (at, what) = next;
            match what {
                Next::Lines(lines) => {
                    self.pod = self.feeds.pod(at).map(|pod| (at, pod.to_owned()));
                    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                        match self.take(line) {
                            Ok(()) => {}
                            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ended::Unread,
                            Err(error) => return Ended::Failed(Error::Write(error)),
                        }
                    }
                }
                Next::NotYet => {}
                Next::End(Some(error)) => return Ended::Failed(Error::Asked(error)),
                Next::End(None) => {
                    return match self.closing.take() {
                        Some(reason) => Ended::Failed(lost(&format!("the session has ended: {reason}"))),
                        None => Ended::Asked,
                    };
                }
            }
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                if self.tell_hidden().is_err() || sys::nobody_reads() {
                    return Ended::Unread;
                }
            }
            if let Some((at, lines)) = first.next() {
                next = (at, Next::Lines(lines));
                continue;
            }
            next = match self.feeds.next(Duration::ZERO) {
                // All that has come is printed: now somebody may look at it.
                (_, Next::NotYet) => {
                    if self.out.flush().is_err() {
                        return Ended::Unread;
                    }
                    self.feeds.next(TICK)
                }
                next => next,
            };
        }
    }

    fn take(&mut self, line: &[u8]) -> io::Result<()> {
        match serde_json::from_slice(line) {
            Ok(InspectLine::Exchange(exchange)) => self.exchange(&exchange, line),
            Ok(InspectLine::Tally(tally)) => {
                self.summary.tally(self.pod.as_ref().map_or(0, |(at, _)| *at), tally);
                Ok(())
            }
            Ok(InspectLine::Inspecting { ports, .. }) => {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                let s = if ports.len() == 1 { "" } else { "s" };
                let pod = name(&self.pod).map_or_else(String::new, |pod| format!(", pod {}", plain(pod)));
                let target = &self.inspect.target;
                console::say(&format!("mirrord: inspecting {target}{pod}, port{s} {} (Ctrl-C ends it)", ports.join(", ")));
                Ok(())
            }
            Ok(InspectLine::Notice { level, message }) => {
                console::notice(level, &message);
                Ok(())
            }
            Ok(InspectLine::Closing { reason }) => {
                self.closing = Some(reason);
                Ok(())
            }
            // A newer agent may say things that we do not know.
            Err(_) => Ok(()),
        }
    }

    fn exchange(&mut self, exchange: &Exchange, line: &[u8]) -> io::Result<()> {
        self.summary.exchange(exchange);
        if self.inspect.picked && exchange.would.as_ref().is_none_or(|would| would.verdict == Default::default()) {
            return Ok(());
        }
        if let Some(har) = &mut self.har {
            har.entry(exchange)?;
        }
        if self.inspect.json {
            return writeln!(self.out, "{}", with_pod(line, name(&self.pod)));
        }
        if self.inspect.format == Format::Dump {
            return dump::exchange(&mut self.out, exchange, name(&self.pod));
        }
        if self.lines.paint.watched && !self.inspect.all && !self.pace.admits(exchange) {
            return Ok(());
        }
        self.lines.exchange(&mut self.out, exchange, name(&self.pod).unwrap_or_default())
    }

    /// Says how many lines went by unseen since the last tick.
    fn tell_hidden(&mut self) -> io::Result<()> {
        if let Some(hidden) = self.pace.next_tick() {
            self.lines.hidden(&mut self.out, hidden)?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn finish(mut self, ended: Ended) -> Result<(), Error> {
        let mut written = self.tell_hidden().map_err(Error::Write);
        if let Some(har) = self.har.take() {
            let closed = har.finish().map_err(Error::Write);
            if let (Ok(entries), Some(path)) = (&closed, &self.inspect.har) {
                console::say(&format!("mirrord: {entries} exchanges in {}", plain(&path.to_string_lossy())));
            }
            written = written.and(closed.map(drop));
        }
        if let Ended::Unread = ended {
            return Ok(());
        }
        if self.inspect.json {
            written = written.and(writeln!(self.out, "{}", self.summary.json()).map_err(Error::Write));
        } else if self.inspect.format == Format::Lines {
            written = written.and(self.summary.print(&mut self.out, self.lines.paint).map_err(Error::Write));
        }
        let written = written.and(self.out.flush().map_err(Error::Write));
        match ended {
            Ended::Failed(error) => Err(error),
            _ => written,
        }
    }
}
