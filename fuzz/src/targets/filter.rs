//! What a filter says, as the host takes it from the guest's memory: what passes its checks is one header, one request line, one
//! answer to whoever reads it next; text for the log is one line; the shared state does what a map with times would.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mirrord_filters::{LocalResponse, State, abi, clean};

use super::choices;
use crate::gateway::{
    http1::head::{self, Asks, Read},
    http1_private::edit,
};

/// Input: a name, a value, a path and a body, with line feeds between.
pub fn said(data: &[u8]) {
    let ([status, max], data) = choices(data);
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (name, value, path, body) = (next(), next(), next(), next());
    let path = if abi::path_problem(path).is_none() { path } else { b"/" };
    // By these some gateways frame a message, and others are refused beside a target that says the host.
    let plain = !name.contains(&b'_') && !name.eq_ignore_ascii_case(b"host") && !name.eq_ignore_ascii_case(b"expect");
    let field = (abi::edit_problem(name, value).is_none() && plain).then_some((name, value));
    let mut request = [b"POST ", path, b" HTTP/1.1\r\nHost: a\r\n"].concat();
    if let Some((name, value)) = field {
        request.extend([name, b": ", value, b"\r\n"].concat());
    }
    request.extend(b"Content-Length: 3\r\n\r\nabcGET");
    let read = head::request(&request, |view| {
        assert_eq!((view.method, view.target), (&b"POST"[..], path));
        assert_eq!(view.fields.len(), 2 + usize::from(field.is_some()));
        if let Some((name, value)) = field {
            assert_eq!((view.fields[1].name, view.fields[1].value), (name, value.trim_ascii()));
        }
    });
    let Read::Head((read, ())) = read else { panic!("{read:?}: {}", request.escape_ascii()) };
    assert_eq!(read.len, request.len() - 6);
    answer(200 + u16::from(status), field, body);

    let line = clean(data, usize::from(max));
    assert!(line.len() <= 6 * usize::from(max) + 3, "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
    if abi::metric_problem(name).is_none() {
        assert!(name.len() <= 64 && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'));
    }
}

fn answer(status: u16, field: Option<(&[u8], &[u8])>, body: &[u8]) {
    if abi::answer_problem(status.into(), body.len()).is_some() {
        return;
    }
    let headers: Vec<_> = field.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let bytes = edit::local_response(&LocalResponse { status, headers, body: body.to_vec() }, Asks::default(), false);
    match head::response(&bytes, Asks::default(), Some(|_: u16, fields: &[mirrord_filters::Field<'_>]| fields.len())) {
        Read::Head((read, fields)) => {
            assert!(fields.is_some_and(|fields| fields <= 2));
            let mut rest = read.body;
            let body = &bytes[read.len..];
            assert_eq!(rest.take(body).ok(), Some(body.len()), "{}", bytes.escape_ascii());
            assert!(rest.is_done() && (read.status, read.close) == (status, false), "{}", bytes.escape_ascii());
        }
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// Input: triples of what is done, on which key, and for how long or by how much.
pub fn state(data: &[u8]) {
    let (mut state, mut model) = (State::default(), HashMap::<[u8; 1], (Vec<u8>, Instant)>::new());
    let mut now = Instant::now();
    for step in data.chunks_exact(3) {
        let (key, amount) = ([step[1]], u64::from(step[2]));
        let alive = model.get(&key).filter(|(_, end)| *end > now).cloned();
        assert_eq!(state.get(&key, now), alive.as_ref().map(|(value, _)| value.as_slice()));
        match step[0] & 3 {
            0 => {
                let value = vec![step[0]; usize::from(step[0] >> 4)];
                state.set(&key, &value, amount, now);
                model.insert(key, (value, now + Duration::from_millis(amount.max(1))));
            }
            1 => {
                let delta = i64::from(step[2]) - 128;
                let old = alive.and_then(|(value, end)| Some((i64::from_le_bytes(value.try_into().ok()?), end)));
                let (sum, end) = match old {
                    Some((old, end)) => (old.wrapping_add(delta), end),
                    None => (delta, now + Duration::from_millis(50)),
                };
                assert_eq!(state.add(&key, delta, 50, now), sum);
                model.insert(key, (sum.to_le_bytes().to_vec(), end));
            }
            2 => {
                state.remove(&key);
                model.remove(&key);
            }
            _ => now += Duration::from_millis(amount),
        }
    }
}
