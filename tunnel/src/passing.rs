//! A unix socket on which messages travel, some of them with a file descriptor. The bytes' meaning is the caller's.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use tokio::{io::Interest, net::UnixStream};

use crate::ancillary::{self, Beside};

const CHUNK: usize = 4096;
/// The kernel refuses descriptors in flight beyond a limit; the peer takes some meanwhile.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(5);

/// One end. Reading and writing may go on at the same time, each by one task.
#[derive(Debug)]
pub struct Passing {
    socket: UnixStream,
}

/// What has come and has not been taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Bytes in the order in which they came; the reader removes what it has understood.
    pub bytes: Vec<u8>,
    descriptors: VecDeque<Option<OwnedFd>>,
}

impl Inbox {
    /// The descriptor that belongs to the next message that carries one.
    pub fn descriptor(&mut self) -> io::Result<OwnedFd> {
        match self.descriptors.pop_front() {
            Some(Some(descriptor)) => Ok(descriptor),
            Some(None) => Err(io::Error::other("too many open files: raise the limit (ulimit -n)")),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "a message came without the descriptor that belongs to it")),
        }
    }

    /// To be called when all whole messages have been taken: a descriptor may wait for the rest of its message and for nothing else.
    pub fn check(&self) -> io::Result<()> {
        if self.descriptors.len() > usize::from(!self.bytes.is_empty()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a descriptor came that belongs to no message"));
        }
        Ok(())
    }
}

impl Passing {
    /// On a connected socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Waits for bytes and appends them; `false`: the peer has ended. Cancel-safe.
    pub async fn receive(&self, inbox: &mut Inbox) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let receive = || ancillary::receive(self.socket.as_fd(), &mut chunk);
        let (length, beside) = self.socket.async_io(Interest::READABLE, receive).await?;
        inbox.bytes.extend_from_slice(&chunk[..length]);
        match beside {
            Beside::Nothing => {}
            Beside::Descriptor(descriptor) => inbox.descriptors.push_back(Some(descriptor)),
            Beside::Lost => inbox.descriptors.push_back(None),
        }
        Ok(length > 0)
    }

    /// Sends all bytes, and the descriptor with the first of them.
    pub async fn send(&self, mut bytes: &[u8], mut descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        while !bytes.is_empty() {
            let send = || ancillary::send(self.socket.as_fd(), bytes, descriptor);
            match self.socket.async_io(Interest::WRITABLE, send).await {
                Ok(sent) => (bytes, descriptor) = (&bytes[sent..], None),
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => tokio::time::sleep(IN_FLIGHT_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn pair() -> (Passing, Passing) {
        let (one, other) = UnixStream::pair().unwrap();
        (Passing::new(one), Passing::new(other))
    }

    #[test]
    fn a_descriptor_arrives_with_its_message() {
        run(async {
            let (here, there) = pair();
            let (mut mine, passed) = std::os::unix::net::UnixStream::pair().unwrap();
            here.send(b"plain", None).await.unwrap();
            here.send(b"with", Some(passed.as_fd())).await.unwrap();
            here.send(b"after", None).await.unwrap();
            drop((here, passed));
            let mut inbox = Inbox::default();
            while there.receive(&mut inbox).await.unwrap() {}
            assert_eq!(inbox.bytes, b"plainwithafter");
            let mut got = std::os::unix::net::UnixStream::from(inbox.descriptor().unwrap());
            mine.write_all(b"x").unwrap();
            let mut byte = [0];
            got.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
            assert_eq!(inbox.descriptor().unwrap_err().kind(), io::ErrorKind::InvalidData);
        });
    }

    #[test]
    fn a_descriptor_that_belongs_to_nothing_is_an_error_and_closed() {
        run(async {
            let (here, there) = pair();
            let (mut mine, passed) = std::os::unix::net::UnixStream::pair().unwrap();
            here.send(b"x", Some(passed.as_fd())).await.unwrap();
            drop(passed);
            let mut inbox = Inbox::default();
            assert!(there.receive(&mut inbox).await.unwrap());
            assert!(inbox.check().is_ok(), "its message may still be incomplete");
            inbox.bytes.clear();
            assert!(inbox.check().is_err());
            drop(inbox);
            assert_eq!(mine.read(&mut [0]).unwrap(), 0, "nobody holds the other end");
        });
    }
}
