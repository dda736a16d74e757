//! Prometheus: its server scrapes the daemon and answers a query, `promtool` reads the alert file, its client library's parser and an
//! independent HdrHistogram read what the admin listener says.

use super::python::script;
use crate::support::admin::Admin;
use crate::support::load::{self, Load};
use crate::support::port;
use crate::support::process::{Process, run};
use crate::support::{Config, Daemon, Endpoint, PATIENCE, eventually_within};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[test]
fn a_server_scrapes_and_answers() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let outcome = load::run(&Load { senders: 2, ..Load::new(daemon.smtp(), 25) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 25);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("prometheus.yml");
    let target = daemon.admin.host();
    std::fs::write(
        &config,
        format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: mailsluice\n  static_configs:\n  - targets: ['{target}']\n"),
    )
    .unwrap();
    let port = port::free();
    let mut server = Command::new(super::program("prometheus"));
    server
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _server = Process::start(&mut server);
    let prometheus = Admin::new(&format!("127.0.0.1:{port}"));
    let query = |expression: &str| {
        let response = prometheus.try_get(&format!("/api/v1/query?query={expression}")).ok().filter(|response| response.status == 200)?;
        response.json()["data"]["result"].as_array()?.iter().map(|series| series["value"][1].as_str().unwrap().to_owned()).next()
    };
    let scraped = |expression: &str| eventually_within(Duration::from_secs(60), expression, || query(expression));
    assert_eq!(scraped("up"), "1");
    assert_eq!(scraped("sum(mailsluice_messages_total{outcome=\"delivered\"})"), "25");
    assert_eq!(scraped("mailsluice_stage_duration_seconds_count{stage=\"total\"}"), "25");
}

#[test]
fn the_alert_file_is_valid() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let mut rules = Vec::new();
    find(&packaging, &mut rules);
    assert!(!rules.is_empty(), "an alert file under packaging/");
    for file in rules {
        run(Command::new(super::program("promtool")).args(["check", "rules"]).arg(&file), PATIENCE).ok();
    }
}

/// Files that hold alert rules.
fn find(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, found);
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml" || e == "rules")
            && std::fs::read_to_string(&path).unwrap().contains("alert:")
        {
            found.push(path);
        }
    }
}

#[test]
fn its_parser_reads_the_metrics() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    load::run(&Load { senders: 2, ..Load::new(daemon.smtp(), 20) }, &AtomicBool::new(false));
    let metrics = daemon.admin.get("/metrics");
    assert!(metrics.fields.get("content-type").unwrap().starts_with("application/openmetrics-text"), "{:?}", metrics.fields);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics");
    std::fs::write(&file, &metrics.body).unwrap();
    let out = script("metrics.py", &[file.to_str().unwrap()]);
    let samples: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(samples["mailsluice_messages_total{outcome=delivered}"], 20.0, "{samples}");
}

/// Percentiles of `hgrm`, read by another HdrHistogram's rules, against the raw times: those of the daemon's own records (of the
/// stage `forward`: a record's other times hold the commit before its own, see `store::commit`).
#[test]
fn hgrm_is_equal_to_the_raw_times_to_three_digits() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let outcome = load::run(&Load { senders: 4, ..Load::new(daemon.smtp(), 300) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 300);
    let dir = tempfile::tempdir().unwrap();
    let times = dir.path().join("times");
    let records = daemon.admin.records("");
    let raw: Vec<String> = records.iter().map(|record| record["forward_us"].to_string()).collect();
    std::fs::write(&times, raw.join("\n")).unwrap();
    let hgrm = dir.path().join("hgrm");
    std::fs::write(&hgrm, daemon.admin.get("/histograms/forward?window=total&format=hgrm").body).unwrap();
    assert_eq!(script("hgrm.py", &[times.to_str().unwrap(), hgrm.to_str().unwrap()]).trim(), "equal");
}
