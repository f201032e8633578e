//! Host calls that are about no exchange: log, time, ticks, what instances share, and what this host does not have.

use std::time::{Duration, Instant};

use wasmtime::{Caller, Linker, Result};

use super::{Host, Tick, bytes, give_filled, split, store};
use crate::error::HostFault;
use crate::proxy_wasm::abi::{MODULE, status};
use crate::proxy_wasm::shared::{MAX_KEY, Refused};
use crate::{FaultKind, LogLevel, wasi};

/// The shortest time between ticks.
const MIN_TICK: Duration = Duration::from_millis(10);

pub(super) fn add(linker: &mut Linker<Host>) -> Result<()> {
    add_basics(linker)?;
    add_shared(linker)?;
    add_metrics(linker)?;
    add_missing(linker)
}

fn add_basics(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(MODULE, "proxy_log", |mut caller: Caller<'_, Host>, level: i32, text: u32, len: u32| -> Result<i32> {
        let (memory, host) = split(&mut caller)?;
        let level = match level {
            ..=1 => LogLevel::Debug,
            2 => LogLevel::Info,
            3 => LogLevel::Warn,
            4.. => LogLevel::Error,
        };
        host.log(level, bytes(memory, text, len)?);
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_get_log_level", |mut caller: Caller<'_, Host>, at: u32| -> Result<i32> {
        // Debug.
        store(split(&mut caller)?.0, at, &1_u32.to_le_bytes())?;
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_get_current_time_nanoseconds", |mut caller: Caller<'_, Host>, at: u32| -> Result<i32> {
        store(split(&mut caller)?.0, at, &wasi::now_nanos().to_le_bytes())?;
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "proxy_set_tick_period_milliseconds", |mut caller: Caller<'_, Host>, period: u32| -> Result<i32> {
        let (_, host) = split(&mut caller)?;
        let period = Duration::from_millis(period.into());
        host.tick = (period > Duration::ZERO).then(|| {
            let period = period.max(MIN_TICK);
            Tick { period, next: Instant::now() + period }
        });
        host.mailbox.wake();
        Ok(status::OK)
    })?;
    linker.func_wrap(MODULE, "emscripten_notify_memory_growth", |_: i32| {})?;
    linker.func_wrap(MODULE, "abort", |_: i32, _: i32, line: i32, column: i32| -> Result<()> {
        Err(HostFault::error(FaultKind::Trap, format!("it called abort() at {line}:{column}")))
    })?;
    Ok(())
}

fn add_shared(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_shared_data",
        |mut caller: Caller<'_, Host>, key: u32, key_len: u32, at: u32, size_at: u32, cas_at: u32| -> Result<i32> {
            let mut cas = 0;
            let found = give_filled(&mut caller, at, size_at, status::NOT_FOUND, |memory, host, out| {
                let Some((value, own)) = host.plugin.shared.get(bytes(memory, key, key_len)?) else { return Ok(None) };
                cas = own;
                out.extend_from_slice(&value);
                Ok(Some(()))
            })?;
            if found == status::OK {
                store(split(&mut caller)?.0, cas_at, &cas.to_le_bytes())?;
            }
            Ok(found)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_shared_data",
        |mut caller: Caller<'_, Host>, key: u32, key_len: u32, value: u32, value_len: u32, cas: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            answer(host.plugin.shared.set(bytes(memory, key, key_len)?, bytes(memory, value, value_len)?, cas), "shared data")
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_register_shared_queue",
        |mut caller: Caller<'_, Host>, name: u32, len: u32, id_at: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            give_id(memory, id_at, host.plugin.shared.register_queue(bytes(memory, name, len)?, &host.mailbox), "queues")
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_resolve_shared_queue",
        |mut caller: Caller<'_, Host>, _vm: u32, _vm_len: u32, name: u32, len: u32, id_at: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            match host.plugin.shared.resolve_queue(bytes(memory, name, len)?) {
                Some(id) => give_id(memory, id_at, Ok(id), "queues"),
                None => Ok(status::NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_enqueue_shared_queue",
        |mut caller: Caller<'_, Host>, id: u32, value: u32, len: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            answer(host.plugin.shared.enqueue(id, bytes(memory, value, len)?, &host.mailbox), "queue items")
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_dequeue_shared_queue",
        |mut caller: Caller<'_, Host>, id: u32, at: u32, size_at: u32| -> Result<i32> {
            let mut known = true;
            let status = give_filled(&mut caller, at, size_at, status::EMPTY, |_, host, out| match host.plugin.shared.dequeue(id) {
                Ok(Some(item)) => {
                    *out = item;
                    Ok(Some(()))
                }
                Ok(None) => Ok(None),
                Err(_) => {
                    known = false;
                    Ok(None)
                }
            })?;
            Ok(if known { status } else { status::NOT_FOUND })
        },
    )?;
    Ok(())
}

fn add_metrics(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_define_metric",
        |mut caller: Caller<'_, Host>, kind: i32, name: u32, len: u32, id_at: u32| -> Result<i32> {
            let (memory, host) = split(&mut caller)?;
            let name = crate::log::clean(bytes(memory, name, len.min(MAX_KEY as u32))?, MAX_KEY);
            give_id(memory, id_at, host.plugin.shared.define_metric(kind, &name), "metrics")
        },
    )?;
    linker.func_wrap(MODULE, "proxy_increment_metric", |mut caller: Caller<'_, Host>, id: u32, by: i64| -> Result<i32> {
        let (_, host) = split(&mut caller)?;
        Ok(match host.plugin.shared.metric(id).map(|metric| metric.increment(by)) {
            Some(Ok(())) => status::OK,
            Some(Err(_)) => status::BAD_ARGUMENT,
            None => status::NOT_FOUND,
        })
    })?;
    linker.func_wrap(MODULE, "proxy_record_metric", |mut caller: Caller<'_, Host>, id: u32, value: u64| -> Result<i32> {
        let (_, host) = split(&mut caller)?;
        Ok(match host.plugin.shared.metric(id) {
            Some(metric) => {
                metric.record(value);
                status::OK
            }
            None => status::NOT_FOUND,
        })
    })?;
    linker.func_wrap(MODULE, "proxy_get_metric", |mut caller: Caller<'_, Host>, id: u32, at: u32| -> Result<i32> {
        let (memory, host) = split(&mut caller)?;
        match host.plugin.shared.metric(id).map(|metric| metric.value()) {
            Some(value) => store(memory, at, &value.to_le_bytes()).map(|()| status::OK),
            None => Ok(status::NOT_FOUND),
        }
    })?;
    Ok(())
}

/// Every filter of the Rust SDK links these, whether it calls them or not; the statuses are ones that its callers know.
fn add_missing(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_grpc_call",
        |caller: Caller<'_, Host>, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {
            missing(caller, "gRPC calls")
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_grpc_stream",
        |caller: Caller<'_, Host>, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| missing(caller, "gRPC streams"),
    )?;
    linker.func_wrap(MODULE, "proxy_grpc_send", |_: i32, _: i32, _: i32, _: i32| status::NOT_FOUND)?;
    linker.func_wrap(MODULE, "proxy_grpc_cancel", |_: i32| status::NOT_FOUND)?;
    linker.func_wrap(MODULE, "proxy_grpc_close", |_: i32| status::NOT_FOUND)?;
    linker.func_wrap(MODULE, "proxy_call_foreign_function", |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32| status::NOT_FOUND)?;
    Ok(())
}

fn missing(mut caller: Caller<'_, Host>, what: &str) -> Result<i32> {
    split(&mut caller)?.1.log(LogLevel::Warn, format!("this host makes no {what}").as_bytes());
    Ok(status::INTERNAL_FAILURE)
}

/// The SDKs know no status for "too many": the call ends, and the fault says why.
fn full(what: &str) -> wasmtime::Error {
    HostFault::error(FaultKind::BadCall, format!("too many {what}, or too long ones"))
}

fn answer(result: std::result::Result<(), Refused>, what: &str) -> Result<i32> {
    match result {
        Ok(()) => Ok(status::OK),
        Err(Refused::Cas) => Ok(status::CAS_MISMATCH),
        Err(Refused::Unknown) => Ok(status::NOT_FOUND),
        Err(Refused::Invalid) => Ok(status::BAD_ARGUMENT),
        Err(Refused::Full) => Err(full(what)),
    }
}

fn give_id(memory: &mut [u8], at: u32, id: std::result::Result<u32, Refused>, what: &str) -> Result<i32> {
    match id {
        Ok(id) => store(memory, at, &id.to_le_bytes()).map(|()| status::OK),
        Err(refused) => answer(Err(refused), what),
    }
}
