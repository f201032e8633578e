//! The numbers, names and types of proxy-wasm ABI 0.2.1 (and 0.2.0, which the Go and AssemblyScript SDKs name), and what
//! a module must look like to be taken as an HTTP filter.

use wasmtime::{ExternType, Module, ValType};

use crate::module::has_type;
use crate::{FilterError, wasi};

/// What a module of this ABI exports, of any version.
pub(crate) const VERSION_PREFIX: &str = "proxy_abi_version_";
const VERSIONS: [&str; 2] = ["proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1"];

/// The module name of the imports.
pub(crate) const MODULE: &str = "env";

pub(crate) const MEMORY: &str = "memory";
/// In the order of preference.
pub(crate) const ALLOCATE: [&str; 2] = ["proxy_on_memory_allocate", "malloc"];

/// What a host call returns.
pub(crate) mod status {
    pub(crate) const OK: i32 = 0;
    pub(crate) const NOT_FOUND: i32 = 1;
    pub(crate) const BAD_ARGUMENT: i32 = 2;
    pub(crate) const EMPTY: i32 = 7;
    pub(crate) const CAS_MISMATCH: i32 = 8;
    pub(crate) const INTERNAL_FAILURE: i32 = 10;
}

/// `proxy_map_type_t`.
pub(crate) mod map {
    pub(crate) const REQUEST_HEADERS: i32 = 0;
    pub(crate) const REQUEST_TRAILERS: i32 = 1;
    pub(crate) const RESPONSE_HEADERS: i32 = 2;
    pub(crate) const RESPONSE_TRAILERS: i32 = 3;
    pub(crate) const CALL_RESPONSE_HEADERS: i32 = 6;
    pub(crate) const CALL_RESPONSE_TRAILERS: i32 = 7;
}

/// `proxy_buffer_type_t`.
pub(crate) mod buffer {
    pub(crate) const REQUEST_BODY: i32 = 0;
    pub(crate) const RESPONSE_BODY: i32 = 1;
    pub(crate) const CALL_RESPONSE_BODY: i32 = 4;
    pub(crate) const VM_CONFIGURATION: i32 = 6;
    pub(crate) const PLUGIN_CONFIGURATION: i32 = 7;
}

/// `proxy_stream_type_t`.
pub(crate) mod stream {
    pub(crate) const REQUEST: i32 = 0;
    pub(crate) const RESPONSE: i32 = 1;
}

/// `proxy_metric_type_t`.
pub(crate) mod metric {
    pub(crate) const COUNTER: i32 = 0;
    pub(crate) const GAUGE: i32 = 1;
    pub(crate) const HISTOGRAM: i32 = 2;
}

/// `proxy_action_t`: anything but this pauses.
pub(crate) const CONTINUE: i32 = 0;

/// Callbacks, with the number of their `i32` parameters and whether they return one.
const CALLBACKS: [(&str, usize, bool); 16] = [
    (callback::CONTEXT_CREATE, 2, false),
    (callback::VM_START, 2, true),
    (callback::CONFIGURE, 2, true),
    (callback::REQUEST_HEADERS, 3, true),
    (callback::REQUEST_BODY, 3, true),
    (callback::REQUEST_TRAILERS, 2, true),
    (callback::RESPONSE_HEADERS, 3, true),
    (callback::RESPONSE_BODY, 3, true),
    (callback::RESPONSE_TRAILERS, 2, true),
    (callback::DONE, 1, true),
    (callback::LOG, 1, false),
    (callback::DELETE, 1, false),
    (callback::TICK, 1, false),
    (callback::QUEUE_READY, 2, false),
    (callback::HTTP_CALL_RESPONSE, 5, false),
    (callback::INITIALIZE, 0, false),
];

pub(crate) mod callback {
    pub(crate) const INITIALIZE: &str = "_initialize";
    pub(crate) const START: &str = "_start";
    pub(crate) const CONTEXT_CREATE: &str = "proxy_on_context_create";
    pub(crate) const VM_START: &str = "proxy_on_vm_start";
    pub(crate) const CONFIGURE: &str = "proxy_on_configure";
    pub(crate) const REQUEST_HEADERS: &str = "proxy_on_request_headers";
    pub(crate) const REQUEST_BODY: &str = "proxy_on_request_body";
    pub(crate) const REQUEST_TRAILERS: &str = "proxy_on_request_trailers";
    pub(crate) const RESPONSE_HEADERS: &str = "proxy_on_response_headers";
    pub(crate) const RESPONSE_BODY: &str = "proxy_on_response_body";
    pub(crate) const RESPONSE_TRAILERS: &str = "proxy_on_response_trailers";
    pub(crate) const DONE: &str = "proxy_on_done";
    pub(crate) const LOG: &str = "proxy_on_log";
    pub(crate) const DELETE: &str = "proxy_on_delete";
    pub(crate) const TICK: &str = "proxy_on_tick";
    pub(crate) const QUEUE_READY: &str = "proxy_on_queue_ready";
    pub(crate) const HTTP_CALL_RESPONSE: &str = "proxy_on_http_call_response";
}

/// Whether the module speaks this ABI, in any version.
pub(crate) fn speaks(module: &Module) -> bool {
    module.exports().any(|export| export.name().starts_with(VERSION_PREFIX))
}

/// An HTTP filter of a version that this host knows, with callbacks of the right types, and no import that is not there.
pub(crate) fn check(name: &str, module: &Module) -> Result<(), FilterError> {
    let known = |export: &str| module.get_export(export).is_some();
    if !VERSIONS.iter().any(|version| known(version)) {
        let version = module.exports().find_map(|export| export.name().strip_prefix(VERSION_PREFIX)).unwrap_or_default().replace('_', ".");
        return Err(FilterError::ProxyWasm { name: name.into(), version });
    }
    let wrong = |export: &str, problem| Err(FilterError::BadExport { name: name.into(), export: export.into(), problem });
    match module.get_export(MEMORY) {
        Some(ExternType::Memory(_)) => {}
        _ => return wrong(MEMORY, "there is no memory of that name"),
    }
    for (export, params, returns) in CALLBACKS {
        match module.get_export(export) {
            None => {}
            Some(ExternType::Func(ty)) if has_type(&ty, &vec![ValType::I32; params], &vec![ValType::I32; usize::from(returns)]) => {}
            Some(_) => return wrong(export, "its type is not the one of proxy-wasm 0.2.1"),
        }
    }
    if ![callback::REQUEST_HEADERS, callback::REQUEST_BODY, callback::RESPONSE_HEADERS, callback::RESPONSE_BODY]
        .iter()
        .any(|hook| known(hook))
    {
        return wrong(callback::REQUEST_HEADERS, "it is missing: this is no HTTP filter, and filters of TCP streams are not supported");
    }
    let allocate = ALLOCATE.iter().find_map(|export| match module.get_export(export) {
        Some(ExternType::Func(ty)) => Some(has_type(&ty, &[ValType::I32], &[ValType::I32])),
        _ => None,
    });
    if allocate != Some(true) {
        return wrong(ALLOCATE[0], "neither it nor malloc is there, so nothing can be returned to the filter");
    }
    check_imports(name, module)
}

fn check_imports(name: &str, module: &Module) -> Result<(), FilterError> {
    for import in module.imports() {
        let hint = match import.module() {
            MODULE if super::host::knows(import.name()) => continue,
            wasi::MODULE if wasi::knows(import.name()) => continue,
            wasi::UNSTABLE if wasi::knows_unstable(import.name()) => continue,
            MODULE => "proxy-wasm 0.2.1 has no such function",
            wasi::MODULE | wasi::UNSTABLE => "there are no files and no sockets",
            _ => "only proxy-wasm's functions (module \"env\") and the part of WASI that needs no files are there",
        };
        let import = format!("{}.{}", import.module(), import.name());
        return Err(FilterError::ForbiddenImport { name: name.into(), import, hint });
    }
    Ok(())
}
