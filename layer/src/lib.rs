//! The preloaded library. It sits between a program and its C library, and lets the program's TCP listeners be reached by what
//! the intproxy delivers, while everything else that the program does stays as it is.
//!
//! `hooks.rs` (C edge) → `ops.rs` and `names.rs` (what a call means for the session) → `state.rs`, `tables.rs` (what this process has)
//! → `line.rs` (the questions to the intproxy) → `sys.rs` and `twin.rs` (C edge: the few system calls that std
//! has no name for).
//! `hostname.rs`: the host name that the program sees.
//! Nothing is known by descriptor: a listener is its socket's inode, a connection its two addresses. So dup, fcntl, passing by
//! SCM_RIGHTS and whatever else makes a second descriptor need no detour.

#[cfg(target_os = "linux")]
mod hooks;
mod hostname;
mod line;
mod names;
mod ops;
mod state;
mod sys;
mod tables;
mod twin;
