//! The plain data that mirrord's parts exchange, and nothing that runs.
//!
//! * [`control`]: the JSON bodies of the agent's `/v1` HTTP/2 service (intproxy → agent).
//! * [`deliver`]: how a delivery connection opens and what its streams' heads say (agent → intproxy).
//! * [`layer`]: the messages between the preloaded layer and the intproxy, and their framing.
//! * [`limits`]: the bounds that both sides of each exchange keep.
//! * [`passing`]: the messages of a delivery connection that passes sockets (agent ⇄ intproxy).
//! * [`records`]: what the agent tells about requests: decisions (`explain`) and exchanges (`inspect`).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod control;
pub mod deliver;
pub mod doctor;
pub mod layer;
pub mod limits;
pub mod passing;
pub mod records;
