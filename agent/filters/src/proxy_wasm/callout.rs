//! HTTP requests that a filter makes while it decides. This crate has no network: it queues them as plain data, and
//! whoever runs the chain carries them out and gives back what came of them.
//!
//! ```text
//!   guest: proxy_http_call ──► Chain::take_callouts ──(the agent's HTTP client)──► Chain::on_callout ──► guest:
//!     denied unless the                                                              proxy_on_http_call_response
//!     link declares the upstream                                                       may continue the request
//! ```

use std::collections::HashMap;
use std::time::Duration;

use super::map;
use crate::abi;

/// Of one instance, and of one request, at once.
const MAX_IN_FLIGHT: usize = 64;
const MAX_OF_A_REQUEST: u32 = 16;
/// What a filter may send.
const MAX_BODY: usize = 256 << 10;
const MAX_HEADERS: usize = 128;
/// Whoever carries out a callout takes no more of its response.
pub const MAX_CALLOUT_RESPONSE: usize = 256 << 10;
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(30));

/// A host that a link's callouts may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What the filter calls it (in Envoy: the cluster).
    pub name: String,
    /// `host:port`, reached in plain HTTP/1.1 from the target's network; `http2://host:port`: in HTTP/2, with prior knowledge.
    pub address: String,
}

/// A request to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callout {
    pub id: CalloutId,
    /// The filter's name.
    pub filter: String,
    /// Of the declared upstream.
    pub address: String,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub authority: String,
    /// Checked; nothing in them frames the message.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    /// After which there is no response.
    pub timeout: Duration,
}

/// Which callout of which link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CalloutId {
    pub(crate) link: usize,
    /// Instances that are gone hear nothing.
    pub(crate) generation: u32,
    pub(crate) token: u32,
}

/// What came back. A callout that failed or took too long has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CalloutResponse {
    pub status: u16,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// At most [`MAX_CALLOUT_RESPONSE`] bytes; what is longer is cut.
    pub body: Vec<u8>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a callout is not made: the guest hears the status that its SDK knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotMade {
    /// `BAD_ARGUMENT`.
    Invalid(&'static str),
    /// `INTERNAL_FAILURE`.
    TooMany,
}

/// One instance's callouts.
#[derive(Default)]
pub(crate) struct Callouts {
    queued: Vec<(u32, Request)>,
    /// Token to the context that made it.
    in_flight: HashMap<u32, u32>,
    last: u32,
}

/// A callout without the names that the link adds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    address: String,
    method: String,
    path: String,
    authority: String,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Duration,
}

impl Request {
    /// Reads what the guest gave. Trailers are accepted and not sent: hosts that take them are rare.
    pub(crate) fn read(upstreams: &[Upstream], name: &[u8], headers: &[u8], body: &[u8], timeout_ms: u32) -> Result<Request, NotMade> {
        let Some(upstream) = upstreams.iter().find(|upstream| upstream.name.as_bytes() == name) else {
            return Err(NotMade::Invalid("its upstream is not declared for this filter"));
        };
        let pairs = map::deserialize(headers).ok_or(NotMade::Invalid("its headers are no serialized map"))?;
        if pairs.len() > MAX_HEADERS || body.len() > MAX_BODY {
            return Err(NotMade::Invalid("it has too many headers, or too long a body"));
        }
        let pseudo = |name: &[u8]| {
            let value = pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| String::from_utf8_lossy(value).into_owned());
            value.filter(|value| !value.is_empty()).ok_or(NotMade::Invalid("it lacks :method, :path or :authority"))
        };
        let (method, path, authority) = (pseudo(b":method")?, pseudo(b":path")?, pseudo(b":authority")?);
        let mut fields = Vec::with_capacity(pairs.len());
        for (name, value) in pairs.iter().filter(|(name, _)| !name.starts_with(b":")) {
            if abi::is_untouchable(name) || name.eq_ignore_ascii_case(b"host") {
                continue;
            }
            if abi::edit_problem(name, value).is_some() {
                return Err(NotMade::Invalid("a header of it is none of HTTP"));
            }
            fields.push((name.to_vec(), value.to_vec()));
        }
        let timeout = Duration::from_millis(timeout_ms.into()).clamp(TIMEOUTS.0, TIMEOUTS.1);
        Ok(Request { address: upstream.address.clone(), method, path, authority, headers: fields, body: body.to_vec(), timeout })
    }
}

impl Callouts {
    /// Queues a callout of a context that has so many under way; its token.
    pub(crate) fn queue(&mut self, context: u32, of_the_context: u32, request: Request) -> Result<u32, NotMade> {
        if self.in_flight.len() >= MAX_IN_FLIGHT || of_the_context >= MAX_OF_A_REQUEST {
            return Err(NotMade::TooMany);
        }
        // An SDK panics when a number comes twice.
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.in_flight.contains_key(&self.last) {
                break;
            }
        }
        self.in_flight.insert(self.last, context);
        self.queued.push((self.last, request));
        Ok(self.last)
    }

    /// Whose it was, if it is still under way.
    pub(crate) fn ended(&mut self, token: u32) -> Option<u32> {
        self.in_flight.remove(&token)
    }

    pub(crate) fn take(&mut self, link: usize, generation: u32, filter: &str, out: &mut Vec<Callout>) {
        out.extend(self.queued.drain(..).map(|(token, request)| {
            let Request { address, method, path, authority, headers, body, timeout } = request;
            let id = CalloutId { link, generation, token };
            Callout { id, filter: filter.into(), address, method, path, authority, headers, body, timeout }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams() -> [Upstream; 1] {
        [Upstream { name: "auth".into(), address: "127.0.0.1:9".into() }]
    }

    fn read(name: &str, headers: &[(&str, &str)]) -> Result<Request, NotMade> {
        let mut bytes = Vec::new();
        map::serialize(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), &mut bytes);
        Request::read(&upstreams(), name.as_bytes(), &bytes, b"body", 0)
    }

    const WHOLE: [(&str, &str); 3] = [(":method", "POST"), (":path", "/check?a=1"), (":authority", "auth.svc")];

    #[test]
    fn only_declared_upstreams_are_reached_and_only_by_whole_requests() {
        let request = read("auth", &[WHOLE[0], WHOLE[1], WHOLE[2], ("x-a", "1"), ("content-length", "99"), ("Host", "evil")]).unwrap();
        assert_eq!((&*request.address, &*request.authority, request.timeout), ("127.0.0.1:9", "auth.svc", TIMEOUTS.0));
        assert_eq!(request.headers, [(b"x-a".to_vec(), b"1".to_vec())]);
        assert!(matches!(read("169.254.169.254:80", &WHOLE), Err(NotMade::Invalid(_))));
        assert!(matches!(read("", &WHOLE), Err(NotMade::Invalid(_))));
        assert!(matches!(read("auth", &WHOLE[..2]), Err(NotMade::Invalid(_))));
        assert!(matches!(read("auth", &[WHOLE[0], WHOLE[1], WHOLE[2], ("x", "a\r\nb: c")]), Err(NotMade::Invalid(_))));
        assert!(Request::read(&upstreams(), b"auth", &[1, 2, 3], b"", 5).is_err());
    }

    #[test]
    fn callouts_under_way_are_bounded_and_each_ends_once() {
        let mut callouts = Callouts::default();
        let token = callouts.queue(2, 0, read("auth", &WHOLE).unwrap()).unwrap();
        assert_eq!(callouts.queue(2, MAX_OF_A_REQUEST, read("auth", &WHOLE).unwrap()), Err(NotMade::TooMany));
        for _ in 1..MAX_IN_FLIGHT {
            callouts.queue(3, 0, read("auth", &WHOLE).unwrap()).unwrap();
        }
        assert_eq!(callouts.queue(3, 0, read("auth", &WHOLE).unwrap()), Err(NotMade::TooMany));
        assert_eq!((callouts.ended(token), callouts.ended(token)), (Some(2), None));
        let mut out = Vec::new();
        callouts.take(1, 7, "f", &mut out);
        assert_eq!((out.len(), out[0].id), (MAX_IN_FLIGHT, CalloutId { link: 1, generation: 7, token }));
    }
}
