//! `mirrord filter push`: finds the user's running session and hands it a module. The session's own process uploads it to the agent,
//! which checks it before any request meets it.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::Path,
    time::Duration,
};

use mirrord_intproxy::push::{Ask, LinkName, NAME, Told, filter_name};
use mirrord_protocol::limits::MAX_CONTROL_BODY;

use super::{Failure, args::Push, module};
use crate::{console, sys};

/// Compiling a large filter on a busy machine is what takes time.
const PATIENCE: Duration = Duration::from_secs(200);
/// Most sessions that are looked at.
const MOST: usize = 64;

/// A running session of this user.
pub struct Running {
    pub pid: u32,
    user: u32,
    command: String,
    filters: Vec<LinkName>,
}

pub fn push(push: &Push) -> Result<(), Failure> {
    if push.list {
        let all = running();
        all.iter().for_each(|one| console::out(&one.describe()));
        return if all.is_empty() { Err(none()) } else { Ok(()) };
    }
    let path = module::path(&push.which)?;
    let config = push.which.config.as_deref().map(module::config).transpose()?;
    let session = choose(push.session)?;
    let link = session.link(&path, push.link)?;
    send(&session, link, &path, config)?;
    console::out(&session.uses_new(link));
    Ok(())
}

fn none() -> Failure {
    Failure::new("no session of yours runs here", "start one with `mirrord exec --filter …`; one that root started needs sudo here too")
}

/// The session that the user means.
pub fn choose(pid: Option<u32>) -> Result<Running, Failure> {
    let mut all = running();
    if let Some(pid) = pid {
        let found = all.into_iter().find(|one| one.pid == pid);
        return found.ok_or_else(|| {
            Failure::new(format!("no session of yours has the process id {pid}"), "`mirrord filter push --list` shows them")
        });
    }
    match all.len() {
        0 => Err(none()),
        1 => Ok(all.remove(0)),
        _ => {
            let list: Vec<_> = all.iter().map(Running::describe).collect();
            Err(Failure::usage("several sessions of yours run here", format!("choose one by --session PID: {}", list.join(" | "))))
        }
    }
}

impl Running {
    /// That a push has come to its good end.
    pub fn uses_new(&self, link: usize) -> String {
        let name = self.filters.get(link).map_or("filter", |filter| filter.name.as_str());
        console::plain(&format!("session {} ({}) uses the new {name}", self.pid, self.command))
    }

    fn describe(&self) -> String {
        let filters: Vec<_> = self.filters.iter().map(|filter| filter.name.as_str()).collect();
        let filters = if filters.is_empty() { "no filters".into() } else { filters.join(", ") };
        console::plain(&format!("{} {}: {filters}", self.pid, self.command))
    }

    /// Which link a module replaces, from 0.
    pub fn link(&self, path: &Path, number: Option<u16>) -> Result<usize, Failure> {
        const HELP: &str = "name its place in the chain: --link N, from 1; `mirrord filter push --list` shows the chain";
        let name = filter_name(path);
        let modules = || self.filters.iter().enumerate().filter(|(_, filter)| filter.is_wasm).map(|(index, _)| index);
        if let Some(number) = number {
            let index = usize::from(number) - 1;
            return modules().find(|one| *one == index).ok_or_else(|| {
                Failure::usage(
                    format!("the session's chain has no module in place {number}: {}", self.describe()),
                    "see `mirrord filter push --list`",
                )
            });
        }
        let same: Vec<_> = modules().filter(|index| self.filters[*index].name == name).collect();
        match (same.as_slice(), modules().collect::<Vec<_>>().as_slice()) {
            ([index], _) | ([], [index]) => Ok(*index),
            ([], []) => Err(Failure::new("the session has no filter to replace", "start it with --filter")),
            ([], _) => Err(Failure::usage(format!("none of the session's filters is called {name}: {}", self.describe()), HELP)),
            _ => Err(Failure::usage(format!("several of the session's filters are called {name}"), HELP)),
        }
    }
}

/// Hands the module over; returns once each request that comes meets it.
pub fn send(session: &Running, link: usize, path: &Path, config: Option<String>) -> Result<(), Failure> {
    let module = module::read(path)?;
    let ask = Ask::Push { link, name: filter_name(path), config, size: module.len() };
    let gone = |error: io::Error| Failure::new(format!("session {} does not answer: {error}", session.pid), "see whether it still runs");
    match talk(session.user, session.pid, &ask, &module).map_err(gone)? {
        Told::Done => Ok(()),
        Told::Failed(reply) => Err(Failure::new(
            format!("the session goes on with the filter that it has: {}", console::plain(&reply.error)),
            if reply.help.is_empty() { "correct the filter and push again".into() } else { reply.help },
        )),
        Told::Session { .. } => Err(gone(io::Error::other("it misunderstood"))),
    }
}

/// The sessions that this user may reach, oldest process first.
fn running() -> Vec<Running> {
    let own = sys::identity().effective_user;
    // Abstract names are listed with an @ in front.
    let list = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names = list.lines().filter_map(|line| line.rsplit_once('@')?.1.strip_prefix(NAME)?.split_once('/'));
    let parse = |(user, pid): (&str, &str)| Some((user.parse().ok()?, pid.parse().ok()?));
    let mut places: Vec<(u32, u32)> = names.filter_map(parse).filter(|(user, _)| *user == own || own == 0).collect();
    places.sort_unstable_by_key(|(_, pid)| *pid);
    // Each connection to a socket is a line of its own.
    places.dedup();
    let ask = |(user, pid)| match talk(user, pid, &Ask::Describe, &[]) {
        Ok(Told::Session { command, filters }) => Some(Running { pid, user, command, filters }),
        _ => None,
    };
    places.into_iter().take(MOST).filter_map(ask).collect()
}

fn talk(user: u32, pid: u32, ask: &Ask, module: &[u8]) -> io::Result<Told> {
    let address = SocketAddr::from_abstract_name(mirrord_intproxy::push::name(user, pid))?;
    let mut stream = UnixStream::connect_addr(&address)?;
    // Anybody can take such a name, and would get the module.
    if sys::peer_user(&stream)? != user {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.write_all(module)?;
    let mut told = Vec::new();
    BufReader::new(stream.take(MAX_CONTROL_BODY as u64)).read_until(b'\n', &mut told)?;
    serde_json::from_slice(&told).map_err(io::Error::from)
}
