//! `mailsluice check`: reads the configuration and every file that it names, prints the effective one.

use super::{Failure, complain, load, print};
use std::path::Path;

pub(super) fn run(config: Option<&Path>) -> Result<(), Failure> {
    let config = load(config)?;
    config.check_files()?;
    for warning in &config.warnings {
        complain(&format!("warning: {}", crate::log::escaped(warning)));
    }
    print(&config.effective_text())
}
