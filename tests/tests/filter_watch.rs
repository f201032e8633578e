//! A filter is written while the session that uses it runs: each save that compiles is what requests meet soon after, no request fails
//! for it, and what does not compile, or is refused, leaves the filter that is there and says so where the session runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use mirrord_tests::{
    Exec, Others, Pod, Program, Session, eventually,
    http::Client,
    machine::{self, MARK, built, filter},
    pod::WEB,
};

/// How long after a build the new version may take to be the one that requests meet.
const SOON: Duration = Duration::from_secs(2);

fn mirrord(pod: &Pod, words: &[&str]) -> Command {
    let mut command = Command::new(built().join("mirrord"));
    command.args(words).env(MARK, pod.mark()).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A project in C: it builds in no time.
fn project(pod: &Pod) -> PathBuf {
    let folder = pod.folder.path().join("mine");
    machine::run(&mut mirrord(pod, &["filter", "new", folder.to_str().unwrap(), "--lang", "c"]));
    folder
}

/// Who answers a request of user `me` by this header.
fn who(pod: &Pod, header: &str) -> String {
    pod.get("/").with(&format!("{header}: me")).send().who()
}

/// Saves the source and waits until the session's terminal says this.
#[track_caller]
fn save_and_hear(session: &Session<'_>, source: &Path, content: &str, words: &str) {
    let before = session.output().len();
    fs::write(source, content).unwrap();
    eventually(&format!("{words:?} is said"), || session.output()[before..].contains(words).then_some(()));
}

#[test]
fn each_version_that_is_saved_is_what_requests_meet_and_a_bad_one_changes_nothing() {
    let pod = Pod::new();
    let folder = project(&pod);
    let (source, module) = (folder.join("filter.c"), folder.join("build/mine.wasm"));
    let first = fs::read_to_string(&source).unwrap();
    let other = |name: &str| first.replace("\"x-user\"", &format!("\"{name}\""));
    // Nothing is built before: the session begins with what the sources say.
    let exec = Exec::steal(&pod).option("--filter-watch").option("--filter").word(folder.to_str().unwrap());
    let session = exec.run(&Program::c("mine", &[WEB]));
    assert_eq!((who(&pod, "x-user"), who(&pod, "x-turn")), ("program mine".into(), "pod".into()));
    let others = Others::load(&pod);
    let over = Arc::new(AtomicBool::new(false));
    let own: Vec<_> = (0..4).map(|_| stolen(&pod, &over)).collect();
    others.wait_for(200);

    let mut slowest = Duration::ZERO;
    for (new, old) in [("x-turn", "x-user"), ("x-user", "x-turn"), ("x-turn", "x-user")] {
        let built_before = fs::metadata(&module).unwrap().modified().unwrap();
        fs::write(&source, other(new)).unwrap();
        let built_at = eventually("it is built", || {
            let built: SystemTime = fs::metadata(&module).ok()?.modified().ok()?;
            (built != built_before).then(Instant::now)
        });
        eventually("the new version decides", || (who(&pod, new) == "program mine").then_some(()));
        slowest = slowest.max(built_at.elapsed());
        assert_eq!(who(&pod, old), "pod");
    }
    println!("from a finished build to the new version: {slowest:.1?} at most");
    assert!(slowest < SOON, "{slowest:?}");

    let as_before = || assert_eq!((who(&pod, "x-turn"), who(&pod, "x-user")), ("program mine".into(), "pod".into()));
    save_and_hear(&session, &source, "int broken(", "does not compile");
    assert!(session.output().contains("filter.c:1"), "the compiler's own words are missing in\n{}", session.output());
    as_before();
    let of_another_abi = other("x-user").replace("mirrord_abi_version_1", "mirrord_abi_version_2");
    save_and_hear(&session, &source, &of_another_abi, "goes on with the filter that it has");
    assert!(session.output().contains("version 2"), "{}", session.output());
    as_before();
    let refusing = other("x-user").replace("if (user_len > (int)sizeof user)", "if (user_len < 1000)");
    save_and_hear(&session, &source, &refusing, "refuses its config");
    as_before();
    save_and_hear(&session, &source, &other("x-user"), "filter mine.wasm was replaced");
    assert_eq!((who(&pod, "x-turn"), who(&pod, "x-user")), ("pod".into(), "program mine".into()));

    others.stop().assert_undisturbed(1000);
    over.store(true, Ordering::Relaxed);
    for client in own {
        let answered = client.join().unwrap();
        assert!(answered > 100, "only {answered} requests of the session's own: they prove nothing");
    }
    session.end();
    pod.assert_pristine();
}

/// Requests that each version takes, on one connection for as long as the others; how many the program has answered.
fn stolen(pod: &Pod, over: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (to, over) = (pod.address(WEB), over.clone());
    pod.clients.spawn(move || {
        let mut client = Client::over(TcpStream::connect(to).unwrap()).unwrap();
        let mut answered = 0;
        while !over.load(Ordering::Relaxed) {
            assert_eq!(client.get("/own", &["x-user: me", "x-turn: me"]).who(), "program mine");
            answered += 1;
        }
        answered
    })
}

/// A `mirrord filter watch` by itself. Dropping it ends it.
struct Watch(Child, PathBuf);

impl Watch {
    fn start(pod: &Pod, words: &[&str]) -> Self {
        let out = pod.folder.path().join("watch.out");
        let mut command = mirrord(pod, &[&["filter", "watch"], words].concat());
        let file = File::create(&out).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let watch = Self(child, out);
        watch.hear("watching");
        watch
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.1).unwrap()
    }

    #[track_caller]
    fn hear(&self, words: &str) {
        eventually(&format!("{words:?} is said by watch"), || self.said().contains(words).then_some(()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- watch:\n{}", self.said());
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_module_that_something_else_builds_is_watched_too_and_the_sessions_end_is_the_watchs() {
    let pod = Pod::new();
    let module = pod.folder.path().join("mine.wasm");
    fs::copy(filter("respond"), &module).unwrap();
    let path = module.to_str().unwrap();
    let session = Exec::steal(&pod).option("--filter").word(path).run(&Program::c("mine", &[WEB]));
    let mut watch = Watch::start(&pod, &[path, "--session", &session.cli().0.to_string()]);
    let status = || pod.get("/").send().status;
    let answered = status();
    assert_ne!(answered, 200, "the filter itself answers");
    fs::write(&module, "half of a mod").unwrap();
    watch.hear("goes on with the filter that it has");
    assert_eq!(status(), answered);
    fs::copy(filter("trap"), &module).unwrap();
    eventually("the new module decides", || (status() == 200).then_some(()));
    watch.hear("uses the new mine.wasm");
    session.end();
    let ended = eventually("the watch ends", || watch.0.try_wait().unwrap());
    assert!(ended.success(), "{ended}: {}", watch.said());
    pod.assert_pristine();
}

#[test]
fn the_list_has_each_session_with_its_chain_and_a_push_that_could_be_for_two_asks_which() {
    let (one, two) = (Pod::new(), Pod::new());
    let condition = Exec::steal_mine(&one).option("--path-filter ^/mine");
    let (first, second) = (condition.run(&Program::c("one", &[WEB])), Exec::steal_mine(&two).run(&Program::c("two", &[WEB])));
    let list = machine::output(&mut mirrord(&one, &["filter", "push", "--list"]));
    let listed = String::from_utf8(list.stdout).unwrap();
    for (session, chain) in [(&first, "server: header.wasm, "), (&second, "server: header.wasm")] {
        let line = listed.lines().find(|line| line.starts_with(&format!("{} ", session.cli().0)));
        let line = line.unwrap_or_else(|| panic!("session {} is not in\n{listed}", session.cli().0));
        assert!(line.contains(chain), "{line}");
    }
    let module = filter("header");
    let which = machine::output(&mut mirrord(&one, &["filter", "push", module.to_str().unwrap()]));
    assert!(which.status.code() == Some(2) && text(&which).contains("--session PID"), "{}", text(&which));
    let pid = second.cli().0.to_string();
    let named = machine::output(&mut mirrord(&one, &["filter", "push", module.to_str().unwrap(), "--session", &pid]));
    assert!(named.status.success() && text(&named).contains(&format!("session {pid} (")), "{}", text(&named));
    first.end();
    second.end();
    for pod in [one, two] {
        pod.assert_pristine();
    }
}
