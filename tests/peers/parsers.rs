//! Messages as parsers that others wrote read them: Python's `email`, Node's `mailparser` and `postal-mime`. Where one of them sees something else
//! than `json` says, a rule of `parsers/compare.py` explains it, or the test fails.
//!
//! By default these are the messages of this repository. `MAILSLUICE_FIXTURES=folder` takes all `*.eml` of a folder instead, and prints the figures.

use crate::support::client::deliver;
use crate::support::process::run;
use crate::support::{Config, Daemon, Endpoint, messages};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn every_difference_has_a_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = std::env::var_os("MAILSLUICE_FIXTURES").map(PathBuf::from);
    let folders = fixtures.clone().map_or_else(|| vec![root.join("tests/cases"), root.join("tests/messages")], |folder| vec![folder]);
    let files = folders.iter().flat_map(|folder| folder.read_dir().unwrap()).map(|entry| entry.unwrap().path());
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json"));
    for file in files.filter(|path| path.extension().is_some_and(|ending| ending == "eml")) {
        let message = messages::with_crlf(&std::fs::read(&file).unwrap());
        endpoint.clear();
        deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &message).starts("250 ");
        let name = dir.path().join(file.file_name().unwrap());
        std::fs::write(name.with_extension("json"), &endpoint.only().body).unwrap();
        std::fs::write(name, message).unwrap();
    }
    let scripts = root.join("tests/peers/parsers");
    let mut node = Command::new("node");
    let others = run(node.arg(scripts.join("others.mjs")).arg(root.join("target/peers/npm")).arg(dir.path()), PATIENCE).ok();
    std::fs::write(dir.path().join("others"), others).unwrap();
    let compared = run(Command::new(super::python::interpreter()).arg(scripts.join("compare.py")).arg(dir.path()), PATIENCE);
    if fixtures.is_some() {
        println!("{}", compared.out);
    }
    if compared.code != Some(0) {
        let kept = dir.keep();
        panic!("{}{}the messages and what was made of them: {}", compared.out, compared.err, kept.display());
    }
}
