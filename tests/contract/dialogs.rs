//! The transcripts of `tests/dialogs`, over real sockets. In a file:
//!
//! ```text
//! # what it shows
//! set smtp.bare_newline = "normalize"   a key of the configuration
//! C: EHLO client.test                   a line sent, CRLF behind it
//! C| no line end\r                      octets sent as they are; \r \n \0 \t \\ \xNN in both
//! S: 250 mx.test                        a whole reply, whose last line starts so
//! closed                                the server closes
//! message Subject: x\r\n\r\n            the next message that the endpoint got, to its last octet
//! ```
//! At the end no message may be left at the endpoint. Lines sent without an `S:` between them go in one packet.

use crate::support::{Client, Config, Daemon, Endpoint};
use std::path::Path;

#[test]
fn every_transcript() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "smtp"));
    files.sort();
    assert!(files.len() >= 10, "{} transcripts", files.len());
    for file in files {
        transcript(&file);
    }
}

fn transcript(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let endpoint = Endpoint::ok();
    let mut config = Config::to(&endpoint);
    for line in text.lines().filter_map(|line| line.strip_prefix("set ")) {
        let (key, value) = line.split_once('=').unwrap();
        let value = format!("value = {value}").parse::<toml::Table>().unwrap().remove("value").unwrap();
        config = config.set(key.trim(), value);
    }
    let daemon = Daemon::start(config);
    let mut client = Client::connect(daemon.smtp());
    let mut to_send = Vec::new();
    let mut messages = 0;
    for (n, line) in text.lines().enumerate() {
        let at = format!("{}:{}", file.file_name().unwrap().display(), n + 1);
        if let Some(sent) = line.strip_prefix("C: ") {
            to_send.extend(unescaped(sent));
            to_send.extend_from_slice(b"\r\n");
        } else if let Some(sent) = line.strip_prefix("C| ") {
            to_send.extend(unescaped(sent));
        } else if let Some(expected) = line.strip_prefix("S: ") {
            client.try_send(std::mem::take(&mut to_send)).unwrap_or_else(|error| panic!("{at}: {error}"));
            let reply = client.try_reply().unwrap_or_else(|error| panic!("{at}: {error} instead of {expected:?}"));
            assert!(reply.text().starts_with(expected), "{at}: {:?} instead of {expected:?}", reply.lines);
        } else if line == "closed" {
            client.closed();
        } else if let Some(expected) = line.strip_prefix("message ") {
            let requests = endpoint.wait_for(messages + 1);
            let body = String::from_utf8_lossy(&requests[messages].body).into_owned();
            assert_eq!(body, String::from_utf8_lossy(&unescaped(expected)), "{at}");
            messages += 1;
        } else {
            assert!(line.is_empty() || line.starts_with('#') || line.starts_with("set "), "{at}: what is {line:?}?");
        }
    }
    assert_eq!(endpoint.count(), messages, "{}: messages at the endpoint", file.display());
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            octets.extend(c.to_string().into_bytes());
            continue;
        }
        match characters.next().expect("something behind a backslash") {
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            't' => octets.push(b'\t'),
            '0' => octets.push(0),
            '\\' => octets.push(b'\\'),
            'x' => {
                let digits: String = characters.by_ref().take(2).collect();
                octets.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            other => panic!("what is \\{other}?"),
        }
    }
    octets
}
