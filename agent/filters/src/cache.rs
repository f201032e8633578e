//! Compiled modules on disk, so that the second start of a filter takes microseconds instead of a compilation.
//!
//! An artefact is machine code: whoever can write one owns the agent. So only what this program wrote itself is read:
//! the directory and the file must belong to this user and be closed to all others. A file is
//! `sha256 of the rest ‖ artefact`, named after the module's hash and the engine's settings and version, and appears
//! whole (rename). Any failure costs a compilation and a log line, never an error.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Artefacts kept; the oldest go first.
const MAX_FILES: usize = 64;
/// Machine code of the largest module allowed is some times its size.
const MAX_ARTEFACT: u64 = 512 << 20;
const DIGEST: usize = 32;
const SUFFIX: &str = ".cwasm";
/// What files are called while they are written.
const TEMPORARY: &str = ".new-";

pub(crate) struct Cache {
    dir: PathBuf,
    /// Changes with wasmtime's version, the settings and the processor's features.
    engine_tag: String,
    /// Who we are, as the file system sees it.
    uid: u32,
    serial: AtomicU64,
}

impl Cache {
    /// Nothing, with a log line, if the directory cannot be had or is open to others.
    pub(crate) fn open(dir: &Path, engine: &wasmtime::Engine) -> Option<Cache> {
        match Self::try_open(dir, engine) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "compiled filters are not cached");
                None
            }
        }
    }

    fn try_open(dir: &Path, engine: &wasmtime::Engine) -> io::Result<Cache> {
        match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine_tag = format!("{:016x}", hasher.finish());
        let mut cache = Cache { dir: dir.into(), engine_tag, uid: 0, serial: AtomicU64::new(0) };
        // A file of ours tells who we are, and that the directory takes files.
        let (probe, path) = cache.create()?;
        cache.uid = probe.metadata()?.uid();
        fs::remove_file(path)?;
        cache.private(&fs::symlink_metadata(dir)?)?;
        Ok(cache)
    }

    /// The compiled module, if an earlier run of this very engine left it.
    pub(crate) fn get(&self, engine: &wasmtime::Engine, sha256: &str) -> Option<wasmtime::Module> {
        let path = self.path(sha256);
        let artefact = match self.read(&path) {
            Ok(artefact) => artefact,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %path.display(), %error, "a compiled filter in the cache is not used");
                }
                return None;
            }
        };
        #[allow(unsafe_code)]
        // SAFETY: the bytes are what `put` of this program took from `Module::serialize`: the file and its directory
        // belong to this user and nobody else may write to them (`private`), and the digest shows the file complete.
        // wasmtime itself refuses artefacts of another version or other settings.
        let module = unsafe { wasmtime::Module::deserialize(engine, &artefact[DIGEST..]) };
        module.map_err(|error| tracing::warn!(file = %path.display(), %error, "a compiled filter in the cache is not used")).ok()
    }

    pub(crate) fn put(&self, sha256: &str, module: &wasmtime::Module) {
        if let Err(error) = self.try_put(sha256, module) {
            tracing::warn!(dir = %self.dir.display(), %error, "a compiled filter could not be cached");
        }
    }

    fn try_put(&self, sha256: &str, module: &wasmtime::Module) -> io::Result<()> {
        let artefact = module.serialize().map_err(io::Error::other)?;
        self.make_room()?;
        let (mut file, temporary) = self.create()?;
        let written = file
            .write_all(&Sha256::digest(&artefact))
            .and_then(|()| file.write_all(&artefact))
            .and_then(|()| fs::rename(&temporary, self.path(sha256)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        self.private(&metadata)?;
        if metadata.len() > MAX_ARTEFACT {
            return Err(io::Error::other("it is too large"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        file.read_to_end(&mut bytes)?;
        match bytes.split_first_chunk::<DIGEST>() {
            Some((digest, artefact)) if digest[..] == Sha256::digest(artefact)[..] => Ok(bytes),
            _ => Err(io::Error::other("it is damaged")),
        }
    }

    fn private(&self, metadata: &fs::Metadata) -> io::Result<()> {
        if metadata.file_type().is_symlink() || metadata.uid() != self.uid || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("it belongs to, or is open to, other users"));
        }
        Ok(())
    }

    fn create(&self) -> io::Result<(File, PathBuf)> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{TEMPORARY}{}-{serial}", std::process::id()));
        // Left by a dead process of the same id.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, path))
    }

    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            // Whatever else lies there is not ours to remove.
            if name.as_encoded_bytes().ends_with(SUFFIX.as_bytes()) || name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                files.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        files.sort();
        for (_, path) in files.iter().take((files.len() + 1).saturating_sub(MAX_FILES)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}-{}{SUFFIX}", self.engine_tag))
    }
}
