//! Whether a module speaks version 1 of our ABI: all of its exports in the right types, and no import but its own
//! and the part of WASI that is there.

use wasmtime::ExternType;
use wasmtime::ValType::{self, I32, I64};

use crate::module::has_type;
use crate::{FilterError, abi, wasi};

/// Name, whether it must be there, parameters, results.
const EXPORTS: [(&str, bool, &[ValType], &[ValType]); 9] = [
    (abi::export::VERSION_1, true, &[], &[]),
    (abi::export::CONFIGURE, true, &[], &[I32]),
    (abi::export::ON_REQUEST, true, &[], &[I32]),
    (abi::export::ON_REQUEST_BODY, false, &[I64, I32], &[I32]),
    (abi::export::ON_RESPONSE, false, &[I64], &[]),
    (abi::export::ON_RESPONSE_BODY, false, &[I64, I32], &[]),
    (abi::export::ON_END, false, &[I64], &[]),
    (abi::export::ON_CONNECTION, false, &[], &[I32]),
    (abi::export::INITIALIZE, false, &[], &[]),
];

const IMPORTS: [(&str, &[ValType], &[ValType]); 27] = [
    (abi::import::GET, &[I32, I32, I32], &[I32]),
    (abi::import::GET_HEADER, &[I32, I32, I32, I32, I32], &[I32]),
    (abi::import::GET_HEADER_AT, &[I32, I32, I32], &[I64]),
    (abi::import::GET_STATUS, &[], &[I32]),
    (abi::import::GET_PROPERTY, &[I32, I32, I32, I32], &[I32]),
    (abi::import::GET_BODY, &[I32, I32, I32], &[I32]),
    (abi::import::EDIT_HEADER, &[I32, I32, I32, I32, I32, I32], &[]),
    (abi::import::SET_PATH, &[I32, I32], &[]),
    (abi::import::REPLACE_BODY, &[I32, I32], &[]),
    (abi::import::WATCH_RESPONSE, &[I64], &[]),
    (abi::import::WATCH_REQUEST_BODY, &[I32], &[]),
    (abi::import::WATCH_RESPONSE_BODY, &[I32], &[]),
    (abi::import::WATCH_END, &[], &[]),
    (abi::import::SET_TOKEN, &[I64], &[]),
    (abi::import::RESPOND, &[I32, I32, I32], &[]),
    (abi::import::DELAY, &[I32], &[]),
    (abi::import::ABORT, &[], &[]),
    (abi::import::REASON, &[I32, I32], &[]),
    (abi::import::LOG, &[I32, I32, I32], &[]),
    (abi::import::GET_STATE, &[I32, I32, I32, I32], &[I32]),
    (abi::import::SET_STATE, &[I32, I32, I32, I32, I32], &[]),
    (abi::import::ADD_STATE, &[I32, I32, I64, I32], &[I64]),
    (abi::import::REMOVE_STATE, &[I32, I32], &[]),
    (abi::import::RANDOM, &[], &[I64]),
    (abi::import::NOW, &[], &[I64]),
    (abi::import::COUNT, &[I32, I32, I64], &[]),
    (abi::import::OBSERVE, &[I32, I32, I64], &[]),
];

pub(crate) fn check(name: &str, module: &wasmtime::Module) -> Result<(), FilterError> {
    let known = |export: &str| EXPORTS.iter().any(|(known, ..)| *known == export);
    if let Some(unknown) = module.exports().find(|export| export.name().starts_with(abi::export::PREFIX) && !known(export.name())) {
        return Err(FilterError::ReservedExport { name: name.into(), export: unknown.name().into() });
    }
    let wrong = |export: &str, problem| Err(FilterError::BadExport { name: name.into(), export: export.into(), problem });
    match module.get_export(abi::export::MEMORY) {
        Some(ExternType::Memory(_)) => {}
        _ => return wrong(abi::export::MEMORY, "there is no memory of that name"),
    }
    for (export, required, params, results) in EXPORTS {
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
    for import in module.imports() {
        let hint = match (import.module(), IMPORTS.iter().find(|(own, ..)| *own == import.name())) {
            (abi::MODULE, Some((_, params, results))) => match import.ty() {
                ExternType::Func(ty) if has_type(&ty, params, results) => continue,
                _ => "its type is not the one in docs/abi.md",
            },
            (abi::MODULE, None) => "this version of the ABI has no such function; docs/abi.md lists them",
            (wasi::MODULE, _) if wasi::knows(import.name()) => continue,
            (wasi::MODULE | wasi::UNSTABLE, _) => "there are no files, sockets or programs",
            _ => "only functions of the module \"mirrord\" are there; docs/abi.md lists them",
        };
        let import = format!("{}.{}", import.module(), import.name());
        return Err(FilterError::ForbiddenImport { name: name.into(), import, hint });
    }
    Ok(())
}
