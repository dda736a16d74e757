//! What the endpoint gets, in each format.

use crate::support::client::deliver;
use crate::support::{Answer, Client, Config, Daemon, Endpoint, Request, messages};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a message becomes in a format.
#[track_caller]
fn as_format(format: &str, message: &[u8]) -> Arc<Request> {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", format));
    deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test", "carol@example.test"], message).starts("250 ");
    endpoint.only()
}

#[track_caller]
fn as_json(message: &[u8]) -> Value {
    let request = as_format("json", message);
    assert!(request.field("content-type").starts_with("application/json"));
    request.json()
}

#[test]
fn every_request_has_these_fields() {
    for format in ["json", "multipart", "raw", "rfc822", "rails"] {
        let request = as_format(format, &messages::simple("x", "text"));
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/in"));
        assert_eq!(request.field("user-agent"), concat!("mailsluice/", env!("CARGO_PKG_VERSION")));
        assert_eq!(request.field("content-length"), request.body.len().to_string());
        assert_eq!(request.fields.get("transfer-encoding"), None);
        assert!(!request.field("webhook-id").is_empty());
        let timestamp: i64 = request.field("webhook-timestamp").parse().unwrap();
        let now = jiff::Timestamp::now().as_second();
        assert!((now - timestamp).abs() < 60, "{timestamp}");
        assert_eq!(request.fields.get("webhook-signature"), None, "there is no secret");
        assert_eq!(request.fields.get("accept-encoding"), None, "no compression is asked");
        assert_eq!(request.fields.get("expect"), None);
    }
}

#[test]
fn rfc822_is_the_message_and_the_envelope_in_fields() {
    let message = messages::simple("x", "text");
    let request = as_format("rfc822", &message);
    assert_eq!(request.body, message);
    assert_eq!(request.field("content-type"), "message/rfc822");
    assert_eq!(request.field("mailsluice-mail-from"), "alice@sender.test");
    let recipients: Vec<&str> = request.fields.all("mailsluice-rcpt-to").collect();
    assert_eq!(recipients, ["bob@example.test,carol@example.test"], "one field, however many they are");
    assert_eq!(request.field("mailsluice-remote-ip"), "127.0.0.1");
    assert_eq!(request.field("mailsluice-helo"), "client.test");
}

#[test]
fn addresses_in_fields_are_percent_encoded() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<größe%x@sender.test> SMTPUTF8", "250 ");
    client.expect("RCPT TO:<用户@example.test>", "250 ");
    client.data(&messages::simple("x", "text")).starts("250 ");
    let request = endpoint.only();
    assert_eq!(request.field("mailsluice-mail-from"), "gr%C3%B6%C3%9Fe%25x@sender.test");
    assert_eq!(request.field("mailsluice-rcpt-to"), "%E7%94%A8%E6%88%B7@example.test");
}

#[test]
fn rails_has_the_recipients_before_the_message() {
    let message = messages::simple("x", "text");
    let request = as_format("rails", &message);
    assert_eq!(request.field("content-type"), "message/rfc822");
    let expected = [b"X-Original-To: bob@example.test\r\nX-Original-To: carol@example.test\r\n", message.as_slice()].concat();
    assert_eq!(String::from_utf8_lossy(&request.body), String::from_utf8_lossy(&expected));
}

#[test]
fn json_of_a_reference_message() {
    let message = concat!(
        "Received: from a.test\r\n\tby b.test; Tue, 24 Nov 2026 12:00:01 +0000\r\n",
        "Received: from c.test by a.test\r\n",
        "From: =?iso-8859-1?Q?Andr=E9?= <andre@sender.test>\r\n",
        "To: Bob <bob@example.test>\r\n",
        "Subject: =?utf-8?B?R3LDvA==?=\r\n =?utf-8?B?w59l?= again\r\n",
        "Message-ID: <id1@sender.test>\r\n",
        "X-Custom-Thing: one\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/mixed; boundary=\"outer\"\r\n",
        "\r\n",
        "preamble\r\n",
        "--outer\r\n",
        "Content-Type: multipart/alternative; boundary=inner\r\n\r\n",
        "--inner\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nCaf=E9\r\nsecond line\r\n",
        "--inner\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nPHA+Q2Fmw6k8L3A+\r\n",
        "--inner--\r\n",
        "--outer\r\n",
        "Content-Type: image/png; name=\"dot.png\"\r\nContent-Disposition: inline; filename=\"dot.png\"\r\nContent-ID: <dot@x>\r\n",
        "Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n",
        "--outer\r\n",
        "Content-Type: application/pdf\r\nContent-Disposition: attachment; filename*=utf-8''%E2%82%AC%20rates.pdf\r\n",
        "Content-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQK\r\n",
        "--outer--\r\n",
    );
    let json = as_json(message.as_bytes());
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["headers", "envelope", "plain", "html", "reply_plain", "attachments"]);
    assert_eq!(
        json["envelope"],
        json!({
            "to": "bob@example.test", "recipients": ["bob@example.test", "carol@example.test"], "from": "alice@sender.test",
            "helo_domain": "client.test", "remote_ip": "127.0.0.1", "tls": false,
        })
    );
    let headers = &json["headers"];
    assert_eq!(headers["received"], json!(["from a.test\tby b.test; Tue, 24 Nov 2026 12:00:01 +0000", "from c.test by a.test"]));
    assert_eq!(headers["from"], "André <andre@sender.test>");
    assert_eq!(headers["to"], "Bob <bob@example.test>");
    assert_eq!(headers["subject"], "Grüße again");
    assert_eq!(headers["message_id"], "<id1@sender.test>");
    assert_eq!(headers["x_custom_thing"], "one");
    assert_eq!(headers["mime_version"], "1.0");
    assert_eq!(json["plain"].as_str().unwrap().trim_end(), "Café\nsecond line");
    assert_eq!(json["html"].as_str().unwrap().trim_end(), "<p>Café</p>");
    assert_eq!(
        json["attachments"],
        json!([
            {"content": "iVBORw0KGgo=", "file_name": "dot.png", "content_type": "image/png", "size": 8, "disposition": "inline", "content_id": "dot@x"},
            {"content": "JVBERi0xLjQK", "file_name": "€ rates.pdf", "content_type": "application/pdf", "size": 9, "disposition": "attachment"},
        ])
    );
}

#[test]
fn attachments_as_metadata() {
    let message = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\nContent-Type: text/csv\r\n\
        Content-Disposition: attachment; filename=a.csv\r\n\r\n1,2\r\n--b--\r\n";
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json").of_route("attachments", "metadata"));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], message.as_bytes()).starts("250 ");
    let attachment = endpoint.only().json()["attachments"][0].clone();
    assert_eq!(attachment, json!({"file_name": "a.csv", "content_type": "text/csv", "size": 3, "disposition": "attachment"}));
}

#[test]
fn json_of_odd_messages() {
    // Nothing at all; no header; only a header.
    for message in [&b""[..], b"\r\n", b"\r\ntext only\r\n", b"Subject: x\r\n"] {
        let json = as_json(message);
        assert_eq!(json["attachments"], json!([]), "{message:?}");
        assert!(json["plain"].is_string() && json["html"] == "" && json["headers"].is_object(), "{json}");
    }
    assert_eq!(as_json(b"\r\ntext only\r\n")["plain"].as_str().unwrap().trim_end(), "text only");
    // NUL and octets of no charset become U+FFFD.
    let json = as_json(b"Subject: a\0b\xff\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nx\0y\xff\xfez\r\n");
    for text in [&json["headers"]["subject"], &json["plain"]] {
        let text = text.as_str().unwrap();
        assert!(!text.contains('\0') && text.contains('\u{fffd}'), "{text:?}");
    }
    // Two text parts are joined, in order; a text attachment stays one.
    let json = as_json(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nfirst\r\n--b\r\nContent-Type: text/plain\r\n\r\nsecond\r\n--b\r\n\
          Content-Type: text/plain\r\nContent-Disposition: attachment; filename=note.txt\r\n\r\nthird\r\n--b--\r\n",
    );
    let plain = json["plain"].as_str().unwrap();
    assert!(plain.find("first") < plain.find("second") && plain.contains("first") && !plain.contains("third"), "{plain:?}");
    assert_eq!(json["attachments"][0]["file_name"], "note.txt");
    // A forwarded message is an attachment.
    let json = as_json(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nsee below\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
          Subject: inner\r\n\r\ninner text\r\n--b--\r\n",
    );
    assert_eq!(json["attachments"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json["attachments"][0]["content_type"], "message/rfc822");
    assert_eq!(json["headers"]["subject"], Value::Null);
}

#[test]
fn reply_plain_is_the_new_part() {
    let text = |body: &str| as_json(format!("Subject: Re: x\r\n\r\n{}", body.replace('\n', "\r\n")).as_bytes())["reply_plain"].clone();
    assert_eq!(text("Thanks!\n\nOn Tue, Nov 24, 2026 at 12:00 PM Bob <bob@example.test> wrote:\n> old\n> older\n"), "Thanks!");
    assert_eq!(text("Yes.\n\n### Reply Above This Line ###\n\nold text\n"), "Yes.");
    assert_eq!(text("Fine\n-- \nAlice\nACME\n"), "Fine");
    assert_eq!(text("> only\n> quoted\n"), "");
}

#[test]
fn hostile_structures_take_bounded_time() {
    let mut deep = String::from("Content-Type: multipart/mixed; boundary=b0\r\n\r\n");
    for n in 0..2000 {
        write!(deep, "--b{n}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", n + 1).unwrap();
    }
    let mut wide = String::from("Content-Type: multipart/mixed; boundary=w\r\n\r\n");
    for n in 0..12_000 {
        write!(wide, "--w\r\nContent-Type: text/x-{n}\r\n\r\n.\r\n").unwrap();
    }
    wide.push_str("--w--\r\n");
    let mut headers = String::new();
    for n in 0..8000 {
        write!(headers, "X-{n}: y\r\n").unwrap();
    }
    headers.push_str("\r\ntext\r\n");
    let long_line = format!("X-Long: {}\r\n\r\ntext\r\n", "=?utf-8?Q?=41?= ".repeat(12_000));
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json"));
    for (what, message) in [("deep", deep), ("wide", wide), ("headers", headers), ("long line", long_line)] {
        endpoint.clear();
        let begun = Instant::now();
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], message.as_bytes()).starts("250 ");
        assert!(begun.elapsed() < Duration::from_secs(15), "{what} took {:?}", begun.elapsed());
        assert!(endpoint.only().json()["attachments"].is_array(), "{what}");
    }
    assert!(daemon.rss() < 500 << 20);
}

/// Octets without any plan, as messages: valid JSON each time, and the daemon lives.
#[test]
fn any_octets_give_valid_json() {
    let endpoint = Endpoint::ok();
    let mut daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json"));
    let pieces: &[&[u8]] = &[
        b"Content-Type: ",
        b"multipart/mixed; boundary=b",
        b"\r\n",
        b"\r\n\r\n",
        b"--b",
        b"--b--",
        b"text/html",
        b"; charset=",
        b"utf-7",
        b"shift_jis",
        b"gb18030",
        b"=?utf-8?B?",
        b"=?x?Q?=",
        b"?=",
        b"Content-Transfer-Encoding: base64",
        b"quoted-printable",
        b"=",
        b"=\r\n",
        b"\0",
        b"\xff\xfe",
        b"\xc3",
        b"filename*0*=",
        b"''%",
        b"message/rfc822",
        b"\"",
        b"(",
        b";",
        b" ",
        b"\t",
        b"<",
        b"Subject: ",
        b"Content-Disposition: attachment",
        b"AAAA",
        b":",
        b"begin 644 x",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 1).unwrap() % below
    };
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    let rounds = 90;
    for _ in 0..rounds {
        let message: Vec<u8> = (0..random(60)).flat_map(|_| pieces[random(pieces.len())].to_vec()).collect();
        client.transaction("a@sender.test", &["b@example.test"]);
        client.bdat(&message, true).starts("250 2.0.0 Ok: ");
    }
    assert!(daemon.running());
    assert_eq!(endpoint.count(), rounds);
    for request in endpoint.requests() {
        let json = request.json();
        assert!(json["plain"].is_string() && json["attachments"].is_array() && json["headers"].is_object(), "{json}");
    }
}

#[test]
fn cloudmailins_meaning_of_statuses() {
    // With `defer_statuses = []` every 4xx rejects and 5xx defers, as there.
    let endpoint =
        Endpoint::in_turn(vec![Answer::text(404, "no"), Answer::text(429, "slow"), Answer::text(500, "oops"), Answer::status(201)]);
    let config = Config::to(&endpoint).of_route("format", "json").of_route("defer_statuses", toml::Value::Array(Vec::new()));
    let daemon = Daemon::start(config);
    for expected in ["554 5.7.1 no", "554 5.7.1 slow", "450 4.3.0 oops", "250 2.0.0 Ok: "] {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("x", "text")).starts(expected);
    }
}
