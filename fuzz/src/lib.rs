//! Fuzz targets for every parser of a peer's bytes. A target is a function of bytes that panics when it finds something;
//! `main.rs` lets libFuzzer choose the bytes, `tests/seeds.rs` replays the committed ones.
//!
//! The parsers are the product's own files, mounted here by path: nothing has to be public for the sake of fuzzing, and the
//! Wasm engine, which they do not need, is not compiled with instrumentation.

// What is mounted is used in part.
#![allow(dead_code)]

pub mod targets;

// Named as in the agent, whose modules refer to each other by these paths.
#[path = "gateway.rs"]
mod gateway;
mod records;

// Likewise of the command line.
#[path = "../../cli/src/elf.rs"]
mod elf;
#[path = "../../cli/src/program.rs"]
mod program;
#[path = "../../cli/src/sys.rs"]
mod sys;
