//! Where heads come from outside WebAssembly: memory. [`crate::testing`] fills a `Source` and reads what became of it.

use crate::abi::{edit_problem, limit, target, what};
use crate::testing::Edit;

#[derive(Default)]
pub(crate) struct Source {
    pub(crate) method: String,
    pub(crate) path: Vec<u8>,
    pub(crate) client: String,
    pub(crate) destination: String,
    pub(crate) protocol: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) request_edits: Vec<Edit>,
    pub(crate) response_edits: Vec<Edit>,
    pub(crate) token: Option<u64>,
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

    /// # Panics
    /// On an edit that the agent would refuse, where the filter fails too.
    #[track_caller]
    pub(crate) fn edit(&mut self, target: i32, op: i32, name: &str, value: &[u8]) {
        if let Some(problem) = edit_problem(name.as_bytes(), value) {
            panic!("header edit {name:?}: {problem}");
        }
        let edits = if target == target::REQUEST { &mut self.request_edits } else { &mut self.response_edits };
        assert!(edits.len() < limit::EDITS, "more than {} header edits", limit::EDITS);
        edits.push(Edit::new(op, name, value));
    }

    pub(crate) fn watch_response(&mut self, token: u64) {
        self.token = Some(token);
    }

    pub(crate) fn reason(&mut self, text: &str) {
        self.reason = Some(text.into());
    }
}

pub(crate) fn log(level: i32, text: &str) {
    eprintln!("filter log {level}: {text}");
}
