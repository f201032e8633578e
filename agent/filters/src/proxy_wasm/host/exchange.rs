//! Host calls about one exchange as a whole: its properties and verdict, pausing and ending it, local responses, callouts.

use wasmtime::{Caller, Linker, Result};

use super::{Host, ROOT, bytes, give, give_filled, split, store};
use crate::abi::{answer_problem, edit_problem, is_untouchable, limit};
use crate::error::HostFault;
use crate::log::clean;
use crate::proxy_wasm::abi::{MODULE, status, stream};
use crate::proxy_wasm::callout::{NotMade, Request};
use crate::proxy_wasm::map::deserialize;
use crate::proxy_wasm::property;
use crate::{FaultKind, LocalResponse, LogLevel, Verdict};

pub(super) fn add(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(MODULE, "proxy_get_property", |mut caller: Caller<'_, Host>, path: u32, len: u32, at: u32, size_at: u32| {
        give_filled(&mut caller, at, size_at, status::NOT_FOUND, |memory, host, out| {
            let path = bytes(memory, path, len)?;
            let context = host.current.and_then(|place| host.contexts.read(place));
            let set = context.map_or(&host.properties, |context| &context.properties);
            if let Some(value) = set.get(path) {
                out.extend_from_slice(value);
                return Ok(Some(()));
            }
            Ok(property::get(path, &host.filter, context, out))
        })
    })?;
    linker.func_wrap(MODULE, "proxy_set_property", set_property)?;
    linker.func_wrap(MODULE, "proxy_send_local_response", send_local_response)?;
    linker.func_wrap(MODULE, "proxy_continue_stream", continue_stream)?;
    linker.func_wrap(MODULE, "proxy_close_stream", |mut caller: Caller<'_, Host>, which: i32| -> Result<i32> {
        if let (stream::REQUEST | stream::RESPONSE, Some(context)) = (which, split(&mut caller)?.1.exchange()) {
            context.said.close = true;
            let id = context.id;
            caller.data_mut().resumed.push(id);
        }
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_done", |mut caller: Caller<'_, Host>| -> Result<i32> {
        // Contexts are not kept beyond their end, so nothing waits for this.
        split(&mut caller)?;
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_set_effective_context", |mut caller: Caller<'_, Host>, id: u32| -> Result<i32> {
        let (_, host) = split(&mut caller)?;
        let place = host.contexts.find(id);
        if place.is_none() && id != ROOT {
            return Ok(status::BAD_ARGUMENT);
        }
        host.current = place;
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_http_call", http_call)?;
    linker.func_wrap(MODULE, "proxy_get_status", |mut caller: Caller<'_, Host>, code_at: u32, at: u32, size_at: u32| -> Result<i32> {
        let (memory, host) = split(&mut caller)?;
        let code = u32::from(host.call_response.as_ref().map_or(0, |response| response.status));
        store(memory, code_at, &code.to_le_bytes())?;
        give(&mut caller, b"", at, size_at)
    })?;
    Ok(())
}

fn set_property(mut caller: Caller<'_, Host>, path: u32, len: u32, value: u32, value_len: u32) -> Result<i32> {
    let (memory, host) = split(&mut caller)?;
    let (path, value) = (bytes(memory, path, len)?, bytes(memory, value, value_len)?);
    let room = match host.current.and_then(|place| host.contexts.get(place)) {
        None => host.properties.set(path, value),
        Some(context) => {
            match path {
                property::VERDICT => context.said.verdict = Some(verdict(value)?),
                property::REASON => context.said.reason = Some(clean(value, limit::REASON).into()),
                _ => {}
            }
            // Those two are read where they are used.
            path == property::VERDICT || path == property::REASON || context.properties.set(path, value)
        }
    };
    match room {
        true => Ok(status::OK),
        false => Err(HostFault::error(FaultKind::BadCall, "too many properties are set, or too long ones")),
    }
}

fn verdict(value: &[u8]) -> Result<Verdict> {
    match value {
        b"pass" => Ok(Verdict::Pass),
        b"steal" => Ok(Verdict::Steal),
        b"mirror" => Ok(Verdict::Mirror),
        b"steal_and_mirror" => Ok(Verdict::StealAndMirror),
        other => Err(HostFault::error(
            FaultKind::BadVerdict,
            format!("the property mirrord.verdict is {:?}; it can be pass, steal, mirror or steal_and_mirror", clean(other, 32)),
        )),
    }
}

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
fn send_local_response(
    mut caller: Caller<'_, Host>,
    code: u32,
    _details: u32,
    _details_len: u32,
    body: u32,
    body_len: u32,
    headers: u32,
    headers_len: u32,
    grpc_status: i32,
) -> Result<i32> {
    let (memory, host) = split(&mut caller)?;
    let (body, headers) = (bytes(memory, body, body_len)?, bytes(memory, headers, headers_len)?);
    let bad = |problem: &str| HostFault::error(FaultKind::BadAnswer, format!("send_local_response: {problem} (status {code})"));
    let pairs = deserialize(headers).ok_or_else(|| bad("the headers are no serialized map"))?;
    if pairs.len() > limit::EDITS || headers.len() > limit::EDIT_BYTES {
        return Err(bad("too many headers, or too long ones"));
    }
    let mut fields = Vec::with_capacity(pairs.len() + 3);
    let mut response_body = body.to_vec();
    // As everywhere in the field, the number counts for calls of gRPC only: some SDKs have no way not to give one.
    let is_grpc = grpc_status >= 0 && host.exchange().is_some_and(|context| context.is_grpc());
    if is_grpc {
        // What a gRPC client takes for an answer without messages: trailers only.
        fields.push((b"content-type".to_vec(), b"application/grpc".to_vec()));
        fields.push((b"grpc-status".to_vec(), grpc_status.to_string().into_bytes()));
        if !body.is_empty() {
            fields.push((b"grpc-message".to_vec(), percent_encoded(&body[..body.len().min(1024)])));
        }
        response_body.clear();
    }
    for (name, value) in pairs {
        if name.starts_with(b":") || is_untouchable(name) {
            continue;
        }
        if let Some(problem) = edit_problem(name, value) {
            return Err(bad(problem));
        }
        fields.push((name.to_vec(), value.to_vec()));
    }
    let code = if is_grpc { 200 } else { i32::try_from(code).unwrap_or(0) };
    if let Some(problem) = answer_problem(code, response_body.len()) {
        return Err(bad(problem));
    }
    if let Some(context) = host.exchange() {
        context.said.response = Some(LocalResponse { status: u16::try_from(code).unwrap_or(500), headers: fields, body: response_body });
        let id = context.id;
        host.resumed.push(id);
    }
    Ok(status::OK)
}

/// As gRPC's HTTP/2 mapping wants a message in a header.
fn percent_encoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out
}

fn continue_stream(mut caller: Caller<'_, Host>, which: i32) -> Result<i32> {
    let (_, host) = split(&mut caller)?;
    let Some(context) = host.exchange() else { return Ok(status::OK) };
    match which {
        stream::REQUEST => context.request.paused = false,
        stream::RESPONSE => context.response.paused = false,
        // A TCP stream's; there are none.
        _ => return Ok(status::OK),
    }
    let id = context.id;
    host.resumed.push(id);
    Ok(status::OK)
}

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
fn http_call(
    mut caller: Caller<'_, Host>,
    upstream: u32,
    upstream_len: u32,
    headers: u32,
    headers_len: u32,
    body: u32,
    body_len: u32,
    _trailers: u32,
    _trailers_len: u32,
    timeout: u32,
    token_at: u32,
) -> Result<i32> {
    let (memory, host) = split(&mut caller)?;
    let name = bytes(memory, upstream, upstream_len)?;
    let request =
        Request::read(&host.plugin.upstreams, name, bytes(memory, headers, headers_len)?, bytes(memory, body, body_len)?, timeout);
    let (id, under_way) = host.exchange().map_or((ROOT, 0), |context| (context.id, context.callouts));
    match request.and_then(|request| host.callouts.queue(id, under_way, request)) {
        Ok(token) => {
            if let Some(context) = host.exchange() {
                context.callouts += 1;
            }
            host.mailbox.wake();
            store(memory, token_at, &token.to_le_bytes())?;
            Ok(status::OK)
        }
        Err(NotMade::Invalid(problem)) => {
            let upstream = clean(name, 64);
            host.log(LogLevel::Warn, format!("its HTTP call to {upstream:?} is not made: {problem}").as_bytes());
            Ok(status::BAD_ARGUMENT)
        }
        Err(NotMade::TooMany) => Ok(status::INTERNAL_FAILURE),
    }
}
