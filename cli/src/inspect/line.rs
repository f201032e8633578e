//! One exchange as a line for people: aligned, coloured where somebody watches, whole in a pipe.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use mirrord_protocol::records::{Captured, End, Exchange, Verdict, Would};

use crate::{
    paint::{Colour, Paint, plain},
    sys, when,
};

/// Lines that somebody who watches is shown in a tick; failures have as many places of their own.
const SHOWN: u32 = 15;
/// Columns before the request.
const BEFORE: usize = 12 + 2 + 21 + 2 + 6 + 2 + 8 + 2 + 8 + 2 + 8 + 2 + 5 + 2;
/// A request is cut to no less than this.
const LEAST: usize = 24;

/// Prints exchanges.
pub struct Lines {
    pub paint: Paint,
    /// There are filters whose verdict is shown.
    has_filters: bool,
    has_head: bool,
    /// Each line says which pod it is of.
    pub pods: bool,
}

/// How much of what passes can be read.
pub struct Pace {
    shown: u32,
    failures: u32,
    hidden: u64,
}

impl Lines {
    pub fn new(paint: Paint, has_filters: bool) -> Self {
        Self { paint, has_filters, has_head: false, pods: false }
    }

    pub fn exchange(&mut self, out: &mut impl Write, exchange: &Exchange, pod: &str) -> io::Result<()> {
        if !self.has_head {
            self.has_head = true;
            self.head(out)?;
        }
        let status = status(exchange);
        let request = format!("{} {}", plain(&exchange.method), plain(&exchange.path));
        let remark = self.remark(exchange);
        let request = self.fit(&request, &remark);
        let verdict = if self.has_filters { format!("{}  ", self.verdict(exchange.would.as_ref())) } else { String::new() };
        if self.pods {
            write!(out, "{}  ", self.paint.text(Colour::Cyan, &format!("{:24}", plain(pod))))?;
        }
        writeln!(
            out,
            "{}  {}  {}  {:>8}  {:>8}  {:>8}  {:<5}  {verdict}{request}{}",
            self.paint.text(Colour::Dim, &when::time_of_day(exchange.at)),
            self.paint.text(Colour::Dim, &format!("{:21}", exchange.client)),
            self.paint.text(colour(exchange), &format!("{status:>6}")),
            when::short(exchange.took.saturating_mul(1000)),
            when::bytes(exchange.request_bytes),
            when::bytes(exchange.response_bytes),
            protocol(exchange),
            self.paint.text(Colour::Magenta, &remark),
        )?;
        self.body(out, '>', exchange.request_body.as_ref())?;
        self.body(out, '<', exchange.response_body.as_ref())
    }

    pub fn hidden(&self, out: &mut impl Write, hidden: u64) -> io::Result<()> {
        let text = format!("{:12}  … {} more requests, too fast to read (--all shows them)", "", when::count(hidden));
        writeln!(out, "{}", self.paint.text(Colour::Dim, &text))
    }

    fn head(&self, out: &mut impl Write) -> io::Result<()> {
        let verdict = if self.has_filters { format!("{:<8}  ", "VERDICT") } else { String::new() };
        let pod = if self.pods { format!("{:24}  ", "POD") } else { String::new() };
        let head = format!(
            "{pod}{:12}  {:21}  {:>6}  {:>8}  {:>8}  {:>8}  {:<5}  {verdict}REQUEST",
            "TIME", "CLIENT", "STATUS", "LATENCY", "UP", "DOWN", "PROTO"
        );
        writeln!(out, "{}", self.paint.text(Colour::Dim, &head))
    }

    fn verdict(&self, would: Option<&Would>) -> Cow<'_, str> {
        let (text, colour) = match would {
            Some(Would { fault: Some(_), .. }) => ("failed", Colour::Red),
            Some(Would { undecided: true, .. }) => ("?", Colour::Yellow),
            Some(would) if would.verdict == Verdict::Pass => ("pass", Colour::Dim),
            Some(would) => (would.verdict.as_str(), Colour::Magenta),
            None => ("", Colour::Dim),
        };
        Cow::Owned(self.paint.text(colour, &format!("{text:<8}")).into_owned())
    }

    /// What is out of the ordinary about it.
    fn remark(&self, exchange: &Exchange) -> String {
        let mut remark = String::new();
        match exchange.verdict {
            Verdict::Pass if exchange.reason.is_none() => {}
            Verdict::Pass => remark.push_str("  ← the pod"),
            verdict => {
                remark.push_str(&format!("  ← {}", verdict.as_str()));
                if let Some(session) = exchange.session {
                    remark.push_str(&format!(", session {session}"));
                }
                if let Some(filter) = &exchange.filter {
                    remark.push_str(&format!(", {}", plain(filter)));
                }
            }
        }
        let reason = exchange.would.as_ref().and_then(|would| would.reason.as_ref()).or(exchange.reason.as_ref());
        if let Some(reason) = reason {
            let separator = if remark.is_empty() { "  ← " } else { ": " };
            remark.push_str(&format!("{separator}{}", plain(reason)));
        }
        if exchange.end == End::Upgraded {
            remark.push_str("  (upgraded)");
        }
        remark
    }

    fn fit<'a>(&self, request: &'a str, remark: &str) -> Cow<'a, str> {
        fit(self.paint, request, BEFORE + remark.chars().count() + if self.has_filters { 10 } else { 0 } + if self.pods { 26 } else { 0 })
    }

    fn body(&self, out: &mut impl Write, side: char, body: Option<&Captured>) -> io::Result<()> {
        let Some(body) = body else { return Ok(()) };
        let mut text = if body.base64 { format!("(base64) {}", body.text) } else { body.text.clone() };
        if body.cut {
            text.push('…');
        }
        for line in text.lines() {
            writeln!(out, "{:14}{}", "", self.paint.text(Colour::Dim, &format!("{side} {}", plain(line))))?;
        }
        Ok(())
    }
}

impl Pace {
    pub fn new() -> Self {
        Self { shown: 0, failures: 0, hidden: 0 }
    }

    /// Whether a line for it can be read.
    pub fn admits(&mut self, exchange: &Exchange) -> bool {
        let places = if colour(exchange) == Colour::Red { &mut self.failures } else { &mut self.shown };
        *places += 1;
        let admitted = *places <= SHOWN;
        self.hidden += u64::from(!admitted);
        admitted
    }

    /// How many were hidden since the last tick.
    pub fn next_tick(&mut self) -> Option<u64> {
        (self.shown, self.failures) = (0, 0);
        Some(std::mem::take(&mut self.hidden)).filter(|hidden| *hidden > 0)
    }
}

fn status(exchange: &Exchange) -> String {
    match (exchange.status, exchange.grpc_status) {
        (None, _) => "cut".into(),
        (Some(status), Some(grpc)) => format!("{status}/{grpc}"),
        (Some(status), None) if exchange.end == End::Cut => format!("{status}!"),
        (Some(status), None) => status.to_string(),
    }
}

fn colour(exchange: &Exchange) -> Colour {
    match (exchange.status, exchange.grpc_status) {
        _ if exchange.end == End::Cut => Colour::Red,
        (None | Some(500..), _) | (_, Some(1..)) => Colour::Red,
        (Some(400..500), _) => Colour::Yellow,
        (Some(300..400), _) => Colour::Cyan,
        _ => Colour::Green,
    }
}

fn protocol(exchange: &Exchange) -> &'static str {
    match exchange.protocol.as_str() {
        _ if exchange.grpc_status.is_some() => "grpc",
        "HTTP/2" => "h2",
        "HTTP/1.0" => "h1.0",
        _ => "h1",
    }
}

/// A request that does not fit the terminal's line, of which so many columns are taken, is cut in its middle, where paths differ least.
pub fn fit(paint: Paint, request: &str, taken: usize) -> Cow<'_, str> {
    let Some(columns) = sys::columns().filter(|_| paint.watched) else { return Cow::Borrowed(request) };
    shorten(request, columns.saturating_sub(taken).max(LEAST))
}

fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= most {
        return Cow::Borrowed(text);
    }
    let (head, tail) = (most / 2, most - most / 2 - 1);
    let part = |range: std::ops::Range<usize>| text.chars().skip(range.start).take(range.len()).collect::<String>();
    Cow::Owned(format!("{}…{}", part(0..head), part(count - tail..count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(exchange: &Exchange, has_filters: bool) -> Vec<String> {
        let mut out = Vec::new();
        Lines::new(Paint::for_stdout(), has_filters).exchange(&mut out, exchange, "").unwrap();
        String::from_utf8(out).unwrap().lines().skip(1).map(|line| line[12..].to_owned()).collect()
    }

    fn exchange() -> Exchange {
        Exchange {
            client: "10.0.0.1:5".into(),
            protocol: "HTTP/1.1".into(),
            method: "GET".into(),
            path: "/a\x1b".into(),
            status: Some(200),
            response_bytes: 1240,
            took: 1200,
            end: End::Complete,
            ..Exchange::default()
        }
    }

    #[test]
    fn a_line_is_aligned_and_harmless() {
        let line = "  10.0.0.1:5                200   1.20 ms       0 B   1.24 kB  h1     GET /a\u{fffd}";
        assert_eq!(shown(&exchange(), false), [line]);
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_said() {
        let would = Would { verdict: Verdict::Steal, reason: Some("why".into()), ..Would::default() };
        let all = Exchange {
            grpc_status: Some(5),
            would: Some(would),
            request_body: Some(Captured { text: "x\ny".into(), base64: false, cut: true }),
            ..exchange()
        };
        let lines = shown(&all, true);
        assert!(lines[0].ends_with(" 200/5   1.20 ms       0 B   1.24 kB  grpc   steal     GET /a\u{fffd}  ← why"), "{lines:?}");
        assert_eq!(lines[1..], ["  > x", "  > y…"]);
        let cut = Exchange { status: None, end: End::Cut, verdict: Verdict::Steal, session: Some(3), ..exchange() };
        assert!(shown(&cut, false)[0].contains("   cut ") && shown(&cut, false)[0].ends_with("  ← steal, session 3"));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_failures_are_seen() {
        let mut pace = Pace::new();
        let admitted = (0..1000).filter(|_| pace.admits(&exchange())).count();
        assert!(pace.admits(&Exchange { status: Some(500), ..exchange() }));
        assert_eq!((admitted as u32, pace.next_tick(), pace.next_tick()), (SHOWN, Some(1000 - u64::from(SHOWN)), None));
    }

    #[test]
    fn a_long_request_is_cut_in_its_middle() {
        assert_eq!(shorten("GET /aéc", 8), "GET /aéc");
        assert_eq!(shorten("GET /abcdefgh", 8), "GET …fgh");
    }
}
