//! On a real Kubernetes: `make test-k8s`, or `cargo test --release --workspace --features mirrord-tests/k8s --test k8s [NAME]`. One test
//! binary, so that it is linked once; a file a capability.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod cluster;
mod cost;
mod deaths;
mod ephemeral;
mod exec;
mod failures;
mod image;
mod mesh;
mod modes;
mod settings;
mod targetless;
mod tools;
