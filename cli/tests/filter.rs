//! `mirrord filter`: from nothing to a filter that runs, and what each step says when it fails. No agent is needed for any of it.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    env, fs,
    os::unix::fs::symlink,
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

/// A new project in this language.
fn project(trial: &Trial, lang: &str) -> PathBuf {
    let made = filter(trial, trial.path(), &["new", "demo", "--lang", lang]);
    assert_eq!(made.status, Some(0), "{}", made.stderr);
    trial.path().join("demo")
}

/// A trial that finds the compilers which `scripts/build-filters.sh` has installed for this user: Zig in the path, and AssemblyScript as
/// npm would leave it in a project.
fn with_compilers() -> (Trial, PathBuf) {
    let home = || PathBuf::from(env::var_os("HOME").unwrap()).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("mirrord-dev");
    // The version that a file names behind these words.
    let installed = |program: &str, file: &str, before: &str| {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let version = text.split(before).nth(1).unwrap().split(['"', '\n']).next().unwrap();
        let folder = cache.join(format!("{program}-{version}"));
        assert!(folder.exists(), "there is no {}: run scripts/build-filters.sh first", folder.display());
        folder
    };
    let zig = installed("zig", "../scripts/build-filters.sh", "\nZIG_VERSION=").join("ziglang");
    let assemblyscript = installed("assemblyscript", "templates/assemblyscript/package.json", "\"assemblyscript\": \"");
    let mut trial = Trial::new();
    let path = format!("{}:{}", env::var("PATH").unwrap(), zig.display());
    trial.set("PATH", &path);
    (trial, assemblyscript.join("node_modules"))
}

/// From nothing to a filter whose tests pass; how long that took. Then a source that does not compile: the module stays, and the
/// compiler's own words come with the next step.
fn from_nothing(lang: &str, source: &str, broken: &str) -> (Trial, PathBuf) {
    let (trial, node_modules) = with_compilers();
    let began = Instant::now();
    let folder = project(&trial, lang);
    if lang == "assemblyscript" {
        symlink(node_modules, folder.join("node_modules")).unwrap();
    }
    for step in ["build", "test"] {
        let ended = filter(&trial, &folder, &[step]);
        assert_eq!(ended.status, Some(0), "{lang}, {step}: {}\n{}", ended.stdout, ended.stderr);
    }
    let took = began.elapsed();
    println!("{lang}: new, build and test took {took:.1?}");
    assert!(took < Duration::from_secs(60), "{lang}: {took:?}");
    let checked = filter(&trial, &folder, &["check"]);
    assert!(
        checked.status == Some(0) && checked.stdout.contains("an agent of this version takes it"),
        "{}\n{}",
        checked.stdout,
        checked.stderr
    );
    let module = fs::read(folder.join("build/demo.wasm")).unwrap();
    let good = fs::read(folder.join(source)).unwrap();
    fs::write(folder.join(source), broken).unwrap();
    let ended = filter(&trial, &folder, &["build"]);
    let words = format!("{}{}", ended.stdout, ended.stderr);
    let file = Path::new(source).file_name().unwrap().to_str().unwrap();
    assert!(
        ended.status == Some(1) && words.contains("does not compile") && words.contains("help:") && words.contains(file),
        "{lang}: {words}"
    );
    assert_eq!(fs::read(folder.join("build/demo.wasm")).unwrap(), module, "{lang}: a build that fails left another module");
    fs::write(folder.join(source), good).unwrap();
    (trial, folder)
}

#[test]
fn a_new_rust_filter_builds_and_its_tests_pass_within_a_minute() {
    let (trial, folder) = from_nothing("rust", "src/lib.rs", "fn broken(");
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
fn a_new_filter_in_go_builds_and_its_tests_pass_within_a_minute() {
    from_nothing("go", "filter.go", "package main\nfunc broken(");
}

#[test]
fn a_new_filter_in_assemblyscript_builds_and_its_tests_pass_within_a_minute() {
    from_nothing("assemblyscript", "assembly/index.ts", "function broken(");
}

#[test]
fn a_new_filter_in_zig_builds_and_its_tests_pass_within_a_minute() {
    from_nothing("zig", "filter.zig", "fn broken(");
}

#[test]
fn a_new_c_filter_builds_and_what_is_not_as_expected_fails_the_test() {
    let (trial, folder) = from_nothing("c", "filter.c", "int broken(");
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
    fails(&["check", "/nowhere.wasm"], 1, &["cannot be read", "filter build"]);
    fails(&["check", "--config", "@nowhere", &guest("respond.wat")], 1, &["nowhere", "--config @"]);
    fails(&["bench"], 1, &["there is no", "mirrord filter build"]);
    fails(&["bench", &guest("trap.wat")], 1, &["the filter fails", "filter test"]);
    fails(&["push", "--session", "1", &guest("trap.wat")], 1, &["no session of yours", "filter push --list"]);
    fails(&["push", "--link", "0", &guest("trap.wat")], 2, &["0 is not in 1..=1000", "mirrord filter --help"]);
    fails(&["watch", "--session", "1"], 1, &["no session of yours", "filter push --list"]);
    fails(&["watch", "--session", "1", "/nowhere"], 1, &["neither a module nor a filter's project", ".wasm"]);
    fails(&["new", "--lang", "cobol", "x"], 2, &["cobol", "rust", "mirrord filter --help"]);
    fs::write(folder.join("bad.jsonl"), "{}\n{\"expect\": \"stael\"}\n").unwrap();
    fails(&["test", &guest("respond.wat"), "--requests", "bad.jsonl"], 1, &["bad.jsonl, line 2", "`stael` is no verdict"]);
    fails(&["test", &guest("respond.wat"), "--requests", "filter.c"], 2, &["no known format"]);
    fs::write(folder.join("filter.c"), "int broken(").unwrap();
    fails(&["build"], 1, &["does not compile"]);
}

#[test]
fn without_its_compiler_a_build_says_how_to_come_by_one() {
    for (lang, missing, help) in [
        ("c", "there is no clang", "apt-get install clang"),
        ("go", "there is no go", "Go 1.24"),
        ("assemblyscript", "there is no npm", "Node.js"),
        ("zig", "there is no zig", "pip install ziglang"),
        ("rust", "there is no cargo", "rustup target add wasm32-unknown-unknown"),
    ] {
        let trial = Trial::new();
        let folder = project(&trial, lang);
        let mut without = trial.command(&["filter", "build"]);
        without.current_dir(&folder).env("PATH", "/nowhere").env("MIRRORD_WASM_TOOLCHAIN", "rustup");
        let ended = trial.ended(without.output().unwrap());
        assert!(ended.status == Some(1) && !folder.join("build/demo.wasm").exists(), "{lang}: {ended:?}");
        ended.says(missing, help);
    }
}

#[test]
fn answers_and_edits_are_shown_and_a_recording_is_judged_by_what_it_says() {
    let trial = Trial::new();
    let har = r#"{"log": {"entries": [{"request": {"method": "GET", "url": "http://shop/", "headers": [{"name": "n", "value": "x-a"},
        {"name": "v", "value": "1"}, {"name": "o", "value": "0"}]}, "response": {"status": 0},
        "_mirrord": {"verdict": "pass", "said": "steal", "partial": true}}]}}"#;
    let har = trial.file("recording.har", har, 0o644);
    let ended = filter(&trial, trial.path(), &["test", &guest("edits.wat"), "--requests", har.to_str().unwrap()]);
    assert!(ended.stdout.contains("log.entries[0]") && ended.stdout.contains("1 requests:"), "{}\n{}", ended.stdout, ended.stderr);
    assert!(
        ended.status == Some(0) && ended.stdout.contains("request   = x-a: 1") && ended.stdout.contains("1 as expected, 0 not"),
        "{}",
        ended.stdout
    );
    // What the recording lacks is said beside what differs.
    let differs = filter(&trial, trial.path(), &["test", &guest("respond.wat"), "--requests", har.to_str().unwrap()]);
    for expected in ["EXPECTED  verdict steal, and it is respond", "lacks some of the request's body", "0 as expected, 1 not"] {
        assert!(differs.status == Some(1) && differs.stdout.contains(expected), "{expected}: {}", differs.stdout);
    }
    // A trap is a failure, whatever is expected.
    let faulty = filter(&trial, trial.path(), &["test", &guest("trap.wat"), "--requests", har.to_str().unwrap()]);
    assert!(
        faulty.status == Some(1) && faulty.stdout.contains("FAILED") && faulty.stdout.contains("the filter failed on 1"),
        "{}",
        faulty.stdout
    );
}
