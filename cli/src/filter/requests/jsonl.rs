//! One request a line, as JSON:
//!
//! ```json
//! {"method": "POST", "path": "/orders", "headers": {"x-user": "me"}, "body": "{}", "expect": "steal"}
//! ```
//!
//! All members may be absent. `headers` may also be a list of `[name, value]`, where a name comes twice. `expect` is a verdict or
//! `{"verdict", "status", "path", "request_headers", "response_headers"}`; `response` is `{"status", "headers", "body"}`.

use mirrord_filters::Version;
use serde::Deserialize;

use super::{Expected, Recorded, Response, VERDICT_HELP, Wrong, is_token, verdict};

const HELP: &str = r#"each line is an object such as {"method": "GET", "path": "/", "headers": {"x-user": "me"}, "expect": "steal"}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: Option<String>,
    method: Option<String>,
    path: Option<String>,
    version: Option<String>,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    body: String,
    client: Option<std::net::SocketAddr>,
    destination: Option<std::net::SocketAddr>,
    response: Option<Answer>,
    expect: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    status: u16,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    body: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Headers {
    Map(std::collections::BTreeMap<String, String>),
    List(Vec<(String, String)>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expect {
    Verdict(String),
    All(Whole),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    verdict: Option<String>,
    status: Option<u16>,
    path: Option<String>,
    #[serde(default)]
    request_headers: Headers,
    #[serde(default)]
    response_headers: Headers,
}

impl Default for Headers {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Headers {
    fn list(self) -> Vec<(String, String)> {
        match self {
            Self::Map(map) => map.into_iter().collect(),
            Self::List(list) => list,
        }
    }
}

pub fn parse(text: &str) -> Result<Vec<Recorded>, Wrong> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| one(format!("line {}", index + 1), line)).collect()
}

fn one(place: String, line: &str) -> Result<Recorded, Wrong> {
    let wrong = |problem: String, help| Wrong { place: place.clone(), problem, help };
    let line: Line = serde_json::from_str(line).map_err(|error| wrong(format!("it is not a request ({error})"), HELP))?;
    let new = Recorded::new(place.clone());
    let version = match line.version.as_deref() {
        None | Some("HTTP/1.1") => Version::Http11,
        Some("HTTP/1.0") => Version::Http10,
        Some("HTTP/2") => Version::Http2,
        Some(other) => return Err(wrong(format!("`{other}` is no version of HTTP"), "write HTTP/1.0, HTTP/1.1 or HTTP/2")),
    };
    let expected = match line.expect {
        None => Expected::default(),
        Some(Expect::Verdict(verdict)) => Expected { verdict: Some(verdict), ..Expected::default() },
        Some(Expect::All(Whole { verdict, status, path, request_headers, response_headers })) => {
            Expected { verdict, status, path, request_headers: request_headers.list(), response_headers: response_headers.list() }
        }
    };
    if let Some(text) = &expected.verdict {
        verdict(text).map_err(|problem| wrong(problem, VERDICT_HELP))?;
    }
    let headers = line.headers.list();
    if let Some((name, _)) = headers.iter().find(|(name, value)| !is_token(name) || value.contains(['\r', '\n'])) {
        return Err(wrong(format!("`{name}` is no header"), HELP));
    }
    let method = line.method.unwrap_or(new.method);
    if !is_token(&method) {
        return Err(wrong(format!("`{method}` is no method"), HELP));
    }
    Ok(Recorded {
        place,
        name: line.name,
        method,
        path: line.path.unwrap_or(new.path),
        headers,
        body: line.body.into_bytes(),
        version,
        client: line.client.unwrap_or(new.client),
        destination: line.destination.unwrap_or(new.destination),
        response: line.response.map(|answer| Response { status: answer.status, headers: answer.headers.list(), body: answer.body.into() }),
        expected,
        lacks: None,
    })
}
