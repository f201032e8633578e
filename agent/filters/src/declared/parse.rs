//! From JSON text to a condition. The grammar is that of `http_filter` in the config file; `not` and nesting are additions.
//!
//! ```text
//! top:    {"header_filter": R} {"path_filter": R} {"method_filter": M} {"body_filter": {"body": "json", "query": Q, "matches": R}}
//! below:  {"header": R}        {"path": R}        {"method": M}        {"body": "json", "query": Q, "matches": R}
//! both:   {"all_of": [below…]} {"any_of": [below…]} {"not": below}
//! ```

use serde_json::{Map, Value};

use super::{
    Node,
    json::Query,
    pattern::{Case, Pattern},
};
use crate::abi::is_token;

/// Deepest nesting of conditions.
const DEEPEST: usize = 16;
/// Most conditions of one filter.
const MOST: usize = 256;

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}; {help}", if at.is_empty() { String::new() } else { format!("{at}: ") })]
pub struct DeclaredError {
    /// Where, for instance `all_of[1].path`; empty: the whole.
    pub at: String,
    /// What.
    pub problem: String,
    /// The next step.
    pub help: String,
}

/// Keys of the top level, how they are written below it, and an example.
const KINDS: [(&str, &str, &str); 7] = [
    ("header_filter", "header", r#"{"header_filter": "^x-user: me$"}"#),
    ("path_filter", "path", r#"{"path_filter": "^/orders"}"#),
    ("method_filter", "method", r#"{"method_filter": "GET"}"#),
    ("body_filter", "body", r#"{"body_filter": {"body": "json", "query": "$.user", "matches": "^me$"}}"#),
    ("all_of", "all_of", r#"{"all_of": [{"method": "POST"}, {"path": "^/orders"}]}"#),
    ("any_of", "any_of", r#"{"any_of": [{"header": "^x-user: me$"}, {"path": "^/mine"}]}"#),
    ("not", "not", r#"{"not": {"header": "^user-agent: kube-probe"}}"#),
];

/// Where in the text we are, and how many conditions were met.
struct Reader {
    at: String,
    count: usize,
}

pub(super) fn condition(text: &str) -> Result<(&'static str, Node), DeclaredError> {
    let mut reader = Reader { at: String::new(), count: 0 };
    let value: Value = serde_json::from_str(text)
        .map_err(|error| reader.error(format!("the condition is not JSON ({error})"), format!("it looks like {}", KINDS[0].2)))?;
    let Value::Object(members) = &value else {
        return Err(reader.error("a condition is an object", format!("it looks like {}", KINDS[0].2)));
    };
    let (key, value) = reader.only(members, |kind| kind.0)?;
    let kind = KINDS.iter().find(|kind| kind.0 == key);
    let Some(&(kind, short, example)) = kind else {
        let help = match KINDS.iter().find(|kind| kind.1 == key) {
            Some((long, ..)) => format!("at the top level it is called `{long}`"),
            None if key == "header_filter_jq" || key == "query" => "use header_filter, with a regular expression".into(),
            None => format!("the kinds are {}", KINDS.map(|kind| kind.0).join(", ")),
        };
        let problem = if key == "header_filter_jq" {
            "`header_filter_jq` is not supported yet".into()
        } else {
            format!("`{key}` is no kind of filter")
        };
        return Err(reader.error(problem, help));
    };
    reader.at = kind.into();
    let node = match (short, value) {
        ("body", Value::Object(members)) => reader.body(members)?,
        ("body", _) => return Err(reader.error("it is an object", format!("it looks like {example}"))),
        (short, value) => reader.kind(short, value, DEEPEST)?,
    };
    Ok((kind, node))
}

impl Reader {
    fn error(&self, problem: impl Into<String>, help: impl Into<String>) -> DeclaredError {
        DeclaredError { at: self.at.clone(), problem: problem.into(), help: help.into() }
    }

    /// The only member of an object.
    fn only<'a>(
        &self,
        members: &'a Map<String, Value>,
        name: fn(&(&'static str, &'static str, &'static str)) -> &'static str,
    ) -> Result<(&'a str, &'a Value), DeclaredError> {
        let mut all = members.iter();
        match (all.next(), all.next()) {
            (Some((key, value)), None) => Ok((key, value)),
            (None, _) => {
                Err(self.error("it holds no condition", format!("put one of {} into it", KINDS.map(|kind| name(&kind)).join(", "))))
            }
            (Some((first, _)), Some((second, _))) => {
                let short = |key: &str| KINDS.iter().find(|kind| kind.0 == key).map_or(key.to_owned(), |kind| kind.1.to_owned());
                let help = format!("combine them: {{\"all_of\": [{{\"{}\": …}}, {{\"{}\": …}}]}}, or any_of", short(first), short(second));
                Err(self.error(format!("`{first}` and `{second}` stand side by side"), help))
            }
        }
    }

    fn node(&mut self, value: &Value, left: usize) -> Result<Node, DeclaredError> {
        self.count += 1;
        if self.count > MOST {
            return Err(self.error(format!("more than {MOST} conditions"), "put alternatives into one regular expression: ^/(a|b)"));
        }
        let Some(left) = left.checked_sub(1) else {
            return Err(self.error(format!("conditions nest deeper than {DEEPEST}"), "flatten them"));
        };
        let Value::Object(members) = value else {
            return Err(self.error("a condition is an object", r#"it looks like {"header": "^x-user: me$"}"#));
        };
        if members.contains_key("body") || members.contains_key("matches") {
            return self.body(members);
        }
        let (key, value) = self.only(members, |kind| kind.1)?;
        match KINDS.iter().find(|kind| kind.1 == key) {
            Some((_, short, _)) => self.within(&format!(".{key}"), |reader| reader.kind(short, value, left)),
            None => {
                let help = match KINDS.iter().find(|kind| kind.0 == key) {
                    Some((_, short, _)) => format!("here it is called `{short}`"),
                    None => format!("the kinds are {}", KINDS.map(|kind| kind.1).join(", ")),
                };
                let problem =
                    if key == "query" { "jq programs are not supported yet".into() } else { format!("`{key}` is no kind of condition") };
                Err(self.error(problem, help))
            }
        }
    }

    fn kind(&mut self, kind: &str, value: &Value, left: usize) -> Result<Node, DeclaredError> {
        match kind {
            "all_of" => self.list(value, left).map(Node::AllOf),
            "any_of" => self.list(value, left).map(Node::AnyOf),
            "not" => self.node(value, left).map(|node| Node::Not(Box::new(node))),
            "method" => self.text(value).map(|method| Node::Method(method.to_owned())).and_then(|node| self.method(node)),
            "header" => {
                let text = self.text(value)?;
                Ok(Node::Header { name: only_name(text), pattern: self.pattern(text, Case::Ignored)? })
            }
            _ => {
                let text = self.text(value)?;
                self.pattern(text, Case::Ignored).map(Node::Path)
            }
        }
    }

    fn method(&self, node: Node) -> Result<Node, DeclaredError> {
        match &node {
            Node::Method(method) if !method.bytes().all(is_token) => {
                Err(self.error(format!("`{method}` is no method"), "it is one word, for instance GET; it is no regular expression"))
            }
            _ => Ok(node),
        }
    }

    fn list(&mut self, value: &Value, left: usize) -> Result<Vec<Node>, DeclaredError> {
        let Value::Array(values) = value else {
            return Err(self.error("it is a list of conditions", r#"it looks like [{"method": "POST"}, {"path": "^/orders"}]"#));
        };
        if values.is_empty() {
            return Err(self.error("the list is empty", "put at least one condition into it"));
        }
        values.iter().enumerate().map(|(index, value)| self.within(&format!("[{index}]"), |reader| reader.node(value, left))).collect()
    }

    fn body(&mut self, members: &Map<String, Value>) -> Result<Node, DeclaredError> {
        const SHAPE: &str = r#"it looks like {"body": "json", "query": "$.user", "matches": "^me$"}"#;
        if let Some(unknown) = members.keys().find(|key| !matches!(key.as_str(), "body" | "query" | "matches")) {
            return Err(self.error(format!("`{unknown}` is no part of a condition on the body"), SHAPE));
        }
        let member = |reader: &mut Self, key: &str| match members.get(key) {
            Some(value) => reader.within(&format!(".{key}"), |reader| reader.text(value).map(str::to_owned)),
            None => Err(reader.error(format!("`{key}` is missing"), SHAPE)),
        };
        let kind = member(self, "body")?;
        if kind != "json" {
            return self.within(".body", |reader| Err(reader.error(format!("`{kind}` is no kind of body"), "the only one is \"json\"")));
        }
        let (query, matches) = (member(self, "query")?, member(self, "matches")?);
        let query = self.within(".query", |reader| {
            Query::new(&query).map_err(|problem| reader.error(problem, "see RFC 9535; for instance $.items[*].id"))
        })?;
        let matches = self.within(".matches", |reader| reader.pattern(&matches, Case::Counts))?;
        Ok(Node::Body { query, matches })
    }

    fn text<'a>(&self, value: &'a Value) -> Result<&'a str, DeclaredError> {
        match value {
            Value::String(text) if text.is_empty() => Err(self.error("it is empty", "leave it out, or say what is to match")),
            Value::String(text) => Ok(text),
            _ => Err(self.error("it is no text", "put one string in quotes")),
        }
    }

    fn pattern(&self, text: &str, case: Case) -> Result<Pattern, DeclaredError> {
        Pattern::new(text, case).map_err(|problem| {
            self.error(problem, "see https://docs.rs/regex/latest/regex/#syntax; a special character is made plain by \\")
        })
    }

    /// Reads a part whose place is told by `more`.
    fn within<T>(&mut self, more: &str, read: impl FnOnce(&mut Self) -> Result<T, DeclaredError>) -> Result<T, DeclaredError> {
        let length = self.at.len();
        self.at.push_str(more);
        let result = read(self);
        self.at.truncate(length);
        result
    }
}

/// The only name of headers that a pattern can match: `^NAME: …` with nothing in NAME but letters, digits, `-` and `_`. Most
/// patterns are such, and then other headers need not be searched.
fn only_name(pattern: &str) -> Option<String> {
    let (name, rest) = pattern.strip_prefix('^')?.split_once(':')?;
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    // An alternative beside it could be another name, and a `?` behind the colon takes the colon away.
    let only = plain && !pattern.contains('|') && !rest.starts_with(['?', '*', '+', '{']) && !pattern.contains("(?x");
    only.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_from_a_pattern_only_if_there_can_be_no_other() {
        assert_eq!(only_name("^x-user: me$").as_deref(), Some("x-user"));
        for pattern in ["x-user: me", "^x-user: me|^y: z", "^x-.*: me", "^x-user:? me", "^x-user", "^: me", "^(?:a): b"] {
            assert_eq!(only_name(pattern), None, "{pattern}");
        }
    }
}
