//! HTTP/2 beyond gRPC: what a flood of streams leaves behind, and what an operator sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{net::TcpStream, time::Duration};

use mirrord_tests::{
    Exec, Pod, Program, eventually,
    h2raw::{END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, frame, get_head, opening, push},
    http2,
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
    let peak = agent.peak_memory();
    println!("peak {:.1} MiB, then {:.1} MiB", grown(peak), grown(agent.memory()));
    // But for code that has run for the first time, and pages of which a part is in use.
    let bound = before + (2 * MIB).max(peak.saturating_sub(before) / 10);
    eventually("its memory is given back", || (agent.memory() < bound).then_some(()));
    println!("in the end {:.1} MiB", grown(agent.memory()));
    assert_eq!(pod.get("/").with(ME).send().who(), "program one");
}

#[test]
fn how_long_upstreams_take_to_answer_is_measured_over_http2_too() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::node_http2("one", &[WEB_H2]));
    let socket = format!("/run/mirrord/agent-{}.sock", pod.inside.inode);
    let measured = |upstream: &str| -> u64 {
        let metrics = pod.curl_inside(&format!("-s --http2-prior-knowledge --unix-socket {socket} http://agent/v1/metrics"));
        let count = format!("mirrord_upstream_duration_seconds_count{{upstream=\"{upstream}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&count)).unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    };
    assert_eq!((measured("pod"), measured("session")), (0, 0));
    for (mine, who) in [(false, "pod"), (true, "program one")] {
        let request = |number| http2::Request { method: "GET", path: format!("/{number}"), mine, body: Vec::new() };
        let answers = http2::exchange(&pod.clients, pod.address(WEB_H2), (0..64).map(request).collect());
        answers.into_iter().for_each(|answer| assert!(answer.unwrap().text.starts_with(who)));
    }
    // One of sixteen, on whichever worker each connection came.
    for upstream in ["pod", "session"] {
        eventually(upstream, || (4..=5).contains(&measured(upstream)).then_some(()));
    }
    session.end();
    pod.assert_pristine();
}
