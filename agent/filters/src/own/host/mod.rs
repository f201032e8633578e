//! The functions that a guest may import (docs/abi.md). They read what the hook is about and write into the guest's
//! memory, or note what the guest says; every pointer and length is checked against that memory. What the ABI forbids
//! ends the call with a [`HostFault`].

mod common;
mod read;
mod say;

use wasmtime::{Caller, Linker, Result};

use super::state::State;
use crate::abi::{self, import};
use crate::error::HostFault;
use crate::{FaultKind, wasi};

pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(abi::MODULE, import::GET, read::get)?;
    linker.func_wrap(abi::MODULE, import::GET_HEADER, read::get_header)?;
    linker.func_wrap(abi::MODULE, import::GET_HEADER_AT, read::get_header_at)?;
    linker.func_wrap(abi::MODULE, import::GET_STATUS, read::get_status)?;
    linker.func_wrap(abi::MODULE, import::GET_PROPERTY, read::get_property)?;
    linker.func_wrap(abi::MODULE, import::GET_BODY, read::get_body)?;
    linker.func_wrap(abi::MODULE, import::EDIT_HEADER, say::edit_header)?;
    linker.func_wrap(abi::MODULE, import::SET_PATH, say::set_path)?;
    linker.func_wrap(abi::MODULE, import::REPLACE_BODY, say::replace_body)?;
    linker.func_wrap(abi::MODULE, import::WATCH_RESPONSE, say::watch_response)?;
    linker.func_wrap(abi::MODULE, import::WATCH_REQUEST_BODY, say::watch_request_body)?;
    linker.func_wrap(abi::MODULE, import::WATCH_RESPONSE_BODY, say::watch_response_body)?;
    linker.func_wrap(abi::MODULE, import::WATCH_END, say::watch_end)?;
    linker.func_wrap(abi::MODULE, import::SET_TOKEN, say::set_token)?;
    linker.func_wrap(abi::MODULE, import::RESPOND, say::respond)?;
    linker.func_wrap(abi::MODULE, import::DELAY, say::delay)?;
    linker.func_wrap(abi::MODULE, import::ABORT, say::abort)?;
    linker.func_wrap(abi::MODULE, import::REASON, say::reason)?;
    linker.func_wrap(abi::MODULE, import::LOG, say::log)?;
    linker.func_wrap(abi::MODULE, import::GET_STATE, common::get_state)?;
    linker.func_wrap(abi::MODULE, import::SET_STATE, common::set_state)?;
    linker.func_wrap(abi::MODULE, import::ADD_STATE, common::add_state)?;
    linker.func_wrap(abi::MODULE, import::REMOVE_STATE, common::remove_state)?;
    linker.func_wrap(abi::MODULE, import::RANDOM, common::random)?;
    linker.func_wrap(abi::MODULE, import::NOW, common::now)?;
    linker.func_wrap(abi::MODULE, import::COUNT, common::count)?;
    linker.func_wrap(abi::MODULE, import::OBSERVE, common::observe)?;
    // For the runtimes of Go and C.
    wasi::add(&mut linker)?;
    Ok(linker)
}

fn split<'a>(caller: &'a mut Caller<'_, State>) -> Result<(&'a mut [u8], &'a mut State)> {
    match caller.data().memory {
        Some(memory) => Ok(memory.data_and_store_mut(caller)),
        None => Err(HostFault::error(FaultKind::BadCall, "a host call from the start function; make it in a hook")),
    }
}

/// The state alone, for calls without pointers; they make no sense in a start function either.
fn state<'a>(caller: &'a mut Caller<'_, State>) -> Result<&'a mut State> {
    split(caller).map(|(_, state)| state)
}

fn bytes(memory: &[u8], at: u32, len: u32) -> Result<&[u8]> {
    let start = at as usize;
    memory.get(start..start.saturating_add(len as usize)).ok_or_else(|| HostFault::outside(at, len))
}

fn place(memory: &mut [u8], at: u32, cap: u32) -> Result<&mut [u8]> {
    let start = at as usize;
    memory.get_mut(start..start.saturating_add(cap as usize)).ok_or_else(|| HostFault::outside(at, cap))
}

/// Writes what fits and returns the whole length.
fn copy(out: &mut [u8], value: &[u8]) -> i32 {
    let len = value.len().min(out.len());
    out[..len].copy_from_slice(&value[..len]);
    i32::try_from(value.len()).unwrap_or(i32::MAX)
}

fn bad_call<T>(what: &str, state: &State) -> Result<T> {
    Err(HostFault::error(FaultKind::BadCall, format!("{what} makes no sense in the hook {:?}", state.hook)))
}
