//! The message that a hook is about, lent to the host functions for as long as the hook runs: copying a head of 20 headers
//! cost a quarter of a call, and a body's window is up to 1 MiB.
//!
//! A store's data can hold no borrow, so the lifetime is taken off here, and put on again by whoever looks. Sound because
//! [`lend`] is the only way in, and takes the message back before it returns.

use std::net::SocketAddr;

use wasmtime::Store;

use super::state::State;
use crate::{ConnectionParts, RequestParts, ResponseParts};

/// What a hook is about.
#[derive(Clone, Copy, Default)]
pub(crate) enum Message<'a> {
    #[default]
    Nothing,
    Request(&'a RequestParts<'a>),
    /// An undecided request and the beginning of its body.
    Undecided(&'a RequestParts<'a>, &'a [u8]),
    Response(&'a ResponseParts<'a>),
    Body(&'a [u8]),
    Connection(&'a ConnectionParts<'a>),
}

/// A message with its lifetime taken off.
#[derive(Default)]
pub(crate) struct Lent(Message<'static>);

/// Runs a hook that is about `message`.
pub(crate) fn lend<T>(store: &mut Store<State>, message: Message<'_>, hook: impl FnOnce(&mut Store<State>) -> T) -> T {
    #[allow(unsafe_code)]
    // SAFETY: only the lifetime changes. `Lent` gives the message out for no longer than it is itself borrowed, which host
    // functions do while `hook` runs, and then it is replaced by nothing. Should `hook` unwind, it stays behind, but is
    // not looked at: host functions run only below another `lend`, which puts its own message in its place first.
    let message = unsafe { std::mem::transmute::<Message<'_>, Message<'static>>(message) };
    store.data_mut().lent = Lent(message);
    let result = hook(store);
    store.data_mut().lent = Lent(Message::Nothing);
    result
}

impl Lent {
    pub(crate) fn message(&self) -> Message<'_> {
        self.0
    }

    /// The request, as long as it is undecided.
    pub(crate) fn request(&self) -> Option<&RequestParts<'_>> {
        match self.message() {
            Message::Request(request) | Message::Undecided(request, _) => Some(request),
            _ => None,
        }
    }

    pub(crate) fn connection(&self) -> Option<&ConnectionParts<'_>> {
        match self.message() {
            Message::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self.message() {
            Message::Response(response) => Some(response.status),
            _ => None,
        }
    }

    /// The piece of a body.
    pub(crate) fn body(&self) -> Option<&[u8]> {
        match self.message() {
            Message::Undecided(_, body) | Message::Body(body) => Some(body),
            _ => None,
        }
    }

    /// Client and original destination.
    pub(crate) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self.message() {
            Message::Request(request) | Message::Undecided(request, _) => Some((request.client, request.destination)),
            Message::Connection(connection) => Some((connection.client, connection.destination)),
            _ => None,
        }
    }

    /// The nth header of that name.
    pub(crate) fn header(&self, name: &[u8], nth: usize) -> Option<&[u8]> {
        let mut left = nth;
        for field in self.headers() {
            if field.name.len() == name.len() && field.name.eq_ignore_ascii_case(name) {
                if left == 0 {
                    return Some(field.value);
                }
                left -= 1;
            }
        }
        None
    }

    pub(crate) fn headers(&self) -> &[crate::Field<'_>] {
        match self.message() {
            Message::Request(request) | Message::Undecided(request, _) => request.headers,
            Message::Response(response) => response.headers,
            _ => &[],
        }
    }
}
