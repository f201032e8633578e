//! The sockets of the data path: where redirected connections arrive, where they wanted to go, and how to reach the pod's own
//! listener. All are made in the network namespace of the calling thread.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};
use tokio::net::{TcpSocket, TcpStream};

/// As many as the kernel allows (`net.core.somaxconn`): a pod's clients must not meet a shorter queue than before.
const BACKLOG: i32 = 65_535;
/// Attempts at finding a port number that is free in both families.
const PORT_ATTEMPTS: u32 = 32;

/// One worker's listeners, both on the same port and both nonblocking. A REDIRECT lands on 127.0.0.1, ::1 or an interface's
/// address, hence the wildcards.
#[derive(Debug)]
pub struct Listeners {
    pub v4: std::net::TcpListener,
    /// `None` where the kernel has no IPv6.
    pub v6: Option<std::net::TcpListener>,
    pub port: u16,
}

/// Where a connection that was accepted on the gateway's port wanted to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// It was redirected; the pod's own address and port.
    Redirected(SocketAddr),
    /// Somebody dialled the gateway's own port. There is nowhere to pass it on to: close it.
    Direct,
}

/// Opens a worker's listeners. The first worker passes 0 and gets a free port, the others pass that port and share it
/// (`SO_REUSEPORT`).
pub fn listeners(port: u16) -> io::Result<Listeners> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let v4 = listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        let found = v4.local_addr()?.port();
        match listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), found)) {
            Ok(v6) => return Ok(Listeners { v4, v6: Some(v6), port: found }),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(Listeners { v4, v6: None, port: found }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // Inherited by accepted sockets.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Asks the kernel where an accepted connection wanted to go before it was redirected.
pub fn original_destination(accepted: &TcpStream) -> io::Result<Destination> {
    let own = accepted.local_addr()?;
    let socket = socket2::SockRef::from(accepted);
    let original = if own.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match original.map(|address| address.as_socket()) {
        // Without a translation, conntrack knows the connection by the address that it has anyway.
        Ok(Some(original)) if !same_place(original, own) => Ok(Destination::Redirected(original)),
        Ok(_) => Ok(Destination::Direct),
        // Conntrack is off, or does not know the connection: nothing can have been redirected.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => Ok(Destination::Direct),
        Err(error) => Err(error),
    }
}

/// Compares without flow label and scope, which the two ways of asking do not fill alike.
fn same_place(a: SocketAddr, b: SocketAddr) -> bool {
    (a.ip(), a.port()) == (b.ip(), b.port())
}

/// How to reach the pod's own listeners past the redirect; one for each worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodConnector {
    mark: u32,
    transparent: Transparent,
}

/// The families in which the pod can be shown a foreign client's address, and the mark of sockets that do so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transparent {
    pub mark: u32,
    pub v4: bool,
    pub v6: bool,
}

impl PodConnector {
    /// Sockets with `mark` are exempt from the redirect; 0, the default, where there is none.
    pub fn new(mark: u32, transparent: Transparent) -> Self {
        PodConnector { mark, transparent }
    }

    /// Connects to `destination`, a listener of the pod's, on behalf of `client`, whose address and port the pod sees if
    /// that is possible. Must be polled on a thread in the target's namespace. Errors are the pod's own answer (refused,
    /// no route, timeout).
    pub async fn connect(&self, destination: SocketAddr, client: SocketAddr) -> io::Result<TcpStream> {
        if !self.keeps_address(destination, client) {
            return into_tokio(new_socket(destination, self.mark)?).connect(destination).await;
        }
        // The kernel tells who is local: a plain bind to anybody else's address is refused. A local client's port is its
        // own; the kernel chooses another one and sees to it that the two do not meet.
        let mut socket = new_socket(destination, self.mark)?;
        if bind(&socket, SocketAddr::new(client.ip(), 0)).is_ok() {
            return into_tokio(socket).connect(destination).await;
        }
        // The client's port is taken if a former connection on its behalf has just ended, or by a listener of the pod's.
        for port in [client.port(), 0] {
            if assume_address(&socket, SocketAddr::new(client.ip(), port), self.transparent.mark).is_ok() {
                match into_tokio(socket).connect(destination).await {
                    Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                    other => return other,
                }
            }
            socket = new_socket(destination, self.mark)?;
        }
        into_tokio(socket).connect(destination).await
    }

    /// Whether the pod sees a client's own address, in either family.
    pub fn keeps_addresses(&self) -> bool {
        self.transparent.v4 || self.transparent.v6
    }

    /// Connects to any host as the target would, exempt from the redirect.
    pub async fn connect_plainly(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        into_tokio(new_socket(destination, self.mark)?).connect(destination).await
    }

    fn keeps_address(&self, destination: SocketAddr, client: SocketAddr) -> bool {
        match (client.ip(), destination) {
            (IpAddr::V4(_), SocketAddr::V4(_)) => self.transparent.v4,
            // A link-local address means nothing without its interface, and the way to the pod's listener is another one.
            (IpAddr::V6(ip), SocketAddr::V6(_)) => self.transparent.v6 && !ip.is_unicast_link_local(),
            _ => false,
        }
    }
}

/// Gives a socket an address that is not the namespace's own; its packets, and what answers them, stay on `lo`.
pub(crate) fn assume_address(socket: &Socket, client: SocketAddr, mark: u32) -> io::Result<()> {
    socket.set_mark(mark)?;
    match client {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => set_ip_transparent_v6(socket)?,
    }
    // Bound to lo, the kernel lets addresses and ports be used again one second after their last connection ended rather
    // than 60.
    socket.bind_device(Some(b"lo"))?;
    // The client may be connected to several of the pod's ports from one of its own.
    socket.set_reuse_address(true)?;
    bind(socket, client)
}

pub(crate) fn new_socket(destination: SocketAddr, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        // The port is chosen when it connects, so that only addresses and ports of both ends together must be unused.
        set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
    }
    socket.bind(&address.into())
}

fn set_ip_transparent_v6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)
}

fn set_option(socket: &Socket, level: i32, name: i32) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: the pointer and the length describe `on`, which lives across the call; the descriptor is open.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), size_of::<i32>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn into_tokio(socket: Socket) -> TcpSocket {
    TcpSocket::from_std_stream(socket.into())
}
