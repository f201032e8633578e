//! `mirrord filter build`: calls the language's own compiler, and knows what a filter needs of it.
//!
//! Rust's standard library for Wasm is not in every toolchain. Where rustup has it, cargo does all; else Debian's compiler does, with
//! a standard library that it has compiled once (`wasm-rust.sh`, which the repository's own scripts share a folder with).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{Failure, args::Lang, project::Project};

const TRIPLE: &str = "wasm32-unknown-unknown";
/// Builds with Debian's compiler; `$@` are cargo's arguments.
const DEBIAN: &str = include_str!("../../templates/wasm-rust.sh");
/// What a cargo that has started us says of itself and of the host's compiler.
const CARGO_VARIABLES: [&str; 13] = [
    "RUSTUP_TOOLCHAIN",
    "CARGO",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
];

/// Compiles the project; gives the module's path. The compiler's words go to the user as they come.
pub fn build(project: &Project) -> Result<PathBuf, Failure> {
    let module = project.module();
    let folder = module.parent().unwrap_or(Path::new("build"));
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    // Renamed into place: who watches the file never sees half of it.
    let fresh = folder.join(format!(".{}.new.wasm", project.name));
    match project.lang {
        Lang::Rust => rust(project, &fresh)?,
        Lang::C => c(project, &fresh)?,
        Lang::Go => go(project, &fresh)?,
        Lang::Assemblyscript => assemblyscript(project, &fresh)?,
        Lang::Zig => zig(project, &fresh)?,
    }
    fs::rename(&fresh, &module).map_err(|error| unwritable(&module, &error))?;
    Ok(module)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{} cannot be written: {error}", path.display()), "check who owns the project's build folder")
}

fn rust(project: &Project, fresh: &Path) -> Result<(), Failure> {
    const NONE: &str = "install it: `rustup target add wasm32-unknown-unknown`; or on Debian, without rustup: \
                        `apt-get install rustc-web cargo-web rust-web-src rust-web-llvm lld-22`";
    let arguments = ["build", "--release", "--target", TRIPLE];
    let mut cargo = match env::var("MIRRORD_WASM_TOOLCHAIN").as_deref() {
        Ok("rustup") => cargo(&arguments),
        Ok("debian") => debian(&arguments),
        _ if rustup_has_target() => cargo(&arguments),
        _ if debian_has_compiler() => debian(&arguments),
        _ if which("cargo") => return Err(Failure::new(format!("Rust has no standard library for {TRIPLE} here"), NONE)),
        _ => {
            return Err(Failure::new(
                "there is no Rust compiler",
                "install Rust from rust-lang.org, then `rustup target add wasm32-unknown-unknown`",
            ));
        }
    };
    CARGO_VARIABLES.iter().for_each(|name| {
        cargo.env_remove(name);
    });
    let target = project.folder.join("target");
    cargo.env("CARGO_TARGET_DIR", &target).current_dir(&project.folder);
    run(&mut cargo, "cargo", NONE)?;
    let package = package(&project.folder)?;
    let built = target.join(TRIPLE).join("release").join(format!("{}.wasm", package.replace('-', "_")));
    fs::copy(&built, fresh).map(drop).map_err(|error| {
        Failure::new(
            format!("cargo left no {}: {error}", built.display()),
            "Cargo.toml needs crate-type = [\"cdylib\", \"rlib\"] in its [lib], and no name there",
        )
    })
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments);
    command
}

fn debian(arguments: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", DEBIAN, "mirrord"]).args(arguments);
    command
}

fn rustup_has_target() -> bool {
    let asked = Command::new("rustup").args(["target", "list", "--installed"]).env_remove("RUSTUP_TOOLCHAIN").output();
    asked.is_ok_and(|Output { stdout, .. }| String::from_utf8_lossy(&stdout).lines().any(|line| line == TRIPLE))
}

fn debian_has_compiler() -> bool {
    ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library"].iter().all(|path| Path::new(path).exists())
}

/// The package's name in Cargo.toml.
fn package(folder: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[package]");
    let name =
        lines.find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('=')?.trim().split('"').nth(1).map(str::to_owned));
    name.ok_or_else(|| Failure::new("Cargo.toml has no [package] with a name", "go into the folder of one package"))
}

fn c(project: &Project, fresh: &Path) -> Result<(), Failure> {
    let flags =
        ["--target=wasm32", "-std=c17", "-O2", "-Wall", "-nostdlib", "-Wl,--no-entry", "-Wl,--strip-debug", "-Wl,-z,stack-size=16384"];
    let mut clang = Command::new("clang");
    clang.args(flags).arg("-o").arg(fresh).arg("filter.c").current_dir(&project.folder);
    run(&mut clang, "clang", "install clang and lld (Debian: `apt-get install clang lld`)")
}

fn go(project: &Project, fresh: &Path) -> Result<(), Failure> {
    let mut go = Command::new("go");
    go.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o"]).arg(fresh).arg(".");
    go.env("GOOS", "wasip1").env("GOARCH", "wasm").env_remove("GOFLAGS").current_dir(&project.folder);
    run(&mut go, "go", "install Go 1.24 or later from go.dev")
}

fn assemblyscript(project: &Project, fresh: &Path) -> Result<(), Failure> {
    const NONE: &str = "install Node.js and npm (Debian: `apt-get install nodejs npm`)";
    let asc = project.folder.join("node_modules/.bin/asc");
    if !asc.exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--silent"]).current_dir(&project.folder);
        run(&mut npm, "npm", NONE)?;
    }
    let flags = ["--optimizeLevel", "3", "--shrinkLevel", "1", "--runtime", "minimal", "--use", "abort="];
    let mut command = Command::new(asc);
    // The compiler takes no path but one below its folder.
    let out = fresh.strip_prefix(&project.folder).unwrap_or(fresh);
    command.args(["assembly/index.ts", "--outFile"]).arg(out).args(flags).current_dir(&project.folder);
    run(&mut command, "asc", NONE)
}

fn zig(project: &Project, fresh: &Path) -> Result<(), Failure> {
    const NONE: &str = "install Zig from ziglang.org, or as a Python package: `pip install ziglang`";
    let mut command = if which("zig") {
        Command::new("zig")
    } else if Command::new("python3").args(["-c", "import ziglang"]).output().is_ok_and(|output| output.status.success()) {
        let mut python = Command::new("python3");
        python.args(["-m", "ziglang"]);
        python
    } else {
        return Err(Failure::new("there is no zig", NONE));
    };
    command.args(["build-exe", "filter.zig", "-target", "wasm32-freestanding", "-O", "ReleaseSmall", "-fno-entry", "-rdynamic"]);
    command.arg(format!("-femit-bin={}", fresh.display())).current_dir(&project.folder);
    run(&mut command, "zig", NONE)
}

fn which(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// Runs a compiler. `missing` says how one comes to have it.
fn run(command: &mut Command, name: &str, missing: &str) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(
            format!("the filter does not compile ({name}: {status})"),
            "its words are above; correct the source and build again",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(format!("there is no {name}"), missing)),
        Err(error) => Err(Failure::new(format!("{name} cannot be run: {error}"), missing)),
    }
}
