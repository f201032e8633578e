//! What can be wrong with a well-formed command line is found before anything is started: exit status 1 and the next step.

#![allow(clippy::unwrap_used, reason = "these are nothing but tests")]

mod common;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use common::{Netns, Trial};

#[test]
fn targets_that_do_not_exist_or_cannot_be() {
    let (mut trial, netns) = (Trial::new(), Netns::new());
    trial.set("KUBECONFIG", "/no/such/kubeconfig");
    let exec = |target: &str| trial.run(&["exec", "-t", target, "--", "true"]);
    exec("netns/no-such").refused(1, "no network namespace `no-such`", &netns.target());
    // Above the greatest number that the kernel gives.
    exec("pid/1073741824").refused(1, "no process 1073741824", "ps");
    exec("container/0123456789abcdef").refused(1, "no running container", "docker inspect");
    exec(&format!("pid/{}", std::process::id())).refused(1, "same network namespace as mirrord", "a network of its own");
    for target in ["deployment/shop", "pod/shop/container/app"] {
        exec(target).refused(1, "the kubeconfig cannot be used", "kubectl config view");
    }
    exec("deployment/Shop").refused(2, "cannot be the name of an object", "mirrord ls");
}

#[test]
fn a_name_whose_namespace_is_gone_is_told_from_one_that_was_never_there() {
    let (trial, netns) = (Trial::new(), Netns::new());
    let name = format!("{}-stale", netns.name());
    let path = Path::new("/run/netns").join(&name);
    fs::write(&path, "").unwrap();
    let ended = trial.run(&["exec", "-t", &format!("netns/{name}"), "--", "true"]);
    fs::remove_file(&path).unwrap();
    ended.refused(1, "is gone", &format!("ip netns delete {name}"));
}

/// A real program, altered so that one thing about it is another.
fn altered(trial: &Trial, name: &str, alter: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut program = fs::read("/bin/true").unwrap();
    alter(&mut program);
    trial.file(name, program, 0o755)
}

/// Takes the loader out of a program: what is left is a static one, as far as anybody can see before it runs.
fn without_loader(program: &mut [u8]) {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let entry = (64..).step_by(56).find(|at| program[*at..*at + 4] == PT_INTERP).unwrap();
    program[entry..entry + 4].fill(0);
}

#[test]
fn programs_that_are_not_there_or_cannot_be_hooked_are_not_run() {
    let (trial, netns) = (Trial::new(), Netns::new());
    let exec = |program: &Path| trial.run(&["exec", "-t", &netns.target(), "--", program.to_str().unwrap()]);

    exec(Path::new("no-such-command")).refused(1, "no-such-command: command not found", "PATH");
    exec(Path::new("/no/such/file")).refused(1, "no such file", "path");
    exec(Path::new("/tmp")).refused(1, "is a directory", "program");
    exec(&trial.file("data", "", 0o644)).refused(1, "is not executable", "chmod +x");

    let fixed = altered(&trial, "static", |program| without_loader(program));
    exec(&fixed).refused(1, "is a static program, which cannot be hooked yet", "dynamically linked");
    let foreign = altered(&trial, "foreign", |program| program[18..20].copy_from_slice(&40u16.to_le_bytes()));
    exec(&foreign).refused(1, "another kind of processor (64 bit ARM)", "for this machine");
    let short = altered(&trial, "short", |program| program.truncate(40));
    exec(&short).refused(1, "it is no ELF program", "for this machine");

    let setuid = altered(&trial, "setuid", |_| ());
    chown(&setuid, Some(65534), None).unwrap();
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
    exec(&setuid).refused(1, "rights of its own (setuid)", "copy of it");

    let by_static = trial.file("script", format!("#!{} -x\n", fixed.display()), 0o755);
    let over_env = trial.file("over-env", format!("#!/usr/bin/env {}\n", fixed.display()), 0o755);
    let over_script = trial.file("over-script", format!("#!{}\n", by_static.display()), 0o755);
    for script in [by_static, over_env, over_script] {
        exec(&script).refused(1, "static is a static program", "dynamically linked");
    }
    exec(&trial.file("orphan", "#!/no/such/interpreter\n", 0o755)).refused(1, "/no/such/interpreter is missing", "first line");
    exec(&trial.file("lost", "#!/usr/bin/env no-such\n", 0o755)).refused(1, "no-such is missing", "install it");
    let endless = trial.path().join("endless");
    trial.file("endless", format!("#!{}\n", endless.display()), 0o755);
    exec(&endless).refused(1, "without end", "interpreter");
}

#[test]
fn a_real_static_program_is_known() {
    // Debian's is static; where it is not, the altered program above has to do.
    let program = Path::new("/sbin/ldconfig");
    let (trial, netns) = (Trial::new(), Netns::new());
    if fs::read(program).is_ok_and(|bytes| !bytes.windows(11).any(|part| part == b"/ld-linux-x")) {
        trial.run(&["exec", "-t", &netns.target(), "--", "/sbin/ldconfig"]).refused(1, "is a static program", "dynamically linked");
    }
}

#[test]
fn files_of_the_session_that_cannot_be_read_are_named() {
    let (mut trial, netns) = (Trial::new(), Netns::new());
    let target = netns.target();
    let missing = trial.path().join("no.wasm");
    let missing = missing.to_str().unwrap();
    trial.run(&["exec", "-t", &target, "--filter", missing, "--", "true"]).refused(1, "no.wasm cannot be read", "--filter");
    trial.run(&["exec", "-t", &target, "--filter", "/tmp", "--", "true"]).refused(1, "not a regular file", "Wasm module");
    let filter = trial.file("some.wasm", b"\0asm", 0o644);
    let filter = filter.to_str().unwrap();
    let config = format!("@{missing}");
    trial.run(&["exec", "-t", &target, "--filter", filter, "--filter-config", &config, "--", "true"]).refused(
        1,
        "configuration",
        "--filter-config @",
    );
    trial.set("MIRRORD_LAYER_FILE", "/no/such/layer.so");
    trial.run(&["exec", "-t", &target, "--", "true"]).refused(1, "layer library is missing: /no/such/layer.so", "MIRRORD_LAYER_FILE");
}

#[test]
fn missing_privileges_are_named() {
    let (trial, netns) = (Trial::new(), Netns::new());
    let ended = trial.run_as_nobody(&["exec", "-t", &netns.target(), "--", "true"]);
    ended.refused(1, "cap_net_admin", "sudo");
    assert!(!ended.stderr.contains("cap_sys_ptrace"), "a namespace with a name needs none of it: {}", ended.stderr);
    trial.run_as_nobody(&["exec", "-t", "pid/1", "--", "true"]).refused(1, "cap_sys_ptrace", "setcap");
}

#[test]
fn inside_a_session_there_is_no_second_one() {
    let (mut trial, netns) = (Trial::new(), Netns::new());
    trial.set("MIRRORD_RESOLVED_CONFIG", "{}");
    trial.run(&["exec", "-t", &netns.target(), "--", "true"]).refused(1, "already inside a mirrord session", "MIRRORD_RESOLVED_CONFIG");
}

#[test]
fn a_container_is_found_by_its_cgroup() {
    let (trial, netns) = (Trial::with_agent("echo \"$@\" > \"$0.arguments\"; exit 7"), Netns::new());
    let sleeper = netns.sleeper().in_namespace(&netns);
    let cgroup =
        Cgroup::new("mirrord0c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffee0c0ffee".replace("mirrord", "5ca1ab1e"), sleeper.pid());
    let ended = trial.run(&["exec", "-t", &format!("container/{}", &cgroup.id[..12]), "--", "true"]);
    drop(cgroup);
    assert_eq!((ended.status, ended.agents), (Some(1), 1), "{ended:?}");
    let arguments = fs::read_to_string(trial.path().join("agent.arguments")).unwrap();
    assert_eq!(arguments.trim(), format!("--netns /proc/{}/ns/net --socket {}", sleeper.pid(), netns.socket().display()));
}

/// A cgroup as docker makes it, with one process in it; the process is moved out again at the end.
struct Cgroup {
    root: PathBuf,
    path: PathBuf,
    id: String,
    pid: u32,
}

impl Cgroup {
    fn new(id: String, pid: u32) -> Self {
        assert_eq!(id.len(), 64);
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let root = if v1.exists() { v1 } else { Path::new("/sys/fs/cgroup") }.to_owned();
        let path = root.join(format!("mirrord-docker-{id}.scope"));
        fs::create_dir(&path).unwrap();
        let cgroup = Self { root, path, id, pid };
        cgroup.enter(&cgroup.path).unwrap();
        cgroup
    }

    fn enter(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("cgroup.procs"), self.pid.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.enter(&self.root);
        let _ = fs::remove_dir(&self.path);
    }
}
