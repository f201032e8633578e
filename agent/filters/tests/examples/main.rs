//! The example filters as users get them: built by the script, run by the host. What each one makes of odd requests and
//! configs is in its own tests, natively; here is shown that the module does the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod header;
mod heads;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use common::{Instance, engine, example, fields, request};
use mirrord_filters::{Edit, Engine, Filter, FilterError, Limits, Module, Verdict};

/// One for all tests; a module is compiled once.
fn shared() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(engine)
}

fn module(name: &'static str) -> Module {
    static MODULES: Mutex<BTreeMap<&str, Module>> = Mutex::new(BTreeMap::new());
    MODULES.lock().unwrap().entry(name).or_insert_with(|| shared().load(name, &example(name)).unwrap()).clone()
}

/// Limits of time are the wall clock's, and this machine may be busy with other tests: what a filter says is shown here,
/// not how fast.
fn load(name: &'static str, config: &str) -> Result<Filter, FilterError> {
    let limits = Limits { call: Duration::from_secs(5), configure: Duration::from_secs(20), ..Limits::default() };
    module(name).configure(config.as_bytes(), limits)
}

fn instance(name: &'static str, config: &str) -> Instance {
    Instance::of(&load(name, config).unwrap())
}

fn set(name: &str, value: &str) -> Edit {
    Edit::Set { name: name.into(), value: value.into() }
}

/// The verdict on a GET with these headers; whatever it is, the filter has not failed.
fn verdict(instance: &mut Instance, path: &str, headers: &[(&str, &str)]) -> Verdict {
    let decision = instance.on_request(&request("GET", path, &fields(headers)));
    assert_eq!(decision.fault, None);
    decision.verdict
}
