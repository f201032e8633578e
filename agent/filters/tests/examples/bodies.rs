//! Filters that look at bodies or at connections, or that hold and break off requests.

use std::time::Duration;

use mirrord_filters::{Chain, ConnectionParts, Followers, Outcome, RequestParts, ResponseParts, Side, Step, Verdict};

use crate::common::{fields, request};
use crate::load;

fn chain(name: &'static str, config: &str) -> Chain {
    Chain::new(vec![load(name, config).unwrap()])
}

fn decided(step: Step) -> Outcome {
    match step {
        Step::Decided(outcome) => {
            assert_eq!(outcome.faults, []);
            outcome
        }
        step => panic!("{step:?}"),
    }
}

#[test]
fn graphql_decides_by_the_body() {
    let mut chain = chain("graphql", r#"{"operations": ["AddToCart"]}"#);
    let headers = fields(&[("content-type", "application/json")]);
    let post = RequestParts { end: false, ..request("POST", "/graphql", &headers) };
    for (body, end, expected) in [
        (r#"{"query": "mutation AddToCart { add { count } }"}"#, true, Verdict::Steal),
        (r#"{"query": "query Cart { AddToCart }"}"#, true, Verdict::Pass),
        ("", true, Verdict::Pass),
        // Longer than it wants to see.
        (r#"{"query": "mutation AddToCart { add { count } }"}"#, false, Verdict::Pass),
    ] {
        let Step::NeedsBody(pending) = chain.on_request(&post) else { panic!("it decides without the body") };
        assert_eq!(pending.window(), 256 << 10);
        let outcome = decided(chain.on_request_body(pending, &post, body.as_bytes(), end));
        assert_eq!((outcome.verdict, outcome.followers.is_none()), (expected, true), "{body}");
    }
    let get = request("GET", "/graphql?query=mutation+AddToCart%7Ba%7D", &[]);
    assert_eq!(decided(chain.on_request(&get)).verdict, Verdict::Steal);
    assert_eq!(decided(chain.on_request(&request("GET", "/", &[]))).verdict, Verdict::Pass);
}

#[test]
fn fault_delays_and_breaks_off_about_so_many() {
    let mut chain = chain("fault", r#"{"header": "x-user", "value": "me", "percent": 50, "delay_ms": 250, "then": "abort"}"#);
    let mine = fields(&[("x-user", "me")]);
    let mut broken = 0;
    for _ in 0..400 {
        let outcome = decided(chain.on_request(&request("GET", "/", &mine)));
        match outcome.verdict {
            Verdict::Abort => broken += 1,
            Verdict::Pass => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(outcome.delay.is_some(), outcome.verdict == Verdict::Abort);
        assert!(outcome.delay.is_none_or(|delay| delay == Duration::from_millis(250)));
        let others = decided(chain.on_request(&request("GET", "/", &[])));
        assert_eq!((others.verdict, others.delay), (Verdict::Pass, None));
    }
    assert!((120..280).contains(&broken), "{broken}");
}

/// What comes out of a body that goes through in such pieces.
fn through(chain: &mut Chain, followers: &mut Followers, side: Side, pieces: &[&str]) -> String {
    let mut out = String::new();
    for (at, piece) in pieces.iter().enumerate() {
        let decision = chain.on_body(followers, side, piece.as_bytes(), at + 1 == pieces.len());
        assert_eq!((decision.abort, decision.faults), (false, vec![]));
        out.push_str(&decision.replaced.map_or_else(|| (*piece).to_owned(), |bytes| String::from_utf8(bytes).unwrap()));
    }
    out
}

#[test]
fn redact_blots_out_secrets_of_interleaved_exchanges() {
    let config = r#"{"header": "x-user", "value": "me", "fields": ["password"], "responses": true}"#;
    let mut chain = chain("redact", config);
    let headers = fields(&[("x-user", "me"), ("authorization", "Basic x"), ("content-type", "application/json")]);
    let post = RequestParts { end: false, ..request("POST", "/login", &headers) };
    let mut begin = || {
        let outcome = decided(chain.on_request(&post));
        let removed: Vec<&[u8]> = outcome.request_edits.iter().map(mirrord_filters::Edit::name).collect();
        assert_eq!((outcome.verdict, removed), (Verdict::Steal, vec![&b"authorization"[..], b"cookie", b"accept-encoding"]));
        outcome.followers.unwrap()
    };
    let (mut one, mut two) = (begin(), begin());
    assert_eq!((one.window(Side::Request), one.want_response()), (Some(64 << 10), true));
    // Cut within the name and within the secret, with the other exchange in between.
    assert_eq!(
        through(&mut chain, &mut one, Side::Request, &[r#"{"user": "me", "pass"#, r#"word": "sec"#, r#"ret"}"#]),
        r#"{"user": "me", "password": "***"}"#
    );
    assert_eq!(
        through(&mut chain, &mut two, Side::Request, &[r#"{"password": [1, {"a": "]"}], "x": 1}"#]),
        r#"{"password": "***", "x": 1}"#
    );
    let json = fields(&[("content-type", "application/json")]);
    let decision = chain.on_response(&mut one, &ResponseParts { status: 200, headers: &json });
    assert_eq!((decision.replace, decision.faults), (None, vec![]));
    assert_eq!(one.window(Side::Response), Some(64 << 10));
    assert_eq!(through(&mut chain, &mut one, Side::Response, &[r#"{"passw"#, r#"ord": null}"#]), r#"{"password": "***"}"#);
    let html = fields(&[("content-type", "text/html")]);
    let decision = chain.on_response(&mut two, &ResponseParts { status: 200, headers: &html });
    assert_eq!(decision.replace.map(|answer| answer.status), Some(502));
    assert_eq!(chain.on_end(*one), []);
    assert_eq!(chain.on_end(*two), []);
}

#[test]
fn redact_goes_through_a_large_body_in_windows() {
    let mut chain = chain("redact", r#"{"header": "x-user", "value": "me", "fields": ["password"]}"#);
    let headers = fields(&[("x-user", "me"), ("content-type", "application/json")]);
    let outcome = decided(chain.on_request(&RequestParts { end: false, ..request("POST", "/", &headers) }));
    let mut followers = outcome.followers.unwrap();
    let row = r#"{"user": "somebody", "password": "secret, and a long one"},"#;
    let body = format!("[{}{{}}]", row.repeat(100_000));
    let mut seen = 0;
    let pieces: Vec<&str> = body.as_bytes().chunks(64 << 10).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let decision = chain.on_body(&mut followers, Side::Request, piece.as_bytes(), at + 1 == pieces.len());
        assert_eq!(decision.faults, [], "piece {at}");
        let replaced = String::from_utf8(decision.replaced.unwrap()).unwrap();
        assert!(!replaced.contains("secret"));
        seen += replaced.matches("***").count();
    }
    // Some lie across two pieces.
    assert!((99_000..=100_000).contains(&seen), "{seen}");
}

#[test]
fn sni_route_takes_connections_by_name() {
    let mut chain = chain("sni-route", r#"{"names": ["*.dev.example"], "alpn": "h2"}"#);
    assert!(chain.wants_connections());
    let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
    for (sni, alpn, expected) in [
        (Some(&b"Me.dev.example"[..]), &alpn[..], Verdict::Steal),
        (Some(b"me.dev.example"), &alpn[1..], Verdict::Pass),
        (Some(b"me.example"), &alpn[..], Verdict::Pass),
        (Some(b"\xff.dev.example"), &alpn[..], Verdict::Pass),
        (None, &[][..], Verdict::Pass),
    ] {
        let request = request("GET", "/", &[]);
        let parts = ConnectionParts { client: request.client, destination: request.destination, sni, alpn, first_bytes: b"\x16\x03\x01" };
        let decision = chain.on_connection(&parts);
        assert_eq!((decision.verdict, decision.faults), (expected, vec![]), "{sni:?}");
    }
}
