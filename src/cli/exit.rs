//! How the process ends: a code of sysexits(3) and one line.

use crate::config::ConfigError;
use crate::store::StoreError;
use crate::{daemon, log};
use std::io;

/// The codes that the contract names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// The command line is wrong.
    Usage = 64,
    /// A message or an argument cannot be used.
    Data = 65,
    /// The daemon, the server or an address cannot be reached or had.
    Unavailable = 69,
    /// A file or folder cannot be created.
    CannotCreate = 73,
    Io = 74,
    NoPermission = 77,
    Configuration = 78,
}

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Empty where there is nothing to say: the reader of a pipe has left.
    pub line: String,
}

impl Failure {
    #[must_use]
    pub fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }

    /// The line as it is shown: one, whatever a server or a file has put into it.
    #[must_use]
    pub fn shown(&self) -> String {
        log::escaped(&self.line)
    }

    /// Writing to standard output failed.
    #[must_use]
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::new(Exit::Io, format!("standard output: {error}; give it room or another place"))
    }

    /// The code of a failed system call, where nothing better is known.
    #[must_use]
    pub fn code_of(error: &io::Error) -> Exit {
        if error.kind() == io::ErrorKind::PermissionDenied { Exit::NoPermission } else { Exit::Io }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let exit = if error.is_permission() { Exit::NoPermission } else { Exit::Configuration };
        Self::new(exit, error.to_string())
    }
}

impl From<daemon::Error> for Failure {
    fn from(error: daemon::Error) -> Self {
        let exit = match &error {
            daemon::Error::Config(error) if error.is_permission() => Exit::NoPermission,
            daemon::Error::Config(_) => Exit::Configuration,
            daemon::Error::Listen { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => Exit::NoPermission,
            daemon::Error::Store(StoreError::Io { source, .. } | StoreError::CannotRead { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::NoPermission
            }
            daemon::Error::Store(StoreError::Io { .. } | StoreError::NoSpace { .. }) => Exit::CannotCreate,
            daemon::Error::Store(StoreError::CannotRead { .. }) => Exit::Io,
            daemon::Error::Store(StoreError::Newer { .. }) => Exit::Configuration,
            daemon::Error::Store(_) => Exit::Unavailable,
            daemon::Error::Listen { .. } | daemon::Error::IoUring(_) | daemon::Error::Start(_) => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}
