//! Steals requests, but not their secrets: headers and members of JSON bodies are blotted out before anything leaves the
//! pod's machine.
//!
//! Config: `{"header": "x-user", "value": "me", "fields": ["password"]}`; see README.md.

mod blot;

use std::collections::HashMap;

use blot::Blot;
use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::{filter, Body, Filter, Request, Response, Verdict};

const EXAMPLE: &str =
    r#"{"header": "x-user", "value": "me", "remove": ["authorization", "cookie"], "fields": ["password", "card_number"]}"#;

/// Bodies are gone through in pieces of this size, in bytes.
const WINDOW: usize = 64 << 10;

/// Whose requests are stolen, and what nobody gets to see of them.
pub struct Redact {
    header: String,
    value: String,
    remove: Vec<String>,
    fields: Vec<String>,
    responses: bool,
    /// Those that are under way, by token.
    exchanges: HashMap<u64, Exchange>,
    next: u64,
}

/// How far the bodies of one exchange have come.
struct Exchange {
    request: Side,
    response: Side,
}

enum Side {
    Json(Blot),
    /// It should have no body: whatever comes is dropped.
    Empty,
}

impl Filter for Redact {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let (header, value) = (fields.text("header")?, fields.text("value")?);
        let remove = fields.optional_texts("remove")?.unwrap_or_else(|| ["authorization", "cookie"].map(Into::into).into());
        let names = fields.optional_texts("fields")?.unwrap_or_default();
        let responses = match fields.value("responses") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| fields.wrong("\"responses\" is neither true nor false"))?,
        };
        fields.no_others()?;
        if let Some(problem) = remove.iter().find_map(|name| mirrord_filter_sdk::abi::edit_problem(name.as_bytes(), b"")) {
            return Err(fields.wrong(format_args!("\"remove\": {problem}")));
        }
        if names.iter().any(|name| name.len() > blot::LONGEST_NAME) {
            return Err(fields.wrong(format_args!("\"fields\" has a name of over {} bytes", blot::LONGEST_NAME)));
        }
        Ok(Redact { header, value, remove, fields: names, responses, exchanges: HashMap::new(), next: 0 })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        if !request.header_values(&self.header).any(|value| value == self.value.as_bytes()) {
            return Verdict::Pass;
        }
        let request_side = match self.side(request.header("content-type"), request.header("content-encoding")) {
            Some(side) => side,
            // What cannot be read cannot be blotted out: it stays with the pod.
            None => {
                request.reason("its body is of a kind that cannot be redacted");
                return Verdict::Pass;
            }
        };
        for name in &self.remove {
            request.remove_header(name);
        }
        self.next += 1;
        if self.responses {
            // A packed response could not be read.
            request.remove_header("accept-encoding");
            request.watch_response(self.next);
        }
        request.set_token(self.next);
        request.watch_request_body(WINDOW);
        request.watch_end();
        self.exchanges.insert(self.next, Exchange { request: request_side, response: Side::Empty });
        request.reason("it is the session's, and its secrets are blotted out");
        Verdict::Steal
    }

    fn on_request_body(&mut self, body: &mut Body) {
        pass(body, self.exchanges.get_mut(&body.token()).map(|exchange| &mut exchange.request), &self.fields);
    }

    fn on_response(&mut self, response: &mut Response) {
        let Some(side) = self.side(response.header("content-type"), response.header("content-encoding")) else {
            response.respond(&mirrord_filter_sdk::Reply::new(502).body("the response is of a kind that cannot be redacted\n"));
            return;
        };
        match self.exchanges.get_mut(&response.token()) {
            Some(exchange) => exchange.response = side,
            None => return response.abort(),
        }
        response.watch_body(WINDOW);
    }

    fn on_response_body(&mut self, body: &mut Body) {
        pass(body, self.exchanges.get_mut(&body.token()).map(|exchange| &mut exchange.response), &self.fields);
    }

    fn on_end(&mut self, token: u64) {
        self.exchanges.remove(&token);
    }
}

impl Redact {
    fn side(&self, content_type: Option<&[u8]>, content_encoding: Option<&[u8]>) -> Option<Side> {
        if content_encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return None;
        }
        let Some(content_type) = content_type else { return Some(Side::Empty) };
        let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let json = media_type.eq_ignore_ascii_case(b"application/json") || media_type.to_ascii_lowercase().ends_with(b"+json");
        json.then(|| Side::Json(Blot::default()))
    }
}

fn pass(body: &mut Body, side: Option<&mut Side>, fields: &[String]) {
    match side {
        Some(Side::Json(blot)) => {
            let mut out = Vec::with_capacity(body.bytes().len());
            blot.piece(body.bytes(), fields, &mut out);
            body.replace(out);
        }
        Some(Side::Empty) if body.bytes().is_empty() => {}
        Some(Side::Empty) => body.replace(b""),
        // Of an instance that failed: nobody knows how far it was.
        None => body.abort(),
    }
}

filter!(Redact);

#[cfg(test)]
mod tests;
