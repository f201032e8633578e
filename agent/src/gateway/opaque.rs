//! Bytes both ways between a client and one upstream, unread, until both have ended: TLS, protocols that we do not know,
//! tunnels, and all that cannot be read as HTTP for certain. Ends and resets are passed on as they come. Copies of the
//! client's bytes go to the sessions that want them and never hold anybody up.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

use super::{
    http1::relay::Rest,
    link::Link,
    mirror::Tap,
    room::Budget,
    sock::{self, Sock},
    steer::{Event, Surroundings},
};

/// How one direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// The source has ended; the other side is to be told after what is held.
    Ending,
    /// The other side has been told, or can take no more.
    Over,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides have ended.
    Both,
    /// The client's connection broke.
    ClientGone,
    /// The upstream's connection broke, or there never was one: the client has to see the same.
    UpstreamGone,
}

/// A client's connection and an upstream's, from wherever reading them as HTTP stopped.
pub struct Pump<S: Surroundings> {
    surroundings: Rc<S>,
    link: Link<S::Stream>,
    to_up: Vec<u8>,
    to_client: Vec<u8>,
    up: Way,
    down: Way,
    copies: Vec<Tap>,
    /// What a session may have under way of it.
    budget: Option<Budget>,
    /// Counts what moves.
    moved: u64,
}

impl<S: Surroundings> Pump<S> {
    /// Goes on with what a relay left. `copies` get the client's bytes, those that are held included.
    pub fn new(surroundings: Rc<S>, rest: Rest<S::Stream>, mut copies: Vec<Tap>) -> Self {
        for tap in &mut copies {
            tap.begin_raw();
            tap.more(&rest.up);
        }
        let way = |ended| if ended { Way::Ending } else { Way::Open };
        Pump {
            surroundings,
            link: rest.link,
            to_up: rest.up,
            to_client: rest.down,
            up: way(rest.client_ended),
            down: way(rest.upstream_ended),
            copies,
            budget: rest.budget,
            moved: 0,
        }
    }

    /// Moves whatever can be moved. Pending: all wakers are armed.
    pub fn poll(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Poll<End> {
        if let Err(end) = self.upward(cx, client, scratch).and_then(|()| self.downward(cx, client, scratch)) {
            match end {
                End::ClientGone => {
                    if let Link::Open(stream) = &mut self.link {
                        self.surroundings.abort(stream);
                    }
                }
                End::UpstreamGone => client.abort(),
                End::Both => {}
            }
            self.copies.iter_mut().for_each(Tap::cut);
            return Poll::Ready(end);
        }
        if self.up == Way::Over && self.down == Way::Over { Poll::Ready(End::Both) } else { Poll::Pending }
    }

    /// The upstream has said its last word and the client has not: a client that does not look may never.
    pub fn waits_for_client_only(&self) -> bool {
        self.down == Way::Over
    }

    /// Bytes moved so far.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    fn upward(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<(), End> {
        loop {
            if !self.to_up.is_empty() {
                let flushed = sock::flush(&mut self.link, cx, &mut self.to_up);
                self.note_held();
                match flushed {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => self.deaf(),
                }
            }
            match self.up {
                Way::Over => return Ok(()),
                Way::Ending => {
                    if self.link.poll_finish(cx).is_ready() {
                        self.up = Way::Over;
                    }
                    return Ok(());
                }
                Way::Open => {}
            }
            let into = match &self.budget {
                None => &mut *scratch,
                Some(budget) => budget.bounds(scratch),
            };
            match client.poll_read(cx, into) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err(End::ClientGone),
                Poll::Ready(Ok(0)) => {
                    self.copies.iter_mut().for_each(Tap::end);
                    self.up = Way::Ending;
                }
                Poll::Ready(Ok(read)) => {
                    self.moved += read as u64;
                    self.copy(&scratch[..read]);
                    match sock::send(&mut self.link, cx, &mut self.to_up, &scratch[..read]) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => self.deaf(),
                        Poll::Pending => self.note_held(),
                    }
                }
            }
        }
    }

    fn note_held(&mut self) {
        if let Some(budget) = &mut self.budget {
            budget.set(self.to_up.len());
        }
    }

    /// The upstream takes no more. What it has said still has to reach the client, and so will its end or its reset.
    fn deaf(&mut self) {
        self.to_up = Vec::new();
        self.up = Way::Over;
    }

    fn downward(&mut self, cx: &mut Context<'_>, client: &mut impl Sock, scratch: &mut [u8]) -> Result<(), End> {
        loop {
            match sock::flush(client, cx, &mut self.to_client) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(End::ClientGone),
            }
            match self.down {
                Way::Over => return Ok(()),
                Way::Ending => {
                    if client.poll_finish(cx).is_ready() {
                        self.down = Way::Over;
                    }
                    return Ok(());
                }
                Way::Open => {}
            }
            match self.link.poll_read(cx, scratch) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err(End::UpstreamGone),
                Poll::Ready(Ok(0)) => self.down = Way::Ending,
                Poll::Ready(Ok(read)) => {
                    self.moved += read as u64;
                    if let Poll::Ready(Err(_)) = sock::send(client, cx, &mut self.to_client, &scratch[..read]) {
                        return Err(End::ClientGone);
                    }
                }
            }
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        for tap in &mut self.copies {
            if !tap.more(bytes) {
                self.surroundings.count(Event::CopyDropped);
            }
        }
    }
}

/// Runs a pump to its end. An upstream that has ended lets go of the client after `patience` without a byte.
pub async fn run<S: Surroundings>(mut pump: Pump<S>, client: &mut impl Sock, patience: Duration) -> End {
    loop {
        let before = pump.moved();
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        let end = std::future::poll_fn(|cx| {
            let end = sock::with_scratch(|scratch| pump.poll(cx, client, scratch)).map(Some);
            match end {
                Poll::Pending if pump.waits_for_client_only() => {
                    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                    timer.as_mut().poll(cx).map(|()| None)
                }
                end => end,
            }
        });
        match end.await {
            Some(end) => return end,
            None if pump.moved() == before => return End::Both,
            None => {}
        }
    }
}
