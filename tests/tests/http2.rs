//! HTTP/2 beyond gRPC: what a flood of streams leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{net::TcpStream, time::Duration};

use mirrord_tests::{
    Exec, Pod, Program, eventually,
    h2raw::{END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, frame, get_head, opening, push},
    pod::{WEB, WEB_H2},
    session::ME,
};

const MIB: u64 = 1 << 20;

#[test]
fn what_a_flood_of_resets_took_is_given_back() {
    let pod = Pod::alone();
    let _session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB, WEB_H2]));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
    let agent = pod.agent();
    let before = agent.memory();
    agent.reset_peak_memory();
    let streams: Vec<u8> = (0..10_000)
        .map(|index| 2 * index + 1)
        .flat_map(|stream| {
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_head());
            [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    let bytes = [opening(), streams, frame(PING, 0, 0, &[7; 8])].concat();
    for _ in 0..4 {
        let stream = pod.clients.run(|| TcpStream::connect(pod.address(WEB_H2)).unwrap());
        push(&stream, &bytes, Duration::from_secs(8));
    }
    let grown = |now: u64| now.saturating_sub(before) as f64 / MIB as f64;
    println!("peak {:.1} MiB, then {:.1} MiB", grown(agent.peak_memory()), grown(agent.memory()));
    eventually("its memory is given back", || (agent.memory() < before + 2 * MIB).then_some(()));
    println!("in the end {:.1} MiB", grown(agent.memory()));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
}
