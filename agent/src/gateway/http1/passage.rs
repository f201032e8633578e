//! A body on its way through the filters that follow its exchange: they see what it carries in windows, and what they replace
//! is framed anew. Pure: bytes as they came in, bytes to send out.
//!
//! ```text
//!             nobody can replace ─► Looked at: every byte goes on as it came, at once
//!  head, body ┤                              ┌ all of it, nothing replaced ─► as it came
//!             └ somebody might ──► Held ─────┼ all of it, replaced ─────────► a new length
//!                 (up to a window)           └ there is more ──► chunked; or until the end; or the length that was said
//! ```

use mirrord_filters::Side;

use super::{
    edit::{self, Framing},
    framing::{BadChunk, Body, Part},
};
use crate::gateway::{room::Room, steer::Follow};

/// Framing beside a window that is kept; chunks so small that theirs is more are not kept as they came, nor waited for.
pub(super) const MOST_FRAMING: usize = 64 * 1024;

/// A body between its source and its sink.
#[derive(Debug)]
pub struct Passage {
    side: Side,
    /// So much is judged at once.
    window: usize,
    form: Form,
    /// What the body carries, not judged yet.
    data: Vec<u8>,
    /// What follows the last chunk.
    trailers: Vec<u8>,
    /// Filters see it before it goes on.
    judges_trailers: bool,
    /// The reader understands no chunks.
    http10: bool,
    /// The reader's connection has to end after this body.
    closes: bool,
    room: Room,
}

/// How the bytes go on.
#[derive(Debug)]
enum Form {
    Looked,
    /// Neither the head has gone nor anything of the body, whose framing at its beginning this is.
    Held {
        head: Vec<u8>,
        framing: Body,
        raw: Vec<u8>,
    },
    Chunked,
    /// Without framing, to the connection's end.
    Bare,
    /// With the length that was said.
    SameLength,
}

/// Why a body does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    BadChunk,
    /// A filter wants the exchange reset, or replaces bytes where the length cannot change.
    Abort,
}

impl Passage {
    /// For a body that follows `head` and is framed so; `http10`: the reader understands no chunks. What goes on at once is appended
    /// to `out`.
    pub fn new(side: Side, follow: &dyn Follow, head: &[u8], framing: Body, http10: bool, out: &mut Vec<u8>) -> Self {
        let form = match follow.may_replace(side) {
            true => Form::Held { head: head.to_vec(), framing, raw: Vec::new() },
            false => {
                out.extend_from_slice(head);
                Form::Looked
            }
        };
        let window = follow.window(side).unwrap_or(1).max(1);
        let (data, trailers, judges_trailers) = (Vec::new(), Vec::new(), follow.wants_trailers());
        Passage { side, window, form, data, trailers, judges_trailers, http10, closes: false, room: Room::default() }
    }

    /// Whether nothing has gone on yet.
    pub fn is_held(&self) -> bool {
        matches!(self.form, Form::Held { .. })
    }

    /// Whether the reader's connection has to end with this body, whatever its head said before.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// Takes what belongs to the body of `bytes`, and says how much that was. `body`: where it is, and then where it is after them.
    pub fn take(&mut self, bytes: &[u8], body: &mut Body, follow: &mut dyn Follow, out: &mut Vec<u8>) -> Result<usize, Stop> {
        let (data, trailers) = (&mut self.data, &mut self.trailers);
        let before = trailers.len();
        let taken = body.read(bytes, |part| match part {
            Part::Data(bytes) => data.extend_from_slice(bytes),
            Part::Trailers(bytes) => trailers.extend_from_slice(bytes),
        });
        let taken = taken.map_err(|BadChunk| Stop::BadChunk)?;
        match &mut self.form {
            // Trailers are the last of it.
            Form::Looked if self.judges_trailers => out.extend_from_slice(&bytes[..taken - (self.trailers.len() - before)]),
            Form::Looked => out.extend_from_slice(&bytes[..taken]),
            Form::Held { raw, .. } => raw.extend_from_slice(&bytes[..taken]),
            Form::Chunked | Form::Bare | Form::SameLength => {}
        }
        let done = body.is_done();
        while self.data.len() >= self.window && !(done && self.data.len() == self.window) {
            self.judge(self.window, false, follow, out)?;
        }
        if done {
            self.judge(self.data.len(), true, follow, out)?;
        } else if self.must_not_hold() {
            self.judge(self.data.len(), false, follow, out)?;
        }
        Ok(taken)
    }

    /// The body ended with its connection.
    pub fn end(&mut self, follow: &mut dyn Follow, out: &mut Vec<u8>) -> Result<(), Stop> {
        self.judge(self.data.len(), true, follow, out)
    }

    /// All that came and has not gone on, if the reader can get it as it came.
    pub fn give_back(&mut self) -> Option<Vec<u8>> {
        match &mut self.form {
            Form::Looked => Some(if self.judges_trailers { std::mem::take(&mut self.trailers) } else { Vec::new() }),
            Form::Held { head, raw, .. } => {
                let mut all = std::mem::take(head);
                all.append(raw);
                self.form = Form::Looked;
                Some(all)
            }
            Form::Chunked | Form::Bare | Form::SameLength => None,
        }
    }

    /// Sends on what follows the last chunk, after the edits of whoever wants to see it.
    fn end_trailers(&mut self, follow: &mut dyn Follow, out: &mut Vec<u8>) {
        let trailers = std::mem::take(&mut self.trailers);
        // No more than the empty line: there are none.
        let edits = match self.judges_trailers && trailers.len() > 2 {
            true => follow.on_trailers(self.side, &edit::fields(&trailers)),
            false => Vec::new(),
        };
        match edits.is_empty() {
            true => out.extend_from_slice(&trailers),
            false => edit::edited_fields(&trailers, &edits, out),
        }
    }

    fn must_not_hold(&mut self) -> bool {
        let raw = if let Form::Held { raw, .. } = &self.form { raw.len() } else { 0 };
        !self.room.hold(self.data.len() + raw) || raw > self.window + MOST_FRAMING
    }

    /// Asks about the first `len` bytes of what is held, and sends them on; `end`: that is all.
    fn judge(&mut self, len: usize, end: bool, follow: &mut dyn Follow, out: &mut Vec<u8>) -> Result<(), Stop> {
        let decision = follow.on_body(self.side, &self.data[..len], end);
        if decision.abort {
            return Err(Stop::Abort);
        }
        if let Form::Held { .. } = self.form
            && let Form::Held { head, framing, raw } = std::mem::replace(&mut self.form, Form::Looked)
        {
            self.form = match (&decision.replaced, framing) {
                (None, _) if end => {
                    // As it came. Nothing follows that a form would matter to.
                    out.extend_from_slice(&head);
                    out.extend_from_slice(&raw[..raw.len() - self.trailers.len()]);
                    self.end_trailers(follow, out);
                    self.data.clear();
                    return Ok(());
                }
                (Some(replaced), Body::Empty | Body::Length(_)) if end => {
                    edit::reframed(&head, Framing::Length(replaced.len()), out);
                    Form::Bare
                }
                (_, Body::UntilClose) => {
                    out.extend_from_slice(&head);
                    Form::Bare
                }
                (_, Body::Chunked(_)) => {
                    out.extend_from_slice(&head);
                    Form::Chunked
                }
                _ if !self.http10 => {
                    edit::reframed(&head, Framing::Chunked, out);
                    Form::Chunked
                }
                _ if self.side == Side::Response => {
                    edit::reframed(&head, Framing::UntilClose, out);
                    self.closes = true;
                    Form::Bare
                }
                _ => {
                    out.extend_from_slice(&head);
                    Form::SameLength
                }
            };
        }
        let bytes = decision.replaced.as_deref().unwrap_or(&self.data[..len]);
        match self.form {
            Form::Looked if end && self.judges_trailers => self.end_trailers(follow, out),
            Form::Looked | Form::Held { .. } => {}
            Form::SameLength if bytes.len() != len => return Err(Stop::Abort),
            Form::SameLength | Form::Bare => out.extend_from_slice(bytes),
            Form::Chunked => {
                if !bytes.is_empty() {
                    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                    out.extend_from_slice(bytes);
                    out.extend_from_slice(b"\r\n");
                }
                if end {
                    out.extend_from_slice(b"0\r\n");
                    if self.trailers.is_empty() {
                        self.trailers.extend_from_slice(b"\r\n");
                    }
                    self.end_trailers(follow, out);
                }
            }
        }
        self.data.drain(..len);
        self.room.hold(self.data.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mirrord_filters::{BodyDecision, Edit, Field, ResponseDecision, ResponseParts};

    use super::*;
    use crate::gateway::http1::{
        NO_VIEW,
        head::{self, Asks, Read},
    };

    /// Replaces each `a` by `bbb`, or only looks.
    #[derive(Debug)]
    struct Filter {
        window: usize,
        replaces: bool,
        seen: Vec<u8>,
        calls: Vec<(usize, bool)>,
        abort_at: Option<u8>,
        /// What it was shown after a body; its edits of that.
        trailers: Option<(Vec<String>, Vec<Edit>)>,
    }

    impl Filter {
        fn new(window: usize, replaces: bool) -> Self {
            Filter { window, replaces, seen: Vec::new(), calls: Vec::new(), abort_at: None, trailers: None }
        }
    }

    impl Follow for Filter {
        fn window(&self, _: Side) -> Option<usize> {
            Some(self.window)
        }

        fn may_replace(&self, _: Side) -> bool {
            self.replaces
        }

        fn on_body(&mut self, _: Side, bytes: &[u8], end: bool) -> BodyDecision {
            self.seen.extend_from_slice(bytes);
            self.calls.push((bytes.len(), end));
            let abort = self.abort_at.is_some_and(|byte| bytes.contains(&byte));
            let replaced = self.replaces && bytes.contains(&b'a');
            let replaced =
                replaced.then(|| bytes.iter().flat_map(|byte| if *byte == b'a' { b"bbb".to_vec() } else { vec![*byte] }).collect());
            BodyDecision { replaced, abort, ..BodyDecision::default() }
        }

        fn wants_trailers(&self) -> bool {
            self.trailers.is_some()
        }

        fn on_trailers(&mut self, _: Side, trailers: &[Field<'_>]) -> Vec<Edit> {
            assert!(self.calls.last().is_some_and(|(_, end)| *end), "before the body's end");
            let Some((seen, edits)) = &mut self.trailers else { return Vec::new() };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            seen.extend(trailers.iter().map(|field| format!("{}={}", text(field.name), text(field.value))));
            edits.clone()
        }

        fn wants_response(&self) -> bool {
            false
        }

        fn on_response(&mut self, _: &ResponseParts<'_>) -> ResponseDecision {
            ResponseDecision::default()
        }
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nX: y\r\n";

    fn chunks(pieces: &[&str], trailers: &str) -> String {
        let all: String = pieces.iter().map(|piece| format!("{:X};e=1\r\n{piece}\r\n", piece.len())).collect();
        format!("{all}0\r\n{trailers}\r\n")
    }

    /// What comes out for bytes cut in pieces of `size`; and whether that is all at its end.
    fn through(filter: &mut Filter, message: &str, size: usize, http10: bool) -> Result<(String, bool), Stop> {
        let bytes = message.as_bytes();
        let Read::Head((response, _)) = head::response(bytes, Asks::default(), NO_VIEW) else { panic!("no head in {message}") };
        let (mut out, mut body) = (Vec::new(), response.body);
        let mut passage = Passage::new(Side::Response, filter, &bytes[..response.len], body, http10, &mut out);
        for piece in bytes[response.len..].chunks(size) {
            assert_eq!(passage.take(piece, &mut body, filter, &mut out)?, piece.len());
        }
        if body == Body::UntilClose {
            passage.end(filter, &mut out)?;
        }
        Ok((String::from_utf8(out).unwrap(), passage.closes()))
    }

    /// What a body carries, and its trailers.
    fn carried(message: &str) -> (String, String) {
        let Read::Head((response, _)) = head::response(message.as_bytes(), Asks::default(), NO_VIEW) else {
            panic!("no head in {message}")
        };
        let (mut body, mut data, mut trailers) = (response.body, Vec::new(), Vec::new());
        let rest = &message.as_bytes()[response.len..];
        let taken = body.read(rest, |part| match part {
            Part::Data(bytes) => data.extend_from_slice(bytes),
            Part::Trailers(bytes) => trailers.extend_from_slice(bytes),
        });
        assert_eq!(taken, Ok(rest.len()), "{message}");
        assert!(body.is_done() || body == Body::UntilClose, "{message} goes on");
        (String::from_utf8(data).unwrap(), String::from_utf8(trailers).unwrap())
    }

    fn bodies() -> Vec<String> {
        vec![
            format!("{HEAD}Content-Length: 9\r\n\r\nabcabcabc"),
            format!("{HEAD}content-length: 5\r\n\r\nbcbcb"),
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{}", chunks(&["ab", "cabcab", "c"], "X-T: 1\r\n")),
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{}", chunks(&["bcd"], "")),
            format!("{HEAD}\r\nabcabcabc"),
        ]
    }

    #[test]
    fn whoever_only_looks_changes_no_byte_and_holds_none() {
        for message in bodies() {
            for window in [1, 3, 4, 100] {
                for size in [1, 2, 7, 1000] {
                    let mut filter = Filter::new(window, false);
                    assert_eq!(through(&mut filter, &message, size, false), Ok((message.clone(), false)));
                    assert_eq!(String::from_utf8(filter.seen).unwrap(), carried(&message).0);
                    assert_eq!(filter.calls.iter().filter(|(_, end)| *end).count(), 1, "told of the end once");
                    assert!(filter.calls.iter().all(|(len, end)| *len == window || (*end && *len <= window)), "{:?}", filter.calls);
                }
            }
        }
    }

    #[test]
    fn what_is_replaced_is_framed_anew() {
        for message in bodies() {
            let (data, trailers) = carried(&message);
            for window in [1, 3, 4, 100] {
                for size in [1, 2, 7, 1000] {
                    for http10 in [false, true] {
                        let (heard, closes) = through(&mut Filter::new(window, true), &message, size, http10).unwrap();
                        assert_eq!(
                            carried(&heard),
                            (data.replace('a', "bbb"), if heard.contains("hunked") { carried(&heard).1 } else { String::new() })
                        );
                        if message.contains("X-T") {
                            assert_eq!(carried(&heard).1, trailers);
                        }
                        if window == 100 && !data.contains('a') {
                            assert_eq!(heard, message, "nothing was replaced");
                        }
                        if window == 100 && message.contains("-Length: 9") {
                            assert!(heard.contains("Content-Length: 15\r\n"), "{heard}");
                        }
                        assert_eq!(
                            closes,
                            http10 && window < 9 && message.to_lowercase().contains("content-length") && window < data.len()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn trailers_are_shown_after_the_body_and_go_on_as_they_came_or_edited() {
        let lines = "X-T: 1\r\nx-u:2\r\nX-T:  3 \r\n";
        let message = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{}", chunks(&["ab", "cabcab", "c"], lines));
        let edits = [
            Edit::Set { name: b"x-u".to_vec(), value: b"two".to_vec() },
            Edit::Remove { name: b"x-t".to_vec() },
            Edit::Append { name: b"x-new".to_vec(), value: b"4".to_vec() },
        ];
        for (replaces, window, size) in [false, true].iter().flat_map(|r| [(*r, 3, 1), (*r, 3, 5), (*r, 100, 2), (*r, 100, 1000)]) {
            for (edits, wanted) in [(&[][..], format!("{lines}\r\n")), (&edits, "x-u: two\r\nx-new: 4\r\n\r\n".to_owned())] {
                let mut filter = Filter::new(window, replaces);
                filter.trailers = Some((Vec::new(), edits.to_vec()));
                let (heard, _) = through(&mut filter, &message, size, false).unwrap();
                assert_eq!(filter.trailers.unwrap().0, ["X-T=1", "x-u=2", "X-T=3"]);
                assert_eq!(carried(&heard).1, wanted, "window {window}, pieces of {size}");
                assert!(replaces || !edits.is_empty() || heard == message, "{heard}");
            }
        }
        // Where none come nobody is asked.
        for message in bodies().iter().filter(|message| !message.contains("X-T")) {
            let mut filter = Filter::new(3, false);
            filter.trailers = Some((Vec::new(), edits.to_vec()));
            assert_eq!(through(&mut filter, message, 2, false), Ok((message.clone(), false)));
            assert!(filter.trailers.unwrap().0.is_empty());
        }
    }

    #[test]
    fn trailers_that_break_off_are_given_back() {
        let (mut out, mut body, mut filter) = (Vec::new(), Body::chunked(), Filter::new(100, false));
        filter.trailers = Some((Vec::new(), Vec::new()));
        let mut passage = Passage::new(Side::Request, &filter, b"head ", body, false, &mut out);
        passage.take(b"1\r\na\r\n0\r\nX-T: 1\r\nx", &mut body, &mut filter, &mut out).unwrap();
        assert_eq!(passage.take(b"\0", &mut body, &mut filter, &mut out), Err(Stop::BadChunk));
        assert_eq!((out, passage.give_back()), (b"head 1\r\na\r\n0\r\n".to_vec(), Some(b"X-T: 1\r\nx".to_vec())));
    }

    #[test]
    fn a_filter_that_aborts_stops_it() {
        let mut filter = Filter::new(3, true);
        filter.abort_at = Some(b'c');
        for message in bodies() {
            assert_eq!(through(&mut filter, &message, 2, false), Err(Stop::Abort));
        }
    }

    #[test]
    fn a_request_of_http_1_0_keeps_its_length_or_stops() {
        for (data, result) in [("cccccc", Ok("cccccc")), ("ccccca", Err(Stop::Abort))] {
            let (mut out, mut body, mut filter) = (Vec::new(), Body::length(6), Filter::new(3, true));
            let mut passage = Passage::new(Side::Request, &filter, b"", body, true, &mut out);
            let taken = passage.take(data.as_bytes(), &mut body, &mut filter, &mut out);
            assert_eq!(taken.map(|_| std::str::from_utf8(&out).unwrap()), result);
        }
    }

    #[test]
    fn tiny_chunks_are_not_kept_as_they_came() {
        let (mut out, mut body, mut filter) = (Vec::new(), Body::chunked(), Filter::new(1 << 20, true));
        let mut passage = Passage::new(Side::Request, &filter, b"", body, false, &mut out);
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(4000));
        for _ in 0..1000 {
            passage.take(chunk.as_bytes(), &mut body, &mut filter, &mut out).unwrap();
        }
        assert!(!passage.is_held());
        passage.take(b"0\r\n\r\n", &mut body, &mut filter, &mut out).unwrap();
        let message = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{}", String::from_utf8(out).unwrap());
        assert_eq!(carried(&message).0, "bbb".repeat(1000));
    }

    #[test]
    fn what_is_held_can_be_given_back() {
        let (mut out, mut body, mut filter) = (Vec::new(), Body::chunked(), Filter::new(100, true));
        let mut passage = Passage::new(Side::Request, &filter, b"head", body, false, &mut out);
        passage.take(b"3\r\nabc\r\n", &mut body, &mut filter, &mut out).unwrap();
        assert_eq!(passage.take(b"x\r\n", &mut body, &mut filter, &mut out), Err(Stop::BadChunk));
        assert_eq!(passage.give_back().as_deref(), Some(&b"head3\r\nabc\r\n"[..]));
        assert!(out.is_empty());
    }
}
