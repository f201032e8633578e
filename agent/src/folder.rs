//! The folder of the agents' sockets, which agents, guards and command lines share.

use std::{fs, path::Path};

/// Removes it if nothing is in it and nobody is just starting an agent there: whoever does holds a lock on the folder
/// until the agent's socket is in it (`cli/src/agent.rs`), and that agent removes it in its turn.
pub fn remove(path: &Path) {
    if let Ok(folder) = fs::File::open(path)
        && folder.try_lock().is_ok()
    {
        let _ = fs::remove_dir(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_while_somebody_starts_an_agent_in_it() {
        let path = std::env::temp_dir().join(format!("mirrord-folder-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let starting = fs::File::open(&path).unwrap();
        starting.lock().unwrap();
        remove(&path);
        assert!(path.exists(), "an agent is being started in it");
        drop(starting);
        fs::write(path.join("agent-1.sock"), "").unwrap();
        remove(&path);
        assert!(path.exists(), "another agent is in it");
        fs::remove_file(path.join("agent-1.sock")).unwrap();
        remove(&path);
        assert!(!path.exists());
    }
}
