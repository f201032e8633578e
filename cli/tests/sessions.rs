//! Whole sessions, as far as they are the command line's: how a program ends, which signals it gets and how often, what a terminal's
//! keys do, and what becomes of it when a part of mirrord dies. With the real agent and layer, which `make build` makes.

#![allow(clippy::unwrap_used, reason = "these are nothing but tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use common::{Netns, Trial, eventually};

/// A program in a session.
struct Session {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn start(netns: &Netns, program: &[&str]) -> Self {
        let mut child = command(netns, program).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The program's next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: i32) {
        kill(self.child.id(), signal);
    }

    /// Status as a shell says it, the rest of the output, and the errors.
    fn end(mut self) -> (i32, String, String) {
        let status = self.child.wait().unwrap();
        let (mut output, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut output).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status.code().unwrap_or_else(|| 128 + status.signal().unwrap()), output, errors)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(netns: &Netns, program: &[&str]) -> Command {
    let mut command = Trial::real().command(&["exec", "-t", &netns.target(), "--"]);
    command.args(program);
    command
}

fn kill(pid: u32, signal: i32) {
    assert!(Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap().success());
}

/// Numbers of a process's children whose command line begins so.
fn children(pid: u32, begins: &str) -> Vec<u32> {
    let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all: Vec<u32> = all.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
    all.retain(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(begins.as_bytes())));
    all
}

/// `Z` for one that has ended and `T` for one that is stopped.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Agents end a moment after their last session; the namespace must not be gone before.
fn settle(netns: &Netns) {
    eventually(|| !netns.socket().exists());
}

#[test]
fn the_programs_end_is_ours() {
    let netns = Netns::new();
    for (script, status) in [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        let (ended, _, errors) = Session::start(&netns, &["sh", "-c", script]).end();
        assert_eq!((ended, errors.as_str()), (status, ""), "{script}");
    }
    settle(&netns);
}

/// Counts the signals that it gets and ends after the one that says so.
const COUNTER: &str = "
import os, signal, sys, time
seen = []
for number in (1, 2, 3, 10, 12, 28): signal.signal(number, lambda number, _: (seen.append(number), print('got', number, flush=True)))
def end(*_): print('seen', *seen, flush=True); sys.exit(9)
signal.signal(15, end)
print('up', os.getpid(), flush=True)
if 'all' in sys.argv: os.kill(0, 1)
while True: time.sleep(1)
";

#[test]
fn a_signal_sent_to_us_alone_reaches_the_program_once() {
    let netns = Netns::new();
    let mut session = Session::start(&netns, &["python3", "-c", COUNTER]);
    assert!(session.line().starts_with("up"));
    for signal in [1, 2, 3, 10, 12, 28] {
        session.signal(signal);
        assert_eq!(session.line(), format!("got {signal}"));
    }
    session.signal(15);
    let (status, output, _) = session.end();
    assert_eq!((status, output.trim()), (9, "seen 1 2 3 10 12 28"));
    settle(&netns);
}

#[test]
fn what_the_program_sends_to_its_whole_group_comes_once() {
    let netns = Netns::new();
    // A session of its own, so that this test is not in the group.
    let mut setsid = Command::new("setsid");
    let inner = command(&netns, &["python3", "-c", COUNTER, "all"]);
    setsid.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = setsid.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut session = Session { child, output };
    assert!(session.line().starts_with("up"));
    assert_eq!(session.line(), "got 1");
    session.signal(15);
    let (status, output, _) = session.end();
    assert_eq!((status, output.trim()), (9, "seen 1"));
    settle(&netns);
}

#[test]
fn a_stopped_program_does_not_stop_us_where_nobody_could_continue_us() {
    let netns = Netns::new();
    let mut session = Session::start(&netns, &["python3", "-c", COUNTER]);
    let program: u32 = session.line().strip_prefix("up ").unwrap().parse().unwrap();
    kill(program, 19);
    eventually(|| state(program) == Some('T'));
    kill(program, 18);
    session.signal(10);
    assert_eq!(session.line(), "got 10");
    session.signal(15);
    assert_eq!(session.end().0, 9);
    settle(&netns);
}

#[test]
fn our_sudden_death_takes_the_program_and_the_local_proxy_along() {
    let netns = Netns::new();
    let mut session = Session::start(&netns, &["python3", "-c", COUNTER]);
    let program: u32 = session.line().strip_prefix("up ").unwrap().parse().unwrap();
    let intproxy = children(session.child.id(), "mirrord\0intproxy");
    assert_eq!(intproxy.len(), 1);
    session.signal(9);
    assert_eq!(session.end().0, 137);
    for pid in [program, intproxy[0]] {
        eventually(|| matches!(state(pid), None | Some('Z')));
    }
    settle(&netns);
}

#[test]
fn without_the_local_proxy_the_program_is_ended_even_if_it_will_not() {
    let netns = Netns::new();
    let began = Instant::now();
    let mut session = Session::start(&netns, &["sh", "-c", "trap '' TERM; echo up; exec sleep 600"]);
    assert_eq!(session.line(), "up");
    kill(children(session.child.id(), "mirrord\0intproxy")[0], 9);
    let (status, _, errors) = session.end();
    assert_eq!(status, 1);
    assert!(errors.contains("the session is lost") && errors.contains("  help: ") && errors.contains("run the command again"), "{errors}");
    assert!(began.elapsed().as_secs() >= 2, "it has two seconds to end by itself");
    settle(&netns);
}

#[test]
fn the_programs_environment_says_that_it_is_in_a_session() {
    let netns = Netns::new();
    let mut command = command(&netns, &["sh", "-c", "echo $LD_PRELOAD; echo $MIRRORD_RESOLVED_CONFIG; echo $MIRRORD_PROGRESS_MODE"]);
    let layer = Path::new(env!("CARGO_BIN_EXE_mirrord")).with_file_name("libmirrord_layer.so");
    // Preloaded already, for another reason.
    let output = command.env("LD_PRELOAD", "/lib/x86_64-linux-gnu/libm.so.6").output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], format!("/lib/x86_64-linux-gnu/libm.so.6:{}", layer.display()));
    assert!(lines[1].starts_with('{') && lines[2] == "off", "{output}");
    settle(&netns);
}

/// A person at a terminal: the keys go to a shell with job control, and what it shows is waited for.
const PERSON: &str = r#"
import os, pty, re, select, sys, time
mirrord, target = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(PS1='PROMPT> ', PYTHONUNBUFFERED='1', TERM='dumb')
    os.execvp('bash', ['bash', '--norc', '--noprofile', '--noediting', '-i'])
shown = ''
def sees(pattern):
    global shown
    deadline = time.time() + 15
    while not (found := re.search(pattern, shown)):
        if time.time() > deadline: sys.exit(f'{pattern} is not in {shown!r}')
        if select.select([terminal], [], [], 0.1)[0]: shown += os.read(terminal, 4096).decode()
    shown = shown[found.end():]
def types(text): os.write(terminal, text.encode())
def runs(program): types(f'{mirrord} exec -t {target} -- {program}; echo STATUS=$?\n')
C, Z = '\x03', '\x1a'

# Ctrl-C comes once, and the program may ignore it.
sees('PROMPT> ')
runs("""python3 -c 'import signal,time
def got(*_): global n; n += 1; print("INT", n)
n = 0; signal.signal(2, got); print("U" + "P")
while n < 2: time.sleep(0.2)
time.sleep(0.5); print("END", n)'""")
sees('UP'); types(C); sees('INT 1'); types(C); sees('INT 2'); sees('END 2'); sees('STATUS=0'); sees('PROMPT> ')
# A script ends when its command dies of Ctrl-C.
types(f"for i in 1 2; do {mirrord} exec -t {target} -- sh -c 'echo U\"\"P; exec sleep 60'; echo ROUND$i; done\n")
sees('UP'); types(C); sees('PROMPT> '); types('echo STATUS=$?\n'); sees('STATUS=130'); assert 'ROUND' not in shown; sees('PROMPT> ')
# Ctrl-Z gives the prompt back, and the job goes on in the foreground.
runs("sh -c 'echo U\"\"P; read x; echo GOT $x; exit 5'")
sees('UP'); types(Z); sees('Stopped'); sees('PROMPT> '); types('fg\n'); sees('exec'); types('word\n'); sees('GOT word'); sees('PROMPT> ')
types('echo STATUS=$?\n'); sees('STATUS=5'); sees('PROMPT> ')
# A background job that wants to read is stopped until it is brought to the front.
types('set -b\n'); sees('PROMPT> ')
types(f"{mirrord} exec -t {target} -- sh -c 'read x; echo GOT $x' &\n"); sees('Stopped')
types('fg\n'); sees('exec'); types('late\n'); sees('GOT late'); sees('PROMPT> ')
# The terminal goes away, and with it everything.
runs("sh -c 'echo U\"\"P; exec sleep 60'"); sees('UP'); os.close(terminal)
os.waitpid(pid, 0)
"#;

#[test]
fn at_a_terminal_all_is_as_without_us() {
    let netns = Netns::new();
    let output = Command::new("python3").args(["-c", PERSON, env!("CARGO_BIN_EXE_mirrord"), &netns.target()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    settle(&netns);
}
