//! `mirrord inspect` and `mirrord explain`: the real command line, its output in files, seen by a test.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use crate::{
    machine::{self, MARK, built},
    pod::{Pod, tail},
    processes::Process,
    wait::eventually,
};

/// A running `mirrord inspect`. Dropping it ends it.
pub struct Inspect {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

/// The command line for this pod.
fn mirrord(pod: &Pod, words: &[&str]) -> Command {
    let mut command = Command::new(built().join("mirrord"));
    command.arg(words[0]).arg("-t").arg(pod.target()).args(&words[1..]);
    command.env(MARK, pod.mark()).env("MIRRORD_AGENT_LOG", pod.agent_log_path()).stdin(Stdio::null());
    command
}

/// Runs `mirrord explain` to its end; the first word is `explain`.
pub fn explain(pod: &Pod, words: &[&str]) -> Output {
    machine::output(&mut mirrord(pod, &[&["explain"], words].concat()))
}

/// What `mirrord explain` prints; panics if it fails.
#[track_caller]
pub fn explained(pod: &Pod, words: &[&str]) -> String {
    let output = explain(pod, words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Inspect {
    /// Starts it and waits until it looks.
    #[track_caller]
    pub fn start(pod: &Pod, words: &[&str]) -> Self {
        Self::run(mirrord(pod, &[&["inspect"], words].concat()), pod, "inspecting ")
    }

    /// Follows decisions; waits for nothing.
    pub fn follow(pod: &Pod, words: &[&str]) -> Self {
        Self::run(mirrord(pod, &[&["explain", "--follow"], words].concat()), pod, "")
    }

    #[track_caller]
    fn run(mut command: Command, pod: &Pod, first: &str) -> Self {
        let name = format!("looking{}", fs::read_dir(pod.folder.path()).unwrap().count());
        let file = |ending: &str| pod.folder.path().join(format!("{name}.{ending}"));
        let (out, err) = (file("out"), file("err"));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).process_group(0);
        let child = command.spawn().unwrap();
        let mut inspect = Self { child, out, err };
        eventually(&format!("{command:?} says {first:?}"), || {
            let ended = inspect.child.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended ({ended:?}): {}", inspect.errors());
            inspect.errors().contains(first).then_some(())
        });
        inspect
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it has to say beside that.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Its output, once it has all of these.
    #[track_caller]
    pub fn wait_for(&self, parts: &[&str]) -> String {
        eventually(&format!("{parts:?} are shown; it shows\n{}", tail(&self.output())), || {
            Some(self.output()).filter(|output| parts.iter().all(|part| output.contains(part)))
        })
    }

    /// Ctrl-C; all that it printed.
    #[track_caller]
    pub fn end(mut self) -> String {
        self.process().signal(libc::SIGINT);
        let status: ExitStatus = eventually("it ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.errors());
        self.output()
    }
}

impl Drop for Inspect {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}\n{}", self.out.display(), tail(&self.output()), tail(&self.errors()));
        }
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
