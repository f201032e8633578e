//! A body on its way through the filters that follow its exchange: they see what it carries in windows, and may replace bytes.
//!
//! ```text
//! nobody can replace ─► every byte goes on at once, as it came
//! somebody might     ─► what is held, up to a window, goes on once it has been judged
//! ```

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use http::HeaderMap;
use mirrord_filters::Side;

use super::head;
use crate::gateway::{room::Room, steer::Follow};

/// The filters that follow an exchange, shared by its two bodies.
pub(super) type Following = Rc<RefCell<Box<dyn Follow>>>;

/// A body between its source and its sink.
pub(super) struct Passage {
    follow: Following,
    side: Side,
    /// So much is judged at once.
    window: usize,
    replaces: bool,
    /// Not judged yet.
    data: Vec<u8>,
    room: Room,
}

/// A filter wants the exchange reset.
#[derive(Debug)]
pub(super) struct Aborted;

impl Passage {
    /// Nothing if nobody looks at that body.
    pub(super) fn new(follow: &Following, side: Side) -> Option<Self> {
        let (window, replaces) = (follow.borrow().window(side)?.max(1), follow.borrow().may_replace(side));
        Some(Passage { follow: follow.clone(), side, window, replaces, data: Vec::new(), room: Room::default() })
    }

    /// Whether the body's length may change.
    pub(super) fn replaces(&self) -> bool {
        self.replaces
    }

    /// Whether somebody wants to see what follows the body.
    pub(super) fn wants_trailers(&self) -> bool {
        self.follow.borrow().wants_trailers()
    }

    /// Shows what follows the body, and edits it.
    pub(super) fn trailers(&self, trailers: &mut HeaderMap) {
        let edits = head::with_fields(trailers, |fields| self.follow.borrow_mut().on_trailers(self.side, fields));
        head::edit_headers(trailers, &edits);
    }

    /// Takes what came, and gives what goes on. `end`: that was all.
    pub(super) fn take(&mut self, bytes: Bytes, end: bool) -> Result<Bytes, Aborted> {
        self.data.extend_from_slice(&bytes);
        let (mut out, mut at) = (Vec::new(), 0);
        loop {
            let left = self.data.len() - at;
            let whole = left > self.window || (left == self.window && !end);
            // Where there is no room to hold a whole window, a part of one is judged.
            if !whole && !end && self.room.hold(left) {
                break;
            }
            let len = left.min(self.window);
            self.judge(at..at + len, end && len == left, &mut out)?;
            at += len;
            if at == self.data.len() {
                break;
            }
        }
        self.data.drain(..at);
        self.room.hold(self.data.len());
        Ok(if self.replaces { out.into() } else { bytes })
    }

    fn judge(&self, range: std::ops::Range<usize>, end: bool, out: &mut Vec<u8>) -> Result<(), Aborted> {
        let bytes = self.data.get(range).unwrap_or_default();
        let decision = self.follow.borrow_mut().on_body(self.side, bytes, end);
        if decision.abort {
            return Err(Aborted);
        }
        if self.replaces {
            out.extend_from_slice(decision.replaced.as_deref().unwrap_or(bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mirrord_filters::{BodyDecision, ResponseDecision, ResponseParts};

    use super::*;

    /// Replaces each `a` by `bbb`, or only looks; notes what it is shown.
    #[derive(Debug, Default)]
    struct Filter {
        window: usize,
        replaces: bool,
        calls: Rc<RefCell<Vec<(String, bool)>>>,
    }

    impl Follow for Filter {
        fn window(&self, _: Side) -> Option<usize> {
            Some(self.window)
        }

        fn may_replace(&self, _: Side) -> bool {
            self.replaces
        }

        fn on_body(&mut self, _: Side, bytes: &[u8], end: bool) -> BodyDecision {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.calls.borrow_mut().push((text.clone(), end));
            let replaced = text.contains('a').then(|| text.replace('a', "bbb").into_bytes());
            BodyDecision { replaced, abort: text.contains('!'), ..BodyDecision::default() }
        }

        fn wants_response(&self) -> bool {
            false
        }

        fn on_response(&mut self, _: &ResponseParts<'_>) -> ResponseDecision {
            ResponseDecision::default()
        }
    }

    #[test]
    fn whatever_the_pieces_the_filter_sees_windows_and_the_reader_all_of_it() {
        for (window, size, replaces) in
            [(1, 1), (3, 1), (3, 2), (3, 9), (4, 100), (9, 4), (100, 2)].iter().flat_map(|(w, s)| [(*w, *s, true), (*w, *s, false)])
        {
            let filter = Filter { window, replaces, ..Filter::default() };
            let calls = filter.calls.clone();
            let follow: Following = Rc::new(RefCell::new(Box::new(filter)));
            let mut passage = Passage::new(&follow, Side::Request).unwrap();
            let (text, mut out) = ("abcabcabc", Vec::new());
            let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
            for (at, piece) in pieces.iter().enumerate() {
                let bytes = passage.take(Bytes::copy_from_slice(piece), at + 1 == pieces.len()).unwrap();
                assert!(replaces || bytes == *piece, "what is only looked at is not held");
                out.extend_from_slice(&bytes);
            }
            let wanted = if replaces { text.replace('a', "bbb") } else { text.to_owned() };
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "window {window}, pieces of {size}");
            let calls = calls.borrow();
            assert_eq!(calls.iter().map(|(text, _)| text.as_str()).collect::<String>(), text);
            assert!(calls.iter().all(|(text, end)| text.len() == window || (*end && text.len() <= window)), "{calls:?}");
            assert_eq!(calls.iter().filter(|(_, end)| *end).count(), 1);
        }
    }

    #[test]
    fn a_filter_that_aborts_stops_it() {
        let follow: Following = Rc::new(RefCell::new(Box::new(Filter { window: 2, ..Filter::default() })));
        assert!(Passage::new(&follow, Side::Response).unwrap().take(Bytes::from_static(b"so!"), true).is_err());
    }
}
