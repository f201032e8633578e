//! Everything that keeps the program from running, or ends it, in the user's words: what is wrong, and the next step.

use std::{ffi::OsString, io, path::PathBuf};

use mirrord_config::{ConfigError, Fault, Target};
use mirrord_protocol::control::ErrorReply;
use thiserror::Error;

use crate::{
    agent::AgentError,
    chain::ChainError,
    files::FileError,
    filter::Failure,
    forward::ForwardError,
    intproxy::IntproxyError,
    kube::{ClusterError, KubeError},
    namespace::NamespaceError,
    privileges::Capabilities,
    program::ProgramError,
    session::Lost,
};

/// Why `mirrord` ends with a status of its own.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("this is already inside a mirrord session")]
    Inside,
    #[error("{0}")]
    Forward(#[from] ForwardError),
    #[error("{0}")]
    Program(#[from] ProgramError),
    #[error("{0}")]
    File(#[from] FileError),
    #[error("{0}")]
    Chain(#[from] ChainError),
    #[error("{0}")]
    Build(#[from] Failure),
    #[error("missing privileges: {missing}")]
    Privileges { missing: Capabilities, needed: Capabilities, program: PathBuf },
    #[error("{0}")]
    Namespace(#[from] NamespaceError),
    #[error("{0}")]
    Agent(#[from] AgentError),
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    #[error("{0}")]
    Kube(KubeError),
    #[error("the env file {} cannot be read: {error}", path.display())]
    EnvFile { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Intproxy(#[from] IntproxyError),
    #[error("{} cannot be run: {error}", program.display())]
    Run { program: OsString, error: io::Error },
    #[error("{0}")]
    Lost(#[from] Lost),
    /// What the agent has to say to a question.
    #[error("{}", .0.error)]
    Asked(ErrorReply),
    #[error("--port: nothing runs here that could listen on a port of its own")]
    NoLocalPort(u16),
    #[error("nobody has a session on {0}")]
    NoSession(Target),
    #[error("request {0} is not among those that are kept")]
    NoDecision(u64),
    #[error("{} cannot be written: {error}", path.display())]
    Har { path: PathBuf, error: io::Error },
    #[error("what was seen cannot be written: {0}")]
    Write(io::Error),
}

impl Error {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::Config(error) => error.help(),
            Self::Inside => "run it outside the session; if there is none, unset MIRRORD_RESOLVED_CONFIG".into(),
            Self::Forward(error) => error.help().into(),
            Self::Program(error) => error.help().into(),
            Self::File(error) => error.help().into(),
            Self::Chain(error) => error.help().into(),
            Self::Build(error) => error.help().into(),
            Self::Privileges { needed, program, .. } => {
                format!(
                    "run it with sudo, or give mirrord these rights (who may run it is then as good as root): sudo setcap {needed}+ep {}",
                    program.display()
                )
            }
            Self::Namespace(error) => error.help(),
            Self::Agent(error) => error.help().into(),
            Self::Cluster(error) => error.help().into(),
            Self::Kube(error) => error.help(),
            Self::EnvFile { .. } => "check the path behind --env-file, or env.env_file in the config file".into(),
            Self::Intproxy(error) => error.help().into(),
            Self::Run { .. } => "check that the program runs without mirrord".into(),
            Self::Lost(lost) => lost.help(),
            Self::Asked(reply) if !reply.help.is_empty() => reply.help.clone(),
            Self::Asked(_) => "run it again; MIRRORD_AGENT_LOG=FILE keeps the agent's log".into(),
            Self::NoSession(_) => "decisions are made for sessions: start one (mirrord exec, mirrord inspect), then ask again".into(),
            Self::NoLocalPort(port) => format!("write -p {port}"),
            Self::NoDecision(_) => "each worker of the agent keeps the last 512 that a session picked, and of all others as many".into(),
            Self::Har { .. } => "name a file in a folder that can be written".into(),
            Self::Write(_) => "make room on that disk, then run it again".into(),
        }
    }

    /// 2 for what the user wrote, 1 for all else.
    pub fn status(&self) -> i32 {
        match self {
            Self::Config(error) if error.fault() == Fault::Usage => 2,
            Self::NoLocalPort(_) | Self::Forward(_) => 2,
            _ => 1,
        }
    }
}
