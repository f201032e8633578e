//! The one static of the layer: the tables of what this process has, and the lines to the intproxy. Made when the library is
//! loaded, with what the program before exec has handed on; put right in a child of fork.

use std::{
    cell::{Cell, RefCell},
    sync::{
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::Relaxed},
        Mutex, MutexGuard, OnceLock, PoisonError,
    },
    time::Duration,
};

use mirrord_protocol::layer::{Listener, Message, Reply, ADDRESS_VARIABLE};

use crate::{
    hostname::HostName,
    line::{Address, Line, Lost, Turn},
    names,
    sys::{self, Identity},
    tables::{Bound, Tables, Told},
};

/// How long a port may take to be opened or closed, and any other question to be answered.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);

static STATE: OnceLock<State> = OnceLock::new();

thread_local! {
    /// Whether this thread is in the layer: what it calls then is the layer's own.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// The tables, from before a fork until after it.
    static FORKING: RefCell<Option<MutexGuard<'static, Tables>>> = const { RefCell::new(None) };
}

/// See the module.
pub struct State {
    address: Address,
    pid: AtomicI32,
    /// Length of `sockets`: most calls have nothing to do with us, and see it here.
    socket_count: AtomicUsize,
    /// Whether children may have this process's listeners.
    has_forked: AtomicBool,
    tables: Mutex<Tables>,
    changes: Line,
    questions: Line,
    /// What the program is to take for the name of its machine.
    pub hostname: Option<HostName>,
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
        has_forked: AtomicBool::new(false),
        tables: Mutex::default(),
        changes: Line::new(CHANGE_PATIENCE),
        questions: Line::new(QUESTION_PATIENCE),
        hostname: HostName::from_environment(),
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

    /// Whether other processes may have listeners of this one that they have not told of.
    pub fn has_forked(&self) -> bool {
        self.has_forked.load(Relaxed)
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
        self.socket_count.store(tables.sockets.len(), Relaxed);
        result
    }

    /// Notes a socket that the program has bound.
    pub fn add(&self, identity: Identity, listener: Listener, told: Told) {
        if self.tables(|tables| tables.are_many()) {
            let held = sys::descriptors().into_iter().filter_map(sys::socket).collect();
            self.tables(|tables| tables.keep(&held));
        }
        self.tables(|tables| {
            tables.sockets.retain(|socket| socket.identity != identity);
            tables.sockets.push(Bound { identity, listener, told });
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

    /// A listener that came from another process (SCM_RIGHTS) and has accepted something of the session's: this process has it too.
    pub fn adopt_one(&self, fd: i32) {
        let (Some(identity), Some(bound)) = (sys::socket(fd), sys::local(fd)) else { return };
        if self.tables(|tables| tables.sockets.iter().any(|socket| socket.identity == identity)) {
            return;
        }
        if let Ok(Reply::Adopted(known)) = self.change(&Message::Adopt { bound: vec![bound] }) {
            known.into_iter().take(1).for_each(|listener| self.add(identity, listener, Told::Subscribed));
        }
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
                    self.add(*identity, *listener, Told::Subscribed);
                }
            }
        }
        for (fd, ..) in sockets {
            names::learn(self, fd);
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
    if let (Some(state), Some(_tables)) = (STATE.get(), FORKING.with(|forking| forking.borrow_mut().take())) {
        state.has_forked.store(true, Relaxed);
    }
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
