//! Steals the requests that carry a given header with a given value, and marks their responses: the header filter, written
//! with the stock proxy-wasm crate. It also runs in Envoy and elsewhere, where nobody reads the verdict.
//!
//! Config: `{"name": "x-user", "value": "me"}`. The name is compared without regard to case, the value exactly.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde_json::Value;

const EXAMPLE: &str = r#"{"name": "x-user", "value": "me"}"#;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root(Config::default())));
}}

#[derive(Clone, Default)]
struct Config {
    name: String,
    value: String,
}

impl Config {
    fn read(config: &[u8]) -> Result<Self, String> {
        let config: Value = serde_json::from_slice(config).map_err(|e| format!("the config is not JSON ({e})"))?;
        let fields = config.as_object().ok_or("the config is not a JSON object")?;
        if let Some(unknown) = fields.keys().find(|key| !matches!(key.as_str(), "name" | "value")) {
            return Err(format!("the config has an unknown field \"{unknown}\""));
        }
        let text = |key: &str| {
            fields.get(key).and_then(Value::as_str).map(str::to_owned).ok_or(format!("\"{key}\" in the config is not a string"))
        };
        let (name, value) = (text("name")?, text("value")?);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(format!("\"{name}\" cannot be a header's name"));
        }
        // The maps of proxy-wasm have lower-case names.
        Ok(Config { name: name.to_ascii_lowercase(), value })
    }
}

struct Root(Config);

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        match Config::read(&self.get_plugin_configuration().unwrap_or_default()) {
            Ok(config) => {
                self.0 = config;
                true
            }
            Err(problem) => {
                log(LogLevel::Error, &format!("{problem}; it looks like {EXAMPLE}"));
                false
            }
        }
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http { config: self.0.clone(), is_mine: false }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Http {
    config: Config,
    is_mine: bool,
}

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        // A client may send the header more than once; any of them counts.
        let headers = self.get_http_request_headers_bytes();
        self.is_mine =
            headers.iter().any(|(name, value)| name.eq_ignore_ascii_case(&self.config.name) && value == self.config.value.as_bytes());
        if self.is_mine {
            self.set_property(vec!["mirrord", "verdict"], Some(b"steal"));
            self.set_property(vec!["mirrord", "reason"], Some(format!("header {} has the configured value", self.config.name).as_bytes()));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.is_mine {
            self.set_http_response_header("x-mirrord-filter", Some("header"));
        }
        Action::Continue
    }
}

fn log(level: LogLevel, text: &str) {
    // A host that takes no log lines is no reason to fail.
    let _ = proxy_wasm::hostcalls::log(level, text);
}
