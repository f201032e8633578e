//! HAR 1.2, as browsers save it and `mirrord inspect --har` writes it. The latter's entries say in `_mirrord` which verdict the live
//! filter gave: it is expected again.

use mirrord_filters::Version;
use serde_json::Value;

use super::{Expected, Recorded, Response, VERDICTS, Wrong};

const HELP: &str = "save it again from the browser's network tools, or with `mirrord inspect --har`";

pub fn parse(text: &str) -> Result<Vec<Recorded>, Wrong> {
    let wrong = |place: String, problem: String| Wrong { place, problem, help: HELP };
    let har: Value =
        serde_json::from_str(text).map_err(|error| wrong(format!("line {}", error.line()), format!("it is not JSON ({error})")))?;
    let entries = har["log"]["entries"].as_array();
    let entries = entries.ok_or_else(|| wrong("the file".into(), "there is no log.entries: it is no HAR".into()))?;
    let entry = |(index, entry): (usize, &Value)| {
        let place = format!("log.entries[{index}]");
        one(place.clone(), entry).ok_or_else(|| wrong(place, "request.method or request.url is missing or no text".into()))
    };
    entries.iter().enumerate().map(entry).collect()
}

fn one(place: String, entry: &Value) -> Option<Recorded> {
    let request = &entry["request"];
    let new = Recorded::new(place);
    let url = request["url"].as_str()?;
    // A fragment is the browser's own; it is never sent.
    let url = url.split('#').next().unwrap_or(url);
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => url,
    };
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    let version = request["httpVersion"].as_str().unwrap_or_default().to_ascii_lowercase();
    let verdict = entry["_mirrord"]["verdict"].as_str().filter(|verdict| VERDICTS.contains(verdict));
    Some(Recorded {
        method: request["method"].as_str()?.to_owned(),
        path,
        headers: headers(&request["headers"]),
        body: request["postData"]["text"].as_str().unwrap_or_default().into(),
        version: match version.as_str() {
            "http/1.0" => Version::Http10,
            "h2" | "http/2" | "http/2.0" => Version::Http2,
            _ => Version::Http11,
        },
        response: entry["response"]["status"].as_u64().and_then(|status| u16::try_from(status).ok()).filter(|status| *status >= 100).map(
            |status| Response { status, headers: headers(&entry["response"]["headers"]), body: content(&entry["response"]["content"]) },
        ),
        expected: Expected { verdict: verdict.map(str::to_owned), ..Expected::default() },
        ..new
    })
}

/// Name and value of each; HTTP/2's pseudo-headers, which browsers list too, are none.
fn headers(list: &Value) -> Vec<(String, String)> {
    let pair = |one: &Value| Some((one["name"].as_str()?.to_owned(), one["value"].as_str()?.to_owned()));
    list.as_array().into_iter().flatten().filter_map(pair).filter(|(name, _)| !name.starts_with(':')).collect()
}

/// A body that is no text is in base64; a filter that looks at such responses is not tested by recordings.
fn content(content: &Value) -> Vec<u8> {
    match content["encoding"].as_str() {
        None => content["text"].as_str().unwrap_or_default().into(),
        Some(_) => Vec::new(),
    }
}
