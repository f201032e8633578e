//! Getters: of the message that the hook is about, the config and the session's properties.

use std::io::Write;

use wasmtime::{Caller, Result};

use super::{bad_call, bytes, copy, place, split};
use crate::abi::{self, what};
use crate::own::state::State;

pub(super) fn get(mut caller: Caller<'_, State>, which: i32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let out = place(memory, buf, cap)?;
    // 54 bytes are the longest address with its port.
    let mut text = [0; 64];
    let lent = &state.lent;
    let value = match which {
        what::CONFIG => Some(&state.filter.config[..]),
        what::METHOD => lent.request().map(|request| request.method),
        what::PATH => lent.request().map(|request| request.path),
        what::PROTOCOL => lent.request().map(|request| request.version.as_str().as_bytes()),
        what::CLIENT => print(&mut text, lent.addresses().map(|(client, _)| client)),
        what::DESTINATION => print(&mut text, lent.addresses().map(|(_, destination)| destination)),
        what::SNI => lent.connection().and_then(|connection| connection.sni),
        what::ALPN => return Ok(lent.connection().map_or(abi::ABSENT, |connection| copy(out, &connection.alpn.join(&b","[..])))),
        what::FIRST_BYTES => lent.connection().map(|connection| connection.first_bytes),
        _ => None,
    };
    Ok(value.map_or(abi::ABSENT, |value| copy(out, value)))
}

pub(super) fn get_header(mut caller: Caller<'_, State>, name: u32, name_len: u32, nth: u32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let Some(value) = state.lent.header(bytes(memory, name, name_len)?, nth as usize) else {
        return Ok(abi::ABSENT);
    };
    Ok(copy(place(memory, buf, cap)?, value))
}

pub(super) fn get_header_at(mut caller: Caller<'_, State>, index: u32, buf: u32, cap: u32) -> Result<i64> {
    let (memory, state) = split(&mut caller)?;
    let Some(field) = state.lent.headers().get(index as usize) else {
        return Ok(abi::ABSENT.into());
    };
    let out = place(memory, buf, cap)?;
    let name_len = copy(out, field.name);
    let rest = out.get_mut(field.name.len()..).unwrap_or_default();
    Ok(i64::from(name_len) << 32 | i64::from(copy(rest, field.value)))
}

pub(super) fn get_status(caller: Caller<'_, State>) -> i32 {
    caller.data().lent.status().map_or(abi::ABSENT, i32::from)
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
    let Some(body) = state.lent.body() else {
        return bad_call("get_body", state);
    };
    let rest = body.get(offset as usize..).unwrap_or_default();
    Ok(copy(place(memory, buf, cap)?, rest))
}

fn print(text: &mut [u8; 64], address: Option<std::net::SocketAddr>) -> Option<&[u8]> {
    let mut free = &mut text[..];
    // Does not fail: the text is long enough for any address.
    let _ = write!(free, "{}", address?);
    let left = free.len();
    Some(&text[..64 - left])
}
