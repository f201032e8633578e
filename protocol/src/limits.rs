//! Bounds on what a peer may send. Both ends check them: the sender to fail early, the receiver because it trusts nobody.

use std::time::Duration;

/// Longest JSON body of a `/v1` request or reply, bytes.
pub const MAX_CONTROL_BODY: usize = 1 << 20;
/// Largest filter module that the agent takes, bytes.
pub const MAX_FILTER_MODULE: usize = 32 << 20;
/// Longest configuration of one filter, bytes.
pub const MAX_FILTER_CONFIG: usize = 256 << 10;
/// Most filters in one session's chain.
pub const MAX_CHAIN: usize = 32;
/// Most ports that one session may subscribe.
pub const MAX_PORTS: usize = 1024;
/// Most sessions on one agent.
pub const MAX_SESSIONS: usize = 1024;
/// Longest frame between layer and intproxy, bytes.
pub const MAX_LAYER_FRAME: usize = 64 << 10;
/// Most worker threads that an agent may have, and so most delivery connections of one session.
pub const MAX_WORKERS: u16 = 64;
/// Low bits of the id of a decision or an exchange that name its worker.
pub const WORKER_BITS: u32 = 6;
/// How long a peer may take over a hello, a head or a reply that needs nobody else.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
