//! What the agent serves: a network namespace, and the containers in it whose environment a session may ask for.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use mirrord_protocol::control::{Environment, ErrorReply};

use crate::{app::failure, process, runtime::first_process, settings::Settings};

/// Longest environment that is told, bytes.
const LONGEST: u64 = 512 << 10;

/// Where the namespace is: as the settings name it, or that of their container.
pub async fn netns(settings: &Settings) -> Result<PathBuf, ErrorReply> {
    match &settings.container {
        None => Ok(settings.netns.clone()),
        Some(id) => Ok(PathBuf::from(format!("/proc/{}/ns/net", first_process(id).await?))),
    }
}

/// Environment and host name of a container (`containerd://ID`, as a pod's status has it; empty: of the process that the settings name).
/// It must live in the network namespace that this agent serves: who may use this agent has no business with its neighbours.
pub async fn environment(settings: &Settings, netns: u64, container: &str) -> Result<Environment, ErrorReply> {
    let pid = match (container, settings.process, &settings.container) {
        ("", Some(pid), _) => pid,
        ("", None, Some(id)) => first_process(id).await?,
        ("", None, None) => return Err(failure("this agent serves no container", "name a target that is one")),
        (id, ..) => first_process(id).await?,
    };
    let looked = tokio::task::spawn_blocking(move || look(pid, netns)).await;
    looked.unwrap_or_else(|error| Err(failure(error, "report this")))
}

fn look(pid: u32, netns: u64) -> Result<Environment, ErrorReply> {
    let gone = |error: io::Error| failure(format!("the container's process cannot be looked at: {error}"), "run the command again");
    if fs::metadata(format!("/proc/{pid}/ns/net")).map_err(gone)?.ino() != netns {
        return Err(failure("that container is not one of this agent's pod", "run the command again"));
    }
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/environ")).map_err(gone)?.take(LONGEST).read_to_end(&mut bytes).map_err(gone)?;
    Ok(Environment { hostname: process::host_name(pid).map_err(gone)?, variables: variables(&bytes) })
}

/// What stands in `/proc/PID/environ`.
fn variables(bytes: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pair = |entry: &[u8]| {
        // `=` may begin a name nowhere; the value may hold more of them.
        let at = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        Some((text(&entry[..at]), text(&entry[at + 1..])))
    };
    bytes.split(|byte| *byte == 0).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_read_as_it_stands() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(variables(b"A=1\0B=x=y\nz\0EMPTY=\0=C:=bad\0nonsense\0"), [pair("A", "1"), pair("B", "x=y\nz"), pair("EMPTY", "")]);
    }

    #[tokio::test]
    async fn a_neighbours_environment_is_nobodys_business() {
        let settings = Settings { process: Some(std::process::id()), ..Settings::default() };
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let told = environment(&settings, own, "").await.unwrap();
        assert_eq!(told.hostname, fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
        assert!(told.variables.iter().any(|(name, _)| name == "PATH"));
        let error = environment(&settings, own + 1, "").await.unwrap_err();
        assert!(error.error.contains("not one of this agent's pod"), "{}", error.error);
        assert!(environment(&settings, own, "containerd://none").await.is_err());
    }
}
