//! The program in the target's network namespace: redirect, gateway, sessions.
//!
//! ```text
//! clients of the pod ──redirect──► worker (listener, gateway, filters) ──► pod
//!                                     │ delivery connection
//! intproxy ◄──────────────────────────┘
//! intproxy ──/v1──► control ──► sessions ──► app ──► workers' tables, then redirect
//! ```

pub mod admin;
pub mod app;
pub mod control;
pub mod counters;
mod folder;
pub mod gateway;
pub mod guard;
pub mod netns;
mod outgoing;
pub mod process;
pub mod records;
pub mod redirect;
mod runtime;
pub mod sessions;
pub mod settings;
pub mod socket;
pub mod target;
pub mod worker;
