//! Moves one body, with its trailers, from a received stream to a sent one: no faster than the receiver grants, and giving
//! the sender its window back only for what went on.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::{
    head,
    queue::Taps,
    windows::{Share, Windows},
};
use crate::records::exchanges::Observer;

/// Why a body did not come to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its sender reset it, or the sender's connection broke.
    Source(h2::Error),
    /// Its receiver does not want it any more, or the receiver's connection broke.
    Sink,
}

/// A body that is being received.
pub(super) struct Body {
    stream: RecvStream,
    /// Who gets a copy of what passes.
    taps: Taps,
    /// Who looks at what passes, and on which side of the exchange that is.
    observer: Option<(Observer, Side)>,
    /// Something of it has been read: it cannot be sent a second time.
    touched: bool,
    share: Share,
}

/// Whose body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

impl Body {
    /// `windows`: of the connection that it comes on.
    pub(super) fn new(stream: RecvStream, taps: Taps, windows: Rc<Windows>) -> Self {
        Body { stream, taps, observer: None, touched: false, share: Share::new(windows) }
    }

    /// Shows what passes.
    pub(super) fn observed(mut self, observer: Option<&Observer>, side: Side) -> Self {
        self.observer = observer.map(|observer| (observer.clone(), side));
        self
    }

    fn observe(&self, data: &[u8]) {
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
        self.stream.is_end_stream()
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Moves it to its end.
    pub(super) async fn pump(&mut self, to: &mut SendStream<Bytes>) -> Result<(), Stop> {
        let mut pump = Pump { chunk: Bytes::new(), last: false, in_trailers: false };
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

    /// Reads it to its end and throws it away.
    pub(super) async fn drain(&mut self) {
        while let Some(data) = self.stream.data().await {
            let Ok(data) = data else { return self.taps.reset(None) };
            self.taps.data(&data);
            self.observe(&data);
            self.release(data.len());
        }
        match self.stream.trailers().await {
            Ok(Some(trailers)) => self.taps.trailers(&trailers),
            Ok(None) => self.taps.end(),
            Err(error) => self.taps.reset(error.reason()),
        }
    }
}

struct Pump {
    /// Taken from the sender, not yet granted by the receiver.
    chunk: Bytes,
    /// `chunk` ends the stream.
    last: bool,
    in_trailers: bool,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Body, to: &mut SendStream<Bytes>) -> Poll<Result<(), Stop>> {
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
            match from.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    from.touched = true;
                    from.taps.data(&data);
                    from.observe(&data);
                    self.last = from.stream.is_end_stream();
                    if self.last && data.is_empty() {
                        return Poll::Ready(to.send_data(data, true).map_err(|_| Stop::Sink));
                    }
                    self.chunk = data;
                }
                Poll::Ready(Some(Err(error))) => {
                    from.taps.reset(error.reason());
                    return Poll::Ready(Err(Stop::Source(error)));
                }
                Poll::Ready(None) => self.in_trailers = true,
                Poll::Pending => return poll_unwanted(cx, to),
            }
        }
    }

    /// True once the stream is ended.
    fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Body, to: &mut SendStream<Bytes>) -> Poll<Result<bool, Stop>> {
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
        from.share.set_stuck(false);
        let part = self.chunk.split_to(granted.min(self.chunk.len()));
        let (size, ends) = (part.len(), self.last && self.chunk.is_empty());
        if to.send_data(part, ends).is_err() {
            return Poll::Ready(Err(Stop::Sink));
        }
        from.release(size);
        Poll::Ready(Ok(ends))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>, from: &mut Body, to: &mut SendStream<Bytes>) -> Poll<Result<(), Stop>> {
        let sent = match from.stream.poll_trailers(cx) {
            Poll::Ready(Ok(Some(trailers))) => {
                from.taps.trailers(&trailers);
                if let Some((observer, Side::Response)) = &from.observer {
                    head::with_fields(&trailers, |fields| observer.trailers(fields));
                }
                to.send_trailers(trailers)
            }
            Poll::Ready(Ok(None)) => to.send_data(Bytes::new(), true),
            Poll::Ready(Err(error)) => {
                from.taps.reset(error.reason());
                return Poll::Ready(Err(Stop::Source(error)));
            }
            Poll::Pending => return poll_unwanted(cx, to),
        };
        Poll::Ready(sent.map_err(|_| Stop::Sink))
    }
}

fn poll_unwanted(cx: &mut Context<'_>, to: &mut SendStream<Bytes>) -> Poll<Result<(), Stop>> {
    match to.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(Stop::Sink)),
        Poll::Pending => Poll::Pending,
    }
}
