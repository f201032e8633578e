//! The files that a session is made from: the user's filters, and mirrord's own other parts.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use mirrord_config::{Filter, FilterConfig};
use mirrord_intproxy::settings::FilterFile;
use mirrord_protocol::limits::{MAX_CHAIN, MAX_FILTER_CONFIG, MAX_FILTER_MODULE};
use thiserror::Error;

/// Which file cannot be used, and why.
#[derive(Debug, Error)]
pub enum FileError {
    #[error("the filter {} cannot be read: {error}", path.display())]
    Filter { path: PathBuf, error: io::Error },
    #[error("the filter {} is not a regular file", .0.display())]
    FilterKind(PathBuf),
    #[error("the filter {} is larger than {} MiB", .0.display(), MAX_FILTER_MODULE >> 20)]
    FilterSize(PathBuf),
    #[error("the filter configuration {} cannot be read: {error}", path.display())]
    Config { path: PathBuf, error: io::Error },
    #[error("the configuration of the filter {} is longer than {} KiB", .0.display(), MAX_FILTER_CONFIG >> 10)]
    ConfigSize(PathBuf),
    #[error("more than {MAX_CHAIN} filters")]
    ChainLength,
    #[error("mirrord's layer library is missing: {}", .0.display())]
    NoLayer(PathBuf),
    #[error("the path of mirrord's layer library, {}, has a space or a colon, which LD_PRELOAD cannot say", .0.display())]
    LayerPath(PathBuf),
    #[error("mirrord's agent is missing: there is no {}", .0.display())]
    NoAgent(PathBuf),
}

impl FileError {
    /// The next step.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Filter { .. } | Self::FilterKind(_) => "check the path behind --filter: it must be that of a Wasm module",
            Self::FilterSize(_) => "build the filter with optimisation and without debug information (cargo build --release, wasm-strip)",
            Self::Config { .. } => "check the path behind --filter-config @",
            Self::ConfigSize(_) => "shorten it; what does not change belongs into the filter itself",
            Self::ChainLength => "put several decisions into one filter",
            Self::NoLayer(_) => "put libmirrord_layer.so beside mirrord, or set MIRRORD_LAYER_FILE to its path",
            Self::LayerPath(_) => "set MIRRORD_LAYER_FILE to a path without them, for instance that of a link",
            Self::NoAgent(_) => "put mirrord-agent beside mirrord or into PATH, or set MIRRORD_AGENT_FILE to its path",
        }
    }
}

/// Reads what configures the filters and makes sure that they are there.
pub fn filters(chain: Vec<Filter>) -> Result<Vec<FilterFile>, FileError> {
    if chain.len() > MAX_CHAIN {
        return Err(FileError::ChainLength);
    }
    chain.into_iter().map(filter).collect()
}

fn filter(Filter { path, config, upstreams }: Filter) -> Result<FilterFile, FileError> {
    let unreadable = |error| FileError::Filter { path: path.clone(), error };
    let metadata = fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(FileError::FilterKind(path));
    }
    if metadata.len() > MAX_FILTER_MODULE as u64 {
        return Err(FileError::FilterSize(path));
    }
    fs::File::open(&path).map_err(unreadable)?;
    let config = match config {
        FilterConfig::Inline(text) => text,
        FilterConfig::File(path) => fs::read_to_string(&path).map_err(|error| FileError::Config { path, error })?,
    };
    if config.len() > MAX_FILTER_CONFIG {
        return Err(FileError::ConfigSize(path));
    }
    // The intproxy's name for it must not depend on where it runs.
    let path = std::path::absolute(&path).map_err(unreadable)?;
    Ok(FilterFile { path, config, upstreams })
}

/// The library to preload: as `MIRRORD_LAYER_FILE` says, else beside this program, else in the `lib` of its installation.
pub fn layer() -> Result<PathBuf, FileError> {
    const NAME: &str = "libmirrord_layer.so";
    let candidates = match env::var_os("MIRRORD_LAYER_FILE") {
        Some(path) => vec![PathBuf::from(path)],
        None => vec![beside(NAME), beside("../lib/mirrord").join(NAME)],
    };
    let found = candidates.iter().find(|path| path.is_file()).ok_or_else(|| FileError::NoLayer(candidates[0].clone()))?;
    // The program may change its folder before it runs others.
    let path = std::path::absolute(found).map_err(|_| FileError::NoLayer(found.clone()))?;
    if path.as_os_str().as_bytes().iter().any(|byte| b" :\t".contains(byte)) {
        return Err(FileError::LayerPath(path));
    }
    Ok(path)
}

/// The agent's program: as `MIRRORD_AGENT_FILE` says, else beside this program, else in PATH.
pub fn agent() -> Result<PathBuf, FileError> {
    const NAME: &str = "mirrord-agent";
    let candidates = match env::var_os("MIRRORD_AGENT_FILE") {
        Some(path) => vec![PathBuf::from(path)],
        None => {
            let search = env::var_os("PATH").unwrap_or_default();
            [beside(NAME)].into_iter().chain(env::split_paths(&search).map(|folder| folder.join(NAME))).collect()
        }
    };
    let found = candidates.iter().find(|path| path.is_file()).ok_or_else(|| FileError::NoAgent(candidates[0].clone()))?;
    std::path::absolute(found).map_err(|_| FileError::NoAgent(found.clone()))
}

/// A path in the folder of this program, links followed.
fn beside(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new("")).join(name)
}

/// LD_PRELOAD with the layer behind what the user preloads.
pub fn preload(layer: &Path, old: Option<OsString>) -> OsString {
    match old.filter(|old| !old.is_empty()) {
        Some(mut both) => {
            both.push(":");
            both.push(layer);
            both
        }
        None => layer.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_preloads_stays_and_comes_first() {
        let layer = Path::new("/opt/layer.so");
        assert_eq!(preload(layer, None), "/opt/layer.so");
        assert_eq!(preload(layer, Some("".into())), "/opt/layer.so");
        assert_eq!(preload(layer, Some("a.so b.so".into())), "a.so b.so:/opt/layer.so");
    }
}
