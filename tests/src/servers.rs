//! Servers of other protocols, as they are installed: redis, PostgreSQL, sshd; and the programs of `tests/programs/` in the pod.
//!
//! Each can run in the pod ([`in_pod`]) or as a session's program, and each tells clients which of the two it is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    machine::run,
    pod::Pod,
    programs::{Program, log_lines},
    wait::eventually,
};

/// Starts a program in the pod, where it lives as long as the pod does. Gives its log once it listens there.
#[track_caller]
pub fn in_pod(pod: &mut Pod, program: &Program) -> PathBuf {
    let log = pod.folder.path().join(format!("{}.pod-log", program.name));
    let words: Vec<_> = program.command.iter().map(|word| word.replace("{log}", log.to_str().unwrap())).collect();
    let mut command = pod.inside.command(&words[0]);
    pod.start(&format!("{}.pod", program.name), command.args(&words[1..]));
    for port in &program.ports {
        wait_for_listener(pod, *port);
    }
    log
}

/// Waits until somebody in the pod listens on this port, without a connection that the server would notice.
#[track_caller]
pub fn wait_for_listener(pod: &Pod, port: u16) {
    let mine = format!(":{port:04X}");
    eventually(&format!("somebody in the pod listens on {port}"), || {
        let sockets = pod.inside.run(|| ["tcp", "tcp6"].map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap()));
        let mut lines = sockets.iter().flat_map(|text| text.lines());
        // The second field is the own address, the fourth the state: 0A is "listens".
        lines
            .any(|line| {
                let fields: Vec<_> = line.split_whitespace().collect();
                fields.get(1).is_some_and(|own| own.ends_with(&mine)) && fields.get(3) == Some(&"0A")
            })
            .then_some(())
    });
}

/// Lines of a log that [`in_pod`] gave.
pub fn lines(log: &Path) -> Vec<String> {
    log_lines(log)
}

/// A folder of this pod for a server's own files.
fn folder(pod: &Pod, name: &str) -> PathBuf {
    let folder = pod.folder.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn program(name: &str, port: u16, words: &str) -> Program {
    Program { name: name.into(), command: words.split_whitespace().map(str::to_owned).collect(), ports: vec![port] }
}

/// redis; `CONFIG GET dir` ends with its name.
pub fn redis(pod: &Pod, name: &str, port: u16) -> Program {
    let folder = folder(pod, name);
    // No --save: a save would write into the folder while it is being removed.
    let mut redis = program(name, port, &format!("redis-server --port {port} --protected-mode no --dir {}", folder.display()));
    redis.command.extend(["--save".into(), String::new()]);
    redis
}

/// PostgreSQL with a throw-away cluster, as the user `postgres`; `show cluster_name` gives its name.
pub fn postgres(pod: &Pod, name: &str, port: u16) -> Program {
    let folder = folder(pod, name);
    // The pod's folder is root's; its servers' users may pass through.
    fs::set_permissions(pod.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    run(Command::new("chown").arg("postgres").arg(&folder));
    let (binaries, data) = (postgres_binaries(), folder.join("data"));
    run(Command::new("runuser")
        .current_dir("/")
        .args(["-u", "postgres", "--"])
        .arg(binaries.join("initdb"))
        .args(["-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
        .arg(&data));
    fs::write(data.join("pg_hba.conf"), "host all all all trust\n").unwrap();
    let (postgres, data) = (binaries.join("postgres").display().to_string(), data.display());
    let options = format!("-c listen_addresses=* -c port={port} -c fsync=off -c cluster_name={name} -c unix_socket_directories=");
    program(name, port, &format!("runuser -u postgres -- {postgres} -D {data} {options}"))
}

/// Debian keeps them by version and out of the path.
fn postgres_binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: run `make setup` first");
    let mut folders: Vec<_> = versions.flatten().map(|version| version.path().join("bin")).collect();
    folders.retain(|folder| folder.join("initdb").exists());
    folders.sort();
    folders.pop().expect("PostgreSQL's server is missing: run `make setup` first")
}

/// sshd, and its host key as `ssh-keyscan` shows it.
pub fn sshd(pod: &Pod, name: &str, port: u16) -> (Program, String) {
    let key = folder(pod, name).join("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let public = public.split_whitespace().nth(1).unwrap().to_owned();
    // It insists on its folder in /run, which is made where only it can see it. Without -r it would start itself anew for each
    // connection, by its absolute path and with little of its environment.
    let folder = "mount -t tmpfs tmpfs /run && mkdir /run/sshd";
    let sshd = format!("exec /usr/sbin/sshd -D -e -r -f /dev/null -h {} -p {port} -o PidFile=none -o UsePAM=no", key.display());
    let mut program = program(name, port, "unshare --mount sh -c");
    program.command.push(format!("{folder} && {sshd}"));
    (program, public)
}
