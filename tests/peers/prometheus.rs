//! Prometheus: its server scrapes the daemon and answers a query, `promtool` reads the alert file, its client library's parser and an
//! independent HdrHistogram read what the admin listener says.

use super::python::script;
use crate::support::admin::Admin;
use crate::support::certificates::Authority;
use crate::support::load::{self, Load};
use crate::support::port;
use crate::support::process::{Process, run};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, PATIENCE, eventually_within};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that scrapes one daemon once a second.
pub(super) struct Prometheus {
    admin: Admin,
    _server: Process,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    pub(super) fn scraping(daemon: &Daemon) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        let target = daemon.admin.host();
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: mailsluice\n  static_configs:\n  - targets: ['{target}']\n"
            ),
        )
        .unwrap();
        let port = port::free();
        let mut server = Command::new(super::program("prometheus"));
        server
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self { _server: Process::start(&mut server), admin: Admin::new(&format!("127.0.0.1:{port}")), _dir: dir }
    }

    /// The series of an expression; `None` while it cannot answer. An expression that it cannot read fails the test.
    #[track_caller]
    pub(super) fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let encoded = expression.bytes().fold(String::new(), |text, octet| text + &format!("%{octet:02X}"));
        let response = self.admin.try_get(&format!("/api/v1/query?query={encoded}")).ok()?;
        assert_ne!(response.status, 400, "{expression}: {}", response.text());
        (response.status == 200).then(|| response.json()["data"]["result"].as_array().cloned())?
    }

    /// Its first value, waited for.
    #[track_caller]
    pub(super) fn value(&self, expression: &str) -> String {
        let value = || Some(self.query(expression)?.first()?["value"][1].as_str()?.to_owned());
        eventually_within(Duration::from_secs(60), expression, value)
    }
}

#[test]
fn a_server_scrapes_and_answers() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let outcome = load::run(&Load { senders: 2, ..Load::new(daemon.smtp(), 25) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 25);
    let prometheus = Prometheus::scraping(&daemon);
    assert_eq!(prometheus.value("up"), "1");
    assert_eq!(prometheus.value("sum(mailsluice_messages_total{outcome=\"delivered\"})"), "25");
    assert_eq!(prometheus.value("mailsluice_stage_duration_seconds_count{stage=\"total\"}"), "25");
}

/// Every query of the dashboard has something to show while mail flows and some of it is refused, every alert's expression can be
/// read and names only metrics that the daemon has.
#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let endpoint = Endpoint::ok();
    let directory = tempfile::tempdir().unwrap();
    let files = Authority::new().issue_into(directory.path(), "mx", &["mx.test"]);
    let config = Config::without_routes()
        .set("smtp.max_connections_per_ip", 6)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start(config.route("all", &["*@example.test"], &endpoint.url("/in")));
    let prometheus = Prometheus::scraping(&daemon);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| load::run(&Load { senders: 2, persistent: true, ..Load::new(daemon.smtp(), u64::MAX) }, &stop));
        scope.spawn(|| refused(daemon.smtp(), &stop));
        // Whatever fails in here, the senders end.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            dashboard(&packaging.join("grafana/mailsluice.json"), &prometheus);
            alerts(&packaging.join("prometheus/mailsluice.rules.yml"), &prometheus);
        }));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    });
}

/// Every kind of refusal that the dashboard has a curve for: of a message, a recipient, a connection.
fn refused(smtp: SocketAddr, stop: &AtomicBool) {
    let mut crowd = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::try_connect(smtp) else { continue };
        let Ok(banner) = client.try_reply() else { continue };
        if banner.code == 421 {
            crowd.clear();
            crate::support::wait::tick();
            continue;
        }
        let talk = "EHLO a.test\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@elsewhere.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";
        let _ = client.try_send(talk).and_then(|()| client.try_send("a bare\nline feed\r\n.\r\n"));
        for _ in 0..6 {
            let _ = client.try_reply();
        }
        crowd.push(client);
    }
}

pub(super) fn dashboard(file: &Path, prometheus: &Prometheus) {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's too");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{title} is wider than the grid");
        for cell in (x..x + w).flat_map(|column| (y..y + h).map(move |row| (column, row))) {
            assert!(taken.insert(cell), "{title} lies over another");
        }
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let asked = expression.replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "10s");
            assert!(!asked.contains('$'), "{title}: {expression}");
            let series = eventually_within(Duration::from_secs(60), &format!("{title}: {asked}"), || {
                let series = prometheus.query(&asked)?;
                // A number: `NaN` is no curve.
                series.iter().any(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN")).then_some(series)
            });
            // What its legend names is a label of the answer.
            for name in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let name = name.split("}}").next().unwrap().trim();
                assert!(series[0]["metric"][name].is_string(), "{title}: no {name} in {}", series[0]);
            }
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        // `label_values(metric{filter}, label)`
        let Some(asked) = variable["query"]["query"].as_str() else { continue };
        let (metric, label) = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", ")).unwrap();
        let series = prometheus.query(&metric.replace("$job", ".*")).unwrap();
        assert!(series[0]["metric"][label].is_string(), "{asked}");
    }
}

pub(super) fn alerts(file: &Path, prometheus: &Prometheus) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut names = BTreeSet::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if word.starts_with("mailsluice_") {
            names.insert(word);
        }
    }
    assert!(names.len() > 2, "{names:?}");
    for name in names {
        prometheus.value(&format!("count({name})"));
    }
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

/// Each alert of the fleet is raised by what it is for, and by nothing else.
#[test]
fn the_fleets_alerts_are_raised() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus/mailsluice-fleet.rules.yml");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.yml");
    let cases = include_str!("prometheus/fleet.yml").replace("RULES", packaging.to_str().unwrap());
    std::fs::write(&file, cases).unwrap();
    run(Command::new(super::program("promtool")).args(["test", "rules"]).arg(&file), PATIENCE).ok();
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
    let samples: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(samples["mailsluice_messages_total{outcome=delivered}"], 20.0, "{samples}");
}

/// What `hgrm.py` says of this text and these raw times.
#[track_caller]
fn compare(hgrm: &[u8], times: &[&[u64]]) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let mut files = vec![dir.path().join("hgrm")];
    std::fs::write(&files[0], hgrm).unwrap();
    for (n, times) in times.iter().enumerate() {
        files.push(dir.path().join(format!("times{n}")));
        let lines: Vec<String> = times.iter().map(u64::to_string).collect();
        std::fs::write(&files[n + 1], lines.join("\n")).unwrap();
    }
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    script("hgrm.py", &files).trim().parse().unwrap()
}

/// Known times, from a microsecond to an hour, as many in each decade.
#[test]
fn hgrm_has_the_percentiles_of_the_times_that_were_recorded() {
    let stats = mailsluice::stats::Stats::new();
    let recorder = stats.recorder();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let times: Vec<u64> = (0..30_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let decade = 10_u64.pow(u32::try_from(state % 10).unwrap());
            (decade + (state >> 8) % (decade * 9)).min(3_600_000_000)
        })
        .collect();
    for &us in &times {
        recorder.record(mailsluice::stats::Stage::Forward, us);
    }
    stats.collect();
    let forward = stats.histogram(mailsluice::stats::Stage::Forward, mailsluice::stats::Window::Total);
    let hgrm = mailsluice::stats::hgrm(&forward.histogram);
    assert_eq!(compare(hgrm.as_bytes(), &[&times]), 0.0);
}

/// The same of a running daemon, by the times in its records (those of the stage `forward`: a record's other times hold the commit
/// before its own, see `store::commit`).
#[test]
fn hgrm_is_equal_to_the_times_in_the_records() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let outcome = load::run(&Load { senders: 4, ..Load::new(daemon.smtp(), 300) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 300);
    let raw: Vec<u64> = daemon.admin.records("").iter().map(|record| record["forward_us"].as_u64().unwrap()).collect();
    assert_eq!(compare(&daemon.admin.get("/histograms/forward?window=total&format=hgrm").body, &[&raw]), 0.0);
}

/// And by times that are not the daemon's: how long the endpoint held each request is less than what the daemon can have measured, and
/// the time until the sender had its reply is more. Requests are held for seconds, so that there is little room between the two.
#[test]
fn hgrm_lies_between_the_times_of_the_endpoint_and_of_the_sender() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let endpoint = {
        let held = Arc::clone(&held);
        Endpoint::with(move |request| {
            let begun = Instant::now();
            let until = begun + Duration::from_micros(1_000_000 + load::id_of(request) * 618_033 % 2_000_000);
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
            held.lock().unwrap().push(microseconds(begun.elapsed()));
            Answer::status(200)
        })
        .start()
    };
    // As many as there are forwarders, and all of them at once: none waits in the queue.
    let daemon = Daemon::start(Config::to(&endpoint).of_route("adaptive", false).of_route("max_concurrency", 60));
    let outcome = load::run(&Load { senders: 60, ..Load::new(daemon.smtp(), 120) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 120);
    let held = held.lock().unwrap();
    let waited: Vec<u64> = outcome.times.iter().map(|time| microseconds(*time) + 1).collect();
    for stage in ["forward", "total"] {
        let apart = compare(&daemon.admin.get(&format!("/histograms/{stage}?window=total&format=hgrm")).body, &[&held, &waited]);
        println!("{stage}: the two are {apart} % apart");
        assert!(apart < 20.0, "{apart} % apart: that says nothing");
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}
