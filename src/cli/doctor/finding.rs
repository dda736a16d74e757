//! What `mailsluice doctor` has found: one line each, with what mends it.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    #[serde(rename = "ok")]
    Fine,
    /// Mail flows, but something is not as it should be.
    Warning,
    /// Mail will not flow, or a promise will not be kept.
    Problem,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) what: String,
    /// A command or a change; empty where there is nothing to do.
    pub(super) mend: String,
}

impl Finding {
    pub(super) fn fine(what: impl Into<String>) -> Self {
        Self { severity: Severity::Fine, what: what.into(), mend: String::new() }
    }
    pub(super) fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, what: what.into(), mend: mend.into() }
    }
    pub(super) fn problem(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, what: what.into(), mend: mend.into() }
    }

    pub(super) fn line(&self, colours: bool) -> String {
        let (word, colour) = match self.severity {
            Severity::Fine => ("ok      ", "\x1b[32m"),
            Severity::Warning => ("warning ", "\x1b[33m"),
            Severity::Problem => ("problem ", "\x1b[31m"),
        };
        let (on, off) = if colours { (colour, "\x1b[0m") } else { ("", "") };
        let what = crate::log::escaped(&self.what);
        let mend = crate::log::escaped(&self.mend);
        let separator = if mend.is_empty() { "" } else { "; " };
        format!("{on}{word}{off} {what}{separator}{mend}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        assert_eq!(Finding::fine("all\nwell").line(false), "ok       all\\nwell\n");
        assert_eq!(Finding::warning("a", "do b").line(false), "warning  a; do b\n");
        assert_eq!(Finding::problem("a", "do b").line(true), "\x1b[31mproblem \x1b[0m a; do b\n");
    }
}
