//! Filters without Wasm: a condition on a request's header, path, method or JSON body, and any combination of them. As a link
//! of a chain such a filter steals what meets the condition and says nothing about all else.
//!
//! ```text
//! JSON text ─parse─► Condition ─on_head─► yes │ no │ needs the body ─on_body─► yes │ no
//! ```
//!
//! Three values, so that the body is asked for only where the head does not settle it: `{"any_of": [BODY, HEADER]}` is met by
//! the header alone. What users write is bounded when it is read (`parse`), what it may cost when it is used (`pattern`, `json`).

mod json;
mod link;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};

use serde_json::Value;

pub(crate) use link::Instance;
pub use parse::DeclaredError;

use crate::RequestParts;
use json::Query;
use pattern::Pattern;

/// Longest body that a condition looks at, bytes; a longer one meets no condition on the body.
pub const BODY: usize = 64 << 10;

/// What a request has to be like.
pub struct Condition {
    root: Node,
    /// Kind of the outermost condition, as users write it.
    kind: &'static str,
}

/// A condition or a combination of conditions.
enum Node {
    /// On each header as `name: value`. The name is set where the pattern can hold for headers of one name only.
    Header {
        name: Option<String>,
        pattern: Pattern,
    },
    /// On the path, and then on path and query.
    Path(Pattern),
    /// Equal, but for case.
    Method(String),
    /// On each result of a query, as text.
    Body {
        query: Query,
        matches: Pattern,
    },
    AllOf(Vec<Node>),
    AnyOf(Vec<Node>),
    Not(Box<Node>),
}

/// What is known of a condition so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Yes,
    No,
    /// The body decides.
    NeedsBody,
}

/// What conditions on one thread use again and again, so that they allocate nothing.
#[derive(Default)]
pub struct Scratch {
    line: RefCell<String>,
    /// A pattern gave up on this request: it did not match.
    gave_up: Cell<bool>,
}

/// The request as far as it is there.
#[derive(Clone, Copy)]
struct Asked<'a> {
    request: &'a RequestParts<'a>,
    /// Nothing: it has not come yet. Null stands for one that is no JSON, or too long: no query finds anything in it.
    body: Option<&'a Value>,
    scratch: &'a Scratch,
}

impl Condition {
    /// Reads a condition in the words of `http_filter` of the config file.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, DeclaredError> {
        let (kind, root) = parse::condition(text)?;
        Ok(Self { kind, root })
    }

    /// `header_filter`, `all_of` …
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Judges by the head; by a body that is known to be empty, too.
    pub fn on_head(&self, request: &RequestParts<'_>, scratch: &Scratch) -> Met {
        let body = request.end.then_some(&Value::Null);
        self.root.judge(Asked { request, body, scratch })
    }

    /// Judges by the head and the whole body; nothing stands for a body that is too long.
    pub fn on_body(&self, request: &RequestParts<'_>, body: Option<&[u8]>, scratch: &Scratch) -> bool {
        let body = body.and_then(json::read).unwrap_or(Value::Null);
        self.root.judge(Asked { request, body: Some(&body), scratch }) == Met::Yes
    }
}

impl Scratch {
    /// Whether a pattern gave up since the last call.
    pub fn gave_up(&self) -> bool {
        self.gave_up.take()
    }

    fn finds(&self, pattern: &Pattern, text: &str) -> bool {
        pattern.finds(text).unwrap_or_else(|_| {
            self.gave_up.set(true);
            false
        })
    }
}

impl Node {
    fn judge(&self, asked: Asked<'_>) -> Met {
        let known = match self {
            Self::Header { name, pattern } => asked.header(name.as_deref(), pattern),
            Self::Path(pattern) => asked.path(pattern),
            Self::Method(method) => asked.request.method.eq_ignore_ascii_case(method.as_bytes()),
            Self::Body { query, matches } => match asked.body {
                None => return Met::NeedsBody,
                Some(body) => query.results(body).any(|text| asked.scratch.finds(matches, &text)),
            },
            Self::AllOf(nodes) => return first_of(nodes, asked, Met::No, Met::Yes),
            Self::AnyOf(nodes) => return first_of(nodes, asked, Met::Yes, Met::No),
            Self::Not(node) => match node.judge(asked) {
                Met::NeedsBody => return Met::NeedsBody,
                met => met == Met::No,
            },
        };
        if known { Met::Yes } else { Met::No }
    }
}

/// `settles` if one of the nodes says it; else, unless one needs the body, what is left.
fn first_of(nodes: &[Node], asked: Asked<'_>, settles: Met, else_: Met) -> Met {
    let mut met = else_;
    for node in nodes {
        match node.judge(asked) {
            one if one == settles => return settles,
            Met::NeedsBody => met = Met::NeedsBody,
            _ => {}
        }
    }
    met
}

impl Asked<'_> {
    fn header(&self, name: Option<&str>, pattern: &Pattern) -> bool {
        let mut line = self.scratch.line.borrow_mut();
        self.request.headers.iter().any(|field| {
            if name.is_some_and(|name| !field.name.eq_ignore_ascii_case(name.as_bytes()))
                || !is_visible(field.name)
                || !is_visible(field.value)
            {
                return false;
            }
            line.clear();
            line.extend(field.name.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            line.push_str(": ");
            line.extend(field.value.iter().map(|&byte| char::from(byte)));
            self.scratch.finds(pattern, &line)
        })
    }

    fn path(&self, pattern: &Pattern) -> bool {
        let Some(target) = std::str::from_utf8(self.request.path).ok().map(origin_form) else { return false };
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        self.scratch.finds(pattern, path) || (path.len() < target.len() && self.scratch.finds(pattern, target))
    }
}

/// Visible ASCII, spaces and tabs: other values are skipped.
fn is_visible(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// A request target without scheme and host.
fn origin_form(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    match target.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => target,
    }
}
