//! What is refused before it runs, in which words, and what the cache does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use common::{Instance, engine, get, guest};
use mirrord_filters::{Engine, EngineSettings, FilterError, Limits, Verdict};

fn refusal(name: &str, bytes: &[u8]) -> String {
    engine().load(name, bytes).err().unwrap_or_else(|| panic!("{name} was taken")).to_string()
}

#[test]
fn each_kind_of_wrong_file_has_its_own_message_with_the_next_step() {
    let component = b"\0asm\x0d\0\x01\0";
    let cut = b"\0asm\x01\0";
    let garbage = b"\0asm\x01\0\0\0\xff\xff\xff";
    for (name, bytes, says) in [
        ("elf", &b"\x7fELF..."[..], ["not a Wasm file", "give the .wasm file"]),
        ("empty", b"", ["not a Wasm file", "give the .wasm file"]),
        ("text", b"hello (module)", ["not a Wasm file", "give the .wasm file"]),
        ("component", component, ["component", "wasm32-unknown-unknown"]),
        ("cut", cut, ["cut off", "build it anew"]),
        ("garbage", garbage, ["not a valid Wasm module", "build it anew"]),
        ("wat", b"(module (func $f (result i32)))", ["not a valid Wasm module", "build it anew"]),
        ("no-abi", &guest("no-abi"), ["no known filter ABI", "mirrord-filter-sdk"]),
        ("abi-2", &guest("abi-2"), ["version 2 of the filter ABI", "newer agent"]),
        ("proxy-wasm-3", &guest("proxy-wasm-3"), ["proxy-wasm module of ABI 0.3.0", "ABI 0.2.0 or 0.2.1"]),
        ("proxy-wasm", &guest("proxy-wasm"), ["proxy_on_memory_allocate", "nothing can be returned to the filter"]),
        ("proxy-wasm-import", &guest("proxy-wasm-import"), ["imports env.proxy_redis_call", "proxy-wasm 0.2.1 has no such function"]),
        ("proxy-wasm-tcp", &guest("proxy-wasm-tcp"), ["no HTTP filter", "TCP streams are not supported"]),
        ("imports-wasi", &guest("imports-wasi"), ["imports wasi_snapshot_preview1.sock_accept", "no files, sockets"]),
    ] {
        let message = refusal(name, bytes);
        for part in says {
            assert!(message.starts_with(name) && message.contains(part), "{name}: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
    }
}

/// A filter but for the given text, which replaces `;;HERE`, or `what` by `with`.
fn almost(what: &str, with: &str) -> Vec<u8> {
    let whole = r#"(module ;;HERE
        (memory (export "memory") 1)
        (func (export "mirrord_abi_version_1"))
        (func (export "mirrord_configure") (result i32) i32.const 0)
        (func (export "mirrord_on_request") (result i32) i32.const 0))"#;
    assert!(whole.contains(what));
    whole.replacen(what, with, 1).into_bytes()
}

#[test]
fn imports_and_exports_are_checked_by_name_and_type() {
    assert!(engine().load("whole", &almost(";;HERE", "")).is_ok());
    for (what, with, says) in [
        (";;HERE", r#"(import "mirrord" "shutdown" (func))"#, "imports mirrord.shutdown"),
        (";;HERE", r#"(import "mirrord" "get" (func (param i32)))"#, "its type is not the one"),
        (";;HERE", r#"(import "mirrord" "get" (global i32))"#, "its type is not the one"),
        (";;HERE", r#"(import "env" "get" (func))"#, "imports env.get"),
        (";;HERE", r#"(import "env" "table" (table 1 funcref))"#, "imports env.table"),
        (r#"(export "memory")"#, "", "there is no memory of that name"),
        (r#""mirrord_on_request""#, r#""on_request""#, "exports mirrord_on_request wrongly: it is missing"),
        (r#"(export "mirrord_configure") (result i32) i32.const 0"#, r#"(export "mirrord_configure")"#, "its type is another one"),
        (r#""memory") 1)"#, r#""memory") 1) (func (export "mirrord_on_response"))"#, "its type is another one"),
        (r#""memory") 1)"#, r#""memory") 1) (func (export "mirrord_on_request_body"))"#, "its type is another one"),
        (r#""memory") 1)"#, r#""memory") 1) (func (export "mirrord_on_trailers"))"#, "mirrord_on_trailers, which this version never calls"),
    ] {
        let message = refusal("almost", &almost(what, with));
        assert!(message.contains(says), "{with}: {message}");
    }
}

#[test]
fn sizes_are_bounded() {
    let message = refusal("large", &vec![0; (32 << 20) + 1]);
    assert!(message.contains("the limit is 33554432"), "{message}");
    let module = engine().load("whole", &almost(";;HERE", "")).unwrap();
    let refused = module.configure(&vec![b' '; (64 << 10) + 1], Limits::default()).err().unwrap();
    assert!(matches!(refused, FilterError::ConfigTooLarge { .. }), "{refused}");
}

#[test]
fn initialize_runs_first_and_a_start_function_may_not_call_the_host() {
    let with_initialize = almost(
        r#"(func (export "mirrord_configure") (result i32) i32.const 0)"#,
        r#"(global $g (mut i32) (i32.const 1))
           (func (export "_initialize") (global.set $g (i32.const 0)))
           (func (export "mirrord_configure") (result i32) global.get $g)"#,
    );
    assert!(engine().load("reactor", &with_initialize).unwrap().configure(b"", Limits::default()).is_ok());
    let with_start = almost(
        ";;HERE",
        r#"(import "mirrord" "reason" (func $reason (param i32 i32)))
           (func $start (call $reason (i32.const 0) (i32.const 1))) (start $start)"#,
    );
    let refused = engine().load("starter", &with_start).unwrap().configure(b"", Limits::default()).err().unwrap();
    assert!(refused.to_string().contains("from the start function"), "{refused}");
}

fn cached(dir: &Path) -> Engine {
    Engine::new(EngineSettings { cache_dir: Some(dir.into()), log: None }).unwrap()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn steals(engine: &Engine, wasm: &[u8]) -> bool {
    let filter = engine.load("f", wasm).unwrap().configure(b"", Limits::default()).unwrap();
    Instance::of(&filter).on_request(&get(&[])).verdict == Verdict::Steal
}

#[test]
fn the_second_load_takes_the_compiled_module_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("deep/cache");
    let wasm = common::example("header");
    let load = |expected_files| {
        let engine = cached(&cache);
        let start = Instant::now();
        let module = engine.load("header", &wasm).unwrap();
        let elapsed = start.elapsed();
        assert_eq!(files(&cache).len(), expected_files);
        (elapsed, module.sha256().to_owned())
    };
    let (cold, hash) = load(1);
    let warm = (0..3).map(|_| load(1).0).min().unwrap();
    assert!(warm * 5 < cold, "cold {cold:?}, warm {warm:?}");
    assert!(files(&cache)[0].file_name().unwrap().to_string_lossy().starts_with(&hash));
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&files(&cache)[0]).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_damaged_or_foreign_artefact_is_compiled_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let wasm = guest("trap-once");
    assert!(steals(&cached(&cache), &wasm));
    let [file] = &files(&cache)[..] else { panic!() };
    let whole = fs::read(file).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [&b""[..], b"x", &whole[..whole.len() / 2], &flipped] {
        fs::write(file, bad).unwrap();
        assert!(steals(&cached(&cache), &wasm));
        assert_eq!(fs::read(file).unwrap().len(), whole.len(), "it was not replaced");
    }
    // Open to others: not read, whoever wrote it.
    fs::write(file, b"x").unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(steals(&cached(&cache), &wasm));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_cache_that_cannot_be_used_costs_a_compilation_only() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = guest("trap-once");
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [&open, &link, &file, Path::new("/proc/nothing/here")] {
        assert!(steals(&cached(bad), &wasm), "{}", bad.display());
    }
    assert_eq!(files(&open).len(), 0, "nothing is left in a directory that others can write to");
}

#[test]
fn the_cache_does_not_grow_without_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let engine = cached(dir.path());
    fs::write(dir.path().join("not ours"), "").unwrap();
    for n in 0..70 {
        engine.load("f", &almost(";;HERE", &format!("(global i32 (i32.const {n}))"))).unwrap();
    }
    assert_eq!(files(dir.path()).len(), 64 + 1);
    assert!(dir.path().join("not ours").exists());
}
