//! Promise 2: nothing but the logged fields is stored.

use crate::support::client::{deliver, stuffed};
use crate::support::{Answer, Client, Config, Daemon, Endpoint};
use std::path::Path;

const MARKERS: [&str; 4] = ["bodymarkerxyzzy", "headermarkerxyzzy", "attachmentmarkerxyzzy", "encodedmarkerxyzzy"];

fn marked() -> Vec<u8> {
    format!(
        "From: {h}@sender.test\r\nX-Secret: {h}\r\nSubject: public\r\nMessage-ID: <public@sender.test>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n{b}\r\n--b\r\nContent-Type: text/plain; name={a}.txt\r\n\
         Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename={a}.txt\r\n\r\n{e}\r\n--b--\r\n",
        h = MARKERS[1],
        b = MARKERS[0],
        a = MARKERS[2],
        e = MARKERS[3],
    )
    .into_bytes()
}

/// Every file below a directory whose octets contain the marker in any letter case.
pub(crate) fn files_with(dir: &Path, marker: &str) -> Vec<String> {
    let finder = |octets: &[u8]| {
        let lower = octets.to_ascii_lowercase();
        memchr::memmem::find(&lower, marker.to_ascii_lowercase().as_bytes()).is_some()
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, marker));
        } else if path.is_file() && finder(&std::fs::read(&path).unwrap()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn no_octet_of_a_message_reaches_the_disk_or_the_log() {
    let answers = vec![
        Answer::status(200),
        Answer::text(422, "no"),
        Answer::text(500, "later"),
        Answer::Reset(Vec::new()),
        Answer::Octets(b"garbage".to_vec()),
    ];
    let rounds = answers.len();
    for format in ["json", "multipart", "raw", "rfc822", "rails"] {
        let endpoint = Endpoint::in_turn(answers.clone());
        let daemon = Daemon::start(Config::to(&endpoint).of_route("format", format).set("log.level", "trace"));
        for _ in 0..rounds {
            deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &marked());
        }
        // Refused for its newline, over its header limit, broken off.
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &[marked(), b"x\ny\r\n".to_vec()].concat()).starts("550 ");
        let mut client = Client::connect(daemon.smtp());
        client.envelope("a@sender.test", &["b@example.test"]);
        client.expect("DATA", "354 ");
        client.send(&stuffed(&marked())[..400]);
        client.reset();
        let dir = daemon.shared_dir();
        let stopped = daemon.stop();
        assert_eq!(stopped.code, Some(0));
        let body = &endpoint.requests()[0].body;
        assert!(memchr::memmem::find(body, MARKERS[0].as_bytes()).is_some(), "the endpoint has it");
        for marker in MARKERS {
            assert_eq!(files_with(dir.path(), marker), Vec::<String>::new(), "{format}: {marker}");
            assert!(!stopped.log.contains(marker), "{format}: {marker} in the log:\n{}", stopped.log);
        }
        assert_eq!(files_with(dir.path(), "public@sender.test").len(), 1, "the logged fields are in the store");
    }
}

#[test]
fn what_peers_send_is_escaped_in_the_log() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("log.format", "json").set("log.level", "trace"));
    let mut client = Client::connect(daemon.smtp());
    client.send(b"EHLO \x1b[31mred\x1b[0m\r\n");
    let _ = client.try_reply();
    client.send(b"EHLO x\r\nMAIL FROM:<a\x07\x1b]0;title\x07@sender.test>\r\nXYZZY \x1b[2J\r\nQUIT\r\n");
    client.rest();
    let stopped = daemon.stop();
    assert!(!stopped.log.chars().any(|c| c.is_control() && c != '\n'), "{:?}", stopped.log);
}
