//! A hostile end of a stream that outlives its carriers: whatever it says on them, the local socket gets what was sent in whole
//! frames, in order, and each carrier goes on where the peer says that it stopped.

use std::{io, rc::Rc, time::Duration};

use mirrord_tunnel::lasting::Streams;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::Builder,
    task::LocalSet,
    time::{sleep, timeout},
};

use super::choices;

/// What the local socket says.
const SAID: &[u8] = b"what the agent has to say";
const HELLO: usize = 32;
const PIPE: usize = 64 << 10;

/// Input: carriers, each with its length before it, in one byte of which each unit is eight bytes.
pub fn carrier(data: &[u8]) {
    let Ok(runtime) = Builder::new_current_thread().enable_time().start_paused(true).build() else { return };
    runtime.block_on(LocalSet::new().run_until(all(data)));
}

async fn all(data: &[u8]) {
    let streams = Streams::<DuplexStream>::default();
    let (local, mut far) = duplex(PIPE);
    far.write_all(SAID).await.expect("there is room");
    let mut local = Some(tokio::io::split(local));
    let (mut sent, mut came) = (Vec::new(), Vec::new());
    let mut rest = data;
    while !rest.is_empty() {
        let ([units], after) = choices::<1>(rest);
        let (said, after) = after.split_at((usize::from(units) * 8).min(after.len()));
        rest = after;
        let (mut ours, theirs) = duplex(PIPE);
        let (streams, socket) = (streams.clone(), local.take());
        let (returned, mut unused) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            let mut socket = socket;
            let opened =
                streams.take(theirs, Duration::from_secs(5), Rc::default(), || socket.take().ok_or(io::ErrorKind::NotFound.into())).await;
            drop((opened, returned.send(socket)));
        });
        ours.write_all(said).await.expect("there is room");
        ours.shutdown().await.expect("a pipe is closed");
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).await.expect("the carrier ends");
        sleep(Duration::from_millis(1)).await;
        // A carrier that opened no stream leaves the socket to the next one.
        local = unused.try_recv().ok().flatten();
        if let Some((count, frames)) = heard.split_first_chunk::<8>()
            && u64::from_be_bytes(*count) != u64::MAX
        {
            assert_eq!(u64::from_be_bytes(*count), came.len() as u64, "what has come is told");
            sent.extend(payload(&said[HELLO..]));
            let from = u64::from_be_bytes(said[24..HELLO].try_into().expect("8 bytes"));
            let data = payload(frames).concat();
            let from = usize::try_from(from).expect("an offset that was accepted").min(SAID.len());
            assert!(SAID[from..].starts_with(&data), "{from}: {}", data.escape_ascii());
        }
        let mut buffer = vec![0; PIPE];
        while let Ok(Ok(read @ 1..)) = timeout(Duration::ZERO, far.read(&mut buffer)).await {
            came.extend_from_slice(&buffer[..read]);
        }
        let whole: Vec<u8> = sent.concat();
        assert!(whole.starts_with(&came), "{} came of {}", came.escape_ascii(), whole.escape_ascii());
    }
}

/// What the whole frames carry, as far as they are frames.
fn payload(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(([kind, number @ ..], after)) = frames.split_first_chunk::<9>() {
        let number = u64::from_be_bytes(*number);
        frames = match kind {
            0 if (1..=after.len() as u64).contains(&number) => {
                let (data, after) = after.split_at(number as usize);
                found.push(data.to_vec());
                after
            }
            1 | 2 => after,
            _ => break,
        };
    }
    found
}
