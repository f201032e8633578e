//! A connection in memory: what its peer says is put in, what it is told is taken out.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gateway::sock::{self, Sock};

#[derive(Clone, Default)]
pub struct Stream(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    says: VecDeque<Vec<u8>>,
    ended: bool,
    heard: Vec<u8>,
    /// Bytes that it takes at a time, every other time; 0: all at once.
    slow: usize,
    took: bool,
    finished: bool,
    aborted: bool,
    /// Reads and writes so far: a machine that moves nothing has come to rest.
    activity: usize,
    /// Where all streams of a scene note what they are told, in order.
    log: Option<Rc<RefCell<Vec<u8>>>>,
}

impl Stream {
    pub fn new(slow: usize, log: Option<Rc<RefCell<Vec<u8>>>>) -> Self {
        Stream(Rc::new(RefCell::new(Inner { slow, log, ..Inner::default() })))
    }

    /// Each call is one read's worth.
    pub fn say(&self, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        if !bytes.is_empty() && !inner.ended {
            inner.says.push_back(bytes.to_vec());
        }
    }

    pub fn end(&self) {
        self.0.borrow_mut().ended = true;
    }

    pub fn ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// What was said and not read.
    pub fn unread(&self) -> Vec<u8> {
        self.0.borrow_mut().says.drain(..).flatten().collect()
    }

    pub fn heard(&self) -> Vec<u8> {
        self.0.borrow().heard.clone()
    }

    pub fn activity(&self) -> usize {
        self.0.borrow().activity
    }

    /// Whether both are one connection.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody else holds it any more.
    pub fn given_up(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }

    pub fn aborted(&self) -> bool {
        self.0.borrow().aborted
    }

    pub fn finished(&self) -> bool {
        self.0.borrow().finished
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        if let Some(mut said) = inner.says.pop_front() {
            let taken = said.len().min(buf.remaining());
            buf.put_slice(&said[..taken]);
            if taken < said.len() {
                inner.says.push_front(said.split_off(taken));
            }
        } else if !inner.ended {
            return Poll::Pending;
        }
        inner.activity += 1;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        inner.activity += 1;
        assert!(!inner.finished, "written to after its end");
        let mut taken = buf.len();
        if inner.slow > 0 {
            inner.took = !inner.took;
            if !inner.took {
                return Poll::Pending;
            }
            taken = taken.min(inner.slow);
        }
        inner.heard.extend_from_slice(&buf[..taken]);
        if let Some(log) = &inner.log {
            log.borrow_mut().extend_from_slice(&buf[..taken]);
        }
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

impl Sock for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        sock::read(self, cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, buf)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn abort(&mut self) {
        self.0.borrow_mut().aborted = true;
    }
}
