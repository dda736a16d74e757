//! What standard output is: a window with so many columns and rows and with colours, or a file and a pipe, which get all of it plain.

use std::io::IsTerminal as _;

/// A window's columns and rows; `None` where there is no window.
pub(super) fn size() -> Option<(usize, usize)> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    terminal_size::terminal_size_of(&out).map(|(width, height)| (usize::from(width.0), usize::from(height.0)))
}

pub(super) fn columns() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    /// On a terminal, unless `NO_COLOR` is set (no-color.org: to anything).
    pub(super) fn of_stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }
    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }
    pub(super) fn wait(self, text: &str) -> String {
        self.with("33", text)
    }
}
