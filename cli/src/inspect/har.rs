//! HAR 1.2 (the format of browsers' network tools): exchanges are written as they come, so that the file may be larger than memory;
//! the end is written with the first entry and moved by each, so that a file that was never finished is one too.
//!
//! What HAR has no place for is in `_mirrord`: verdict, filter and reason (the inspecting session's own filters', if there are any,
//! else those of whoever took the request), what the filters `said` where something else became of it, session, client, destination,
//! the path where a URL cannot hold it, how the exchange ended, and `partial` where the request's body is not all there. So
//! `mirrord filter test` can ask a filter the same again, and expect the same.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use mirrord_protocol::records::{Captured, End, Exchange, Verdict};
use serde_json::{Value, json};

use crate::{error::Error, when};

const TAIL: &str = "\n]}}\n";

/// A file that is being written.
pub struct Har<W> {
    out: W,
    entries: u64,
    buffer: Vec<u8>,
}

impl Har<File> {
    /// Only its owner may read it: it holds what the pod's clients said.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let unwritable = |error| Error::Har { path: path.into(), error };
        Har::new(file.map_err(unwritable)?).map_err(unwritable)
    }
}

impl<W: Write + Seek> Har<W> {
    fn new(mut out: W) -> io::Result<Self> {
        let creator = json!({ "name": "mirrord", "version": env!("CARGO_PKG_VERSION") });
        write!(out, r#"{{"log":{{"version":"1.2","creator":{creator},"entries":[{TAIL}"#)?;
        Ok(Har { out, entries: 0, buffer: Vec::new() })
    }

    /// Adds an exchange.
    pub fn entry(&mut self, exchange: &Exchange) -> io::Result<()> {
        self.buffer.extend_from_slice(if self.entries == 0 { b"\n" } else { b",\n" });
        serde_json::to_writer(&mut self.buffer, &entry(exchange))?;
        self.entries += 1;
        if self.buffer.len() > 64 << 10 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.extend_from_slice(TAIL.as_bytes());
        self.out.seek(SeekFrom::End(-(TAIL.len() as i64)))?;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left; how many entries there are.
    pub fn finish(mut self) -> io::Result<u64> {
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        self.out.flush()?;
        Ok(self.entries)
    }
}

fn entry(exchange: &Exchange) -> Value {
    let (wait, took) = (exchange.wait.unwrap_or(exchange.took), exchange.took);
    let millis = |micros: u64| micros as f64 / 1000.0;
    let mut value = json!({
        "startedDateTime": when::utc(exchange.at),
        "time": millis(took),
        "request": request(exchange),
        "response": response(exchange),
        "cache": {},
        "timings": { "send": 0, "wait": millis(wait), "receive": millis(took.saturating_sub(wait)) },
        "connection": exchange.client,
        "_mirrord": ours(exchange),
    });
    if let Some((address, _)) = exchange.destination.rsplit_once(':') {
        value["serverIPAddress"] = address.trim_matches(['[', ']']).into();
    }
    value
}

fn ours(exchange: &Exchange) -> Value {
    let (verdict, filter, reason) = match &exchange.would {
        Some(would) if would.undecided => (None, &None, &None),
        Some(would) => (Some(would.verdict), &would.filter, &would.reason),
        None => (Some(exchange.verdict), &exchange.filter, &exchange.reason),
    };
    let end = match exchange.end {
        End::Complete => "complete",
        End::Cut => "cut",
        End::Upgraded => "upgraded",
    };
    let mut ours = json!({ "client": exchange.client, "destination": exchange.destination, "end": end });
    let words = [("filter", filter.clone()), ("reason", reason.clone()), ("verdict", verdict.map(Verdict::as_str).map(str::to_owned))];
    words.into_iter().filter_map(|(name, word)| Some((name, word?))).for_each(|(name, word)| ours[name] = word.into());
    if let (Some(said), None) = (exchange.said, &exchange.would) {
        ours["said"] = said.as_str().into();
    }
    if !url(exchange).ends_with(&exchange.path) || !exchange.path.starts_with('/') {
        ours["path"] = exchange.path.as_str().into();
    }
    if exchange.request_bytes > 0 && exchange.request_body.as_ref().is_none_or(|body| body.cut) {
        ours["partial"] = true.into();
    }
    if let Some(session) = exchange.session {
        ours["session"] = session.into();
    }
    if let Some(status) = exchange.grpc_status {
        ours["grpc_status"] = status.into();
    }
    ours
}

fn request(exchange: &Exchange) -> Value {
    let headers = &exchange.request_headers;
    let url = url(exchange);
    let query = url.split_once('?').map_or("", |(_, query)| query.split('#').next().unwrap_or_default());
    let query: Vec<_> = query
        .split('&')
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            json!({ "name": decoded(name), "value": decoded(value) })
        })
        .collect();
    let mut request = json!({
        "method": exchange.method,
        "url": url,
        "httpVersion": exchange.protocol,
        "cookies": cookies(headers, "cookie"),
        "headers": fields(headers),
        "queryString": query,
        "headersSize": -1,
        "bodySize": exchange.request_bytes,
    });
    if exchange.request_bytes > 0 {
        let mut body = json!({ "mimeType": value(headers, "content-type").unwrap_or_default(), "text": "" });
        content(&mut body, exchange.request_body.as_ref(), exchange.request_bytes);
        request["postData"] = body;
    }
    request
}

fn response(exchange: &Exchange) -> Value {
    let headers = &exchange.response_headers;
    let status = exchange.status.unwrap_or(0);
    let mut body = json!({ "size": exchange.response_bytes, "mimeType": value(headers, "content-type").unwrap_or_default() });
    content(&mut body, exchange.response_body.as_ref(), exchange.response_bytes);
    json!({
        "status": status,
        "statusText": "",
        "httpVersion": exchange.protocol,
        "cookies": cookies(headers, "set-cookie"),
        "headers": fields(headers),
        "content": body,
        "redirectURL": value(headers, "location").unwrap_or_default(),
        "headersSize": -1,
        "bodySize": exchange.response_bytes,
    })
}

/// What is known of a body.
fn content(value: &mut Value, body: Option<&Captured>, bytes: u64) {
    match body {
        Some(body) => {
            value["text"] = body.text.as_str().into();
            if body.base64 {
                // Of requests HAR says nothing about it.
                let name = if value["size"].is_null() { "_encoding" } else { "encoding" };
                value[name] = "base64".into();
            }
            if body.cut {
                value["comment"] = format!("the beginning of {bytes} bytes; --body takes more").into();
            }
        }
        None if bytes > 0 => value["comment"] = "not recorded; --body BYTES does".into(),
        None => {}
    }
}

/// An absolute URL, of which clients send the parts.
fn url(exchange: &Exchange) -> String {
    let path = exchange.path.as_str();
    if path.contains("://") && !path.starts_with('/') {
        return escaped(path);
    }
    let headers = &exchange.request_headers;
    let host = value(headers, ":authority").or_else(|| value(headers, "host")).filter(|host| !host.is_empty());
    let host = host.unwrap_or(&exchange.destination);
    let slash = if path.starts_with('/') { "" } else { "/" };
    escaped(&format!("http://{host}{slash}{path}"))
}

/// Characters that no URL has are written as their UTF-8 bytes: what came may hold anything.
fn escaped(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    for byte in url.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A part of a query as it was meant, if it can be told.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|hex| byte == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let value = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        rest = if value.is_some() { &after[2..] } else { after };
        out.push(value.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Pseudo-headers are browsers' way of writing down HTTP/2, too.
fn fields(headers: &[(String, String)]) -> Value {
    headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

fn cookies(headers: &[(String, String)], header: &str) -> Value {
    let of = |text: &str| {
        let (name, value) = text.trim().split_once('=')?;
        Some(json!({ "name": name, "value": value }))
    };
    let values = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(header)).map(|(_, value)| value);
    match header {
        "cookie" => values.flat_map(|value| value.split(';')).filter_map(of).collect(),
        // Its attributes are in the header.
        _ => values.filter_map(|value| of(value.split(';').next()?)).collect(),
    }
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use mirrord_protocol::records::Would;

    use super::*;

    fn exchange() -> Exchange {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Exchange {
            at: 1_795_546_501_123_000,
            client: "10.0.0.1:5".into(),
            destination: "[fd00::1]:80".into(),
            protocol: "HTTP/1.1".into(),
            method: "POST".into(),
            path: "/a b?x=1%20&y".into(),
            status: Some(302),
            request_bytes: 4,
            wait: Some(1000),
            took: 1500,
            end: End::Complete,
            request_headers: vec![header("Host", "shop"), header("Cookie", "a=1; b=2"), header("Content-Type", "text/plain")],
            response_headers: vec![header("location", "/b"), header("set-cookie", "c=3; Path=/")],
            request_body: Some(Captured { text: "abc".into(), base64: false, cut: true }),
            ..Exchange::default()
        }
    }

    #[test]
    fn an_exchange_becomes_what_browsers_know() {
        let entry = entry(&exchange());
        assert_eq!(entry["startedDateTime"], "2026-11-24T18:55:01.123000Z");
        assert_eq!(entry["request"]["url"], "http://shop/a%20b?x=1%20&y");
        assert_eq!(entry["request"]["queryString"], json!([{ "name": "x", "value": "1 " }, { "name": "y", "value": "" }]));
        assert_eq!(entry["request"]["cookies"], json!([{ "name": "a", "value": "1" }, { "name": "b", "value": "2" }]));
        assert_eq!(entry["request"]["postData"]["text"], "abc");
        assert_eq!(entry["response"]["cookies"], json!([{ "name": "c", "value": "3" }]));
        assert_eq!((&entry["response"]["redirectURL"], &entry["serverIPAddress"]), (&json!("/b"), &json!("fd00::1")));
        assert_eq!((&entry["time"], &entry["timings"]["receive"]), (&json!(1.5), &json!(0.5)));
        assert_eq!(entry["_mirrord"]["verdict"], "pass");
        assert_eq!((&entry["_mirrord"]["path"], &entry["_mirrord"]["partial"]), (&json!("/a b?x=1%20&y"), &json!(true)));
    }

    #[test]
    fn the_filters_that_are_asked_here_have_the_word() {
        let would = Would { verdict: Verdict::Steal, filter: Some("f.wasm".into()), reason: None, ..Would::default() };
        let ours = |would: Would| super::ours(&Exchange { would: Some(would), verdict: Verdict::Mirror, ..exchange() });
        let steal = ours(would.clone());
        assert_eq!((&steal["verdict"], &steal["filter"]), (&json!("steal"), &json!("f.wasm")));
        assert_eq!(ours(Would { undecided: true, ..would }).get("verdict"), None);
    }

    #[test]
    fn the_file_is_whole_at_any_time() {
        let mut har = Har::new(Cursor::new(Vec::new())).unwrap();
        let count = |har: &Har<Cursor<Vec<u8>>>| {
            let value: Value = serde_json::from_slice(har.out.get_ref()).unwrap();
            value["log"]["entries"].as_array().unwrap().len()
        };
        assert_eq!(count(&har), 0);
        for number in 1..=300 {
            har.entry(&exchange()).unwrap();
            assert!(count(&har) <= number);
        }
        assert!(count(&har) > 100);
        har.flush().unwrap();
        assert_eq!(count(&har), 300);
        har.flush().unwrap();
        assert_eq!((count(&har), har.finish().unwrap()), (300, 300));
    }
}
