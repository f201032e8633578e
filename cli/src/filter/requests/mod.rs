//! Requests from a file, with what is expected of the filter if the file says so. Three formats, told by the file's ending:
//!
//! * `.http` (`http.rs`): as people write them, one after the other.
//! * `.jsonl` (`jsonl.rs`): one JSON object a line.
//! * `.har` (`har.rs`): recordings of browsers and of `mirrord inspect`.

mod har;
mod http;
mod jsonl;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use mirrord_filters::Version;

use super::Failure;

/// Largest file of requests, bytes.
const LARGEST: u64 = 256 << 20;
/// Most requests of one file.
const MOST: usize = 1_000_000;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Where it stands: a line or an entry.
    pub place: String,
    pub name: Option<String>,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub version: Version,
    pub client: SocketAddr,
    pub destination: SocketAddr,
    /// What the pod answered, for filters that look at responses.
    pub response: Option<Response>,
    pub expected: Expected,
    /// Why it may not be what the filter once saw, and what to do.
    pub lacks: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What the filter should make of it; nothing: whatever it does is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub verdict: Option<String>,
    /// Of the filter's own answer.
    pub status: Option<u16>,
    /// What becomes of the path.
    pub path: Option<String>,
    /// Headers that the request has afterwards; with an empty value: that it has not.
    pub request_headers: Vec<(String, String)>,
    /// The same of the response.
    pub response_headers: Vec<(String, String)>,
}

/// What is wrong with a file, and where in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub place: String,
    pub problem: String,
    pub help: &'static str,
}

/// Names of verdicts, as files and `explain` have them.
pub const VERDICTS: [&str; 6] = ["pass", "steal", "mirror", "steal_and_mirror", "respond", "abort"];

impl Recorded {
    fn new(place: String) -> Self {
        let address = |last, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), port);
        Self {
            place,
            name: None,
            method: "GET".into(),
            path: "/".into(),
            headers: Vec::new(),
            body: Vec::new(),
            version: Version::Http11,
            client: address(7, 50312),
            destination: address(1, 80),
            response: None,
            expected: Expected::default(),
            lacks: None,
        }
    }
}

impl Recorded {
    /// A GET of a browser's, with 20 headers.
    pub fn example() -> Self {
        const HEADERS: [(&str, &str); 20] = [
            ("host", "shop.example"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"),
            ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("accept-language", "en-US,en;q=0.5"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("referer", "https://shop.example/"),
            ("cookie", "session=0123456789abcdef; theme=dark; cart=42"),
            ("dnt", "1"),
            ("priority", "u=0, i"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-user", "?1"),
            ("upgrade-insecure-requests", "1"),
            ("cache-control", "max-age=0"),
            ("x-request-id", "3f2b8c1e-7a54-4d0e-9f11-2c6b7d8e9a00"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("x-user", "me"),
        ];
        let headers = HEADERS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { path: "/cart?item=7".into(), headers, ..Self::new("example".into()) }
    }
}

impl Expected {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Reads a file; not a single request is taken of one that has a mistake.
pub fn read(path: &Path) -> Result<Vec<Recorded>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(format!("the requests {} cannot be read: {error}", path.display()), "check the path behind --requests")
    };
    if fs::metadata(path).map_err(unreadable)?.len() > LARGEST {
        return Err(Failure::new(format!("{} is larger than {} MiB", path.display(), LARGEST >> 20), "split it"));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let requests = match ending {
        "http" | "rest" => http::parse(&text),
        "jsonl" | "ndjson" => jsonl::parse(&text),
        "har" | "json" => har::parse(&text),
        _ => {
            return Err(Failure::usage(
                format!("{} has an ending of no known format", path.display()),
                "requests come as .http, .jsonl or .har",
            ));
        }
    };
    let requests = requests.map_err(|wrong| Failure::new(format!("{}, {wrong}", path.display()), wrong.help))?;
    match requests.len() {
        0 => Err(Failure::new(format!("{} holds no request", path.display()), "put at least one into it, for instance: GET / HTTP/1.1")),
        1..=MOST => Ok(requests),
        _ => Err(Failure::new(format!("{} holds more than {MOST} requests", path.display()), "split it")),
    }
}

fn verdict(text: &str) -> Result<String, String> {
    if VERDICTS.contains(&text) { Ok(text.to_owned()) } else { Err(format!("`{text}` is no verdict")) }
}

const VERDICT_HELP: &str = "the verdicts are pass, steal, mirror, steal_and_mirror, respond and abort";

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
