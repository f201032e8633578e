//! Getters: of the message that the hook is about, the config and the session's properties.

use std::io::Write;

use wasmtime::{Caller, Result};

use super::{bad_call, bytes, copy, place, split};
use crate::abi::{self, what};
use crate::own::state::{Hook, State};

pub(super) fn get(mut caller: Caller<'_, State>, which: i32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let out = place(memory, buf, cap)?;
    // 54 bytes are the longest address with its port.
    let mut text = [0; 64];
    let connection = state.hook == Hook::Connection;
    let value = match which {
        what::CONFIG => Some(&state.filter.config[..]),
        what::METHOD if state.hook.is_open() => Some(state.head.method()),
        what::PATH if state.hook.is_open() => Some(state.head.path()),
        what::PROTOCOL if state.hook.is_open() => state.head.version.map(|version| version.as_str().as_bytes()),
        what::CLIENT if state.hook.is_open() || connection => print(&mut text, state.head.addresses.map(|(client, _)| client)),
        what::DESTINATION if state.hook.is_open() || connection => {
            print(&mut text, state.head.addresses.map(|(_, destination)| destination))
        }
        what::SNI if connection => state.head.sni(),
        what::ALPN if connection => state.head.alpn(),
        what::FIRST_BYTES if connection => state.head.first_bytes(),
        _ => None,
    };
    Ok(value.map_or(abi::ABSENT, |value| copy(out, value)))
}

pub(super) fn get_header(mut caller: Caller<'_, State>, name: u32, name_len: u32, nth: u32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    if !has_head(state) {
        return Ok(abi::ABSENT);
    }
    let Some(value) = state.head.header(bytes(memory, name, name_len)?, nth as usize) else {
        return Ok(abi::ABSENT);
    };
    Ok(copy(place(memory, buf, cap)?, value))
}

pub(super) fn get_header_at(mut caller: Caller<'_, State>, index: u32, buf: u32, cap: u32) -> Result<i64> {
    let (memory, state) = split(&mut caller)?;
    let found = if has_head(state) { state.head.header_at(index as usize) } else { None };
    let Some((both, name_len)) = found else {
        return Ok(abi::ABSENT.into());
    };
    let total = copy(place(memory, buf, cap)?, both);
    let name_len = i64::try_from(name_len).unwrap_or(0);
    Ok(name_len << 32 | (i64::from(total) - name_len))
}

pub(super) fn get_status(caller: Caller<'_, State>) -> i32 {
    match (caller.data().hook, caller.data().head.status) {
        (Hook::Response, Some(status)) => status.into(),
        _ => abi::ABSENT,
    }
}

pub(super) fn get_property(mut caller: Caller<'_, State>, name: u32, name_len: u32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let name = bytes(memory, name, name_len)?;
    let Some((_, value)) = state.filter.properties.iter().find(|(own, _)| own.as_bytes() == name) else {
        return Ok(abi::ABSENT);
    };
    Ok(copy(place(memory, buf, cap)?, value))
}

pub(super) fn get_body(mut caller: Caller<'_, State>, offset: u32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    if !matches!(state.hook, Hook::UndecidedBody | Hook::RequestBody | Hook::ResponseBody) {
        return bad_call("get_body", state);
    }
    let rest = state.body.get(offset as usize..).unwrap_or_default();
    Ok(copy(place(memory, buf, cap)?, rest))
}

fn has_head(state: &State) -> bool {
    state.hook.is_open() || state.hook == Hook::Response
}

fn print(text: &mut [u8; 64], address: Option<std::net::SocketAddr>) -> Option<&[u8]> {
    let mut free = &mut text[..];
    // Does not fail: the text is long enough for any address.
    let _ = write!(free, "{}", address?);
    let left = free.len();
    Some(&text[..64 - left])
}
