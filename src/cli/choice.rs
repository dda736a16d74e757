//! Which configuration a command reads: `--config`, else `MAILSLUICE_CONFIG`, else the package's where there is one, else the development
//! configuration, which `--dev` asks for by name. A file that is there and cannot be read is an error, never a reason for another one.

use super::{Exit, Failure};
use crate::config::{Config, development};
use std::io;
use std::path::{Path, PathBuf};

const PACKAGED: &str = "/etc/mailsluice/mailsluice.toml";
/// The user of the package's unit.
const USER: &str = "mailsluice";

/// The configuration of this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Named(PathBuf),
    Packaged(PathBuf),
    Development,
}

impl Choice {
    pub(super) fn new(config: Option<PathBuf>, development: bool) -> Self {
        // An empty variable names no file.
        let variable = std::env::var_os("MAILSLUICE_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        Self::of(config, development, variable, Path::new(PACKAGED))
    }

    fn of(config: Option<PathBuf>, development: bool, variable: Option<PathBuf>, packaged: &Path) -> Self {
        if development {
            return Self::Development;
        }
        match config.or(variable) {
            Some(path) => Self::Named(path),
            None if is_there(packaged) => Self::Packaged(packaged.to_owned()),
            None => Self::Development,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Named(path) | Self::Packaged(path) => Some(path),
            Self::Development => None,
        }
    }

    pub(super) fn load(&self) -> Result<Config, Failure> {
        Config::load(self.path()).map_err(Failure::from)
    }

    /// For people: what is read.
    pub(super) fn name(&self) -> String {
        match self.path() {
            Some(path) => crate::log::escaped(&path.display().to_string()),
            None => format!("{}: no file was named, and there is no {PACKAGED}", development::NAME),
        }
    }

    /// The package's daemon is the unit's to start: another user would open its store, and leave files in it that the unit cannot have.
    pub(super) fn check_user(&self) -> Result<(), Failure> {
        let Self::Packaged(path) = self else { return Ok(()) };
        let own = nix::unistd::geteuid();
        let unit = nix::unistd::User::from_name(USER).ok().flatten();
        if unit.is_some_and(|unit| unit.uid == own) {
            return Ok(());
        }
        let line = format!(
            "{} is the package's, and its daemon runs as the user {USER}: systemctl start mailsluice; to try it out without: mailsluice serve --dev; \
             to run it so all the same, name it with --config",
            path.display()
        );
        Err(Failure::new(Exit::Usage, line))
    }
}

/// Also where only its folder may not be looked into.
fn is_there(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_named_or_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let (there, missing) = (dir.path().join("there.toml"), dir.path().join("missing.toml"));
        std::fs::write(&there, "").expect("it can be written");
        let path = |text: &str| Some(PathBuf::from(text));
        let table = [
            (path("a"), false, path("b"), &there, Choice::Named("a".into())),
            (None, false, path("b"), &there, Choice::Named("b".into())),
            (None, false, None, &there, Choice::Packaged(there.clone())),
            (None, false, None, &missing, Choice::Development),
            (None, true, path("b"), &there, Choice::Development),
        ];
        for (config, development, variable, packaged, expected) in table {
            assert_eq!(Choice::of(config, development, variable, packaged), expected);
        }
    }
}
