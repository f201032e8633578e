//! Filters of a running session are replaced: under load no request fails, new requests meet the new version at once, and a version
//! that is refused changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use mirrord_tests::{
    Exec, Others, Pod, Program,
    machine::{built, filter},
    pod::WEB,
    session::Delivery,
};

/// How long the bytes of a response may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Config that steals what carries the header `x-turn` with this value.
fn config(turn: &str) -> String {
    format!(r#"{{"name":"x-turn","value":"{turn}"}}"#)
}

fn push(session: u32, words: &[&str]) -> Output {
    Command::new(built().join("mirrord")).args(["filter", "push", "--session", &session.to_string()]).args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A module of its own name, so that a push finds its place by name.
fn module(folder: &Path, name: &str, source: &str) -> PathBuf {
    let path = folder.join(name);
    fs::copy(filter(source), &path).unwrap();
    path
}

#[test]
fn under_load_no_request_fails_and_the_new_version_is_there_within_a_second() {
    for delivery in Delivery::ALL {
        let pod = Pod::alone();
        let module = module(pod.folder.path(), "turn.wasm", "header");
        let path = module.to_str().unwrap();
        let exec = Exec::steal(&pod).delivery(delivery).option("--filter").option(path).option("--filter-config").option(&config("0"));
        let session = exec.run(&Program::c("mine", &[WEB]));
        let pid = session.cli().0;
        let turn = |turn: usize| pod.get("/").with(&format!("x-turn: {turn}")).send().who();
        assert_eq!((turn(0), turn(1)), ("program mine".into(), "pod".into()));
        // Half of what the 64 clients ask goes to the pod, half of them with kept connections, whichever version is asked.
        let load = Others::load(&pod);
        let own = Others::load_with(&pod, 8, &["x-turn: none"]);
        load.wait_for(500);
        let mut slowest = Duration::ZERO;
        for next in 1..=10 {
            let began = Instant::now();
            let pushed = push(pid, &[path, "--config", &config(&next.to_string())]);
            assert!(pushed.status.success(), "{}", text(&pushed.stderr));
            assert_eq!((turn(next - 1), turn(next)), ("pod".into(), "program mine".into()), "after push {next}");
            slowest = slowest.max(began.elapsed());
            load.wait_for(100);
        }
        println!("{delivery:?}: the slowest of ten pushes took {slowest:.1?}");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        load.stop().assert_undisturbed(1000);
        own.stop().assert_undisturbed(10);
        drop(session);
        pod.assert_pristine();
    }
}

#[test]
fn a_version_that_is_refused_is_not_taken_and_the_old_one_stays() {
    let pod = Pod::new();
    let good = module(pod.folder.path(), "mine.wasm", "header");
    let session =
        Exec::steal(&pod).option(&format!("--filter {} --filter-config {}", good.display(), config("a"))).run(&Program::c("mine", &[WEB]));
    let pid = session.cli().0;
    let who = |turn: &str| pod.get("/").with(&format!("x-turn: {turn}")).send().who();
    let bad = [
        ("no-abi", "no known filter ABI"),
        ("abi-2", "version 2"),
        ("imports-wasi", "imports"),
        ("loop-configure", "does not start"),
        ("refuses", "refuses its config"),
    ];
    for (name, why) in bad {
        let path = filter(name);
        let pushed = push(pid, &[path.to_str().unwrap(), "--link", "1"]);
        let error = text(&pushed.stderr);
        assert!(pushed.status.code() == Some(1) && error.contains(why) && error.contains("goes on with the filter"), "{name}: {error}");
        assert_eq!((who("a"), who("b")), ("program mine".into(), "pod".into()), "after {name}");
    }
    let pushed = push(pid, &[good.to_str().unwrap(), "--config", "no config"]);
    assert!(text(&pushed.stderr).contains("not JSON"), "{}", text(&pushed.stderr));
    let pushed = push(pid, &[good.to_str().unwrap(), "--link", "2"]);
    assert!(text(&pushed.stderr).contains("place 2") && pushed.status.code() == Some(2), "{}", text(&pushed.stderr));
    assert_eq!(who("a"), "program mine");
    // After all that a good one is taken.
    assert!(push(pid, &[good.to_str().unwrap(), "--config", &config("b")]).status.success());
    assert_eq!((who("a"), who("b")), ("pod".into(), "program mine".into()));
    drop(session);
    pod.assert_pristine();
}

#[test]
fn a_request_that_is_under_way_ends_on_the_version_that_took_it() {
    let pod = Pod::new();
    let good = module(pod.folder.path(), "mine.wasm", "header");
    let session =
        Exec::steal(&pod).option(&format!("--filter {} --filter-config {}", good.display(), config("a"))).run(&Program::c("mine", &[WEB]));
    let mut kept = pod.connect(WEB);
    assert_eq!(kept.get("/", &["x-turn: a"]).header("x-mirrord-filter").as_deref(), Some("header"));
    // A response that is under way: much of it still lies with the program, as nobody reads it.
    const LENGTH: usize = 32 << 20;
    kept.send(format!("GET /bytes/{LENGTH} HTTP/1.1\r\nhost: shop\r\nx-turn: a\r\n\r\n").as_bytes());
    let mut seen = kept.read_up_to(1000, PATIENCE);
    assert!(String::from_utf8_lossy(&seen).contains("x-mirrord-filter: header"), "{}", text(&seen));
    assert!(push(session.cli().0, &[good.to_str().unwrap(), "--config", &config("b")]).status.success());
    let head = seen.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    while seen.len() < head + LENGTH {
        let more = kept.read_up_to(head + LENGTH - seen.len(), PATIENCE);
        assert!(!more.is_empty(), "it ends after {} bytes", seen.len());
        seen.extend(more);
    }
    // The next one on the same connection meets the new version.
    assert_eq!(kept.get("/", &["x-turn: a"]).who(), "pod");
    assert_eq!(kept.get("/", &["x-turn: b"]).who(), "program mine");
    drop((kept, session));
    pod.assert_pristine();
}
