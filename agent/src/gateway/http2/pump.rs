//! Moves one body, with its trailers, from a received stream to a sent one: no faster than the receiver grants, and giving
//! the sender its window back only for what went on.

use std::{
    future::poll_fn,
    mem,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use mirrord_filters::Side;
use mirrord_tunnel::{Outgoing, Purse, Turn};

use super::{
    head,
    passage::{Aborted, Passage},
    queue::Taps,
    windows::{Share, Windows},
};
use crate::{gateway::room::Room, records::exchanges::Observer};

/// Why a body did not come to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its sender reset it, or the sender's connection broke.
    Source(h2::Error),
    /// Its receiver does not want it any more, or the receiver's connection broke.
    Sink,
    /// A filter that follows it wants the exchange reset.
    Aborted,
}

/// A body that is being received.
pub(super) struct Body {
    stream: RecvStream,
    /// Who gets a copy of what passes.
    pub(super) taps: Taps,
    /// Who looks at what passes, and on which side of the exchange that is.
    observer: Option<(Observer, Side)>,
    /// Something of it has been read: it cannot be sent a second time.
    touched: bool,
    share: Share,
    /// What few bodies have.
    special: Option<Box<Special>>,
}

/// A body that filters look at. Its sender gets its window back for what is held here, for which there is a limit of its own.
#[derive(Default)]
struct Special {
    /// Its beginning, read before it was known where it goes.
    ahead: Vec<u8>,
    room: Room,
    passage: Option<Passage>,
    /// The same, once it has seen all, if what follows the body is to be shown.
    after: Option<Passage>,
    /// What goes on next.
    out: Bytes,
    /// No more of it comes than trailers.
    done: bool,
}

/// What came of reading ahead.
pub(super) enum Gathered {
    /// So much as was asked for is there, or all.
    Enough,
    NoRoom,
    /// Its sender has gone.
    Broken,
}

impl Body {
    /// `windows`: of the connection that it comes on.
    pub(super) fn new(stream: RecvStream, windows: Rc<Windows>) -> Self {
        Body { stream, taps: Taps::default(), observer: None, touched: false, share: Share::new(windows), special: None }
    }

    /// Shows what comes.
    pub(super) fn observe(&mut self, observer: Option<&Observer>, side: Side) {
        self.observer = observer.map(|observer| (observer.clone(), side));
    }

    /// Shows what came to whoever gets a copy or looks on.
    fn show(&mut self, data: &Bytes) {
        self.taps.data(data);
        match &self.observer {
            None => {}
            Some((observer, Side::Request)) => observer.request_body(data),
            Some((observer, Side::Response)) => observer.response_body(data),
        }
    }

    /// Says that nobody reads it for now, or that somebody does.
    pub(super) fn set_stuck(&mut self, stuck: bool) {
        self.share.set_stuck(stuck && !self.is_end_stream());
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream() && self.special.as_ref().is_none_or(|special| special.is_empty())
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Moves it to its end. `purse` bounds what waits to be written there.
    pub(super) async fn pump(&mut self, to: &mut SendStream<Outgoing>, purse: Option<&Purse>) -> Result<(), Stop> {
        let mut pump = Pump { chunk: Bytes::new(), last: false, in_trailers: false, turn: purse.map(Purse::turn) };
        poll_fn(|cx| pump.poll(cx, self, to)).await?;
        self.taps.end();
        Ok(())
    }

    /// Gives its sender window back.
    fn release(&mut self, bytes: usize) {
        // Fails only if the sender is gone, which the next read tells.
        let _ = self.stream.flow_control().release_capacity(bytes);
        self.share.moved(bytes);
    }

    /// Bytes of it went on.
    fn sent(&mut self, bytes: usize) {
        if self.special.is_none() {
            self.release(bytes);
        }
    }

    /// Reads it to its end and throws it away.
    pub(super) async fn drain(&mut self) {
        if let Some(special) = self.special.take() {
            self.show(&special.ahead.into());
        }
        while let Some(data) = self.stream.data().await {
            let Ok(data) = data else { return self.taps.reset(None) };
            self.show(&data);
            self.release(data.len());
        }
        match self.stream.trailers().await {
            Ok(Some(trailers)) => self.taps.trailers(&trailers),
            Ok(None) => self.taps.end(),
            Err(error) => self.taps.reset(error.reason()),
        }
    }

    /// Reads ahead, until so much is there or all.
    pub(super) fn poll_gather(&mut self, cx: &mut Context<'_>, window: usize) -> Poll<Gathered> {
        loop {
            let special = self.special.get_or_insert_default();
            if special.ahead.len() >= window || special.done || self.stream.is_end_stream() {
                return Poll::Ready(Gathered::Enough);
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    special.ahead.extend_from_slice(&data);
                    let fits = special.room.hold(special.ahead.len());
                    self.release(data.len());
                    if !fits {
                        return Poll::Ready(Gathered::NoRoom);
                    }
                }
                Some(Err(_)) => return Poll::Ready(Gathered::Broken),
                None => special.done = true,
            }
        }
    }

    /// What was read ahead, up to a window, and whether that is all there is.
    pub(super) fn gathered(&self, window: usize) -> (&[u8], bool) {
        let Some(special) = &self.special else { return (&[], self.stream.is_end_stream()) };
        let all = special.ahead.len() <= window && (special.done || self.stream.is_end_stream());
        (special.ahead.get(..window).unwrap_or(&special.ahead), all)
    }

    /// Has it go through filters. True if they may change its length.
    pub(super) fn follow(&mut self, passage: Option<Passage>) -> bool {
        let Some(passage) = passage.filter(|_| !self.is_end_stream()) else { return false };
        let replaces = passage.replaces();
        self.special.get_or_insert_default().passage = Some(passage);
        replaces
    }

    /// Has it go on as it comes, if nothing of it has gone yet.
    pub(super) fn unfollow(&mut self) {
        if let Some(special) = &mut self.special {
            special.passage = None;
        }
    }

    /// Waits for the first bytes that go on. Gives their number if they are all.
    pub(super) async fn judge_first(&mut self) -> Result<Option<usize>, Stop> {
        let first = poll_fn(|cx| self.poll_special(cx)).await.transpose()?.unwrap_or_default();
        let Some(special) = &mut self.special else { return Ok(None) };
        let len = first.len();
        special.out = first;
        Ok(special.done.then_some(len))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stop>>> {
        match self.special {
            None => self.poll_stream(cx),
            Some(_) => self.poll_special(cx),
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stop>>> {
        Poll::Ready(match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.touched = true;
                self.show(&data);
                Some(Ok(data))
            }
            Some(Err(error)) => {
                self.taps.reset(error.reason());
                Some(Err(Stop::Source(error)))
            }
            None => None,
        })
    }

    fn poll_special(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stop>>> {
        loop {
            let Some(special) = self.special.as_deref_mut() else { return Poll::Ready(None) };
            if !special.out.is_empty() {
                return Poll::Ready(Some(Ok(mem::take(&mut special.out))));
            }
            let data = if !special.ahead.is_empty() {
                let data = Bytes::from(mem::take(&mut special.ahead));
                special.room.hold(0);
                self.touched = true;
                self.show(&data);
                Some(data)
            } else if special.done && special.passage.is_none() {
                return Poll::Ready(None);
            } else {
                let data = ready!(self.poll_stream(cx));
                if let Some(Ok(data)) = &data {
                    self.release(data.len());
                }
                match data.transpose() {
                    Ok(data) => data,
                    Err(stop) => return Poll::Ready(Some(Err(stop))),
                }
            };
            let ended = data.is_none() || self.stream.is_end_stream();
            let Some(special) = self.special.as_deref_mut() else { return Poll::Ready(None) };
            special.done |= ended;
            let data = data.unwrap_or_default();
            special.out = match &mut special.passage {
                None => data,
                Some(passage) => match passage.take(data, special.done) {
                    Ok(out) => out,
                    Err(Aborted) => return Poll::Ready(Some(Err(Stop::Aborted))),
                },
            };
            if special.done {
                // It has seen all.
                special.after = special.passage.take().filter(Passage::wants_trailers);
            }
        }
    }
}

impl Special {
    fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.out.is_empty() && self.passage.is_none()
    }
}

struct Pump {
    /// Taken from the sender, not yet granted by the receiver.
    chunk: Bytes,
    /// `chunk` ends the stream.
    last: bool,
    in_trailers: bool,
    /// Its turn to bring bytes, where they count.
    turn: Option<Turn>,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Body, to: &mut SendStream<Outgoing>) -> Poll<Result<(), Stop>> {
        loop {
            if !self.chunk.is_empty() {
                if ready!(self.poll_write(cx, from, to))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if self.in_trailers {
                return self.poll_trailers(cx, from, to);
            }
            match from.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.last = from.is_end_stream();
                    if self.last && data.is_empty() {
                        return Poll::Ready(to.send_data(data.into(), true).map_err(|_| Stop::Sink));
                    }
                    self.chunk = data;
                }
                Poll::Ready(Some(Err(stop))) => return Poll::Ready(Err(stop)),
                Poll::Ready(None) => self.in_trailers = true,
                Poll::Pending => return poll_unwanted(cx, to),
            }
        }
    }

    /// True once the stream is ended.
    fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Body, to: &mut SendStream<Outgoing>) -> Poll<Result<bool, Stop>> {
        let mut granted = to.capacity();
        if granted < self.chunk.len() {
            to.reserve_capacity(self.chunk.len());
            granted = to.capacity();
        }
        while granted == 0 {
            // `poll_capacity` tells changes only; `capacity` is the truth.
            match to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => granted = to.capacity(),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Stop::Sink)),
                Poll::Pending => {
                    from.share.set_stuck(true);
                    return Poll::Pending;
                }
            }
        }
        if self.turn.as_mut().is_some_and(|turn| turn.poll_room(cx).is_pending()) {
            from.share.set_stuck(true);
            return poll_unwanted(cx, to).map_ok(|()| false);
        }
        from.share.set_stuck(false);
        let part = self.chunk.split_to(granted.min(self.chunk.len()));
        let (size, ends) = (part.len(), self.last && self.chunk.is_empty());
        let part = match &self.turn {
            None => part.into(),
            Some(turn) => turn.bring(part),
        };
        if to.send_data(part, ends).is_err() {
            return Poll::Ready(Err(Stop::Sink));
        }
        from.sent(size);
        Poll::Ready(Ok(ends))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>, from: &mut Body, to: &mut SendStream<Outgoing>) -> Poll<Result<(), Stop>> {
        let sent = match from.stream.poll_trailers(cx) {
            Poll::Ready(Ok(Some(mut trailers))) => {
                from.taps.trailers(&trailers);
                if let Some((observer, Side::Response)) = &from.observer {
                    head::with_fields(&trailers, |fields| observer.trailers(fields));
                }
                if let Some(passage) = from.special.as_deref_mut().and_then(|special| special.after.take()) {
                    passage.trailers(&mut trailers);
                }
                to.send_trailers(trailers)
            }
            Poll::Ready(Ok(None)) => to.send_data(Bytes::new().into(), true),
            Poll::Ready(Err(error)) => {
                from.taps.reset(error.reason());
                return Poll::Ready(Err(Stop::Source(error)));
            }
            Poll::Pending => return poll_unwanted(cx, to),
        };
        Poll::Ready(sent.map_err(|_| Stop::Sink))
    }
}

fn poll_unwanted(cx: &mut Context<'_>, to: &mut SendStream<Outgoing>) -> Poll<Result<(), Stop>> {
    match to.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(Stop::Sink)),
        Poll::Pending => Poll::Pending,
    }
}
