//! Steals GraphQL operations by name, from the query string or the body.
//!
//! Config: `{"operations": ["AddToCart"], "path": "/graphql"}`; see README.md.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::graphql::{self, Kind, Operation};
use mirrord_filter_sdk::{filter, query, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"operations": ["AddToCart", "Cart"], "path": "/graphql"}"#;

/// A request with a longer body passes, in bytes: it is held in the agent until it has come.
const LONGEST_BODY: usize = 256 << 10;

/// Which operations are ours.
pub struct GraphQl {
    path: String,
    /// Nothing for all names.
    operations: Option<Vec<String>>,
    /// Nothing for all kinds.
    kind: Option<Kind>,
}

impl Filter for GraphQl {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let path = fields.optional_text("path")?.unwrap_or_else(|| "/graphql".into());
        let operations = fields.optional_texts("operations")?;
        let kind = match fields.optional_text("kind")?.as_deref() {
            None => None,
            Some("query") => Some(Kind::Query),
            Some("mutation") => Some(Kind::Mutation),
            Some("subscription") => Some(Kind::Subscription),
            Some(_) => return Err(fields.wrong("\"kind\" is none of \"query\", \"mutation\" and \"subscription\"")),
        };
        fields.no_others()?;
        if operations.is_none() && kind.is_none() {
            return Err(fields.lacks("operations"));
        }
        Ok(GraphQl { path, operations, kind })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        if query::path(request.path()) != self.path.as_bytes() {
            return Verdict::Pass;
        }
        match request.method() {
            "GET" => {
                let asked = graphql::from_target(request.path());
                self.decide(request, asked.as_slice())
            }
            // A body that is packed cannot be read here.
            "POST" if is_json(request) && request.header("content-encoding").is_none() => request.need_body(LONGEST_BODY),
            _ => Verdict::Pass,
        }
    }

    fn decide_by_body(&mut self, request: &mut Request, body: &[u8], end: bool) -> Verdict {
        match graphql::from_json(body) {
            Some(asked) if end => self.decide(request, &asked),
            _ => Verdict::Pass,
        }
    }
}

impl GraphQl {
    /// A batch is stolen as a whole if one of its operations is ours: it has one answer.
    fn decide(&self, request: &mut Request, asked: &[Operation]) -> Verdict {
        let Some(mine) = asked.iter().find(|operation| self.is_mine(operation)) else { return Verdict::Pass };
        request.reason(format!("it asks for {}", mine.name.as_deref().unwrap_or("an operation of the configured kind")));
        Verdict::Steal
    }

    fn is_mine(&self, operation: &Operation) -> bool {
        let named = |names: &Vec<String>| operation.name.as_ref().is_some_and(|name| names.contains(name));
        self.operations.as_ref().is_none_or(named) && self.kind.is_none_or(|kind| operation.kind == Some(kind))
    }
}

fn is_json(request: &Request) -> bool {
    let media_type = request.header_str("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

filter!(GraphQl);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    fn post(body: &str) -> testing::Request {
        testing::Request::new("POST", "/graphql").header("Content-Type", "Application/JSON; charset=utf-8").body(body)
    }

    fn run(config: &str, request: testing::Request) -> testing::Outcome {
        request.run(&mut testing::configure::<GraphQl>(config).unwrap())
    }

    #[test]
    fn operations_are_stolen_by_name_wherever_they_stand() {
        for request in [
            post(r#"{"query": "mutation AddToCart($id: ID!) { add(id: $id) { count } }", "variables": {"id": 3}}"#),
            post(r#"{"query": "query A { a } query Cart { b }", "operationName": "Cart"}"#),
            post(r#"{"operationName": "Cart", "extensions": {"persistedQuery": {"version": 1, "sha256Hash": "x"}}}"#),
            post(r#"[{"query": "query Other { a }"}, {"query": "query Cart { a }"}]"#),
            testing::Request::get("/graphql?query=query+Cart%7Ba%7D"),
            testing::Request::get("/graphql?operationName=Cart"),
        ] {
            assert_eq!(run(EXAMPLE, request).verdict, Verdict::Steal);
        }
        let outcome = run(EXAMPLE, post(r#"{"query": "query Cart { a }"}"#));
        assert_eq!(outcome.reason.as_deref(), Some("it asks for Cart"));
    }

    #[test]
    fn or_by_kind() {
        let config = r#"{"kind": "mutation"}"#;
        assert_eq!(run(config, post(r#"{"query": "mutation { a }"}"#)).verdict, Verdict::Steal);
        assert_eq!(run(config, post(r#"{"query": "query mutation { a }"}"#)).verdict, Verdict::Pass);
        let both = r#"{"kind": "query", "operations": "Cart"}"#;
        assert_eq!(run(both, post(r#"{"query": "mutation Cart { a }"}"#)).verdict, Verdict::Pass);
    }

    #[test]
    fn everything_else_passes() {
        let long = format!(r#"{{"query": "query Cart {{ a }}", "x": "{}"}}"#, "x".repeat(LONGEST_BODY));
        for request in [
            post(r#"{"query": "query Other { Cart }"}"#),
            post(r#"{"query": "query Other { a }", "operationName": "Cart"}"#),
            post("query Cart { a }"),
            post(""),
            post(&long),
            post(r#"{"query": "query Cart { a }"}"#).header("content-encoding", "gzip"),
            testing::Request::new("POST", "/graphql").body(r#"{"query": "query Cart { a }"}"#),
            testing::Request::new("POST", "/other").header("content-type", "application/json").body(r#"{"query": "query Cart { a }"}"#),
            testing::Request::new("DELETE", "/graphql?operationName=Cart"),
            testing::Request::get("/other?operationName=Cart"),
            testing::Request::get("/graphql"),
        ] {
            assert_eq!(run(EXAMPLE, request).verdict, Verdict::Pass);
        }
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            ("{}", "lacks \"operations\""),
            (r#"{"kind": "fragment"}"#, "none of"),
            (r#"{"operations": [1]}"#, "list of strings"),
            (r#"{"operation": "Cart"}"#, "unknown field"),
        ] {
            let why = testing::configure::<GraphQl>(config).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
        }
    }
}
