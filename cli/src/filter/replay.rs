//! One request through a chain without an agent: the chain's own walk, with bodies given as the gateway gives them.

use std::{
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use mirrord_filters::{Chain, Edit, Fault, Field, Followers, LocalResponse, Outcome, RequestParts, ResponseParts, Side, Step, Verdict};

use super::requests::Recorded;

/// How long a filter may wait for something of its own (a tick, an upstream that is not there).
const WAIT: Duration = Duration::from_secs(2);
/// How often a filter may ask for more of a body.
const ASKS: usize = 64;

/// What became of a request.
#[derive(Debug, Default)]
pub struct Replayed {
    pub verdict: Verdict,
    pub reason: Option<String>,
    pub path: Option<Vec<u8>>,
    pub delay: Option<Duration>,
    pub request_edits: Vec<Edit>,
    pub response_edits: Vec<Edit>,
    /// The request's body, if the filter replaced some of it.
    pub request_body: Option<Vec<u8>>,
    /// Of the recorded response.
    pub response_body: Option<Vec<u8>>,
    /// What goes to the client instead of the recorded response.
    pub replaced: Option<LocalResponse>,
    pub faults: Vec<Fault>,
}

/// Name of a verdict, as in files of requests.
pub fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Steal => "steal",
        Verdict::Mirror => "mirror",
        Verdict::StealAndMirror => "steal_and_mirror",
        Verdict::Respond(_) => "respond",
        Verdict::Abort => "abort",
    }
}

/// Headers as filters see them.
pub fn fields(headers: &[(String, String)]) -> Vec<Field<'_>> {
    headers.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
}

/// A request as filters see it.
pub fn parts<'a>(recorded: &'a Recorded, headers: &'a [Field<'a>]) -> RequestParts<'a> {
    RequestParts {
        method: recorded.method.as_bytes(),
        path: recorded.path.as_bytes(),
        headers,
        client: recorded.client,
        destination: recorded.destination,
        version: recorded.version,
        end: recorded.body.is_empty(),
    }
}

pub fn replay(chain: &mut Chain, recorded: &Recorded) -> Replayed {
    let headers = fields(&recorded.headers);
    let request = parts(recorded, &headers);
    let Outcome { verdict, request_edits, response_edits, path, delay, reason, faults, followers, .. } =
        decide(chain, &request, &recorded.body);
    let mut replayed = Replayed {
        verdict,
        reason: reason.map(|reason| reason.to_string()),
        path,
        delay,
        request_edits,
        response_edits,
        faults,
        ..Replayed::default()
    };
    if let Some(followers) = followers {
        follow(chain, *followers, recorded, &mut replayed);
    }
    replayed
}

/// Asks until it is decided.
pub fn decide(chain: &mut Chain, request: &RequestParts<'_>, body: &[u8]) -> Outcome {
    let mut step = chain.on_request(request);
    let deadline = Instant::now() + WAIT;
    for _ in 0..ASKS {
        step = match step {
            Step::Decided(outcome) => return outcome,
            Step::NeedsBody(pending) => {
                let count = pending.window().min(body.len());
                chain.on_request_body(pending, request, &body[..count], count == body.len())
            }
            Step::Waits(mut pending) => loop {
                match chain.poll(&mut Context::from_waker(Waker::noop()), &mut pending, request) {
                    Poll::Ready(step) => break step,
                    Poll::Pending if Instant::now() >= deadline => return chain.skip(pending, request),
                    Poll::Pending => thread::sleep(Duration::from_millis(2)),
                }
            },
        };
    }
    match step {
        Step::Decided(outcome) => outcome,
        Step::NeedsBody(pending) | Step::Waits(pending) => chain.skip(pending, request),
    }
}

/// What follows the verdict: the rest of the request, and the response if there is one.
fn follow(chain: &mut Chain, mut followers: Followers, recorded: &Recorded, replayed: &mut Replayed) {
    replayed.request_body = pass(chain, &mut followers, Side::Request, &recorded.body, &mut replayed.faults);
    if let Some(response) = &recorded.response {
        if followers.want_response() {
            let headers = fields(&response.headers);
            let said = chain.on_response(&mut followers, &ResponseParts { status: response.status, headers: &headers });
            replayed.response_edits.extend(said.edits);
            replayed.reason = replayed.reason.take().or(said.reason.map(|reason| reason.to_string()));
            replayed.replaced = said.replace;
            replayed.faults.extend(said.faults);
        }
        replayed.response_body = pass(chain, &mut followers, Side::Response, &response.body, &mut replayed.faults);
    }
    replayed.faults.extend(chain.on_end(followers));
}

/// A body, window by window; its replacement if there is one.
fn pass(chain: &mut Chain, followers: &mut Followers, side: Side, body: &[u8], faults: &mut Vec<Fault>) -> Option<Vec<u8>> {
    let (mut out, mut at, mut is_replaced) = (Vec::new(), 0, false);
    while let Some(window) = followers.window(side) {
        let next = body.len().min(at + window);
        let said = chain.on_body(followers, side, &body[at..next], next == body.len());
        faults.extend(said.faults);
        is_replaced |= said.replaced.is_some();
        out.extend(said.replaced.unwrap_or_else(|| body[at..next].to_vec()));
        at = next;
        if at == body.len() || said.abort {
            break;
        }
    }
    out.extend_from_slice(&body[at..]);
    is_replaced.then_some(out)
}

/// The headers that edits make of others.
pub fn apply(headers: &[(String, String)], edits: &[Edit]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut headers = headers.to_vec();
    for edit in edits {
        if !matches!(edit, Edit::Append { .. }) {
            headers.retain(|(name, _)| !name.as_bytes().eq_ignore_ascii_case(edit.name()));
        }
        if let Edit::Set { name, value } | Edit::Append { name, value } = edit {
            headers.push((text(name), text(value)));
        }
    }
    headers
}
