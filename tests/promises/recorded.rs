//! Promise 3: every `250` has a record, durable before the reply is written.

use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Config, Daemon, Endpoint, messages, turn};
use std::sync::atomic::AtomicBool;

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
