//! Promise 1: a `250` to the end of data means that the endpoint has the message.

use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Gate, messages, turn};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whatever the endpoint does that is no 2xx, the reply is none either, and the record says so.
#[test]
fn no_250_for_any_failure_of_the_endpoint() {
    let table: Vec<(&str, Answer)> = vec![
        ("hangs", Answer::Hang),
        ("closes without an answer", Answer::Octets(Vec::new())),
        ("resets without an answer", Answer::Reset(Vec::new())),
        ("half a status line", Answer::Octets(b"HTTP/1.1 2".to_vec())),
        ("a status line without its end", Answer::Octets(b"HTTP/1.1 200 OK".to_vec())),
        ("half a header", Answer::Octets(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec())),
        ("a reset in the header", Answer::Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".to_vec())),
        ("garbage", Answer::Octets(b"\x16\x03\x01 what is this\r\n\r\n".to_vec())),
        ("SMTP", Answer::Octets(b"220 mx.test ESMTP\r\n250 Ok\r\n".to_vec())),
        ("HTTP/0.9", Answer::Octets(b"<html>ok</html>".to_vec())),
        ("no number", Answer::Octets(b"HTTP/1.1 2OO OK\r\n\r\n".to_vec())),
        ("status 20", Answer::Octets(b"HTTP/1.1 20 OK\r\n\r\n".to_vec())),
        ("status 2000", Answer::Octets(b"HTTP/1.1 2000 OK\r\n\r\n".to_vec())),
        ("only an interim answer", Answer::Octets(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())),
        ("server error", Answer::status(500)),
        ("refusal", Answer::status(403)),
        ("redirect to nowhere", Answer::redirect(302, "http://127.0.0.1:1/")),
    ];
    for (what, answer) in table {
        let endpoint = Endpoint::always(answer);
        let daemon = Daemon::start(Config::to(&endpoint).of_route("timeout", "2s"));
        let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", what));
        assert!(matches!(reply.code, 450 | 554), "{what}: {reply:?}");
        let records = daemon.admin.records("");
        assert_eq!(records.len(), 1, "{what}");
        assert_ne!(records[0]["outcome"], "delivered", "{what}");
        assert_eq!(records[0]["reply"], reply.text(), "{what}");
        assert_eq!(daemon.admin.stat("messages.delivered"), 0, "{what}");
    }
}

#[test]
fn no_250_before_the_answer() {
    let gate = Gate::default();
    let endpoint = Endpoint::always(Answer::Behind(gate.clone(), Box::new(Answer::status(200))));
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    client.send(crate::support::client::stuffed(&messages::simple("x", "text")));
    endpoint.wait_for(1);
    client.tcp().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = client.try_reply();
    assert!(early.is_err(), "a reply before the endpoint's: {early:?}");
    gate.open();
    client.tcp().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.reply().starts("250 2.0.0 Ok: ");
}

/// A daemon killed at any moment: what got its `250` is at the endpoint, whole, and in the store.
#[test]
fn kill_9_under_load_loses_nothing_that_got_250() {
    let _turn = turn::alone();
    let endpoint = Endpoint::ok();
    let config = Config::to(&endpoint);
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let mut accepted = BTreeSet::new();
    for round in 0..20_usize {
        let daemon = Daemon::start_in(std::sync::Arc::clone(&dir), config.clone());
        let before = endpoint.count();
        let load = Load { senders: 16, ..Load::new(daemon.smtp(), u64::MAX) };
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            let running = scope.spawn(|| load::run(&load, &stop));
            // In the thick of it, at another point each time.
            endpoint.wait_for(before + 30 + round * 7);
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            running.join().unwrap()
        });
        assert_eq!(outcome.replies.values().filter(|code| !matches!(code, Some(250) | None)).count(), 0, "{:?}", outcome.replies);
        accepted.extend(outcome.accepted());
    }
    assert!(accepted.len() > 500, "{} messages", accepted.len());
    let arrived: BTreeSet<u64> = endpoint.requests().iter().map(|request| load::id_of(request)).collect();
    let lost: Vec<_> = accepted.difference(&arrived).collect();
    assert!(lost.is_empty(), "answered 250, not at the endpoint: {lost:?}");
    let daemon = Daemon::start_in(dir, config);
    let recorded: BTreeSet<u64> = daemon
        .admin
        .records("outcome=delivered")
        .iter()
        .map(|record| record["subject"].as_str().unwrap().trim_start_matches("load-").parse().unwrap())
        .collect();
    let lost: Vec<_> = accepted.difference(&recorded).collect();
    assert!(lost.is_empty(), "answered 250, no record: {lost:?}");
    assert!(daemon.stop().code == Some(0));
}
