//! What goes wrong is told in a user's words with the next step, with an exit status of its own, and changes nothing in the pod.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

use mirrord_tests::{
    Exec, Pod, Program, eventually, machine,
    pod::WEB,
    session::{ME, shell_status},
};

#[test]
fn no_such_target() {
    let pod = Pod::new();
    for (target, says) in [
        ("netns/nowhere-at-all", "nowhere-at-all"),
        ("pid/4194303", "4194303"),
        ("container/0123456789ab", "0123456789ab"),
        ("spaceship/1", "spaceship"),
    ] {
        refused(&pod, Exec::steal_mine(&pod).target(target), &["true"], &[says]);
    }
}

#[test]
fn missing_privileges_are_named() {
    let pod = Pod::new();
    let folder = copy_of_the_product(&pod);
    let exec = Exec::steal_mine(&pod).binary(folder.join("mirrord"));
    let whole = exec.command(&["true".into()]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(whole.get_program()).args(whole.get_args());
    command.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    check(&pod, &machine::output(&mut command), &["sudo", "cap_net_admin"]);
}

#[test]
fn iptables_missing() {
    let pod = Pod::new();
    let whole = Exec::steal_mine(&pod).command(&["true".into()]);
    // A view of this machine's files in which the folder of the firewall's programs is empty.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", "mount -t tmpfs none /usr/sbin && exec \"$@\"", "sh"]);
    command.arg(whole.get_program()).args(whole.get_args());
    command.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    check(&pod, &machine::output(&mut command), &["iptables", "install"]);
}

#[test]
fn not_a_wasm_file() {
    let pod = Pod::new();
    let file = pod.folder.path().join("not.wasm");
    fs::write(&file, b"\x7fELF and so on").unwrap();
    refused(&pod, Exec::steal(&pod).option(&format!("--filter {}", file.display())), &["true"], &["not.wasm"]);
    refused(&pod, Exec::steal(&pod).option("--filter /nowhere/x.wasm"), &["true"], &["/nowhere/x.wasm"]);
}

#[test]
fn a_wasm_file_of_no_known_abi() {
    let pod = Pod::new();
    refused(&pod, Exec::steal(&pod).filter("no-abi", ""), &["true"], &["no-abi.wat"]);
    refused(&pod, Exec::steal(&pod).filter("abi-2", ""), &["true"], &["abi-2.wat"]);
    refused(&pod, Exec::steal(&pod).filter("proxy-wasm", ""), &["true"], &["proxy-wasm"]);
    refused(&pod, Exec::steal(&pod).filter("imports-wasi", ""), &["true"], &["imports-wasi.wat"]);
}

#[test]
fn a_filter_that_refuses_its_config() {
    let pod = Pod::new();
    refused(&pod, Exec::steal(&pod).filter("refuses", ""), &["true"], &["refuses.wat", "the moon is not full"]);
    refused(&pod, Exec::steal(&pod).filter("header", r#"{"nome":"x-user"}"#), &["true"], &["header.wasm"]);
    refused(&pod, Exec::steal(&pod).filter("header", "{"), &["true"], &["header.wasm"]);
    refused(&pod, Exec::steal(&pod).filter("loop-configure", ""), &["true"], &["loop-configure.wat"]);
}

#[test]
fn port_0_and_other_ports_that_are_none() {
    let pod = Pod::new();
    for port in ["0", "80:0", "0:80", "65536", "http", "-1", "80:"] {
        refused(&pod, Exec::steal_mine(&pod).option(&format!("-p {port}")), &["true"], &[port]);
    }
}

#[test]
fn options_that_contradict_each_other() {
    let pod = Pod::new();
    refused(&pod, Exec::steal(&pod).option("--mirror"), &["true"], &["steal", "mirror"]);
    refused(&pod, Exec::steal(&pod).option("--filter-config {}"), &["true"], &["filter"]);
    refused(&pod, Exec::steal_mine(&pod), &[], &["no command"]);
}

#[test]
fn command_not_found() {
    let pod = Pod::new();
    refused(&pod, Exec::steal_mine(&pod), &["no-such-command-anywhere"], &["no-such-command-anywhere"]);
    refused(&pod, Exec::steal_mine(&pod), &["/nowhere/at/all"], &["/nowhere/at/all"]);
    let plain = pod.folder.path().join("plain-file");
    fs::write(&plain, "text").unwrap();
    refused(&pod, Exec::steal_mine(&pod), &[plain.to_str().unwrap()], &["plain-file"]);
}

#[test]
fn a_static_binary_is_not_run() {
    let pod = Pod::new();
    let program = Program::static_c("one", &[WEB]);
    let log = pod.folder.path().join("static.log");
    let words: Vec<_> = program.command.iter().map(|word| word.replace("{log}", log.to_str().unwrap())).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    refused(&pod, Exec::steal_mine(&pod), &words, &["static"]);
    assert!(!log.exists(), "it was run all the same");
}

#[test]
fn the_agent_killed_while_the_session_runs() {
    let pod = Pod::new();
    let mut session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    pod.agent().kill();
    let status = session.wait();
    let output = session.output();
    assert_ne!(shell_status(status), 0, "{output}");
    assert!(output.contains("agent") && output.contains("help:"), "{output}");
    eventually("the pod has its traffic back", || (pod.get("/").with(ME).send().who() == "pod").then_some(()));
    drop(session);
    pod.assert_pristine();
}

/// Runs it to its end; it must fail, say these words and a next step, and have changed nothing.
#[track_caller]
fn refused(pod: &Pod, exec: Exec<'_>, command: &[&str], says: &[&str]) {
    let words: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
    check(pod, &machine::output(&mut exec.command(&words)), says);
}

#[track_caller]
fn check(pod: &Pod, output: &Output, says: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    println!("{}", text.trim());
    assert!(!output.status.success(), "it went well: {text}");
    for word in says {
        assert!(text.contains(word), "`{word}` is not said in: {text}");
    }
    assert!(text.contains("help:") || text.contains("--help"), "no next step in: {text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    pod.assert_pristine();
}

/// Copies of the built programs where any user may run them.
fn copy_of_the_product(pod: &Pod) -> PathBuf {
    let folder = pod.folder.path().join("product");
    fs::create_dir(&folder).unwrap();
    for name in ["mirrord", "mirrord-agent", "libmirrord_layer.so"] {
        fs::copy(machine::built().join(name), folder.join(name)).unwrap();
    }
    for open in [pod.folder.path(), &folder] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}
