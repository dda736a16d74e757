//! The wiring.

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Start(String),
}

/// Runs the daemon until a signal ends it.
pub fn run(_config: crate::config::Config) -> Result<(), Error> {
    Err(Error::Start("the wiring is missing".to_owned()))
}
