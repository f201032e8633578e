//! A session: the real command line running a real program, seen from outside.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{
    machine::{MARK, built, filter},
    pod::{Pod, tail},
    processes::{Process, tree},
    programs::{self, Program, Seen},
    wait::{eventually, within},
};

/// Config of the header filter by which tests steal: requests of user `me`.
pub const USER_ME: &str = r#"{"name":"x-user","value":"me"}"#;
/// The header that it looks for.
pub const ME: &str = "x-user: me";

/// The two ways from the agent to the program.
#[derive(Clone, Copy, Debug)]
pub enum Delivery {
    /// The agent gets the connection to the program itself: both are on one machine.
    Socket,
    /// By HTTP/2 through the intproxy, as from a far agent.
    Tunnel,
}

impl Delivery {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Socket, Self::Tunnel];
}

/// A `mirrord exec` to be.
pub struct Exec<'a> {
    pod: &'a Pod,
    target: String,
    options: Vec<String>,
    variables: Vec<(String, String)>,
    maps: Vec<(u16, u16)>,
    binary: PathBuf,
}

impl<'a> Exec<'a> {
    /// On this pod's namespace, with no option at all.
    pub fn plain(pod: &'a Pod) -> Self {
        Self { pod, target: pod.target(), options: Vec::new(), variables: Vec::new(), maps: Vec::new(), binary: built().join("mirrord") }
    }

    /// `--steal` with no filter: everything.
    pub fn steal(pod: &'a Pod) -> Self {
        Self::plain(pod).option("--steal")
    }

    /// `--mirror` with no filter: everything.
    pub fn mirror(pod: &'a Pod) -> Self {
        Self::plain(pod).option("--mirror")
    }

    /// `--steal` of the requests with [`ME`].
    pub fn steal_mine(pod: &'a Pod) -> Self {
        Self::steal(pod).filter("header", USER_ME)
    }

    /// Another target.
    #[must_use]
    pub fn target(mut self, target: &str) -> Self {
        self.target = target.into();
        self
    }

    /// Another copy of the program `mirrord`.
    #[must_use]
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.binary = path;
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

    /// A filter by its name, with its config.
    #[must_use]
    pub fn filter(mut self, name: &str, config: &str) -> Self {
        let path = filter(name).to_str().unwrap().to_owned();
        self.options.extend(["--filter".into(), path]);
        if !config.is_empty() {
            self.options.extend(["--filter-config".into(), config.into()]);
        }
        self
    }

    /// `-p POD:LOCAL`.
    #[must_use]
    pub fn map(mut self, pod: u16, local: u16) -> Self {
        self.maps.push((pod, local));
        self.option(&if pod == local { format!("-p {pod}") } else { format!("-p {pod}:{local}") })
    }

    /// A variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// How stolen bytes travel; without it, as the parts agree.
    #[must_use]
    pub fn delivery(self, delivery: Delivery) -> Self {
        self.variable(
            "MIRRORD_DELIVERY",
            match delivery {
                Delivery::Socket => "socket",
                Delivery::Tunnel => "tunnel",
            },
        )
    }

    /// The whole command, to be run by the caller.
    pub fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("exec").arg("-t").arg(&self.target).args(&self.options).arg("--").args(words);
        command.env(MARK, self.pod.mark()).env("MIRRORD_AGENT_LOG", self.pod.agent_log_path()).env("TMPDIR", self.pod.session_tmp());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        // A group of its own: what a test sends to the session reaches the test's own process in no way.
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts it and waits for nothing.
    pub fn start(self, program: &Program) -> Session<'a> {
        let file = |ending: &str| self.pod.folder.path().join(format!("{}.{ending}", program.name));
        let (log, out) = (file("log"), file("out"));
        // A session of that name may have been there before: what its program said is not said by this one.
        let _ = fs::remove_file(&log);
        let words: Vec<_> = program.command.iter().map(|word| word.replace("{log}", log.to_str().unwrap())).collect();
        let output = File::create(&out).unwrap();
        let mut command = self.command(&words);
        let child =
            command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Session { pod: self.pod, name: program.name.clone(), child, log, out }
    }

    /// Starts it and waits until the program listens on all its ports and the pod's traffic for them is redirected.
    #[track_caller]
    pub fn run(self, program: &Program) -> Session<'a> {
        let (pod, maps) = (self.pod, self.maps.clone());
        let ports: Vec<u16> = if maps.is_empty() { program.ports.clone() } else { maps.iter().map(|(pod, _)| *pod).collect() };
        let mut session = self.start(program);
        session.wait_for_log(&program.ports.iter().map(|port| format!("listening {port}")).collect::<Vec<_>>());
        for port in ports {
            eventually(&format!("port {port} of the pod is redirected"), || pod.redirects(port).then_some(()));
        }
        session
    }
}

/// A running `mirrord exec`. Dropping it ends it, kindly if it lets itself be.
pub struct Session<'a> {
    pod: &'a Pod,
    /// The program's name.
    pub name: String,
    child: Child,
    log: PathBuf,
    out: PathBuf,
}

impl Session<'_> {
    /// The command line's process.
    pub fn cli(&self) -> Process {
        Process(self.child.id())
    }

    /// The local proxy's process.
    #[track_caller]
    pub fn intproxy(&self) -> Process {
        let is_it = |process: &Process| process.arguments().iter().any(|word| word.contains("intproxy"));
        self.of_tree("the intproxy", is_it)
    }

    /// The program's process.
    #[track_caller]
    pub fn program(&self) -> Process {
        self.of_tree("the program", |process| !process.program().starts_with("mirrord"))
    }

    #[track_caller]
    fn of_tree(&self, what: &str, is_it: impl Fn(&Process) -> bool) -> Process {
        let all = tree(self.cli());
        let found = all.iter().skip(1).find(|process| is_it(process));
        *found.unwrap_or_else(|| {
            panic!("{what} is none of {:?}", all.iter().map(|process| (process.0, process.arguments())).collect::<Vec<_>>())
        })
    }

    /// The requests that the program has seen.
    pub fn seen(&self) -> Vec<Seen> {
        programs::seen(&self.log)
    }

    /// Waits until the program has seen so many requests.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Seen> {
        let seen = within(crate::wait::PATIENCE, || Some(self.seen()).filter(|seen| seen.len() >= count));
        seen.unwrap_or_else(|| {
            panic!("program {} has seen {} requests, not {count}\n{}", self.name, self.seen().len(), tail(&self.output()))
        })
    }

    /// The lines of the program's log.
    pub fn log(&self) -> Vec<String> {
        programs::log_lines(&self.log)
    }

    /// Waits for these lines of the program's log; panics at once if the session has ended.
    #[track_caller]
    pub fn wait_for_log(&mut self, lines: &[String]) {
        let found = within(crate::wait::PATIENCE, || {
            let ended = self.child.try_wait().unwrap();
            let log = self.log();
            if lines.iter().all(|line| log.contains(line)) { Some(None) } else { ended.map(Some) }
        });
        match found {
            Some(None) => {}
            ended => panic!(
                "program {} has not said {lines:?} ({ended:?}); it said {:?}, and the session:\n{}",
                self.name,
                self.log(),
                tail(&self.output())
            ),
        }
    }

    /// What the command line and the program have printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits for the end of the command line.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually(&format!("session {} ends", self.name), || self.child.try_wait().unwrap())
    }

    /// Has the command line ended?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends the command line a signal.
    pub fn signal(&self, signal: i32) {
        self.cli().signal(signal);
    }

    /// Ends the session as a user would, with a signal, and waits.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- session {}:\n{}\n--- its program's log:\n{}", self.name, tail(&self.output()), tail(&self.log().join("\n")));
        }
        let all = tree(self.cli());
        self.signal(libc::SIGTERM);
        if within(Duration::from_secs(3), || self.child.try_wait().unwrap()).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // The agent is shared and lives on for others; all else of the tree was this session's.
        for process in all.into_iter().skip(1).filter(|process| process.program() != "mirrord-agent") {
            if process.variable(MARK).as_deref() == Some(self.pod.mark().as_str()) {
                process.kill();
            }
        }
    }
}

/// The exit status as a shell would tell it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
