//! `mirrord filter watch`: builds and pushes whenever a source is saved. `mirrord exec --filter-watch` starts it beside the program.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use super::{
    Failure,
    args::Watch,
    build,
    project::{self, Project},
    push,
};
use crate::{console, privileges::Capabilities, process};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Most files of one project that are looked at.
const MOST: usize = 4096;
/// What compilers and editors write, and git.
const NOT_SOURCES: [&str; 5] = ["target", "build", "node_modules", ".git", "zig-cache"];

/// Something that is watched.
struct Watched {
    /// The module that is pushed.
    module: PathBuf,
    /// What builds it; nothing: somebody else does.
    project: Option<Project>,
    seen: Stamps,
}

/// When each file was last written.
type Stamps = BTreeMap<PathBuf, (SystemTime, u64)>;

pub fn watch(watch: &Watch) -> Result<(), Failure> {
    let paths = if watch.paths.is_empty() { vec![project::find(None)?.folder] } else { watch.paths.clone() };
    let mut all = paths.iter().map(|path| Watched::new(path)).collect::<Result<Vec<_>, _>>()?;
    let pid = push::choose(watch.session)?.pid;
    console::say(&format!("mirrord: watching {}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")));
    loop {
        thread::sleep(EVERY);
        for watched in &mut all {
            let now = watched.stamps();
            if now == watched.seen {
                continue;
            }
            // An editor may write several files, or one in pieces.
            thread::sleep(EVERY);
            watched.seen = watched.stamps();
            if let Err(failure) = watched.renew(pid)
                && runs(pid)
            {
                console::error(&failure, failure.help());
            }
        }
        // The session's end is ours.
        if !runs(pid) {
            return Ok(());
        }
    }
}

/// Whether a process is there and more than an entry that nobody has fetched yet.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its name, in brackets, may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Builds those of the chain's filters that are projects, before the session that is to have them.
pub fn build(filters: &[PathBuf]) -> Result<(), Failure> {
    if filters.is_empty() {
        return Err(Failure::usage("--filter-watch has nothing to watch", "give --filter with a project's folder or a module"));
    }
    filters.iter().filter_map(|path| project_of(path)).try_for_each(|project| build::build(&project).map(drop))
}

/// Starts watching for the session of this process: as a process of its own, so that a compiler's end is not taken for the
/// program's. It ends with the session.
pub fn start(filters: &[PathBuf]) -> Result<(), Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("mirrord").args(["filter", "watch", "--session"]).arg(std::process::id().to_string()).args(filters);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    process::prepare_helper(&mut command, Capabilities::default());
    let started = command.spawn().map(drop);
    started.map_err(|error| {
        Failure::new(format!("the filters cannot be watched: {error}"), "leave out --filter-watch and use `mirrord filter push`")
    })
}

/// The project that a path of `--filter` belongs to: itself, or the one whose `build` folder it lies in.
pub fn project_of(path: &Path) -> Option<Project> {
    if path.is_dir() {
        return Project::at(path);
    }
    let folder = path.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "build"))?;
    Project::at(folder.parent()?).filter(|project| fs::canonicalize(project.module()).ok() == fs::canonicalize(path).ok())
}

impl Watched {
    fn new(path: &Path) -> Result<Self, Failure> {
        let path = std::path::absolute(path).map_err(|error| Failure::new(error, "name it by its whole path"))?;
        let project = project_of(&path);
        if project.is_none() && !path.is_file() {
            return Err(Failure::new(
                format!("{} is neither a module nor a filter's project", path.display()),
                "name a .wasm file or a project's folder",
            ));
        }
        let mut watched = Self { module: project.as_ref().map_or(path, Project::module), project, seen: Stamps::new() };
        watched.seen = watched.stamps();
        Ok(watched)
    }

    fn stamps(&self) -> Stamps {
        let mut stamps = Stamps::new();
        match &self.project {
            Some(project) => collect(&project.folder, &mut stamps),
            None => note(&self.module, &mut stamps),
        }
        stamps
    }

    /// Builds it, if that is ours to do, and gives it to the session.
    fn renew(&self, pid: u32) -> Result<(), Failure> {
        if let Some(project) = &self.project {
            build::build(project)?;
        }
        let session = push::choose(Some(pid))?;
        let link = session.link(&self.module, None)?;
        push::send(&session, link, &self.module, None)?;
        // Where `exec` has started us the session itself says so, and this goes nowhere.
        console::out(&session.uses_new(link));
        Ok(())
    }
}

fn collect(folder: &Path, stamps: &mut Stamps) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if stamps.len() >= MOST {
            return;
        }
        let path = entry.path();
        let name = entry.file_name();
        if NOT_SOURCES.iter().any(|one| name == *one) || name.to_string_lossy().starts_with('.') || name == "Cargo.lock" {
            continue;
        }
        // A link could lead out, or round.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, stamps),
            Ok(kind) if kind.is_file() => note(&path, stamps),
            _ => {}
        }
    }
}

fn note(path: &Path, stamps: &mut Stamps) {
    if let Ok(metadata) = fs::metadata(path)
        && let Ok(modified) = metadata.modified()
    {
        stamps.insert(path.to_owned(), (modified, metadata.len()));
    }
}
