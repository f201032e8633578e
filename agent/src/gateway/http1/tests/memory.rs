//! A connection in memory: what its peer says is put in, what it is told is taken out.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gateway::sock::{self, Sock};

#[derive(Clone, Debug, Default)]
pub struct Memory(pub Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
pub struct Inner {
    says: VecDeque<Vec<u8>>,
    ended: bool,
    broken: bool,
    /// It takes nothing any more.
    pub deaf: bool,
    heard: Vec<u8>,
    slow: usize,
    took: bool,
    pub finished: bool,
    pub aborted: bool,
    activity: usize,
    waker: Option<Waker>,
}

impl Memory {
    /// Each call is one read's worth.
    pub fn say(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.borrow_mut().says.push_back(bytes.to_vec());
        }
        self.wake();
    }

    pub fn end(&self) {
        self.0.borrow_mut().ended = true;
        self.wake();
    }

    pub fn break_off(&self) {
        let mut inner = self.0.borrow_mut();
        (inner.broken, inner.deaf) = (true, true);
        drop(inner);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.0.borrow_mut().waker.take() {
            waker.wake();
        }
    }

    /// Takes so many bytes at a time, every other time.
    pub fn slow(&self, bytes: usize) {
        self.0.borrow_mut().slow = bytes;
    }

    pub fn activity(&self) -> usize {
        self.0.borrow().activity
    }

    pub fn heard(&self) -> String {
        let heard = std::mem::take(&mut self.0.borrow_mut().heard);
        heard.iter().map(|byte| *byte as char).collect()
    }

    pub fn finished(&self) -> bool {
        self.0.borrow().finished
    }

    pub fn aborted(&self) -> bool {
        self.0.borrow().aborted
    }
}

impl AsyncRead for Memory {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        if let Some(mut said) = inner.says.pop_front() {
            let taken = said.len().min(buf.remaining());
            buf.put_slice(&said[..taken]);
            if taken < said.len() {
                inner.says.push_front(said.split_off(taken));
            }
        } else if inner.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        } else if !inner.ended {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.activity += 1;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        inner.activity += 1;
        assert!(!inner.finished, "written to after its end");
        if inner.deaf {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let slow = inner.slow;
        if slow > 0 {
            inner.took = !inner.took;
            if !inner.took {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let taken = if slow == 0 { buf.len() } else { buf.len().min(slow) };
        inner.heard.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().finished = true;
        Poll::Ready(Ok(()))
    }
}

impl Sock for Memory {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        sock::read(self, cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, buf)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_now(cx)
    }

    fn abort(&mut self) {
        self.0.borrow_mut().aborted = true;
    }
}

impl Memory {
    fn poll_shutdown_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}
