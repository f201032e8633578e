//! The look at the first frame of an upstream that should speak HTTP/2.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::{choices, cut, memory::Stream};
use crate::gateway;

/// What is read is the same however it is cut, and no byte is lost on the way to h2.
pub fn greeting_of(data: &[u8], seed: u8) -> (Option<[Option<u32>; 3]>, Vec<u8>) {
    let stream = Stream::default();
    // A part may have been read before.
    let (seen, rest) = data.split_at(usize::from(seed % 16).min(data.len()));
    cut(rest, seed).into_iter().for_each(|piece| stream.say(piece));
    stream.end();
    let (mut greeted, mut told) = gateway::greeting(stream.clone(), seen.to_vec());
    let mut cx = Context::from_waker(Waker::noop());
    let mut passed = Vec::new();
    loop {
        let mut buffer = [0; 50];
        let mut buffer = ReadBuf::new(&mut buffer);
        match Pin::new(&mut greeted).poll_read(&mut cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => passed.extend_from_slice(buffer.filled()),
            Poll::Ready(_) => break,
            Poll::Pending => panic!("waits for a stream that has ended"),
        }
    }
    let (settings, seen) = told().expect("a greeting is told");
    // What is no HTTP/2 is given back with the stream.
    let mut all = seen.unwrap_or_default();
    all.extend(passed);
    all.extend(stream.unread());
    (settings, all)
}

pub fn greeting(data: &[u8]) {
    let ([seed], data) = choices(data);
    let whole = greeting_of(data, 0);
    assert_eq!(whole.1, data, "bytes were lost");
    for seed in [1, seed.max(2)] {
        assert_eq!(greeting_of(data, seed), whole, "cut by {seed}");
    }
    if whole.0.is_some() {
        assert!(data.len() >= 9 && data[3] == 4 && data[4] & 1 == 0);
    }
}

/// A TLS client's first message: where it ends does not depend on what has come of what follows, and nothing is told before.
pub fn client_hello(data: &[u8]) {
    use gateway::hello::{Start, read, start};
    let whole = (0..=data.len()).map(|end| start(&data[..end])).collect::<Vec<_>>();
    let first = whole.iter().position(|answer| *answer != Start::Partial).unwrap_or(whole.len());
    for (end, answer) in whole.iter().enumerate() {
        let expected = whole.get(first).filter(|_| end >= first).copied().unwrap_or(Start::Partial);
        assert_eq!(*answer, expected, "after {end} bytes");
    }
    let mut joined = Vec::new();
    let hello = read(data, &mut joined);
    if let Some(hello) = hello {
        assert_eq!(whole.last(), Some(&Start::Complete));
        assert!(hello.sni.is_none_or(|name| name.len() <= 255 && name.iter().all(u8::is_ascii_graphic)));
        assert!(hello.alpn.len() <= 16 && hello.alpn.iter().all(|name| !name.is_empty()));
    }
}
