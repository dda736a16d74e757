//! Who was refused before a record was made: `/refusals`, its counters, the lines of the log, and what none of them may hold.

use crate::support::certificates::Authority;
use crate::support::client::deliver;
use crate::support::{Answer, Client, Config, Daemon, Endpoint, eventually, messages};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn only_example(endpoint: &Endpoint) -> Config {
    Config::without_routes().route("tickets", &["*@example.test"], &endpoint.url("/in")).of_route("format", "rfc822")
}

fn refusals(daemon: &Daemon) -> Vec<Value> {
    daemon.admin.json("/refusals")["refusals"].as_array().unwrap().clone()
}

/// `mailsluice_refusals_total` by reply.
fn counted(daemon: &Daemon) -> BTreeMap<String, u64> {
    let text = daemon.admin.get("/metrics").text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("mailsluice_refusals_total{reply=\"")?.split_once("\"} "));
    lines.map(|(code, n)| (code.to_owned(), n.parse().unwrap())).collect()
}

/// Lines about mail: others, like the keeper's, come when they come.
fn about_mail(daemon: &Daemon) -> Vec<Value> {
    daemon.events().into_iter().filter(|event| event["target"] == "mailsluice::mail").collect()
}

/// Lines by their message.
fn said(daemon: &Daemon, message: &str) -> Vec<Value> {
    daemon.events().into_iter().filter(|event| event["message"] == message).collect()
}

fn wait_said(daemon: &Daemon, message: &str) -> Value {
    eventually(message, || said(daemon, message).pop())
}

#[test]
fn every_reply_that_refuses_is_counted_and_kept() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(422), Answer::status(503), Answer::status(200)]);
    let daemon = Daemon::start(only_example(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.expect("MAIL FROM:<a@sender.test>", "503 ");
    client.ehlo();
    client.expect("MAIL FROM:<ä@sender.test>", "553 ");
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    client.expect("RCPT TO:<x@elsewhere.test>", "550 5.1.1 ");
    client.expect("RCPT TO:<x@example.test> FOO=bar", "555 ");
    client.expect("DATA", "554 ");
    client.expect("AUTH PLAIN c2VjcmV0c2VjcmV0", "502 ");
    client.expect("NOOP", "250 ");
    client.quit();
    for _ in 0..3 {
        deliver(daemon.smtp(), "a@sender.test", &["x@example.test"], &messages::simple("x", "text"));
    }
    let expected = [("450", 1), ("502", 1), ("503", 1), ("550", 1), ("553", 1), ("554", 2), ("555", 1)];
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(code, n)| (code.to_owned(), n)).collect();
    assert_eq!(counted(&daemon), expected);
    let rows = refusals(&daemon);
    let told: Vec<_> = rows.iter().rev().map(|row| row["reply"].as_str().unwrap().get(..3).unwrap().to_owned()).collect();
    assert_eq!(told, ["503", "553", "550", "555", "554", "502"], "what has a record is not here: {rows:?}");
    let of = |code: &str| rows.iter().find(|row| row["reply"].as_str().unwrap().starts_with(code)).unwrap();
    let row = of("550");
    assert_eq!(row["address"], "127.0.0.1");
    assert_eq!(row["sender"], "a@sender.test");
    assert_eq!(row["recipient"], "x@elsewhere.test");
    assert!(row["greeting"].is_string() && row["time"].is_string(), "{row}");
    assert_eq!(of("553")["sender"], "ä@sender.test");
    assert_eq!(of("555")["recipient"], "x@example.test");
    let text = daemon.cli(&["refusals"]).ok();
    assert!(text.contains("x@elsewhere.test") && text.contains("550 5.1.1") && text.contains("127.0.0.1"), "{text}");
    let lines = daemon.cli(&["refusals", "--json"]).ok();
    assert_eq!(lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).rev().collect::<Vec<_>>(), rows);
    assert!(!format!("{rows:?}{}", daemon.log()).contains("c2VjcmV0"), "a credential");
}

#[test]
fn a_client_over_a_limit_and_one_that_is_cut_off() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(only_example(&endpoint).set("smtp.max_connections_per_ip", 1).set("smtp.max_errors", 2));
    let mut first = Client::connect(daemon.smtp());
    let mut second = Client::connect_silently(daemon.smtp());
    second.reply().starts("421 4.7.0");
    assert_eq!(wait_said(&daemon, "client refused")["reply"], "421 4.7.0 Too many connections, try again later");
    first.expect("XYZZY", "500 ");
    first.expect("XYZZY", "500 ");
    first.reply().starts("421 4.7.0");
    first.closed();
    let line = wait_said(&daemon, "client cut off");
    assert_eq!((&line["sender_ip"], &line["reply"]), (&json!("127.0.0.1"), &json!("421 4.7.0 Too many errors")));
    assert_eq!(counted(&daemon), [("421".to_owned(), 2), ("500".to_owned(), 2)].into());
}

#[test]
fn a_silent_client_is_named() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(only_example(&endpoint).set("smtp.command_timeout", "1s"));
    let mut client = Client::connect(daemon.smtp());
    client.reply().starts("421 4.4.2");
    assert_eq!(wait_said(&daemon, "client cut off")["reply"], "421 4.4.2 Timeout");
}

#[test]
fn a_failed_handshake_has_its_reason() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
    let config = only_example(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap())
        .set("smtp.tls.min_version", "1.3");
    let daemon = Daemon::start_in(dir, config);
    let begin = || {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.expect("STARTTLS", "220 ");
        client
    };
    begin().handshake(stranger.client(&[&rustls::version::TLS13])).unwrap_err();
    begin().handshake(authority.client(&[&rustls::version::TLS12])).unwrap_err();
    begin().send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    begin().reset();
    let count = |reason: &str| {
        let wanted = format!("mailsluice_tls_failures_total{{reason=\"{reason}\"}} 1");
        daemon.admin.get("/metrics").text().lines().any(|line| line == wanted).then_some(())
    };
    for reason in ["certificate", "version", "not_tls", "broken_off"] {
        eventually(reason, || count(reason));
    }
    let line = wait_said(&daemon, "TLS handshake failed");
    assert_eq!(line["sender_ip"], "127.0.0.1");
    assert_eq!(refusals(&daemon).len(), 4);
}

#[test]
fn a_line_for_each_message_that_has_a_problem() {
    let endpoint =
        Endpoint::in_turn(vec![Answer::status(200), Answer::text(422, "no such ticket"), Answer::status(503), Answer::status(200)]);
    let mut daemon = Daemon::start(only_example(&endpoint));
    let send = |daemon: &Daemon, n: usize| {
        let message = format!("Subject: s{n}\r\nMessage-ID: <{n}@sender.test>\r\nX-Other: hidden\r\n\r\nhidden text\r\n");
        deliver(daemon.smtp(), "a@sender.test", &["x@example.test", "y@example.test"], message.as_bytes())
    };
    for n in 0..3 {
        send(&daemon, n);
    }
    let line = wait_said(&daemon, "message deferred");
    assert_eq!((&line["message_id"], &line["status"], &line["route"]), (&json!("<2@sender.test>"), &json!(503), &json!("tickets")));
    let line = wait_said(&daemon, "message rejected");
    assert_eq!(line["reply"], "554 5.7.1 no such ticket");
    assert_eq!(line["recipients"], "x@example.test, y@example.test");
    assert_eq!((&line["subject"], &line["sender"], &line["sender_ip"]), (&json!("s1"), &json!("a@sender.test"), &json!("127.0.0.1")));
    assert_eq!(daemon.admin.records("")[1]["id"], line["id"]);
    assert!(said(&daemon, "message delivered").is_empty());

    let everything = ["sender", "recipients", "sender_ip", "message_id", "subject"].map(str::to_owned).to_vec();
    daemon.reload(only_example(&endpoint).set("log.messages", "all").set("log.redact", everything));
    wait_said(&daemon, "configuration reloaded");
    send(&daemon, 7);
    let line = wait_said(&daemon, "message delivered");
    for field in ["sender", "recipients", "sender_ip", "message_id", "subject"] {
        assert_eq!(line.get(field), None, "{line}");
    }
    assert!(line["id"].is_string() && line["route"] == "tickets", "{line}");

    daemon.reload(only_example(&endpoint).set("log.messages", "none"));
    eventually("the second reload", || (said(&daemon, "configuration reloaded").len() == 2).then_some(()));
    let before = about_mail(&daemon).len();
    deliver_refused(&daemon, "z@elsewhere.test");
    send(&daemon, 8);
    assert_eq!(about_mail(&daemon).len(), before, "{}", daemon.log());
    assert!(!daemon.log().contains("hidden"), "{}", daemon.log());
}

fn deliver_refused(daemon: &Daemon, to: &str) {
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<a@sender.test>", "250 ");
    client.expect(&format!("RCPT TO:<{to}>"), "550 5.1.1 ");
    client.quit();
}

#[test]
fn a_crowd_gets_few_lines_and_a_count() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(only_example(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let mut refused = 0;
    // Refused for being in another transaction than the errors: RSET and again, so that no limit of errors ends it.
    eventually("a line with the count", || {
        for _ in 0..8 {
            if refused % 8 == 0 && refused > 0 {
                client = Client::connect(daemon.smtp());
                client.ehlo();
            }
            client.command("MAIL FROM:<a@sender.test>");
            client.expect(&format!("RCPT TO:<x{refused}@elsewhere.test>"), "550 ");
            client.command("RSET");
            refused += 1;
        }
        said(&daemon, "lines left out").pop()
    });
    let lines = said(&daemon, "recipient refused");
    let counts = || said(&daemon, "lines left out");
    eventually("all to be accounted for", || {
        let left_out: u64 = counts().iter().map(|line| line["lines"].as_u64().unwrap()).sum();
        let lines = said(&daemon, "recipient refused").len() as u64;
        (lines + left_out == refused).then_some(())
    });
    assert!(counts().iter().all(|line| line["clients"].as_str().unwrap().starts_with("127.0.0.1 (")), "{:?}", counts());
    let mut seconds: BTreeMap<String, usize> = BTreeMap::new();
    for line in &lines {
        *seconds.entry(line["time"].as_str().unwrap()[..19].to_owned()).or_default() += 1;
    }
    // Our seconds and the clock's do not begin together.
    assert!(seconds.values().all(|n| *n <= 30), "{seconds:?}");
    let rows = refusals(&daemon);
    assert_eq!(rows.len(), 20, "of one address");
    assert_eq!(rows[19]["left_out"], refused - 20);
    assert_eq!(rows[0]["recipient"], format!("x{}@elsewhere.test", refused - 1));
}

#[test]
fn refusals_are_redacted_as_the_store_and_forgotten_with_it() {
    let endpoint = Endpoint::ok();
    let callback = Endpoint::always(Answer::text(403, "bob@example.test is unknown"));
    let config = only_example(&endpoint).of_route("authorize_url", callback.url("/authorize"));
    let daemon = Daemon::start(config.clone().set("store.redact", vec!["sender_ip".to_owned(), "response_body".to_owned()]));
    let refuse = |daemon: &Daemon| {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.expect("MAIL FROM:<a@sender.test>", "250 ");
        client.expect("RCPT TO:<Bob@Example.test>", "550 5.7.1 bob@example.test is unknown");
        client.quit();
    };
    refuse(&daemon);
    let row = refusals(&daemon).remove(0);
    assert_eq!((&row["address"], &row["reply"]), (&Value::Null, &json!("550 5.7.1")));
    assert_eq!(wait_said(&daemon, "recipient refused").get("sender_ip"), None);
    assert!(!daemon.log().contains("is unknown"), "{}", daemon.log());
    drop(daemon);

    let daemon = Daemon::start(config);
    refuse(&daemon);
    deliver_refused(&daemon, "carl@elsewhere.test");
    assert_eq!(refusals(&daemon).len(), 2);
    daemon.cli(&["forget", "--address", "bob@example.test"]).ok();
    let left = refusals(&daemon);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["recipient"], "carl@elsewhere.test");
}

/// What comes behind a refused command is not a command that was meant: nothing of it is kept.
#[test]
fn nothing_of_a_body_is_in_lines_and_refusals() {
    const MARKER: &str = "bodymarkerxyzzy";
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(only_example(&endpoint).set("log.level", "trace").set("log.messages", "all"));
    let body = format!("Subject: public\r\nX-Secret: {MARKER}\r\n\r\n{MARKER}\r\nRCPT TO:<{MARKER}@x.test>\r\nMAIL {MARKER}\r\n.\r\n");
    for first in ["MAIL FROM:<a@sender.test>\r\nRCPT TO:<x@elsewhere.test>\r\nDATA\r\n", "DATA\r\n", "BDAT 9x\r\n", "HELO {MARKER}\r\n"] {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.send(format!("RSET\r\n{first}{body}").as_bytes());
        client.send(b"QUIT\r\n");
        client.rest();
    }
    deliver(daemon.smtp(), "a@sender.test", &["x@example.test"], body.as_bytes()).starts("250 ");
    wait_said(&daemon, "message delivered");
    let told = format!("{}{}", daemon.admin.get("/refusals").text(), daemon.log());
    let lines: Vec<_> = told.split(['\n', '}']).filter(|line| line.contains(MARKER)).collect();
    // In the transaction that DATA left open, a line of the body is a command with a recipient that is refused.
    assert!(lines.iter().all(|line| line.contains("RCPT") || line.contains(&format!("{MARKER}@x.test"))), "{lines:?}");
}
