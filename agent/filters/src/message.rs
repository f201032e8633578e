//! What goes into a filter and what comes out: plain data, borrowed on the way in.

use std::net::SocketAddr;

use crate::Fault;

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
    pub(crate) fn as_str(self) -> &'static str {
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
}

/// A response's head.
#[derive(Debug, Clone, Copy)]
pub struct ResponseParts<'a> {
    pub status: u16,
    pub headers: &'a [Field<'a>],
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

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Steal,
    Mirror,
    Respond(LocalResponse),
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

/// What a filter made of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// Edits of the request, in order.
    pub request_edits: Vec<Edit>,
    /// Edits of its response, decided up front. Empty with [`Verdict::Respond`], which has them in its headers.
    pub response_edits: Vec<Edit>,
    /// The filter asked to see this request's response: call [`crate::Instance::on_response`] with `token`.
    pub wants_response: bool,
    pub token: u64,
    pub reason: Option<String>,
    /// Something went wrong, and the verdict is `Pass` for that reason.
    pub fault: Option<Fault>,
}

impl Decision {
    /// To the pod, unedited. Allocates nothing.
    #[must_use]
    pub fn pass() -> Self {
        Decision {
            verdict: Verdict::Pass,
            request_edits: Vec::new(),
            response_edits: Vec::new(),
            wants_response: false,
            token: 0,
            reason: None,
            fault: None,
        }
    }

    pub(crate) fn fault(fault: Fault) -> Self {
        Decision { fault: Some(fault), ..Self::pass() }
    }
}

/// What a filter made of one response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDecision {
    pub edits: Vec<Edit>,
    pub reason: Option<String>,
    /// Something went wrong, and there are no edits for that reason.
    pub fault: Option<Fault>,
}
