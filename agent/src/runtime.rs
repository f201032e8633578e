//! From a container's id to its first process: by the cgroups of this node's processes, which needs nobody's help; and where that finds
//! nothing (a runtime or an administrator may put processes anywhere), by asking the container's runtime on its socket.
//!
//! containerd and CRI-O are asked by CRI (`runtime.v1.RuntimeService/ContainerStatus`, gRPC), docker by its own interface (HTTP). Their
//! sockets are found below `/proc/PID/root` of the runtime itself: the agent, which sees the node's processes anyway, needs no volume of
//! the node's for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use mirrord_containers::Found;
use mirrord_protocol::control::ErrorReply;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::app::failure;

/// A runtime answers within this time.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is read, bytes.
const LONGEST: usize = 1 << 20;
/// gRPC puts a byte for compression and four for the length before a message.
const PREFIX: usize = 5;

/// A way to ask: what runtimes' ids begin with, the names of their processes, and where their sockets may be.
struct Runtime {
    schemes: &'static [&'static str],
    processes: &'static [&'static str],
    sockets: &'static [&'static str],
}

const RUNTIMES: [Runtime; 2] = [
    Runtime {
        schemes: &["containerd", "cri-o"],
        processes: &["containerd", "crio", "k3s-server", "k3s-agent"],
        sockets: &[
            "run/containerd/containerd.sock",
            "run/crio/crio.sock",
            "run/k3s/containerd/containerd.sock",
            "run/k0s/containerd.sock",
            "var/snap/microk8s/common/run/containerd.sock",
        ],
    },
    Runtime { schemes: &["docker"], processes: &["dockerd"], sockets: &["run/docker.sock"] },
];

/// The first process of a container, `containerd://ID` as a pod's status has it; without a runtime's name only its cgroup is looked for.
pub async fn first_process(container: &str) -> Result<u32, ErrorReply> {
    let (scheme, id) = container.split_once("://").unwrap_or(("", container));
    let owned = id.to_owned();
    let looked = tokio::task::spawn_blocking(move || mirrord_containers::first_process(Path::new("/proc"), |full| full == owned)).await;
    if let Ok(Found::Process(pid)) = looked {
        return Ok(pid);
    }
    let mut why = "no process of this node has its cgroup".to_owned();
    for socket in sockets(Path::new("/proc"), scheme) {
        let asked = async {
            let stream = UnixStream::connect(&socket).await?;
            if scheme == "docker" { docker(stream, id).await } else { cri(stream, id).await }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(pid)) if pid > 0 && Path::new(&format!("/proc/{pid}")).exists() => {
                tracing::info!(container, pid, "the container's process was found by its runtime");
                return Ok(pid);
            }
            Ok(Ok(_)) => why += "; its runtime says that it does not run",
            Ok(Err(error)) => why += &format!("; its runtime says: {error}"),
            Err(_) => why += "; its runtime does not answer",
        }
    }
    Err(failure(
        format!("the container {id} does not run on this node, or its processes cannot be seen: {why}"),
        "run the command again; if it stays so, the agent's pod needs hostPID",
    ))
}

/// Sockets of a runtime, as they are seen from here.
fn sockets(proc: &Path, scheme: &str) -> Vec<PathBuf> {
    let Some(runtime) = RUNTIMES.iter().find(|runtime| runtime.schemes.contains(&scheme)) else { return Vec::new() };
    let folders = fs::read_dir(proc).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_runtime = |folder: &PathBuf| {
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        runtime.processes.contains(&name.trim())
    };
    // The node's first process sees them too, where the runtime's name is another one.
    let roots = folders.filter(is_runtime).chain([proc.join("1")]);
    let all = roots.flat_map(|folder| runtime.sockets.iter().map(move |socket| folder.join("root").join(socket)));
    let mut found: Vec<_> = all.filter(|path| path.exists()).collect();
    // Two processes of one root have the same.
    let key = |path: &PathBuf| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map(|file| (file.dev(), file.ino())).ok()
    };
    found.sort_by_key(key);
    found.dedup_by_key(|path| key(path));
    found
}

/// Asks by CRI, for `info`, which holds what the runtime knows beyond the interface: the process's number, among others.
async fn cri(stream: UnixStream, id: &str) -> io::Result<u32> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    tokio::select! {
        answer = ask(sender, id) => answer,
        ended = connection => Err(ended.err().map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
    }
}

async fn ask(mut sender: h2::client::SendRequest<Bytes>, id: &str) -> io::Result<u32> {
    let request = Request::post("http://runtime/runtime.v1.RuntimeService/ContainerStatus")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let (response, mut body) = sender.send_request(request, false).map_err(io::Error::other)?;
    body.send_data(status_request(id).into(), true).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    // A call that fails at once has its status in the head.
    if let Some(error) = refusal(response.headers()) {
        return Err(error);
    }
    let mut stream = response.into_body();
    let mut answer = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.map_err(io::Error::other)?;
        if answer.len() + piece.len() > LONGEST {
            return Err(io::Error::other("its answer is too long"));
        }
        answer.extend_from_slice(&piece);
        stream.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
    }
    if let Some(error) = stream.trailers().await.map_err(io::Error::other)?.and_then(|trailers| refusal(&trailers)) {
        return Err(error);
    }
    pid_in_status(&answer).ok_or_else(|| io::Error::other("its answer names no process"))
}

fn refusal(headers: &http::HeaderMap) -> Option<io::Error> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let status = text("grpc-status").filter(|status| *status != "0")?;
    Some(io::Error::other(format!("{} (gRPC status {status})", text("grpc-message").unwrap_or("no reason"))))
}

/// `ContainerStatusRequest { container_id = 1, verbose = 2 }`, with gRPC's prefix.
fn status_request(id: &str) -> Vec<u8> {
    let mut message = vec![0x0a];
    varint(id.len(), &mut message);
    message.extend_from_slice(id.as_bytes());
    message.extend_from_slice(&[0x10, 1]);
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.append(&mut message);
    framed
}

fn varint(mut value: usize, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// `ContainerStatusResponse { info = 2: map }`: the entry `info` is JSON with a member `pid`.
fn pid_in_status(framed: &[u8]) -> Option<u32> {
    let info = fields(framed.get(PREFIX..)?).into_iter().filter(|(number, _)| *number == 2).find_map(|(_, entry)| {
        let entry = fields(entry);
        let part = |wanted| entry.iter().find(|(number, _)| *number == wanted).map(|(_, bytes)| *bytes);
        (part(1)? == b"info").then(|| part(2)).flatten()
    })?;
    let info: serde_json::Value = serde_json::from_slice(info).ok()?;
    u32::try_from(info["pid"].as_u64()?).ok()
}

/// The fields of a message that are bytes; others are passed over. What is malformed ends it.
fn fields(mut message: &[u8]) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    while let Some(tag) = read_varint(&mut message) {
        let skip = match tag & 7 {
            0 => match read_varint(&mut message) {
                Some(_) => continue,
                None => break,
            },
            1 => 8,
            5 => 4,
            2 => match read_varint(&mut message) {
                Some(length) => length,
                None => break,
            },
            _ => break,
        };
        let Some((bytes, rest)) = message.split_at_checked(skip) else { break };
        if tag & 7 == 2 {
            found.push((tag >> 3, bytes));
        }
        message = rest;
    }
    found
}

fn read_varint(from: &mut &[u8]) -> Option<usize> {
    let mut value = 0_u64;
    for at in 0..10 {
        let byte = *from.get(at)?;
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            *from = &from[at + 1..];
            return usize::try_from(value).ok();
        }
    }
    None
}

/// Asks docker, in HTTP/1.0: its answer then ends with the connection and is in one piece.
async fn docker(mut stream: UnixStream, id: &str) -> io::Result<u32> {
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(io::Error::other("this is no id of docker's"));
    }
    stream.write_all(format!("GET /containers/{id}/json HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST as u64).read_to_end(&mut answer).await?;
    pid_in_inspection(&answer).ok_or_else(|| {
        let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        io::Error::other(String::from_utf8_lossy(first).into_owned())
    })
}

fn pid_in_inspection(answer: &[u8]) -> Option<u32> {
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let object: serde_json::Value = serde_json::from_slice(&answer[body + 4..]).ok()?;
    u32::try_from(object["State"]["Pid"].as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of containerd's, shortened: status (1), info (2) with another entry before the one that counts.
    fn answer(info: &str) -> Vec<u8> {
        let bytes = |number: u8, content: &[u8]| {
            let mut field = vec![number << 3 | 2];
            varint(content.len(), &mut field);
            field.extend_from_slice(content);
            field
        };
        let entry = |key: &str, value: &str| [bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat();
        let message = [bytes(1, b"\x0a\x02id"), bytes(2, &entry("other", r#"{"pid":1}"#)), bytes(2, &entry("info", info))].concat();
        [&[0; PREFIX][..], &message].concat()
    }

    #[test]
    fn the_process_is_read_from_what_the_runtime_adds() {
        let long = format!(r#"{{"sandboxID":"{}","pid":4321,"removing":false}}"#, "x".repeat(5000));
        assert_eq!(pid_in_status(&answer(&long)), Some(4321));
        for info in ["", "{}", r#"{"pid":-1}"#, r#"{"pid":99999999999}"#, "nonsense"] {
            assert_eq!(pid_in_status(&answer(info)), None, "{info}");
        }
        // What is cut off anywhere is no answer, and no panic.
        let whole = answer(&long);
        assert!((0..whole.len()).all(|length| pid_in_status(&whole[..length]).is_none()));
        assert_eq!(pid_in_status(&[0xff; 64]), None);
    }

    #[test]
    fn a_request_is_as_the_interface_has_it() {
        assert_eq!(status_request("ab"), [0, 0, 0, 0, 6, 0x0a, 2, b'a', b'b', 0x10, 1]);
        assert_eq!(status_request(&"a".repeat(200))[5..8], [0x0a, 0xc8, 1]);
    }

    #[test]
    fn docker_says_it_in_json() {
        assert_eq!(pid_in_inspection(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"State\":{\"Pid\":77}}"), Some(77));
        assert_eq!(pid_in_inspection(b"HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"no\"}"), None);
    }

    #[test]
    fn a_runtimes_socket_is_looked_for_where_the_runtime_has_it() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, name: &str, socket: &str| {
            let folder = proc.path().join(pid.to_string());
            let socket = folder.join("root").join(socket);
            fs::create_dir_all(socket.parent().unwrap()).unwrap();
            fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
            fs::write(&socket, "").unwrap();
            socket
        };
        process(1, "init", "run/other.sock");
        process(5, "shop", "run/containerd/containerd.sock");
        let containerd = process(7, "containerd", "run/containerd/containerd.sock");
        let docker = process(8, "dockerd", "run/docker.sock");
        assert_eq!(sockets(proc.path(), "containerd"), [containerd]);
        assert_eq!(sockets(proc.path(), "docker"), [docker]);
        assert!(sockets(proc.path(), "").is_empty() && sockets(proc.path(), "rkt").is_empty());
    }
}
