//! `mailsluice check`: reads the configuration and every file that it names, prints the effective one.

use super::as_daemon::AsDaemon;
use super::choice::Choice;
use super::{Failure, complain, print};

pub(super) fn run(choice: &Choice) -> Result<(), Failure> {
    print(&format!(
        "# {}
",
        choice.name()
    ))?;
    let seen_by = AsDaemon::enter(choice.path());
    let config =
        choice.load().and_then(|config| Ok(config.check_files().map(|()| config)?)).map_err(|failure| failure.seen_by(seen_by.name()))?;
    for warning in &config.warnings {
        complain(&format!("warning: {}", crate::log::escaped(warning)));
    }
    // Its own first line says the same.
    let text = config.effective_text();
    print(text.split_once('\n').map_or("", |(_, rest)| rest))
}
