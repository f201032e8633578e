//! Runs the real `mirrord` with agents that are not real, so that a test sees whether one was started. Each leaves nothing behind.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may panic, and this is nothing but tests")]

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// A folder of the test's own, with an agent that writes down that it was started.
pub struct Trial {
    folder: tempfile::TempDir,
    agent: PathBuf,
    variables: Vec<(String, String)>,
}

/// How a `mirrord` ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub agents: usize,
}

impl Trial {
    /// With an agent that ends at once.
    pub fn new() -> Self {
        Self::with_agent("exit 7")
    }

    /// With an agent whose shell commands these are.
    pub fn with_agent(commands: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Others than root have to get at what is in it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let agent = folder.path().join("agent");
        let started = folder.path().join("started");
        let trial = Self { folder, agent: agent.clone(), variables: Vec::new() };
        trial.file("agent", format!("#!/bin/sh\necho x >> {}\n{commands}\n", started.display()), 0o755);
        trial
    }

    /// With the agent and the layer that are built beside `mirrord`.
    pub fn real() -> Self {
        let built = Path::new(env!("CARGO_BIN_EXE_mirrord"));
        let (agent, layer) = (built.with_file_name("mirrord-agent"), built.with_file_name("libmirrord_layer.so"));
        assert!(agent.exists() && layer.exists(), "build them first: cargo build --release -p mirrord-agent -p mirrord-layer");
        let mut trial = Self::new();
        trial.set("MIRRORD_AGENT_FILE", agent.to_str().unwrap()).set("MIRRORD_LAYER_FILE", layer.to_str().unwrap());
        trial
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Sets a variable for every run.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// A file in the trial's folder. Another process writes it: a child forked meanwhile by another test would hold this one's
    /// descriptor for a moment, and a file that is open for writing cannot be run.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        let source = self.folder.path().join(format!("{name}.source"));
        fs::write(&source, content).unwrap();
        let written = Command::new("install").arg(format!("--mode={mode:o}")).args([&source, &path]).status().unwrap();
        assert!(written.success());
        path
    }

    /// `mirrord` with these arguments, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_mirrord")), arguments)
    }

    fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let layer = self.folder.path().join("layer.so");
        fs::write(&layer, "").unwrap();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MIRRORD_")) {
            command.env_remove(name);
        }
        command.env("MIRRORD_AGENT_FILE", &self.agent).env("MIRRORD_LAYER_FILE", layer);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.ended(self.command(arguments).output().unwrap())
    }

    /// As a user without any rights.
    pub fn run_as_nobody(&self, arguments: &[&str]) -> Ended {
        let program = self.file("mirrord", fs::read(env!("CARGO_BIN_EXE_mirrord")).unwrap(), 0o755);
        self.ended(self.command_of(&program, arguments).uid(65534).gid(65534).output().unwrap())
    }

    pub fn ended(&self, Output { status, stdout, stderr }: Output) -> Ended {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { status: status.code(), stdout: text(stdout), stderr: text(stderr), agents: self.agents() }
    }

    /// How many agents were started.
    pub fn agents(&self) -> usize {
        fs::read_to_string(self.folder.path().join("started")).map_or(0, |lines| lines.lines().count())
    }
}

impl Ended {
    /// Ended with this status before anything was started, and said this and that.
    #[track_caller]
    pub fn refused(&self, status: i32, error: &str, help: &str) {
        assert_eq!((self.status, self.agents, self.stdout.as_str()), (Some(status), 0, ""), "{self:?}");
        self.says(error, help);
    }

    /// The error and the next step are on standard error, in this form.
    #[track_caller]
    pub fn says(&self, error: &str, help: &str) {
        // What was being done in a cluster stands before it.
        let mut rest = self.stderr.lines().skip_while(|line| !line.starts_with("mirrord: error: "));
        assert!(rest.next().is_some_and(|first| first.contains(error)), "`{error}` is not in {}", self.stderr);
        let step = rest.find_map(|line| line.strip_prefix("  help: "));
        assert!(step.is_some_and(|step| step.contains(help)), "`{help}` is not in {}", self.stderr);
    }
}

/// A network namespace of the test's own.
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mirrord-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
        assert!(made.success(), "these tests make network namespaces: run them as root");
        Self { name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn target(&self) -> String {
        format!("netns/{}", self.name)
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub fn socket(&self) -> PathBuf {
        format!("/run/mirrord/agent-{}.sock", fs::metadata(self.path()).unwrap().ino()).into()
    }

    /// A process in it that does nothing.
    pub fn sleeper(&self) -> Sleeper {
        Sleeper(Command::new("nsenter").arg(format!("--net={}", self.path().display())).args(["sleep", "600"]).spawn().unwrap())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// A process that lives as long as this value.
pub struct Sleeper(std::process::Child);

impl Sleeper {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it has entered its namespace.
    pub fn in_namespace(self, netns: &Netns) -> Self {
        let inode = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).unwrap_or_default();
        let own = PathBuf::from(format!("/proc/{}/ns/net", self.pid()));
        eventually(|| inode(&own) == inode(&netns.path()));
        self
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until it is so, at most ten seconds.
#[track_caller]
pub fn eventually(mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "it did not come true in time");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
