//! From what the user wrote (flags, variables) to one checked [`Config`]. Pure: no file, process or environment is read here;
//! the command line hands in [`Flags`] and a look-up for variables, and acts on the result.
//!
//! * [`file`]: the config file's formats and keys; [`template`]: what stands in it to be rendered first.
//! * [`filters`]: the filter chain.
//! * [`kube`]: how a cluster is reached, and how the agent's pod looks there.
//! * [`env`]: which of the container's variables the program gets.
//! * [`target`]: the grammar of targets; [`cluster`]: of those in a cluster.
//! * [`ports`]: the grammar of `-p`.
//! * [`resolve`]: precedence (flag, then variable, then file, then default) and everything that must hold between flags.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cluster;
pub mod env;
pub mod file;
pub mod filters;
pub mod kube;
pub mod ports;
pub mod resolve;
pub mod target;
pub mod template;

pub use cluster::{ClusterTarget, Kind};
pub use env::{Environment, EnvironmentFlags};
pub use file::{File, FileError, Format};
pub use filters::{Filter, FilterConfig, FilterFlag};
pub use kube::{ClusterFlags, ClusterSettings};
pub use ports::PortMap;
pub use resolve::{Config, ConfigError, Fault, Flags};
pub use target::{ContainerId, Target, TargetError};
pub use template::Scope;

/// What becomes of the requests that the filters pick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The pod answers; the program gets a copy.
    #[default]
    Mirror,
    /// The program answers.
    Steal,
}

/// What becomes of bytes that no filter can judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ambiguous {
    /// They go to the pod as they came.
    #[default]
    Pass,
    /// They are answered 400.
    Refuse,
}
