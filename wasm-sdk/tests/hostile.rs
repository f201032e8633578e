//! Every helper that reads a client's bytes, on bytes that no client should send: the standards' examples with bytes changed,
//! taken out, repeated and put together, by a fixed sequence of random numbers. Nothing may panic, and what comes out keeps
//! its promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

use mirrord_filter_sdk::{abi, baggage, config, cookies, graphql, grpc, json, jwt, percent, query, trace};

const SEEDS: &[&[u8]] = &[
    b"SID=31d4d96e407aad42; lang=\"en-US\"; a=b=c",
    b"/graphql?query=query%20A%20%7B+a+%7D&operationName=B&x=%ff%",
    b"userId=Am%C3%A9lie;p=1,serverNode=DF%2028 , isProduction=false",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"rojo=00f067aa0ba902b7,congo@t=t61rcWkgMzE",
    br#"{"query": "query A($x: [I] = [{a: \"}\"}]) @d { b(c: \"\"\"\\\"\"\"\"\"\") } mutation B { c }", "operationName": "B", "n": [-1.5e3, null, {"\u0061": true}]}"#,
    b"query A { a # }\n } fragment f on X { y(z: \"\\\"{\") } subscription S($a: [Int!]! = [1]) { s }",
    b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODB9.dBjftJeZ4CVP",
    b"\x00\x00\x00\x00\x03abc\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00z",
    b"/google.pubsub.v2.PublisherService/CreateTopic",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = SEEDS[self.below(SEEDS.len())].to_vec();
        for _ in 0..self.below(6) {
            let (at, other) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (at.min(other), at.max(other));
            match self.below(6) {
                0 => drop(bytes.drain(from..to)),
                1 => bytes.extend_from_within(from..to),
                2 => bytes.extend_from_slice(SEEDS[self.below(SEEDS.len())]),
                3 => bytes.insert(at, b"\"\\{}[]:;,=%&?.#\n\0\x80\xff"[self.below(19)]),
                4 => bytes.truncate(at),
                _ => {
                    let any = self.next() as u8;
                    bytes.get_mut(from).into_iter().for_each(|byte| *byte = any);
                }
            }
        }
        bytes
    }
}

#[test]
fn no_bytes_make_a_helper_panic_or_break_its_word() {
    let mut random = Random(1);
    for _ in 0..200_000 {
        let bytes = random.bytes();
        let text = String::from_utf8_lossy(&bytes);

        for (name, value) in cookies::pairs(&bytes) {
            assert!(!name.is_empty() && !value.contains(&b';'));
        }
        assert!(query::path(&bytes).len() <= bytes.len());
        assert!(query::pairs(&bytes).map(|(name, value)| name.len() + value.len()).sum::<usize>() <= bytes.len());
        let operations = graphql::operations(&text).len() + graphql::from_json(&bytes).map_or(0, |all| all.len());
        assert!(operations <= 2 * graphql::OPERATIONS);
        graphql::from_target(&bytes);
        grpc::Call::from_path(&bytes);
        assert!(percent::place(b"", &bytes) < percent::PLACES);

        if let Some(parent) = trace::TraceParent::read(&bytes) {
            let child = parent.child([1; 8]);
            assert_eq!(trace::TraceParent::read(child.to_string().as_bytes()), Some(child));
        }
        if let Some(mut state) = trace::TraceState::read([&*bytes]) {
            state.set("mirrord", "me");
            let written = state.write();
            let again = trace::TraceState::read([written.as_bytes()]).unwrap();
            assert_eq!((again.get("mirrord"), written.len() <= trace::STATE_BYTES), (Some("me"), true));
        }

        let written = baggage::with([&*bytes], "mirrord", &text);
        if let Ok(written) = written {
            assert_eq!(abi::edit_problem(b"baggage", &written), None);
            assert_eq!(baggage::find(&written, "mirrord").unwrap(), text);
            assert!(written.len() <= baggage::BYTES && baggage::members(&written).count() <= baggage::MEMBERS);
        }

        match json::parse(&bytes) {
            Ok(value) => {
                walk(value);
                let mut quoted = String::new();
                json::quote(value.raw(), &mut quoted);
                assert_eq!(json::parse(quoted.as_bytes()).unwrap().as_str().unwrap(), value.raw());
            }
            Err(problem) => assert!(problem.at <= bytes.len()),
        }
        let _ = config::Fields::read(&bytes, "{}").and_then(|fields| fields.no_others());
        if let Ok(token) = jwt::Token::read(&bytes) {
            walk(token.unverified());
            jwt::is_current(token.unverified(), 0.0);
        }

        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let said = grpc::Messages::new(64).window(&bytes, |message| whole.push(message.payload.to_vec()));
        let mut messages = grpc::Messages::new(64);
        let step = 1 + random.below(9);
        let cut = bytes.chunks(step).try_for_each(|piece| messages.window(piece, |message| pieces.push(message.payload.to_vec())));
        assert_eq!((whole, said), (pieces, cut), "in pieces of {step}");
    }
}

fn walk(value: json::Value<'_>) {
    let _ = (value.as_str(), value.as_f64(), value.as_i64(), value.pointer("/n/2/a"));
    value.items().for_each(walk);
    for (name, member) in value.members() {
        assert!(value.get(&name).is_some());
        walk(member);
    }
}
