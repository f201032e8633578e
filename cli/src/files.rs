//! The files that a session is made from: the config file, and mirrord's own other parts.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use mirrord_config::{ConfigError, File, Format, filters::Source};

use crate::{error::Error, scope};

/// Which file cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the config file {} cannot be read: {error}", path.display())]
    ConfigFile { path: PathBuf, error: io::Error },
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
            Self::ConfigFile { .. } => "check the path behind -f, or in MIRRORD_CONFIG_FILE",
            Self::NoLayer(_) => "put libmirrord_layer.so beside mirrord, or set MIRRORD_LAYER_FILE to its path",
            Self::LayerPath(_) => "set MIRRORD_LAYER_FILE to a path without them, for instance that of a link",
            Self::NoAgent(_) => "put mirrord-agent beside mirrord or into PATH, or set MIRRORD_AGENT_FILE to its path",
        }
    }
}

/// The config file: as `-f` says, else its variable; without either, an empty one. `key` is for its templates.
pub fn config_file(flag: Option<PathBuf>, key: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Result<File, Error> {
    let Some(path) = flag.or_else(|| variable("MIRRORD_CONFIG_FILE").filter(|path| !path.is_empty()).map(PathBuf::from)) else {
        return Ok(File::default());
    };
    let (text, format) = text(&path)?;
    let mut file = File::read(&text, format, &scope::scope(key, &variable)).map_err(ConfigError::from)?;
    // Names in a file are from where it lies: it is shared, and run from anywhere.
    let folder = path.parent().unwrap_or(Path::new(""));
    for filter in &mut file.filters {
        if let Source::Module(module) = &mut filter.source {
            *module = folder.join(&module);
        }
    }
    Ok(file)
}

/// A config file as it stands.
pub fn text(path: &Path) -> Result<(String, Format), Error> {
    const LARGEST: u64 = 1 << 20;
    let unreadable = |error| FileError::ConfigFile { path: path.into(), error };
    let (source, format): (Box<dyn Read>, _) = match path.to_str() {
        Some("-") => (Box::new(io::stdin()), Format::Json),
        _ => {
            let format = Format::of(path.extension().and_then(|ending| ending.to_str())).map_err(ConfigError::from)?;
            (Box::new(fs::File::open(path).map_err(unreadable)?), format)
        }
    };
    let mut text = String::new();
    source.take(LARGEST).read_to_string(&mut text).map_err(unreadable)?;
    Ok((text, format))
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
