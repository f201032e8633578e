//! The dead man's switch: the redirect rules match only while the kernel's `recent` lists of this agent hold an entry that is
//! younger than a second. A thread renews it, and each time asks the workers first: if the agent dies, is stopped, gets no
//! processor time, or only one of its workers is stuck, new connections go to the pod.

use crate::netns::{NetNs, NetNsError};
use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A quarter of the lease's second: three renewals may be late.
const PERIOD: Duration = Duration::from_millis(250);
/// Whoever is later than this, a worker with its answer or this thread with waking up, is not well: what is redirected would wait.
const LATE: Duration = Duration::from_millis(350);
/// While answers are waited for, how often it is looked whether they are still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The lists of one agent: (list's name, the entry to keep fresh).
#[derive(Clone, Debug)]
pub struct Lists(pub Vec<(String, &'static str)>);

impl Lists {
    /// Where the kernel shows a list, in the namespace of whichever thread opens it.
    pub fn path(name: &str) -> PathBuf {
        format!("/proc/thread-self/net/xt_recent/{name}").into()
    }

    /// Renews the entries. A list exists only while a rule refers to it: nothing to renew then.
    pub fn renew(&self) -> io::Result<()> {
        for (name, entry) in &self.0 {
            match fs::write(Self::path(name), format!("+{entry}")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// For an agent that cannot take more connections: while somebody pulls it, the lease is not renewed, and within a second
/// newcomers reach the pod.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<AtomicBool>);

impl Brake {
    /// Holds for one renewal; to be pulled again as long as it is needed.
    pub fn pull(&self) {
        self.0.store(true, Relaxed);
    }

    fn was_pulled(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

/// Those without whom connections would not be served: each is asked before the lease is renewed.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Mutex<Vec<Ask>>>);

/// Asks one of them, who sends an answer as soon as it gets to it. Dropped without one: it has ended, and takes no connections.
type Ask = Box<dyn Fn(Sender<()>) + Send>;

impl Pulse {
    /// One more who is asked.
    pub fn watch(&self, ask: impl Fn(Sender<()>) + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(ask));
    }

    /// Asks all; what comes until the channel closes are their answers.
    fn ask(&self) -> Receiver<()> {
        let (answer, answers) = mpsc::channel(); // worker --I am here--> lease
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|ask| ask(answer.clone()));
        answers
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pulse")
    }
}

/// Keeps the lists fresh until dropped.
#[derive(Debug)]
pub struct Lease {
    stop: Option<Sender<()>>, // owner --dropped: stop--> thread
    thread: Option<JoinHandle<Option<()>>>,
}

impl Lease {
    pub fn start(ns: &NetNs, lists: Lists, brake: Brake, pulse: Pulse) -> Result<Self, NetNsError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = ns.spawn("lease", move || keep(&stopped, &lists, &brake, &pulse))?;
        Ok(Lease { stop: Some(stop), thread: Some(thread) })
    }
}

fn keep(stopped: &Receiver<()>, lists: &Lists, brake: &Brake, pulse: &Pulse) {
    let mut was_well = true;
    loop {
        let began = Instant::now();
        let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) else { return };
        let slept = began.elapsed();
        let asked = Instant::now();
        if !wait_for_all(&pulse.ask(), stopped) {
            return;
        }
        let is_well = is_well(slept, asked.elapsed());
        if was_well && !is_well {
            tracing::warn!("the agent gets too little processor time, or a worker was stuck: new connections go to the pod meanwhile");
        }
        was_well = is_well;
        if brake.was_pulled() || !is_well {
            continue;
        }
        if let Err(error) = lists.renew() {
            tracing::warn!(%error, "cannot renew the redirect's lease: new connections will go to the pod");
        }
    }
}

/// Waits until all who are asked have answered or ended, however long that takes: until then nothing is renewed. `false`: it is
/// not wanted any more.
fn wait_for_all(answers: &Receiver<()>, stopped: &Receiver<()>) -> bool {
    loop {
        match answers.recv_timeout(LOOK) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) if stopped.try_recv() == Err(TryRecvError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Whether what is redirected now is served soon, judged by how long a sleep of [`PERIOD`] was and how long the answers took.
fn is_well(slept: Duration, answered: Duration) -> bool {
    slept < PERIOD + LATE && answered < LATE
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_late_is_not_well() {
        let ms = Duration::from_millis;
        assert!(is_well(ms(250), ms(0)));
        assert!(is_well(ms(500), ms(300)), "a busy machine");
        assert!(!is_well(ms(600), ms(0)), "a process that gets a moment in a second");
        assert!(!is_well(ms(250), ms(350)), "a worker that is stuck");
    }

    #[test]
    fn all_are_waited_for_and_those_that_have_ended_are_not() {
        let pulse = Pulse::default();
        let (held, holds) = mpsc::channel();
        pulse.watch(|answer| answer.send(()).unwrap());
        pulse.watch(drop);
        pulse.watch(move |answer| held.send(answer).unwrap());
        let (stop, stopped) = mpsc::channel();
        let answers = pulse.ask();
        let holds = std::thread::scope(|scope| {
            let holder = scope.spawn(move || {
                let answer = holds.recv().unwrap();
                std::thread::sleep(3 * LOOK);
                let answered = Instant::now();
                answer.send(()).unwrap();
                (holds, answered)
            });
            assert!(wait_for_all(&answers, &stopped));
            let ended = Instant::now();
            let (holds, answered) = holder.join().unwrap();
            assert!(ended >= answered);
            holds
        });
        let answers = pulse.ask();
        let _stuck = holds.recv().unwrap();
        drop(stop);
        assert!(!wait_for_all(&answers, &stopped), "a stuck worker holds up no end");
    }
}
