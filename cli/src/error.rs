//! Everything that keeps the program from running, or ends it, in the user's words: what is wrong, and the next step.

use std::{ffi::OsString, io, path::PathBuf};

use mirrord_config::{ConfigError, Fault};
use thiserror::Error;

use crate::{
    agent::AgentError, files::FileError, intproxy::IntproxyError, namespace::NamespaceError, privileges::Capabilities,
    program::ProgramError, session::Lost,
};

/// Why `mirrord` ends with a status of its own.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("this is already inside a mirrord session")]
    Inside,
    #[error("{0}")]
    Program(#[from] ProgramError),
    #[error("{0}")]
    File(#[from] FileError),
    #[error("missing privileges: {missing}")]
    Privileges { missing: Capabilities, needed: Capabilities, program: PathBuf },
    #[error("{0}")]
    Namespace(#[from] NamespaceError),
    #[error("{0}")]
    Agent(#[from] AgentError),
    #[error("{0}")]
    Intproxy(#[from] IntproxyError),
    #[error("{} cannot be run: {error}", program.display())]
    Run { program: OsString, error: io::Error },
    #[error("{0}")]
    Lost(#[from] Lost),
}

impl Error {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::Config(error) => error.help(),
            Self::Inside => "run it outside the session; if there is none, unset MIRRORD_RESOLVED_CONFIG".into(),
            Self::Program(error) => error.help().into(),
            Self::File(error) => error.help().into(),
            Self::Privileges { needed, program, .. } => {
                format!(
                    "run it with sudo, or give mirrord these rights (who may run it is then as good as root): sudo setcap {needed}+ep {}",
                    program.display()
                )
            }
            Self::Namespace(error) => error.help(),
            Self::Agent(error) => error.help().into(),
            Self::Intproxy(error) => error.help().into(),
            Self::Run { .. } => "check that the program runs without mirrord".into(),
            Self::Lost(lost) => lost.help(),
        }
    }

    /// 2 for what the user wrote, 1 for all else.
    pub fn status(&self) -> i32 {
        match self {
            Self::Config(error) if error.fault() == Fault::Usage => 2,
            _ => 1,
        }
    }
}
