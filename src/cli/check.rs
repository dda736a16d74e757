//! `mailsluice check`: reads the configuration and every file that it names, prints the effective one.

use super::as_daemon::AsDaemon;
use super::choice::Choice;
use super::{Failure, complain, print, warnings};

pub(super) fn run(choice: &Choice) -> Result<(), Failure> {
    print(&format!(
        "# {}
",
        choice.name()
    ))?;
    let seen_by = AsDaemon::enter(choice.path());
    let config = choice.load().and_then(|config| Ok(config.check_files().map(|()| config)?));
    let config = config.map_err(|failure| Failure { line: seen_by.saw(&failure.line), ..failure })?;
    for warning in warnings::of(&config) {
        complain(&format!("warning: {}", crate::log::escaped(&warning.to_string())));
    }
    // Its own first line says the same.
    let text = config.effective_text();
    print(text.split_once('\n').map_or("", |(_, rest)| rest))
}
