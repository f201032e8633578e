//! What a filter costs a request: 20 headers of 742 bytes, the header filter as the script builds it.
//!
//! `native` is the same filter's work on the same head in plain Rust: the floor.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench may")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::Instance;
use criterion::{Criterion, criterion_group, criterion_main};
use mirrord_filters::{Field, Limits, Verdict};

fn filters(criterion: &mut Criterion) {
    let engine = common::engine();
    let wasm = common::example("header");
    let module = engine.load("header", &wasm).unwrap();
    let filter = module.configure(br#"{"name": "X-User", "value": "me"}"#, Limits::default()).unwrap();

    let stolen = common::fields(&common::HEADERS);
    let mut passed = stolen.clone();
    passed[18].value = b"you";
    let mut absent = stolen.clone();
    absent[18].name = b"x-abcd";

    let mut group = criterion.benchmark_group("filters");
    let mut instance = Instance::of(&filter);
    for (name, headers, verdict) in [
        ("pass, header absent", &absent, Verdict::Pass),
        ("pass, other value", &passed, Verdict::Pass),
        ("steal, one edit", &stolen, Verdict::Steal),
    ] {
        let request = common::request("GET", "/api/v1/cart?id=3", headers);
        assert_eq!(instance.on_request(&request).verdict, verdict);
        group.bench_function(name, |bencher| bencher.iter(|| instance.0.on_request(black_box(&request))));
    }
    let request = common::request("GET", "/api/v1/cart?id=3", &absent);
    // The share of the call itself and of handing over the head.
    let idle = br#"(module (memory (export "memory") 1) (func (export "mirrord_abi_version_1"))
        (func (export "mirrord_configure") (result i32) i32.const 0) (func (export "mirrord_on_request") (result i32) i32.const 0))"#;
    let mut idle = Instance::of(&engine.load("idle", idle).unwrap().configure(b"", Limits::default()).unwrap());
    group.bench_function("pass, a filter that looks at nothing", |bencher| bencher.iter(|| idle.0.on_request(black_box(&request))));
    group.bench_function("native", |bencher| bencher.iter(|| native(black_box(request.headers))));
    group.bench_function("fresh instance and one request", |bencher| {
        bencher.iter(|| Instance::of(&filter).on_request(black_box(&request)));
    });
    group.bench_function("compile", |bencher| bencher.iter(|| engine.load("header", black_box(&wasm)).unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let cache_dir = Some(dir.path().join("cache"));
    let cached = mirrord_filters::Engine::new(mirrord_filters::EngineSettings { cache_dir, log: None }).unwrap();
    group.bench_function("load from the cache", |bencher| bencher.iter(|| cached.load("header", black_box(&wasm)).unwrap()));
    group.finish();
}

fn native(headers: &[Field<'_>]) -> bool {
    headers.iter().any(|field| field.name.eq_ignore_ascii_case(b"x-user") && field.value == b"me")
}

criterion_group!(benches, filters);
criterion_main!(benches);
