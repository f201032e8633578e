//! gRPC's own interoperability programs in Go, built once: `tests/programs/grpc-interop/go.mod` says which version.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::machine::manifest;

/// Path of the client.
pub fn client() -> &'static str {
    program("client")
}

/// Path of the server.
pub fn server() -> &'static str {
    program("server")
}

fn program(name: &'static str) -> &'static str {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(build);
    // A handful in a test run: not worth an owner.
    Box::leak(folder.join(name).to_str().unwrap().to_owned().into_boxed_str())
}

/// Builds both unless that has been done for these very versions. The first time takes some minutes, and the network.
fn build() -> PathBuf {
    let source = manifest().join("programs/grpc-interop");
    let mut hasher = DefaultHasher::new();
    fs::read(source.join("go.sum")).unwrap().hash(&mut hasher);
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let cache = cache.expect("neither XDG_CACHE_HOME nor HOME is set").join("mirrord-dev");
    let made = cache.join(format!("grpc-interop-{:016x}", hasher.finish()));
    if made.is_dir() {
        return made;
    }
    // Two test binaries may build at once: each under its own name, then put in place.
    let own = cache.join(format!("grpc-interop.{}", std::process::id()));
    fs::create_dir_all(&own).unwrap();
    let path = format!("{}:/usr/local/go/bin", env::var("PATH").unwrap_or_default());
    let mut go = Command::new("go");
    go.env("PATH", path).current_dir(source).stdin(Stdio::null()).args(["build", "-buildvcs=false", "-mod=readonly", "-o"]).arg(&own);
    // Quiet but not hidden: a person who waits sees why. Debug information is a third of their size.
    eprintln!("building gRPC's interoperability programs (once)");
    let status = go.arg("-ldflags=-s -w").args(["client", "server"].map(|name| format!("google.golang.org/grpc/interop/{name}"))).status();
    assert!(status.is_ok_and(|status| status.success()), "{go:?} failed: is Go there (`make setup`)?");
    if fs::rename(&own, &made).is_err() {
        // Another was faster.
        fs::remove_dir_all(&own).unwrap();
    }
    made
}
