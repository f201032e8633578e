//! `mirrord filter new`: a project that builds and whose tests pass, from templates in this program. Nothing is fetched.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Failure,
    args::{Lang, New},
};
use crate::console;

/// Files of a project by path, with `NAME` in them for the project's name.
type Files = &'static [(&'static str, &'static str)];

/// The ABI in languages that have no SDK: the file that the example in that language has, too.
macro_rules! bindings {
    ($path:literal) => {
        include_str!(concat!("../../../examples/filters/", $path))
    };
}

macro_rules! template {
    ($($path:literal),* $(,)?) => { &[$(($path, include_str!(concat!("../../templates/", $path)))),*] };
}

const RUST: Files = template!["rust/Cargo.toml.in", "rust/src/lib.rs"];
const C: Files = template!["c/filter.c"];
const GO: Files = template!["go/go.mod.in", "go/filter.go"];
const ASSEMBLYSCRIPT: Files = template!["assemblyscript/package.json", "assemblyscript/assembly/index.ts"];
const ZIG: Files = template!["zig/filter.zig"];
const C_ABI: Files = &[("mirrord.h", bindings!("header-c/mirrord.h"))];
const GO_ABI: Files = &[("mirrord.go", bindings!("header-go/mirrord.go"))];
const ASSEMBLYSCRIPT_ABI: Files = &[("assembly/mirrord.ts", bindings!("header-assemblyscript/assembly/mirrord.ts"))];
const ZIG_ABI: Files = &[("mirrord.zig", bindings!("header-zig/mirrord.zig"))];
/// The same filter in all languages has the same tests.
const ALL: Files = template!["README.md", "tests/requests.http", "gitignore"];

/// Files of the SDK: `Cargo.toml` and `src/…`.
const SDK: Files = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

pub fn new(new: &New) -> Result<(), Failure> {
    let name = name(&new.name)?;
    let made = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{} is there already", new.name.display()), "choose another name, or remove it")
        }
        _ => Failure::new(format!("{} cannot be made: {error}", new.name.display()), "choose a folder in which you may write"),
    };
    fs::create_dir(&new.name).map_err(made)?;
    write(&new.name, &name, new.lang).map_err(made)?;
    let path = new.name.display();
    console::out(&format!(
        "{path} is a filter that steals the requests of one user. Next:\n  cd {path}\n  mirrord filter build\n  mirrord filter test"
    ));
    Ok(())
}

/// It becomes a crate's name, a file's name and part of a command line.
fn name(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let fits = name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
    // Names that a crate cannot have, as far as anybody would think of them.
    let taken = matches!(name, "test" | "core" | "std" | "alloc" | "self" | "super" | "crate" | "fn" | "mirrord-filter-sdk");
    if fits && !taken {
        return Ok(name.to_owned());
    }
    Err(Failure::usage(
        format!("`{name}` cannot be a filter's name"),
        "use lower-case letters, digits, - and _, beginning with a letter: my-filter",
    ))
}

fn write(folder: &Path, name: &str, lang: Lang) -> io::Result<()> {
    let (own, source, abi): (_, _, Files) = match lang {
        Lang::Rust => (RUST, "src/lib.rs", &[]),
        Lang::C => (C, "filter.c", C_ABI),
        Lang::Go => (GO, "filter.go", GO_ABI),
        Lang::Assemblyscript => (ASSEMBLYSCRIPT, "assembly/index.ts", ASSEMBLYSCRIPT_ABI),
        Lang::Zig => (ZIG, "filter.zig", ZIG_ABI),
    };
    for (path, text) in own {
        // Their first part is the language. Cargo and Go would take a template in this repository for a project: those end in `.in`.
        let path = path.split_once('/').map_or(*path, |(_, path)| path);
        put(folder, Path::new(path.strip_suffix(".in").unwrap_or(path)), &text.replace("NAME", name))?;
    }
    abi.iter().try_for_each(|(path, text)| put(folder, Path::new(path), text))?;
    for (path, text) in ALL {
        // Under its own name git would heed it here.
        let path = if *path == "gitignore" { ".gitignore" } else { path };
        put(folder, Path::new(path), &text.replace("NAME", name).replace("SOURCE", source))?;
    }
    if lang == Lang::Rust {
        for (path, text) in SDK {
            let text = if *path == "Cargo.toml" { manifest(text) } else { (*text).to_owned() };
            put(folder, &Path::new("sdk").join(path), &text)?;
        }
    }
    Ok(())
}

fn put(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    let path: PathBuf = folder.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

/// The SDK's manifest without what is optional: with it cargo would ask a registry.
fn manifest(text: &str) -> String {
    let mut kept = String::new();
    let mut keep = true;
    for line in text.lines() {
        if line.starts_with('[') {
            keep = !matches!(line.trim(), "[features]" | "[dependencies]" | "[lints.rust]" | "[dev-dependencies]");
        }
        if keep {
            kept += line;
            kept.push('\n');
        }
    }
    kept + "\n[lints.rust]\nunexpected_cfgs = \"allow\"\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_comes_whole_and_asks_for_nothing() {
        assert!(SDK.iter().any(|(path, _)| *path == "src/lib.rs") && SDK.iter().any(|(path, _)| *path == "src/abi.rs"));
        let toml = SDK.iter().find(|(path, _)| *path == "Cargo.toml").unwrap().1;
        let manifest = manifest(toml);
        assert!(manifest.contains("name = \"mirrord-filter-sdk\"") && !manifest.contains("optional"), "{manifest}");
    }

    #[test]
    fn each_languages_bindings_have_the_whole_abi() {
        let abi = SDK.iter().find(|(path, _)| *path == "src/abi.rs").unwrap().1;
        let imports = abi.split("pub mod import").nth(1).unwrap().split("pub mod ").next().unwrap();
        let names: Vec<_> = imports.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1)).collect();
        assert!(names.len() >= 25 && names.contains(&"get_header"), "{names:?}");
        // Each function stands between these in its language.
        let marks = [
            (C_ABI, "IMPORT(", ") "),
            (GO_ABI, "//go:wasmimport mirrord ", "\n"),
            (ASSEMBLYSCRIPT_ABI, "@external(\"mirrord\", \"", "\")\n"),
            (ZIG_ABI, "extern \"mirrord\" fn ", "("),
        ];
        for (files, before, after) in marks {
            let (path, text) = files[0];
            let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("{before}{name}{after}"))).collect();
            assert!(missing.is_empty(), "{path} lacks {missing:?}");
        }
    }

    #[test]
    fn names_are_those_that_every_language_takes() {
        for good in ["demo", "my-filter", "a1_b"] {
            assert_eq!(name(Path::new(good)).unwrap(), good);
            assert_eq!(name(&Path::new("/tmp").join(good)).unwrap(), good);
        }
        for bad in ["", "Demo", "1a", "-a", "a b", "..", "é", "test", "a.b"] {
            assert_eq!(name(Path::new(bad)).unwrap_err().status(), 2, "{bad}");
        }
    }
}
