//! The plain data of `agent/filters`, for the gateway's modules that the fuzz targets mount.

#![forbid(unsafe_code)]
#![allow(dead_code)]

#[path = "../../../agent/filters/src/message.rs"]
mod message;

pub use message::{
    BodyDecision, ConnectionDecision, ConnectionParts, Edit, Field, LocalResponse, Outcome, RequestParts, ResponseDecision, ResponseParts,
    Verdict, Version,
};

/// Stands for the real one, which knows the Wasm engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault;

/// What a link of a chain said, which the gateway only carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said;

/// Stands for the real ones, which are called through a chain.
#[derive(Debug)]
pub struct Followers;

/// Whose body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

pub use mirrord_filter_sdk::abi;

#[path = "../../../agent/filters/src/log.rs"]
mod log;
#[path = "../../../agent/filters/src/series.rs"]
mod series;
#[path = "../../../agent/filters/src/shared.rs"]
mod shared;

/// Text of a guest for a line of the log.
pub fn clean(text: &[u8], max: usize) -> String {
    log::clean(text, max)
}

/// The state that a filter's instances share.
#[derive(Default)]
pub struct State(shared::State);

impl State {
    pub fn get(&self, key: &[u8], now: std::time::Instant) -> Option<&[u8]> {
        self.0.get(key, now)
    }

    pub fn set(&mut self, key: &[u8], value: &[u8], ttl: u64, now: std::time::Instant) {
        self.0.set(key, value, ttl, now);
    }

    pub fn add(&mut self, key: &[u8], delta: i64, ttl: u64, now: std::time::Instant) -> i64 {
        self.0.add(key, delta, ttl, now)
    }

    pub fn remove(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}
