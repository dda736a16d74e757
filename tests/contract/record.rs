//! The record: each field, from where the contract says.

use crate::support::client::{deliver, stuffed};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, messages};
use serde_json::json;

#[test]
fn every_field() {
    let endpoint = Endpoint::always(Answer::text(202, "queued as 17"));
    let daemon = Daemon::start(Config::to(&endpoint));
    let message = b"From: a@sender.test\r\nMessage-Id:\r\n <abc\r\n\t@sender.test>\r\nSUBJECT: =?utf-8?Q?Gr=C3?= =?utf-8?Q?=BC=C3=9Fe?=\r\n from here\r\n\r\ntext\r\n";
    let reply = deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test", "carol@example.test"], message);
    let id = reply.text().strip_prefix("250 2.0.0 Ok: ").unwrap();
    let record = daemon.admin.json(&format!("/records/{id}"));
    assert_eq!(record["id"], id);
    assert_eq!(record["sender_ip"], "127.0.0.1");
    assert_eq!(record["sender"], "alice@sender.test");
    assert_eq!(record["recipients"], json!(["bob@example.test", "carol@example.test"]));
    assert_eq!(record["subject"], "Grüße from here");
    assert_eq!(record["message_id"].as_str().unwrap().replace([' ', '\t'], ""), "<abc@sender.test>");
    assert_eq!(record["server_response"]["status"], 202);
    assert_eq!(record["server_response"]["body"], "queued as 17");
    assert_eq!(record["server_response"]["content_type"], "text/plain; charset=utf-8");
    assert_eq!(record["outcome"], "delivered");
    assert_eq!(record["reply"], reply.text());
    assert_eq!(record["size"], message.len());
    assert_eq!(record["tls"], json!(null));
    assert_eq!(record["route"], "all");
    assert_eq!(record["webhook_id"], endpoint.only().field("webhook-id"));
    let date = record["date"].as_str().unwrap();
    assert!(date.ends_with('Z') && date.parse::<jiff::Timestamp>().is_ok(), "{date}");
    assert_eq!(date.len(), "2026-11-24T12:00:00.000000Z".len(), "microseconds: {date}");
    let number = |key: &str| record[key].as_u64().unwrap_or_else(|| panic!("{key}: {record}"));
    assert!(number("processing_time_us") >= number("queue_us").max(number("forward_us")), "{record}");
    assert!(number("forward_us") > 0, "{record}");
    let _ = number("store_us");
}

#[test]
fn absent_headers_are_null_and_the_null_path_is_empty() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "", &["bob@example.test"], b"X: y\r\n\r\nSubject: not a header\r\n").starts("250 ");
    let record = daemon.admin.records("").remove(0);
    assert_eq!((&record["subject"], &record["message_id"], &record["sender"]), (&json!(null), &json!(null), &json!("")));
}

#[test]
fn a_message_refused_for_its_size_while_sending_has_a_record() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_message_size", "64KiB"));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::of_size("big", 70_000)).starts("552 5.3.4 ");
    let record = daemon.admin.records("").remove(0);
    assert_eq!((&record["outcome"], &record["server_response"]["status"]), (&json!("rejected"), &json!(0)));
    assert!(record["reply"].as_str().unwrap().starts_with("552 5.3.4 "));
    assert_eq!(record["subject"], "big");
    assert!(record["message_id"].as_str().is_some_and(|id| id.contains("big")), "{record}");
    // The sender's next attempt is the same message, however its octets were cut.
    let mut client = Client::connect(daemon.smtp());
    client.envelope("a@sender.test", &["b@example.test"]);
    client.expect("DATA", "354 ");
    for part in stuffed(&messages::of_size("big", 70_000)).chunks(30_000) {
        client.send(part);
    }
    client.reply().starts("552 5.3.4 ");
    assert_eq!(daemon.admin.records("").remove(0)["webhook_id"], record["webhook_id"]);
    assert_eq!(daemon.admin.stat("messages.refused.size"), 2);
}

#[test]
fn filters_and_pages() {
    let endpoint =
        Endpoint::with(|request| if request.body.starts_with(b"X-Fail") { Answer::status(500) } else { Answer::status(200) }).start();
    let daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..30 {
        let to = format!("r{}@example.test", n % 3);
        deliver(daemon.smtp(), &format!("s{}@sender.test", n % 5), &[&to], &messages::simple(&format!("m{n}"), "text")).starts("250 ");
    }
    deliver(daemon.smtp(), "s0@sender.test", &["r0@example.test"], b"X-Fail: 1\r\nMessage-ID: <f@x>\r\n\r\n").starts("450 ");
    let count = |filter: &str| daemon.admin.records(filter).len();
    assert_eq!(count(""), 31);
    assert_eq!(count("sender=S1@sender.test"), 6);
    assert_eq!(count("recipient=r2@Example.test"), 10);
    assert_eq!(count("sender=s1@sender.test&recipient=r1@example.test"), 2);
    assert_eq!(count("message_id=%3Cm7@sender.test%3E"), 1);
    assert_eq!(count("outcome=deferred"), 1);
    assert_eq!(count("undelivered=true"), 1);
    assert_eq!(count("since=1h"), 31);
    assert_eq!(count("until=2001-01-01T00:00:00Z"), 0);
    // Page by page, newest first, none twice.
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = daemon.admin.json(&format!("/records?limit=7{cursor}"));
        let records = page["records"].as_array().unwrap();
        assert!(records.len() <= 7);
        ids.extend(records.iter().map(|record| record["id"].as_str().unwrap().to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 31);
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
}

#[test]
fn undelivered_until_an_attempt_succeeds() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(503), Answer::status(503), Answer::status(200)]);
    let daemon = Daemon::start(Config::to(&endpoint));
    let message = messages::simple("again", "text");
    for undelivered in [1, 1, 0] {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message);
        assert_eq!(daemon.admin.stat("messages.undelivered"), undelivered);
        assert_eq!(daemon.admin.records("undelivered=true").is_empty(), undelivered == 0);
    }
    let ids: std::collections::BTreeSet<String> =
        endpoint.requests().iter().map(|request| request.field("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 1, "the same for every attempt");
}

#[test]
fn the_webhook_id_tells_messages_apart() {
    let endpoint = Endpoint::ok();
    let secret = "0123456789abcdef0123456789abcdef";
    let (first, second) = (
        Daemon::start(Config::to(&endpoint).set("forward.id_secret", secret)),
        Daemon::start(Config::to(&endpoint).set("forward.id_secret", secret)),
    );
    let stranger = Daemon::start(Config::to(&endpoint));
    let id = |daemon: &Daemon, from: &str, to: &[&str], text: &str| {
        deliver(daemon.smtp(), from, to, &messages::simple("x", text)).starts("250 ");
        endpoint.requests().last().unwrap().field("webhook-id").to_owned()
    };
    let base = id(&first, "a@sender.test", &["b@example.test", "c@example.test"], "text");
    assert_eq!(base, id(&second, "a@sender.test", &["c@example.test", "b@example.test"], "text"), "another box, another order");
    for other in [
        id(&first, "A@sender.test", &["b@example.test", "c@example.test"], "text"),
        id(&first, "a@sender.test", &["b@example.test"], "text"),
        id(&first, "a@sender.test", &["b@example.test", "c@example.test"], "texT"),
        id(&stranger, "a@sender.test", &["b@example.test", "c@example.test"], "text"),
    ] {
        assert_ne!(base, other);
    }
    // By chunks or by lines, the same octets.
    let mut client = Client::connect(first.smtp());
    client.envelope("a@sender.test", &["b@example.test", "c@example.test"]);
    client.bdat(&messages::simple("x", "text"), true).starts("250 ");
    assert_eq!(base, endpoint.requests().last().unwrap().field("webhook-id"));
    // Without a secret in the configuration it survives a restart.
    let own = id(&stranger, "a@sender.test", &["b@example.test"], "kept");
    let stranger = stranger.kill().restart();
    assert_eq!(own, id(&stranger, "a@sender.test", &["b@example.test"], "kept"));
}

#[test]
fn redacted_fields_are_nowhere() {
    let endpoint = Endpoint::always(Answer::text(200, "responsemarkerxyzzy"));
    let daemon = Daemon::start(Config::to(&endpoint).set("store.redact", vec!["subject", "sender_ip", "response_body"]));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], b"Subject: subjectmarkerxyzzy\r\n\r\ntext\r\n").starts("250 ");
    let record = daemon.admin.records("").remove(0);
    assert!(!record.to_string().contains("127.0.0.1"), "{record}");
    let dir = daemon.shared_dir();
    let stopped = daemon.stop();
    for marker in ["responsemarkerxyzzy", "subjectmarkerxyzzy"] {
        assert!(!record.to_string().contains(marker) && !stopped.log.contains(marker), "{marker}");
        assert!(crate::promises::files_with(dir.path(), marker).is_empty(), "{marker}");
    }
    assert_eq!(record["subject"], json!(null));
}

#[test]
fn forget_leaves_no_trace_of_an_address() {
    let endpoint = Endpoint::with(|request| {
        let to = if request.body.windows(6).any(|w| w == b"forget") { "Erased.Person@example.test is unknown" } else { "fine" };
        Answer::text(200, to)
    })
    .start();
    let daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..40 {
        let (from, to) = if n % 4 == 0 {
            ("erased.person@example.test", "keep@example.test")
        } else {
            ("kept@sender.test", "ERASED.Person@Example.TEST")
        };
        let to = if n % 4 == 1 { "keep@example.test" } else { to };
        let text = if n % 4 == 2 { "forget" } else { "text" };
        deliver(daemon.smtp(), from, &[to], &messages::simple(&format!("n{n}"), text)).starts("250 ");
    }
    let lines = daemon.cli(&["export", "--address", "Erased.Person@example.test"]).ok();
    assert_eq!(lines.lines().count(), 30);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    let answer = daemon.admin.post("/forget", "application/json", r#"{"address": "erased.person@example.test"}"#);
    assert_eq!((answer.status, answer.json()), (200, json!({"records": 30})));
    assert_eq!(crate::promises::files_with(&daemon.dir().join("."), "erased.person"), Vec::<String>::new());
    assert_eq!(daemon.admin.records("recipient=erased.person@example.test").len(), 0);
    assert_eq!(daemon.admin.records("").len(), 40, "the records stay, without the address");
    assert_eq!(daemon.cli(&["export", "--address", "erased.person@example.test"]).ok(), "");
    // Mail goes on, and a restart finds nothing either.
    deliver(daemon.smtp(), "a@sender.test", &["keep@example.test"], &messages::simple("after", "text")).starts("250 ");
    let daemon = daemon.kill().restart();
    assert_eq!(daemon.admin.records("").len(), 41);
    assert_eq!(crate::promises::files_with(daemon.dir(), "erased.person"), Vec::<String>::new());
}
