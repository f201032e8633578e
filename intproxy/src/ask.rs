//! Questions to an agent that need no session.

use std::path::Path;

use http::Method;
use mirrord_protocol::control::{self, Environment, ErrorReply};

use crate::agent::{Agent, gone};

/// Whether it takes sessions; if not, why.
pub async fn ready(agent: &Path) -> Result<(), ErrorReply> {
    Agent::connect(agent).await?.simple(Method::GET, control::READY, Vec::new()).await
}

/// Environment and host name of a container of its target; `container` as the pod's status has its id.
pub async fn environment(agent: &Path, container: &str) -> Result<Environment, ErrorReply> {
    let path = format!("{}?container={container}", control::ENVIRONMENT);
    let bytes = Agent::connect(agent).await?.bytes(Method::GET, &path).await?;
    serde_json::from_slice(&bytes).map_err(gone)
}
