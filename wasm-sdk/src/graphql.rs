//! GraphQL over HTTP: which operations a request asks for. From a query document, from a JSON body (one request or a
//! batch), or from a GET's query string.
//!
//! The document is read only as far as this needs: comments and strings are passed over, and what stands outside all
//! braces is looked at. It is not checked otherwise; that is the server's business.

use crate::{json, query};

/// No more than this many requests of a batch, or operations of a document, are looked at.
pub const OPERATIONS: usize = 64;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "GraphQL's own names")]
pub enum Kind {
    Query,
    Mutation,
    Subscription,
}

/// One operation that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Nothing for a persisted query, whose text only the server knows.
    pub kind: Option<Kind>,
    /// Nothing for an anonymous one.
    pub name: Option<String>,
}

/// From the body of a POST with `application/json`: the operation of each request in it, one unless it is a batch.
/// Nothing for what is not JSON, and none for a request that asks for no operation.
pub fn from_json(body: &[u8]) -> Option<Vec<Operation>> {
    let body = json::parse(body).ok()?;
    let of = |request: json::Value<'_>| {
        let text = |name| request.get(name).and_then(json::Value::as_str);
        asked_for(text("query").as_deref(), text("operationName").as_deref())
    };
    Some(match body.kind() {
        json::Kind::Array => body.items().take(OPERATIONS).filter_map(of).collect(),
        _ => of(body).into_iter().collect(),
    })
}

/// From a GET's request target: `/graphql?query=…&operationName=…`.
pub fn from_target(target: &[u8]) -> Option<Operation> {
    let text = |name| query::get(target, name).and_then(|value| String::from_utf8(value.into_owned()).ok());
    asked_for(text("query").as_deref(), text("operationName").as_deref())
}

/// Which operation of a document is meant: the one of that name, or the only one. A name without a document is a
/// persisted query.
fn asked_for(document: Option<&str>, name: Option<&str>) -> Option<Operation> {
    let name = name.filter(|name| !name.is_empty());
    let Some(document) = document else {
        return name.map(|name| Operation { kind: None, name: Some(name.into()) });
    };
    let mut operations = operations(document);
    match name {
        Some(name) => operations.into_iter().find(|operation| operation.name.as_deref() == Some(name)),
        None if operations.len() == 1 => operations.pop(),
        None => None,
    }
}

/// The operations of a query document, in order.
pub fn operations(document: &str) -> Vec<Operation> {
    let mut tokens = Tokens(document);
    let mut found = Vec::new();
    let mut depth = 0u32;
    // The definition that has begun: its first selection set opens a shorthand query only where nothing stands before it.
    let mut begun = false;
    while let Some(token) = tokens.next() {
        if found.len() == OPERATIONS {
            break;
        }
        match token {
            "{" | "(" | "[" => {
                if depth == 0 && token == "{" && !begun {
                    found.push(Operation { kind: Some(Kind::Query), name: None });
                }
                begun = true;
                depth = depth.saturating_add(1);
            }
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                begun &= depth > 0 || token != "}";
            }
            _ if depth > 0 || begun => {}
            keyword => {
                begun = true;
                let kind = match keyword {
                    "query" => Kind::Query,
                    "mutation" => Kind::Mutation,
                    "subscription" => Kind::Subscription,
                    _ => continue,
                };
                let name = tokens.peek().filter(|token| is_name(token)).map(Into::into);
                found.push(Operation { kind: Some(kind), name });
            }
        }
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first == '_' || first.is_ascii_alphabetic())
}

/// Names, numbers and single punctuators; strings are passed over, as are comments, commas and blanks.
#[derive(Clone, Copy)]
struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    fn peek(self) -> Option<&'a str> {
        let mut ahead = self;
        ahead.next()
    }

    fn skip_string(&mut self) {
        if let Some(block) = self.0.strip_prefix("\"\"\"") {
            let mut rest = block;
            // A quoted end, `\"""`, does not end it.
            self.0 = loop {
                let Some((before, after)) = rest.split_once("\"\"\"") else { break "" };
                rest = after;
                if !before.ends_with('\\') {
                    break after;
                }
            };
            return;
        }
        let mut characters = self.0.chars();
        characters.next();
        // A line break ends a string that lacks its end, so that the rest is still read.
        while let Some(character) = characters.next() {
            match character {
                '\\' => drop(characters.next()),
                '"' | '\n' | '\r' => break,
                _ => {}
            }
        }
        self.0 = characters.as_str();
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r', ',', '\u{feff}']);
            match self.0.chars().next()? {
                '#' => self.0 = self.0.trim_start_matches(|character| !matches!(character, '\n' | '\r')),
                '"' => self.skip_string(),
                first => {
                    let in_word = |character: char| character == '_' || character.is_ascii_alphanumeric();
                    let word = self.0.find(|character| !in_word(character)).unwrap_or(self.0.len());
                    let (token, rest) = self.0.split_at_checked(word.max(first.len_utf8()))?;
                    self.0 = rest;
                    return Some(token);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: &str) -> Vec<(Kind, Option<String>)> {
        operations(document).into_iter().map(|operation| (operation.kind.unwrap(), operation.name)).collect()
    }

    fn named(kind: Kind, name: &str) -> (Kind, Option<String>) {
        (kind, Some(name.into()))
    }

    /// Documents of the GraphQL specification (section 2) and of its reference implementation's "kitchen sink".
    #[test]
    fn operations_are_found_among_what_else_a_document_holds() {
        assert_eq!(read("{ field }"), [(Kind::Query, None)]);
        assert_eq!(read("query { a }"), [(Kind::Query, None)]);
        assert_eq!(read("mutation { likeStory(storyID: 12345) { story { likeCount } } }"), [(Kind::Mutation, None)]);
        assert_eq!(
            read("query withFragments { user(id: 4) { ...f } } fragment f on User { id query mutation }"),
            [named(Kind::Query, "withFragments")]
        );
        let kitchen_sink = r#"
            query queryName($foo: ComplexType, $site: Site = MOBILE) @onQuery {
              whoever123is: node(id: [123, 456]) { id, ... on User @onInlineFragment { field2 { id, alias: field1(first: 10, after: $foo) @include(if: $foo) { id, ...frag } } } }
            }
            mutation likeStory @onMutation { like(story: 123) @onField { story { id @onField } } }
            subscription StoryLikeSubscription($input: StoryLikeSubscribeInput @onVariableDefinition) @onSubscription { storyLikeSubscribe(input: $input) { story { likers { count } } } }
            fragment frag on Friend @onFragmentDefinition { foo(size: $size, bar: $b, obj: {key: "value", block: """
              block string uses \""" } query Fake { a }
              """}) }
            { unnamed(truthy: true, falsy: false, nullish: null), query }
            { __typename }"#;
        assert_eq!(
            read(kitchen_sink),
            [
                named(Kind::Query, "queryName"),
                named(Kind::Mutation, "likeStory"),
                named(Kind::Subscription, "StoryLikeSubscription"),
                (Kind::Query, None),
                (Kind::Query, None)
            ]
        );
    }

    #[test]
    fn neither_comments_nor_strings_hold_operations() {
        assert_eq!(read("# mutation A { a }\nquery B { b(x: \"} mutation C {\", y: \"\\\"} mutation D {\") }"), [named(Kind::Query, "B")]);
        assert_eq!(read("query A($x: I = {a: 1}) { b }"), [named(Kind::Query, "A")]);
        assert_eq!(
            read("query A($x: [I] = [{a: 1}], $y: String = \"x\") @d(a: {b: 1}) { b } mutation M { c }"),
            [named(Kind::Query, "A"), named(Kind::Mutation, "M")]
        );
        assert_eq!(read("query query { a }"), [named(Kind::Query, "query")]);
        assert_eq!(read("query\u{feff},\n#x\nA{a}"), [named(Kind::Query, "A")]);
    }

    #[test]
    fn nonsense_is_survived() {
        for document in ["", "}}}}", "{{{{", "\"", "\"\"\"", "\"\"\"\\\"\"\"", "\\", "é", "#", "query", "query \"", "\u{0}"] {
            operations(document);
        }
        assert_eq!(read(&"{a}".repeat(1000)).len(), OPERATIONS);
        assert_eq!(read(&"(".repeat(1 << 20)), []);
    }

    #[test]
    fn a_body_says_which_operation_is_meant() {
        let operation = |kind, name: Option<&str>| vec![Operation { kind, name: name.map(Into::into) }];
        for (body, expected) in [
            (r#"{"query": "query A { a }"}"#, operation(Some(Kind::Query), Some("A"))),
            (r#"{"query": "query A { a } mutation B { b }", "operationName": "B"}"#, operation(Some(Kind::Mutation), Some("B"))),
            (r#"{"query": "{ a }", "operationName": null, "variables": {"query": 1}}"#, operation(Some(Kind::Query), None)),
            (r#"{"query": "{ a }", "operationName": ""}"#, operation(Some(Kind::Query), None)),
            (r#"{"operationName": "A", "extensions": {"persistedQuery": {"version": 1}}}"#, operation(None, Some("A"))),
            // The server refuses these, so nobody gets to run them.
            (r#"{"query": "query A { a } query B { b }"}"#, vec![]),
            (r#"{"query": "query A { a }", "operationName": "C"}"#, vec![]),
            (r#"{"x": 1}"#, vec![]),
            ("3", vec![]),
        ] {
            assert_eq!(from_json(body.as_bytes()), Some(expected), "{body}");
        }
        let batch = from_json(br#"[{"query": "query A { a }"}, {"query": "mutation B { b }"}, 7]"#).unwrap();
        assert_eq!(batch.iter().map(|operation| operation.name.as_deref().unwrap()).collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(from_json(b"{"), None);
    }

    #[test]
    fn a_target_says_it_too() {
        let found = from_target(b"/graphql?query=query%20A%20%7B+a+%7D%20query%20B%7Bb%7D&operationName=B").unwrap();
        assert_eq!((found.kind, found.name.as_deref()), (Some(Kind::Query), Some("B")));
        assert_eq!(from_target(b"/graphql?operationName=A&extensions=%7B%7D").unwrap().kind, None);
        assert_eq!(from_target(b"/graphql?query=%ff"), None);
        assert_eq!(from_target(b"/graphql"), None);
    }
}
