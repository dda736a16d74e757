//! swaks, as people use it to try a server.

use crate::support::process::{Finished, run};
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE};
use std::process::Command;

fn swaks(daemon: &Daemon, arguments: &[&str]) -> Finished {
    let mut command = Command::new(super::program("swaks"));
    command.args(["--server", &daemon.smtp().ip().to_string(), "--port", &daemon.smtp().port().to_string()]);
    command.args(["--from", "alice@sender.test", "--to", "bob@example.test"]).args(arguments);
    run(&mut command, PATIENCE)
}

#[test]
fn delivers() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let out = swaks(&daemon, &["--header", "Subject: by swaks", "--body", "first line\n.dot line\nlast"]).ok();
    assert!(out.contains("250 2.0.0 Ok: "), "{out}");
    let body = String::from_utf8(endpoint.only().body.clone()).unwrap();
    assert!(body.contains("Subject: by swaks\r\n") && body.contains("\r\n.dot line\r\nlast\r\n"), "{body}");
    assert_eq!(daemon.admin.records("")[0]["subject"], "by swaks");
}

#[test]
fn delivers_with_pipelining() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    swaks(&daemon, &["--pipeline"]).ok();
    assert_eq!(endpoint.count(), 1);
}

#[test]
fn delivers_over_tls() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let files = crate::support::certificates::Authority::new().issue_into(dir.path(), "mx", &["mx.test"]);
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap())
        .set("smtp.tls.require", true);
    let daemon = Daemon::start_in(dir, config);
    for version in ["tlsv1_2", "tlsv1_3"] {
        swaks(&daemon, &["--tls", "--tls-protocol", version]).ok();
    }
    let versions: Vec<String> = daemon.admin.records("").iter().map(|record| record["tls"].as_str().unwrap()[..7].to_owned()).collect();
    assert_eq!(versions, ["TLSv1.3", "TLSv1.2"]);
}

#[test]
fn sees_a_refusal_and_a_deferral() {
    let endpoint = Endpoint::in_turn(vec![Answer::text(422, "no such ticket"), Answer::text(503, "come back")]);
    let daemon = Daemon::start(Config::to(&endpoint));
    let refused = swaks(&daemon, &[]);
    assert_eq!(refused.code, Some(26), "swaks's code for refused data: {refused:?}");
    assert!(refused.out.contains("554 5.7.1 no such ticket"), "{refused:?}");
    let deferred = swaks(&daemon, &[]);
    assert_eq!(deferred.code, Some(26));
    assert!(deferred.out.contains("450 4.3.0 come back"), "{deferred:?}");
}
