//! A condition as a link of a chain. It knows nothing of a request between two calls, so there is nothing that it could mix up.

use std::sync::Arc;

use super::{BODY, Condition, Met, Scratch};
use crate::filter::Configured;
use crate::link::{Decision, Exchange, Link, LinkBody, LinkResponse, LinkStep, Side};
use crate::log::LogLevel;
use crate::{Fault, RequestParts, ResponseParts, Verdict};

pub(crate) struct Instance {
    filter: Arc<Configured>,
    condition: Arc<Condition>,
    reason: Arc<str>,
    scratch: Scratch,
}

impl Instance {
    pub(crate) fn new(filter: Arc<Configured>, condition: Arc<Condition>) -> Self {
        let reason = format!("{} is met", condition.kind()).into();
        Self { filter, condition, reason, scratch: Scratch::default() }
    }

    fn say(&self, met: bool) -> LinkStep {
        if self.scratch.gave_up() {
            self.filter.log.line(LogLevel::Warn, b"a pattern took too many steps on a request, and so did not match it");
        }
        match met {
            true => LinkStep::Decided(Decision { verdict: Verdict::Steal, reason: Some(self.reason.clone()), ..Decision::default() }),
            false => LinkStep::Pass,
        }
    }
}

impl Link for Instance {
    fn warm_up(&mut self) {}

    fn on_request(&mut self, request: &RequestParts<'_>) -> LinkStep {
        match self.condition.on_head(request, &self.scratch) {
            // One more than it looks at, so that it sees whether there is more.
            Met::NeedsBody => LinkStep::NeedsBody(Exchange(0), BODY + 1),
            met => self.say(met == Met::Yes),
        }
    }

    fn on_undecided_body(&mut self, _: Exchange, request: &RequestParts<'_>, body: &[u8], end: bool) -> LinkStep {
        let body = Some(body).filter(|body| end && body.len() <= BODY);
        self.say(self.condition.on_body(request, body, &self.scratch))
    }

    fn on_body(&mut self, _: Exchange, _: Side, _: &[u8], _: bool) -> Result<LinkBody, Fault> {
        Ok(LinkBody::default())
    }

    fn on_response(&mut self, _: Exchange, _: &ResponseParts<'_>) -> Result<LinkResponse, Fault> {
        Ok(LinkResponse::default())
    }

    fn on_end(&mut self, _: Exchange, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}
