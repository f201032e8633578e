//! What templates in a config file can see of this machine: environment, branch, clock.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use mirrord_config::Scope;

use crate::{sys, when};

/// `key` as the flag says; else its variable counts.
pub fn scope(key: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Scope {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let named = variable("MIRRORD_BRANCH_NAME").filter(|branch| !branch.is_empty());
    // Values that are no text can be none of a text's.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    Scope {
        key: key.or_else(|| variable("MIRRORD_KEY")),
        git_branch: named.or_else(|| branch(&env::current_dir().ok()?)),
        variables: env::vars_os().filter_map(text).collect(),
        now: now / 1_000_000,
        now_text: when::utc(now),
        seed: sys::random(),
    }
}

/// The branch that is checked out in the repository around a folder; nothing where there is none, or a commit is checked out.
fn branch(folder: &Path) -> Option<String> {
    let git = folder.ancestors().map(|folder| folder.join(".git")).find(|git| git.exists())?;
    // In a worktree or a submodule it is a file that says where the folder lies.
    let git = match fs::read_to_string(&git) {
        Ok(text) => git.parent()?.join(PathBuf::from(text.trim().strip_prefix("gitdir: ")?)),
        Err(_) => git,
    };
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    head.trim().strip_prefix("ref: refs/heads/").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branch_is_that_of_the_repository_or_worktree_around() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("main/.git/worktrees/w")).unwrap();
        fs::create_dir_all(path("main/src/deep")).unwrap();
        fs::create_dir_all(path("w/src")).unwrap();
        fs::write(path("main/.git/HEAD"), "ref: refs/heads/fix/tax\n").unwrap();
        fs::write(path("main/.git/worktrees/w/HEAD"), "ref: refs/heads/other\n").unwrap();
        fs::write(path("w/.git"), "gitdir: ../main/.git/worktrees/w\n").unwrap();
        assert_eq!(branch(&path("main/src/deep")).as_deref(), Some("fix/tax"));
        assert_eq!(branch(&path("w/src")).as_deref(), Some("other"));
        fs::write(path("main/.git/HEAD"), "1234567890123456789012345678901234567890\n").unwrap();
        assert_eq!(branch(&path("main")), None);
    }
}
