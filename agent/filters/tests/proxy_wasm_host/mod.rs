//! What the proxy-wasm tests share: the guests, built by the script and compiled once, filters made of them with a log that
//! can be read back, and a waker that tells whether it was called.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use mirrord_filters::{Edit, Engine, EngineSettings, Filter, Limits, Module, Outcome, Settings, Step, Upstream};

/// The SDKs that have all patterns.
pub const GUESTS: [&str; 2] = ["rust", "go"];

pub type Log = Arc<Mutex<Vec<String>>>;

pub fn wasm(guest: &str) -> Vec<u8> {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let out = root.join("target/proxy-wasm-guests");
        let guests = root.join("agent/filters/tests/guests-proxy-wasm");
        let status = std::process::Command::new(root.join("scripts/build-filters.sh")).args([&out, &guests]).status().unwrap();
        assert!(status.success(), "scripts/build-filters.sh: {status}");
        out
    });
    std::fs::read(out.join(format!("patterns-{guest}.wasm"))).unwrap()
}

pub fn module(guest: &str) -> Module {
    static MODULES: OnceLock<[Module; 3]> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        // Go's runtime takes a second to compile.
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/proxy-wasm-guests/cache");
        let engine = Engine::new(EngineSettings { cache_dir: Some(cache), ..EngineSettings::default() }).unwrap();
        // The last one's SDK looks for its root context by the file's name.
        [("rust", "rust"), ("go", "go"), ("assemblyscript", "patterns-assemblyscript.wasm")]
            .map(|(guest, name)| engine.load(name, &wasm(guest)).unwrap())
    });
    modules[["rust", "go", "assemblyscript"].iter().position(|known| *known == guest).unwrap()].clone()
}

pub fn filter(guest: &str, config: &str) -> (Filter, Log) {
    filter_with(guest, Settings { config: config.into(), limits: limits(guest), ..Settings::default() })
}

/// With an upstream `auth`.
pub fn with_upstream(guest: &str, config: &str) -> (Filter, Log) {
    let upstreams = vec![Upstream { name: "auth".into(), address: "127.0.0.1:9".into() }];
    filter_with(guest, Settings { config: config.into(), upstreams, limits: limits(guest), ..Settings::default() })
}

/// Go's filters take their time on a busy machine; what they do is looked at here, not how fast.
fn limits(guest: &str) -> Limits {
    let call = if guest == "go" { Duration::from_millis(500) } else { Limits::default().call };
    Limits { call, ..Limits::default() }
}

pub fn filter_with(guest: &str, settings: Settings) -> (Filter, Log) {
    let log = Log::default();
    let sink = log.clone();
    let settings = Settings { log: Some(Arc::new(move |_: &str, _, line: &str| sink.lock().unwrap().push(line.into()))), ..settings };
    let filter = module(guest).configure_with(settings).unwrap();
    // A chain's guest is configured once more.
    (filter, log)
}

/// Its lines, each configuration but the last left out.
pub fn lines(log: &Log) -> Vec<String> {
    let lines = log.lock().unwrap().clone();
    let last = lines.iter().rposition(|line| line.starts_with("configured as")).unwrap_or(0);
    let first = lines.iter().position(|line| line.starts_with("configured as")).unwrap_or(0);
    lines[..first].iter().chain(&lines[last..]).cloned().collect()
}

pub fn decided(step: Step) -> Outcome {
    match step {
        Step::Decided(outcome) => outcome,
        step => panic!("{step:?}"),
    }
}

pub fn set(name: &str, value: &str) -> Edit {
    Edit::Set { name: name.into(), value: value.into() }
}

/// A waker that remembers.
pub struct Woken {
    flag: Arc<Flag>,
    waker: Waker,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Default for Woken {
    fn default() -> Self {
        let flag = Arc::<Flag>::default();
        Woken { waker: flag.clone().into(), flag }
    }
}

impl Woken {
    pub fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    pub fn take(&self) -> bool {
        self.flag.0.swap(false, Ordering::SeqCst)
    }
}
