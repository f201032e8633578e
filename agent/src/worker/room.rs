//! Room for more connections. Each takes up to three descriptors (client, pod, session), and an agent without any could not
//! even pass a connection on. So while enough are left for those on their way it lets go of the redirect's lease: within a
//! second newcomers reach the pod without us. What comes after all in that second, and finds too few left, waits in the
//! backlog until others have ended.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use tokio::net::TcpListener;

use crate::{process, redirect::lease::Brake};

/// Free descriptors below which the redirect is let go; at most half of all.
const LOW: u64 = 512;
/// Free descriptors below which nothing is accepted: they are for connections under way; at most an eighth of all.
const NONE: u64 = 128;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Watches the descriptors in use.
#[derive(Clone)]
pub struct Room {
    brake: Brake,
}

impl Room {
    pub fn new(brake: Brake) -> Self {
        Self { brake }
    }

    /// After a connection was accepted: whether it has to be the last for now. Where room is low, the redirect is let go,
    /// and connections that were accepted get to open what they need before the next one is.
    pub async fn is_full_after(&self, newest: &impl AsRawFd) -> bool {
        let (limit, used) = (process::open_file_limit(), process::open_files().max(newest.as_raw_fd() as u64));
        if used < limit - LOW.min(limit / 2) {
            return false;
        }
        self.brake.pull();
        tokio::task::yield_now().await;
        used >= limit - NONE.min(limit / 8)
    }

    /// Waits until there is room again, with the redirect let go.
    pub async fn wait(&self, listener: &TcpListener) {
        tracing::warn!("too many open files: new connections go to the pod without the gateway; raise the limit (ulimit -n) for more");
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Ok(next) = listener.as_fd().try_clone_to_owned()
                && !self.is_full_after(&next).await
            {
                break;
            }
            self.brake.pull();
        }
        tracing::info!("there is room for new connections again");
    }
}
