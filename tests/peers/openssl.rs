//! OpenSSL's client, with server names that are none: one certificate serves all, so they are of no account.

use crate::support::certificates::Authority;
use crate::support::process::run;
use crate::support::wait::PATIENCE;
use crate::support::{Config, Daemon, Endpoint};
use std::process::Command;
use std::sync::Arc;

#[test]
fn a_server_name_that_is_no_name_is_of_no_account() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let files = Authority::new().issue_into(dir.path(), "mx", &["mx.test"]);
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    // The last has to say its hello once more (RFC 8446 section 4.1.4): its first key is of a group that we have not.
    let ways: [&[&str]; 3] =
        [&["-tls1_2"], &["-tls1_3"], &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384", "-groups", "X448:P-256", "-msg"]];
    let long = format!("{}.example", "x".repeat(64));
    let names = [
        "mx.test",
        "mx.test.",
        "mx_1.test",
        "localhost",
        "127.0.0.1",
        "::1",
        "[127.0.0.1]",
        "[::1]",
        "mx.test:25",
        "mx..test",
        "mx.test..",
        ".",
        ".mx.test",
        "-mx.test",
        "*.mx.test",
        "mx test",
        " ",
        "mx.test\n",
        "müller.example",
        "user@mx.test",
        "smtp://mx.test",
        &long,
    ];
    for (name, way) in names.iter().flat_map(|name| ways.iter().map(move |way| (name, way))) {
        let mut command = Command::new(super::program("openssl"));
        command.args(["s_client", "-starttls", "smtp", "-servername", name, "-connect", &daemon.smtp().to_string()]).args(*way);
        let finished = run(&mut command, PATIENCE);
        assert!(finished.code == Some(0) && finished.out.contains("\nNew, TLSv1."), "{name:?} {way:?}: {finished:?}");
        assert!(way.len() < 6 || finished.out.matches(", ClientHello").count() == 2, "{name:?} {way:?}: {finished:?}");
    }
    let ended = u64::try_from(names.len() * ways.len()).unwrap();
    daemon.admin.wait_for_stat("latency.tls_handshake.total.count", ended);
}
