//! A compiled filter: which ABI it speaks is told by what it exports, and it may import that ABI's functions only.

use std::sync::Arc;

use wasmtime::{FuncType, ValType};

use crate::engine::Engine;
use crate::filter::{Filter, Limits, Settings};
use crate::{FilterError, abi, own, proxy_wasm};

/// A compiled module that is a filter. A clone is the same module.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    name: String,
    sha256: String,
    /// `MODULE.NAME` of each import, and the exports that are hooks.
    imports: Vec<String>,
    hooks: Vec<String>,
    guest: Guest,
}

enum Guest {
    Own(own::Guest),
    ProxyWasm(proxy_wasm::Guest),
}

impl Module {
    pub(crate) fn new(engine: Engine, name: &str, sha256: String, compiled: &wasmtime::Module) -> Result<Module, FilterError> {
        let guest = match speaks(name, compiled)? {
            Speaks::Own => Guest::Own(own::Guest::new(&engine, name, compiled)?),
            Speaks::ProxyWasm => Guest::ProxyWasm(proxy_wasm::Guest::new(&engine, name, compiled)?),
        };
        let imports = compiled.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect();
        let is_hook = |name: &&str| name.starts_with("mirrord_") || name.starts_with("proxy_");
        let hooks = compiled.exports().map(|export| export.name()).filter(is_hook).map(str::to_owned).collect();
        Ok(Module { inner: Arc::new(Inner { engine, name: name.into(), sha256, imports, hooks, guest }) })
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

    /// `MODULE.NAME` of each import.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// The exports that its ABI names.
    #[must_use]
    pub fn hooks(&self) -> &[String] {
        &self.inner.hooks
    }

    /// The ABI that it speaks, in words.
    #[must_use]
    pub fn abi(&self) -> &'static str {
        match self.inner.guest {
            Guest::Own(_) => "mirrord, version 1",
            Guest::ProxyWasm(..) => "proxy-wasm 0.2.1",
        }
    }

    /// Gives it a config and limits, and the other settings as they are by default.
    ///
    /// # Errors
    /// As [`Module::configure_with`].
    pub fn configure(&self, config: &[u8], limits: Limits) -> Result<Filter, FilterError> {
        self.configure_with(Settings { config: config.into(), limits, ..Settings::default() })
    }

    /// Makes a filter of it. Its configure hook runs once, in an instance that is then thrown away, so that a refused
    /// config shows here. Takes at most `limits.configure`, usually some 50 µs.
    ///
    /// # Errors
    /// [`FilterError::ConfigRefused`] in the filter's own words, [`FilterError::Start`] if it fails.
    pub fn configure_with(&self, settings: Settings) -> Result<Filter, FilterError> {
        let Inner { engine, name, sha256, guest, .. } = &*self.inner;
        let size = settings.config.len();
        if size > abi::limit::CONFIG {
            return Err(FilterError::ConfigTooLarge { name: name.clone(), size, limit: abi::limit::CONFIG });
        }
        let settings = settings.checked();
        let log = settings.log.clone().unwrap_or_else(|| engine.inner.log.clone());
        match guest {
            Guest::Own(guest) => own::configure(guest, name, sha256, settings, log),
            Guest::ProxyWasm(guest) => proxy_wasm::configure(guest, name, sha256, settings, log),
        }
    }
}

/// The ABIs.
enum Speaks {
    Own,
    ProxyWasm,
}

/// Which ABI a module speaks, and that it does so properly.
fn speaks(name: &str, module: &wasmtime::Module) -> Result<Speaks, FilterError> {
    if module.get_export(abi::export::VERSION_1).is_some() {
        return own::check(name, module).map(|()| Speaks::Own);
    }
    if proxy_wasm::speaks(module) {
        return proxy_wasm::check(name, module).map(|()| Speaks::ProxyWasm);
    }
    Err(foreign(name, module))
}

/// Checks what a module is before it is worth a place in the cache.
pub(crate) fn check_abi(name: &str, module: &wasmtime::Module) -> Result<(), FilterError> {
    speaks(name, module).map(|_| ())
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

/// What a module without our marker is.
fn foreign(name: &str, module: &wasmtime::Module) -> FilterError {
    let name = name.to_owned();
    for export in module.exports() {
        if let Some(version) = export.name().strip_prefix(abi::export::VERSION_PREFIX) {
            return FilterError::NewerAbi { name, version: version.into() };
        }
    }
    FilterError::UnknownAbi { name }
}

pub(crate) fn has_type(ty: &FuncType, params: &[ValType], results: &[ValType]) -> bool {
    // There is no subtyping among numbers, and wasmtime's types have no other equality.
    let same = |a: &ValType, b: &ValType| {
        matches!((a, b), (ValType::I32, ValType::I32) | (ValType::I64, ValType::I64) | (ValType::F64, ValType::F64))
    };
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
