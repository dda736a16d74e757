//! Why the daemon could not start or go on: one line for the operator.

use crate::config::ConfigError;
use crate::store::StoreError;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {address} ({key}): {error}; {mend}")]
    Listen { key: String, address: String, error: io::Error, mend: String },
    /// Says itself how to mend it.
    #[error("{0}")]
    IoUring(io::Error),
    #[error("{0}")]
    Start(String),
}
