//! A server in the pod that keeps the exact bytes of each connection, and answers with scripted bytes.

use std::{
    io::{Read, Write},
    mem,
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    http::Pieces,
    netns::{Handle, Namespace},
    wait::eventually,
};

/// What to do when so many bytes of a connection have come.
#[derive(Clone, Debug)]
pub struct Step {
    /// How many, counted from the connection's start.
    pub after: usize,
    /// The answer.
    pub answer: Vec<u8>,
    /// How it is cut.
    pub pieces: Pieces,
    /// Close afterwards.
    pub close: bool,
}

/// One connection as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Who connected.
    pub peer: IpAddr,
    /// All that came.
    pub bytes: Vec<u8>,
    /// `open`, `closed` (they said so), `reset`, or `we closed`.
    pub end: &'static str,
}

#[derive(Default)]
struct Shared {
    script: Arc<Vec<Step>>,
    seen: Vec<Recorded>,
    sockets: Vec<TcpStream>,
    over: bool,
}

/// The server; its connections end with it.
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
    address: SocketAddr,
    namespace: Handle,
}

impl Recorder {
    /// Listens on a port of both families in this namespace.
    pub fn new(namespace: &Namespace, port: u16) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = namespace.run(|| TcpListener::bind(address).unwrap());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { shared, address: SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), namespace: namespace.handle() }
    }

    /// Script of the connections from now on; forgets what was seen.
    pub fn play(&self, script: Vec<Step>) {
        let mut shared = self.shared.lock().unwrap();
        shared.script = Arc::new(script);
        shared.seen.clear();
        shared.sockets.clear();
    }

    /// All connections so far.
    pub fn seen(&self) -> Vec<Recorded> {
        self.shared.lock().unwrap().seen.clone()
    }

    /// Waits until there is a connection and all have ended.
    #[track_caller]
    pub fn finished(&self) -> Vec<Recorded> {
        eventually("the pod's server sees its connections end", || {
            let seen = self.seen();
            (!seen.is_empty() && seen.iter().all(|one| one.end != "open")).then_some(seen)
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let sockets = {
            let mut shared = self.shared.lock().unwrap();
            shared.over = true;
            mem::take(&mut shared.sockets)
        };
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // The accepting thread looks at `over` when somebody connects.
        let _ = self.namespace.run(|| TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let mut held = shared.lock().unwrap();
        if held.over {
            return;
        }
        let peer = stream.peer_addr().map_or(Ipv6Addr::UNSPECIFIED.into(), |peer| peer.ip().to_canonical());
        held.seen.push(Recorded { peer, bytes: Vec::new(), end: "open" });
        held.sockets.push(stream.try_clone().unwrap());
        let (index, script) = (held.seen.len() - 1, Arc::clone(&held.script));
        drop(held);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let end = serve(&stream, index, &script, &shared);
            let _ = stream.shutdown(Shutdown::Both);
            with(&shared, index, |recorded| recorded.end = end);
        });
    }
}

fn serve(mut stream: &TcpStream, index: usize, script: &[Step], shared: &Mutex<Shared>) -> &'static str {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    let (mut count, mut steps) = (0, script.iter().peekable());
    loop {
        while let Some(step) = steps.next_if(|step| step.after <= count) {
            for piece in cut(&step.answer, step.pieces) {
                if stream.write_all(piece).is_err() {
                    return "reset";
                }
                if step.pieces != Pieces::Whole {
                    thread::sleep(Duration::from_micros(200));
                }
            }
            if step.close {
                let _ = stream.shutdown(Shutdown::Write);
                // Wait for their end, so that ours is no reset.
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
                return "we closed";
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return "closed",
            Err(_) => return "reset",
            Ok(read) => {
                count += read;
                with(shared, index, |recorded| recorded.bytes.extend(&buffer[..read]));
            }
        }
    }
}

fn cut(bytes: &[u8], pieces: Pieces) -> std::slice::Chunks<'_, u8> {
    bytes.chunks(match pieces {
        Pieces::Whole => bytes.len().max(1),
        Pieces::Halves => bytes.len().div_ceil(2).max(1),
        Pieces::Bytes => 1,
    })
}

fn with(shared: &Mutex<Shared>, index: usize, change: impl FnOnce(&mut Recorded)) {
    // The list may have been cleared for the next script meanwhile.
    if let Some(recorded) = shared.lock().unwrap().seen.get_mut(index) {
        change(recorded);
    }
}
