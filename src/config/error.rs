//! What is wrong with a configuration: one line that says the file, the line, the key, what, and how to mend it.

use std::io;
use std::path::PathBuf;

/// Why there is no configuration. Nothing is logged here; the command line or the reload prints it.
#[derive(Debug)]
pub enum ConfigError {
    /// The configuration file itself.
    Unreadable { file: PathBuf, source: io::Error },
    /// A value, or the lack of one.
    Invalid { place: Place, what: String, mend: String },
    /// A file that a value names.
    NamedFile { place: Place, file: PathBuf, source: io::Error },
}

impl ConfigError {
    /// True if it is a lack of permission, which has an exit code of its own.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } | Self::NamedFile { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Invalid { .. } => false,
        }
    }
}

impl ConfigError {
    /// The two halves of its line: what is wrong and where; how to mend it.
    #[must_use]
    pub fn what_and_mend(&self) -> (String, &str) {
        match self {
            Self::Unreadable { file, source } => (format!("{}: cannot be read: {source}", file.display()), mend_reading(source)),
            Self::Invalid { place, what, mend } => (format!("{place}: {what}"), mend),
            Self::NamedFile { place, file, source } => (format!("{place}: {}: {source}", file.display()), mend_reading(source)),
        }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, mend) = self.what_and_mend();
        write!(f, "{what}; {mend}")
    }
}

impl std::error::Error for ConfigError {}

/// What is allowed, but can hardly be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub what: String,
    pub mend: String,
}

impl Warning {
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.mend)
    }
}

/// Where a value stands: file, line, key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// As the file was named.
    pub file: String,
    /// From 1; `None` where the value is a default.
    pub line: Option<usize>,
    /// Dotted, as in `smtp.tls.certificate`; empty for the file as a whole.
    pub key: String,
}

impl Place {
    pub(super) fn invalid(&self, what: impl Into<String>, mend: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { place: self.clone(), what: what.into(), mend: mend.into() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        Ok(())
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library may add kinds")]
fn mend_reading(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create it or correct the path",
        io::ErrorKind::PermissionDenied => "let the daemon's user read it (chgrp mailsluice, chmod 640)",
        io::ErrorKind::InvalidData => "it must be UTF-8 text",
        _ => "make it readable",
    }
}
