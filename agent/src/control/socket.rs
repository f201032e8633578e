//! The agent's control socket: a file with mode 0600 in a folder with mode 0700. Whoever may open it may use the agent.

use std::{
    cell::Cell,
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use mirrord_protocol::control::ErrorReply;
use tokio::net::{UnixListener, UnixStream};

use crate::{app::failure, folder};

/// The socket and its file, which goes with it.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    removed: Cell<bool>,
}

impl ControlSocket {
    /// Binds the socket. A file that nobody serves is replaced.
    pub fn bind(path: &Path) -> Result<Self, ErrorReply> {
        let help = "run the agent as root, or name another place with --socket";
        if let Some(folder) = path.parent() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failure(format!("cannot make {}: {error}", folder.display()), help))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failure(format!("an agent already serves {}", path.display()), "join it: `mirrord exec` does so by itself"));
        }
        remove_file(path);
        let listener = UnixListener::bind(path).map_err(|error| failure(format!("cannot serve {}: {error}", path.display()), help))?;
        let socket = Self { listener, path: path.to_owned(), removed: Cell::new(false) };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|error| failure(error, help))?;
        Ok(socket)
    }

    /// The next control connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(socket, _)| socket)
    }

    /// Removes the file, and its folder if no other agent uses it: nobody can come any more.
    pub fn remove(&self) {
        if self.removed.replace(true) {
            return;
        }
        remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            folder::remove(folder);
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "cannot remove the control socket");
    }
}
