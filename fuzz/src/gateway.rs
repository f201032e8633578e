//! The agent's gateway, as far as bytes are read there.

#[path = "../../agent/src/gateway/detect.rs"]
pub mod detect;
#[path = "../../agent/src/gateway/hello.rs"]
pub mod hello;
#[path = "../../agent/src/gateway/http1/mod.rs"]
pub mod http1;
#[path = "../../agent/src/gateway/link.rs"]
pub mod link;
#[path = "../../agent/src/gateway/mirror.rs"]
pub mod mirror;
#[path = "../../agent/src/gateway/player.rs"]
mod player;
#[path = "../../agent/src/gateway/room.rs"]
pub mod room;
#[path = "../../agent/src/gateway/sock.rs"]
pub mod sock;
#[path = "../../agent/src/gateway/steer.rs"]
pub mod steer;

#[path = "../../agent/src/gateway/http2/wire.rs"]
mod wire;

/// Private modules of `http1`, mounted once more beside what they refer to.
pub mod http1_private;

/// How an upstream greets of which `seen` was read before, and what h2 then reads of it; `None` once it ended or failed.
pub fn greeting<T: tokio::io::AsyncRead + Unpin>(
    stream: T,
    seen: Vec<u8>,
) -> (impl tokio::io::AsyncRead + Unpin, impl FnMut() -> Option<(Option<[Option<u32>; 3]>, Option<Vec<u8>>)>) {
    let (greeted, mut greeting_rx) = wire::Greeted::new(stream, seen);
    let told = move || match greeting_rx.try_recv().ok()? {
        wire::Greeting::Http2(said) => {
            Some((Some([said.max_concurrent_streams, said.max_header_list_size, Some(said.extended_connect.into())]), None))
        }
        wire::Greeting::Other { seen, .. } => Some((None, Some(seen))),
        wire::Greeting::Failed(_) => Some((None, None)),
    };
    (greeted, told)
}
