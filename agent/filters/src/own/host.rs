//! The functions that a guest may import (docs/abi.md). They read the head and write into the guest's memory, or note
//! what the guest says; every pointer and length is checked against that memory. What the ABI forbids ends the call
//! with a [`HostFault`].

use std::io::Write;

use wasmtime::{Caller, Linker, Result};

use super::state::{Hook, State};
use crate::abi::{self, import, limit, op, target, what};
use crate::error::HostFault;
use crate::log::clean;
use crate::{Edit, FaultKind, LogLevel};

pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(abi::MODULE, import::GET, get)?;
    linker.func_wrap(abi::MODULE, import::GET_HEADER, get_header)?;
    linker.func_wrap(abi::MODULE, import::GET_HEADER_AT, get_header_at)?;
    linker.func_wrap(abi::MODULE, import::GET_STATUS, get_status)?;
    linker.func_wrap(abi::MODULE, import::EDIT_HEADER, edit_header)?;
    linker.func_wrap(abi::MODULE, import::WATCH_RESPONSE, watch_response)?;
    linker.func_wrap(abi::MODULE, import::RESPOND, respond)?;
    linker.func_wrap(abi::MODULE, import::REASON, reason)?;
    linker.func_wrap(abi::MODULE, import::LOG, log)?;
    Ok(linker)
}

fn get(mut caller: Caller<'_, State>, which: i32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let out = place(memory, buf, cap)?;
    // 54 bytes are the longest address with its port.
    let mut text = [0; 64];
    let value = match (state.hook, which) {
        (_, what::CONFIG) => &state.filter.config,
        (Hook::Request, what::METHOD) => state.head.method(),
        (Hook::Request, what::PATH) => state.head.path(),
        (Hook::Request, what::CLIENT) => print(&mut text, state.head.addresses.map(|(client, _)| client)),
        (Hook::Request, what::DESTINATION) => print(&mut text, state.head.addresses.map(|(_, destination)| destination)),
        (Hook::Request, what::PROTOCOL) => state.head.version.map_or("", |version| version.as_str()).as_bytes(),
        _ => return Ok(abi::ABSENT),
    };
    Ok(copy(out, value))
}

fn get_header(mut caller: Caller<'_, State>, name: u32, name_len: u32, nth: u32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    if state.hook == Hook::Configure {
        return Ok(abi::ABSENT);
    }
    let Some(value) = state.head.header(bytes(memory, name, name_len)?, nth as usize) else {
        return Ok(abi::ABSENT);
    };
    Ok(copy(place(memory, buf, cap)?, value))
}

fn get_header_at(mut caller: Caller<'_, State>, index: u32, buf: u32, cap: u32) -> Result<i64> {
    let (memory, state) = split(&mut caller)?;
    let found = if state.hook == Hook::Configure { None } else { state.head.header_at(index as usize) };
    let Some((both, name_len)) = found else {
        return Ok(abi::ABSENT.into());
    };
    let total = copy(place(memory, buf, cap)?, both);
    let name_len = i64::try_from(name_len).unwrap_or(0);
    Ok(name_len << 32 | (i64::from(total) - name_len))
}

fn get_status(caller: Caller<'_, State>) -> i32 {
    match (caller.data().hook, caller.data().head.status) {
        (Hook::Response, Some(status)) => status.into(),
        _ => abi::ABSENT,
    }
}

fn edit_header(mut caller: Caller<'_, State>, target: i32, op: i32, name: u32, name_len: u32, value: u32, value_len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    let name = bytes(memory, name, name_len)?;
    let value = if op == op::REMOVE { &[] } else { bytes(memory, value, value_len)? };
    let bad = |problem: &str| Err(HostFault::error(FaultKind::BadEdit, format!("edit_header: {problem}")));
    let said = &mut state.said;
    let edits = match (state.hook, target) {
        (Hook::Request, target::REQUEST) => &mut said.request_edits,
        (Hook::Request | Hook::Response, target::RESPONSE) => &mut said.response_edits,
        _ => return Err(HostFault::error(FaultKind::BadCall, format!("edit_header of target {target} in this hook"))),
    };
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

fn watch_response(mut caller: Caller<'_, State>, token: u64) -> Result<()> {
    let state = caller.data_mut();
    if state.hook != Hook::Request {
        return Err(HostFault::error(FaultKind::BadCall, "watch_response outside the request hook"));
    }
    state.said.token = Some(token);
    Ok(())
}

fn respond(mut caller: Caller<'_, State>, status: i32, body: u32, body_len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    if state.hook != Hook::Request {
        return Err(HostFault::error(FaultKind::BadCall, "respond outside the request hook"));
    }
    let body = bytes(memory, body, body_len)?;
    match (abi::answer_problem(status, body.len()), u16::try_from(status)) {
        (None, Ok(status)) => state.said.answer = Some((status, body.to_vec())),
        (problem, _) => {
            let problem = problem.unwrap_or("no such status");
            return Err(HostFault::error(FaultKind::BadAnswer, format!("respond: {problem} (status {status})")));
        }
    }
    Ok(())
}

fn reason(mut caller: Caller<'_, State>, text: u32, len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    state.said.reason = Some(clean(bytes(memory, text, len)?, limit::REASON).into());
    Ok(())
}

fn log(mut caller: Caller<'_, State>, level: i32, text: u32, len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    state.log(LogLevel::from_abi(level), bytes(memory, text, len)?);
    Ok(())
}

fn split<'a>(caller: &'a mut Caller<'_, State>) -> Result<(&'a mut [u8], &'a mut State)> {
    match caller.data().memory {
        Some(memory) => Ok(memory.data_and_store_mut(caller)),
        None => Err(HostFault::error(FaultKind::BadCall, "a host call from the start function; make it in a hook")),
    }
}

fn bytes(memory: &[u8], at: u32, len: u32) -> Result<&[u8]> {
    let start = at as usize;
    memory.get(start..start.saturating_add(len as usize)).ok_or_else(|| outside(at, len))
}

fn place(memory: &mut [u8], at: u32, cap: u32) -> Result<&mut [u8]> {
    let start = at as usize;
    memory.get_mut(start..start.saturating_add(cap as usize)).ok_or_else(|| outside(at, cap))
}

fn outside(at: u32, len: u32) -> wasmtime::Error {
    HostFault::error(FaultKind::OutOfBounds, format!("a host call was given {len} bytes at {at:#x}, outside the filter's memory"))
}

/// Writes what fits and returns the whole length.
fn copy(out: &mut [u8], value: &[u8]) -> i32 {
    let len = value.len().min(out.len());
    out[..len].copy_from_slice(&value[..len]);
    i32::try_from(value.len()).unwrap_or(i32::MAX)
}

fn print(text: &mut [u8; 64], address: Option<std::net::SocketAddr>) -> &[u8] {
    let mut free = &mut text[..];
    if let Some(address) = address {
        // Does not fail: the text is long enough for any address.
        let _ = write!(free, "{address}");
    }
    let left = free.len();
    &text[..64 - left]
}
