//! Targets in a cluster: the only place that knows Kubernetes. All of it runs in a process of its own (`mirrord cluster`, see
//! [`process`]; [`cluster`] starts it), so that what a kubeconfig may start (login programs) and what its connections need is no part of the program's session.
//!
//! ```text
//! exec ──Settings──► cluster: client → target's pods → agent for each (Job, keys in a Secret) → bridge
//!      ◄──Report───                                                                              │
//! intproxy ──a unix socket for each agent──► bridge ──port-forward, mutual TLS──► agent
//! ```
//!
//! * [`client`]: kubeconfig, context, namespace. [`error`]: what goes wrong there, and the next step.
//! * [`pods`]: from a target to its pods and the container in each.
//! * [`manifest`], [`keys`]: what is created, as pure functions. [`agent`]: creates or joins, and watches it become ready;
//!   [`ephemeral`]: the same as a container of the target's pod.
//!   [`room`]: whether the node has a place for it. [`retry`]: how often an API server that does not answer is asked.
//! * [`bridge`]: the connections.
//! * [`list`], [`rbac`], [`doctor`]: commands of their own.

mod agent;
mod bridge;
mod client;
mod cluster;
pub mod doctor;
mod ephemeral;
mod error;
mod keys;
pub mod list;
mod manifest;
mod pods;
mod process;
pub mod rbac;
mod retry;
mod room;

pub use cluster::{Cluster, ClusterError};
pub use error::KubeError;
pub use process::{Settings, Wanted, run};
