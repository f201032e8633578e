//! A filter's project: a folder with sources, whose language is told by what is in it, and what it builds to.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{Failure, args::Lang};

/// A project as it lies on the disk.
#[derive(Debug)]
pub struct Project {
    pub folder: PathBuf,
    pub name: String,
    pub lang: Lang,
}

/// What tells the languages apart. A folder of Rust may have C in it, not the other way round.
const SIGNS: [(&str, Lang); 5] = [
    ("Cargo.toml", Lang::Rust),
    ("go.mod", Lang::Go),
    ("package.json", Lang::Assemblyscript),
    ("filter.zig", Lang::Zig),
    ("filter.c", Lang::C),
];

impl Project {
    /// The project in this very folder, if there is one.
    pub fn at(folder: &Path) -> Option<Self> {
        let lang = SIGNS.iter().find(|(file, _)| folder.join(file).is_file())?.1;
        let folder = std::path::absolute(folder).ok()?;
        let name = folder.file_name()?.to_str()?.to_owned();
        Some(Self { folder, name, lang })
    }

    /// Where `build` leaves the module.
    pub fn module(&self) -> PathBuf {
        self.folder.join("build").join(format!("{}.wasm", self.name))
    }
}

/// The project that the user means: the one named, else this folder's, else the only one in a folder below it.
pub fn find(folder: Option<&Path>) -> Result<Project, Failure> {
    if let Some(folder) = folder {
        return Project::at(folder).ok_or_else(|| {
            Failure::new(
                format!("{} is no filter's project", folder.display()),
                "name a folder with a Cargo.toml, go.mod, package.json, filter.zig or filter.c; `mirrord filter new NAME` makes one",
            )
        });
    }
    let here = env::current_dir().map_err(|error| Failure::new(format!("this folder cannot be read: {error}"), "go to another one"))?;
    if let Some(project) = Project::at(&here) {
        return Ok(project);
    }
    let below = fs::read_dir(&here).into_iter().flatten().flatten().map(|entry| entry.path());
    // Others' folders are none of ours: only what `new` has made is taken without being named.
    let mut below: Vec<_> = below.filter(|path| path.join("tests/requests.http").is_file()).filter_map(|path| Project::at(&path)).collect();
    match below.len() {
        1 => Ok(below.remove(0)),
        0 => Err(Failure::new("there is no filter's project here", "go into its folder or name it; `mirrord filter new NAME` makes one")),
        _ => Err(Failure::usage("there are several filters' projects here", "go into the folder of one, or name it")),
    }
}
