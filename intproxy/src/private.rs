//! Sockets of one user's on this machine: abstract ones, which leave nothing behind. They have no mode, so each end asks the kernel
//! who the other one is.

use std::{
    fs::File,
    io::{self, Read},
    os::{linux::net::SocketAddrExt, unix::net},
};

use mirrord_protocol::deliver::token_to_hex;
use tokio::net::UnixStream;

/// 128 bits that nobody guesses.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The same as a word.
pub fn word() -> io::Result<String> {
    random().map(|bytes| token_to_hex(&bytes))
}

/// A socket with this name.
pub fn listener(name: &str) -> io::Result<net::UnixListener> {
    let listener = net::UnixListener::bind_addr(&net::SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether the user, or root, who may do what the user may, is at the other end.
pub fn is_users(stream: &UnixStream, user: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user || peer.uid() == 0)
}
