//! Who follows an exchange after the verdict. Dropping this ends the exchange as well as saying so: what was dropped is
//! told to the links when their chain is next called.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use crate::abi::limit;
use crate::link::{Exchange, Side, Wants};

/// The links that want to see more of one exchange. Hooks are called through the [`crate::Chain`] that it came from.
pub struct Followers {
    pub(crate) list: Vec<Follower>,
    /// followers --exchanges that were dropped--> chain.
    ended: Rc<Ended>,
}

/// Exchanges that ended without the chain being told.
#[derive(Default)]
pub(crate) struct Ended(pub(crate) RefCell<Vec<Follower>>);

/// One link that follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follower {
    pub(crate) link: usize,
    pub(crate) exchange: Exchange,
    pub(crate) wants: Wants,
    /// It could replace bytes, or end the exchange by failing.
    pub(crate) may_change_request: bool,
    pub(crate) may_change_response: bool,
    /// Its link failed, and has forgotten the exchange.
    pub(crate) failed: bool,
}

impl Followers {
    pub(crate) fn new(ended: Rc<Ended>) -> Self {
        Followers { list: Vec::new(), ended }
    }

    /// As a message of that side meets them: a request the first link first, a response the last.
    pub(crate) fn in_order(&mut self, side: Side) -> impl Iterator<Item = &mut Follower> {
        let mut list = self.list.iter_mut();
        std::iter::from_fn(move || match side {
            Side::Request => list.next(),
            Side::Response => list.next_back(),
        })
    }

    /// How many bytes of a body to hold before each call, unless it ends; nothing: nobody asks for it.
    #[must_use]
    pub fn window(&self, side: Side) -> Option<usize> {
        self.list.iter().filter_map(|follower| follower.wants.window(side)).max()
    }

    /// Whether anybody who looks at that body could replace bytes of it or reset the exchange: else it need not be held.
    #[must_use]
    pub fn may_change(&self, side: Side) -> bool {
        let changes = |follower: &Follower| match side {
            Side::Request => follower.may_change_request,
            Side::Response => follower.may_change_response,
        };
        self.list.iter().any(|follower| changes(follower) && follower.wants.window(side).is_some())
    }

    /// Whether somebody wants to see what follows a body that it is shown.
    #[must_use]
    pub fn want_trailers(&self) -> bool {
        self.list.iter().any(|follower| follower.wants.trailers)
    }

    /// Whether somebody wants to see the response's head.
    #[must_use]
    pub fn want_response(&self) -> bool {
        self.list.iter().any(|follower| follower.wants.response)
    }
}

impl Wants {
    pub(crate) fn window(self, side: Side) -> Option<usize> {
        let window = match side {
            Side::Request => self.request_body,
            Side::Response => self.response_body,
        };
        window.map(|window| window.clamp(1, limit::BODY_WINDOW))
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        if !self.list.is_empty()
            && let Ok(mut ended) = self.ended.0.try_borrow_mut()
        {
            ended.append(&mut self.list);
        }
    }
}

impl fmt::Debug for Followers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}
