//! Where a command's result goes, and what is said beside it.

use super::Failure;
use std::io::{self, Write as _};

/// One line on standard error, beside the command's result.
pub(super) fn complain(line: &str) {
    // There is nowhere left to say it.
    drop(writeln!(io::stderr().lock(), "mailsluice: {line}"));
}

/// Writes a command's result; the reader of a pipe may leave early (`mailsluice records | head`).
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}
