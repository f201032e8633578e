//! Requests as people write them, and as editors run them:
//!
//! ```http
//! ### Name of the request
//! # expect: steal
//! POST /orders HTTP/1.1
//! host: shop
//!
//! {"item": 1}
//!
//! ### The next one
//! ```
//!
//! Expectations are comments before the request: `expect`, `expect-status`, `expect-path`, `expect-request-header: name: value`,
//! `expect-response-header: name: value` (an empty value: the header is not there). `response: 200` and `response-header: …` say what
//! the pod answers; `client: IP:PORT` who asks.

use mirrord_filters::Version;

use super::{Recorded, Response, VERDICT_HELP, Wrong, is_token, verdict};

const HELP: &str = "a request is METHOD PATH, then headers, an empty line and the body; ### divides requests";

pub fn parse(text: &str) -> Result<Vec<Recorded>, Wrong> {
    let mut requests = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    let mut name = None;
    while lines.peek().is_some() {
        let mut part = Vec::new();
        let mut next = None;
        for (index, line) in lines.by_ref() {
            if let Some(title) = line.strip_prefix("###") {
                next = Some(title.trim().to_owned());
                break;
            }
            part.push((index + 1, line));
        }
        if let Some(request) = one(&part, name.take())? {
            requests.push(request);
        }
        name = next.filter(|title| !title.is_empty());
    }
    Ok(requests)
}

fn wrong(line: usize, problem: impl Into<String>, help: &'static str) -> Wrong {
    Wrong { place: format!("line {line}"), problem: problem.into(), help }
}

/// What stands between two dividers; nothing, if that is comments and blanks.
fn one(lines: &[(usize, &str)], name: Option<String>) -> Result<Option<Recorded>, Wrong> {
    let mut request = Recorded { name, ..Recorded::new(String::new()) };
    let mut lines = lines.iter().copied();
    let first = loop {
        let Some((number, line)) = lines.next() else { return Ok(None) };
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#').or_else(|| line.strip_prefix("//")) {
            directive(number, comment.trim(), &mut request)?;
        } else if !line.is_empty() {
            break (number, line);
        }
    };
    request.place = format!("line {}", first.0);
    start(first.0, first.1, &mut request)?;
    for (number, line) in lines.by_ref() {
        if line.trim().is_empty() {
            break;
        }
        if line.starts_with('#') {
            continue;
        }
        request.headers.push(header(number, line)?);
    }
    let body: Vec<_> = lines.map(|(_, line)| line).collect();
    // The empty lines before the next divider are for the eye.
    request.body = body.join("\n").trim_end_matches('\n').into();
    Ok(Some(request))
}

fn start(number: usize, line: &str, request: &mut Recorded) -> Result<(), Wrong> {
    let mut words = line.split_ascii_whitespace();
    let (method, path, version) = (words.next().unwrap_or_default(), words.next(), words.next());
    let Some(path) = path else { return Err(wrong(number, format!("`{line}` is no beginning of a request"), HELP)) };
    if !is_token(method) {
        return Err(wrong(number, format!("`{method}` is no method"), HELP));
    }
    if !path.starts_with('/') && !path.contains("://") && path != "*" {
        return Err(wrong(number, format!("`{path}` is no path"), "a path begins with /"));
    }
    request.version = match version {
        None | Some("HTTP/1.1") => Version::Http11,
        Some("HTTP/1.0") => Version::Http10,
        Some("HTTP/2" | "HTTP/2.0") => Version::Http2,
        Some(other) => return Err(wrong(number, format!("`{other}` is no version of HTTP"), "write HTTP/1.1, HTTP/2 or nothing")),
    };
    if words.next().is_some() {
        return Err(wrong(number, "something stands behind the version", HELP));
    }
    (request.method, request.path) = (method.into(), path.into());
    Ok(())
}

fn header(number: usize, line: &str) -> Result<(String, String), Wrong> {
    match line.split_once(':') {
        Some((name, value)) if is_token(name.trim()) => Ok((name.trim().into(), value.trim().into())),
        _ => Err(wrong(number, format!("`{}` is no header", line.trim()), "a header is NAME: VALUE; an empty line goes before the body")),
    }
}

/// A comment that says something to us. Others are the author's.
fn directive(number: usize, comment: &str, request: &mut Recorded) -> Result<(), Wrong> {
    let Some((key, value)) = comment.split_once(':') else { return Ok(()) };
    let (key, value) = (key.trim(), value.trim());
    let status = || {
        let status = value.parse().ok().filter(|status| (100..=599).contains(status));
        status.ok_or_else(|| wrong(number, format!("`{value}` is no status"), "a status is a number from 100 to 599"))
    };
    let expected = &mut request.expected;
    match key {
        "expect" => expected.verdict = Some(verdict(value).map_err(|problem| wrong(number, problem, VERDICT_HELP))?),
        "expect-status" => expected.status = Some(status()?),
        "expect-path" => expected.path = Some(value.into()),
        "expect-request-header" => expected.request_headers.push(header(number, value)?),
        "expect-response-header" => expected.response_headers.push(header(number, value)?),
        "response" => request.response.get_or_insert_with(Response::default).status = status()?,
        "response-header" => request.response.get_or_insert_with(Response::default).headers.push(header(number, value)?),
        "client" => {
            request.client =
                value.parse().map_err(|_| wrong(number, format!("`{value}` is no address"), "write IP:PORT, e.g. 192.0.2.7:50312"))?;
        }
        key if key.starts_with("expect") => {
            let help = "there are expect, expect-status, expect-path, expect-request-header and expect-response-header";
            return Err(wrong(number, format!("`{key}` is no expectation"), help));
        }
        _ => {}
    }
    Ok(())
}
