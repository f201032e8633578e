//! `mirrord filter check`: what a module is, and everything that an agent would refuse it for, with one request as a dry run.

use std::time::Instant;

use mirrord_filters::{Chain, abi::limit};

use super::{
    Failure,
    args::Check,
    module::{self, bytes},
    replay,
    requests::Recorded,
};
use crate::console;

pub fn check(check: &Check) -> Result<(), Failure> {
    let began = Instant::now();
    let loaded = module::load(&check.which)?;
    let took = began.elapsed();
    let mut chain = Chain::new(vec![loaded.filter]);
    let recorded = Recorded::example();
    let replayed = replay::replay(&mut chain, &recorded);
    if let Some(fault) = replayed.faults.first() {
        return Err(Failure::new(
            format!("{} fails on a request: {fault}", loaded.path.display()),
            "each request would be judged by the filter's failure policy; correct it, `mirrord filter test` shows more",
        ));
    }
    let words = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    let lines = [
        ("file", loaded.path.display().to_string()),
        ("sha256", loaded.module.sha256().to_owned()),
        ("size", format!("{} of at most {}", bytes(loaded.wasm.len() as u64), bytes(limit::MODULE as u64))),
        ("ABI", loaded.module.abi().to_owned()),
        ("hooks", words(loaded.module.hooks())),
        ("imports", words(loaded.module.imports())),
        ("start", format!("compiled and configured in {} ms", took.as_millis())),
        ("dry run", format!("{} {}: {}", recorded.method, recorded.path, replay::name(&replayed.verdict))),
    ];
    for (name, value) in lines {
        console::out(&format!("{name:8} {}", console::plain(&value)));
    }
    console::out("an agent of this version takes it");
    Ok(())
}
