//! What a passed request costs in the relay's machine itself, without sockets: time, allocations, and (under
//! `valgrind --tool=callgrind`) instructions. `cargo bench -p mirrord-agent --bench relay [-- REQUESTS]`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::Instant,
};

use mirrord_agent::gateway::{
    http1::relay::Relay,
    link::Link,
    sock::Sock,
    steer::{Connecting, Event, Flow, Plan, Steered, Steering, Surroundings, Upstream},
};
use mirrord_filters::{ConnectionParts, RequestParts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a peer says next, if anything, and how much it was told.
#[derive(Default)]
struct Peer {
    says: &'static [u8],
    told: usize,
}

#[derive(Clone, Default)]
struct Stream(Rc<RefCell<Peer>>);

impl Stream {
    fn read(&self, buf: &mut [u8]) -> Poll<usize> {
        let mut peer = self.0.borrow_mut();
        if peer.says.is_empty() {
            return Poll::Pending;
        }
        let said = std::mem::take(&mut peer.says);
        buf[..said.len()].copy_from_slice(said);
        Poll::Ready(said.len())
    }
}

impl Sock for Stream {
    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read(buf).map(Ok)
    }

    fn poll_write(&mut self, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().told += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.read(buf.initialize_unfilled()).map(|read| {
            buf.advance(read);
            Ok(())
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Sock::poll_write(&mut *self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Passes everything, after a look at the headers such as a filter takes.
struct PassAll(Stream);

impl Surroundings for PassAll {
    type Stream = Stream;

    fn plan(&self, _: &Flow) -> Plan {
        Plan::Read
    }

    fn steer(self: &Rc<Self>, _: &Flow, request: &RequestParts<'_>) -> Steered {
        std::hint::black_box(request.headers.iter().any(|field| field.name.eq_ignore_ascii_case(b"x-user")));
        Steered::Decided(Steering::default())
    }

    fn connection(&self, _: &Flow, _: &ConnectionParts<'_>) -> Connecting {
        Connecting::default()
    }

    fn refuse_ambiguous(&self, _: &Flow) -> bool {
        false
    }

    fn open(self: &Rc<Self>, _: &Flow, _: Upstream) -> impl Future<Output = io::Result<Stream>> + 'static {
        std::future::ready(Ok(self.0.clone()))
    }

    fn count(&self, _: Event) {}
}

const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n\r\n";
const BROWSER: &[u8] = b"GET /api/items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: application/json, text/plain, */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example.com/items\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nX-Request-Id: 2b7f6d1e-97a5-4d8b-b1a8-0c5d3f4a9e21\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 24 Nov 2025 06:43:02 GMT\r\nContent-Type: text/plain\r\nContent-Length: 100\r\nConnection: keep-alive\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

fn run(request: &'static [u8], rounds: u64) -> (f64, f64) {
    let flow = Flow { client: ([10, 0, 0, 9], 4000).into(), destination: ([10, 0, 0, 1], 80).into() };
    let (mut client, pod) = (Stream::default(), Stream::default());
    let surroundings = Rc::new(PassAll(pod.clone()));
    let link = Link::open(&surroundings, &flow, Upstream::Pod);
    let mut relay = Relay::new(surroundings, flow, link);
    let mut cx = Context::from_waker(Waker::noop());
    let mut scratch = vec![0; 64 * 1024];
    let (start, before) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
    for _ in 0..rounds {
        client.0.borrow_mut().says = request;
        assert!(relay.drive(&mut cx, &mut client, &mut scratch).is_ok());
        pod.0.borrow_mut().says = ANSWER;
        assert!(relay.drive(&mut cx, &mut client, &mut scratch).is_ok());
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(pod.0.borrow().told as u64, rounds * request.len() as u64);
    assert_eq!(client.0.borrow().told as u64, rounds * ANSWER.len() as u64);
    (start.elapsed().as_nanos() as f64 / rounds as f64, allocations as f64 / rounds as f64)
}

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    for (name, request) in [("1 header", SMALL), ("9 headers", BROWSER)] {
        let (nanoseconds, allocations) = run(request, rounds);
        println!("passed, {name}: {nanoseconds:.0} ns, {allocations:.2} allocations a request");
    }
}
