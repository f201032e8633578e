//! `mirrord dump`: what comes to the target's ports, and what is answered, as it went over the wire: heads, bodies, nothing folded
//! together. It looks as `mirrord inspect` does; only how it is shown is another.

use std::io::{self, Write};

use clap::Args;
use mirrord_config::{ClusterSettings, ConfigError, resolve};
use mirrord_protocol::records::{Captured, End, Exchange};

use super::{Format, Inspect};
use crate::{args::ClusterArgs, error::Error, paint::plain, when};

/// Bytes of each body, unless asked for otherwise.
const BODY: usize = 64 << 10;

/// The command line.
#[derive(Args, Debug)]
pub struct Line {
    /// Whose traffic: deployment/NAME, pod/NAME … in a cluster; netns/NAME, pid/N or container/ID on this machine
    /// [env: MIRRORD_IMPERSONATED_TARGET]
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// Only this port of the target; without -p: each port that it listens on now
    #[arg(short, long = "ports", value_name = "PORT", num_args = 1.., value_delimiter = ',', allow_negative_numbers = true)]
    ports: Vec<String>,

    /// Bytes that are shown of each body
    #[arg(long, value_name = "BYTES", default_value_t = BODY)]
    body: usize,

    /// Show credentials (Authorization, cookies, tokens …) instead of masking them
    #[arg(long)]
    show_credentials: bool,
}

impl Line {
    pub fn resolve(self, variable: impl Fn(&str) -> Option<String>) -> Result<Inspect, Error> {
        Ok(Inspect {
            target: resolve::target(self.target, &variable, None)?,
            cluster: ClusterSettings::resolve(self.cluster.flags(), &variable, ClusterSettings::default()).map_err(ConfigError::from)?,
            ports: super::target_ports(&self.ports)?,
            filters: Vec::new(),
            picked: false,
            body: self.body,
            json: false,
            har: None,
            show_credentials: self.show_credentials,
            all: true,
            format: Format::Dump,
        })
    }
}

/// One exchange.
pub fn exchange(out: &mut impl Write, exchange: &Exchange, pod: Option<&str>) -> io::Result<()> {
    let pod = pod.map_or_else(String::new, |pod| format!(", pod {}", plain(pod)));
    writeln!(out, "== {} {} -> {}{pod}", when::time_of_day(exchange.at), exchange.client, exchange.destination)?;
    writeln!(out, "{} {} {}", plain(&exchange.method), plain(&exchange.path), plain(&exchange.protocol))?;
    headers(out, &exchange.request_headers)?;
    body(out, exchange.request_body.as_ref())?;
    let took = when::short(exchange.took.saturating_mul(1000));
    match exchange.status {
        Some(status) => writeln!(out, "-- {status}, {took}")?,
        None => writeln!(out, "-- no response, {took}")?,
    }
    headers(out, &exchange.response_headers)?;
    body(out, exchange.response_body.as_ref())?;
    if exchange.end == End::Upgraded {
        writeln!(out, "(upgraded: what follows on this connection is not shown)")?;
    }
    writeln!(out)
}

fn headers(out: &mut impl Write, headers: &[(String, String)]) -> io::Result<()> {
    headers.iter().try_for_each(|(name, value)| writeln!(out, "{}: {}", plain(name), plain(value)))
}

fn body(out: &mut impl Write, body: Option<&Captured>) -> io::Result<()> {
    let Some(body) = body else { return Ok(()) };
    writeln!(out)?;
    if body.base64 {
        writeln!(out, "(base64) {}", plain(&body.text))?;
    } else {
        body.text.lines().try_for_each(|line| writeln!(out, "{}", plain(line)))?;
    }
    if body.cut { writeln!(out, "(the body goes on; --body shows more)") } else { Ok(()) }
}
