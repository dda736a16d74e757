//! The session as a driver sees it: what no transcript can say, and properties of any octets.

use super::memory::{Connection, Seen, settings};
use super::{Refusal, Reply, Settings, reply};
use proptest::prelude::*;

const ENVELOPE: &str = "EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\n";

fn in_transaction(settings: Settings) -> Connection {
    let mut connection = Connection::new(settings);
    connection.send(ENVELOPE.as_bytes());
    connection.seen.out.clear();
    connection
}

#[test]
fn the_banner_and_the_offer() {
    let mut connection = Connection::new(Settings { offer_starttls: true, ..settings() });
    connection.session.greet(&mut connection.seen.out);
    assert_eq!(connection.lines(), ["220 mx.test ESMTP mailsluice"]);
    let offer = [
        "250-mx.test",
        "250-PIPELINING",
        "250-SIZE 26214400",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-ENHANCEDSTATUSCODES",
        "250 STARTTLS",
    ];
    assert_eq!(connection.ask("EHLO client.test\r\n"), offer);
    connection.send(b"STARTTLS\r\n");
    connection.handshake();
    let under_tls = connection.ask("EHLO client.test\r\n");
    assert_eq!(under_tls.last().map(String::as_str), Some("250 ENHANCEDSTATUSCODES"));
    assert_eq!(under_tls.len(), offer.len() - 1);
}

#[test]
fn the_envelope_has_everything() {
    let mut connection = Connection::new(Settings { offer_starttls: true, ..settings() });
    connection.send(b"STARTTLS\r\n");
    connection.handshake();
    connection
        .send(b"EHLO client.test\r\nMAIL FROM:<a@sender.test> SIZE=5 SMTPUTF8\r\nRCPT TO:<b@example.test>\r\nRCPT TO:<c@example.test>\r\n");
    let envelope = connection.session.envelope();
    assert_eq!((envelope.helo.as_str(), envelope.reverse_path.as_str()), ("client.test", "a@sender.test"));
    assert_eq!(envelope.recipients, ["b@example.test", "c@example.test"]);
    assert_eq!((envelope.declared_size, envelope.smtputf8), (Some(5), true));
    assert_eq!(envelope.tls.as_deref(), Some("TLSv1.3 TLS_AES_256_GCM_SHA384"));
    assert_eq!(envelope.peer.port, 40_000);
    connection.send(b"RSET\r\n");
    assert!(connection.session.envelope().recipients.is_empty());
}

#[test]
fn data_that_the_driver_cannot_take() {
    let mut connection = in_transaction(settings());
    connection.begin = Err(reply::STORE_DEGRADED);
    assert_eq!(connection.ask("DATA\r\nNOOP\r\nDATA\r\n"), [reply::STORE_DEGRADED.0, reply::OK.0, reply::MAIL_FIRST.0]);
    connection.begin = Ok(());
    connection.send(&ENVELOPE.as_bytes()["EHLO client.test\r\n".len()..]);
    connection.send(b"DATA\r\n\r\n.\r\n");
    assert_eq!(connection.seen.ended.len(), 1);
}

#[test]
fn chunks_that_the_driver_cannot_take_are_swallowed_with_one_reply_each() {
    let mut connection = in_transaction(settings());
    connection.begin = Err(reply::OUT_OF_MEMORY);
    let memory = reply::OUT_OF_MEMORY.0;
    assert_eq!(connection.ask("BDAT 6\r\nQUIT\r\nBDAT 0\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"), [&*memory, &memory, &memory, &reply::OK.0]);
    // The message is over with its last chunk.
    assert_eq!(connection.ask("BDAT 1 LAST\r\nx"), [reply::MAIL_FIRST.0]);
    assert!(connection.seen.ended.is_empty() && !connection.session.message_open());
    // An empty first chunk is refused as well.
    connection.send(&ENVELOPE.as_bytes()["EHLO client.test\r\n".len()..]);
    assert_eq!(connection.ask("BDAT 0 LAST\r\n"), [memory]);
}

#[test]
fn a_message_is_open_from_its_first_octet_to_its_end() {
    let mut connection = in_transaction(settings());
    assert!(!connection.session.message_open());
    connection.send(b"BDAT 2\r\nab");
    assert!(connection.session.message_open());
    connection.send(b"RSET\r\n");
    assert!(!connection.session.message_open());
}

#[test]
fn a_message_that_must_become_too_large_is_refused_with_its_chunk() {
    let mut connection = in_transaction(Settings { max_message_size: 10, ..settings() });
    connection.send(b"BDAT 6\r\n123456BDAT 5\r\n1234");
    assert_eq!(connection.ask("5"), [reply::MESSAGE_TOO_LARGE.0]);
    assert_eq!(connection.seen.ended.last().map(|ended| (ended.refusal, ended.size)), Some((Some(Refusal::Size), 11)));
}

/// 4xx verdicts do not count: a long list of recipients for several routes must get through.
#[test]
fn recipients_for_later_do_not_end_the_session() {
    let mut session = in_transaction(Settings { max_errors: 2, ..settings() });
    session.recipients = Vec::new();
    let mut out = Vec::new();
    for _ in 0..5 {
        let (_, need) = session.session.feed(b"RCPT TO:<c@other.test>\r\n", &mut out);
        assert!(matches!(need, super::Need::Recipient(_)));
        session.session.recipient(Err(reply::OTHER_ROUTE), &mut out);
    }
    assert_eq!(session.ask("RCPT TO:<c@other.test>\r\nRCPT TO:<c@other.test>\r\n"), [reply::NO_ROUTE.0, reply::NO_ROUTE.0]);
    assert_eq!(session.ask("NOOP\r\n"), [reply::TOO_MANY_ERRORS.0]);
    assert!(session.seen.closed);
}

/// A driver may give any reply a 421, and the session then ends.
#[test]
fn a_421_of_the_driver_closes() {
    let mut connection = in_transaction(settings());
    connection.begin = Err(reply::SHUTTING_DOWN);
    assert_eq!(connection.ask("DATA\r\nNOOP\r\n"), [reply::SHUTTING_DOWN.0]);
    assert!(connection.seen.closed);
}

/// RFC 3207: what bounds the connection survives the handshake, or STARTTLS would reset the count of errors.
#[test]
fn errors_are_counted_over_the_handshake() {
    let mut connection = Connection::new(Settings { max_errors: 2, offer_starttls: true, ..settings() });
    connection.send(b"WHAT\r\nSTARTTLS\r\n");
    connection.handshake();
    assert_eq!(connection.ask("WHAT\r\n"), [reply::UNKNOWN_COMMAND.0, reply::TOO_MANY_ERRORS.0]);
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 44] = [
        "EHLO client.test\r\n",
        "HELO client.test\r\n",
        "EHLO\r\n",
        "MAIL FROM:<a@sender.test>\r\n",
        "MAIL FROM:<> SIZE=90\r\n",
        "MAIL FROM:<a@sender.test> SIZE=9 BODY=8BITMIME\r\n",
        "RCPT TO:<b@example.test>\r\n",
        "RCPT TO:<b@example.test>\r\n",
        "RCPT TO:<c@other.test>\r\n",
        "RCPT TO:<Postmaster>\r\n",
        "DATA\r\n",
        "DATA\r\n",
        "DATA x\r\n",
        "BDAT 3\r\nabc",
        "BDAT 4\r\na\r\nb",
        "BDAT 2\r\na\r",
        "BDAT 1\r\n\n",
        "BDAT 0\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 5 LAST\r\n\r\n.\r\n",
        "BDAT 70\r\n",
        "BDAT 3 FIRST\r\n",
        "BDAT\n",
        "RSET\r\n",
        "NOOP\r\n",
        "NOOP\n",
        "NO\0OP\r\n",
        "VRFY x\r\n",
        "STARTTLS\r\n",
        "AUTH PLAIN\r\n",
        "QUIT\r\n",
        "GET / HTTP/1.1\r\n",
        "Subject: x\r\n",
        "\r\n",
        "\r\n.\r\n",
        ".\r\n",
        "..\r\n",
        ".",
        "\r",
        "\n",
        "\n.\n",
        "\u{e9}",
        "text",
        "x\r\n.",
    ];
    prop_oneof![
        60 => prop::sample::select(PIECES.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        3 => prop::collection::vec(any::<u8>(), 0..6),
        1 => (2000usize..2100).prop_map(|length| vec![b'x'; length]),
    ]
}

fn some_settings() -> impl Strategy<Value = Settings> {
    (
        any::<(bool, bool, bool)>(),
        prop_oneof![Just(25u64 << 20), 0u64..60],
        1usize..4,
        1u32..4,
        prop_oneof![Just((1000u32, 1000u32)), (1u32..8, 1u32..20)],
    )
        .prop_map(
            |(
                (normalize_newlines, offer_starttls, require_tls),
                max_message_size,
                max_recipients,
                max_messages,
                (max_errors, max_junk),
            )| {
                Settings {
                    max_message_size,
                    max_recipients,
                    max_messages,
                    max_errors,
                    max_junk,
                    normalize_newlines,
                    offer_starttls,
                    require_tls: offer_starttls && require_tls,
                    ..settings()
                }
            },
        )
}

/// Each stretch of octets lies between two handshakes.
fn run(settings: &Settings, stretches: &[Vec<u8>], cuts: &[usize], begin: &Result<(), Reply>) -> Seen {
    let mut connection = Connection::new(settings.clone());
    connection.recipients = vec!["*@example.test".into(), "Postmaster".into()];
    connection.begin = begin.clone();
    for octets in stretches {
        if connection.seen.wants_tls {
            connection.handshake();
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts.into_iter().chain([octets.len()]) {
            connection.send(&octets[from..cut]);
            from = cut;
        }
    }
    connection.seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_the_octets_gives_the_same(settings in some_settings(), begin in prop_oneof![4 => Just(Ok(())), 1 => Just(Err(reply::OUT_OF_MEMORY))],
            ready: bool, stretches in prop::collection::vec(prop::collection::vec(piece(), 0..20), 1..3), cuts in prop::collection::vec(any::<usize>(), 1..8)) {
        let mut stretches: Vec<Vec<u8>> = stretches.iter().map(|pieces| pieces.concat()).collect();
        if ready {
            stretches[0].splice(0..0, ENVELOPE.bytes());
        }
        let whole = run(&settings, &stretches, &[], &begin);
        prop_assert_eq!(&run(&settings, &stretches, &cuts, &begin), &whole);
        let each: Vec<usize> = (0..stretches.iter().map(Vec::len).max().unwrap_or(0)).collect();
        prop_assert_eq!(&run(&settings, &stretches, &each, &begin), &whole);
        for ended in &whole.ended {
            prop_assert!(!ended.envelope.recipients.is_empty() && ended.envelope.recipients.len() <= settings.max_recipients);
            prop_assert!(ended.size <= settings.max_message_size || ended.refusal == Some(Refusal::Size));
            prop_assert!(ended.refusal != Some(Refusal::BareNewline) || !settings.normalize_newlines);
            if ended.refusal.is_none() {
                prop_assert!(!super::newline::bare(&ended.octets, false) && ended.octets.last() != Some(&b'\r'));
                prop_assert!(ended.envelope.tls.is_some() || !settings.require_tls);
            }
        }
        for line in std::str::from_utf8(&whole.out).unwrap().split_terminator("\r\n") {
            prop_assert!(line.len() <= 510 && line.bytes().take(3).all(|b| b.is_ascii_digit()), "{}", line);
        }
    }

    #[test]
    fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..300), normalize: bool) {
        let mut connection = in_transaction(Settings { normalize_newlines: normalize, ..settings() });
        connection.send(&octets);
        let mut connection = in_transaction(Settings { normalize_newlines: normalize, ..settings() });
        connection.send(b"DATA\r\n");
        connection.send(&octets);
        let mut connection = in_transaction(Settings { normalize_newlines: normalize, ..settings() });
        connection.send(b"BDAT 100\r\n");
        connection.send(&octets);
    }
}
