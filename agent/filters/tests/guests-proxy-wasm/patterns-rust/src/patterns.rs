//! One type a pattern.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, Status};
use std::time::Duration;

use crate::GO_ON;

fn verdict(context: &impl Context, verdict: &str) {
    context.set_property(vec!["mirrord", "verdict"], Some(verdict.as_bytes()));
}

pub struct Nothing;
impl Context for Nothing {}
impl HttpContext for Nothing {}

/// `steal NAME=VALUE`: what carries the header.
pub struct Steal(pub String);
impl Context for Steal {}
impl HttpContext for Steal {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let (name, value) = self.0.split_once('=').unwrap_or((&self.0, ""));
        if self.get_http_request_header(name).as_deref() == Some(value) {
            verdict(self, "steal");
            self.set_property(vec!["mirrord", "reason"], Some(format!("it carries {name}").as_bytes()));
        }
        GO_ON
    }
}

/// A look-up, a comparison, a prefix match, a header set.
pub struct Bench;
impl Context for Bench {}
impl HttpContext for Bench {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let steal = self.get_http_request_header("x-user").as_deref() == Some("me")
            && self.get_http_request_header(":path").is_some_and(|path| path.starts_with("/api/v1/"));
        if steal {
            self.set_http_request_header("x-steered-by", Some("filter"));
            verdict(self, "steal");
        }
        GO_ON
    }
}

/// Reads them all, edits of each kind, on both sides.
pub struct Headers;
impl Context for Headers {}
impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, count: usize, _: bool) -> Action {
        let all = self.get_http_request_headers();
        assert_eq!(all.len(), count);
        for (name, value) in &all {
            log::info!("{name}: {value}");
        }
        self.set_http_request_header("x-set", Some("1"));
        self.add_http_request_header("x-added", "a");
        self.add_http_request_header("x-added", "b");
        self.set_http_request_header("x-removed", None);
        self.set_http_request_header("content-length", None);
        self.set_http_request_header(":path", Some("/rewritten?by=filter"));
        assert_eq!(self.get_http_request_header(":path").as_deref(), Some("/rewritten?by=filter"));
        assert_eq!(self.get_http_request_header("x-added").as_deref(), Some("a,b"));
        assert_eq!(self.get_http_request_header("x-removed"), None);
        if let Some(wanted) = self.get_http_request_header("x-verdict") {
            verdict(self, &wanted);
        }
        GO_ON
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let status = self.get_http_response_header(":status").unwrap();
        let mut all = self.get_http_response_headers();
        all.retain(|(name, _)| name != "server");
        all.push(("x-status".into(), status));
        self.set_http_response_headers(all.iter().map(|(name, value)| (&**name, &**value)).collect());
        GO_ON
    }
}

/// Says which callbacks came.
pub struct Phases;
impl Context for Phases {
    fn on_done(&mut self) -> bool {
        log::info!("done");
        true
    }
}
impl HttpContext for Phases {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        log::info!("request headers {end}");
        GO_ON
    }
    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        log::info!("request body {size} {end}");
        GO_ON
    }
    fn on_http_request_trailers(&mut self, count: usize) -> Action {
        log::info!("request trailers {count}");
        GO_ON
    }
    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        log::info!("response headers {end}");
        GO_ON
    }
    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        log::info!("response body {size} {end}");
        GO_ON
    }
    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        log::info!("response trailers {count} {:?}", self.get_http_response_trailers());
        self.add_http_response_trailer("x-trailer", "1");
        GO_ON
    }
    fn on_log(&mut self) {
        let path = self.get_http_request_header(":path").unwrap();
        log::info!("log {path} {:?}", self.get_property(vec!["response", "code"]).map(|code| code[0]));
    }
}
impl Drop for Phases {
    fn drop(&mut self) {
        log::info!("deleted");
    }
}

/// Would change bodies without having said so at the head; refuses what it does not like.
pub struct Eager;
impl Context for Eager {}
impl HttpContext for Eager {
    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        log::info!("saw {size} bytes");
        self.set_http_request_body(0, size, b"changed");
        if end { GO_ON } else { Action::Pause }
    }
    fn on_http_response_body(&mut self, size: usize, _: bool) -> Action {
        if self.get_http_response_body(0, size).is_some_and(|body| body.starts_with(b"forbidden")) {
            self.send_http_response(403, vec![], Some(b"no"));
        }
        Action::Pause
    }
}

/// Replaces a whole request body, and redacts a response's as it comes.
#[derive(Default)]
pub struct Body {
    total: usize,
}
impl Context for Body {}
impl HttpContext for Body {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_request_header("content-length", None);
        GO_ON
    }
    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        self.total = size;
        if let Some(body) = self.get_http_request_body(0, size) {
            let upper = String::from_utf8(body).unwrap().to_uppercase();
            self.set_http_request_body(0, size, upper.as_bytes());
        }
        GO_ON
    }
    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("content-length", None);
        self.set_http_response_header("x-request-size", Some(&self.total.to_string()));
        GO_ON
    }
    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        if let Some(body) = self.get_http_response_body(0, size) {
            let text = String::from_utf8(body).unwrap();
            if text.contains("secret") {
                self.set_http_response_body(0, size, format!("Original message body ({size} bytes) redacted.\n").as_bytes());
            }
        }
        GO_ON
    }
}

/// Pauses at the head, looks at the body, then decides.
pub struct DecideByBody;
impl Context for DecideByBody {}
impl HttpContext for DecideByBody {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if end { GO_ON } else { Action::Pause }
    }
    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        let body = self.get_http_request_body(0, size).unwrap_or_default();
        if body.windows(5).any(|window| window == b"steal") {
            verdict(self, "steal");
            self.set_http_request_header("x-size", Some(&size.to_string()));
            if body.starts_with(b"change ") {
                self.set_http_request_body(0, 7, b"changed: ");
            }
            return GO_ON;
        }
        if end { GO_ON } else { Action::Pause }
    }
}

/// Answers.
pub struct Local;
impl Context for Local {}
impl HttpContext for Local {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        match self.get_http_request_header("authorization") {
            None => {
                self.send_http_response(403, vec![("powered-by", "proxy-wasm"), ("content-length", "99")], Some(b"Access forbidden.\n"));
                Action::Pause
            }
            Some(_) => GO_ON,
        }
    }
    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.get_http_response_header(":status").as_deref() == Some("500") {
            self.send_http_response(503, vec![], Some(b"later"));
        }
        GO_ON
    }
}

pub struct GrpcLocal;
impl Context for GrpcLocal {}
impl HttpContext for GrpcLocal {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.send_grpc_response(proxy_wasm::types::GrpcStatusCode::Aborted, Some("Aborted by Proxy-Wasm!"), vec![]);
        Action::Pause
    }
}

/// `callout UPSTREAM`: asks it, and goes on when it has answered; 403 unless it says 200. What says `x-no-call` it leaves alone.
pub struct Callout(pub String);
impl Context for Callout {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body: usize, _: usize) {
        let status = self.get_http_call_response_header(":status");
        let words = self.get_http_call_response_body(0, body).unwrap_or_default();
        log::info!("{headers} headers, {status:?}");
        match status.as_deref() {
            Some("200") => {
                verdict(self, &String::from_utf8_lossy(&words));
                self.set_http_request_header("x-asked", self.get_http_call_response_header("x-answer").as_deref());
                self.resume_http_request();
            }
            _ => self.send_http_response(403, vec![], Some(b"the other one says no")),
        }
    }
}
impl HttpContext for Callout {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap();
        let user = self.get_http_request_header("x-user").unwrap_or_default();
        if self.get_http_request_header("x-no-call").is_some() {
            return GO_ON;
        }
        let headers = vec![(":method", "POST"), (":path", &*path), (":authority", "auth.svc"), ("x-user", &*user)];
        match self.dispatch_http_call(&self.0, headers, Some(b"who is it?"), vec![], Duration::from_millis(500)) {
            Ok(_) => Action::Pause,
            Err(status) => {
                log::warn!("no call: {status:?}");
                GO_ON
            }
        }
    }
}

/// Logs the well-known ones.
pub struct Properties;
impl Context for Properties {}
impl HttpContext for Properties {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        for path in ["path", "url_path", "query", "host", "scheme", "method", "referer", "useragent", "id", "protocol"] {
            let value = self.get_property(vec!["request", path]);
            log::info!("request.{path} = {:?}", value.map(|value| String::from_utf8_lossy(&value).into_owned()));
        }
        for (root, name) in [("source", "address"), ("destination", "address")] {
            log::info!("{root}.{name} = {}", String::from_utf8(self.get_property(vec![root, name]).unwrap()).unwrap());
            let port = self.get_property(vec![root, "port"]).unwrap();
            log::info!("{root}.port = {}", i64::from_le_bytes(port.try_into().unwrap()));
        }
        let one = self.get_property(vec!["request", "headers", "x-user"]).unwrap_or_default();
        log::info!("request.headers.x-user = {}", String::from_utf8_lossy(&one));
        let name = self.get_property(vec!["plugin_name"]).unwrap();
        log::info!("plugin_name = {}", String::from_utf8_lossy(&name));
        assert_eq!(self.get_property(vec!["no", "such"]), None);
        assert_eq!(self.get_property(vec!["response", "code"]), None);
        self.set_property(vec!["my", "own"], Some(b"value"));
        assert_eq!(self.get_property(vec!["my", "own"]).as_deref(), Some(&b"value"[..]));
        let time = i64::from_le_bytes(self.get_property(vec!["request", "time"]).unwrap().try_into().unwrap());
        let now = self.get_current_time().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        assert!(now - time < 1_000_000_000 && now % 1_000_000 == 0);
        GO_ON
    }
}

/// Counts the requests of all threads.
pub struct Shared;
impl Context for Shared {}
impl HttpContext for Shared {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let mut tries = 0;
        let count = loop {
            let (value, cas) = self.get_shared_data("count");
            let count = value.map_or(0, |value| u32::from_le_bytes(value.try_into().unwrap())) + 1;
            match self.set_shared_data("count", Some(&count.to_le_bytes()), cas) {
                Ok(()) => break count,
                Err(Status::CasMismatch) => tries += 1,
                Err(status) => panic!("{status:?}"),
            }
        };
        if tries == 0 {
            // Somebody with an old number must fail.
            let (_, cas) = self.get_shared_data("count");
            assert_eq!(self.set_shared_data("count", Some(b"evil"), cas.map(|cas| cas + 1_000_000)), Err(Status::CasMismatch));
        }
        self.set_http_request_header("x-count", Some(&count.to_string()));
        GO_ON
    }
}

/// Hands its paths to the root.
pub struct Queue(pub u32);
impl Context for Queue {}
impl HttpContext for Queue {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let queue = self.resolve_shared_queue("", "requests").unwrap();
        assert_eq!(queue, self.0);
        assert_eq!(self.resolve_shared_queue("", "no such"), None);
        let path = self.get_http_request_header(":path").unwrap();
        self.enqueue_shared_queue(queue, Some(path.as_bytes())).unwrap();
        assert_eq!(self.enqueue_shared_queue(77, Some(b"x")), Err(Status::NotFound));
        GO_ON
    }
}

/// Says how many ticks there were.
pub struct Tick;
impl Context for Tick {}
impl HttpContext for Tick {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let ticks = self.get_shared_data("ticks").0.map_or(0, |value| u32::from_le_bytes(value.try_into().unwrap()));
        self.set_http_request_header("x-ticks", Some(&ticks.to_string()));
        GO_ON
    }
}

pub struct Metrics {
    pub counter: u32,
    pub gauge: u32,
    pub histogram: u32,
}
impl Context for Metrics {}
impl HttpContext for Metrics {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let length = self.get_http_request_header(":path").unwrap().len() as u64;
        hostcalls::increment_metric(self.counter, 1).unwrap();
        hostcalls::record_metric(self.gauge, length).unwrap();
        hostcalls::record_metric(self.histogram, length).unwrap();
        assert_eq!(hostcalls::increment_metric(self.counter, -1), Err(Status::BadArgument));
        assert_eq!(hostcalls::get_metric(99), Err(Status::NotFound));
        let count = hostcalls::get_metric(self.counter).unwrap();
        self.set_http_request_header("x-count", Some(&count.to_string()));
        GO_ON
    }
}

/// Never lets go.
pub struct Hold;
impl Context for Hold {}
impl HttpContext for Hold {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        Action::Pause
    }
}

/// What this host does not have fails, and does not panic.
pub struct Unsupported;
impl Context for Unsupported {}
impl HttpContext for Unsupported {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let timeout = Duration::from_secs(1);
        assert_eq!(self.dispatch_grpc_call("auth", "a.B", "c", vec![], None, timeout), Err(Status::InternalFailure));
        assert_eq!(self.open_grpc_stream("auth", "a.B", "c", vec![]), Err(Status::InternalFailure));
        assert_eq!(hostcalls::cancel_grpc_call(1), Err(Status::NotFound));
        assert_eq!(self.call_foreign_function("compress", Some(b"x")), Err(Status::NotFound));
        let headers = vec![(":method", "GET"), (":path", "/"), (":authority", "a")];
        assert_eq!(self.dispatch_http_call("nobody", headers, None, vec![], timeout), Err(Status::BadArgument));
        assert_eq!(self.get_http_call_response_header(":status"), None);
        assert_eq!(self.get_http_request_trailers(), vec![]);
        assert_eq!(self.get_http_request_body(0, 10), None);
        self.set_http_request_body(0, 0, b"too early");
        self.set_http_request_trailer("x", Some("y"));
        verdict(self, "steal");
        GO_ON
    }
}

pub struct Panic;
impl Context for Panic {}
impl HttpContext for Panic {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        match self.get_http_request_header("x-boom") {
            Some(why) => panic!("boom: {why}"),
            None => GO_ON,
        }
    }
}

/// `x-do` says what.
pub struct Evil;
impl Context for Evil {}
impl HttpContext for Evil {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        match &*self.get_http_request_header("x-do").unwrap_or_default() {
            "loop" => loop {
                std::hint::black_box(0);
            },
            "recurse" => {
                fn deeper(n: u64) -> u64 {
                    if std::hint::black_box(n) == u64::MAX { n } else { deeper(n + 1) + std::hint::black_box(n) }
                }
                log::info!("{}", deeper(0));
            }
            "memory" => {
                let mut kept = Vec::new();
                loop {
                    kept.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&kept);
                }
            }
            "name" => self.set_http_request_header("x a", Some("b")),
            "split" => self.set_http_request_header("x-a", Some("b\r\ncontent-length: 0")),
            "path" => self.set_http_request_header(":path", Some("/ HTTP/1.1\r\nx: y")),
            "frame" => {
                self.set_http_request_header("transfer-encoding", Some("chunked"));
                self.set_http_request_header("connection", Some("close"));
                self.set_http_request_header("content-length", Some("0"));
            }
            "edits" => (0..100_000).for_each(|_| self.add_http_request_header("x-a", "b")),
            "million" => {
                let many = vec![("x-a", "b"); 1_000_000];
                self.set_http_request_headers(many);
            }
            "verdict" => verdict(self, "stael"),
            "status" => self.send_http_response(99, vec![], None),
            "properties" => (0..10_000).for_each(|n| self.set_property(vec!["a", &n.to_string()], Some(&[7; 1000]))),
            "state" => (0..100_000_u32).for_each(|n| self.set_shared_data(&n.to_string(), Some(&[7; 60_000]), None).unwrap()),
            "queue" => {
                let queue = hostcalls::register_shared_queue("evil").unwrap();
                (0..1_000_000).for_each(|_| self.enqueue_shared_queue(queue, Some(&[7; 60_000])).unwrap());
            }
            "queues" => (0..1000).for_each(|n| { let _ = hostcalls::register_shared_queue(&n.to_string()); }),
            "metrics" => (0..1000).for_each(|n| { let _ = hostcalls::define_metric(proxy_wasm::types::MetricType::Gauge, &n.to_string()); }),
            "calls" => {
                let headers = || vec![(":method", "GET"), (":path", "/"), (":authority", "a")];
                while self.dispatch_http_call("auth", headers(), Some(&[7; 200_000]), vec![], Duration::from_secs(3600)).is_ok() {}
                self.set_http_request_header("x-calls", Some("enough"));
            }
            "log" => (0..1_000_000).for_each(|_| log::info!("{}", "again ".repeat(1000))),
            _ => {}
        }
        GO_ON
    }
}
