//! The well-known properties (Envoy calls them attributes), in the encodings that SDKs expect: text as bytes, integers as
//! eight bytes, little-endian, booleans as one byte, header maps serialized.

use std::net::SocketAddr;

use super::context::Context;
use super::map::{Map, serialize};
use crate::filter::Configured;
use crate::{Version, wasi};

/// Where a filter's verdict and reason are set.
pub(crate) const VERDICT: &[u8] = b"mirrord\0verdict";
pub(crate) const REASON: &[u8] = b"mirrord\0reason";

/// Writes a property's value, if there is one.
pub(crate) fn get(path: &[u8], filter: &Configured, context: Option<&Context>, out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    match path {
        b"plugin_name" | b"plugin_vm_id" => put(out, filter.name.as_bytes()),
        b"plugin_root_id" => put(out, filter.name.strip_suffix(".wasm").unwrap_or(&filter.name).as_bytes()),
        b"listener_direction" => put(out, &1_i64.to_le_bytes()),
        _ => return of_exchange(path, context?, out),
    }
    Some(())
}

fn of_exchange(path: &[u8], context: &Context, out: &mut Vec<u8>) -> Option<()> {
    let (root, rest) = path.iter().position(|&byte| byte == 0).map(|at| (&path[..at], &path[at + 1..]))?;
    let name = std::str::from_utf8(rest).ok()?;
    match root {
        b"request" => request(name, context, out),
        b"response" => response(name, context, out),
        b"source" => address(name, context.client, out),
        // The pod's listener is what the client connected to.
        b"destination" | b"upstream" => address(name, context.destination, out),
        b"connection" => match name {
            "mtls" => {
                put(out, &[0]);
                Some(())
            }
            _ => None,
        },
        _ => None,
    }
}

fn request(name: &str, context: &Context, out: &mut Vec<u8>) -> Option<()> {
    let half = &context.request;
    let first = |name: &'static [u8]| half.headers.values(name).next();
    let path = || first(b":path").unwrap_or_default();
    let query_at = |path: &[u8]| path.iter().position(|&byte| byte == b'?');
    match name {
        "path" => put(out, path()),
        "url_path" => put(out, &path()[..query_at(path()).unwrap_or(path().len())]),
        "query" => put(out, query_at(path()).map_or(&b""[..], |at| &path()[at + 1..])),
        "host" => put(out, first(b":authority")?),
        "scheme" => put(out, first(b":scheme")?),
        "method" => put(out, first(b":method")?),
        "referer" => put(out, first(b"referer")?),
        "useragent" => put(out, first(b"user-agent")?),
        "id" => put(out, first(b"x-request-id")?),
        "protocol" => put(out, context.version.map(Version::as_str)?.as_bytes()),
        "time" => put(out, &wasi::nanos(context.began?).to_le_bytes()),
        "duration" => put(out, &(i64::try_from(context.began?.elapsed().unwrap_or_default().as_millis()).ok()? * 1_000_000).to_le_bytes()),
        "size" => put(out, &half.size.to_le_bytes()),
        "total_size" => put(out, &(half.size + half.headers.size() as u64).to_le_bytes()),
        _ => return headers(name, &half.headers, out),
    }
    Some(())
}

fn response(name: &str, context: &Context, out: &mut Vec<u8>) -> Option<()> {
    let half = &context.response;
    // Nothing of it is there before it comes.
    let status = context.status?;
    match name {
        "code" => put(out, &i64::from(status).to_le_bytes()),
        "flags" => put(out, &0_i64.to_le_bytes()),
        "size" => put(out, &half.size.to_le_bytes()),
        "total_size" => put(out, &(half.size + half.headers.size() as u64).to_le_bytes()),
        "grpc_status" => {
            let value = half.trailers.values(b"grpc-status").next().or_else(|| half.headers.values(b"grpc-status").next())?;
            put(out, &std::str::from_utf8(value).ok()?.parse::<i64>().ok()?.to_le_bytes());
        }
        _ => match name.strip_prefix("trailers") {
            Some(rest) => return headers(&format!("headers{rest}"), &half.trailers, out),
            None => return headers(name, &half.headers, out),
        },
    }
    Some(())
}

/// `headers`, or `headers` NUL and a name.
fn headers(name: &str, map: &Map, out: &mut Vec<u8>) -> Option<()> {
    match name.strip_prefix("headers")? {
        "" => serialize(map.pairs(), out),
        field => put(out, map.values(field.strip_prefix('\0')?.as_bytes()).next()?),
    }
    Some(())
}

fn address(name: &str, address: Option<SocketAddr>, out: &mut Vec<u8>) -> Option<()> {
    match name {
        "address" => put(out, address?.to_string().as_bytes()),
        "port" => put(out, &i64::from(address?.port()).to_le_bytes()),
        _ => return None,
    }
    Some(())
}

fn put(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(value);
}
