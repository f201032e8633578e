//! A module on this machine: read, compiled and configured as the agent does it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use mirrord_filters::{Engine, EngineSettings, Filter, LogLevel, Module, Settings};
use mirrord_protocol::limits::{MAX_FILTER_CONFIG, MAX_FILTER_MODULE};

use super::{Failure, args::Which, project};
use crate::console;

/// A filter ready to run, and what it was made of.
pub struct Loaded {
    pub path: PathBuf,
    pub wasm: Vec<u8>,
    pub module: Module,
    pub filter: Filter,
}

/// The module that the user means: the one named, else what the project has built.
pub fn path(which: &Which) -> Result<PathBuf, Failure> {
    if let Some(path) = &which.filter {
        // A project's folder stands for its module.
        return Ok(project::Project::at(path).map_or_else(|| path.clone(), |project| project.module()));
    }
    let module = project::find(None)?.module();
    if !module.is_file() {
        return Err(Failure::new(format!("there is no {} yet", module.display()), "run `mirrord filter build` first"));
    }
    Ok(module)
}

/// Its bytes, if it can be a module.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    const HELP: &str = "name the .wasm file that `mirrord filter build` leaves";
    let unreadable = |error| Failure::new(format!("the filter {} cannot be read: {error}", path.display()), HELP);
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::new(format!("the filter {} is not a regular file", path.display()), HELP));
    }
    if metadata.len() > MAX_FILTER_MODULE as u64 {
        let what = format!("the filter {} is larger than {} MiB", path.display(), MAX_FILTER_MODULE >> 20);
        return Err(Failure::new(what, "build it with optimisation and without debug information"));
    }
    fs::read(path).map_err(unreadable)
}

/// What `--config` means.
pub fn config(text: &str) -> Result<String, Failure> {
    let text = match text.strip_prefix('@') {
        None => text.to_owned(),
        Some(path) => fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("the configuration {path} cannot be read: {error}"), "check the path behind --config @")
        })?,
    };
    if text.len() > MAX_FILTER_CONFIG {
        let what = format!("the configuration is longer than {} KiB", MAX_FILTER_CONFIG >> 10);
        return Err(Failure::new(what, "shorten it; what does not change belongs into the filter itself"));
    }
    Ok(text)
}

/// Compiles, checks and configures it; what it logs goes to the user.
pub fn load(which: &Which) -> Result<Loaded, Failure> {
    let path = path(which)?;
    let config = which.config.as_deref().map(config).transpose()?.unwrap_or_default();
    let wasm = read(&path)?;
    let name = path.file_name().map_or_else(|| "filter".into(), |name| name.to_string_lossy().into_owned());
    let log = Arc::new(|filter: &str, level: LogLevel, line: &str| {
        let level = format!("{level:?}").to_lowercase();
        console::say(&format!("{filter}: {level}: {}", console::plain(line)));
    });
    let engine = Engine::new(EngineSettings { log: Some(log), ..EngineSettings::default() }).map_err(Failure::of)?;
    let module = engine.load(&name, &wasm).map_err(Failure::of)?;
    let filter = module.configure_with(Settings { config: config.into_bytes(), ..Settings::default() }).map_err(Failure::of)?;
    Ok(Loaded { path, wasm, module, filter })
}

/// A file's size in words.
pub fn size(path: &Path) -> String {
    fs::metadata(path).map_or_else(|_| "?".into(), |metadata| bytes(metadata.len()))
}

pub fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} bytes"),
        10_000..=9_999_999 => format!("{} KB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}
