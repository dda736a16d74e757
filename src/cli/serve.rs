//! `mailsluice serve`: the daemon.

use super::{Failure, load};
use std::path::Path;

pub(super) fn run(config: Option<&Path>) -> Result<(), Failure> {
    crate::daemon::run(load(config)?).map_err(Failure::from)
}
