//! `mirrord inspect`, `mirrord explain` and other commands without a program: the real command line, its output in files, seen by a test.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
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
    /// What is typed on its terminal.
    keys: Option<ChildStdin>,
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

    /// Starts a command that needs no program, and waits until it says this on standard error.
    #[track_caller]
    pub fn command(pod: &Pod, words: &[&str], first: &str) -> Self {
        Self::run(mirrord(pod, words), pod, first)
    }

    /// Follows decisions; waits for nothing.
    pub fn follow(pod: &Pod, words: &[&str]) -> Self {
        Self::run(mirrord(pod, &[&["explain", "--follow"], words].concat()), pod, "")
    }

    /// Starts it on a terminal with so many columns, and these variables.
    #[track_caller]
    pub fn on_terminal(pod: &Pod, words: &[&str], columns: u16, variables: &[(&str, &str)]) -> Self {
        let inner = mirrord(pod, &[&["inspect"], words].concat());
        let words: Vec<_> = [inner.get_program()].into_iter().chain(inner.get_args()).map(|word| word.to_str().unwrap()).collect();
        let mut command = Command::new("script");
        command.args(["-qefc", &format!("stty cols {columns} rows 40; exec {}", words.join(" ")), "/dev/null"]);
        let own = inner.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.envs(own).env("TERM", "xterm").envs(variables.iter().copied()).stdin(Stdio::piped());
        let mut terminal = Self::run(command, pod, "");
        terminal.keys = terminal.child.stdin.take();
        terminal.wait_for(&["inspecting "]);
        terminal
    }

    /// Starts it with a shell that gives what it prints to another command; its exit status is that of `mirrord`.
    #[track_caller]
    pub fn piped(pod: &Pod, words: &[&str], reader: &str, first: &str) -> Self {
        let inner = mirrord(pod, words);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("\"$0\" \"$@\" | {reader}; exit ${{PIPESTATUS[0]}}")]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        Self::run(command, pod, first)
    }

    /// With its output in a pipe that nobody reads yet, once it looks.
    pub fn unread(pod: &Pod, words: &[&str]) -> Child {
        let mut command = mirrord(pod, &[&["inspect"], words].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        let said = child.stderr.as_mut().and_then(|stderr| BufReader::new(stderr).lines().next()).unwrap().unwrap();
        assert!(said.contains("inspecting "), "{said}");
        child
    }

    /// Presses Ctrl-C on its terminal; all that was shown there.
    #[track_caller]
    pub fn interrupt(mut self) -> String {
        self.keys.as_mut().expect("a terminal").write_all(b"\x03").unwrap();
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.output());
        self.output()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("it ends", || self.child.try_wait().unwrap())
    }

    #[track_caller]
    fn run(mut command: Command, pod: &Pod, first: &str) -> Self {
        let name = format!("looking{}", fs::read_dir(pod.folder.path()).unwrap().count());
        let file = |ending: &str| pod.folder.path().join(format!("{name}.{ending}"));
        let (out, err) = (file("out"), file("err"));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).process_group(0);
        let child = command.spawn().unwrap();
        let mut inspect = Self { child, out, err, keys: None };
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
        let status = self.wait();
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
