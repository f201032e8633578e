//! Plays what a [`super::mirror::Tap`] collected to its upstream, a session's program or the pod: one request at a time, each answered to its end
//! before the next, on one stream as long as the program keeps it, on a new one when it does not (a program that closes
//! after each response sees every request all the same). What the program answers is thrown away.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    http1::{
        framing::Body,
        head::{self, Asks, MAX_HEAD, Read},
    },
    mirror::{Kind, Pipe},
    sock,
    steer::{Event, Flow, OPENING_TIME, Surroundings, Upstream},
};

/// After the client has gone, a program that does not move for this long misses the rest.
const IDLE_AT_END: Duration = Duration::from_secs(30);

/// How playing one entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The stream can take another request.
    Keep,
    /// It cannot.
    Close,
    /// It had ended before it took anything: the program found it idle for too long.
    Stale,
    /// The program missed it, or a part of it.
    Missed,
}

/// Plays until the client's side is gone and all is played.
pub(super) async fn play<S: Surroundings>(surroundings: Rc<S>, flow: Flow, upstream: Upstream, pipe: Rc<RefCell<Pipe>>) {
    let mut kept = None;
    while let Some(kind) = next(&pipe, &mut kept).await {
        loop {
            let reused = kept.is_some();
            let stream = match kept.take() {
                Some(stream) => Some(stream),
                None => open(&surroundings, &flow, upstream).await,
            };
            let Some(mut stream) = stream else {
                surroundings.count(Event::CopyDropped);
                break;
            };
            let end = match kind {
                Kind::Request(asks) => request(&pipe, &mut stream, asks).await,
                Kind::Raw => raw(&pipe, &mut stream).await,
            };
            match end {
                End::Keep => kept = Some(stream),
                End::Stale if reused && pipe.borrow_mut().rewind() => continue,
                End::Stale | End::Missed => {
                    surroundings.abort(&mut stream);
                    surroundings.count(Event::CopyDropped);
                }
                End::Close => {}
            }
            break;
        }
        pipe.borrow_mut().done();
    }
}

/// The next entry. A stream that ends or speaks meanwhile is let go of.
async fn next<T: AsyncRead + Unpin>(pipe: &RefCell<Pipe>, kept: &mut Option<T>) -> Option<Kind> {
    poll_fn(|cx| {
        if let Some(stream) = kept
            && sock::with_scratch(|scratch| sock::read(stream, cx, scratch)).is_ready()
        {
            *kept = None;
        }
        pipe.borrow_mut().poll_next(cx)
    })
    .await
}

async fn open<S: Surroundings>(surroundings: &Rc<S>, flow: &Flow, upstream: Upstream) -> Option<S::Stream> {
    tokio::time::timeout(OPENING_TIME, surroundings.open_copy(flow, upstream)).await.ok()?.ok()
}

/// Polls `step`, which adds to the number it is given whatever moved; once the client is gone, only as long as it moves.
async fn patiently(pipe: &RefCell<Pipe>, mut step: impl FnMut(&mut Context<'_>, &mut u64) -> Poll<End>) -> End {
    let mut moved = 0;
    loop {
        let before = moved;
        let mut patience = std::pin::pin!(tokio::time::sleep(IDLE_AT_END));
        let end = poll_fn(|cx| match step(cx, &mut moved) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
        });
        match end.await {
            Some(end) => return end,
            None if moved == before && pipe.borrow().closed => return End::Missed,
            None => {}
        }
    }
}

/// One request and its answer.
struct Exchange {
    asks: Asks,
    answer: Answer,
    /// A piece of the answer's head.
    head: Vec<u8>,
    /// The program has said something.
    heard: bool,
    /// The program does not take the rest.
    deaf: bool,
    /// All of the request has been sent.
    sent: bool,
    close: bool,
}

enum Answer {
    Head,
    Body(Body),
    Complete,
}

impl Exchange {
    fn new(asks: Asks) -> Self {
        Exchange { asks, answer: Answer::Head, head: Vec::new(), heard: false, deaf: false, sent: false, close: false }
    }

    fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &RefCell<Pipe>,
        stream: &mut T,
        moved: &mut u64,
    ) -> Poll<End> {
        match write(cx, pipe, stream, moved, self.deaf) {
            Wrote::Broken => return Poll::Ready(End::Missed),
            Wrote::Deaf => self.deaf = true,
            Wrote::All => self.sent = true,
            Wrote::Some => {}
        }
        sock::with_scratch(|scratch| {
            loop {
                if let Answer::Complete = self.answer {
                    return match self.sent {
                        true if !self.close => Poll::Ready(End::Keep),
                        false if !self.close && !self.deaf => Poll::Pending,
                        _ => Poll::Ready(End::Close),
                    };
                }
                match sock::read(stream, cx, scratch) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(read)) if read > 0 => {
                        *moved += read as u64;
                        self.heard = true;
                        self.hear(&scratch[..read]);
                    }
                    Poll::Ready(_) => return Poll::Ready(if self.heard { End::Close } else { End::Stale }),
                }
            }
        })
    }

    /// Follows the answer, to know where it ends.
    fn hear(&mut self, bytes: &[u8]) {
        let mut body = match self.answer {
            Answer::Head => {
                self.head.extend_from_slice(bytes);
                let mut at = 0;
                let response = loop {
                    match head::response(&self.head[at..], self.asks, super::http1::NO_VIEW) {
                        Read::Head((response, _)) if response.is_interim() => at += response.len,
                        Read::Head((response, _)) if response.status != 101 => break response,
                        Read::Partial if self.head.len() - at <= MAX_HEAD => {
                            self.head.drain(..at);
                            return;
                        }
                        _ => return self.finish(true),
                    }
                };
                self.close = response.close;
                let rest = self.head.split_off(at + response.len);
                self.head = Vec::new();
                self.answer = Answer::Body(response.body);
                return self.hear(&rest);
            }
            Answer::Body(body) => body,
            Answer::Complete => return,
        };
        match body.take(bytes) {
            Ok(taken) if body.is_done() => self.finish(self.close || taken < bytes.len()),
            Ok(_) => self.answer = Answer::Body(body),
            Err(_) => self.finish(true),
        }
    }

    fn finish(&mut self, close: bool) {
        self.close = close;
        self.answer = Answer::Complete;
    }
}

async fn request<T: AsyncRead + AsyncWrite + Unpin>(pipe: &RefCell<Pipe>, stream: &mut T, asks: Asks) -> End {
    let mut exchange = Exchange::new(asks);
    patiently(pipe, |cx, moved| exchange.poll(cx, pipe, stream, moved)).await
}

/// A connection's bytes, in order; then the end is passed on, and the program's own is waited for.
async fn raw<T: AsyncRead + AsyncWrite + Unpin>(pipe: &RefCell<Pipe>, stream: &mut T) -> End {
    let mut ended = false;
    patiently(pipe, |cx, moved| {
        match write(cx, pipe, stream, moved, false) {
            Wrote::Broken | Wrote::Deaf => return Poll::Ready(End::Missed),
            Wrote::All if !ended => ended = Pin::new(&mut *stream).poll_shutdown(cx).is_ready(),
            Wrote::All | Wrote::Some => {}
        }
        sock::with_scratch(|scratch| {
            loop {
                match sock::read(stream, cx, scratch) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(read)) if read > 0 => *moved += read as u64,
                    Poll::Ready(Ok(_)) => return Poll::Ready(End::Close),
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Missed),
                }
            }
        })
    })
    .await
}

enum Wrote {
    /// What is here and could be taken.
    Some,
    /// The whole entry.
    All,
    /// The program takes no more.
    Deaf,
    /// The entry will not be completed.
    Broken,
}

fn write<T: AsyncWrite + Unpin>(cx: &mut Context<'_>, pipe: &RefCell<Pipe>, stream: &mut T, moved: &mut u64, deaf: bool) -> Wrote {
    loop {
        let mut pipe = pipe.borrow_mut();
        let Some((bytes, complete)) = pipe.unsent(cx) else { return Wrote::Broken };
        if bytes.is_empty() {
            return if complete { Wrote::All } else { Wrote::Some };
        }
        if deaf {
            return Wrote::Deaf;
        }
        match Pin::new(&mut *stream).poll_write(cx, bytes) {
            Poll::Pending => return Wrote::Some,
            Poll::Ready(Ok(written)) if written > 0 => {
                *moved += written as u64;
                pipe.sent(written);
            }
            Poll::Ready(_) => return Wrote::Deaf,
        }
    }
}
