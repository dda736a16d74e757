//! `mailsluice check`: reads the configuration and every file that it names, prints the effective one.

use super::as_daemon::AsDaemon;
use super::{Failure, complain, load, print};
use std::path::Path;

pub(super) fn run(config: Option<&Path>) -> Result<(), Failure> {
    let seen_by = AsDaemon::enter(config);
    let config =
        load(config).and_then(|config| Ok(config.check_files().map(|()| config)?)).map_err(|failure| failure.seen_by(seen_by.name()))?;
    for warning in &config.warnings {
        complain(&format!("warning: {}", crate::log::escaped(warning)));
    }
    print(&config.effective_text())
}
