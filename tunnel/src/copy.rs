//! Copies bytes both ways between two streams until both have ended, each direction on its own (half-close is passed on).
//! An idle pair holds no buffer: bytes are read into one scratch buffer of the thread and kept only if the other side does
//! not take them.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SCRATCH: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read, but not yet taken by the other side.
    held: Vec<u8>,
    taken: usize,
    ended: bool,
    finished: bool,
}

impl Half {
    fn drive<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.finished {
            while self.taken < self.held.len() {
                self.taken += ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.taken..]))?;
            }
            (self.held, self.taken) = (Vec::new(), 0);
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.finished = true;
                break;
            }
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            let mut rest = read.filled();
            self.ended = rest.is_empty();
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(n) => rest = &rest[n?..],
                    Poll::Pending => {
                        self.held = rest.to_vec();
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Copies until both directions have ended or one fails; a failure drops both streams, which resets them.
pub async fn copy<A, B>(mut a: A, mut b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Half::default(), Half::default());
    poll_fn(|cx| {
        BUFFER.with_borrow_mut(|scratch| {
            let there = there.drive(&mut a, &mut b, cx, scratch)?;
            let back = back.drive(&mut b, &mut a, cx, scratch)?;
            if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
    })
    .await
}
