//! What the tests share: guests from `tests/guests`, requests in one line, a log that can be read back.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use mirrord_filters::{
    Chain, Edit, Engine, EngineSettings, Fault, Field, Filter, Followers, LogLevel, Outcome, RequestParts, ResponseDecision, ResponseParts,
    Step, Verdict, Version,
};

pub type Lines = Arc<Mutex<Vec<(String, LogLevel, String)>>>;

/// A browser's request behind a mesh; the mark comes last but one.
pub const HEADERS: [(&str, &str); 20] = [
    ("host", "shop.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.ZRrHA1JJJW8op"),
    ("content-type", "application/json"),
    ("content-length", "128"),
    ("origin", "https://shop.example.com"),
    ("referer", "https://shop.example.com/cart"),
    ("x-request-id", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-envoy-attempt-count", "1"),
    ("x-b3-sampled", "1"),
    ("cache-control", "no-cache"),
    ("x-user", "me"),
    ("x-tenant", "acme"),
];

pub fn engine() -> Engine {
    Engine::new(EngineSettings::default()).unwrap()
}

pub fn logged_engine() -> (Engine, Lines) {
    let lines = Lines::default();
    let sink = lines.clone();
    let log = Arc::new(move |filter: &str, level, line: &str| sink.lock().unwrap().push((filter.into(), level, line.into())));
    (Engine::new(EngineSettings { log: Some(log), ..EngineSettings::default() }).unwrap(), lines)
}

pub fn guest(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}.wat"))).unwrap()
}

/// A guest of that name, loaded and configured with nothing, under the default limits.
pub fn filter(engine: &Engine, name: &str) -> Filter {
    engine.load(name, &guest(name)).unwrap().configure(b"", Default::default()).unwrap()
}

/// The example filters, built by the script that builds them for everybody.
pub fn example(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let out = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let out = root.join("target/filters");
        let status = std::process::Command::new(root.join("scripts/build-filters.sh")).arg(&out).status().unwrap();
        assert!(status.success(), "scripts/build-filters.sh: {status}");
        out
    });
    std::fs::read(out.join(format!("{name}.wasm"))).unwrap()
}

pub fn fields<'a>(headers: &'a [(&'a str, &'a str)]) -> Vec<Field<'a>> {
    headers.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
}

pub fn request<'a>(method: &'a str, path: &'a str, headers: &'a [Field<'a>]) -> RequestParts<'a> {
    RequestParts {
        method: method.as_bytes(),
        path: path.as_bytes(),
        headers,
        client: SocketAddr::from(([192, 0, 2, 7], 50312)),
        destination: SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 80)),
        version: Version::Http11,
        end: true,
    }
}

pub fn get<'a>(headers: &'a [Field<'a>]) -> RequestParts<'a> {
    request("GET", "/", headers)
}

pub fn response<'a>(status: u16, headers: &'a [Field<'a>]) -> ResponseParts<'a> {
    ResponseParts { status, headers }
}

/// A chain of one link, for which a request is one call.
pub struct Instance(pub Chain);

/// What it said.
#[derive(Debug)]
pub struct Decision {
    pub verdict: Verdict,
    pub request_edits: Vec<Edit>,
    pub response_edits: Vec<Edit>,
    pub reason: Option<String>,
    pub fault: Option<Fault>,
    pub followers: Option<Box<Followers>>,
}

impl Decision {
    pub fn pass() -> Self {
        Decision::from(Outcome::default())
    }
}

impl From<Outcome> for Decision {
    fn from(outcome: Outcome) -> Self {
        let Outcome { verdict, request_edits, response_edits, reason, mut faults, followers, .. } = outcome;
        assert!(faults.len() <= 1, "{faults:?}");
        Decision { verdict, request_edits, response_edits, reason: reason.map(|reason| reason.to_string()), fault: faults.pop(), followers }
    }
}

impl PartialEq for Decision {
    fn eq(&self, other: &Self) -> bool {
        (&self.verdict, &self.request_edits, &self.response_edits, &self.reason, &self.fault)
            == (&other.verdict, &other.request_edits, &other.response_edits, &other.reason, &other.fault)
            && self.followers.is_none() == other.followers.is_none()
    }
}

impl Instance {
    pub fn of(filter: &Filter) -> Self {
        Instance(Chain::new(vec![filter.clone()]))
    }

    pub fn on_request(&mut self, request: &RequestParts<'_>) -> Decision {
        match self.0.on_request(request) {
            Step::Decided(outcome) => outcome.into(),
            step => panic!("{step:?}"),
        }
    }

    pub fn on_response(&mut self, followers: &mut Followers, response: &ResponseParts<'_>) -> ResponseDecision {
        self.0.on_response(followers, response)
    }
}
