//! `mirrord explain`: why the last requests went where they went, asked of the target's agent. A line each on standard output; with
//! `--id`, all that is known of one.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use mirrord_config::{ClusterFlags, ClusterSettings, ConfigError, Target, resolve};
use mirrord_intproxy::records::{self, Next};
use mirrord_protocol::{
    control::{Level, Mode},
    records::{Asked, Decision, ExplainLine, Said, Verdict},
};

use crate::{
    agent, console,
    error::Error,
    exec,
    feeds::Feeds,
    inspect::with_pod,
    kube::{self, Cluster},
    namespace,
    paint::{Colour, Paint, plain},
    sys, when,
};

/// The command line.
#[derive(Args, Debug)]
pub struct Line {
    /// Whose requests: deployment/NAME, pod/NAME … in a cluster (all of its pods that have an agent); netns/NAME, pid/N or container/ID
    /// on this machine [env: MIRRORD_IMPERSONATED_TARGET]
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,

    /// In a cluster: namespace of the target; else the context's [env: MIRRORD_TARGET_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE")]
    target_namespace: Option<String>,

    /// In a cluster: namespace of the agents; else the context's [env: MIRRORD_AGENT_NAMESPACE]
    #[arg(short, long, value_name = "NAMESPACE")]
    agent_namespace: Option<String>,

    /// Context of the kubeconfig; else the current one [env: MIRRORD_KUBE_CONTEXT]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// The last N decisions
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    last: usize,

    /// All about one request; its ID is in the list
    #[arg(long, value_name = "ID")]
    id: Option<u64>,

    /// Only requests that a session's filter picked, or on which one failed
    #[arg(long)]
    picked: bool,

    /// Go on with the decisions to come; each is then measured
    #[arg(short, long, conflicts_with = "id")]
    follow: bool,

    /// A line of JSON for each, as the agent gives it
    #[arg(long)]
    json: bool,
}

impl Line {
    pub fn resolve(self, variable: impl Fn(&str) -> Option<String>) -> Result<Explain, Error> {
        let Line { target, target_namespace, agent_namespace, context, last, id, picked, follow, json } = self;
        let flags = ClusterFlags { namespace: target_namespace, agent_namespace, context, ..ClusterFlags::default() };
        let cluster = ClusterSettings::resolve(flags, &variable, ClusterSettings::default()).map_err(ConfigError::from)?;
        Ok(Explain { target: resolve::target(target, variable, None)?, cluster, last, id, picked, follow, json })
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    pub target: Target,
    pub cluster: ClusterSettings,
    /// At most so many, the newest.
    pub last: usize,
    pub id: Option<u64>,
    /// Only what a session picked.
    pub picked: bool,
    pub follow: bool,
    pub json: bool,
}

/// How often it is looked whether anybody still reads, while nothing comes.
const TICK: Duration = Duration::from_millis(250);

/// Prints decisions until there are no more, or for ever.
pub fn explain(explain: &Explain) -> Result<(), Error> {
    // In a cluster the connection lasts as long as this.
    let (_cluster, mut feeds) = ask(explain)?;
    let mut out = io::stdout().lock();
    let mut printer = Printer { paint: Paint::for_stdout(), count: 0, explain, pods: feeds.are_several(), pod: None };
    loop {
        let (at, next) = feeds.next(TICK);
        match next {
            Next::Lines(lines) => {
                printer.pod = feeds.pod(at).map(str::to_owned);
                // Nobody reads on: that is how `| head` ends.
                if printer.print(&mut out, &lines).and_then(|()| out.flush()).is_err() {
                    return Ok(());
                }
            }
            Next::NotYet if sys::nobody_reads() => return Ok(()),
            Next::NotYet => {}
            Next::End(Some(error)) => return Err(Error::Asked(error)),
            Next::End(None) if explain.follow => {
                console::notice(Level::Info, "the agent has ended: nobody has a session on this target any more");
                return Ok(());
            }
            Next::End(None) => return printer.end(),
        }
    }
}

/// Asks each agent that the target has.
fn ask(explain: &Explain) -> Result<(Option<Cluster>, Feeds), Error> {
    let query = explain.query();
    let Target::Cluster(_) = &explain.target else {
        let feed = records::explain(agent_of(&explain.target)?, query).map_err(Error::Asked)?;
        return Ok((None, Feeds::one(feed)));
    };
    let (cluster, ready) = Cluster::start(&kube::Settings {
        target: explain.target.to_string(),
        cluster: explain.cluster.clone(),
        owner: exec::owner("mirrord explain".as_ref()),
        environment: false,
        agents: kube::Wanted::There,
    })?;
    let ask = |(pod, socket)| Ok((pod, records::explain(socket, query.clone()).map_err(Error::Asked)?));
    let feeds = ready.agents.into_iter().map(ask).collect::<Result<_, Error>>()?;
    Ok((Some(cluster), Feeds::several(feeds)))
}

fn agent_of(target: &Target) -> Result<PathBuf, Error> {
    let socket = agent::socket(&namespace::find(target)?);
    match agent::accepts(&socket) {
        Ok(true) => Ok(socket),
        Ok(false) => Err(Error::NoSession(target.clone())),
        Err(error) => Err(error.into()),
    }
}

impl Explain {
    fn query(&self) -> String {
        let mut query = format!("last={}", self.last);
        if let Some(id) = self.id {
            query.push_str(&format!("&id={id}"));
        }
        for (given, name) in [(self.picked, "&picked"), (self.follow, "&follow")] {
            query.push_str(if given { name } else { "" });
        }
        query
    }
}

struct Printer<'a> {
    paint: Paint,
    count: u64,
    explain: &'a Explain,
    /// Lines say which pod they are of: this one, now.
    pods: bool,
    pod: Option<String>,
}

impl Printer<'_> {
    fn print(&mut self, out: &mut impl Write, lines: &[u8]) -> io::Result<()> {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if self.explain.json {
                self.count += 1;
                writeln!(out, "{}", with_pod(line, self.pod.as_deref()))?;
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(ExplainLine::Decision(decision)) => {
                    self.count += 1;
                    if self.explain.id.is_some() {
                        self.in_full(out, &decision)?;
                    } else {
                        self.line(out, &decision)?;
                    }
                }
                Ok(ExplainLine::SetAside(aside)) => {
                    let seconds = aside.tried_again_in.div_ceil(1000);
                    let text = format!(
                        "filter {} of session {} is set aside: it failed too often in a row and is not asked for {seconds} s more",
                        plain(&aside.filter),
                        aside.session
                    );
                    writeln!(out, "{}", self.paint.text(Colour::Red, &text))?;
                }
                Ok(ExplainLine::Missed(count)) => {
                    writeln!(out, "{}", self.paint.text(Colour::Dim, &format!("… {count} more were decided faster than this can tell")))?;
                }
                // A newer agent may say things that we do not know.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn line(&self, out: &mut impl Write, decision: &Decision) -> io::Result<()> {
        if self.count == 1 {
            let pod = if self.pods { format!("{:24}  ", "POD") } else { String::new() };
            let head = format!("{pod}{:12}  {:>8}  {:21}  {:<9}  {:<32}  WHY", "TIME", "ID", "CLIENT", "VERDICT", "REQUEST");
            writeln!(out, "{}", self.paint.text(Colour::Dim, &head))?;
        }
        let request = format!("{} {}", plain(&decision.method), plain(&decision.path));
        if self.pods {
            let pod = self.pod.as_deref().unwrap_or_default();
            write!(out, "{}  ", self.paint.text(Colour::Cyan, &format!("{:24}", plain(pod))))?;
        }
        writeln!(
            out,
            "{}  {:>8}  {:21}  {}  {request:<32}  {}",
            self.paint.text(Colour::Dim, &when::time_of_day(decision.at * 1000)),
            decision.id,
            decision.client.to_string(),
            self.verdict(decision.verdict, 9),
            why(decision),
        )
    }

    fn in_full(&self, out: &mut impl Write, decision: &Decision) -> io::Result<()> {
        let Decision { id, at, client, destination, protocol, .. } = decision;
        let pod = self.pod.as_ref().map_or_else(String::new, |pod| format!(", pod {}", plain(pod)));
        writeln!(out, "request {id}, {}{pod}", when::date_and_time(at * 1000))?;
        writeln!(out, "  {} {} {}", plain(&decision.method), plain(&decision.path), plain(protocol))?;
        writeln!(out, "  from {client} to {destination}")?;
        if decision.asked.is_empty() {
            writeln!(out, "  no session on port {} was asked", destination.port())?;
        }
        for asked in &decision.asked {
            let mode = match asked.mode {
                Mode::Steal => "steals",
                Mode::Mirror => "mirrors",
                Mode::Inspect => "inspects",
            };
            writeln!(out, "  session {}, {}, {mode}: {}", asked.session, plain(&asked.owner), self.verdict(asked.verdict, 0))?;
            if asked.links.is_empty() {
                writeln!(out, "    no filter: it picks every request")?;
            }
            for (number, link) in asked.links.iter().enumerate() {
                self.link(out, number + 1, link)?;
            }
        }
        if decision.asked_too > 0 {
            writeln!(out, "  and {} more sessions", decision.asked_too)?;
        }
        if let Some(reason) = &decision.reason {
            writeln!(out, "  reason: {}", plain(reason))?;
        }
        let who = match (decision.verdict, decision.session) {
            (Verdict::Pass | Verdict::Mirror, _) => "the pod answered".to_owned(),
            (Verdict::Respond, Some(session)) => format!("a filter of session {session} answered"),
            (_, Some(session)) => format!("session {session} answered"),
            (verdict, None) => verdict.as_str().to_owned(),
        };
        let took = decision.ns.map_or_else(|| "not measured: one of sixteen is".to_owned(), |ns| format!("decided in {}", when::short(ns)));
        writeln!(out, "  → {who} ({took})")
    }

    fn link(&self, out: &mut impl Write, number: usize, link: &Said) -> io::Result<()> {
        let took = link.ns.map_or_else(String::new, when::short);
        write!(out, "    {number}. {:<24} {:<12}  {:<16} {took:>8}", plain(&link.filter), plain(&link.sha256), link.verdict.as_str())?;
        if let Some(reason) = &link.reason {
            write!(out, "  {}", plain(reason))?;
        }
        if let Some(fault) = &link.fault {
            write!(out, "  {}", self.paint.text(Colour::Red, &format!("{}, see the session's terminal", failure(fault))))?;
        }
        writeln!(out)
    }

    fn verdict(&self, verdict: Verdict, width: usize) -> String {
        let colour = match verdict {
            Verdict::Pass => Colour::Dim,
            Verdict::Mirror => Colour::Cyan,
            Verdict::Abort => Colour::Red,
            Verdict::Steal | Verdict::StealAndMirror | Verdict::Respond => Colour::Magenta,
        };
        self.paint.text(colour, &format!("{:<width$}", verdict.as_str())).into_owned()
    }

    fn end(&self) -> Result<(), Error> {
        match (self.count, self.explain.id) {
            (0, Some(id)) => Err(Error::NoDecision(id)),
            (0, None) => {
                console::say("mirrord: no request has come yet on a port that a session subscribes");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What went wrong in a link.
fn failure(fault: &str) -> String {
    match fault {
        "set_aside" => "is set aside".to_owned(),
        "skipped" => "did not decide in time".to_owned(),
        fault => format!("failed ({})", plain(fault)),
    }
}

/// In a few words.
fn why(decision: &Decision) -> String {
    let who = |asked: &Asked| {
        let user = asked.owner.split(['@', ' ']).next().unwrap_or_default();
        if user.is_empty() { format!("session {}", asked.session) } else { format!("{}'s session {}", plain(user), asked.session) }
    };
    let failed = decision
        .asked
        .iter()
        .flat_map(|asked| &asked.links)
        .find_map(|link| link.fault.as_ref().map(|fault| format!(", {} {}", plain(&link.filter), failure(fault))));
    let reason = decision.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", plain(reason)));
    let decided = decision.asked.iter().rev().find(|asked| asked.verdict != Verdict::Pass);
    let text = match decided {
        Some(asked) => match asked.links.last() {
            Some(link) => format!("{} of {}{reason}", plain(&link.filter), who(asked)),
            None => format!("{} takes every request", who(asked)),
        },
        None if decision.asked.is_empty() => "no session was asked".to_owned(),
        None => {
            let filters = decision.asked.iter().map(|asked| asked.links.len()).sum::<usize>();
            let filters = if filters == 1 { "the filter".to_owned() } else { format!("all {filters} filters") };
            format!("{filters} of {} passed it{reason}", decision.asked.iter().map(who).collect::<Vec<_>>().join(", "))
        }
    };
    text + &failed.unwrap_or_default()
}
