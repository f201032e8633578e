//! `mirrord filter`: from nothing to a filter that runs, and what each step says when it fails. No agent is needed for any of it.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::{Ended, Trial};

/// `mirrord filter …` in a folder.
fn filter(trial: &Trial, folder: &Path, words: &[&str]) -> Ended {
    let words: Vec<_> = ["filter"].iter().chain(words).copied().collect();
    trial.ended(trial.command(&words).current_dir(folder).output().unwrap())
}

fn guest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/filters/tests/guests").join(name);
    fs::canonicalize(path).unwrap().to_str().unwrap().to_owned()
}

/// A filter that builds quickly, whose source is replaced.
fn project(trial: &Trial, lang: &str) -> PathBuf {
    let made = filter(trial, trial.path(), &["new", "demo", "--lang", lang]);
    assert_eq!(made.status, Some(0), "{}", made.stderr);
    trial.path().join("demo")
}

#[test]
fn a_new_rust_filter_builds_and_its_tests_pass_within_a_minute() {
    let trial = Trial::new();
    let began = Instant::now();
    let folder = project(&trial, "rust");
    for step in ["build", "test", "check"] {
        let ended = filter(&trial, &folder, &[step]);
        assert_eq!(ended.status, Some(0), "{step}: {}\n{}", ended.stdout, ended.stderr);
    }
    let took = began.elapsed();
    println!("new, build, test and check: {took:.1?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    // The project's own unit tests, without anything from the network.
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--offline"]).current_dir(&folder).env("CARGO_TARGET_DIR", folder.join("target"));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER"] {
        cargo.env_remove(name);
    }
    let tests = cargo.output().unwrap();
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
    // From the folder above it is found too, as there is no other.
    assert_eq!(filter(&trial, trial.path(), &["test"]).status, Some(0));
}

#[test]
fn a_new_c_filter_builds_and_what_is_not_as_expected_fails_the_test() {
    let trial = Trial::new();
    let folder = project(&trial, "c");
    assert_eq!(filter(&trial, &folder, &["build"]).status, Some(0));
    let good = filter(&trial, &folder, &["test"]);
    assert!(good.status == Some(0) && good.stdout.contains("4 as expected, 0 not"), "{}", good.stdout);
    let bad = filter(&trial, &folder, &["test", "--config", "you"]);
    assert_eq!(bad.status, Some(1));
    for expected in
        ["EXPECTED  verdict steal, and it is pass", "EXPECTED  response header x-answered-by: my machine", "1 as expected, 3 not"]
    {
        assert!(bad.stdout.contains(expected), "{expected}: {}", bad.stdout);
    }
    let measured = filter(&trial, &folder, &["bench", "--time", "50"]);
    assert!(measured.status == Some(0) && measured.stdout.contains(" ns (median"), "{}{}", measured.stdout, measured.stderr);
}

#[test]
fn each_step_that_fails_says_what_to_do() {
    let trial = Trial::new();
    let folder = project(&trial, "c");
    let fails = |words: &[&str], status: i32, expected: &[&str]| {
        let ended = filter(&trial, &folder, words);
        let told = expected.iter().all(|one| ended.stderr.contains(one)) && ended.stderr.contains("help:");
        assert!(ended.status == Some(status) && told, "{words:?}, {expected:?}: {:?}\n{}", ended.status, ended.stderr);
    };
    fails(&["test"], 1, &["there is no", "mirrord filter build"]);
    fails(&["new", "../demo"], 1, &["is there already"]);
    fails(&["new", "../De mo"], 2, &["cannot be a filter's name"]);
    fails(&["build", "/"], 1, &["no filter's project", "filter new"]);
    fails(&["check", &guest("no-abi.wat")], 1, &["no known filter ABI"]);
    fails(&["check", &guest("abi-2.wat")], 1, &["version 2"]);
    fails(&["check", &guest("imports-wasi.wat")], 1, &["imports wasi", "no files, sockets or programs"]);
    fails(&["check", &guest("refuses.wat")], 1, &["refuses its config"]);
    fails(&["check", &guest("loop-configure.wat")], 1, &["does not start"]);
    fails(&["check", &guest("trap.wat")], 1, &["fails on a request"]);
    fails(&["check", "filter.c"], 1, &["not a Wasm file"]);
    fails(&["push", "--session", "1", &guest("trap.wat")], 1, &["no session of yours"]);
    fs::write(folder.join("bad.jsonl"), "{}\n{\"expect\": \"stael\"}\n").unwrap();
    fails(&["test", &guest("respond.wat"), "--requests", "bad.jsonl"], 1, &["bad.jsonl, line 2", "`stael` is no verdict"]);
    fails(&["test", &guest("respond.wat"), "--requests", "filter.c"], 2, &["no known format"]);
    fs::write(folder.join("filter.c"), "int broken(").unwrap();
    fails(&["build"], 1, &["does not compile"]);
    let mut without = trial.command(&["filter", "build"]);
    let ended = trial.ended(without.current_dir(&folder).env("PATH", "/nowhere").output().unwrap());
    assert!(
        ended.status == Some(1) && ended.stderr.contains("there is no clang") && ended.stderr.contains("apt-get install"),
        "{}",
        ended.stderr
    );
}

#[test]
fn answers_and_edits_are_shown_and_a_recording_is_judged_by_what_it_says() {
    let trial = Trial::new();
    let har = r#"{"log": {"entries": [{"request": {"method": "GET", "url": "http://shop/", "headers": []}, "response": {"status": 0},
        "_mirrord": {"verdict": "steal"}}]}}"#;
    let har = trial.file("recording.har", har, 0o644);
    let ended = filter(&trial, trial.path(), &["test", &guest("edits.wat"), "--requests", har.to_str().unwrap()]);
    assert!(ended.stdout.contains("log.entries[0]") && ended.stdout.contains("1 requests:"), "{}\n{}", ended.stdout, ended.stderr);
    // A trap is a failure, whatever is expected.
    let faulty = filter(&trial, trial.path(), &["test", &guest("trap.wat"), "--requests", har.to_str().unwrap()]);
    assert!(
        faulty.status == Some(1) && faulty.stdout.contains("FAILED") && faulty.stdout.contains("the filter failed on 1"),
        "{}",
        faulty.stdout
    );
}
