//! What a session can be aimed at, and several sessions and ports beside each other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{fs, path::PathBuf, thread};

use mirrord_tests::{
    Exec, Others, Pod, Program, eventually,
    pod::{WEB, WEB_TOO},
    processes::Process,
    session::{ME, USER_ME},
};

const USER_YOU: &str = r#"{"name":"x-user","value":"you"}"#;
const YOU: &str = "x-user: you";

#[test]
fn ipv4_and_ipv6_are_stolen_alike() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    for (address, client) in [(pod.address(WEB), pod.client_v4.to_string()), (pod.address_v6(WEB), pod.client_v6.to_string())] {
        let path = format!("/{client}");
        assert_eq!(pod.request(address, "GET", &path).with(ME).send().who(), "program one");
        assert_eq!(pod.request(address, "GET", &path).send().who(), "pod");
        let seen = session.seen();
        assert_eq!((seen.last().unwrap().peer.to_string(), seen.last().unwrap().local), (client, WEB));
    }
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_program_on_ipv4_alone_gets_ipv6_clients_too() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::asyncio("one", &[WEB]));
    assert_eq!(pod.request(pod.address_v6(WEB), "GET", "/six").with(ME).send().who(), "program one");
    assert_eq!(pod.request(pod.address(WEB), "GET", "/four").with(ME).send().who(), "program one");
    assert_eq!(session.seen().len(), 2);
}

#[test]
fn the_pod_calling_itself_is_stolen_too() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let own = [format!("http://{}/own", pod.v4), format!("http://[{}]/own", pod.v6)];
    for url in ["http://localhost/own", "http://127.0.0.1/own", "http://[::1]/own", &own[0], &own[1]] {
        assert_eq!(pod.curl_inside(&format!("-H x-user:me {url}")), "program one GET /own body=0\n", "{url}");
        assert_eq!(pod.curl_inside(url), "pod GET /own\n", "{url}");
    }
    session.end();
    assert_eq!(pod.curl_inside("-H x-user:me http://localhost/own"), "pod GET /own\n");
    pod.assert_pristine();
}

#[test]
fn two_ports_of_one_session() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB, WEB_TOO]));
    for port in [WEB, WEB_TOO] {
        assert_eq!(pod.request(pod.address(port), "GET", "/").with(ME).send().who(), "program one");
        assert_eq!(pod.request(pod.address(port), "GET", "/").send().who(), "pod");
        assert_eq!(session.seen().last().unwrap().local, port);
    }
    session.end();
    pod.assert_pristine();
}

#[test]
fn of_two_sessions_on_one_port_the_older_is_asked_first_and_either_may_end() {
    let pod = Pod::alone();
    // Both want the requests of `me`, the second also those of `you`: each filter is a session's own.
    let older = Exec::steal_mine(&pod).run(&Program::c("older", &[WEB]));
    let younger = Exec::steal(&pod).filter("header", r#"{"name":"x-either","value":"1"}"#).run(&Program::c("younger", &[WEB]));
    let both = |headers: &[&str]| headers.iter().fold(pod.get("/"), |request, header| request.with(header)).send().who();
    eventually("the younger session is on the port", || (both(&["x-either: 1"]) == "program younger").then_some(()));
    assert_eq!(both(&[ME]), "program older");
    assert_eq!(both(&[ME, "x-either: 1"]), "program older", "both want it: the older gets it");
    assert_eq!(both(&[]), "pod");
    assert_eq!(pod.agent(), pod.agent(), "one agent for both");

    let others = Others::load(&pod);
    older.end();
    assert_eq!(both(&[ME, "x-either: 1"]), "program younger", "the older has ended");
    assert_eq!(both(&[ME]), "pod");
    let again = Exec::steal_mine(&pod).run(&Program::c("again", &[WEB]));
    eventually("a third session is on the port", || (both(&[ME]) == "program again").then_some(()));
    assert_eq!(both(&[ME, "x-either: 1"]), "program younger", "now the younger is the older one");
    younger.end();
    assert_eq!(both(&[ME, "x-either: 1"]), "program again");
    again.end();
    others.stop().assert_undisturbed(500);
    pod.assert_pristine();
}

#[test]
fn two_sessions_with_different_values_of_one_header() {
    let pod = Pod::new();
    let mine = Exec::steal_mine(&pod).run(&Program::python("mine", &[WEB]));
    let yours = Exec::steal(&pod).filter("header", USER_YOU).run(&Program::python("yours", &[WEB]));
    eventually("your session is on the port", || (pod.get("/").with(YOU).send().who() == "program yours").then_some(()));
    let mut client = pod.connect(WEB);
    let who: Vec<_> = [&[ME][..], &[YOU], &[], &[YOU], &[ME]].iter().map(|headers| client.get("/", headers).who()).collect();
    assert_eq!(who, ["program mine", "program yours", "pod", "program yours", "program mine"]);
    mine.end();
    let who: Vec<_> = [&[ME][..], &[YOU], &[]].iter().map(|headers| client.get("/", headers).who()).collect();
    assert_eq!(who, ["pod", "program yours", "pod"], "on the same connection");
    yours.end();
    let who: Vec<_> = [&[ME][..], &[YOU], &[]].iter().map(|headers| client.get("/", headers).who()).collect();
    assert_eq!(who, ["pod"; 3], "on the same connection, with no session left");
    drop(client);
    pod.assert_pristine();
}

#[test]
fn a_stealing_and_a_mirroring_session_beside_each_other() {
    let pod = Pod::new();
    let thief = Exec::steal_mine(&pod).run(&Program::python("thief", &[WEB]));
    let copy = Exec::mirror(&pod).filter("header", USER_YOU).run(&Program::python("copy", &[WEB]));
    eventually("the copy is on the port", || {
        assert_eq!(pod.get("/probe").with(YOU).send().who(), "pod");
        (!copy.seen().is_empty()).then_some(())
    });
    assert_eq!(pod.get("/").with(ME).send().who(), "program thief");
    assert!(copy.seen().iter().all(|seen| seen.path == "/probe"));
    assert!(thief.seen().iter().all(|seen| seen.path == "/"));
}

#[test]
fn sessions_that_start_at_once_share_one_agent_and_the_last_takes_it_along() {
    let pod = Pod::alone();
    for round in 0..3 {
        thread::scope(|scope| {
            let started: Vec<_> = (0..4)
                .map(|number| {
                    let pod = &pod;
                    scope.spawn(move || {
                        let config = format!(r#"{{"name":"x-user","value":"{number}"}}"#);
                        Exec::steal(pod).filter("header", &config).run(&Program::c(&format!("s{round}{number}"), &[WEB]))
                    })
                })
                .collect();
            let sessions: Vec<_> = started.into_iter().map(|thread| thread.join().unwrap()).collect();
            pod.agent();
            for (number, session) in sessions.iter().enumerate() {
                let header = format!("x-user: {number}");
                let who = format!("program {}", session.name);
                eventually("each gets its own", || (pod.get("/").with(&header).send().who() == who).then_some(()));
            }
            let ended: Vec<_> = sessions.into_iter().map(|session| scope.spawn(move || session.end())).collect();
            assert!(ended.into_iter().all(|thread| thread.join().is_ok()));
        });
        assert_eq!(pod.get("/").with("x-user: 0").send().who(), "pod");
    }
    pod.assert_pristine();
}

#[test]
fn a_process_is_a_target() {
    let mut pod = Pod::new();
    let process = pod.start("target", pod.inside.command("sleep").arg("1000"));
    works_on(&pod, &format!("pid/{}", process.0));
}

#[test]
fn the_program_has_the_host_name_of_a_target_that_has_one() {
    let mut pod = Pod::new();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let process = pod.start("named", pod.inside.command("unshare").args(["--uts", "sh", "-c", "hostname shop-7x && exec sleep 1000"]));
    eventually("the target has its name", || (process.program() == "sleep").then_some(()));
    let by_number = format!("pid/{}", process.0);
    let off = pod.folder.path().join("off.json");
    fs::write(&off, r#"{"feature": {"hostname": false}}"#).unwrap();
    let see = |exec: Exec, expected: &str| {
        let program =
            Program { name: "see".into(), command: ["sh", "-c", "uname -n; hostname"].map(str::to_owned).to_vec(), ports: vec![] };
        let mut session = exec.start(&program);
        assert!(session.wait().success(), "{}", session.output());
        assert_eq!(session.output(), format!("{expected}\n{expected}\n"));
    };
    see(Exec::plain(&pod).target(&by_number), "shop-7x");
    see(Exec::plain(&pod).target(&by_number).option("-f").word(off.to_str().unwrap()), &own);
    see(Exec::plain(&pod).target(&by_number).variable("MIRRORD_OVERRIDE_HOSTNAME", "mine"), "mine");
    // A network namespace has none.
    see(Exec::plain(&pod), &own);
}

#[test]
fn a_container_is_a_target_by_its_cgroup() {
    let mut pod = Pod::new();
    let process = pod.start("target", pod.inside.command("sleep").arg("1000"));
    let id = format!("{:032x}{:032x}", 0xc0ffee_u128 << 96 | u128::from(process.0), 0xabcd_u16);
    let _cgroup = Cgroup::with(&format!("docker/{id}"), process);
    works_on(&pod, &format!("container/{id}"));
    works_on(&pod, &format!("container/{}", &id[..36]));
}

fn works_on(pod: &Pod, target: &str) {
    let session = Exec::steal(pod).filter("header", USER_ME).target(target).run(&Program::python("one", &[WEB]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one", "{target}");
    assert_eq!(pod.get("/").send().who(), "pod", "{target}");
    session.end();
    pod.assert_pristine();
}

/// A cgroup with a process in it; both hierarchies' versions will do.
struct Cgroup(PathBuf);

impl Cgroup {
    fn with(path: &str, process: Process) -> Self {
        let root = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(PathBuf::from);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists()).expect("a cgroup hierarchy");
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup.procs"), process.0.to_string()).unwrap();
        Self(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let (Ok(members), Some(parent)) = (fs::read_to_string(self.0.join("cgroup.procs")), self.0.parent()) {
            for member in members.lines() {
                let _ = fs::write(parent.parent().unwrap_or(parent).join("cgroup.procs"), member);
            }
            let _ = fs::remove_dir(&self.0);
            // Fails, rightly, if it was not ours alone.
            let _ = fs::remove_dir(parent);
        }
    }
}
