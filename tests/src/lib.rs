//! The harness of the integration tests: a pod is a real network namespace with a real web server in it, its clients live in
//! a second namespace behind a veth pair, a session is the real command line with a real program. Tests look from outside
//! only: bytes, log lines, kernel rules, processes.
//!
//! | module | what a test gets from it |
//! |---|---|
//! | [`pod`] | [`Pod`]: the namespaces, servers in the pod, clients, and "nothing is left" |
//! | [`session`] | [`Session`]: `mirrord exec` running a [`Program`], seen from outside |
//! | [`http`] | an HTTP/1.1 client that can send byte by byte and keeps what came |
//! | [`http2`] | an HTTP/2 client with prior knowledge |
//! | [`looking`] | `mirrord inspect` and `mirrord explain` |
//! | [`load`] | [`Others`]: 64 clients of other people, who must not notice anything |
//! | [`probe`] | [`Probe`]: how long the pod could not be reached |
//! | [`cluster`] | a Kubernetes node, and namespaces of it |
//! | [`recorder`] | [`Recorder`]: a server that keeps the exact bytes that it got |
//! | [`watchdog`] | an end for tests that hang |
//!
//! Needs root and the built product (`make build`). Whatever a run that was killed has left is removed by the next one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code: a failed step is a failed test")]

pub mod cluster;
pub mod h2raw;
pub mod http;
pub mod http2;
pub mod interop;
pub mod load;
pub mod looking;
pub mod machine;
pub mod netns;
pub mod pod;
pub mod probe;
pub mod processes;
pub mod programs;
pub mod recorder;
pub mod servers;
pub mod session;
pub mod state;
mod sys;
pub mod wait;
pub mod watchdog;

pub use http::Client;
pub use load::Others;
pub use pod::Pod;
pub use probe::Probe;
pub use programs::Program;
pub use recorder::Recorder;
pub use session::{Exec, Session};
pub use wait::eventually;
