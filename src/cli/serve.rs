//! `mailsluice serve`: the daemon.

use super::Failure;
use super::choice::Choice;

pub(super) fn run(choice: &Choice) -> Result<(), Failure> {
    choice.check_user()?;
    crate::daemon::run(choice.load()?).map_err(Failure::from)
}
