//! A real Kubernetes node (`tests/cluster/`): brought up when a test first asks, unless it is up, as `make test-k8s` has it. Whoever
//! has brought it up takes it down: this process, when it ends.
//!
//! ```text
//!   developer's machine ──veth── node: API server, kubelet, kube-proxy, pods by routed veths
//!   (dev)                         only the API server and node ports answer the developer
//! ```
//!
//! | | |
//! |---|---|
//! | [`Space`] | a namespace of a test, with what it applies, asks and runs there; gone with it |
//! | [`dev`] | a command on the developer's machine |
//! | [`component`] | ends and starts the cluster's own programs |

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::{
    machine::{self, built, manifest, output, run},
    netns::Handle,
    sys, watchdog,
};

mod objects;
mod session;
mod space;

pub use objects::{Container, PodObject};
pub use session::{Exec, Session};
pub use space::Space;

/// The network namespace of the developer's machine.
const DEV: &str = "mirrord-dev";
/// All that the cluster has on disk; it exists while one is up.
const STATE: &str = "/var/tmp/mirrord-cluster";
/// The node's address, as node ports and the API server answer there.
pub const NODE: &str = "10.200.0.1";

/// Makes sure that the cluster is up, and that the agent's image in it is of the agent that was built last.
pub(crate) fn ready() {
    static ONCE: OnceLock<()> = OnceLock::new();
    // What others wait for here is the building of programs, once.
    watchdog::pause();
    ONCE.get_or_init(|| {
        machine::ready();
        let archive = built().parent().unwrap().join("images/agent.tar");
        script("../scripts/image.sh", &["archive", archive.to_str().unwrap()]);
        if !Path::new(STATE).exists() {
            sys::at_exit(take_down);
            script("cluster/up.sh", &[]);
        }
        script("cluster/load.sh", &[archive.to_str().unwrap()]);
    });
}

extern "C" fn take_down() {
    let _ = Command::new(manifest().join("cluster/down.sh")).stdin(Stdio::null()).status();
}

/// The image that [`ready`] has loaded: what `agent.image` says by default in this version.
pub fn agent_image() -> String {
    format!("mirrord-agent:{}", env!("CARGO_PKG_VERSION"))
}

/// A command on the developer's machine, as cluster administrator.
pub fn dev(program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{DEV}")).arg("--").arg(program).env("KUBECONFIG", kubeconfig("admin"));
    command
}

/// A way into the network of the developer's machine.
pub fn developer() -> Handle {
    Handle::named(DEV)
}

/// A user's credentials: `admin`, or `developer`, who may nothing but what a test's Role says.
pub fn kubeconfig(user: &str) -> PathBuf {
    Path::new(STATE).join(format!("{user}.kubeconfig"))
}

/// kubectl.
pub(crate) fn kubectl() -> Command {
    dev(Path::new(STATE).join("kubectl").to_str().unwrap())
}

/// `kill` or `start` for one of the cluster's own programs: `apiserver`, `kubelet`, `containerd`, `proxy`, … as `tests/cluster/component.sh` has it.
#[track_caller]
pub fn component(action: &str, name: &str) {
    script("cluster/component.sh", &[action, name]);
}

/// One of the project's scripts, run to its end; what it says is seen, as it may take long.
#[track_caller]
fn script(path: &str, arguments: &[&str]) {
    let path = manifest().join(path);
    let status = Command::new(&path).args(arguments).stdin(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{} {arguments:?}: {status:?}", path.display());
}

/// A command on the node itself, where containerd's socket is. Its output.
#[track_caller]
pub fn on_node(words: &[&str]) -> String {
    run(&mut node(words))
}

/// The same for one that may fail: its output and its complaints.
pub fn try_on_node(words: &[&str]) -> Result<String, String> {
    let output = output(node(words).stdin(Stdio::null()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

fn node(words: &[&str]) -> Command {
    let pid = std::fs::read_to_string(Path::new(STATE).join("pid/node")).unwrap();
    let mut command = Command::new("nsenter");
    command.args(["--target", pid.trim(), "--net", "--mount", "--"]).args(words);
    command
}
