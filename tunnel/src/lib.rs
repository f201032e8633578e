//! The tunnel between intproxy and agent: HTTP/2 connections whose streams are plain byte streams.
//!
//! ```text
//! agent:    Client::connect(io) ── open(head) ──► Stream          intproxy: Server::accept(io) ── next() ──► Offer ── accept() ──► Stream
//! ```
//!
//! On a delivery connection the intproxy has dialled and is the HTTP/2 server; the agent opens a stream for each picked flow.
//! Flow control, cancellation and errors are HTTP/2's own, so a slow program holds back its own stream and nothing else.
//! Where both share a machine, connections to the program are passed as descriptors instead ([`Passing`]).
//! Everything here lives on one thread (`spawn_local`): each worker of the agent has its own connection.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod ancillary;
mod connection;
mod copy;
mod gather;
pub mod lasting;
mod passing;
mod purse;
mod quiet;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::{Client, Offer, Refusal, Server};
pub use copy::copy;
pub use passing::{Inbox, Passing};
pub use purse::{Held, Outgoing, Purse, Turn};
pub use quiet::Quiet;
pub use stream::Stream;

/// Window of one stream, bytes: what a reader that has stopped can make its peer hold.
pub const STREAM_WINDOW: u32 = 512 << 10;
/// Window of a connection, bytes: room for 512 stopped readers before anybody else waits (RFC 9113 §5.2; with the default of
/// 65,535 a single stopped reader stalls every stream).
pub const CONNECTION_WINDOW: u32 = 256 << 20;
/// What a stream's sender may buffer beyond the window, bytes.
pub const SEND_BUFFER: usize = 256 << 10;
/// What may wait to be written on a connection, all its streams together, bytes; beyond it they wait, and nobody else does. Much
/// more than the transport takes at a time, much less than the streams' buffers together.
pub const SEND_PURSE: usize = 8 << 20;
/// Most streams at a time on one connection.
pub const MAX_STREAMS: u32 = 100_000;
/// Longest head of a stream, bytes.
pub const MAX_HEAD: u32 = 16 << 10;
