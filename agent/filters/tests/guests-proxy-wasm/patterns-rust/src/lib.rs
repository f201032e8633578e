//! The patterns of stock proxy-wasm filters, written as their authors write them: one module, and the config (`NAME` or
//! `NAME ARGUMENT`) says which pattern it is.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MetricType};
use std::time::Duration;

mod patterns;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Debug);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::<Root>::default() });
}}

#[derive(Default)]
struct Root {
    name: String,
    argument: String,
    counter: u32,
    gauge: u32,
    histogram: u32,
    queue: u32,
    ticks: u32,
}

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body: usize, _: usize) {
        log::info!("the tick's call: {headers} headers, {:?}", self.get_http_call_response_body(0, body));
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        size == 0
    }

    fn on_configure(&mut self, size: usize) -> bool {
        let config = self.get_plugin_configuration().unwrap_or_default();
        if config.len() != size {
            log::error!("{} bytes of {size}", config.len());
            return false;
        }
        let config = String::from_utf8_lossy(&config).into_owned();
        let (name, argument) = config.split_once(' ').unwrap_or((&config, ""));
        (self.name, self.argument) = (name.into(), argument.into());
        match name {
            "refuse" => {
                log::error!("no such pattern: {argument}");
                return false;
            }
            "tick" | "tick-call" => self.set_tick_period(Duration::from_millis(10)),
            "queue" => self.queue = self.register_shared_queue("requests"),
            "metrics" => {
                self.counter = hostcalls::define_metric(MetricType::Counter, "requests").unwrap();
                self.gauge = hostcalls::define_metric(MetricType::Gauge, "last_path_length").unwrap();
                self.histogram = hostcalls::define_metric(MetricType::Histogram, "path_length").unwrap();
            }
            _ => {}
        }
        log::info!("configured as {name}");
        true
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.set_shared_data("ticks", Some(&self.ticks.to_le_bytes()), None).unwrap();
        if self.name == "tick-call" && self.ticks == 1 {
            let headers = vec![(":method", "GET"), (":path", "/tick"), (":authority", "auth")];
            self.dispatch_http_call("auth", headers, None, vec![], Duration::from_secs(1)).unwrap();
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(item)) = self.dequeue_shared_queue(queue) {
            log::info!("item {}", String::from_utf8_lossy(&item));
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let argument = self.argument.clone();
        Some(match &*self.name {
            "steal" => Box::new(patterns::Steal(argument)),
            "bench" => Box::new(patterns::Bench),
            "headers" => Box::new(patterns::Headers),
            "phases" => Box::new(patterns::Phases),
            "eager" => Box::new(patterns::Eager),
            "body" => Box::new(patterns::Body::default()),
            "decide-by-body" => Box::new(patterns::DecideByBody),
            "local" => Box::new(patterns::Local),
            "grpc-local" => Box::new(patterns::GrpcLocal),
            "callout" => Box::new(patterns::Callout(argument)),
            "properties" => Box::new(patterns::Properties),
            "shared" => Box::new(patterns::Shared),
            "queue" => Box::new(patterns::Queue(self.queue)),
            "tick" => Box::new(patterns::Tick),
            "metrics" => Box::new(patterns::Metrics { counter: self.counter, gauge: self.gauge, histogram: self.histogram }),
            "hold" => Box::new(patterns::Hold),
            "unsupported" => Box::new(patterns::Unsupported),
            "panic" => Box::new(patterns::Panic),
            "evil" => Box::new(patterns::Evil),
            _ => Box::new(patterns::Nothing),
        })
    }
}

/// Keeps `Action` in the crate's prelude for the patterns.
pub(crate) const GO_ON: Action = Action::Continue;
