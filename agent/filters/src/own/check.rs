//! Whether a module speaks version 1 of our ABI: all of its exports in the right types, and no import but its own.

use wasmtime::ExternType;
use wasmtime::ValType::{self, I32, I64};

use crate::module::has_type;
use crate::{FilterError, abi};

pub(crate) fn check(name: &str, module: &wasmtime::Module) -> Result<(), FilterError> {
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
