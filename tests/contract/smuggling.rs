//! End of data is CRLF.CRLF and nothing else: each variant with its reply, the number of messages and their exact octets.

use crate::support::certificates::Authority;
use crate::support::client::Reply;
use crate::support::{Client, Config, Daemon, Endpoint};
use std::io;

/// What stands between the outer message and the smuggled one, and what `normalize` makes of it.
const SEPARATORS: &[(&str, &[u8], &[u8])] = &[
    ("LF.LF", b"\n.\n", b"\r\n.\r\n"),
    ("LF.CRLF", b"\n.\r\n", b"\r\n.\r\n"),
    ("CRLF.LF", b"\r\n.\n", b"\r\n\r\n"),
    ("CR.CR", b"\r.\r", b" . "),
    ("CRLF.CR", b"\r\n.\r", b"\r\n "),
    ("CR.CRLF", b"\r.\r\n", b" .\r\n"),
    ("CR.LF", b"\r.\n", b" .\r\n"),
    ("LF.CR", b"\n.\r", b"\r\n. "),
    ("CRLF.CR CR LF", b"\r\n.\r\r\n", b"\r\n \r\n"),
    ("CR CRLF.CRLF without its first CR", b"\r\r.\r\n", b"  .\r\n"),
];

/// These carry no bare CR or LF, and are no end either.
const CLEAN: &[(&str, &[u8], &[u8])] = &[
    ("CRLF NUL.CRLF", b"\r\n\0.\r\n", b"\r\n\0.\r\n"),
    ("CRLF.NUL CRLF", b"\r\n.\0\r\n", b"\r\n\0\r\n"),
    ("CRLF..CRLF", b"\r\n..\r\n", b"\r\n.\r\n"),
    ("CRLF.space CRLF", b"\r\n. \r\n", b"\r\n \r\n"),
];

const HEAD: &[u8] = b"Subject: outer\r\n\r\nouter";
const SMUGGLED: &[u8] = b"MAIL FROM:<admin@example.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Data,
    DataOctetByOctet,
    Bdat,
}

struct Case {
    daemon: Daemon,
    endpoint: Endpoint,
    authority: Option<Authority>,
}

impl Case {
    fn new(mode: &str, tls: bool) -> Self {
        let endpoint = Endpoint::ok();
        let mut config = Config::to(&endpoint).set("smtp.bare_newline", mode);
        let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
        let authority = tls.then(Authority::new);
        if let Some(authority) = &authority {
            let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
            config = config
                .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
                .set("smtp.tls.private_key", files.key.to_str().unwrap());
        }
        Self { daemon: Daemon::start_in(dir, config), endpoint, authority }
    }

    /// Sends the message one way and ends it properly; all replies after the envelope's, and the bodies that came.
    fn send(&self, message: &[u8], way: Way) -> (Vec<Reply>, Vec<Vec<u8>>) {
        self.endpoint.clear();
        let mut client = Client::connect(self.daemon.smtp());
        client.ehlo();
        if let Some(authority) = &self.authority {
            client.starttls(authority.client(rustls::ALL_VERSIONS));
            client.ehlo();
        }
        client.transaction("alice@sender.test", &["bob@example.test"]);
        match way {
            Way::Data => {
                client.expect("DATA", "354 ");
                client.send([message, b"\r\n.\r\n"].concat());
            }
            Way::DataOctetByOctet => {
                client.expect("DATA", "354 ");
                for octet in [message, b"\r\n.\r\n"].concat() {
                    client.send([octet]);
                }
            }
            Way::Bdat => {
                client.send([format!("BDAT {} LAST\r\n", message.len()).as_bytes(), message].concat());
            }
        }
        client.send(b"NOOP\r\nQUIT\r\n");
        let mut replies = Vec::new();
        loop {
            match client.try_reply() {
                Ok(reply) => replies.push(reply),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => panic!("{error}"),
            }
        }
        (replies, self.endpoint.requests().iter().map(|request| request.body.clone()).collect())
    }
}

fn starts(replies: &[Reply]) -> Vec<&str> {
    replies.iter().map(|reply| reply.text().split_at(9).0).collect()
}

fn every_variant(tls: bool) {
    for mode in ["reject", "normalize"] {
        let case = Case::new(mode, tls);
        for way in [Way::Data, Way::DataOctetByOctet, Way::Bdat] {
            for &(name, separator, normal) in SEPARATORS {
                let what = format!("{name}, {mode}, {way:?}, TLS {tls}");
                let message = [HEAD, separator, SMUGGLED].concat();
                let (replies, bodies) = case.send(&message, way);
                if mode == "reject" {
                    assert_eq!(starts(&replies), ["550 5.6.0", "250 2.0.0", "221 2.0.0"], "{what}: {replies:?}");
                    assert!(bodies.is_empty(), "{what}: {bodies:?}");
                } else {
                    assert_eq!(starts(&replies), ["250 2.0.0", "250 2.0.0", "221 2.0.0"], "{what}: {replies:?}");
                    // In a chunk a dot is only a dot.
                    let normal = if way == Way::Bdat { newlines(separator) } else { normal.to_vec() };
                    let end: &[u8] = if way == Way::Bdat { b"" } else { b"\r\n" };
                    assert_eq!(bodies, [[HEAD, normal.as_slice(), SMUGGLED, end].concat()], "{what}");
                }
            }
            for &(name, separator, clean) in CLEAN {
                let what = format!("{name}, {mode}, {way:?}, TLS {tls}");
                let message = [HEAD, separator, SMUGGLED].concat();
                let (replies, bodies) = case.send(&message, way);
                assert_eq!(starts(&replies), ["250 2.0.0", "250 2.0.0", "221 2.0.0"], "{what}: {replies:?}");
                let (clean, end): (_, &[u8]) = if way == Way::Bdat { (separator, b"") } else { (clean, b"\r\n") };
                assert_eq!(bodies, [[HEAD, clean, SMUGGLED, end].concat()], "{what}");
            }
        }
    }
}

/// A bare LF becomes CRLF, a stray CR a space.
fn newlines(octets: &[u8]) -> Vec<u8> {
    let mut normal = Vec::new();
    for (at, &octet) in octets.iter().enumerate() {
        match octet {
            b'\r' if octets.get(at + 1) != Some(&b'\n') => normal.push(b' '),
            b'\n' if at == 0 || octets[at - 1] != b'\r' => normal.extend_from_slice(b"\r\n"),
            octet => normal.push(octet),
        }
    }
    normal
}

#[test]
fn nothing_is_smuggled_in_the_clear() {
    every_variant(false);
}

#[test]
fn nothing_is_smuggled_under_tls() {
    every_variant(true);
}

#[test]
fn a_line_end_split_over_two_chunks_is_one_line_end() {
    for mode in ["reject", "normalize"] {
        let case = Case::new(mode, false);
        let mut client = Client::connect(case.daemon.smtp());
        client.envelope("alice@sender.test", &["bob@example.test"]);
        client.bdat(b"Subject: x\r\n\r", false).starts("250 ");
        client.bdat(b"\n.\r", false).starts("250 ");
        client.bdat(b"\ntext\r\n", true).starts("250 2.0.0 Ok: ");
        assert_eq!(case.endpoint.only().body, b"Subject: x\r\n\r\n.\r\ntext\r\n");
        client.quit();
    }
}

#[test]
fn a_stray_cr_at_the_very_end_is_seen() {
    let case = Case::new("reject", false);
    let (replies, bodies) = case.send(b"Subject: x\r\n\r\ntext\r", Way::Bdat);
    assert_eq!(starts(&replies), ["550 5.6.0", "250 2.0.0", "221 2.0.0"]);
    assert!(bodies.is_empty());
    let case = Case::new("normalize", false);
    let (_, bodies) = case.send(b"Subject: x\r\n\r\ntext\r", Way::Bdat);
    assert_eq!(bodies, [b"Subject: x\r\n\r\ntext "]);
}

#[test]
fn a_refused_message_counts_one_error() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_errors", 3));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    for expected in ["550 5.6.0 ", "550 5.6.0 "] {
        client.transaction("a@sender.test", &["b@example.test"]);
        client.expect("DATA", "354 ");
        client.send(b"a\nb\nc\nd\ne\nf\ng\r\n.\r\n");
        client.reply().starts(expected);
    }
    client.expect("WHAT", "500 5.5.2 ");
    client.reply().starts("421 4.7.0 ");
    client.closed();
    daemon.admin.wait_for_stat("messages.refused.bare_newline", 2);
}

#[test]
fn bare_newlines_in_commands_are_syntax_errors() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for line in ["NOOP\nNOOP\r\n", "NO\rOP\r\n", "NO\0OP\r\n", "MAIL FROM:<a@b.test>\nRCPT TO:<b@example.test>\r\n"] {
        let mut client = Client::connect(daemon.smtp());
        client.ehlo();
        client.send(line);
        client.reply().starts("500 5.5.2 ");
        client.expect("NOOP", "250 ");
        client.quit();
    }
}
