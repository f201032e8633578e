//! libFuzzer on the target that `FUZZ_TARGET` names.

#![no_main]

use std::{process, sync::LazyLock};

use mirrord_fuzz::targets;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    targets::find(&name).unwrap_or_else(|| {
        let names: Vec<_> = targets::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("FUZZ_TARGET is `{name}`; set it to one of {}", names.join(", "));
        process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
