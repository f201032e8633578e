//! What goes into filters and what comes out: plain data, borrowed on the way in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::{Fault, Followers, Said};

/// One header as it came: no trimming of case, duplicates kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// The protocol that the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

impl Version {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

/// A request's head.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    pub method: &'a [u8],
    /// The request target as sent.
    pub path: &'a [u8],
    pub headers: &'a [Field<'a>],
    pub client: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    pub version: Version,
    /// No body follows.
    pub end: bool,
}

/// A response's head.
#[derive(Debug, Clone, Copy)]
pub struct ResponseParts<'a> {
    pub status: u16,
    pub headers: &'a [Field<'a>],
}

/// What is known of a connection that is not read as HTTP, once its first bytes have come.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionParts<'a> {
    pub client: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// Of a TLS client's first message: the server's name, as sent.
    pub sni: Option<&'a [u8]>,
    /// And the protocols that it offers, in its order.
    pub alpn: &'a [&'a [u8]],
    pub first_bytes: &'a [u8],
}

/// One header edit, already checked: the name is a token and frames nothing, the value has no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Replace all headers of that name by one, or add it.
    Set { name: Vec<u8>, value: Vec<u8> },
    /// Add one more.
    Append { name: Vec<u8>, value: Vec<u8> },
    /// Remove all of that name.
    Remove { name: Vec<u8> },
}

impl Edit {
    /// The name that it is about.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self {
            Edit::Set { name, .. } | Edit::Append { name, .. } | Edit::Remove { name } => name,
        }
    }
}

/// Where a request, or a connection, goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verdict {
    #[default]
    Pass,
    Steal,
    /// To the pod, which answers; the session's program gets a copy.
    Mirror,
    /// To the session's program, which answers; the pod gets a copy, whose answer is thrown away.
    StealAndMirror,
    /// Answered here. Of a connection it makes no sense and never comes.
    Respond(LocalResponse),
    /// The connection (HTTP/1) or the stream (HTTP/2) is reset.
    Abort,
}

/// An answer of the filter's own, already checked. Whoever sends it adds `Content-Length`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// 200 to 599.
    pub status: u16,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Empty for 204, 205 and 304.
    pub body: Vec<u8>,
}

/// What a chain made of one request.
#[derive(Debug, Default)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The link that gave the verdict, if it is not that all pass.
    pub link: Option<usize>,
    /// Edits of the request, in order, of all links that were asked.
    pub request_edits: Vec<Edit>,
    /// Edits of its response, decided up front. Those that came with [`Verdict::Respond`] are in its headers.
    pub response_edits: Vec<Edit>,
    /// What the request target becomes: it begins with `/` and holds no white space.
    pub path: Option<Vec<u8>>,
    /// How long the request is held before it goes on, at most 30 s.
    pub delay: Option<Duration>,
    /// Why, in the words of the link that gave the verdict.
    pub reason: Option<Arc<str>>,
    /// What went wrong with links; the verdict follows from their failure policies already.
    pub faults: Vec<Fault>,
    /// What single links said beyond that, in order; usually nothing.
    pub said: Vec<Said>,
    /// Links that want to see more of this exchange.
    pub followers: Option<Box<Followers>>,
}

/// What a chain made of one response's head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDecision {
    pub edits: Vec<Edit>,
    /// This goes to the client instead of the response.
    pub replace: Option<LocalResponse>,
    /// Reset the client's connection or stream.
    pub abort: bool,
    pub reason: Option<Arc<str>>,
    pub faults: Vec<Fault>,
}

/// What a chain made of a piece of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyDecision {
    /// These bytes (possibly none) instead of the piece; nothing: it goes on as it came.
    pub replaced: Option<Vec<u8>>,
    /// Nothing more may go on: reset the exchange.
    pub abort: bool,
    pub faults: Vec<Fault>,
}

/// What a chain made of a body's trailers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrailersDecision {
    pub edits: Vec<Edit>,
    pub faults: Vec<Fault>,
}

/// What a chain made of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionDecision {
    /// Never [`Verdict::Respond`].
    pub verdict: Verdict,
    /// The link that gave it.
    pub link: Option<usize>,
    pub reason: Option<Arc<str>>,
    pub faults: Vec<Fault>,
}
