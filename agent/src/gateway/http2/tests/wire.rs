//! The look at an upstream's first frame, and gathered writes.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::run;
use crate::gateway::http2::wire::{Early, Gather, Greeted, Greeting, PeerSettings};

/// SETTINGS: 100 streams, 64 KiB of header list, extended CONNECT, a window, and something unknown.
const SETTINGS: &[u8] = b"\0\0\x1e\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x06\0\x01\0\0\0\x08\0\0\0\x01\0\x04\0\0\xff\xff\xab\xcd\0\0\0\x05";

#[test]
fn a_greeting_is_read_byte_by_byte_and_nothing_is_lost() {
    run(async {
        let (mut near, far) = duplex(1);
        let (mut greeted, greeting_rx) = Greeted::new(far, SETTINGS[..20].to_vec());
        let sender = tokio::task::spawn_local(async move {
            near.write_all(&SETTINGS[20..]).await.unwrap();
            near.write_all(b"more").await.unwrap();
        });
        let mut got = Vec::new();
        greeted.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [SETTINGS, b"more"].concat());
        sender.await.unwrap();
        let Ok(Greeting::Http2(settings)) = greeting_rx.await else { panic!("no HTTP/2") };
        let expected = PeerSettings { max_concurrent_streams: Some(100), max_header_list_size: Some(65536), extended_connect: true };
        assert_eq!(settings, expected);
    });
}

#[test]
fn what_is_no_settings_frame_is_no_greeting() {
    let ack = b"\0\0\0\x04\x01\0\0\0\0";
    let on_a_stream = b"\0\0\0\x04\0\0\0\0\x01";
    let half_a_setting = b"\0\0\x07\x04\0\0\0\0\0";
    let endless = b"\xff\xff\xfc\x04\0\0\0\0\0";
    let all: [&'static [u8]; 7] = [ack, on_a_stream, half_a_setting, endless, b"HTTP/1.1 400 ", b"\x15\x03\x03\0\x02", b"\0\0"];
    for bytes in all {
        run(async {
            let (mut near, far) = duplex(64);
            let (mut greeted, greeting_rx) = Greeted::new(far, Vec::new());
            near.write_all(bytes).await.unwrap();
            drop(near);
            assert!(greeted.read_u8().await.is_err());
            let Ok(Greeting::Other { seen, .. }) = greeting_rx.await else { panic!("taken for a greeting: {bytes:?}") };
            assert!(bytes.starts_with(&seen) && !seen.is_empty());
        });
    }
}

#[test]
fn gathered_writes_wait_for_the_socket() {
    run(async {
        let (mut near, far) = duplex(100);
        let mut gather = Gather::new(Early::new(far, b"early".to_vec()), None);
        let mut early = [0; 5];
        gather.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");

        gather.write_all(&[1; 1000]).await.unwrap();
        gather.flush().await.unwrap();
        let sender = gather.clone();
        let sending = tokio::task::spawn_local(async move { poll_fn(|cx| sender.send(cx)).await });
        let mut got = [0; 1000];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [1; 1000]);
        sending.await.unwrap().unwrap();
        gather.shutdown().await.unwrap();
        assert_eq!(near.read(&mut got).await.unwrap(), 0);
    });
}
