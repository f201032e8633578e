//! The agent's proxy: redirected connections come in, are read as far as that is certain, and each request goes where the
//! filters say. To the gateway the pod and a session are the same thing: an upstream that yields a byte stream.

pub mod connection;
pub mod detect;
pub mod hello;
pub mod http1;
pub mod http2;
pub mod link;
pub mod mirror;
pub mod opaque;
pub mod parting;
mod player;
pub mod room;
pub mod sock;
pub mod steer;
