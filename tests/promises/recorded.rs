//! Promise 3: every `250` has a record, durable before the reply is written.

use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Config, Daemon, Endpoint, messages, turn};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn the_record_is_there_with_the_reply_and_after_a_kill() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint));
    let mut ids = Vec::new();
    for round in 0..5 {
        let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("r{round}"), "text"));
        let id = reply.text().strip_prefix("250 2.0.0 Ok: ").unwrap().to_owned();
        assert_eq!(id.len(), 26, "{id}");
        ids.push(id);
        daemon = daemon.kill().restart();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(daemon.admin.json(&format!("/records/{id}"))["subject"], format!("r{n}"));
        }
    }
    assert!(ids.is_sorted(), "ids rise over restarts: {ids:?}");
}

/// 20 times, and 200 with `MAILSLUICE_TEST_FULL`.
#[test]
fn kill_9_again_and_again_under_load() {
    let endpoint = Endpoint::ok();
    let times = if std::env::var_os("MAILSLUICE_TEST_FULL").is_some() { 200 } else { 20 };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // Small journals: files are made and merged all the while.
    let config = Config::to(&endpoint).set("store.max_size", "64MiB");
    let mut accepted = BTreeSet::new();
    for round in 0..times {
        let daemon = Daemon::start_in(Arc::clone(&dir), config.clone());
        let load = Load { persistent: true, ..Load::new(daemon.smtp(), u64::MAX) };
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            let running = scope.spawn(|| load::run(&load, &stop));
            let seen = endpoint.count();
            endpoint.wait_for(seen + 20 + round * 37 % 180);
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            running.join().unwrap()
        });
        accepted.extend(outcome.accepted());
    }
    let daemon = Daemon::start_in(dir, config);
    let found = load::recorded(&daemon);
    println!("{times} kills: {} acknowledged, {} found", accepted.len(), found.len());
    let lost: Vec<_> = accepted.difference(&found).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(daemon.admin.stat("store.records"), daemon.admin.records("").len() as u64);
}

#[test]
fn as_many_records_as_messages() {
    let _turn = turn::alone();
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let outcome = load::run(&Load::new(daemon.smtp(), 500), &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 500);
    assert_eq!(daemon.admin.records("outcome=delivered").len(), 500);
    assert_eq!(daemon.admin.stat("store.records"), 500);
    assert_eq!(daemon.admin.stat("messages.delivered"), 500);
    assert_eq!(daemon.admin.stat("latency.total.total.count"), 500);
    // Group commit: fewer syncs than records.
    assert!(daemon.admin.stat("store.commits") < 500);
}
