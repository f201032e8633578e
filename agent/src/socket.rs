//! The sockets of the data path: where redirected connections arrive, where they wanted to go, and how to reach the pod's own
//! listener. All are made in the network namespace of the calling thread.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
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

/// How to reach the pod's own listeners past the redirect. Cheap to clone; one for each worker.
#[derive(Clone, Copy, Debug)]
pub struct PodConnector {
    mark: u32,
    /// The mark of sockets that carry a foreign client's address; `None` where that is not possible.
    transparent_mark: Option<u32>,
}

impl PodConnector {
    /// `mark` exempts from the redirect; `transparent_mark` also leads the pod's answers back to a socket that has the
    /// client's address.
    pub fn new(mark: u32, transparent_mark: Option<u32>) -> Self {
        PodConnector { mark, transparent_mark }
    }

    /// Connects to `destination`, a listener of the pod's, on behalf of `client`, whose address the pod sees if that is
    /// possible. Must be polled on a thread in the target's namespace. Errors are the pod's own answer (refused, no
    /// route, timeout).
    pub async fn connect(&self, destination: SocketAddr, client: SocketAddr) -> io::Result<TcpStream> {
        self.socket(destination, client)?.connect(destination).await
    }

    fn socket(&self, destination: SocketAddr, client: SocketAddr) -> io::Result<TcpSocket> {
        let same_family = client.is_ipv4() == destination.is_ipv4();
        if same_family && !is_link_local(client.ip()) {
            let own = SocketAddr::new(client.ip(), 0);
            // The kernel tells who is local: a plain bind to anybody else's address is refused.
            let local = bound(destination, own, self.mark)?;
            if local.is_some() {
                return local.map_or_else(|| self.plain(destination), Ok);
            }
            if let Some(mark) = self.transparent_mark
                && let Some(socket) = transparent(destination, own, mark)?
            {
                return Ok(socket);
            }
        }
        self.plain(destination)
    }

    fn plain(&self, destination: SocketAddr) -> io::Result<TcpSocket> {
        finish(new_socket(destination, self.mark)?)
    }
}

/// A link-local address means nothing without its interface, and the way to the pod's listener is another one.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn new_socket(destination: SocketAddr, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_mark(mark)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// A socket with an address of the namespace's own; `None` if the address is not one.
fn bound(destination: SocketAddr, own: SocketAddr, mark: u32) -> io::Result<Option<TcpSocket>> {
    let socket = new_socket(destination, mark)?;
    bind(&socket, own)?.then(|| finish(socket)).transpose()
}

/// A socket with a foreign address, whose packets and their answers stay on `lo`; `None` if the kernel refuses it.
fn transparent(destination: SocketAddr, client: SocketAddr, mark: u32) -> io::Result<Option<TcpSocket>> {
    let socket = new_socket(destination, mark)?;
    let allowed = match client {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => set_ip_transparent_v6(&socket),
    };
    if allowed.is_err() {
        return Ok(None);
    }
    // Bound to lo, the kernel lets a port number be used again one second after its last connection ended rather than 60:
    // otherwise 28,000 connections of one client in a minute would use them up.
    socket.bind_device(Some(b"lo"))?;
    bind(&socket, client)?.then(|| finish(socket)).transpose()
}

/// Binds to the address, the port being chosen when it connects (so that only the whole 4-tuple must be unused). `false`
/// if the address is not available here.
fn bind(socket: &Socket, address: SocketAddr) -> io::Result<bool> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
    match socket.bind(&address.into()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
    }
}

fn set_ip_transparent_v6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)
}

fn set_option(socket: &Socket, level: i32, name: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: i32 = 1;
    // SAFETY: the pointer and the length describe `on`, which lives across the call; the descriptor is open.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const on).cast(), size_of::<i32>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn finish(socket: Socket) -> io::Result<TcpSocket> {
    Ok(TcpSocket::from_std_stream(socket.into()))
}
