//! A module of our ABI at work on one thread: calls the hooks and reads what the guest said.
//!
//! ```text
//!   empty ──call──► live ──ok──► live
//!     ▲               └──fault──► dropped ─┐      (a trap may leave a guest's own stack and locks broken for good)
//!     └────────────────────────────────────┘
//! ```

use std::sync::Arc;

use wasmtime::{Store, TypedFunc, UpdateDeadline};

use super::Guest;
use super::state::{Hook, State};
use crate::abi::{export, verdict};
use crate::deadline::Deadline;
use crate::error::{HostFault, explain};
use crate::filter::Configured;
use crate::link::{Decision, Exchange, Link, LinkBody, LinkConnection, LinkResponse, LinkStep, Side, Wants};
use crate::ticker::{self, Calls};
use crate::{ConnectionParts, Edit, Fault, FaultKind, LocalResponse, Policy, RequestParts, ResponseParts, Verdict};

/// One instance of a filter, for one thread and chain. Requests may be interleaved: what must be known again at the
/// response travels in the token.
pub(crate) struct Instance {
    filter: Arc<Configured>,
    guest: Guest,
    call_ticks: u64,
    calls: Calls,
    live: Option<Live>,
}

/// An instantiated and configured guest.
pub(crate) struct Live {
    store: Store<State>,
    on_request: TypedFunc<(), i32>,
    on_response: Option<TypedFunc<u64, ()>>,
}

/// Why a guest did not start.
pub(crate) enum StartFailure {
    /// It refused its config, in these words.
    Refused(String),
    Fault(Fault),
}

impl Instance {
    pub(crate) fn new(filter: Arc<Configured>, guest: Guest) -> Self {
        let call_ticks = ticker::ticks(filter.limits.call);
        let calls = guest.engine.inner.ticker.calls();
        Instance { filter, guest, call_ticks, calls, live: None }
    }

    /// Runs one hook on the live guest, made first if need be within the same deadline.
    fn call<T>(&mut self, hook: impl FnOnce(&mut Live, &Guest) -> Result<T, Fault>) -> Result<T, Fault> {
        self.calls.start();
        let result = match &mut self.live {
            Some(live) => {
                arm(&mut live.store, self.call_ticks);
                hook(live, &self.guest)
            }
            None => match Live::start(&self.filter, &self.guest, self.call_ticks) {
                Ok(live) => hook(self.live.insert(live), &self.guest),
                Err(failure) => Err(failure.into_fault(&self.filter)),
            },
        };
        self.calls.end();
        if result.is_err() {
            self.live = None;
        }
        result
    }
}

impl Link for Instance {
    fn warm_up(&mut self) {
        if self.live.is_none() {
            self.calls.start();
            self.live = Live::start(&self.filter, &self.guest, self.call_ticks).ok();
            self.calls.end();
        }
    }

    fn on_request(&mut self, request: &RequestParts<'_>) -> LinkStep {
        self.call(|live, guest| live.on_request(guest, request)).unwrap_or_else(LinkStep::Failed)
    }

    fn on_undecided_body(&mut self, _: Exchange, _: &RequestParts<'_>, _: &[u8], _: bool) -> LinkStep {
        LinkStep::Pass
    }

    fn on_body(&mut self, _: Exchange, _: Side, _: &[u8], _: bool) -> Result<LinkBody, Fault> {
        Ok(LinkBody::default())
    }

    fn on_response(&mut self, exchange: Exchange, response: &ResponseParts<'_>) -> Result<LinkResponse, Fault> {
        self.call(|live, _| live.on_response(exchange.0, response))
    }

    fn on_end(&mut self, _: Exchange) -> Result<(), Fault> {
        Ok(())
    }

    fn on_connection(&mut self, _: &ConnectionParts<'_>) -> Result<LinkConnection, Fault> {
        Ok(LinkConnection::default())
    }
}

impl StartFailure {
    fn into_fault(self, filter: &Configured) -> Fault {
        match self {
            StartFailure::Fault(fault) => fault,
            StartFailure::Refused(words) => {
                let message = format!("a fresh instance refused the config that it took before: {words}");
                Fault { filter: filter.name.clone(), kind: FaultKind::Configure, message, set_aside: false, policy: Policy::default() }
            }
        }
    }
}

impl Live {
    /// Instantiates and configures a guest, under the eyes of the ticker that the caller called. The deadline goes on for a hook that is called right after.
    pub(crate) fn start(filter: &Arc<Configured>, guest: &Guest, ticks: u64) -> Result<Live, StartFailure> {
        let mut store = Store::new(&guest.engine.inner.wasmtime, State::new(filter.clone()));
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut context| {
            Ok(if context.data_mut().deadline.is_over() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        arm(&mut store, ticks);
        match instantiate(&mut store, guest) {
            Ok((on_request, on_response, 0)) => Ok(Live { store, on_request, on_response }),
            Ok(_) => {
                let words = store.data_mut().said.reason.take();
                Err(StartFailure::Refused(words.map_or_else(|| "it does not say why".into(), |words| words.as_ref().into())))
            }
            Err(error) => Err(StartFailure::Fault(fault(store.data(), &error))),
        }
    }

    fn on_request(&mut self, guest: &Guest, request: &RequestParts<'_>) -> Result<LinkStep, Fault> {
        let state = self.store.data_mut();
        state.begin(Hook::Request);
        state.head.load_request(request);
        let result = self.on_request.call(&mut self.store, ());
        let state = self.store.data_mut();
        result.and_then(|number| decide(state, guest, number)).map_err(|error| fault(state, &error))
    }

    fn on_response(&mut self, token: u64, response: &ResponseParts<'_>) -> Result<LinkResponse, Fault> {
        let Some(hook) = &self.on_response else {
            return Ok(LinkResponse::default());
        };
        let state = self.store.data_mut();
        state.begin(Hook::Response);
        state.head.load_response(response);
        let result = hook.call(&mut self.store, token);
        let state = self.store.data_mut();
        match result {
            Ok(()) => {
                let said = &mut state.said;
                Ok(LinkResponse { edits: std::mem::take(&mut said.response_edits), reason: said.reason.take(), ..Default::default() })
            }
            Err(error) => Err(fault(state, &error)),
        }
    }
}

/// Starts the clock for what runs next.
fn arm(store: &mut Store<State>, ticks: u64) {
    // The epoch stands still unless a call takes long.
    store.set_epoch_deadline(1);
    store.data_mut().deadline = Deadline::new(ticks);
}

type Started = (TypedFunc<(), i32>, Option<TypedFunc<u64, ()>>, i32);

fn instantiate(store: &mut Store<State>, guest: &Guest) -> wasmtime::Result<Started> {
    let instance = guest.pre.instantiate(&mut *store)?;
    store.data_mut().memory = instance.get_memory(&mut *store, export::MEMORY);
    if instance.get_export(&mut *store, export::INITIALIZE).is_some() {
        instance.get_typed_func::<(), ()>(&mut *store, export::INITIALIZE)?.call(&mut *store, ())?;
    }
    let on_request = instance.get_typed_func(&mut *store, export::ON_REQUEST)?;
    let on_response = match guest.hooks.response {
        true => Some(instance.get_typed_func(&mut *store, export::ON_RESPONSE)?),
        false => None,
    };
    let accepted = instance.get_typed_func::<(), i32>(&mut *store, export::CONFIGURE)?.call(&mut *store, ())?;
    Ok((on_request, on_response, accepted))
}

/// Reads a verdict and what goes with it.
fn decide(state: &mut State, guest: &Guest, number: i32) -> wasmtime::Result<LinkStep> {
    let said = &mut state.said;
    let mut response_edits = std::mem::take(&mut said.response_edits);
    let verdict = match number {
        verdict::PASS => Verdict::Pass,
        verdict::STEAL => Verdict::Steal,
        verdict::MIRROR => Verdict::Mirror,
        verdict::RESPOND => match said.answer.take() {
            Some((status, body)) => {
                let headers = apply(std::mem::take(&mut response_edits));
                Verdict::Respond(LocalResponse { status, headers, body })
            }
            None => return Err(HostFault::error(FaultKind::BadAnswer, "the verdict is respond, but respond() was not called")),
        },
        other => return Err(HostFault::error(FaultKind::BadVerdict, format!("{other} is not a verdict"))),
    };
    let exchange = said.token.take().filter(|_| guest.hooks.response).map(Exchange);
    Ok(LinkStep::Decided(Decision {
        verdict,
        request_edits: std::mem::take(&mut said.request_edits),
        response_edits,
        reason: said.reason.take(),
        wants: Wants { response: exchange.is_some(), ..Wants::default() },
        exchange,
        ..Decision::default()
    }))
}

/// The headers that edits make of an answer that has none.
fn apply(edits: Vec<Edit>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut headers: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(edits.len());
    for edit in edits {
        if !matches!(edit, Edit::Append { .. }) {
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case(edit.name()));
        }
        if let Edit::Set { name, value } | Edit::Append { name, value } = edit {
            headers.push((name, value));
        }
    }
    headers
}

fn fault(state: &State, error: &wasmtime::Error) -> Fault {
    let (kind, message) = explain(error, state.limiter.refused, state.said.last_words.as_deref());
    Fault { filter: state.filter.name.clone(), kind, message, set_aside: false, policy: Policy::default() }
}
