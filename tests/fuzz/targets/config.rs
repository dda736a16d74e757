//! Any text as a configuration: it is read or refused with one line, never with a panic; and what `check` prints of one that was read,
//! secrets aside, reads back to the same.

use mailsluice::config::{Config, Origin};
use std::path::PathBuf;

pub fn run(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    // Files that a text may name are this machine's, some of them without an end.
    if text.contains("_file") || text.contains(['\\']) {
        return;
    }
    let config = match parse(text) {
        Ok(config) => config,
        Err(line) => {
            assert!(line.starts_with("fuzz.toml") && !line.contains(['\n', '\r']), "{line:?}");
            return;
        }
    };
    assert!(!config.routes.is_empty() && !config.smtp.listen.is_empty());
    let shown = config.effective_text();
    if shown.contains("(secret)") {
        return;
    }
    match parse(&shown) {
        Ok(again) => assert_eq!(values(&again.effective_text()), values(&shown)),
        Err(line) => panic!("what check prints is refused: {line}\n{shown}"),
    }
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Origin::File(PathBuf::from("fuzz.toml")), text).map_err(|error| error.to_string())
}

/// Without the comments that say where each value came from.
fn values(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.rsplit_once("  # ").map_or(line, |(value, _)| value).trim_end()).collect()
}
