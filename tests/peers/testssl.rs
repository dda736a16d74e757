//! testssl.sh against STARTTLS: protocols, suites, known flaws.

use crate::support::certificates::Authority;
use crate::support::process::run;
use crate::support::{Config, Daemon, Endpoint};
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// What is about the test's own certificate, not about the server.
const OF_THE_CERTIFICATE: &[&str] = &["cert", "OCSP", "CRL", "chain", "CAA", "certificate_transparency", "scanProblem", "optimal_proto"];

#[test]
fn finds_nothing_of_weight() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let files = Authority::new().issue_into(dir.path(), "mx", &["mx.test", "localhost"]);
    let report = dir.path().join("report.json");
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap())
        .set("smtp.max_connections_per_ip", 1000);
    let daemon = Daemon::start_in(dir, config);
    let mut command = Command::new(super::program("testssl"));
    command.args(["--starttls", "smtp", "--quiet", "--warnings=off", "--color", "0", "--ip", "127.0.0.1", "--nodns", "none"]);
    command.args(["--protocols", "--server-defaults", "--fs", "--vulnerable"]);
    command.arg("--jsonfile").arg(&report).arg(format!("localhost:{}", daemon.smtp().port()));
    let finished = run(&mut command, Duration::from_secs(400));
    let findings: Value = std::fs::read(&report)
        .map_err(|e| e.to_string())
        .and_then(|octets| serde_json::from_slice(&octets).map_err(|e| e.to_string()))
        .unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    let findings = findings.as_array().unwrap();
    let said = |id: &str| {
        let finding = findings.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("nothing about {id}: {findings:?}"));
        finding["finding"].as_str().unwrap().to_owned()
    };
    for (protocol, offered) in [("SSLv2", false), ("SSLv3", false), ("TLS1", false), ("TLS1_1", false), ("TLS1_2", true), ("TLS1_3", true)]
    {
        assert_eq!(!said(protocol).starts_with("not offered"), offered, "{protocol}: {}", said(protocol));
    }
    let weighty: Vec<&Value> = findings
        .iter()
        .filter(|finding| matches!(finding["severity"].as_str(), Some("MEDIUM" | "HIGH" | "CRITICAL")))
        .filter(|finding| !OF_THE_CERTIFICATE.iter().any(|part| finding["id"].as_str().unwrap_or_default().contains(part)))
        .collect();
    assert!(weighty.is_empty(), "{weighty:#?}");
    daemon.admin.wait_for_stat("connections.open", 0);
}
