//! What has nothing to do with the message: the shared state, metrics, random numbers, the time.

use std::time::{Instant, SystemTime};

use wasmtime::{Caller, Result};

use super::{bytes, copy, place, split, state};
use crate::abi::{self, limit};
use crate::error::HostFault;
use crate::own::state::State;
use crate::series::SeriesKind;
use crate::{FaultKind, LogLevel};

pub(super) fn get_state(mut caller: Caller<'_, State>, key: u32, key_len: u32, buf: u32, cap: u32) -> Result<i32> {
    let (memory, state) = split(&mut caller)?;
    let key = key_of(memory, key, key_len)?.to_vec();
    let out = place(memory, buf, cap)?;
    let shared = state.filter.shared.state();
    Ok(shared.get(&key, Instant::now()).map_or(abi::ABSENT, |value| copy(out, value)))
}

pub(super) fn set_state(mut caller: Caller<'_, State>, key: u32, key_len: u32, value: u32, value_len: u32, ttl: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    let (key, value) = (key_of(memory, key, key_len)?, bytes(memory, value, value_len)?);
    if value.len() > limit::STATE_VALUE {
        return Err(HostFault::error(FaultKind::BadCall, "set_state: a value of more than 8 KiB"));
    }
    state.filter.shared.state().set(key, value, ttl.into(), Instant::now());
    Ok(())
}

pub(super) fn add_state(mut caller: Caller<'_, State>, key: u32, key_len: u32, delta: i64, ttl: u32) -> Result<i64> {
    let (memory, state) = split(&mut caller)?;
    let key = key_of(memory, key, key_len)?;
    Ok(state.filter.shared.state().add(key, delta, ttl.into(), Instant::now()))
}

pub(super) fn remove_state(mut caller: Caller<'_, State>, key: u32, key_len: u32) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    state.filter.shared.state().remove(key_of(memory, key, key_len)?);
    Ok(())
}

pub(super) fn random(mut caller: Caller<'_, State>) -> Result<u64> {
    Ok(state(&mut caller)?.random.next())
}

pub(super) fn now(_: Caller<'_, State>) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn count(caller: Caller<'_, State>, name: u32, name_len: u32, delta: i64) -> Result<()> {
    measure(caller, name, name_len, delta, SeriesKind::Counter)
}

pub(super) fn observe(caller: Caller<'_, State>, name: u32, name_len: u32, value: i64) -> Result<()> {
    measure(caller, name, name_len, value, SeriesKind::Histogram)
}

fn measure(mut caller: Caller<'_, State>, name: u32, name_len: u32, number: i64, kind: SeriesKind) -> Result<()> {
    let (memory, state) = split(&mut caller)?;
    let name = bytes(memory, name, name_len)?;
    let Ok(number) = u64::try_from(number) else {
        return Err(HostFault::error(FaultKind::BadCall, "a counter or histogram was given a negative number"));
    };
    if let Some(series) = state.series.iter().find(|series| series.name.as_bytes() == name && series.kind() == kind) {
        series.take(number);
        return Ok(());
    }
    if let Some(problem) = abi::metric_problem(name) {
        return Err(HostFault::error(FaultKind::BadCall, problem));
    }
    // The name was found to be ASCII.
    match state.filter.shared.metrics.series(&String::from_utf8_lossy(name), kind) {
        Some(series) => {
            series.take(number);
            state.series.push(series);
        }
        None => state.log(LogLevel::Warn, b"a metric is not counted: there are 64 already, or its name is one of the other kind"),
    }
    Ok(())
}

fn key_of(memory: &[u8], at: u32, len: u32) -> Result<&[u8]> {
    let key = bytes(memory, at, len)?;
    if key.len() > limit::STATE_KEY {
        return Err(HostFault::error(FaultKind::BadCall, "a key of the state has more than 256 bytes"));
    }
    Ok(key)
}
