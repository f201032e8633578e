//! One instantiated guest: its store, its callbacks, and the calls of them within a deadline.

use std::sync::Arc;

use wasmtime::{Instance, Store, TypedFunc, UpdateDeadline, WasmParams, WasmResults};

use super::Plugin;
use super::abi::{ALLOCATE, MEMORY, callback};
use super::host::{Host, ROOT};
use super::shared::Mailbox;
use crate::Fault;
use crate::deadline::Deadline;
use crate::error::explain;
use crate::filter::{Configured, StartFailure};
use crate::link::Side;

pub(crate) struct Vm {
    store: Store<Host>,
    calls: Calls,
    last_context: u32,
}

/// A callback's type: so many numbers, and one back where there is an `R`.
type Call<P, R = ()> = Option<TypedFunc<P, R>>;

struct Calls {
    context_create: Call<(u32, u32)>,
    request_headers: Call<(u32, u32, u32), i32>,
    request_body: Call<(u32, u32, u32), i32>,
    response_headers: Call<(u32, u32, u32), i32>,
    response_body: Call<(u32, u32, u32), i32>,
    request_trailers: Call<(u32, u32), i32>,
    response_trailers: Call<(u32, u32), i32>,
    done: Call<u32, i32>,
    log: Call<u32>,
    delete: Call<u32>,
    tick: Call<u32>,
    queue_ready: Call<(u32, u32)>,
    http_call_response: Call<(u32, u32, u32, u32, u32)>,
}

impl Vm {
    /// Instantiates, starts and configures a guest, under the eyes of the ticker that the caller called.
    pub(crate) fn start(filter: &Arc<Configured>, plugin: &Arc<Plugin>, mailbox: &Arc<Mailbox>, ticks: u64) -> Result<Vm, StartFailure> {
        let host = Host::new(filter.clone(), plugin.clone(), mailbox.clone());
        let mut store = Store::new(&plugin.guest.engine.inner.wasmtime, host);
        store.limiter(|host| &mut host.limiter);
        store.epoch_deadline_callback(|mut context| {
            Ok(if context.data_mut().deadline.is_over() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        arm(&mut store, ticks);
        match instantiate(&mut store, plugin) {
            Ok((calls, true)) => Ok(Vm { store, calls, last_context: ROOT }),
            Ok((_, false)) => {
                let words = store.data_mut().last_words.take();
                Err(StartFailure::Refused(words.unwrap_or_else(|| "it does not say why; log an error before you return false".into())))
            }
            Err(error) => Err(StartFailure::Fault(fault(store.data(), &error))),
        }
    }

    /// Starts the clock for what is called next.
    pub(crate) fn arm(&mut self, ticks: u64) {
        arm(&mut self.store, ticks);
    }

    pub(crate) fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// Whether it has seen a request.
    pub(crate) fn is_used(&self) -> bool {
        self.last_context != ROOT
    }

    /// A new exchange's number and place; nothing when there are too many.
    pub(crate) fn open(&mut self) -> Option<(u32, usize)> {
        let place = self.store.data_mut().contexts.open()?;
        // After four thousand million requests the numbers of old ones come again; those are over.
        self.last_context = self.last_context.checked_add(1).unwrap_or(ROOT + 1);
        Some((self.last_context, place))
    }

    pub(crate) fn create(&mut self, place: usize, id: u32) -> Result<(), Fault> {
        self.run(|calls| &calls.context_create, Some(place), (id, ROOT)).map(|_| ())
    }

    /// The head of either side; whether the guest pauses.
    pub(crate) fn headers(&mut self, side: Side, place: usize, id: u32, count: usize, end: bool) -> Result<bool, Fault> {
        let params = (id, number(count), u32::from(end));
        let action = match side {
            Side::Request => self.run(|calls| &calls.request_headers, Some(place), params)?,
            Side::Response => self.run(|calls| &calls.response_headers, Some(place), params)?,
        };
        Ok(action.is_some_and(|action| action != super::abi::CONTINUE))
    }

    /// A piece of a body; whether the guest pauses.
    pub(crate) fn body(&mut self, side: Side, place: usize, id: u32, size: usize, end: bool) -> Result<bool, Fault> {
        let params = (id, number(size), u32::from(end));
        let action = match side {
            Side::Request => self.run(|calls| &calls.request_body, Some(place), params)?,
            Side::Response => self.run(|calls| &calls.response_body, Some(place), params)?,
        };
        Ok(action.is_some_and(|action| action != super::abi::CONTINUE))
    }

    pub(crate) fn trailers(&mut self, side: Side, place: usize, id: u32, count: usize) -> Result<(), Fault> {
        match side {
            Side::Request => self.run(|calls| &calls.request_trailers, Some(place), (id, number(count)))?,
            Side::Response => self.run(|calls| &calls.response_trailers, Some(place), (id, number(count)))?,
        };
        Ok(())
    }

    /// The exchange is over.
    pub(crate) fn finish(&mut self, place: usize, id: u32) -> Result<(), Fault> {
        // A guest that says it is not done yet is not waited for: nothing more happens in this exchange.
        self.run(|calls| &calls.done, Some(place), id)?;
        self.run(|calls| &calls.log, Some(place), id)?;
        self.run(|calls| &calls.delete, Some(place), id)?;
        self.host().contexts.close(place);
        Ok(())
    }

    pub(crate) fn tick(&mut self) -> Result<(), Fault> {
        self.run(|calls| &calls.tick, None, ROOT).map(|_| ())
    }

    pub(crate) fn queue_ready(&mut self, queue: u32) -> Result<(), Fault> {
        self.run(|calls| &calls.queue_ready, None, (ROOT, queue)).map(|_| ())
    }

    pub(crate) fn http_call_response(&mut self, token: u32, headers: usize, body: usize, trailers: usize) -> Result<(), Fault> {
        let params = (ROOT, token, number(headers), number(body), number(trailers));
        self.run(|calls| &calls.http_call_response, None, params).map(|_| ())
    }

    fn run<P: WasmParams, R: WasmResults>(
        &mut self,
        which: impl Fn(&Calls) -> &Call<P, R>,
        current: Option<usize>,
        params: P,
    ) -> Result<Option<R>, Fault> {
        let Some(call) = which(&self.calls) else { return Ok(None) };
        self.store.data_mut().begin(current);
        match call.call(&mut self.store, params) {
            Ok(result) => Ok(Some(result)),
            Err(error) => Err(fault(self.store.data(), &error)),
        }
    }
}

/// Links, starts and configures; whether the guest agrees.
fn instantiate(store: &mut Store<Host>, plugin: &Plugin) -> wasmtime::Result<(Calls, bool)> {
    let instance = plugin.guest.pre.instantiate(&mut *store)?;
    let allocate = match export(store, &instance, ALLOCATE[0])? {
        Some(allocate) => Some(allocate),
        None => export(store, &instance, ALLOCATE[1])?,
    };
    let host = store.data_mut();
    (host.allocate, host.memory) = (allocate, None);
    let memory = instance.get_memory(&mut *store, MEMORY);
    store.data_mut().memory = memory;
    match export::<(), ()>(store, &instance, callback::INITIALIZE)? {
        Some(initialize) => initialize.call(&mut *store, ())?,
        None => {
            if let Some(start) = export::<(), ()>(store, &instance, callback::START)? {
                start.call(&mut *store, ())?;
            }
        }
    }
    let calls = Calls {
        context_create: export(store, &instance, callback::CONTEXT_CREATE)?,
        request_headers: export(store, &instance, callback::REQUEST_HEADERS)?,
        request_body: export(store, &instance, callback::REQUEST_BODY)?,
        response_headers: export(store, &instance, callback::RESPONSE_HEADERS)?,
        response_body: export(store, &instance, callback::RESPONSE_BODY)?,
        request_trailers: export(store, &instance, callback::REQUEST_TRAILERS)?,
        response_trailers: export(store, &instance, callback::RESPONSE_TRAILERS)?,
        done: export(store, &instance, callback::DONE)?,
        log: export(store, &instance, callback::LOG)?,
        delete: export(store, &instance, callback::DELETE)?,
        tick: export(store, &instance, callback::TICK)?,
        queue_ready: export(store, &instance, callback::QUEUE_READY)?,
        http_call_response: export(store, &instance, callback::HTTP_CALL_RESPONSE)?,
    };
    if let Some(create) = &calls.context_create {
        create.call(&mut *store, (ROOT, 0))?;
    }
    let config = number(store.data().filter.config.len());
    for (name, size) in [(callback::VM_START, 0), (callback::CONFIGURE, config)] {
        if let Some(agree) = export::<(u32, u32), i32>(store, &instance, name)?
            && agree.call(&mut *store, (ROOT, size))? == 0
        {
            return Ok((calls, false));
        }
    }
    Ok((calls, true))
}

fn export<P: WasmParams, R: WasmResults>(store: &mut Store<Host>, instance: &Instance, name: &str) -> wasmtime::Result<Call<P, R>> {
    match instance.get_func(&mut *store, name) {
        Some(function) => function.typed(&*store).map(Some),
        None => Ok(None),
    }
}

fn arm(store: &mut Store<Host>, ticks: u64) {
    // The epoch stands still unless a call takes long.
    store.set_epoch_deadline(1);
    store.data_mut().deadline = Deadline::new(ticks);
}

fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn fault(host: &Host, error: &wasmtime::Error) -> Fault {
    let (kind, message) = explain(error, host.limiter.refused, host.last_words.as_deref());
    host.filter.fault(kind, message)
}
