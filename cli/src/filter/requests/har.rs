//! HAR 1.2, as browsers save it and `mirrord inspect --har` writes it. The latter's entries say in `_mirrord` which verdict the live
//! filter gave: it is expected again. Entries are written as exchanges end; they are taken in the order in which they began, since a
//! filter may count.

use mirrord_filters::Version;
use mirrord_protocol::records::MASK;
use serde_json::Value;

use super::{Expected, Recorded, Response, VERDICTS, Wrong};

const HELP: &str = "save it again from the browser's network tools, or with `mirrord inspect --har`";

pub fn parse(text: &str) -> Result<Vec<Recorded>, Wrong> {
    let wrong = |place: String, problem: String| Wrong { place, problem, help: HELP };
    let har: Value =
        serde_json::from_str(text).map_err(|error| wrong(format!("line {}", error.line()), format!("it is not JSON ({error})")))?;
    let entries = har["log"]["entries"].as_array();
    let entries = entries.ok_or_else(|| wrong("the file".into(), "there is no log.entries: it is no HAR".into()))?;
    let began = |entry: &Value| entry["startedDateTime"].as_str().filter(|began| began.ends_with('Z')).map(str::to_owned);
    let mut entries: Vec<_> = entries.iter().enumerate().map(|(index, entry)| (began(entry), index, entry)).collect();
    // Of times in several zones the text does not tell the order.
    if entries.iter().all(|(began, ..)| began.is_some()) {
        entries.sort_by(|one, other| one.0.cmp(&other.0));
    }
    let entry = |(_, index, entry): (_, usize, &Value)| {
        let place = format!("log.entries[{index}]");
        one(place.clone(), entry).ok_or_else(|| wrong(place, "request.method or request.url is missing or no text".into()))
    };
    entries.into_iter().map(entry).collect()
}

fn one(place: String, entry: &Value) -> Option<Recorded> {
    let (request, ours) = (&entry["request"], &entry["_mirrord"]);
    let new = Recorded::new(place);
    let url = request["url"].as_str()?;
    let version = request["httpVersion"].as_str().unwrap_or_default().to_ascii_lowercase();
    let verdict = ours["said"].as_str().or(ours["verdict"].as_str()).filter(|verdict| VERDICTS.contains(verdict));
    let headers = headers(&request["headers"]);
    let is_masked = headers.iter().any(|(_, value)| value == MASK) || ours["path"].as_str().is_some_and(|path| path.contains(MASK));
    let address = |name: &str| ours[name].as_str().and_then(|address| address.parse().ok());
    Some(Recorded {
        method: request["method"].as_str()?.to_owned(),
        path: ours["path"].as_str().map_or_else(|| path(url), str::to_owned),
        headers,
        body: content(&request["postData"]),
        version: match version.as_str() {
            "http/1.0" => Version::Http10,
            "h2" | "http/2" | "http/2.0" => Version::Http2,
            _ => Version::Http11,
        },
        client: address("client").unwrap_or(new.client),
        destination: address("destination").unwrap_or(new.destination),
        response: entry["response"]["status"].as_u64().and_then(|status| u16::try_from(status).ok()).filter(|status| *status >= 100).map(
            |status| Response {
                status,
                headers: self::headers(&entry["response"]["headers"]),
                body: content(&entry["response"]["content"]),
            },
        ),
        expected: Expected { verdict: verdict.map(str::to_owned), ..Expected::default() },
        lacks: match (ours["partial"] == true, is_masked) {
            (true, _) => Some("the recording lacks some of the request's body: `mirrord inspect --body BYTES` takes more"),
            (false, true) => Some("credentials are masked in the recording: `mirrord inspect --show-credentials` keeps them"),
            (false, false) => None,
        },
        ..new
    })
}

/// The request's target, of an absolute URL.
fn path(url: &str) -> String {
    // A fragment is the browser's own; it is never sent.
    let url = url.split('#').next().unwrap_or(url);
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => url,
    };
    if path.starts_with('?') { format!("/{path}") } else { path.to_owned() }
}

/// Name and value of each. Of HTTP/2's pseudo-headers, which browsers list too, filters see one.
fn headers(list: &Value) -> Vec<(String, String)> {
    let pair = |one: &Value| Some((one["name"].as_str()?.to_owned(), one["value"].as_str()?.to_owned()));
    let is_shown = |(name, _): &(String, String)| !name.starts_with(':') || name == ":authority";
    list.as_array().into_iter().flatten().filter_map(pair).filter(is_shown).collect()
}

/// A body; what is no text is in base64.
fn content(content: &Value) -> Vec<u8> {
    let text = content["text"].as_str().unwrap_or_default();
    match content["encoding"].as_str().or(content["_encoding"].as_str()) {
        None => text.into(),
        Some(_) => base64(text),
    }
}

/// As far as it is base64.
fn base64(text: &str) -> Vec<u8> {
    let six = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let sixes: Vec<u8> = text.bytes().map_while(six).collect();
    let bytes = |four: &[u8]| {
        let bits = four.iter().fold(0_u32, |bits, six| bits << 6 | u32::from(*six)) << (6 * (4 - four.len()));
        bits.to_be_bytes().into_iter().skip(1).take(four.len() * 6 / 8)
    };
    sixes.chunks(4).flat_map(bytes).collect()
}
