//! A container of this machine: its first process, or what is wrong with the id that was given.

use std::path::Path;

use mirrord_config::{ContainerId, target::FULL_CONTAINER_ID};
use mirrord_containers::Found;
use thiserror::Error;

/// Why an id leads to no process.
#[derive(Debug, Error)]
pub enum ContainerError {
    #[error("no running container on this machine has the id `{id}`")]
    None { id: ContainerId, known: Vec<String> },
    #[error("more than one container's id begins with `{id}`")]
    Several { id: ContainerId, matching: Vec<String> },
}

impl ContainerError {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::None { id, known } => {
                let ask = format!(
                    "the id is needed, not the container's name: `docker inspect -f '{{{{.Id}}}}' {id}`, `podman inspect` or `crictl ps` shows it"
                );
                if known.is_empty() { ask } else { format!("running are {}; {ask}", shortened(known)) }
            }
            Self::Several { matching, .. } => format!("give more of it: {}", shortened(matching)),
        }
    }
}

/// Enough of each id to be told apart by eye.
fn shortened(ids: &[String]) -> String {
    let ids: Vec<_> = ids.iter().take(10).map(|id| if id.len() == FULL_CONTAINER_ID { &id[..20] } else { id }).collect();
    ids.join(", ")
}

/// The oldest process of the container with this id. `proc` is `/proc`.
pub fn first_process(proc: &Path, id: &ContainerId) -> Result<u32, ContainerError> {
    match mirrord_containers::first_process(proc, |full| id.matches(full)) {
        Found::Process(pid) => Ok(pid),
        Found::None { known } => Err(ContainerError::None { id: id.clone(), known }),
        Found::Several(matching) => Err(ContainerError::Several { id: id.clone(), matching }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_there_are_are_told_apart_by_eye() {
        let ids = ["a1".repeat(32), "a2".repeat(32)];
        let id: ContainerId = match "container/a1a".parse().unwrap() {
            mirrord_config::Target::Container(id) => id,
            other => panic!("{other}"),
        };
        let error = ContainerError::Several { id, matching: ids.to_vec() };
        assert!(error.help().contains(&ids[0][..20]) && !error.help().contains(&ids[0][..21]), "{}", error.help());
    }
}
