//! Starting agents: what goes wrong there is said, and however many command lines ask, one is started.

mod common;

use std::fs;

use common::{Netns, Trial, eventually};

#[test]
fn what_an_agent_says_before_it_gives_up_reaches_the_user() {
    let trial = Trial::with_agent(r#"echo '{"error":"iptables is missing","help":"install iptables"}'; exit 1"#);
    let netns = Netns::new();
    let ended = trial.run(&["exec", "-t", &netns.target(), "--", "true"]);
    assert_eq!((ended.status, ended.agents), (Some(1), 1), "{ended:?}");
    ended.says("iptables is missing", "install iptables");
}

#[test]
fn an_agent_that_says_nothing_ends_the_matter() {
    let netns = Netns::new();
    let ended = Trial::with_agent("exit 3").run(&["exec", "-t", &netns.target(), "--", "true"]);
    assert_eq!((ended.status, ended.agents), (Some(1), 1), "{ended:?}");
    ended.says("ended before it was ready (exit status: 3)", "MIRRORD_AGENT_LOG");
    let ended = Trial::with_agent("echo what").run(&["exec", "-t", &netns.target(), "--", "true"]);
    ended.says("ended before it was ready", "MIRRORD_AGENT_LOG");
}

#[test]
fn an_agent_that_is_never_ready_is_not_left_behind() {
    let trial = Trial::with_agent("echo $$ > \"$0.pid\"; exec sleep 600");
    let netns = Netns::new();
    let ended = trial.run(&["exec", "-t", &netns.target(), "--", "true"]);
    ended.says("not ready within 10 s", "MIRRORD_AGENT_LOG");
    let pid = fs::read_to_string(trial.path().join("agent.pid")).unwrap();
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap());
}

#[test]
fn an_agents_log_is_appended_to_the_named_file() {
    let mut trial = Trial::with_agent("echo some words >&2; exit 1");
    let (netns, log) = (Netns::new(), trial.file("log", "before\n", 0o644));
    trial.set("MIRRORD_AGENT_LOG", log.to_str().unwrap());
    trial.run(&["exec", "-t", &netns.target(), "--", "true"]);
    assert_eq!(fs::read_to_string(log).unwrap(), "before\nsome words\n");
}

#[test]
fn a_missing_agent_is_named() {
    let (mut trial, netns) = (Trial::new(), Netns::new());
    trial.set("MIRRORD_AGENT_FILE", "/no/such/agent");
    trial.run(&["exec", "-t", &netns.target(), "--", "true"]).refused(1, "there is no /no/such/agent", "MIRRORD_AGENT_FILE");
}

/// Listens as an agent does and hangs up on everybody, until the test's file is there.
const LISTENER: &str = r#"exec python3 - "$4" "$0.end" <<'EOF'
import os, socket, sys
try: os.unlink(sys.argv[1])
except FileNotFoundError: pass
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); s.settimeout(0.02)
print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    try: s.accept()[0].close()
    except TimeoutError: pass
os.unlink(sys.argv[1])
EOF"#;

#[test]
fn however_many_ask_at_once_one_agent_is_started() {
    let (trial, netns) = (Trial::with_agent(LISTENER), Netns::new());
    // A dead agent's socket is no agent.
    let _ = fs::create_dir("/run/mirrord");
    drop(std::os::unix::net::UnixListener::bind(netns.socket()).unwrap());
    let target = netns.target();
    let start = || trial.command(&["exec", "-t", &target, "--", "true"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let many: Vec<_> = (0..4).map(|_| start()).collect();
    for child in many {
        let ended = trial.ended(child.wait_with_output().unwrap());
        assert_eq!((ended.status, ended.agents), (Some(1), 1), "an agent that hangs up makes no session: {ended:?}");
    }
    trial.file("agent.end", "", 0o644);
    eventually(|| !netns.socket().exists());
    // As an agent does; other agents of this machine may be in it.
    let _ = fs::remove_dir("/run/mirrord");
}
