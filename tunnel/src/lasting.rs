//! A byte stream that outlives the connections that carry it. Between an agent in a cluster and this machine lies somebody else's
//! proxy (an API server's port-forward), which may be restarted at any time; the session should not notice more than a pause.
//!
//! ```text
//! local socket ──► kept until acknowledged ──DATA──► carrier ──► peer's local socket
//!              ◄───────── counted ◄─────────DATA───┘       └──ACK──► what is acknowledged is dropped
//! ```
//!
//! Whoever dials begins with a [`Hello`]: which stream, and how much of it has come. The other end answers with how much it has; both
//! then send again what is missing. A carrier that says nothing for [`SILENCE`] is given up. An end whose local socket breaks says
//! so, lest the other one waits for a carrier that never comes.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::{Instant, timeout, timeout_at},
};

/// First bytes of a carrier; tells this from anything else that might dial.
const MAGIC: &[u8; 8] = b"mirrord1";
const HELLO: usize = 8 + 16 + 8;
/// Bytes that are kept because the peer has not acknowledged them; beyond, the local socket is not read.
const KEPT: usize = 1 << 20;
/// The peer is told after so many bytes, or when [`BEAT`] has passed.
const ACKNOWLEDGE: u64 = 128 << 10;
const CHUNK: usize = 32 << 10;
const BEAT: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_secs(10);
/// A greeting, or its answer, takes no longer.
const GREETING: Duration = Duration::from_secs(10);
/// Nor does a farewell.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between attempts to dial; each is longer than the one before. Tests have no time to lose.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
const LONGEST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 2000 });
/// Streams at one agent; each keeps up to [`KEPT`].
const MAX_STREAMS: usize = 1024;

const DATA: u8 = 0;
const ACK: u8 = 1;
const END: u8 = 2;
/// Nothing more comes, nor is taken, on this carrier or another one.
const GONE: u8 = 3;
/// Answer to a hello whose stream nobody knows any more.
const UNKNOWN: u64 = u64::MAX;

/// Names a stream: chosen at random by who dials.
pub type StreamId = [u8; 16];

/// What a carrier begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    id: StreamId,
    received: u64,
}

impl Hello {
    fn encode(self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..].copy_from_slice(&self.received.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HELLO]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (id, received) = rest.split_first_chunk::<16>()?;
        (magic == MAGIC).then_some(Self { id: *id, received: u64::from_be_bytes(received.try_into().ok()?) })
    }
}

/// One end of a stream, without its sockets.
#[derive(Default)]
struct State {
    /// What the local socket said and the peer has not acknowledged.
    kept: VecDeque<u8>,
    /// Offset of the first byte of `kept`.
    acknowledged: u64,
    /// Bytes of `kept` that this carrier has taken.
    sent: usize,
    /// Bytes that went to the local socket, and how many of them the peer knows of.
    received: u64,
    told: u64,
    local_ended: bool,
    /// The end was said on this carrier.
    end_sent: bool,
    peer_ended: bool,
    /// The local socket has broken; and the peer was told.
    broken: bool,
    broken_sent: bool,
}

/// Why a carrier is no longer of use.
enum Stop {
    /// Both directions have ended.
    Done,
    /// This machine's end is gone: there is nothing to go on for.
    Local(io::Error),
    /// It has broken, or says nothing: another one goes on.
    Carrier,
}

impl State {
    /// The peer has everything before `offset`.
    fn acknowledge(&mut self, offset: u64) -> io::Result<()> {
        let more = offset.checked_sub(self.acknowledged).and_then(|more| usize::try_from(more).ok());
        // Behind what is acknowledged already: told twice. Beyond what was sent: no honest peer.
        let Some(more) = more else { return Ok(()) };
        if more > self.kept.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more was acknowledged than sent"));
        }
        self.kept.drain(..more);
        self.acknowledged = offset;
        self.sent = self.sent.saturating_sub(more);
        Ok(())
    }

    /// Both directions have ended, and the peer has all of ours.
    fn is_over(&self) -> bool {
        self.local_ended && self.peer_ended && self.kept.is_empty()
    }

    /// A new carrier: what the peer has not received is sent again.
    fn begin(&mut self, peer_received: u64) -> io::Result<()> {
        if peer_received < self.acknowledged {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer has lost what it had acknowledged"));
        }
        self.acknowledge(peer_received)?;
        (self.sent, self.told, self.end_sent) = (0, self.received, false);
        Ok(())
    }
}

/// A stream's local socket and state.
struct Stream<R, W> {
    state: RefCell<State>,
    read: RefCell<R>,
    write: RefCell<W>,
    /// There is something to send.
    news: Notify,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Stream<R, W> {
    fn new((read, write): (R, W)) -> Self {
        Self { state: RefCell::default(), read: RefCell::new(read), write: RefCell::new(write), news: Notify::new() }
    }

    /// Uses a carrier for as long as it lasts.
    async fn carry<C: AsyncRead + AsyncWrite + Unpin>(&self, carrier: C, peer_received: u64) -> Stop {
        if let Err(error) = self.state.borrow_mut().begin(peer_received) {
            return Stop::Local(error);
        }
        let (from, to) = tokio::io::split(carrier);
        let mut sending = pin!(self.send(to));
        let stop = tokio::select! {
            stop = self.receive(from) => stop,
            stop = &mut sending => return self.stopped(stop),
        };
        if let Stop::Local(_) = stop {
            self.state.borrow_mut().broken = true;
            self.news.notify_one();
            let _ = timeout(FAREWELL, sending).await;
        }
        self.stopped(stop)
    }

    fn stopped(&self, stop: Stop) -> Stop {
        match stop {
            // The peer was done first.
            Stop::Carrier if self.state.borrow().is_over() => Stop::Done,
            stop => stop,
        }
    }

    #[allow(clippy::await_holding_refcell_ref, reason = "each half has one user, which is never run twice at a time")]
    async fn receive(&self, mut from: impl AsyncRead + Unpin) -> Stop {
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut head = [0; 9];
            match timeout(SILENCE, from.read_exact(&mut head)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return Stop::Carrier,
            }
            let [kind, number @ ..] = head;
            let number = u64::from_be_bytes(number);
            match kind {
                ACK => {
                    if let Err(error) = self.state.borrow_mut().acknowledge(number) {
                        return Stop::Local(error);
                    }
                    self.news.notify_one();
                }
                DATA if (1..=CHUNK as u64).contains(&number) => {
                    let data = &mut buffer[..number as usize];
                    match timeout(SILENCE, from.read_exact(data)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(_)) | Err(_) => return Stop::Carrier,
                    }
                    let mut rest = &*data;
                    while !rest.is_empty() {
                        // What was written is counted at once: this may be dropped at any await.
                        match self.write.borrow_mut().write(rest).await {
                            Ok(0) => return Stop::Local(io::ErrorKind::WriteZero.into()),
                            Ok(written) => {
                                rest = &rest[written..];
                                self.state.borrow_mut().received += written as u64;
                            }
                            Err(error) => return Stop::Local(error),
                        }
                    }
                    let state = self.state.borrow();
                    if state.received - state.told >= ACKNOWLEDGE {
                        self.news.notify_one();
                    }
                }
                GONE => return Stop::Local(io::ErrorKind::ConnectionReset.into()),
                END => {
                    let _ = self.write.borrow_mut().shutdown().await;
                    self.state.borrow_mut().peer_ended = true;
                    self.news.notify_one();
                }
                _ => return Stop::Local(io::Error::new(io::ErrorKind::InvalidData, "an unknown frame")),
            }
        }
    }

    #[allow(clippy::await_holding_refcell_ref, reason = "each half has one user, which is never run twice at a time")]
    async fn send(&self, mut to: impl AsyncWrite + Unpin) -> Stop {
        let mut out = Vec::with_capacity(CHUNK + 32);
        let mut more = vec![0; CHUNK];
        let mut beat = Instant::now() + BEAT;
        let mut broken = None;
        loop {
            let done = self.next_frames(&mut out, Instant::now() >= beat);
            if !out.is_empty() {
                beat = Instant::now() + BEAT;
                let written = async {
                    to.write_all(&out).await?;
                    to.flush().await
                };
                match timeout(SILENCE, written).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return Stop::Carrier,
                }
                out.clear();
                continue;
            }
            if done {
                return broken.map_or(Stop::Done, Stop::Local);
            }
            let room = {
                let state = self.state.borrow();
                if state.local_ended { 0 } else { KEPT.saturating_sub(state.kept.len()).min(CHUNK) }
            };
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep_until(beat) => {}
                read = async { self.read.borrow_mut().read(&mut more[..room]).await }, if room > 0 => match read {
                    Ok(0) => self.state.borrow_mut().local_ended = true,
                    Ok(read) => self.state.borrow_mut().kept.extend(&more[..read]),
                    Err(error) => {
                        self.state.borrow_mut().broken = true;
                        broken = Some(error);
                    }
                },
            }
        }
    }

    /// What is to be written now; whether all is said: both directions have ended, or there is no local socket any more.
    fn next_frames(&self, out: &mut Vec<u8>, beat: bool) -> bool {
        let mut state = self.state.borrow_mut();
        let mut frame = |kind: u8, number: u64| {
            out.push(kind);
            out.extend_from_slice(&number.to_be_bytes());
        };
        if state.broken {
            if !state.broken_sent {
                frame(GONE, 0);
                state.broken_sent = true;
            }
            return true;
        }
        let fresh = state.received - state.told;
        if beat || fresh >= ACKNOWLEDGE || (fresh > 0 && state.peer_ended) {
            frame(ACK, state.received);
            state.told = state.received;
        }
        let unsent = (state.kept.len() - state.sent).min(CHUNK);
        if unsent > 0 {
            frame(DATA, unsent as u64);
            let sent = state.sent;
            out.extend(state.kept.range(sent..sent + unsent));
            state.sent += unsent;
        } else if state.local_ended && !state.end_sent {
            frame(END, 0);
            state.end_sent = true;
        }
        state.end_sent && state.peer_ended && state.kept.is_empty() && state.told == state.received
    }
}

/// The end that dials: `connect` makes carriers. Ends when both directions have, or after `patience` without a carrier.
///
/// # Errors
/// If the local socket fails, the peer knows the stream no more, or there was no carrier for too long.
pub async fn dial<R, W, C>(
    local: (R, W),
    id: StreamId,
    patience: Duration,
    mut connect: impl AsyncFnMut() -> io::Result<C>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    C: AsyncRead + AsyncWrite + Unpin,
{
    let stream = Stream::new(local);
    let mut pause = PAUSE;
    let mut until = Instant::now() + patience;
    let mut first = true;
    loop {
        let received = stream.state.borrow().received;
        let greeted = async {
            let mut carrier = connect().await?;
            let peer_received = timeout(GREETING, greet(&mut carrier, Hello { id, received })).await.map_err(io::Error::from)??;
            Ok::<_, io::Error>((carrier, peer_received))
        };
        match timeout_at(until, greeted).await.map_err(io::Error::from).flatten() {
            Ok((_, UNKNOWN)) => return Err(io::Error::new(io::ErrorKind::NotFound, "the agent has ended")),
            Ok((carrier, peer_received)) => {
                first = false;
                let began = Instant::now();
                match stream.carry(carrier, peer_received).await {
                    Stop::Done => return Ok(()),
                    Stop::Local(error) => return Err(error),
                    Stop::Carrier => {}
                }
                // One that held for a while makes up for those before it.
                if began.elapsed() > LONGEST_PAUSE {
                    pause = PAUSE;
                }
                until = Instant::now() + patience;
            }
            // The first attempt tells whoever waits for it at once what is wrong.
            Err(error) if first || Instant::now() + pause >= until => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn greet(carrier: &mut (impl AsyncRead + AsyncWrite + Unpin), hello: Hello) -> io::Result<u64> {
    carrier.write_all(&hello.encode()).await?;
    carrier.flush().await?;
    carrier.read_u64().await
}

/// Where the task of each stream takes a carrier that comes for it, and what has come at its other end.
type Places<C> = Rc<RefCell<HashMap<StreamId, mpsc::Sender<(C, u64)>>>>;

/// The end that takes carriers, for all streams of an agent.
pub struct Streams<C>(Places<C>);

impl<C> Default for Streams<C> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<C> Clone for Streams<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Streams<C> {
    /// Takes a carrier. If its stream is a new one this serves the stream to its end, with what `open` makes as its local socket, and
    /// `carried` says meanwhile whether there is a carrier.
    ///
    /// # Errors
    /// If the carrier says nothing that can be read, or the local socket fails.
    pub async fn take<R, W>(
        &self,
        mut carrier: C,
        patience: Duration,
        carried: Rc<Cell<bool>>,
        open: impl FnOnce() -> io::Result<(R, W)>,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut hello = [0; HELLO];
        timeout(GREETING, carrier.read_exact(&mut hello)).await??;
        let hello = Hello::decode(&hello).ok_or(io::ErrorKind::InvalidData)?;
        let known = self.0.borrow().get(&hello.id).cloned();
        if let Some(known) = known {
            // Its stream is in use by `serve`, which takes this one instead.
            return known.send((carrier, hello.received)).await.map_err(|_| io::ErrorKind::BrokenPipe.into());
        }
        if hello.received > 0 || self.0.borrow().len() >= MAX_STREAMS {
            carrier.write_u64(UNKNOWN).await?;
            return carrier.shutdown().await;
        }
        // new carrier --> the stream's task
        let (carriers, mut arrivals) = mpsc::channel(1);
        self.0.borrow_mut().insert(hello.id, carriers);
        let _known = Known { streams: self.0.clone(), id: hello.id };
        let stream = Stream::new(open()?);
        let mut next = Some((carrier, hello.received));
        while let Some((mut carrier, peer_received)) = next.take() {
            carried.set(true);
            let received = stream.state.borrow().received;
            let carry = async {
                carrier.write_u64(received).await?;
                carrier.flush().await?;
                Ok::<_, io::Error>(stream.carry(carrier, peer_received).await)
            };
            next = tokio::select! {
                stop = carry => match stop {
                    Ok(Stop::Done) => return Ok(()),
                    Ok(Stop::Local(error)) => return Err(error),
                    Ok(Stop::Carrier) | Err(_) => {
                        carried.set(false);
                        timeout(patience, arrivals.recv()).await.ok().flatten()
                    }
                },
                // Its dialler has given up the old one, which may look alive from here for a long time.
                arrived = arrivals.recv() => arrived,
            };
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no carrier came back"))
    }
}

/// A stream's place among its agent's.
struct Known<C> {
    streams: Places<C>,
    id: StreamId,
}

impl<C> Drop for Known<C> {
    fn drop(&mut self) {
        self.streams.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{DuplexStream, duplex},
        task::{LocalSet, spawn_local},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Carries up to `limit` bytes in all, then is cut.
    async fn cut(mut one: DuplexStream, mut other: DuplexStream, limit: usize) {
        let (mut left, mut right, mut moved) = ([0; 700], [0; 700], 0);
        while moved < limit {
            let (to, bytes) = tokio::select! {
                read = one.read(&mut left) => match read { Ok(n) if n > 0 => (&mut other, &left[..n]), _ => return },
                read = other.read(&mut right) => match read { Ok(n) if n > 0 => (&mut one, &right[..n]), _ => return },
            };
            let take = bytes.len().min(limit - moved);
            moved += take;
            if to.write_all(&bytes[..take]).await.is_err() {
                return;
            }
        }
    }

    /// What the two ends read if each says `up` and `down`, over carriers that are cut at ever other places.
    async fn through(up: Vec<u8>, down: Vec<u8>, mut limit: impl FnMut() -> usize + 'static) -> (Vec<u8>, Vec<u8>) {
        let (mut client, near) = duplex(4096);
        let (far, mut server) = duplex(4096);
        let streams = Streams::<DuplexStream>::default();
        let far = Rc::new(RefCell::new(Some(far)));
        let dialled = spawn_local(dial(tokio::io::split(near), [7; 16], PATIENCE, async move || {
            let (ours, one) = duplex(1024);
            let (other, theirs) = duplex(1024);
            spawn_local(cut(one, other, limit()));
            let (streams, far) = (streams.clone(), far.clone());
            spawn_local(async move {
                let open = || far.borrow_mut().take().map(tokio::io::split).ok_or_else(|| io::Error::other("opened twice"));
                let _ = streams.take(theirs, PATIENCE, Rc::default(), open).await;
            });
            Ok(ours)
        }));
        let client = async move {
            let (mut read, mut write) = tokio::io::split(&mut client);
            let mut got = Vec::new();
            let (written, read) = tokio::join!(
                async {
                    write.write_all(&up).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            written.and(read.map(drop)).unwrap();
            got
        };
        let server = async move {
            let (mut read, mut write) = tokio::io::split(&mut server);
            let mut got = Vec::new();
            let (written, read) = tokio::join!(
                async {
                    write.write_all(&down).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            written.and(read.map(drop)).unwrap();
            got
        };
        let (down, up) = tokio::join!(client, server);
        dialled.abort();
        (up, down)
    }

    fn bytes(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
    }

    #[tokio::test]
    async fn bytes_arrive_once_and_in_order_wherever_carriers_break() {
        let (up, down) = (bytes(3 << 20, 1), bytes(400_000, 2));
        let mut cuts = 0_usize;
        let limit = move || {
            cuts += 1;
            // Also within the greeting, a frame's head, and its data.
            [9, 40, 45, 300_000, 52, 1_000_000, 33][cuts % 7] + cuts * 40_001
        };
        let (got_up, got_down) = LocalSet::new().run_until(through(up.clone(), down.clone(), limit)).await;
        assert!(got_up == up, "up: {} of {}", got_up.len(), up.len());
        assert!(got_down == down, "down: {} of {}", got_down.len(), down.len());
    }

    #[tokio::test]
    async fn an_agent_that_is_another_one_ends_the_stream() {
        let work = async {
            let (_client, near) = duplex(64);
            let mut dialled = 0;
            let ended = dial(tokio::io::split(near), [1; 16], PATIENCE, async || {
                dialled += 1;
                let (ours, mut theirs) = duplex(1024);
                let answer = if dialled == 1 { 0 } else { UNKNOWN };
                spawn_local(async move {
                    let mut hello = [0; HELLO];
                    theirs.read_exact(&mut hello).await.unwrap();
                    theirs.write_u64(answer).await.unwrap();
                });
                Ok(ours)
            });
            ended.await.unwrap_err().kind()
        };
        assert_eq!(LocalSet::new().run_until(work).await, io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn who_is_not_called_back_gives_up() {
        let work = async {
            let streams = Streams::default();
            let (mut ours, theirs) = duplex(1024);
            let (local, _far) = duplex(64);
            let carried = Rc::new(Cell::new(false));
            let told = carried.clone();
            let patience = Duration::from_millis(50);
            let taking = spawn_local(async move { streams.take(theirs, patience, told, || Ok(tokio::io::split(local))).await });
            ours.write_all(&Hello { id: [2; 16], received: 0 }.encode()).await.unwrap();
            assert_eq!(ours.read_u64().await.unwrap(), 0);
            assert!(carried.get());
            drop(ours);
            let ended = taking.await.unwrap().unwrap_err().kind();
            assert!(!carried.get());
            ended
        };
        assert_eq!(LocalSet::new().run_until(work).await, io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_end_whose_socket_breaks_ends_the_other_one_at_once() {
        let work = async {
            let streams = Streams::default();
            let (carrier, theirs) = duplex(1024);
            let (local, mut far) = duplex(64);
            let taking = spawn_local(async move { streams.take(theirs, PATIENCE, Rc::default(), || Ok(tokio::io::split(local))).await });
            let (near, peer) = duplex(64);
            let mut carriers = vec![carrier];
            let dialling = spawn_local(async move {
                let carriers = async || carriers.pop().ok_or(io::ErrorKind::NotConnected.into());
                dial(tokio::io::split(near), [3; 16], PATIENCE, carriers).await
            });
            // Nobody is there for what comes.
            drop(peer);
            far.write_all(b"more").await.unwrap();
            let ended = timeout(PATIENCE / 2, taking).await.unwrap().unwrap();
            (ended.unwrap_err().kind(), dialling.await.unwrap().is_err())
        };
        assert_eq!(LocalSet::new().run_until(work).await, (io::ErrorKind::ConnectionReset, true));
    }

    #[test]
    fn what_was_never_sent_cannot_be_acknowledged() {
        let mut state = State::default();
        state.kept.extend([1, 2, 3]);
        assert!(state.acknowledge(4).is_err() && state.acknowledge(2).is_ok() && state.kept == [3]);
        assert!(state.begin(1).is_err() && state.begin(3).is_ok());
    }
}
