//! Host calls about headers, trailers and bodies.

use wasmtime::{Caller, Linker, Result};

use super::{Host, bytes, give_filled, split, store};
use crate::FaultKind;
use crate::abi::limit;
use crate::error::HostFault;
use crate::proxy_wasm::abi::{MODULE, buffer, map, status};
use crate::proxy_wasm::map::{Map, deserialize, serialize};

pub(super) fn add(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(MODULE, "proxy_get_header_map_size", |mut caller: Caller<'_, Host>, which: i32, size_at: u32| -> Result<i32> {
        let (memory, host) = split(&mut caller)?;
        let size = host.map(which).map_or(0, |map| map.size());
        store(memory, size_at, &u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes())?;
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_get_header_map_pairs", |mut caller: Caller<'_, Host>, which: i32, at: u32, size_at: u32| {
        give_filled(&mut caller, at, size_at, status::OK, |_, host, out| {
            // What is not there is empty: SDKs panic at anything else.
            if let Some(map) = host.map(which).filter(|map| map.len() > 0) {
                serialize(map.pairs(), out);
            }
            Ok(Some(()))
        })
    })?;
    linker.func_wrap(
        MODULE,
        "proxy_get_header_map_value",
        |mut caller: Caller<'_, Host>, which: i32, name: u32, name_len: u32, at: u32, size_at: u32| {
            give_filled(&mut caller, at, size_at, status::NOT_FOUND, |memory, host, out| {
                let name = bytes(memory, name, name_len)?;
                let Some(map) = host.map(which) else { return Ok(None) };
                let mut values = map.values(name);
                let Some(first) = values.next() else { return Ok(None) };
                out.extend_from_slice(first);
                // As Envoy gives several of one name.
                for value in values {
                    out.push(b',');
                    out.extend_from_slice(value);
                }
                Ok(Some(()))
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_header_map_pairs",
        |mut caller: Caller<'_, Host>, which: i32, at: u32, len: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            match (host.map(which), deserialize(bytes(memory, at, len)?)) {
                (Some(map), Some(pairs)) => map.set(&pairs)?,
                (_, None) => return Err(HostFault::error(FaultKind::BadEdit, "a header map that is not serialized as one")),
                (None, _) => {}
            }
            Ok(status::OK)
        },
    )?;
    linker.func_wrap(MODULE, "proxy_replace_header_map_value", edit(|map, name, value| map.replace(name, value)))?;
    linker.func_wrap(MODULE, "proxy_add_header_map_value", edit(|map, name, value| map.add(name, value)))?;
    linker.func_wrap(
        MODULE,
        "proxy_remove_header_map_value",
        |mut caller: Caller<'_, Host>, which: i32, name: u32, name_len: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            if let Some(map) = host.map(which) {
                map.remove(bytes(memory, name, name_len)?)?;
            }
            Ok(status::OK)
        },
    )?;
    linker.func_wrap(MODULE, "proxy_get_buffer_bytes", get_buffer_bytes)?;
    linker.func_wrap(
        MODULE,
        "proxy_get_buffer_status",
        |mut caller: Caller<'_, Host>, which: i32, size_at: u32, flags_at: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            let Some(buffer) = host.buffer(which) else { return Ok(status::NOT_FOUND) };
            let size = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
            store(memory, size_at, &size.to_le_bytes())?;
            store(memory, flags_at, &[0; 4])?;
            Ok(status::OK)
        },
    )?;
    linker.func_wrap(MODULE, "proxy_set_buffer_bytes", set_buffer_bytes)?;
    Ok(())
}

type Edit = fn(&mut Map, &[u8], &[u8]) -> Result<()>;

fn edit(apply: Edit) -> impl Fn(Caller<'_, Host>, i32, u32, u32, u32, u32) -> Result<i32> {
    move |mut caller, which, name, name_len, value, value_len| {
        let (memory, host) = split(&mut caller)?;
        if let Some(map) = host.map(which) {
            apply(map, bytes(memory, name, name_len)?, bytes(memory, value, value_len)?)?;
        }
        Ok(status::OK)
    }
}

fn get_buffer_bytes(mut caller: Caller<'_, Host>, which: i32, start: u32, max: u32, at: u32, size_at: u32) -> Result<i32> {
    give_filled(&mut caller, at, size_at, status::NOT_FOUND, |_, host, out| {
        let Some(buffer) = host.buffer(which) else { return Ok(None) };
        let start = (start as usize).min(buffer.len());
        let end = start.saturating_add(max as usize).min(buffer.len());
        out.extend_from_slice(&buffer[start..end]);
        Ok(Some(()))
    })
}

fn set_buffer_bytes(mut caller: Caller<'_, Host>, which: i32, start: u32, size: u32, value: u32, value_len: u32) -> Result<i32> {
    let (memory, host) = split(&mut caller)?;
    let value = bytes(memory, value, value_len)?;
    let Some(context) = host.exchange() else { return Ok(status::OK) };
    let half = match which {
        buffer::REQUEST_BODY => &mut context.request,
        buffer::RESPONSE_BODY => &mut context.response,
        _ => return Ok(status::OK),
    };
    // Outside its body's hooks there is nothing to replace; SDKs know no refusal.
    if !half.body_open {
        return Ok(status::OK);
    }
    let start = (start as usize).min(half.body.len());
    let end = start.saturating_add(size as usize).min(half.body.len());
    if half.body.len() - (end - start) + value.len() > 2 * limit::BODY_WINDOW {
        return Err(HostFault::error(FaultKind::BadEdit, "a body that is longer than 2 MiB at once; let go what is ready"));
    }
    half.body.splice(start..end, value.iter().copied());
    half.body_changed = true;
    Ok(status::OK)
}

impl Host {
    fn map(&mut self, which: i32) -> Option<&mut Map> {
        if let map::CALL_RESPONSE_HEADERS | map::CALL_RESPONSE_TRAILERS = which {
            let response = self.call_response.as_mut()?;
            return Some(if which == map::CALL_RESPONSE_HEADERS { &mut response.headers } else { &mut response.trailers });
        }
        let context = self.exchange()?;
        match which {
            map::REQUEST_HEADERS => Some(&mut context.request.headers),
            map::REQUEST_TRAILERS => Some(&mut context.request.trailers),
            map::RESPONSE_HEADERS => Some(&mut context.response.headers),
            map::RESPONSE_TRAILERS => Some(&mut context.response.trailers),
            _ => None,
        }
    }

    fn buffer(&mut self, which: i32) -> Option<&[u8]> {
        match which {
            // There is one configuration, and it is the plugin's.
            buffer::PLUGIN_CONFIGURATION => Some(&self.filter.config),
            buffer::VM_CONFIGURATION => Some(&[]),
            buffer::CALL_RESPONSE_BODY => self.call_response.as_ref().map(|response| &*response.body),
            buffer::REQUEST_BODY => self.exchange().map(|context| &context.request).filter(|half| half.body_open).map(|half| &*half.body),
            buffer::RESPONSE_BODY => self.exchange().map(|context| &context.response).filter(|half| half.body_open).map(|half| &*half.body),
            _ => None,
        }
    }
}
