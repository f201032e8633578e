//! JSONPath (RFC 9535) on a request's body. What a query may cost is bounded by what it may say: results grow with the body's
//! length, not with its square.

use std::borrow::Cow;

use serde_json::Value;
use serde_json_path::{
    JsonPath,
    functions::{NodesType, ValueType},
};

/// Longest query, bytes.
const LONGEST: usize = 1 << 10;
/// Most `..` in a query: each one multiplies the results by the body's depth.
const DESCENTS: usize = 1;
/// Deepest nesting of a body.
const DEEPEST: usize = 32;

pub(super) struct Query(JsonPath);

/// `typeof(@)`: the name of a value's type.
#[serde_json_path::function(name = "typeof")]
fn type_of(nodes: NodesType<'_>) -> ValueType<'_> {
    let name = match nodes.first() {
        None => return ValueType::Nothing,
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    };
    ValueType::Value(name.into())
}

impl Query {
    /// The error is for the user.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("a query of {} bytes is longer than {LONGEST}", text.len()));
        }
        let bare = without_strings(text);
        if bare.matches("..").count() > DESCENTS {
            return Err(format!("`{text}` has more than one `..`; name the members in between"));
        }
        if bare.matches('$').count() > 1 {
            return Err(format!("`{text}` has a `$` in a filter, which would search the whole body for each element; use `@`"));
        }
        if bare.contains("match(") || bare.contains("search(") {
            return Err(format!("`{text}`: match() and search() are not supported; put the pattern into `matches`"));
        }
        let path = JsonPath::parse(text).map_err(|error| format!("`{text}` is no JSONPath: {error}"))?;
        Ok(Self(path))
    }

    /// Each result as text: strings without their quotes, the rest as compact JSON.
    pub(super) fn results<'a>(&self, body: &'a Value) -> impl Iterator<Item = Cow<'a, str>> {
        self.0.query(body).all().into_iter().map(|value| match value {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            value => Cow::Owned(value.to_string()),
        })
    }
}

/// The body, if it is JSON and no deeper than it may be.
pub(super) fn read(body: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(body).ok()?;
    is_shallow(&value, DEEPEST).then_some(value)
}

fn is_shallow(value: &Value, left: usize) -> bool {
    let Some(left) = left.checked_sub(1) else { return false };
    match value {
        Value::Array(values) => values.iter().all(|value| is_shallow(value, left)),
        Value::Object(members) => members.values().all(|value| is_shallow(value, left)),
        _ => true,
    }
}

/// The query without what stands in quotes.
fn without_strings(query: &str) -> String {
    let mut bare = String::with_capacity(query.len());
    let (mut quote, mut escaped) = (None, false);
    for character in query.chars() {
        match quote {
            None if matches!(character, '\'' | '"') => quote = Some(character),
            None => bare.push(character),
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
        }
    }
    bare
}
