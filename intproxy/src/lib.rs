//! The local proxy of one session: layers on one side, the tunnel to the agent on the other.

#![forbid(unsafe_code)]

pub mod settings;
