//! The fleet against a real PostgreSQL: what each box recorded is there once, whatever fails in between; and what is asked of all boxes.

mod erasing;
mod failures;
mod figures;
mod machines;
mod server;
mod undelivered;
mod versions;

use super::prometheus::{Prometheus, alerts, dashboard};
use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Answer, Config, Daemon, Endpoint, Gate, eventually, eventually_within};
use serde_json::Value;
use server::Server;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Caught up with, beside whatever else runs on this machine.
const CATCH_UP: Duration = Duration::from_secs(90);

/// More of everything, for those who wait.
fn is_full() -> bool {
    std::env::var_os("MAILSLUICE_TEST_FULL").is_some()
}

/// All records of a box, by their ids.
fn records_of(daemon: &Daemon) -> BTreeMap<String, Value> {
    daemon.admin.records("").into_iter().map(|record| (record["id"].as_str().unwrap().to_owned(), record)).collect()
}

/// All records of all boxes, as this one answers.
fn records_of_all(daemon: &Daemon) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = daemon.admin.get(&format!("/records?fleet=true&limit=1000{cursor}")).json();
        for record in page["records"].as_array().unwrap() {
            let twice = found.insert(record["id"].as_str().unwrap().to_owned(), record.clone());
            assert!(twice.is_none(), "twice: {record}");
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// Waits until the database has what the boxes have, and compares every field.
#[track_caller]
fn all_arrived(boxes: &[(&str, &Daemon)]) {
    let mut expected = BTreeMap::new();
    for (name, daemon) in boxes {
        for (id, mut record) in records_of(daemon) {
            record.as_object_mut().unwrap().insert("box".to_owned(), Value::from(*name));
            expected.insert(id, record);
        }
    }
    let (_, first) = boxes[0];
    let mut seen = 0;
    eventually_within(CATCH_UP, "all records in the database", || {
        let page = first.admin.try_get("/fleet").ok()?;
        let boxes = page.json()["boxes"].as_array().cloned().unwrap_or_default();
        seen = boxes.iter().map(|one| one["behind_records"].as_u64().unwrap_or(1)).sum();
        (page.status == 200 && seen == 0 && records_of_all(first).len() >= expected.len()).then_some(())
    });
    let found = records_of_all(first);
    assert_eq!(found.len(), expected.len(), "none lost, none twice");
    for (id, record) in &expected {
        assert_eq!(found.get(id), Some(record), "{id}");
    }
    eprintln!("{} records of {} boxes: none lost, none twice, each field as the box has it", found.len(), boxes.len());
}

/// Two boxes and their database.
pub(super) struct Pair {
    pub(super) first: Daemon,
    pub(super) second: Daemon,
    _server: Server,
}

pub(super) fn two_boxes(endpoint: &Endpoint) -> Pair {
    let server = Server::start();
    let database = server.fleet("two");
    let start = |name| Daemon::start(server.boxed(Config::to(endpoint), &database, name));
    Pair { first: start("mx1"), second: start("mx2"), _server: server }
}

impl Pair {
    pub(super) fn all_arrived(&self) {
        all_arrived(&[("mx1", &self.first), ("mx2", &self.second)]);
    }
}

/// A box, what it needs, and its database of a name.
fn one_box(name: &str) -> (Server, String, Endpoint, Daemon) {
    let server = Server::start();
    let database = server.fleet(name);
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    (server, database, endpoint, daemon)
}

fn send(daemon: &Daemon, messages: u64) {
    let outcome = load::run(&Load { senders: 4, ..Load::new(daemon.smtp(), messages) }, &AtomicBool::new(false));
    assert_eq!(outcome.replies.len() as u64, messages);
}

fn undelivered_of_all(daemon: &Daemon) -> Vec<Value> {
    daemon.admin.get("/undelivered?fleet=true").json()["undelivered"].as_array().unwrap().clone()
}

#[test]
fn three_boxes_and_every_field_of_every_record() {
    let server = Server::start();
    let database = server.fleet("three");
    let each = if is_full() { 10_000 } else { 150 };
    // No breaker: each message has a record. Answers of all kinds, one of them with a letter that PostgreSQL has no text for.
    let endpoint = Endpoint::with(|request| match load::id_of(request) % 5 {
        0 => Answer::text(422, "no such ticket: \u{1f99d}\n\"quoted\" \\u0041 \t"),
        1 => Answer::text(503, "later").field("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
        _ => Answer::status(200),
    })
    .start();
    let names = ["mx1", "mx2", "mx3"];
    let boxes: Vec<_> = names
        .map(|name| {
            Daemon::start(server.boxed(
                Config::to(&endpoint).set("forward.breaker.failures", 0).of_route("adaptive", false),
                &database,
                name,
            ))
        })
        .into();
    std::thread::scope(|scope| boxes.iter().for_each(|daemon| drop(scope.spawn(move || send(daemon, each)))));
    let named: Vec<_> = names.into_iter().zip(&boxes).collect();
    all_arrived(&named);
    let one = records_of(&boxes[2]).into_values().next().unwrap();
    let found = boxes[0].admin.get(&format!("/records/{}?fleet=1", one["id"].as_str().unwrap())).json();
    assert_eq!((found["reply"].clone(), found["box"].as_str()), (one["reply"].clone(), Some("mx3")));

    let fleet = boxes[1].cli(&["fleet"]).ok();
    assert!(names.iter().all(|name| fleet.contains(name)), "{fleet}");
    let listed = boxes[1].cli(&["records", "--fleet", "--json", "--limit", "0", "--outcome", "rejected"]).ok();
    assert!(
        listed.lines().count() > 0 && listed.lines().all(|line| line.contains("\"outcome\":\"rejected\"") && line.contains("\"box\":\"mx"))
    );
    let recipient = boxes[1].cli(&["records", "--fleet", "--json", "--limit", "5", "--recipient", "BOB@example.test"]).ok();
    assert_eq!(recipient.lines().count(), 5, "{recipient}");
    for filters in [
        &["--sender", "load@sender.test"][..],
        &["--text", "no such TICKET", "--limit", "0"],
        &["--status", "503"],
        &["--route", "all", "--since", "1h"],
    ] {
        let words = [&["records", "--fleet", "--json"], filters].concat();
        assert!(boxes[0].cli(&words).ok().lines().count() > 0, "{filters:?}");
    }
    let report = boxes[1].cli(&["report", "--fleet"]).ok();
    assert!(report.contains("the endpoint answered 422: no such ticket"), "{report}");
    let exported = boxes[1].cli(&["export", "--fleet", "--address", "bob@example.test"]).ok();
    // What a lane puts off before it asks has no record.
    let all: usize = boxes.iter().map(|daemon| records_of(daemon).len()).sum();
    assert!(all > 100 && exported.lines().count() == all, "{all}");
    let open: usize = undelivered_of_all(&boxes[0]).len().min(100);
    assert!(open > 10 && boxes[0].cli(&["records", "--fleet", "--undelivered", "--json"]).ok().lines().count() >= open.min(50));
    let metrics = boxes[0].admin.get("/metrics").text();
    for line in ["mailsluice_fleet_behind_records 0", "mailsluice_fleet_lost_total 0", "mailsluice_fleet_up{sink=\"postgres\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

/// A record's id is drawn before its endpoint is asked: it must not be passed over by those that came later.
#[test]
fn a_slow_message_among_quick_ones_is_brought() {
    let server = Server::start();
    let database = server.fleet("slow");
    let gate = Gate::default();
    let endpoint = {
        let gate = gate.clone();
        Endpoint::with(move |request| match String::from_utf8_lossy(&request.body).contains("the slow one") {
            true => Answer::Behind(gate.clone(), Box::new(Answer::status(200))),
            false => Answer::status(200),
        })
        .start()
    };
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    let reply = std::thread::scope(|scope| {
        let message = b"Subject: the slow one\r\n\r\nslow\r\n";
        let slow = scope.spawn(|| deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], message));
        eventually("the slow message at its endpoint", || (endpoint.count() == 1).then_some(()));
        send(&daemon, 50);
        eventually_within(CATCH_UP, "the quick ones", || {
            (server.number(&database, "SELECT count(*) FROM mailsluice.records") == 50).then_some(())
        });
        gate.open();
        slow.join().unwrap()
    });
    assert_eq!(reply.code, 250);
    all_arrived(&[("mx1", &daemon)]);
    assert_eq!(records_of_all(&daemon).len(), 51);
}

#[test]
fn delivered_by_any_box_is_delivered() {
    let server = Server::start();
    let database = server.fleet("either");
    let (busy, well) = (Endpoint::with(|_| Answer::status(503)).start(), Endpoint::ok());
    let putting_off = Daemon::start(server.boxed(Config::to(&busy), &database, "mx1"));
    let taking = Daemon::start(server.boxed(Config::to(&well), &database, "mx2"));
    let message = |n: u32| format!("Subject: message {n}\r\n\r\nthe same octets\r\n").into_bytes();
    let deliver = |to: &Daemon, n| deliver(to.smtp(), "a@sender.test", &["b@example.test"], &message(n)).code;
    // Put off first, and delivered by the other later; and the other way round.
    assert_eq!(deliver(&putting_off, 1), 450);
    eventually_within(CATCH_UP, "one undelivered", || (undelivered_of_all(&taking).len() == 1).then_some(()));
    let one = &undelivered_of_all(&taking)[0];
    assert_eq!((one["attempts"].as_u64(), one["record"]["box"].as_str()), (Some(1), Some("mx1")));
    assert_eq!((deliver(&taking, 2), deliver(&putting_off, 2)), (250, 450));
    assert_eq!(deliver(&taking, 1), 250);
    eventually_within(CATCH_UP, "none undelivered", || {
        (server.number(&database, "SELECT count(*) FROM mailsluice.records") == 4 && undelivered_of_all(&putting_off).is_empty())
            .then_some(())
    });
    assert_eq!(server.number(&database, "SELECT count(*) FROM mailsluice.undelivered"), 0);
    // Alone the first box knows nothing of that.
    assert_eq!(putting_off.admin.get("/undelivered").json()["undelivered"].as_array().unwrap().len(), 2);
    eventually_within(CATCH_UP, "the gauge", || {
        taking.admin.get("/metrics").text().contains("mailsluice_fleet_messages_undelivered 0").then_some(())
    });
}

/// Every answer is of all boxes that ever brought something, and says how far each is behind.
#[test]
fn a_dead_box_is_said_and_struck_out() {
    let (server, database, endpoint, alive) = one_box("dead");
    let dead = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx2"));
    send(&dead, 10);
    all_arrived(&[("mx1", &alive), ("mx2", &dead)]);
    drop(dead);
    server.sql(&database, "UPDATE mailsluice.boxes SET last_seen = now() - interval '61 min' WHERE name = 'mx2'");
    let late = alive.cli(&["fleet"]);
    assert_eq!(late.code, Some(69), "{}{}", late.out, late.err);
    assert!(late.err.contains("mx2") && !late.err.contains("mx1"), "{}", late.err);
    let asked = alive.cli(&["records", "--fleet", "--json"]);
    assert!(asked.code == Some(0) && asked.out.lines().count() == 10 && asked.err.contains("mx2 is 61 min behind"), "{}", asked.err);
    alive.cli(&["fleet", "remove", "mx2"]).ok();
    assert!(!alive.cli(&["fleet"]).ok().contains("mx2"));
    assert_eq!(alive.cli(&["fleet", "remove", "mx2"]).code, Some(65));
    // Of two boxes with one name neither is taken for the other.
    let namesake = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    eventually_within(CATCH_UP, "the namesake", || (server.number(&database, "SELECT count(*) FROM mailsluice.boxes") == 2).then_some(()));
    let refused = alive.cli(&["fleet", "remove", "mx1"]);
    assert!(refused.code == Some(65) && refused.err.contains("by its id"), "{}", refused.err);
    drop(namesake);
    let one = server.sql(&database, "SELECT id FROM mailsluice.boxes ORDER BY started DESC LIMIT 1");
    assert!(refused.err.contains(&one), "{}", refused.err);
    alive.cli(&["fleet", "remove", &one]).ok();
    assert_eq!(server.number(&database, "SELECT count(*) FROM mailsluice.boxes"), 1);
}

/// Histograms of several daemons add up to what each of their messages took, by files, by addresses, and by another implementation.
#[test]
fn latency_adds_up_over_boxes() {
    let endpoint = Endpoint::ok();
    let boxes = [Daemon::start(Config::to(&endpoint)), Daemon::start(Config::to(&endpoint))];
    boxes.iter().for_each(|daemon| send(daemon, 30));
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = ["one-forward.hdr", "other-forward.hdr"].iter().map(|name| dir.path().join(name)).collect();
    for (daemon, file) in boxes.iter().zip(&files) {
        std::fs::write(file, daemon.admin.get("/histograms/forward?window=total&format=hdr").body).unwrap();
    }
    let merged = |places: &[String]| {
        let mut words = vec!["stats", "--json", "--merge"];
        words.extend(places.iter().map(String::as_str));
        let answer: Value = serde_json::from_str(&boxes[0].cli(&words).ok()).unwrap();
        answer["latency"]["forward"]["total"].clone()
    };
    let by_files = merged(&files.iter().map(|file| file.to_str().unwrap().to_owned()).collect::<Vec<_>>());
    assert_eq!(by_files, merged(&boxes.iter().map(Daemon::admin_url).collect::<Vec<_>>()));
    let times: Vec<u64> =
        boxes.iter().flat_map(|daemon| records_of(daemon).into_values().map(|record| record["forward_us"].as_u64().unwrap())).collect();
    let longest = times.iter().copied().max().unwrap();
    assert_eq!(by_files["count"], 60);
    assert!(by_files["max_us"].as_u64().unwrap().abs_diff(longest) <= longest / 500, "{by_files}, {longest}");
    let wrong = boxes[0].cli(&["stats", "--merge", file!()]);
    assert_eq!(wrong.code, Some(65), "{}", wrong.err);
}

/// What is packaged for Prometheus asks a box of a fleet for what it has.
#[test]
fn the_dashboard_and_the_alerts_of_a_fleet() {
    let packaging = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let server = Server::start();
    let database = server.fleet("watched");
    let endpoint = Endpoint::with(|request| Answer::status(if load::id_of(request).is_multiple_of(5) { 422 } else { 200 })).start();
    let daemon = Daemon::start(server.boxed(Config::to(&endpoint), &database, "mx1"));
    let prometheus = Prometheus::scraping(&daemon);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| load::run(&Load { senders: 2, persistent: true, ..Load::new(daemon.smtp(), u64::MAX) }, &stop));
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            dashboard(&packaging.join("grafana/mailsluice-fleet.json"), &prometheus);
            alerts(&packaging.join("prometheus/mailsluice-fleet.rules.yml"), &prometheus);
        }));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    });
}

/// Each whole minute's histograms are in the database, of all boxes.
#[test]
fn minutes_are_brought() {
    // A minute ends when it ends.
    if !is_full() {
        return;
    }
    let (server, database, _endpoint, daemon) = one_box("minutes");
    send(&daemon, 20);
    let stages = || (server.number(&database, "SELECT count(DISTINCT stage) FROM mailsluice.latency") >= 5).then_some(());
    eventually_within(Duration::from_secs(100), "the first minute", stages);
    let answer: Value = serde_json::from_str(&daemon.cli(&["stats", "--fleet", "--since", "5m", "--json"]).ok()).unwrap();
    assert_eq!(answer["latency"]["total"]["total"]["count"], 20, "{answer}");
    assert!(daemon.cli(&["stats", "--fleet"]).ok().contains("forward"));
}

/// Days to come have a partition, days that are not kept have none, and what came before its day had one moves there. `doctor` looks at it all.
#[test]
fn partitions_come_and_go_and_doctor_looks() {
    let server = Server::start();
    let database = server.fleet("days");
    let endpoint = Endpoint::ok();
    let config = server.boxed(Config::to(&endpoint), &database, "mx1");
    let daemon = Daemon::start(config.clone());
    send(&daemon, 3);
    all_arrived(&[("mx1", &daemon)]);
    let day =
        |days: i64| server.sql(&database, &format!("SELECT to_char((now() AT TIME ZONE 'UTC') + {days} * interval '1 day', 'YYYYMMDD')"));
    let (tomorrow, first) = (
        format!("records_{}", day(1)),
        "(extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day') * 1000)::bigint",
    );
    let doctor = || crate::support::daemon::cli(&["doctor", "--config", daemon.config_file().to_str().unwrap()]).out;
    let seen = doctor();
    for line in
        ["fleet: forward.id_secret is the fleet's", &format!("tomorrow's partition mailsluice.{tomorrow} is there"), "addresses erased"]
    {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    assert!(!seen.lines().any(|line| line.contains("fleet: ") && !line.starts_with("ok")), "{seen}");
    server.sql(&database, &format!("DROP TABLE mailsluice.{tomorrow}"));
    // A record of a clock that is a day ahead, and a partition that nobody keeps.
    let copy = format!(
        "INSERT INTO mailsluice.records SELECT (r).* FROM (SELECT jsonb_populate_record(r, jsonb_build_object('id', lpad(to_hex({first} + 5), 12, '0') || repeat('0', 20))) AS r FROM mailsluice.records r LIMIT 1) x"
    );
    server.sql(&database, &copy);
    assert_eq!(server.number(&database, "SELECT count(*) FROM mailsluice.records_other"), 1);
    let old = "CREATE TABLE mailsluice.records_20200101 PARTITION OF mailsluice.records FOR VALUES FROM ('016f5e66-e800-0000-0000-000000000000') TO ('016f638d-4400-0000-0000-000000000000')";
    server.sql(&database, &format!("SET ROLE mailsluice_owner; {old}"));
    let seen = doctor();
    assert!(seen.contains("is missing") && seen.contains("lie in records_other"), "{seen}");
    let dir = daemon.shared_dir();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = Daemon::start_in(dir, config);
    let moved = || (server.try_sql(&database, &format!("SELECT count(*) FROM mailsluice.{tomorrow}")).out.trim() == "1").then_some(());
    eventually_within(CATCH_UP, "tomorrow's partition, with its record", moved);
    eventually_within(CATCH_UP, "no old partition", || {
        (server.sql(&database, "SELECT to_regclass('mailsluice.records_20200101')").is_empty()).then_some(())
    });
    assert_eq!(server.number(&database, "SELECT count(*) FROM mailsluice.records_other"), 0);
    assert_eq!(records_of(&daemon).len(), 3);
}
