//! An HTTP/1.1 client that sends exactly the bytes it is told, in pieces if asked, and keeps exactly what comes back.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::{netns::Handle, wait::PATIENCE, watchdog};

/// How a message is cut before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// In one write.
    Whole,
    /// In two.
    Halves,
    /// One byte a write, with a moment after each.
    Bytes,
}

impl Pieces {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Whole, Self::Halves, Self::Bytes];

    fn of(self, bytes: &[u8]) -> std::slice::Chunks<'_, u8> {
        bytes.chunks(match self {
            Self::Whole => bytes.len().max(1),
            Self::Halves => bytes.len().div_ceil(2).max(1),
            Self::Bytes => 1,
        })
    }
}

/// A response, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Status of the final response.
    pub status: u16,
    /// The head's bytes, with the empty line.
    pub head: Vec<u8>,
    /// The body, chunked or not, decoded.
    pub body: Vec<u8>,
}

impl Response {
    /// Value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head);
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Who answered: `pod`, or `program NAME`.
    pub fn who(&self) -> String {
        let text = self.text();
        let words: Vec<_> = text.split_whitespace().collect();
        match words.first() {
            Some(&"program") => words[..words.len().min(2)].join(" "),
            Some(word) => (*word).to_owned(),
            None => format!("nobody (status {})", self.status),
        }
    }
}

/// A request on a connection of its own.
pub struct Request<'a> {
    from: &'a Handle,
    to: SocketAddr,
    method: String,
    path: String,
    headers: String,
    body: Vec<u8>,
}

impl<'a> Request<'a> {
    /// Nothing is sent before [`Request::send`].
    pub fn new(from: &'a Handle, to: SocketAddr, method: &str, path: &str) -> Self {
        Self { from, to, method: method.into(), path: path.into(), headers: String::new(), body: Vec::new() }
    }

    /// With a header line.
    #[must_use]
    pub fn with(mut self, header: &str) -> Self {
        self.headers += header;
        self.headers += "\r\n";
        self
    }

    /// With a body of known length.
    #[must_use]
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.with(&format!("Content-Length: {}", body.len()))
    }

    /// Sends it and reads the whole answer.
    #[track_caller]
    pub fn send(self) -> Response {
        let mut client = Client::connect(self.from, self.to);
        client.send(&self.bytes());
        client.response()
    }

    /// The same, for an answer that may fail to come.
    pub fn try_send(self) -> io::Result<Response> {
        let mut client = Client::try_connect(self.from, self.to)?;
        client.try_send(&self.bytes(), Pieces::Whole)?;
        client.try_response()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nHost: pod\r\n{}\r\n", self.method, self.path, self.headers).into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

/// A GET request as bytes, with header lines.
pub fn get(path: &str, headers: &[&str]) -> Vec<u8> {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nHost: pod\r\n{lines}\r\n").into_bytes()
}

/// A TCP connection from the clients to the pod.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects; panics if that fails.
    #[track_caller]
    pub fn connect(from: &Handle, to: SocketAddr) -> Self {
        Self::try_connect(from, to).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"))
    }

    /// Connects.
    pub fn try_connect(from: &Handle, to: SocketAddr) -> io::Result<Self> {
        let stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        Self::over(stream)
    }

    /// Takes a connection that exists.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// This end's address.
    pub fn own_address(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes in one piece.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.send_in(bytes, Pieces::Whole);
    }

    /// Sends bytes cut.
    #[track_caller]
    pub fn send_in(&mut self, bytes: &[u8], pieces: Pieces) {
        self.try_send(bytes, pieces).unwrap_or_else(|error| panic!("cannot send {}: {error}", shown(bytes)));
    }

    /// Sends bytes cut, for a peer that may close.
    pub fn try_send(&mut self, bytes: &[u8], pieces: Pieces) -> io::Result<()> {
        for piece in pieces.of(bytes) {
            self.stream.get_mut().write_all(piece)?;
            if pieces != Pieces::Whole {
                // It has arrived already, as the wire is memory; its reader gets a moment to take it, so that pieces stay pieces.
                thread::sleep(Duration::from_micros(150));
            }
        }
        Ok(())
    }

    /// No more will be sent.
    pub fn finish(&self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// A GET with header lines, and its answer.
    #[track_caller]
    pub fn get(&mut self, path: &str, headers: &[&str]) -> Response {
        self.send(&get(path, headers));
        self.response()
    }

    /// Reads a whole response.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let _waiting = watchdog::waiting("a response");
        self.try_response().unwrap_or_else(|error| panic!("no whole response: {error}"))
    }

    /// Reads a whole response, which may fail to come.
    pub fn try_response(&mut self) -> io::Result<Response> {
        read_response(&mut self.stream)
    }

    /// Reads exactly this many bytes, or what came before the end or a silence of `patience`.
    pub fn read_up_to(&mut self, count: usize, patience: Duration) -> Vec<u8> {
        self.stream.get_ref().set_read_timeout(Some(patience)).unwrap();
        let mut bytes = vec![0; count];
        let mut held = 0;
        while held < count {
            match self.stream.read(&mut bytes[held..]) {
                Ok(0) | Err(_) => break,
                Ok(read) => held += read,
            }
        }
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        bytes.truncate(held);
        bytes
    }

    /// How the connection ends: `closed`, `reset`, or `open` after a silence of `patience`; what came before with it.
    pub fn ending(&mut self, patience: Duration) -> (Vec<u8>, &'static str) {
        self.stream.get_ref().set_read_timeout(Some(patience)).unwrap();
        let mut bytes = Vec::new();
        let ending = match self.stream.read_to_end(&mut bytes) {
            Ok(_) => "closed",
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => "open",
            Err(_) => "reset",
        };
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        (bytes, ending)
    }

    /// Reads bytes as they come; for bodies that are too long to keep.
    pub fn reader(&mut self) -> &mut impl BufRead {
        &mut self.stream
    }
}

/// Reads one response: skips 1xx, then by its length, chunks, or until the end.
pub fn read_response(stream: &mut impl BufRead) -> io::Result<Response> {
    loop {
        let mut response = read_head(stream)?;
        match response.status {
            100..=199 => continue,
            204 | 304 => return Ok(response),
            _ => {}
        }
        if response.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            response.body = read_chunks(stream)?;
        } else if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse().map_err(|_| invalid(&format!("content-length {length}")))?];
            stream.read_exact(&mut response.body)?;
        } else {
            stream.read_to_end(&mut response.body)?;
        }
        return Ok(response);
    }
}

/// Reads one response's head.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head)? == 0 {
            let had = if head.is_empty() { "before a response".into() } else { format!("within a head: {}", shown(&head)) };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed {had}")));
        }
    }
    let line = String::from_utf8_lossy(&head);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid(&shown(&head)))?;
    Ok(Response { status, head, body: Vec::new() })
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| invalid(&line))?;
        if size == 0 {
            while !read_line(stream)?.is_empty() {}
            return Ok(body);
        }
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        read_line(stream)?;
    }
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within a body"));
    }
    Ok(line.trim_end().to_owned())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what}"))
}

/// Bytes for a person to read, cut if long.
pub fn shown(bytes: &[u8]) -> String {
    let text = bytes[..bytes.len().min(600)].escape_ascii().to_string();
    if bytes.len() > 600 { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}
