//! An instantiated guest: its hooks are called here, and what it said is read.

use std::sync::Arc;

use wasmtime::{Instance, Store, TypedFunc, UpdateDeadline, WasmParams, WasmResults};

use super::Guest;
use super::lent::{Message, lend};
use super::state::{Hook, State};
use crate::abi::{export, limit, verdict};
use crate::deadline::Deadline;
use crate::error::{HostFault, explain};
use crate::filter::{Configured, StartFailure};
use crate::link::{Decision, LinkBody, LinkConnection, LinkResponse, Side, Wants};
use crate::{ConnectionParts, Edit, Fault, FaultKind, LocalResponse, RequestParts, ResponseParts, Verdict};

/// An instantiated and configured guest.
pub(crate) struct Live {
    store: Store<State>,
    funcs: Funcs,
}

/// Its hooks.
struct Funcs {
    request: TypedFunc<(), i32>,
    request_body: Option<TypedFunc<(u64, i32), i32>>,
    response: Option<TypedFunc<u64, ()>>,
    response_body: Option<TypedFunc<(u64, i32), ()>>,
    end: Option<TypedFunc<u64, ()>>,
    connection: Option<TypedFunc<(), i32>>,
}

/// What a guest makes of an undecided request.
pub(crate) enum Said {
    Nothing,
    Decided(Box<Decision>, Option<u64>),
    /// It needs so many bytes of the body.
    NeedsBody(usize, Option<u64>),
}

impl Live {
    /// Instantiates and configures a guest, under the eyes of the ticker that the caller called.
    pub(crate) fn start(filter: &Arc<Configured>, guest: &Guest, ticks: u64) -> Result<Live, StartFailure> {
        let mut store = Store::new(&guest.engine.inner.wasmtime, State::new(filter.clone()));
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut context| {
            Ok(if context.data_mut().deadline.is_over() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        arm(&mut store, ticks);
        match instantiate(&mut store, guest) {
            Ok((funcs, 0)) => Ok(Live { store, funcs }),
            Ok(_) => {
                let words = store.data_mut().said.reason.take();
                Err(StartFailure::Refused(words.map_or_else(|| "it does not say why".into(), |words| words.as_ref().into())))
            }
            Err(error) => Err(StartFailure::Fault(fault(store.data(), &error))),
        }
    }

    /// Starts the clock for the next hook.
    pub(crate) fn arm(&mut self, ticks: u64) {
        arm(&mut self.store, ticks);
    }

    pub(crate) fn on_request(&mut self, request: &RequestParts<'_>) -> Result<Said, Fault> {
        self.store.data_mut().begin(Hook::Request);
        let result = lend(&mut self.store, Message::Request(request), |store| self.funcs.request.call(store, ()));
        let state = self.store.data_mut();
        result.and_then(|number| decide(state, &self.funcs, number)).map_err(|error| fault(state, &error))
    }

    pub(crate) fn on_undecided_body(&mut self, token: u64, request: &RequestParts<'_>, body: &[u8], end: bool) -> Result<Said, Fault> {
        self.store.data_mut().begin(Hook::UndecidedBody);
        let result = match &self.funcs.request_body {
            Some(hook) => lend(&mut self.store, Message::Undecided(request, body), |store| hook.call(store, (token, end.into()))),
            None => Ok(verdict::PASS),
        };
        let state = self.store.data_mut();
        let said = result.and_then(|number| decide(state, &self.funcs, number)).map_err(|error| fault(state, &error))?;
        match said {
            Said::NeedsBody(..) => {
                let error = HostFault::error(FaultKind::BadVerdict, "it has seen the body that it asked for, and does not decide");
                Err(fault(state, &error))
            }
            said => Ok(said),
        }
    }

    pub(crate) fn on_body(&mut self, token: u64, side: Side, window: &[u8], end: bool) -> Result<LinkBody, Fault> {
        self.store.data_mut().begin(if side == Side::Request { Hook::RequestBody } else { Hook::ResponseBody });
        let params = (token, end.into());
        let funcs = &self.funcs;
        let result = lend(&mut self.store, Message::Body(window), |store| match (side, &funcs.request_body, &funcs.response_body) {
            (Side::Request, Some(hook), _) => hook.call(store, params).map(|_| ()),
            (Side::Response, _, Some(hook)) => hook.call(store, params),
            _ => Ok(()),
        });
        let state = self.store.data_mut();
        match result {
            Ok(()) => Ok(LinkBody { replaced: state.said.replaced.take(), abort: state.said.aborts }),
            Err(error) => Err(fault(state, &error)),
        }
    }

    pub(crate) fn on_response(&mut self, token: u64, response: &ResponseParts<'_>) -> Result<LinkResponse, Fault> {
        let Some(hook) = &self.funcs.response else {
            return Ok(LinkResponse::default());
        };
        self.store.data_mut().begin(Hook::Response);
        let result = lend(&mut self.store, Message::Response(response), |store| hook.call(store, token));
        let state = self.store.data_mut();
        if let Err(error) = result {
            return Err(fault(state, &error));
        }
        let said = &mut state.said;
        let mut edits = std::mem::take(&mut said.response_edits);
        let replace = said.answer.take().map(|(status, body)| LocalResponse { status, headers: apply(std::mem::take(&mut edits)), body });
        let response_body = said.response_window.filter(|_| self.funcs.response_body.is_some());
        Ok(LinkResponse { edits, replace, abort: said.aborts, reason: said.reason.take(), response_body })
    }

    pub(crate) fn on_end(&mut self, token: u64) -> Result<(), Fault> {
        let Some(hook) = &self.funcs.end else {
            return Ok(());
        };
        self.store.data_mut().begin(Hook::End);
        hook.call(&mut self.store, token).map_err(|error| fault(self.store.data(), &error))
    }

    pub(crate) fn on_connection(&mut self, connection: &ConnectionParts<'_>) -> Result<LinkConnection, Fault> {
        let Some(hook) = &self.funcs.connection else {
            return Ok(LinkConnection::default());
        };
        self.store.data_mut().begin(Hook::Connection);
        let result = lend(&mut self.store, Message::Connection(connection), |store| hook.call(store, ()));
        let state = self.store.data_mut();
        let verdict = result.and_then(|number| match number {
            verdict::RESPOND | verdict::NEED_BODY => {
                Err(HostFault::error(FaultKind::BadVerdict, format!("{number} is no verdict on a connection")))
            }
            number => plain(number),
        });
        match verdict {
            Ok(verdict) => Ok(LinkConnection { verdict, reason: state.said.reason.take() }),
            Err(error) => Err(fault(state, &error)),
        }
    }
}

fn arm(store: &mut Store<State>, ticks: u64) {
    // The epoch stands still unless a call takes long.
    store.set_epoch_deadline(1);
    store.data_mut().deadline = Deadline::new(ticks);
}

fn instantiate(store: &mut Store<State>, guest: &Guest) -> wasmtime::Result<(Funcs, i32)> {
    let instance = guest.pre.instantiate(&mut *store)?;
    store.data_mut().memory = instance.get_memory(&mut *store, export::MEMORY);
    if instance.get_export(&mut *store, export::INITIALIZE).is_some() {
        instance.get_typed_func::<(), ()>(&mut *store, export::INITIALIZE)?.call(&mut *store, ())?;
    }
    let has = guest.hooks;
    let funcs = Funcs {
        request: instance.get_typed_func(&mut *store, export::ON_REQUEST)?,
        request_body: func(store, &instance, has.request_body, export::ON_REQUEST_BODY)?,
        response: func(store, &instance, has.response, export::ON_RESPONSE)?,
        response_body: func(store, &instance, has.response_body, export::ON_RESPONSE_BODY)?,
        end: func(store, &instance, has.end, export::ON_END)?,
        connection: func(store, &instance, has.connection, export::ON_CONNECTION)?,
    };
    let accepted = instance.get_typed_func::<(), i32>(&mut *store, export::CONFIGURE)?.call(&mut *store, ())?;
    Ok((funcs, accepted))
}

fn func<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    instance: &Instance,
    there: bool,
    name: &str,
) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
    if there { instance.get_typed_func(store, name).map(Some) } else { Ok(None) }
}

/// Reads a verdict and what goes with it.
fn decide(state: &mut State, funcs: &Funcs, number: i32) -> wasmtime::Result<Said> {
    let said = &mut state.said;
    if number == verdict::PASS && !said.something {
        return Ok(Said::Nothing);
    }
    let mut response_edits = std::mem::take(&mut said.response_edits);
    let verdict = match number {
        verdict::RESPOND => match said.answer.take() {
            Some((status, body)) => {
                let headers = apply(std::mem::take(&mut response_edits));
                Verdict::Respond(LocalResponse { status, headers, body })
            }
            None => return Err(HostFault::error(FaultKind::BadAnswer, "the verdict is respond, but respond() was not called")),
        },
        verdict::NEED_BODY if funcs.request_body.is_none() => {
            let problem = format!("the verdict is \"need the body\", but there is no {}", export::ON_REQUEST_BODY);
            return Err(HostFault::error(FaultKind::BadVerdict, problem));
        }
        verdict::NEED_BODY => return Ok(Said::NeedsBody(said.request_window.unwrap_or(limit::USUAL_WINDOW), said.token)),
        number => plain(number)?,
    };
    // What there is no hook for is not wanted. A reset or answered request has no response to follow.
    let goes_on = !matches!(verdict, Verdict::Respond(_) | Verdict::Abort);
    let wants = Wants {
        request_body: said.request_window.filter(|_| funcs.request_body.is_some() && goes_on),
        response: said.watches_response && funcs.response.is_some() && goes_on,
        response_body: said.response_window.filter(|_| funcs.response_body.is_some() && goes_on),
        end: said.watches_end && funcs.end.is_some(),
        trailers: false,
    };
    let decision = Decision {
        verdict,
        request_edits: std::mem::take(&mut said.request_edits),
        response_edits,
        path: said.path.take(),
        delay: said.delay.take(),
        reason: said.reason.take(),
        wants,
        exchange: None,
    };
    Ok(Said::Decided(Box::new(decision), said.token))
}

/// A verdict that nothing has to come with.
fn plain(number: i32) -> wasmtime::Result<Verdict> {
    match number {
        verdict::PASS => Ok(Verdict::Pass),
        verdict::STEAL => Ok(Verdict::Steal),
        verdict::MIRROR => Ok(Verdict::Mirror),
        verdict::STEAL_AND_MIRROR => Ok(Verdict::StealAndMirror),
        verdict::ABORT => Ok(Verdict::Abort),
        other => Err(HostFault::error(FaultKind::BadVerdict, format!("{other} is not a verdict"))),
    }
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
    state.filter.fault(kind, message)
}
