//! A compiled filter: which ABI it speaks is told by what it exports, and it may import the ABI's functions only.

use std::sync::Arc;

use wasmtime::{ExternType, FuncType, ValType};

use crate::engine::Engine;
use crate::filter::{self, Filter, Limits};
use crate::log::LogSink;
use crate::state::State;
use crate::{FilterError, abi};

/// A compiled module that is a filter. A clone is the same module.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    name: String,
    sha256: String,
    pre: wasmtime::InstancePre<State>,
    has_response_hook: bool,
}

impl Module {
    pub(crate) fn new(engine: Engine, name: &str, sha256: String, compiled: &wasmtime::Module) -> Result<Module, FilterError> {
        check_abi(name, compiled)?;
        let pre =
            engine.inner.linker.instantiate_pre(compiled).map_err(|e| FilterError::Invalid { name: name.into(), message: one_line(&e) })?;
        let has_response_hook = compiled.get_export(abi::export::ON_RESPONSE).is_some();
        Ok(Module { inner: Arc::new(Inner { engine, name: name.into(), sha256, pre, has_response_hook }) })
    }

    /// What it was called when loaded.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// SHA-256 of the module's bytes, in hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.inner.sha256
    }

    /// Gives it a config. Its configure hook runs once, in an instance that is then thrown away, so that a refused
    /// config shows here. Takes at most `limits.configure`, usually some 50 µs.
    ///
    /// # Errors
    /// [`FilterError::ConfigRefused`] in the filter's own words, [`FilterError::Start`] if it fails.
    pub fn configure(&self, config: &[u8], limits: Limits) -> Result<Filter, FilterError> {
        self.configure_with_log(config, limits, self.engine().inner.log.clone())
    }

    /// As [`Module::configure`], for a filter whose log lines go to `log` and not to the engine's sink.
    ///
    /// # Errors
    /// As [`Module::configure`].
    pub fn configure_with_log(&self, config: &[u8], limits: Limits, log: LogSink) -> Result<Filter, FilterError> {
        filter::configure(self, config, limits, log)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn pre(&self) -> &wasmtime::InstancePre<State> {
        &self.inner.pre
    }

    pub(crate) fn has_response_hook(&self) -> bool {
        self.inner.has_response_hook
    }
}

/// Tells apart, before any parsing, what is a core module in either format and what is not.
pub(crate) fn check_magic(name: &str, wasm: &[u8]) -> Result<(), FilterError> {
    match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Err(FilterError::Component { name: name.into() }),
        [0, b'a', b's', b'm', ..] => {
            Err(FilterError::Invalid { name: name.into(), message: "it is cut off, or of an unknown version of the binary format".into() })
        }
        text if looks_like_wat(text) => Ok(()),
        _ => Err(FilterError::NotWasm { name: name.into() }),
    }
}

fn looks_like_wat(text: &[u8]) -> bool {
    let code = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty() && !line.starts_with(b";;"));
    code.is_some_and(|line| line.starts_with(b"(module"))
}

/// Version 1 of the ABI, with all of its exports in the right types and no import but its own.
pub(crate) fn check_abi(name: &str, module: &wasmtime::Module) -> Result<(), FilterError> {
    if module.get_export(abi::export::VERSION_1).is_none() {
        return Err(foreign(name, module));
    }
    for reserved in abi::export::RESERVED {
        if module.get_export(reserved).is_some() {
            return Err(FilterError::ReservedExport { name: name.into(), export: reserved.into() });
        }
    }
    let wrong = |export: &str, problem| Err(FilterError::BadExport { name: name.into(), export: export.into(), problem });
    match module.get_export(abi::export::MEMORY) {
        Some(ExternType::Memory(_)) => {}
        _ => return wrong(abi::export::MEMORY, "there is no memory of that name"),
    }
    use ValType::{I32, I64};
    let hooks: [(&str, bool, &[ValType], &[ValType]); 5] = [
        (abi::export::VERSION_1, true, &[], &[]),
        (abi::export::CONFIGURE, true, &[], &[I32]),
        (abi::export::ON_REQUEST, true, &[], &[I32]),
        (abi::export::ON_RESPONSE, false, &[I64], &[]),
        (abi::export::INITIALIZE, false, &[], &[]),
    ];
    for (export, required, params, results) in hooks {
        match module.get_export(export) {
            None if required => return wrong(export, "it is missing"),
            None => {}
            Some(ExternType::Func(ty)) if has_type(&ty, params, results) => {}
            Some(_) => return wrong(export, "its type is another one"),
        }
    }
    check_imports(name, module)
}

fn check_imports(name: &str, module: &wasmtime::Module) -> Result<(), FilterError> {
    use ValType::{I32, I64};
    let known: [(&str, &[ValType], &[ValType]); 9] = [
        (abi::import::GET, &[I32, I32, I32], &[I32]),
        (abi::import::GET_HEADER, &[I32, I32, I32, I32, I32], &[I32]),
        (abi::import::GET_HEADER_AT, &[I32, I32, I32], &[I64]),
        (abi::import::GET_STATUS, &[], &[I32]),
        (abi::import::EDIT_HEADER, &[I32, I32, I32, I32, I32, I32], &[]),
        (abi::import::WATCH_RESPONSE, &[I64], &[]),
        (abi::import::RESPOND, &[I32, I32, I32], &[]),
        (abi::import::REASON, &[I32, I32], &[]),
        (abi::import::LOG, &[I32, I32, I32], &[]),
    ];
    for import in module.imports() {
        let hint = match (import.module(), known.iter().find(|(own, ..)| *own == import.name())) {
            (abi::MODULE, Some((_, params, results))) => match import.ty() {
                ExternType::Func(ty) if has_type(&ty, params, results) => continue,
                _ => "its type is not the one in docs/abi.md",
            },
            (abi::MODULE, None) => "this version of the ABI has no such function; docs/abi.md lists them",
            ("wasi_snapshot_preview1" | "wasi_unstable", _) => {
                "there are no files, clocks or environment; build for wasm32-unknown-unknown"
            }
            _ => "only functions of the module \"mirrord\" are there; docs/abi.md lists them",
        };
        let import = format!("{}.{}", import.module(), import.name());
        return Err(FilterError::ForbiddenImport { name: name.into(), import, hint });
    }
    Ok(())
}

/// What a module without our marker is.
fn foreign(name: &str, module: &wasmtime::Module) -> FilterError {
    let name = name.to_owned();
    for export in module.exports() {
        if let Some(version) = export.name().strip_prefix("proxy_abi_version_") {
            return FilterError::ProxyWasm { name, version: version.replace('_', ".") };
        }
        if let Some(version) = export.name().strip_prefix(abi::export::VERSION_PREFIX) {
            return FilterError::NewerAbi { name, version: version.into() };
        }
    }
    FilterError::UnknownAbi { name }
}

fn has_type(ty: &FuncType, params: &[ValType], results: &[ValType]) -> bool {
    // There is no subtyping among numbers, and wasmtime's types have no other equality.
    let same = |a: &ValType, b: &ValType| matches!((a, b), (ValType::I32, ValType::I32) | (ValType::I64, ValType::I64));
    ty.params().len() == params.len()
        && ty.results().len() == results.len()
        && ty.params().zip(params).all(|(a, b)| same(&a, b))
        && ty.results().zip(results).all(|(a, b)| same(&a, b))
}

/// wasmtime's messages show source lines; errors of ours are one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).filter(|line| !line.is_empty()).take(6).collect::<Vec<_>>().join(" ")
}
