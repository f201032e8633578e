//! Conditions in the words of the config file, on requests.

use std::net::SocketAddr;

use super::*;
use crate::{Field, Version};

struct Asking {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static [u8])>,
    body: &'static [u8],
}

fn get(path: &'static str) -> Asking {
    Asking { method: "GET", path, headers: Vec::new(), body: b"" }
}

impl Asking {
    fn header(mut self, name: &'static str, value: &'static (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name, value.as_ref()));
        self
    }

    fn post(mut self, body: &'static str) -> Self {
        (self.method, self.body) = ("POST", body.as_bytes());
        self
    }

    fn on_head(&self, condition: &Condition) -> Met {
        self.with_parts(|request| condition.on_head(request, &Scratch::default()))
    }

    fn with_parts<T>(&self, ask: impl FnOnce(&RequestParts<'_>) -> T) -> T {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| Field { name: name.as_bytes(), value }).collect();
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        ask(&RequestParts {
            method: self.method.as_bytes(),
            path: self.path.as_bytes(),
            headers: &headers,
            client: address,
            destination: address,
            version: Version::Http11,
            end: self.body.is_empty(),
        })
    }

    /// As a chain asks: the head first, then the body if it is needed.
    fn meets(&self, condition: &str) -> bool {
        let condition = Condition::parse(condition).unwrap();
        let scratch = Scratch::default();
        self.with_parts(|request| match condition.on_head(request, &scratch) {
            Met::NeedsBody => condition.on_body(request, Some(self.body), &scratch),
            met => met == Met::Yes,
        })
    }
}

fn wrong(condition: &str) -> DeclaredError {
    Condition::parse(condition).err().unwrap_or_else(|| panic!("{condition} is taken"))
}

#[test]
fn headers_are_matched_one_by_one_as_name_and_value() {
    let mine = r#"{"header_filter": "^x-user: me$"}"#;
    assert!(get("/").header("X-User", "ME").meets(mine));
    assert!(get("/").header("x-user", "you").header("x-user", "me").meets(mine));
    assert!(!get("/").header("x-user", "me too").meets(mine));
    assert!(!get("/").header("x", "x-user: me").meets(mine));
    assert!(get("/").header("x", "x-user: me").meets(r#"{"header_filter": "x-user: me"}"#));
    // A value that is no visible ASCII is skipped.
    assert!(!get("/").header("x-user", b"\xc3\xa9").meets(r#"{"header_filter": "^x-user"}"#));
    assert!(get("/").header("b", "1").meets(r#"{"header_filter": "^a: 1|^b: 1"}"#));
    assert!(!get("/").meets(r#"{"header_filter": "^user-agent: (?!kube-probe)"}"#));
    assert!(get("/").header("user-agent", "curl").meets(r#"{"header_filter": "^user-agent: (?!kube-probe)"}"#));
}

#[test]
fn paths_are_tried_without_and_then_with_the_query() {
    assert!(get("/orders?debug=1").meets(r#"{"path_filter": "^/orders$"}"#));
    assert!(get("/orders?debug=1").meets(r#"{"path_filter": "\\?debug=1"}"#));
    assert!(get("http://shop/Orders").meets(r#"{"path_filter": "^/orders$"}"#));
    assert!(!get("http://orders/x").meets(r#"{"path_filter": "orders"}"#));
    assert!(get("http://orders").meets(r#"{"path_filter": "^/$"}"#));
    assert!(!get("/health").meets(r#"{"path_filter": "^(?!/health)"}"#));
}

#[test]
fn a_method_is_any_token_in_any_case() {
    assert!(get("/").meets(r#"{"method_filter": "get"}"#) && !get("/").post("{}").meets(r#"{"method_filter": "get"}"#));
    assert!(wrong(r#"{"method_filter": "GET|POST ME"}"#).problem.contains("no method"));
}

#[test]
fn bodies_are_queried() {
    let priced = r#"{"body_filter": {"body": "json", "query": "$.items[*].price", "matches": "^[0-9]{4,}$"}}"#;
    assert!(get("/").post(r#"{"items": [{"price": 12}, {"price": 1234}]}"#).meets(priced));
    assert!(!get("/").post(r#"{"items": [{"price": 12}, {"price": 12.34}]}"#).meets(priced));
    assert!(get("/").post(r#"{"items": [{"price": "1234"}]}"#).meets(priced));
    for body in ["", "{", "1234", r#"{"items": 1}"#] {
        assert!(!get("/").post(body).meets(priced), "{body}");
    }
    let whole = r#"{"body_filter": {"body": "json", "query": "$.a", "matches": "^\\{\"b\":1\\}$"}}"#;
    assert!(get("/").post(r#"{ "a": { "b": 1 } }"#).meets(whole));
    let typed = r#"{"body_filter": {"body": "json", "query": "$[?typeof(@) == 'array']", "matches": "."}}"#;
    assert!(get("/").post(r#"{"a": [1]}"#).meets(typed) && !get("/").post(r#"{"a": {"b": 1}}"#).meets(typed));
    // Case counts in bodies.
    let user = r#"{"body_filter": {"body": "json", "query": "$.user", "matches": "^me$"}}"#;
    assert!(get("/").post(r#"{"user": "me"}"#).meets(user) && !get("/").post(r#"{"user": "ME"}"#).meets(user));
}

#[test]
fn the_body_is_asked_for_only_where_the_head_does_not_settle_it() {
    let body = r#"{"body": "json", "query": "$.user", "matches": "^me$"}"#;
    let condition = |text: String| Condition::parse(&text).unwrap();
    let either = condition(format!(r#"{{"any_of": [{body}, {{"header": "^x-user: me$"}}]}}"#));
    let both = condition(format!(r#"{{"all_of": [{body}, {{"path": "^/orders"}}]}}"#));
    let neither = condition(format!(r#"{{"not": {body}}}"#));
    let post = |path| get(path).post(r#"{"user": "me"}"#);
    assert_eq!(post("/").header("x-user", "me").on_head(&either), Met::Yes);
    assert_eq!(post("/").on_head(&either), Met::NeedsBody);
    assert_eq!(post("/").on_head(&both), Met::No);
    assert_eq!(post("/orders").on_head(&both), Met::NeedsBody);
    assert_eq!(post("/").on_head(&neither), Met::NeedsBody);
    // No body comes: there is nothing to wait for.
    assert_eq!(get("/orders").on_head(&both), Met::No);
    assert_eq!(get("/").on_head(&neither), Met::Yes);
    let path = condition(r#"{"path_filter": "^/$"}"#.into());
    assert_eq!((post("/").on_head(&path), post("/orders").on_head(&path)), (Met::Yes, Met::No));
    // One that is too long meets no condition on it.
    post("/").with_parts(|request| {
        assert!(!either.on_body(request, None, &Scratch::default()) && neither.on_body(request, None, &Scratch::default()));
    });
}

#[test]
fn conditions_nest() {
    let nested = r#"{"all_of": [{"not": {"any_of": [{"path": "^/health"}, {"header": "^user-agent: kube"}]}},
        {"any_of": [{"method": "GET"}, {"all_of": [{"method": "POST"}, {"path": "^/orders"}]}]}]}"#;
    assert!(get("/x").meets(nested) && get("/orders").post("{}").meets(nested));
    assert!(!get("/health").meets(nested) && !get("/x").post("{}").meets(nested));
    assert!(!get("/x").header("User-Agent", "kube-probe/1").meets(nested));
}

#[test]
fn what_is_wrong_says_where_and_what_to_do() {
    let cases = [
        (r#"{"all_of": [{"path": "a"}, {"path": ""}]}"#, "all_of[1].path", "empty"),
        (r#"{"all_of": []}"#, "all_of", "empty"),
        (r#"{"any_of": [{"not": {"header": "("}}]}"#, "any_of[0].not.header", "no regular expression"),
        (r#"{"header_filter": "a", "path_filter": "b"}"#, "", "side by side"),
        (r#"{"any_of": [{"header": "a", "path": "b"}]}"#, "any_of[0]", "side by side"),
        (r#"{}"#, "", "no condition"),
        (r#"{"header": "a"}"#, "", "no kind of filter"),
        (r#"{"all_of": [{"header_filter": "a"}]}"#, "all_of[0]", "no kind of condition"),
        (r#"{"header_filter_jq": "."}"#, "", "not supported yet"),
        (r#"{"header_filter": ["a"]}"#, "header_filter", "no text"),
        (r#"{"body_filter": {"body": "json", "query": "$.["}}"#, "body_filter", "`matches` is missing"),
        (r#"{"body_filter": {"body": "json", "query": "$.[", "matches": "a"}}"#, "body_filter.query", "no JSONPath"),
        (r#"{"body_filter": {"body": "xml", "query": "$", "matches": "a"}}"#, "body_filter.body", "no kind of body"),
        (r#"{"body_filter": {"body": "json", "query": "$..a..b", "matches": "a"}}"#, "body_filter.query", "more than one"),
        (r#"{"body_filter": {"body": "json", "query": "$[?@.a == $.b]", "matches": "a"}}"#, "body_filter.query", "whole body"),
        (r#"{"body_filter": {"body": "json", "query": "$[?match(@, 'a')]", "matches": "a"}}"#, "body_filter.query", "not supported"),
        ("[]", "", "is an object"),
        ("{", "", "not JSON"),
    ];
    for (condition, at, problem) in cases {
        let error = wrong(condition);
        assert_eq!(error.at, at, "{condition}");
        assert!(error.problem.contains(problem) && !error.help.is_empty(), "{condition}: {error}");
    }
    assert!(wrong(r#"{"header": "a"}"#).help.contains("header_filter"));
    assert!(wrong(r#"{"method_filter": "GET", "header_filter": "^a: b"}"#).help.contains(r#"{"all_of": [{"header""#));
}

#[test]
fn what_is_read_is_bounded() {
    let deep = format!("{}{}{}", r#"{"not":"#.repeat(40), r#"{"path":"a"}"#, "}".repeat(40));
    assert!(wrong(&deep).problem.contains("deeper"));
    let many = format!(r#"{{"any_of": [{}]}}"#, vec![r#"{"path":"a"}"#; 300].join(","));
    assert!(wrong(&many).problem.contains("more than 256"));
}

#[test]
fn no_body_makes_a_query_slow() {
    // The worst that a body of the allowed length can do: many values, deep.
    let chains = "[".repeat(30) + &"]".repeat(30);
    let body = format!("[{}]", vec![chains; (BODY - 2) / 61].join(","));
    let condition = Condition::parse(r#"{"body_filter": {"body": "json", "query": "$..[*]", "matches": "x"}}"#).unwrap();
    let started = std::time::Instant::now();
    get("/").post("x").with_parts(|request| assert!(!condition.on_body(request, Some(body.as_bytes()), &Scratch::default())));
    assert!(started.elapsed().as_millis() < 2000, "{:?}", started.elapsed());
}
