//! A test that hangs is one failed test and not the end of the whole run: when one takes longer than its limit, the test
//! process says which, what it and all others wait for, which panics came before, and exits as a failed one.
//!
//! A test is watched from the moment it has its share of the machine ([`crate::machine::Share`]) until its thread ends; the
//! time that it waits for others to give theirs back is not its own.

use std::{
    cell::RefCell,
    fs,
    io::{self, Write},
    panic::{self, Location},
    process,
    sync::{Mutex, MutexGuard, Once, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    machine,
    processes::{self, Process},
};

/// How long a test may take; [`allow`] gives it more.
pub const LIMIT: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Panics that are kept for the report: the first ones tell why a test hangs.
const MAX_PANICS: usize = 20;
/// How long removing what this process has started may take.
const CLEANING: Duration = Duration::from_secs(30);

static STATE: Mutex<State> = Mutex::new(State { last_key: 0, tests: Vec::new(), waits: Vec::new(), panics: Vec::new() });

thread_local! {
    static TEST: RefCell<Option<Entry>> = const { RefCell::new(None) };
}

struct State {
    last_key: u64,
    tests: Vec<Noted>,
    waits: Vec<Noted>,
    panics: Vec<String>,
}

/// A test, or something that is waited for.
#[derive(Debug)]
struct Noted {
    key: u64,
    thread: String,
    what: String,
    since: Instant,
    limit: Duration,
}

/// A line of the state, which goes with this.
struct Entry {
    key: u64,
    list: fn(&mut State) -> &mut Vec<Noted>,
}

/// Something is waited for as long as this lives.
pub struct Waiting {
    _entry: Entry,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn new(list: fn(&mut State) -> &mut Vec<Noted>, what: String) -> Self {
        let thread = thread::current().name().unwrap_or("a thread").to_owned();
        let mut state = state();
        state.last_key += 1;
        let key = state.last_key;
        list(&mut state).push(Noted { key, thread, what, since: Instant::now(), limit: LIMIT });
        Self { key, list }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        (self.list)(&mut state()).retain(|noted| noted.key != self.key);
    }
}

/// The calling thread is a test's, whose time begins now (again, if it was watched before).
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let mut state = state();
            if state.panics.len() < MAX_PANICS {
                state.panics.push(format!("{}: {panic}", thread::current().name().unwrap_or("a thread")));
            }
            drop(state);
            before(panic);
        }));
        thread::Builder::new().name("watchdog".into()).spawn(look).unwrap();
    });
    TEST.set(Some(Entry::new(|state| &mut state.tests, String::new())));
}

/// The calling thread's test waits for others: that is not its time.
pub fn pause() {
    TEST.set(None);
}

/// The calling thread's test, whose pod stands, may take this long in all.
pub fn allow(limit: Duration) {
    TEST.with_borrow(|test| {
        let key = test.as_ref().map(|test| test.key);
        state().tests.iter_mut().filter(|noted| Some(noted.key) == key).for_each(|noted| noted.limit = limit);
    });
}

/// Notes what is waited for, so that the report can tell.
#[track_caller]
pub fn waiting(what: impl Into<String>) -> Waiting {
    let what = format!("{} ({})", what.into(), Location::caller());
    Waiting { _entry: Entry::new(|state| &mut state.waits, what) }
}

fn look() {
    loop {
        thread::sleep(LOOK_EVERY);
        let report = {
            let state = state();
            let Some(late) = state.tests.iter().find(|test| test.since.elapsed() > test.limit) else { continue };
            report(late, &state)
        };
        // Not by print!, which the test harness would keep to itself.
        let _ = io::stderr().write_all(report.as_bytes());
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            machine::remove_own();
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(CLEANING);
        // As the harness would have said it: whoever counts tests counts this one.
        let _ = io::stdout().write_all(b"\ntest result: FAILED. 0 passed; 1 failed; by the watchdog, see above\n");
        process::exit(101);
    }
}

fn report(late: &Noted, state: &State) -> String {
    let mut text = format!("\nwatchdog: test {} has taken {:?}; its limit is {:?}\n", late.thread, late.since.elapsed(), late.limit);
    for test in &state.tests {
        text += &format!("running for {:?}: {}\n", test.since.elapsed(), test.thread);
    }
    for wait in &state.waits {
        text += &format!("{} waits since {:?} for {}\n", wait.thread, wait.since.elapsed(), wait.what);
    }
    for panic in &state.panics {
        text += &format!("panicked before: {panic}\n");
    }
    text + &threads(process::id()) + &children()
}

/// All threads of a process, and where in the kernel each is.
fn threads(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: &fs::DirEntry| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, stat) = (read("comm"), read("stat"));
        let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| rest.get(..1).unwrap_or("?"));
        format!("  thread {} {} {state} {}\n", task.file_name().display(), name.trim(), read("wchan"))
    };
    format!("threads of {pid}:\n{}", tasks.map(|task| of(&task)).collect::<String>())
}

/// What this process has started.
fn children() -> String {
    let all = processes::tree(Process(process::id()));
    let line = |one: &Process| format!("  process {} {}\n", one.0, one.arguments().join(" "));
    all.iter().skip(1).map(line).collect()
}
