use super::*;
use mirrord_filter_sdk::testing::{self, Edit, Watches};

fn mine() -> testing::Request {
    testing::Request::new("POST", "/login")
        .header("X-User", "me")
        .header("Authorization", "Basic x")
        .header("Content-Type", "application/json")
}

fn redact(more: &str) -> Redact {
    testing::configure(format!(r#"{{"header": "x-user", "value": "me", "fields": ["password", "card", "pin é"]{more}}}"#)).unwrap()
}

/// A body through a new exchange, in pieces of every size.
fn through(body: &str) -> String {
    let mut results: Vec<Vec<u8>> = (1..=body.len().max(1))
        .map(|window| {
            let mut filter = redact("");
            let token = mine().run(&mut filter).token.unwrap();
            testing::request_body(&mut filter, token, window, body).bytes
        })
        .collect();
    let first = results.remove(0);
    assert!(results.iter().all(|result| *result == first), "{body}: {results:?}");
    String::from_utf8(first).unwrap()
}

#[test]
fn members_are_blotted_out_whatever_they_hold_and_wherever_the_pieces_end() {
    for (body, seen) in [
        (r#"{"user": "me", "password": "secret", "card": {"number": 1}}"#, r#"{"user": "me", "password": "***", "card": "***"}"#),
        (r#"{"password":"a\"b\\","x":"y"}"#, r#"{"password":"***","x":"y"}"#),
        (r#"{"password" : 12.5e3 , "x": 1}"#, r#"{"password" : "***" , "x": 1}"#),
        (r#"{"card":[{"a":"}]\""},[1,2]],"password":null}"#, r#"{"card":"***","password":"***"}"#),
        (r#"[{"a":{"password":"x"}},{"password":true}]"#, r#"[{"a":{"password":"***"}},{"password":"***"}]"#),
        (r#"{"\u0070assword":"x","pin \u00e9":"1","pin é":"2"}"#, r#"{"\u0070assword":"***","pin \u00e9":"***","pin é":"***"}"#),
        // A value that is spelt like a name, and names that only look like one.
        (r#"{"a":"password","b":"c"}"#, r#"{"a":"password","b":"c"}"#),
        (r#"["password",":","x"]"#, r#"["password",":","x"]"#),
        (r#"{"Password":"x","password2":"y","xpassword":"z"}"#, r#"{"Password":"x","password2":"y","xpassword":"z"}"#),
        ("", ""),
        ("not json at all: password=x", "not json at all: password=x"),
        // What is cut, or is no JSON, shows nothing behind the name.
        (r#"{"password": "sec"#, r#"{"password": "***""#),
        (r#"{"password": secret}"#, r#"{"password": "***"}"#),
        (r#"{"\q": "x"}"#, r#"{"\q": "***"}"#),
    ] {
        assert_eq!(through(body), seen, "{body}");
    }
}

#[test]
fn what_is_stolen_goes_without_its_secret_headers() {
    let mut filter = redact("");
    let outcome = mine().header("cookie", "a=b").run(&mut filter);
    assert_eq!(outcome.verdict, Verdict::Steal);
    assert_eq!(outcome.request_edits, [Edit::remove("authorization"), Edit::remove("cookie")]);
    assert_eq!(outcome.watches, Watches { request_body: Some(WINDOW), end: true, ..Watches::default() });
    let others = testing::Request::get("/").header("x-user", "you").header("authorization", "Basic x").run(&mut filter);
    assert_eq!((others.verdict, others.request_edits), (Verdict::Pass, vec![]));
}

#[test]
fn what_cannot_be_read_stays_with_the_pod() {
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "application/x-www-form-urlencoded")] {
        let request = testing::Request::new("POST", "/login").header("x-user", "me").header(name, value);
        let outcome = request.run(&mut redact(""));
        assert_eq!((outcome.verdict, outcome.request_edits), (Verdict::Pass, vec![]), "{name}");
    }
    // Without a type there should be no body; if there is one, it does not leave.
    let mut filter = redact("");
    let token = testing::Request::get("/").header("x-user", "me").run(&mut filter).token.unwrap();
    assert_eq!(testing::request_body(&mut filter, token, 4, "password=x").bytes, b"");
}

#[test]
fn responses_too_if_asked_for() {
    let mut filter = redact(r#", "responses": true"#);
    let outcome = mine().run(&mut filter);
    assert!(outcome.watches.response && outcome.request_edits.contains(&Edit::remove("accept-encoding")));
    let token = outcome.token.unwrap();
    let response =
        testing::Response::new(200).header("content-type", "application/problem+json; charset=utf-8").outcome(&mut filter, token);
    assert_eq!((response.body, response.replaced), (Some(WINDOW), None));
    assert_eq!(testing::response_body(&mut filter, token, 3, r#"{"card": 12345}"#).bytes, br#"{"card": "***"}"#);
    let html = testing::Response::new(200).header("content-type", "text/html").outcome(&mut filter, token);
    assert_eq!(html.replaced.map(|reply| reply.status), Some(502));
}

#[test]
fn an_exchange_that_nobody_knows_is_broken_off_and_a_known_one_ends() {
    let mut filter = redact("");
    let token = mine().run(&mut filter).token.unwrap();
    assert!(testing::request_body(&mut filter, token + 1, 4, "{}").aborted);
    filter.on_end(token);
    assert!(filter.exchanges.is_empty());
    assert!(testing::request_body(&mut filter, token, 4, "{}").aborted);
}

#[test]
fn a_bad_config_is_refused() {
    for (config, says) in [
        (r#"{"fields": ["a"]}"#, "lacks \"header\""),
        (r#"{"header": "a", "value": "b", "remove": ["content-length"]}"#, "frames the message"),
        (r#"{"header": "a", "value": "b", "responses": 1}"#, "neither true nor false"),
        (r#"{"header": "a", "value": "b", "field": "c"}"#, "unknown field \"field\""),
        (&format!(r#"{{"header": "a", "value": "b", "fields": "{}"}}"#, "x".repeat(129)), "over 128 bytes"),
    ] {
        let why = testing::configure::<Redact>(config).err().unwrap_or_default();
        assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
    }
}
