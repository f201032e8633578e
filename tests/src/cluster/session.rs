//! A session on a target of the cluster: `mirrord exec` on the developer's machine.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::{Space, agent_image};
use crate::{
    machine::{built, filter},
    pod::tail,
    processes::{Process, tree},
    programs::{self, Program, Seen},
    session::USER_ME,
    wait::within,
    watchdog,
};

/// Agents start as pods do.
const PATIENCE: Duration = Duration::from_secs(90);

/// A `mirrord exec`, or another of its commands, to be.
pub struct Exec<'a> {
    space: &'a Space,
    command: &'a str,
    user: &'a str,
    options: Vec<String>,
    variables: Vec<(String, String)>,
}

impl<'a> Exec<'a> {
    /// On this target, with no other option; agents are in the same namespace.
    pub fn plain(space: &'a Space, target: &str) -> Self {
        let options = ["-t", target].map(str::to_owned).to_vec();
        Self { space, command: "exec", user: "admin", options, variables: Vec::new() }
    }

    /// `mirrord inspect` of this target, which runs no program.
    pub fn inspect(space: &'a Space, target: &str) -> Self {
        Self { command: "inspect", ..Self::plain(space, target) }
    }

    /// `--steal` of the requests of user `me`.
    pub fn steal_mine(space: &'a Space, target: &str) -> Self {
        let path = filter("header").to_str().unwrap().to_owned();
        Self::plain(space, target).option("--steal").word("--filter").word(&path).word("--filter-config").word(USER_ME)
    }

    /// With another user's credentials.
    #[must_use]
    pub fn user(mut self, user: &'a str) -> Self {
        self.user = user;
        self
    }

    /// Options as words.
    #[must_use]
    pub fn option(mut self, words: &str) -> Self {
        self.options.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// One option, or its value, as it is.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.options.push(word.into());
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts any command and waits for nothing.
    pub fn start(self, name: &str, words: &[String]) -> Session<'a> {
        let file = |ending: &str| self.space.folder.path().join(format!("{name}.{ending}"));
        let (log, out) = (file("log"), file("out"));
        let _ = fs::remove_file(&log);
        let mut command = self.space.dev(built().join("mirrord").to_str().unwrap());
        command.env("KUBECONFIG", self.space.kubeconfig(self.user)).env("HOST_ONLY", "of this machine").env("MIRRORD_LOG", "trace");
        command.env("MIRRORD_AGENT_IMAGE", agent_image());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.arg(self.command).args(&self.options);
        if self.command == "exec" {
            command.arg("--");
        }
        command.args(words.iter().map(|word| word.replace("{log}", log.to_str().unwrap())));
        let output = File::create(&out).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Session { space: self.space, name: name.into(), child, log, out, began: Instant::now() }
    }

    /// Starts a server and waits until its ports are those of the target.
    #[track_caller]
    pub fn run(self, program: &Program) -> Session<'a> {
        let mut session = self.start(&program.name, &program.command);
        session.wait_for_log(&program.ports.iter().map(|port| format!("listening {port}")).collect::<Vec<_>>());
        session
    }
}

/// A running one. Dropping it ends it.
pub struct Session<'a> {
    space: &'a Space,
    /// The program's name.
    pub name: String,
    child: Child,
    log: PathBuf,
    out: PathBuf,
    /// When it was started.
    pub began: Instant,
}

impl Session<'_> {
    /// What command line and program have printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// The requests that the program has seen.
    pub fn seen(&self) -> Vec<Seen> {
        programs::seen(&self.log)
    }

    /// Waits for these lines of the program's log; panics if the session has ended.
    #[track_caller]
    pub fn wait_for_log(&mut self, lines: &[String]) {
        let _waiting = watchdog::waiting("the program listens");
        let found = within(PATIENCE, || {
            let ended = self.child.try_wait().unwrap();
            let log = programs::log_lines(&self.log);
            if lines.iter().all(|line| log.contains(line)) { Some(None) } else { ended.map(Some) }
        });
        assert!(matches!(found, Some(None)), "{found:?}: {}", tail(&self.output()));
    }

    /// Waits until it prints this.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) -> String {
        let _waiting = watchdog::waiting(text);
        let found = within(PATIENCE, || Some(self.output()).filter(|output| output.contains(text)));
        found.unwrap_or_else(|| panic!("it has not said `{text}`: {}", tail(&self.output())))
    }

    /// Waits for its end by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let _waiting = watchdog::waiting("the session ends");
        let ended = within(PATIENCE, || self.child.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("the session does not end: {}", tail(&self.output())))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// All processes of the session, the command line first.
    pub fn processes(&self) -> Vec<Process> {
        tree(Process(self.child.id()))
    }

    /// Ends it as a user would.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Sends the command line a signal.
    pub fn signal(&self, signal: i32) {
        Process(self.child.id()).signal(signal);
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- session {}:\n{}", self.name, tail(&self.output()));
            for pod in self.space.pods("app=mirrord") {
                let log = self.space.try_kubectl(&format!("logs {}", pod.name)).unwrap_or_else(|error| error);
                eprintln!("--- agent {}:\n{}", pod.name, tail(&log));
            }
        }
        let all = self.processes();
        Process(self.child.id()).signal(libc::SIGTERM);
        if within(Duration::from_secs(10), || self.child.try_wait().unwrap()).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // Those whose parent has been killed are not killed with it, but end by their lifelines.
        let left = within(Duration::from_secs(10), || all.iter().skip(1).all(|process| !process.is_alive()).then_some(()));
        if left.is_none() && !std::thread::panicking() {
            panic!("processes of the session {} are left", self.name);
        }
    }
}
