//! What this process has: its TCP sockets that were bound to a port, whom its accepted connections are from, and the lines to
//! the intproxy. One static for the whole layer, made when the library is loaded, put right in a child of fork.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::Relaxed},
        Mutex, MutexGuard, OnceLock, PoisonError,
    },
    time::Duration,
};

use mirrord_protocol::layer::{Listener, Message, Origin, Reply, ADDRESS_VARIABLE};

use crate::{
    line::{Address, Line, Lost, Turn},
    sys::{self, Identity},
};

/// How long a port may take to be opened or closed, and any other question to be answered.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);
/// Most connections whose origin is remembered; the intproxy is asked again for older ones.
const MAX_ORIGINS: usize = 4096;
/// From here on, sockets that were closed behind our back are looked for.
const MANY_SOCKETS: usize = 256;

static STATE: OnceLock<State> = OnceLock::new();

thread_local! {
    /// Whether this thread is in the layer: what it calls then is the layer's own.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// The tables, from before a fork until after it.
    static FORKING: RefCell<Option<MutexGuard<'static, Tables>>> = const { RefCell::new(None) };
}

/// What a socket is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Bound, not listening.
    Nothing,
    /// Listens, but its port's traffic stays away.
    Local,
    /// Listens, and is sent the port's traffic.
    Subscribed,
}

/// A TCP socket that the program has bound to a port of its choice.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Which socket, whatever its descriptors.
    pub identity: Identity,
    /// What was asked for, and what the kernel gave.
    pub listener: Listener,
    /// What the intproxy knows of it.
    pub told: Told,
}

/// All that changes.
#[derive(Default)]
pub struct Tables {
    /// See [`Bound`].
    pub sockets: Vec<Bound>,
    /// Listeners of other processes of the session that this one has connected to, under the address that it asked for.
    pub elsewhere: VecDeque<Listener>,
    origins: HashMap<(SocketAddr, SocketAddr), Option<Origin>>,
    origins_by_age: VecDeque<(SocketAddr, SocketAddr)>,
    changes_turn: Turn,
    questions_turn: Turn,
}

impl Tables {
    /// What is known of the connection between two addresses.
    pub fn origin(&self, local: SocketAddr, peer: SocketAddr) -> Option<Option<Origin>> {
        self.origins.get(&(local, peer)).copied()
    }

    /// Remembers whom a connection is from.
    pub fn remember(&mut self, local: SocketAddr, peer: SocketAddr, origin: Option<Origin>) {
        if self.origins.insert((local, peer), origin).is_none() {
            self.origins_by_age.push_back((local, peer));
        }
        if self.origins_by_age.len() > MAX_ORIGINS {
            if let Some(oldest) = self.origins_by_age.pop_front() {
                self.origins.remove(&oldest);
            }
        }
    }

    /// Whether traffic of the session arrives at a port of this machine.
    pub fn is_subscribed(&self, port: u16) -> bool {
        self.sockets.iter().any(|socket| socket.told == Told::Subscribed && socket.listener.bound.port() == port)
    }
}

/// See the module.
pub struct State {
    address: Address,
    pid: AtomicI32,
    /// Length of `sockets`; whether `elsewhere` or `origins` hold anything: most calls have nothing to do with us, and see it here.
    socket_count: AtomicUsize,
    has_names: AtomicBool,
    tables: Mutex<Tables>,
    changes: Line,
    questions: Line,
    stderr: Option<Identity>,
    has_complained: AtomicBool,
}

/// A stay in the layer; at its end errno is what it was.
struct Inside(sys::Errno);

impl Inside {
    fn enter() -> Option<Inside> {
        (!INSIDE.replace(true)).then(|| Inside(sys::errno()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        sys::set_errno(self.0);
        INSIDE.set(false);
    }
}

/// Starts the layer, if the variable asks for it. An address that is none ends the process: it would run unhooked unnoticed.
pub fn start() {
    let Some(value) = std::env::var_os(ADDRESS_VARIABLE) else { return };
    let address = value.to_str().and_then(|text| text.split_once(',')).filter(|(name, token)| is_word(name) && is_word(token));
    let (Some((name, token)), true) = (address, sys::at_fork(before_fork, after_fork_in_parent, after_fork_in_child)) else {
        sys::write(
            2,
            format!("mirrord: the layer cannot start: {ADDRESS_VARIABLE} is not NAME,TOKEN; start the program with `mirrord exec`\n")
                .as_bytes(),
        );
        sys::exit(255);
    };
    let state = State {
        address: Address { name: name.into(), token: token.into() },
        pid: AtomicI32::new(sys::pid()),
        socket_count: AtomicUsize::new(0),
        has_names: AtomicBool::new(false),
        tables: Mutex::default(),
        changes: Line::new(CHANGE_PATIENCE),
        questions: Line::new(QUESTION_PATIENCE),
        stderr: sys::identity(2),
        has_complained: AtomicBool::new(false),
    };
    if STATE.set(state).is_ok() {
        with(State::adopt);
    }
}

fn is_word(text: &str) -> bool {
    (1..100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The state, if the layer is at work at all. For cheap looks; [`with`] for all else.
pub fn get() -> Option<&'static State> {
    STATE.get()
}

/// Does the layer's work. `None`, and nothing is done, if the layer is off, if this thread is already in it (a signal's handler
/// among others), or in a child that shares or has copied this memory behind the C library's back (vfork, clone).
pub fn with<T>(work: impl FnOnce(&'static State) -> T) -> Option<T> {
    let state = STATE.get()?;
    let _inside = Inside::enter()?;
    (sys::pid() == state.pid.load(Relaxed)).then(|| work(state))
}

impl State {
    /// Whether the process has bound any TCP socket to a port.
    pub fn has_sockets(&self) -> bool {
        self.socket_count.load(Relaxed) > 0
    }

    /// Whether an address that the kernel tells may have to be told differently.
    pub fn has_names(&self) -> bool {
        self.has_sockets() || self.has_names.load(Relaxed)
    }

    /// Whether a descriptor is one of ours.
    pub fn owns(&self, fd: i32) -> bool {
        self.changes.is_at(fd) || self.questions.is_at(fd)
    }

    /// Our own descriptors that are open.
    pub fn descriptors(&self) -> Vec<i32> {
        [&self.changes, &self.questions].into_iter().filter_map(Line::descriptor).collect()
    }

    /// Leaves a descriptor to the program.
    pub fn make_way(&self, fd: i32) {
        for line in [&self.changes, &self.questions].into_iter().filter(|line| line.is_at(fd)) {
            line.make_way();
        }
    }

    /// Reads or changes the tables. Nothing in `work` may ask or wait.
    pub fn tables<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut tables);
        self.note_sizes(&tables);
        result
    }

    fn note_sizes(&self, tables: &Tables) {
        self.socket_count.store(tables.sockets.len(), Relaxed);
        self.has_names.store(!tables.origins.is_empty() || !tables.elsewhere.is_empty(), Relaxed);
    }

    /// Notes a socket that the program has bound.
    pub fn add(&self, identity: Identity, listener: Listener) {
        if self.socket_count.load(Relaxed) >= MANY_SOCKETS {
            let held: Vec<_> = sys::descriptors().into_iter().filter_map(sys::socket).collect();
            self.tables(|tables| tables.sockets.retain(|socket| held.contains(&socket.identity)));
        }
        self.tables(|tables| {
            tables.sockets.retain(|socket| socket.identity != identity);
            tables.sockets.push(Bound { identity, listener, told: Told::Nothing });
        });
    }

    /// Tells of a change, and waits until it has taken effect.
    pub fn change(&self, message: &Message) -> Result<Reply, Lost> {
        let turn = self.tables(|tables| tables.changes_turn.clone());
        let answer = self.changes.ask(&turn, &self.address, &|| self.listening(), message);
        answer.inspect_err(|lost| self.complain(lost))
    }

    /// Asks a question that only reads.
    pub fn question(&self, message: &Message) -> Result<Reply, Lost> {
        let turn = self.tables(|tables| tables.questions_turn.clone());
        let answer = self.questions.ask(&turn, &self.address, &Vec::new, message);
        answer.inspect_err(|lost| self.complain(lost))
    }

    // What a new line has to know: the end of the old one took it back.
    fn listening(&self) -> Vec<Message> {
        let told = |socket: &&Bound| socket.told != Told::Nothing;
        self.tables(|tables| tables.sockets.iter().filter(told).map(|socket| Message::Listen(socket.listener)).collect())
    }

    // Once, and only to what was standard error from the start: a daemon may have something else there by now.
    fn complain(&self, lost: &Lost) {
        if self.has_complained.swap(true, Relaxed) || self.stderr.is_none() || self.stderr != sys::identity(2) {
            return;
        }
        let why = match lost {
            Lost::Gone => "the session's proxy does not answer",
            Lost::Refused(why) => why,
        };
        sys::write(2, format!("mirrord: {why}; the program goes on without the target's traffic\n").as_bytes());
    }

    // After exec: listeners and connections that the program before us has handed on.
    fn adopt(&'static self) {
        let sockets: Vec<_> = sys::descriptors().into_iter().filter_map(|fd| Some((fd, sys::socket(fd)?, sys::local(fd)?))).collect();
        let listeners: Vec<_> = sockets.iter().filter(|(fd, ..)| sys::listens(*fd)).collect();
        if !listeners.is_empty() {
            let bound = listeners.iter().map(|(.., local)| *local).collect();
            let Ok(Reply::Adopted(known)) = self.change(&Message::Adopt { bound }) else { return };
            for (_, identity, local) in listeners {
                if let Some(listener) = known.iter().find(|listener| listener.bound == *local) {
                    self.add(*identity, *listener);
                    self.tables(|tables| tables.sockets.last_mut().map(|socket| socket.told = Told::Subscribed));
                }
            }
        }
        for (fd, ..) in sockets {
            crate::names::learn(self, fd);
        }
    }
}

extern "C" fn before_fork() {
    let Some(state) = STATE.get() else { return };
    // A handler that forks while its own thread is in the layer: the tables may be locked by this very thread.
    if !INSIDE.get() {
        let tables = state.tables.lock().unwrap_or_else(PoisonError::into_inner);
        FORKING.with(|forking| *forking.borrow_mut() = Some(tables));
    }
}

extern "C" fn after_fork_in_parent() {
    FORKING.with(|forking| forking.borrow_mut().take());
}

// The child has a copy of all, and shares the parent's lines, which it must neither use nor keep open.
extern "C" fn after_fork_in_child() {
    let (Some(state), Some(mut tables)) = (STATE.get(), FORKING.with(|forking| forking.borrow_mut().take())) else { return };
    let Some(_inside) = Inside::enter() else { return };
    tables.changes_turn = Turn::default();
    tables.questions_turn = Turn::default();
    let first = tables.sockets.iter().find(|socket| socket.told != Told::Nothing).map(|socket| Message::Listen(socket.listener));
    drop(tables);
    state.changes.close();
    state.questions.close();
    state.pid.store(sys::pid(), Relaxed);
    if let Some(message) = first {
        // Opening the line tells of all of them; the question itself is one more of the same.
        drop(state.change(&message));
    }
}
