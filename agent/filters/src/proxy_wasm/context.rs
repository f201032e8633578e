//! One exchange as an instance knows it: what came, what the guest made of it, and how far it is.

use std::net::SocketAddr;
use std::task::Waker;
use std::time::{Instant, SystemTime};

use super::map::Map;
use crate::link::Side;
use crate::{LocalResponse, RequestParts, ResponseParts, Verdict, Version, wasi};

/// Exchanges of one instance at once.
pub(crate) const MAX_CONTEXTS: usize = 4096;
/// Properties that a guest sets on one exchange (or outside any), and their bytes.
const MAX_PROPERTIES: usize = 64;
const MAX_PROPERTY_BYTES: usize = 64 << 10;

/// One exchange.
#[derive(Default)]
pub(crate) struct Context {
    /// The guest's number for it.
    pub(crate) id: u32,
    pub(crate) request: Half,
    pub(crate) response: Half,
    pub(crate) client: Option<SocketAddr>,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) version: Option<Version>,
    pub(crate) status: Option<u16>,
    pub(crate) began: Option<SystemTime>,
    pub(crate) properties: Properties,
    pub(crate) said: Said,
    /// The verdict is not given yet.
    pub(crate) undecided: bool,
    /// Callouts under way.
    pub(crate) callouts: u32,
    /// When the guest paused it.
    pub(crate) held_since: Option<Instant>,
    /// Who waits for the verdict.
    pub(crate) waker: Option<Waker>,
}

/// One direction.
#[derive(Default)]
pub(crate) struct Half {
    pub(crate) headers: Map,
    pub(crate) trailers: Map,
    /// What the guest may read and replace now, and what it has kept back before.
    pub(crate) body: Vec<u8>,
    /// A body hook runs, or the guest paused in one.
    pub(crate) body_open: bool,
    /// The guest changed the body, or keeps some of it back, so that what came is not what goes on.
    pub(crate) body_changed: bool,
    /// The guest may change bytes that come: it took `content-length` away when it saw the head, as proxies demand, or changed the
    /// body before the exchange was decided. Other bodies it only looks at.
    pub(crate) may_change: bool,
    pub(crate) paused: bool,
    /// Nothing more comes.
    pub(crate) ended: bool,
    /// So many bytes were shown while the exchange was undecided: when they come again, the guest has seen them.
    pub(crate) seen: usize,
    pub(crate) size: u64,
}

/// What the guest said about the exchange.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) verdict: Option<Verdict>,
    pub(crate) reason: Option<std::sync::Arc<str>>,
    pub(crate) response: Option<LocalResponse>,
    pub(crate) close: bool,
}

/// Properties that a guest set.
#[derive(Default)]
pub(crate) struct Properties {
    list: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Properties {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.list.iter().find(|(own, _)| own == path).map(|(_, value)| &**value)
    }

    /// Whether there was room.
    pub(crate) fn set(&mut self, path: &[u8], value: &[u8]) -> bool {
        if let Some((_, own)) = self.list.iter_mut().find(|(own, _)| own == path) {
            self.bytes = self.bytes - own.len() + value.len();
            if self.bytes > MAX_PROPERTY_BYTES {
                self.bytes = self.bytes - value.len() + own.len();
                return false;
            }
            own.clear();
            own.extend_from_slice(value);
            return true;
        }
        if self.list.len() >= MAX_PROPERTIES || self.bytes + path.len() + value.len() > MAX_PROPERTY_BYTES {
            return false;
        }
        self.bytes += path.len() + value.len();
        self.list.push((path.to_vec(), value.to_vec()));
        true
    }

    fn clear(&mut self) {
        self.list.clear();
        self.bytes = 0;
    }
}

impl Half {
    fn clear(&mut self) {
        self.headers.clear();
        self.trailers.clear();
        self.body = Vec::new();
        (self.body_open, self.body_changed, self.may_change, self.paused, self.ended) = (false, false, false, false, false);
        (self.seen, self.size) = (0, 0);
    }
}

impl Context {
    pub(crate) fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    pub(crate) fn load_request(&mut self, id: u32, parts: &RequestParts<'_>) {
        self.id = id;
        let headers = &mut self.request.headers;
        let bytes = parts.headers.iter().map(|field| field.name.len() + field.value.len()).sum::<usize>();
        headers.reserve(parts.headers.len() + 4, bytes + parts.path.len() + parts.method.len() + 64);
        headers.push(b":method", parts.method);
        headers.push(b":path", parts.path);
        headers.push(b":scheme", b"http");
        // Where Envoy has the host; its real name stays out, as there.
        for field in parts.headers {
            match field.name {
                name if name.eq_ignore_ascii_case(b"host") => headers.push(b":authority", field.value),
                name => headers.push(name, field.value),
            }
        }
        self.request.ended = parts.end;
        self.began = Some(wasi::coarse_now());
        (self.client, self.destination, self.version) = (Some(parts.client), Some(parts.destination), Some(parts.version));
        self.undecided = true;
    }

    /// Whether the request is a call of gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.request.headers.values(b"content-type").any(|value| value.starts_with(b"application/grpc"))
    }

    pub(crate) fn load_response(&mut self, parts: &ResponseParts<'_>) {
        let headers = &mut self.response.headers;
        headers.clear();
        let mut status = *b"000";
        for (digit, place) in status.iter_mut().zip([100, 10, 1]) {
            *digit += u8::try_from(parts.status / place % 10).unwrap_or(0);
        }
        headers.push(b":status", &status);
        headers.push_all(parts.headers);
        self.status = Some(parts.status);
    }

    /// As new, with its buffers.
    pub(crate) fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.properties.clear();
        self.said = Said::default();
        (self.client, self.destination, self.version, self.status, self.began) = (None, None, None, None, None);
        (self.id, self.callouts, self.undecided) = (0, 0, false);
        (self.held_since, self.waker) = (None, None);
    }
}

/// An instance's exchanges, by place. Contexts that ended are used again, with their buffers.
#[derive(Default)]
pub(crate) struct Contexts {
    places: Vec<Option<Box<Context>>>,
    free: Vec<usize>,
    #[allow(clippy::vec_box, reason = "they move in and out of their places, and are large")]
    spare: Vec<Box<Context>>,
}

/// Contexts kept for reuse.
const MAX_SPARE: usize = 32;

impl Contexts {
    /// A new exchange's place; nothing when there are too many.
    pub(crate) fn open(&mut self) -> Option<usize> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() >= MAX_CONTEXTS => return None,
            None => {
                self.places.push(None);
                self.places.len() - 1
            }
        };
        self.places[place] = Some(self.spare.pop().unwrap_or_default());
        Some(place)
    }

    pub(crate) fn get(&mut self, place: usize) -> Option<&mut Context> {
        self.places.get_mut(place)?.as_deref_mut()
    }

    pub(crate) fn read(&self, place: usize) -> Option<&Context> {
        self.places.get(place)?.as_deref()
    }

    pub(crate) fn find(&self, id: u32) -> Option<usize> {
        self.places.iter().position(|context| context.as_ref().is_some_and(|context| context.id == id))
    }

    pub(crate) fn close(&mut self, place: usize) {
        if let Some(mut context) = self.places.get_mut(place).and_then(Option::take) {
            self.free.push(place);
            if self.spare.len() < MAX_SPARE {
                context.clear();
                self.spare.push(context);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }

    /// Undecided ones that the guest holds.
    pub(crate) fn held(&mut self) -> impl Iterator<Item = &mut Context> {
        self.places.iter_mut().flatten().map(|context| &mut **context).filter(|context| context.undecided && context.held_since.is_some())
    }

    /// Everyone who waits for a verdict.
    pub(crate) fn wakers(&mut self) -> impl Iterator<Item = Waker> {
        self.places.iter_mut().flatten().filter_map(|context| context.waker.take())
    }
}
