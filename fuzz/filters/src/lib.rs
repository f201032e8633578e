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

/// Stands for the real ones, which are called through a chain.
#[derive(Debug)]
pub struct Followers;

/// Whose body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}
