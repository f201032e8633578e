//! A unix socket that its peer's reading does not wake. The kernel reports a unix socket as writable again each time the peer
//! has read from it (`unix_write_space`), whether or not anybody waits for room; registered for that, an end is woken once
//! more for each message that it sends. Here room is waited for only once a write has found none.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// A connected unix stream socket.
#[derive(Debug)]
pub struct Quiet {
    socket: AsyncFd<UnixStream>,
    /// Says when there is room, while a write waits for it: another descriptor of the same socket.
    room: Option<AsyncFd<OwnedFd>>,
}

impl Quiet {
    /// Registers a socket, which becomes non-blocking, with the runtime that this is called in.
    ///
    /// # Errors
    /// If the socket cannot be registered.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: register(socket, Interest::READABLE)?, room: None })
    }
}

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn register<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: called with a `UnixStream` and an `OwnedFd` only, which own their descriptor, never change it, and close it when they
    // are dropped; nothing here takes them out or gives them away mutably.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

impl AsyncRead for Quiet {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let free = buf.initialize_unfilled();
            match self.socket.get_ref().read(free) {
                Ok(read) => {
                    // A short read has emptied the socket: the next one would say so at the cost of a system call.
                    if read > 0 && read < free.len() {
                        ready.clear_ready();
                    }
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            match this.socket.get_ref().write(data) {
                Ok(written) => {
                    this.room = None;
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let room = match &mut this.room {
                Some(room) => room,
                None => {
                    let again = this.socket.get_ref().as_fd().try_clone_to_owned()?;
                    // Registered now, so it reports room that has come since the write.
                    this.room.insert(register(again, Interest::WRITABLE)?)
                }
            };
            ready!(room.poll_write_ready(cx))?.clear_ready();
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, sync::atomic, task::Wake};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Quiet, Quiet) {
        let (one, other) = UnixStream::pair().unwrap();
        (Quiet::new(one).unwrap(), Quiet::new(other).unwrap())
    }

    #[tokio::test]
    async fn what_finds_no_room_goes_out_when_there_is_some() {
        let (mut one, mut other) = pair();
        let sent: Vec<u8> = (0..8 << 20_u32).map(|byte| byte as u8).collect();
        let (all, mut got) = (sent.clone(), Vec::new());
        let writing = async {
            one.write_all(&all).await.unwrap();
            assert!(one.room.is_none(), "nobody waits any more");
            one.shutdown().await.unwrap();
        };
        let reading = async {
            other.read_to_end(&mut got).await.unwrap();
        };
        tokio::join!(writing, reading);
        assert!(got == sent);
    }

    #[tokio::test]
    async fn the_peers_reading_wakes_nobody() {
        struct Count(atomic::AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, atomic::Ordering::Relaxed);
            }
        }
        let (mut one, mut other) = pair();
        let count = Arc::new(Count(0.into()));
        let waker = count.clone().into();
        let mut byte = [0];
        assert!(Pin::new(&mut one).poll_read(&mut Context::from_waker(&waker), &mut ReadBuf::new(&mut byte)).is_pending());
        for _ in 0..10 {
            one.write_all(b"x").await.unwrap();
            other.read_exact(&mut byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(count.0.load(atomic::Ordering::Relaxed), 0);
        other.write_all(b"y").await.unwrap();
        poll_fn(|cx| Pin::new(&mut one).poll_read(cx, &mut ReadBuf::new(&mut byte))).await.unwrap();
        assert_eq!(&byte, b"y");
    }
}
