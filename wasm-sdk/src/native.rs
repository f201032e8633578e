//! Where messages come from outside WebAssembly: memory. [`crate::testing`] fills a `Source` and reads what became of it.
//! What the agent keeps for a filter (state, metrics, seed, time) is kept for each thread, and so for each test.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::abi::{edit_problem, limit, metric_problem, path_problem, target, what};
use crate::testing::{check_reply, Edit};
use crate::Reply;

#[derive(Default)]
pub(crate) struct Source {
    pub(crate) method: String,
    pub(crate) path: Vec<u8>,
    pub(crate) client: String,
    pub(crate) destination: String,
    pub(crate) protocol: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The body, or a piece of it.
    pub(crate) body: Vec<u8>,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: String,
    pub(crate) said: Said,
}

/// What the filter said.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) request_edits: Vec<Edit>,
    pub(crate) response_edits: Vec<Edit>,
    pub(crate) token: Option<u64>,
    pub(crate) watches_response: bool,
    pub(crate) watches_end: bool,
    pub(crate) request_window: Option<usize>,
    pub(crate) response_window: Option<usize>,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) delay: Option<u32>,
    pub(crate) replaced: Option<Vec<u8>>,
    pub(crate) reply: Option<Reply>,
    pub(crate) aborts: bool,
    pub(crate) reason: Option<String>,
}

impl Source {
    pub(crate) fn get(&self, what: i32) -> Option<&[u8]> {
        match what {
            what::METHOD => Some(self.method.as_bytes()),
            what::PATH => Some(&self.path),
            what::CLIENT => Some(self.client.as_bytes()),
            what::DESTINATION => Some(self.destination.as_bytes()),
            what::PROTOCOL => Some(self.protocol.as_bytes()),
            what::SNI => self.sni.as_deref().map(str::as_bytes),
            what::ALPN => Some(self.alpn.as_bytes()),
            what::FIRST_BYTES => Some(&self.body),
            _ => None,
        }
    }

    pub(crate) fn header(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).nth(nth).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn header_at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.headers.get(index).map(|(name, value)| (name.as_bytes(), value.as_slice()))
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// # Panics
    /// On an edit that the agent would refuse, where the filter fails too.
    #[track_caller]
    pub(crate) fn edit(&mut self, target: i32, op: i32, name: &str, value: &[u8]) {
        if let Some(problem) = edit_problem(name.as_bytes(), value) {
            panic!("header edit {name:?}: {problem}");
        }
        let edits = if target == target::REQUEST { &mut self.said.request_edits } else { &mut self.said.response_edits };
        assert!(edits.len() < limit::EDITS, "more than {} header edits", limit::EDITS);
        edits.push(Edit::new(op, name, value));
    }

    #[track_caller]
    pub(crate) fn set_path(&mut self, path: &[u8]) {
        if let Some(problem) = path_problem(path) {
            panic!("{problem}");
        }
        self.said.path = Some(path.into());
    }

    #[track_caller]
    pub(crate) fn replace_body(&mut self, bytes: &[u8]) {
        let replaced = self.said.replaced.get_or_insert_with(Vec::new);
        replaced.extend_from_slice(bytes);
        assert!(replaced.len() <= limit::REPLACEMENT, "a piece of a body is replaced by more than 2 MiB");
    }

    #[track_caller]
    pub(crate) fn respond(&mut self, reply: &Reply) {
        check_reply(reply);
        self.said.response_edits.clear();
        self.said.reply = Some(reply.clone());
    }

    pub(crate) fn watch_response(&mut self, token: u64) {
        (self.said.token, self.said.watches_response) = (Some(token), true);
    }

    pub(crate) fn watch_request_body(&mut self, window: usize) {
        self.said.request_window = Some(window.clamp(1, limit::BODY_WINDOW));
    }

    pub(crate) fn watch_response_body(&mut self, window: usize) {
        self.said.response_window = Some(window.clamp(1, limit::BODY_WINDOW));
    }

    pub(crate) fn watch_end(&mut self) {
        self.said.watches_end = true;
    }

    pub(crate) fn set_token(&mut self, token: u64) {
        self.said.token = Some(token);
    }

    pub(crate) fn delay(&mut self, milliseconds: u32) {
        self.said.delay = Some(milliseconds);
    }

    pub(crate) fn abort(&mut self) {
        self.said.aborts = true;
    }

    pub(crate) fn reason(&mut self, text: &str) {
        self.said.reason = Some(text.into());
    }
}

/// What the agent would keep.
pub(crate) struct World {
    pub(crate) state: HashMap<Vec<u8>, (Vec<u8>, u64)>,
    pub(crate) metrics: BTreeMap<String, Vec<u64>>,
    pub(crate) properties: HashMap<String, Vec<u8>>,
    pub(crate) seed: u64,
    pub(crate) now: u64,
}

thread_local! {
    pub(crate) static WORLD: RefCell<World> = RefCell::new(World {
        state: HashMap::new(), metrics: BTreeMap::new(), properties: HashMap::new(), seed: 0,
        // 2026-01-01
        now: 1_767_225_600_000,
    });
}

pub(crate) fn property(name: &str) -> Option<Vec<u8>> {
    WORLD.with_borrow(|world| world.properties.get(name).cloned())
}

pub(crate) fn get_state(key: &[u8]) -> Option<Vec<u8>> {
    WORLD.with_borrow(|world| world.state.get(key).filter(|(_, end)| *end > world.now).map(|(value, _)| value.clone()))
}

#[track_caller]
pub(crate) fn set_state(key: &[u8], value: &[u8], ttl: u32) {
    assert!(key.len() <= limit::STATE_KEY && value.len() <= limit::STATE_VALUE, "a key or value of the state is too long");
    WORLD.with_borrow_mut(|world| {
        let end = world.now + u64::from(ttl).clamp(1, limit::STATE_TTL);
        world.state.insert(key.into(), (value.into(), end));
    });
}

pub(crate) fn add_state(key: &[u8], delta: i64, ttl: u32) -> i64 {
    let old = get_state(key).and_then(|value| <[u8; 8]>::try_from(value).ok());
    let sum = old.map_or(0, i64::from_le_bytes).wrapping_add(delta);
    match old {
        None => set_state(key, &sum.to_le_bytes(), ttl),
        Some(_) => WORLD.with_borrow_mut(|world| {
            if let Some((value, _)) = world.state.get_mut(key) {
                *value = sum.to_le_bytes().into();
            }
        }),
    }
    sum
}

pub(crate) fn remove_state(key: &[u8]) {
    WORLD.with_borrow_mut(|world| world.state.remove(key));
}

/// SplitMix64, as the agent has it.
pub(crate) fn random() -> u64 {
    WORLD.with_borrow_mut(|world| {
        world.seed = world.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (world.seed ^ (world.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

pub(crate) fn now_ms() -> u64 {
    WORLD.with_borrow(|world| world.now)
}

#[track_caller]
pub(crate) fn count(name: &str, delta: i64) {
    observe(name, delta);
}

#[track_caller]
pub(crate) fn observe(name: &str, value: i64) {
    if let Some(problem) = metric_problem(name.as_bytes()) {
        panic!("{name:?}: {problem}");
    }
    WORLD.with_borrow_mut(|world| {
        let known = world.metrics.contains_key(name);
        assert!(known || world.metrics.len() < limit::METRICS, "more than {} metrics", limit::METRICS);
        world.metrics.entry(name.into()).or_default().push(value.unsigned_abs());
    });
}

pub(crate) fn log(level: i32, text: &str) {
    eprintln!("filter log {level}: {text}");
}
