//! What a guest says about a message: edits, an answer, what else it wants to see. Noted here, in effect when the hook
//! returns.

use std::time::Duration;

use wasmtime::{Caller, Result};

use super::{bad_call, bytes, split, state};
use crate::abi::{self, limit, op, target};
use crate::error::HostFault;
use crate::log::clean;
use crate::own::state::{Hook, State};
use crate::{Edit, FaultKind, LogLevel};

pub(super) fn edit_header(
    mut caller: Caller<'_, State>,
    target: i32,
    op: i32,
    name: u32,
    name_len: u32,
    value: u32,
    value_len: u32,
) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    let name = bytes(memory, name, name_len)?;
    let value = if op == op::REMOVE { &[] } else { bytes(memory, value, value_len)? };
    let bad = |problem: &str| Err(HostFault::error(FaultKind::BadEdit, format!("edit_header: {problem}")));
    let said = &mut state.said;
    let edits = match target {
        target::REQUEST if state.hook.is_open() => &mut said.request_edits,
        target::RESPONSE if state.hook.is_open() || state.hook == Hook::Response => &mut said.response_edits,
        _ => return bad_call(&format!("edit_header of target {target}"), state),
    };
    said.something = true;
    said.edit_bytes = said.edit_bytes.saturating_add(name.len()).saturating_add(value.len());
    if edits.len() >= limit::EDITS || said.edit_bytes > limit::EDIT_BYTES {
        return bad("too many edits, or too long");
    }
    if let Some(problem) = abi::edit_problem(name, value) {
        return bad(&format!("{problem} (name {:?})", clean(name, 64)));
    }
    let name = name.to_vec();
    edits.push(match op {
        op::SET => Edit::Set { name, value: value.to_vec() },
        op::APPEND => Edit::Append { name, value: value.to_vec() },
        op::REMOVE => Edit::Remove { name },
        _ => return bad(&format!("no such operation: {op}")),
    });
    Ok(())
}

pub(super) fn set_path(mut caller: Caller<'_, State>, path: u32, len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    if !state.hook.is_open() {
        return bad_call("set_path", state);
    }
    let path = bytes(memory, path, len)?;
    if let Some(problem) = abi::path_problem(path) {
        return Err(HostFault::error(FaultKind::BadEdit, format!("set_path: {problem}")));
    }
    state.said.something = true;
    state.said.path = Some(path.to_vec());
    Ok(())
}

pub(super) fn replace_body(mut caller: Caller<'_, State>, at: u32, len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    if !matches!(state.hook, Hook::RequestBody | Hook::ResponseBody) {
        return bad_call("replace_body", state);
    }
    let more = bytes(memory, at, len)?;
    state.said.something = true;
    let replaced = state.said.replaced.get_or_insert_default();
    if replaced.len() + more.len() > limit::REPLACEMENT {
        return Err(HostFault::error(FaultKind::BadEdit, "replace_body: more than 2 MiB for one piece"));
    }
    replaced.extend_from_slice(more);
    Ok(())
}

pub(super) fn watch_response(mut caller: Caller<'_, State>, token: u64) -> Result<()> {
    let state = state(&mut caller)?;
    if !state.hook.is_open() {
        return bad_call("watch_response", state);
    }
    (state.said.something, state.said.token, state.said.watches_response) = (true, Some(token), true);
    Ok(())
}

pub(super) fn watch_request_body(mut caller: Caller<'_, State>, window: u32) -> Result<()> {
    let state = state(&mut caller)?;
    if !state.hook.is_open() {
        return bad_call("watch_request_body", state);
    }
    (state.said.something, state.said.request_window) = (true, Some(within(window)));
    Ok(())
}

pub(super) fn watch_response_body(mut caller: Caller<'_, State>, window: u32) -> Result<()> {
    let state = state(&mut caller)?;
    if !state.hook.is_open() && state.hook != Hook::Response {
        return bad_call("watch_response_body", state);
    }
    (state.said.something, state.said.response_window) = (true, Some(within(window)));
    Ok(())
}

pub(super) fn watch_end(mut caller: Caller<'_, State>) -> Result<()> {
    let state = state(&mut caller)?;
    if !state.hook.is_open() {
        return bad_call("watch_end", state);
    }
    (state.said.something, state.said.watches_end) = (true, true);
    Ok(())
}

pub(super) fn set_token(mut caller: Caller<'_, State>, token: u64) -> Result<()> {
    let state = state(&mut caller)?;
    if !state.hook.is_open() {
        return bad_call("set_token", state);
    }
    (state.said.something, state.said.token) = (true, Some(token));
    Ok(())
}

pub(super) fn respond(mut caller: Caller<'_, State>, status: i32, body: u32, body_len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    if !state.hook.is_open() && state.hook != Hook::Response {
        return bad_call("respond", state);
    }
    let body = bytes(memory, body, body_len)?;
    match (abi::answer_problem(status, body.len()), u16::try_from(status)) {
        (None, Ok(status)) => (state.said.something, state.said.answer) = (true, Some((status, body.to_vec()))),
        (problem, _) => {
            let problem = problem.unwrap_or("no such status");
            return Err(HostFault::error(FaultKind::BadAnswer, format!("respond: {problem} (status {status})")));
        }
    }
    Ok(())
}

pub(super) fn delay(mut caller: Caller<'_, State>, milliseconds: u32) -> Result<()> {
    let state = state(&mut caller)?;
    if !state.hook.is_open() {
        return bad_call("delay", state);
    }
    let delay = Duration::from_millis(milliseconds.into()).min(limit::DELAY);
    (state.said.something, state.said.delay) = (true, Some(delay));
    Ok(())
}

pub(super) fn abort(mut caller: Caller<'_, State>) -> Result<()> {
    let state = state(&mut caller)?;
    if !matches!(state.hook, Hook::RequestBody | Hook::Response | Hook::ResponseBody) {
        return bad_call("abort (where a verdict is returned, return 5)", state);
    }
    (state.said.something, state.said.aborts) = (true, true);
    Ok(())
}

pub(super) fn reason(mut caller: Caller<'_, State>, text: u32, len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    let text = bytes(memory, text, len)?;
    if state.last_reason.as_ref().is_none_or(|last| last.as_bytes() != text) {
        state.last_reason = Some(clean(text, limit::REASON).into());
    }
    (state.said.something, state.said.reason) = (true, state.last_reason.clone());
    Ok(())
}

pub(super) fn log(mut caller: Caller<'_, State>, level: i32, text: u32, len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    state.log(LogLevel::from_abi(level), bytes(memory, text, len)?);
    Ok(())
}

fn within(window: u32) -> usize {
    (window as usize).clamp(1, limit::BODY_WINDOW)
}
