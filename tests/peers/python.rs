//! Python: smtplib as a sender, `email` and `json` as readers of what the endpoint got, `standardwebhooks` as a verifier.

use crate::support::process::run;
use crate::support::{Config, Daemon, Endpoint, PATIENCE};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter with the modules of `tests/peers.list`.
#[track_caller]
pub(super) fn interpreter() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/venv/bin/python");
    assert!(python.exists(), "{} is missing: tests/test.sh makes it", python.display());
    python
}

/// Runs a script of `tests/peers` to its end; its standard output.
#[track_caller]
pub(super) fn script(name: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
    run(Command::new(interpreter()).arg(script).args(arguments), PATIENCE).ok()
}

#[test]
fn smtplib_delivers_in_every_way_it_knows() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let authority = crate::support::certificates::Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test", "localhost"]);
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let ca = dir.path().join("ca.pem");
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let out = script("send.py", &[&daemon.smtp().port().to_string(), ca.to_str().unwrap()]);
    assert_eq!(out.trim(), "plain, 8-bit, utf8, tls, refused");
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 4);
    for (request, text) in requests.iter().zip(["plain text", "Grüße", "用户", "secret text"]) {
        assert!(String::from_utf8_lossy(&request.body).contains(text), "{text}");
    }
}
