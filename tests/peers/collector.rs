//! The fleet's other sink: rotel, an OpenTelemetry collector, takes records and latency and hands them on to an endpoint of ours. What a
//! collector may answer besides is answered by that endpoint itself.

use super::python;
use crate::support::load::{self, Load};
use crate::support::process::{Process, run};
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE, eventually_within, port};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CATCH_UP: Duration = Duration::from_secs(90);

fn send(daemon: &Daemon, messages: u64) {
    let outcome = load::run(&Load { senders: 4, ..Load::new(daemon.smtp(), messages) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)) as u64, messages);
}

/// The ids of all records that a collector was sent and took.
fn ids(requests: &[Value]) -> Vec<String> {
    let records = requests.iter().flat_map(|body| body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().into_iter().flatten());
    let id = |record: &Value| {
        let id = record["attributes"].as_array().unwrap().iter().find(|one| one["key"] == "mailsluice.id").unwrap();
        id["value"]["stringValue"].as_str().unwrap().to_owned()
    };
    records.map(id).collect()
}

/// The collector itself, which its Python package brings along.
#[track_caller]
fn agent() -> PathBuf {
    let mut python = Command::new(python::interpreter());
    python.args(["-c", "import os, rotel; print(os.path.dirname(rotel.__file__))"]);
    Path::new(run(&mut python, PATIENCE).ok().trim()).join("rotel-agent")
}

/// Rotel, which says each record's id in its debug log.
fn rotel(dir: &Path, port: u16) -> Process {
    let mut command = Command::new(agent());
    command.args(["start", "--debug-log", "logs", "--debug-log-verbosity", "detailed", "--exporter", "blackhole"]);
    command
        .arg("--otlp-http-endpoint")
        .arg(format!("127.0.0.1:{port}"))
        .arg("--otlp-grpc-endpoint")
        .arg(format!("127.0.0.1:{}", port::free()));
    command.arg("--pid-file").arg(dir.join("pid")).arg("--log-file").arg(dir.join("log")).current_dir(dir);
    Process::start(&mut command)
}

/// How many of the daemon's records it has.
fn taken(rotel: &Process, daemon: &Daemon) -> usize {
    let text = rotel.lines.text();
    daemon.admin.records("").iter().filter(|record| text.contains(record["id"].as_str().unwrap())).count()
}

fn is_down(daemon: &Daemon) -> Option<()> {
    daemon.admin.get("/metrics").text().contains("mailsluice_fleet_up{sink=\"otlp\"} 0").then_some(())
}

fn is_level(daemon: &Daemon) -> Option<()> {
    daemon.admin.get("/metrics").text().contains("mailsluice_fleet_behind_records 0").then_some(())
}

/// Over a restart of its own.
#[test]
fn rotel_takes_records_over_its_own_restart() {
    let (port, dir, endpoint) = (port::free(), tempfile::tempdir().unwrap(), Endpoint::ok());
    let daemon = Daemon::start(Config::to(&endpoint).set("fleet.otlp", format!("http://127.0.0.1:{port}")));
    let first = rotel(dir.path(), port);
    send(&daemon, 20);
    eventually_within(CATCH_UP, "rotel to have all records", || (taken(&first, &daemon) == 20).then_some(()));
    drop(first);
    send(&daemon, 20);
    eventually_within(CATCH_UP, "the daemon to see it", || is_down(&daemon));
    let second = rotel(dir.path(), port);
    eventually_within(CATCH_UP, "what came meanwhile", || (taken(&second, &daemon) >= 20).then_some(()));
    eventually_within(CATCH_UP, "all to be brought", || is_level(&daemon));
}

/// Behind nginx, which says 503 and when to come again while there is no rotel.
#[test]
fn rotel_behind_nginx() {
    let (port, behind) = (port::free(), port::free());
    let (dir, endpoint) = (tempfile::tempdir().unwrap(), Endpoint::ok());
    let path = dir.path().display();
    let text = format!(
        "daemon off; master_process off; pid {path}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
         log_format shown '$status $sent_http_retry_after'; access_log {path}/access.log shown;\n\
         client_body_temp_path {path}; proxy_temp_path {path}; fastcgi_temp_path {path}; uwsgi_temp_path {path}; scgi_temp_path {path};\n\
         server {{\n\
         listen 127.0.0.1:{port};\n\
         location / {{ proxy_pass http://127.0.0.1:{behind}; error_page 502 504 =503 @later; }}\n\
         location @later {{ internal; add_header Retry-After 1 always; return 503; }}\n\
         }} }}\n"
    );
    std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
    let nginx = super::program("nginx");
    let _nginx = Process::start(Command::new(nginx).arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf")));
    eventually_within(CATCH_UP, "nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let daemon = Daemon::start(Config::to(&endpoint).set("fleet.otlp", format!("http://127.0.0.1:{port}")));
    send(&daemon, 20);
    eventually_within(CATCH_UP, "the daemon to see it", || is_down(&daemon));
    let asked = || std::fs::read_to_string(dir.path().join("access.log")).unwrap_or_default();
    eventually_within(CATCH_UP, "another attempt", || (asked().lines().filter(|line| *line == "503 1").count() >= 2).then_some(()));
    assert!(daemon.admin.get("/notices").text().contains("it answered 503"), "{}", daemon.admin.get("/notices").text());
    let rotel = rotel(dir.path(), behind);
    eventually_within(CATCH_UP, "all records at rotel", || (taken(&rotel, &daemon) == 20).then_some(()));
    eventually_within(CATCH_UP, "all to be brought", || is_level(&daemon));
    assert!(daemon.log().contains("the collector is back"));
}

/// Later, a part refused, all refused: each with what the protocol says of it.
#[test]
fn what_a_collector_may_answer() {
    let turn = Arc::new(AtomicU64::new(0));
    let taken = Arc::new(std::sync::Mutex::new(Vec::<Value>::new()));
    let collector = {
        let (turn, taken) = (Arc::clone(&turn), Arc::clone(&taken));
        Endpoint::with(move |request| {
            assert_eq!(
                (request.target.as_str(), request.field("content-type"), request.field("x-tenant")),
                ("/otel/v1/logs", "application/json", "t")
            );
            let body = request.json();
            match turn.fetch_add(1, Ordering::Relaxed) {
                0 => Answer::status(503).field("Retry-After", "1"),
                1 => Answer::Octets(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
                // Too much at once, until there are few.
                _ if ids(std::slice::from_ref(&body)).len() > 8 => Answer::status(413),
                3.. if turn.load(Ordering::Relaxed) % 5 == 0 => Answer::status(429).field("Retry-After", "0"),
                _ => {
                    taken.lock().unwrap().push(body);
                    Answer::Respond {
                        status: 200,
                        fields: vec![("Content-Type".into(), "application/json".into())],
                        body: b"{\"partialSuccess\":{}}".to_vec(),
                    }
                }
            }
        })
        .start()
    };
    let endpoint = Endpoint::ok();
    let config =
        Config::to(&endpoint).set("fleet.otlp", collector.url("/otel/")).set("fleet.otlp_headers.X-Tenant", "t").set("fleet.box", "mx1");
    let daemon = Daemon::start(config.clone());
    send(&daemon, 40);
    let expected = || daemon.admin.records("").iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
    eventually_within(CATCH_UP, "all records at the collector", || {
        (ids(&taken.lock().unwrap()).into_iter().collect::<BTreeSet<_>>() == expected()).then_some(())
    });
    assert_eq!(ids(&taken.lock().unwrap()).len(), 40, "none twice");
    let one = taken.lock().unwrap()[0].clone();
    let resource = one["resourceLogs"][0]["resource"]["attributes"].to_string();
    assert!(resource.contains("\"mailsluice\"") && resource.contains("\"mx1\""), "{resource}");
    assert!(daemon.log().contains("the collector cannot be used") && daemon.log().contains("the collector is back"));
    // A part that is refused is lost and counted, not brought again.
    let refusing = Endpoint::always(Answer::Respond {
        status: 200,
        fields: vec![("Content-Type".into(), "application/json".into())],
        body: br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}"#.to_vec(),
    });
    let mut daemon = daemon;
    daemon.reload(config.set("fleet.otlp", refusing.url("/otel/")));
    eventually_within(CATCH_UP, "the new collector", || daemon.log().contains("configuration reloaded").then_some(()));
    send(&daemon, 1);
    let lost = || daemon.admin.get("/metrics").text().contains("mailsluice_fleet_lost_total 2").then_some(());
    eventually_within(CATCH_UP, "the count", lost);
}

/// `Retry-After` may name a moment, by the collector's own clock: so long it is left alone.
#[test]
fn a_collector_that_names_a_moment() {
    const PAUSE: i64 = 4;
    let asked = Arc::new(std::sync::Mutex::new(Vec::<Instant>::new()));
    let collector = {
        let asked = Arc::clone(&asked);
        Endpoint::with(move |_| {
            let mut asked = asked.lock().unwrap();
            asked.push(Instant::now());
            if asked.len() > 1 {
                return Answer::status(200);
            }
            let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
            let date = |seconds| (hour_ago + jiff::SignedDuration::from_secs(seconds)).strftime("%a, %d %b %Y %T GMT").to_string();
            Answer::status(503).field("Date", &date(0)).field("Retry-After", &date(PAUSE))
        })
        .start()
    };
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("fleet.otlp", collector.url("/")));
    send(&daemon, 1);
    let times = eventually_within(CATCH_UP, "another attempt", || Some(asked.lock().unwrap().clone()).filter(|times| times.len() > 1));
    let paused = times[1] - times[0];
    // The first back-off is half a second.
    assert!(paused > Duration::from_secs(3), "{paused:?}");
}
