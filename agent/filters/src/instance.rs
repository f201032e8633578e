//! A filter at work on one thread: calls the hooks, reads what the guest said, and turns every failure into `Pass`.
//!
//! ```text
//!   empty ──call──► live ──ok──► live
//!     ▲               └──fault──► dropped ─┐      (a trap may leave a guest's own stack and locks broken for good)
//!     └────────────────────────────────────┘
//! ```

use std::sync::Arc;

use wasmtime::{Store, TypedFunc, UpdateDeadline};

use crate::abi::{export, verdict};
use crate::deadline::Deadline;
use crate::error::{HostFault, explain};
use crate::filter::Configured;
use crate::state::{Hook, State};
use crate::ticker::Calls;
use crate::{Decision, Edit, Fault, FaultKind, LocalResponse, RequestParts, ResponseDecision, ResponseParts, Verdict};

/// One instance of a filter, for one thread and subscription. Requests may be interleaved: what must be known again at
/// the response travels in the token.
pub struct Instance {
    filter: Arc<Configured>,
    live: Option<Live>,
}

/// An instantiated and configured guest.
pub(crate) struct Live {
    calls: Calls,
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
    pub(crate) fn new(filter: Arc<Configured>) -> Self {
        Instance { filter, live: None }
    }

    /// The filter's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.filter.module.name()
    }

    /// Whether the filter has a response hook at all; [`Decision::wants_response`] tells for one request.
    #[must_use]
    pub fn wants_response(&self) -> bool {
        self.filter.module.has_response_hook()
    }

    /// Makes the Wasm instance now (some 30 µs) instead of at the first request. A failure shows at that request.
    pub fn warm_up(&mut self) {
        if self.live.is_none() && self.filter.health.may_run() {
            self.live = Live::start(&self.filter, self.filter.call_ticks).ok();
        }
    }

    /// The filter's decision on one request. Never fails and never takes longer than the limit: whatever goes wrong is
    /// a `Pass` that tells the fault.
    pub fn on_request(&mut self, request: &RequestParts<'_>) -> Decision {
        self.call(|live, filter| live.on_request(filter, request))
            .unwrap_or_else(|fault| fault.map_or_else(Decision::pass, Decision::fault))
    }

    /// The filter's edits of one response; `token` is that of the request's [`Decision`].
    pub fn on_response(&mut self, token: u64, response: &ResponseParts<'_>) -> ResponseDecision {
        if !self.wants_response() {
            return ResponseDecision::default();
        }
        self.call(|live, filter| live.on_response(filter, token, response))
            .unwrap_or_else(|fault| ResponseDecision { fault, ..ResponseDecision::default() })
    }

    /// Runs one hook on the live guest, made first if need be within the same deadline. `Err(None)`: set aside.
    fn call<T>(&mut self, hook: impl FnOnce(&mut Live, &Configured) -> Result<T, Fault>) -> Result<T, Option<Fault>> {
        let filter = &self.filter;
        if !filter.health.may_run() {
            return Err(None);
        }
        let result = match &mut self.live {
            Some(live) => {
                live.arm(filter);
                live.watched(filter, hook)
            }
            None => match Live::start(filter, filter.call_ticks) {
                Ok(live) => self.live.insert(live).watched(filter, hook),
                Err(failure) => Err(failure.into_fault(filter)),
            },
        };
        match result {
            Ok(decision) => {
                filter.health.succeeded();
                Ok(decision)
            }
            Err(fault) => {
                self.live = None;
                Err(Some(Fault { set_aside: filter.health.failed(), ..fault }))
            }
        }
    }
}

impl StartFailure {
    fn into_fault(self, filter: &Configured) -> Fault {
        match self {
            StartFailure::Fault(fault) => fault,
            StartFailure::Refused(words) => {
                let message = format!("a fresh instance refused the config that it took before: {words}");
                Fault { filter: filter.module.name().into(), kind: FaultKind::Configure, message, set_aside: false }
            }
        }
    }
}

impl Live {
    /// Instantiates and configures a guest. The deadline goes on for a hook that is called right after.
    pub(crate) fn start(filter: &Arc<Configured>, ticks: u64) -> Result<Live, StartFailure> {
        let mut store = Store::new(&filter.module.engine().inner.wasmtime, State::new(filter.clone()));
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut context| {
            Ok(if context.data_mut().deadline.is_over() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        arm(&mut store, ticks);
        let calls = filter.module.engine().inner.ticker.calls();
        calls.start();
        let started = instantiate(&mut store, filter);
        calls.end();
        match started {
            Ok((on_request, on_response, 0)) => Ok(Live { calls, store, on_request, on_response }),
            Ok(_) => {
                let words = store.data_mut().said.reason.take();
                Err(StartFailure::Refused(words.unwrap_or_else(|| "it does not say why".into())))
            }
            Err(error) => Err(StartFailure::Fault(fault(store.data(), &error))),
        }
    }

    fn arm(&mut self, filter: &Configured) {
        arm(&mut self.store, filter.call_ticks);
    }

    /// Runs a hook under the ticker's eyes.
    fn watched<T>(&mut self, filter: &Configured, hook: impl FnOnce(&mut Live, &Configured) -> T) -> T {
        self.calls.start();
        let result = hook(self, filter);
        self.calls.end();
        result
    }

    fn on_request(&mut self, _: &Configured, request: &RequestParts<'_>) -> Result<Decision, Fault> {
        let state = self.store.data_mut();
        state.begin(Hook::Request);
        state.head.load_request(request);
        let result = self.on_request.call(&mut self.store, ());
        let state = self.store.data_mut();
        result.and_then(|number| decide(state, number)).map_err(|error| fault(state, &error))
    }

    fn on_response(&mut self, _: &Configured, token: u64, response: &ResponseParts<'_>) -> Result<ResponseDecision, Fault> {
        let Some(hook) = &self.on_response else {
            return Ok(ResponseDecision::default());
        };
        let state = self.store.data_mut();
        state.begin(Hook::Response);
        state.head.load_response(response);
        let result = hook.call(&mut self.store, token);
        let state = self.store.data_mut();
        match result {
            Ok(()) => Ok(ResponseDecision {
                edits: std::mem::take(&mut state.said.response_edits),
                reason: state.said.reason.take(),
                fault: None,
            }),
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

fn instantiate(store: &mut Store<State>, filter: &Configured) -> wasmtime::Result<Started> {
    let instance = filter.module.pre().instantiate(&mut *store)?;
    store.data_mut().memory = instance.get_memory(&mut *store, export::MEMORY);
    if instance.get_export(&mut *store, export::INITIALIZE).is_some() {
        instance.get_typed_func::<(), ()>(&mut *store, export::INITIALIZE)?.call(&mut *store, ())?;
    }
    let on_request = instance.get_typed_func(&mut *store, export::ON_REQUEST)?;
    let on_response = match filter.module.has_response_hook() {
        true => Some(instance.get_typed_func(&mut *store, export::ON_RESPONSE)?),
        false => None,
    };
    let accepted = instance.get_typed_func::<(), i32>(&mut *store, export::CONFIGURE)?.call(&mut *store, ())?;
    Ok((on_request, on_response, accepted))
}

/// Reads a verdict and what goes with it.
fn decide(state: &mut State, number: i32) -> wasmtime::Result<Decision> {
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
    let token = said.token.take().filter(|_| state.filter.module.has_response_hook());
    Ok(Decision {
        verdict,
        request_edits: std::mem::take(&mut said.request_edits),
        response_edits,
        wants_response: token.is_some(),
        token: token.unwrap_or_default(),
        reason: said.reason.take(),
        fault: None,
    })
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
    Fault { filter: state.filter.module.name().into(), kind, message, set_aside: false }
}
