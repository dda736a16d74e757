//! The command line.

#[must_use]
pub fn main() -> std::process::ExitCode {
    todo!()
}
