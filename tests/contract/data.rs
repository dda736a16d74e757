//! The message's octets: what was sent is what is POSTed, however it was cut into packets.

use crate::support::client::{Reply, deliver, stuffed};
use crate::support::{Client, Config, Daemon, Endpoint, messages, wait};
use std::io;

const MIB: usize = 1 << 20;

fn messages_to_keep() -> Vec<(&'static str, Vec<u8>)> {
    let head = b"Subject: x\r\n\r\n";
    let with_text = |text: &[u8]| [head.as_slice(), text].concat();
    vec![
        ("no octet at all", Vec::new()),
        ("only an empty line", b"\r\n".to_vec()),
        ("a header and no body", b"Subject: x\r\n".to_vec()),
        ("a header, a blank line, no body", head.to_vec()),
        ("no header", b"\r\njust text\r\n".to_vec()),
        ("not a header at all", b"just text\r\nmore text\r\n".to_vec()),
        ("dots", with_text(b".\r\n..\r\n...\r\n.a\r\na.\r\n.\r\n\r\n.\r\n")),
        ("a dot first", b".\r\n".to_vec()),
        ("a stuffed command", with_text(b".QUIT\r\nQUIT\r\nDATA\r\n")),
        (
            "every octet but CR and LF",
            with_text(&[(0..=255).filter(|b| !b"\r\n".contains(b)).collect::<Vec<u8>>(), b"\r\n".to_vec()].concat()),
        ),
        ("NUL", with_text(b"a\0b\r\n\0\r\n")),
        ("8-bit", with_text("Grüße, 你好 \u{1f600}\r\n".as_bytes())),
        ("not UTF-8", with_text(b"\xff\xfe\xc3\x28\r\n")),
        ("a line of 998 octets", with_text(&[vec![b'x'; 998], b"\r\n".to_vec()].concat())),
        ("a line of 2 MiB", with_text(&[vec![b'x'; 2 * MIB], b"\r\n".to_vec()].concat())),
        ("many empty lines", with_text(&b"\r\n".repeat(5000))),
        ("many dots", with_text(&b".\r\n".repeat(5000))),
        ("trailing blanks", with_text(b"a \t \r\n \r\n\t\r\n")),
    ]
}

#[test]
fn posted_octets_equal_the_sent_ones_through_data() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for (what, message) in messages_to_keep() {
        endpoint.clear();
        deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &message).starts("250 2.0.0 Ok: ");
        same(what, &endpoint.only().body, &message);
    }
}

#[test]
fn posted_octets_equal_the_sent_ones_through_bdat() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut table = messages_to_keep();
    table.push(("no final line end", b"Subject: x\r\n\r\nno line end".to_vec()));
    table.push(("a dot without line end", b"Subject: x\r\n\r\n.".to_vec()));
    table.push(("an end of DATA inside", b"Subject: x\r\n\r\n\r\n.\r\nmore\r\n".to_vec()));
    for (what, message) in table {
        for pieces in [1, 2, 7] {
            endpoint.clear();
            let mut client = Client::connect(daemon.smtp());
            client.envelope("alice@sender.test", &["bob@example.test"]);
            let size = message.len().div_ceil(pieces).max(1);
            let chunks: Vec<&[u8]> = message.chunks(size).collect();
            for (n, chunk) in chunks.iter().enumerate() {
                client.bdat(chunk, n + 1 == chunks.len()).starts("250 ");
            }
            if chunks.is_empty() {
                client.bdat(b"", true).starts("250 ");
            }
            same(what, &endpoint.only().body, &message);
            client.quit();
        }
    }
}

#[test]
fn an_empty_last_chunk_ends_the_message() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.envelope("alice@sender.test", &["bob@example.test"]);
    client.bdat(b"Subject: x\r\n\r\ntext\r", false).starts("250 ");
    client.bdat(b"\nmore", false).starts("250 ");
    client.bdat(b"", true).starts("250 2.0.0 Ok: ");
    assert_eq!(endpoint.only().body, b"Subject: x\r\n\r\ntext\r\nmore");
}

#[test]
fn a_message_of_the_greatest_size_comes_whole() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let message = messages::of_size("big", 25 * MIB);
    deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &message).starts("250 2.0.0 Ok: ");
    same("25 MiB", &endpoint.only().body, &message);
    let too_large = messages::of_size("bigger", 25 * MIB + 1);
    deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &too_large).starts("552 5.3.4 ");
    assert_eq!(endpoint.count(), 1);
}

#[test]
fn a_declared_size_over_the_limit_is_refused_before_the_data() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_message_size", "1MiB"));
    let mut client = Client::connect(daemon.smtp());
    let ehlo = client.ehlo();
    assert!(ehlo.lines.iter().any(|line| line[4..] == *"SIZE 1048576"), "{ehlo:?}");
    client.expect("MAIL FROM:<a@sender.test> SIZE=1048577", "552 5.3.4 ");
    client.expect("MAIL FROM:<a@sender.test> SIZE=1048576", "250 ");
    client.quit();
}

/// Several transactions as one stream of octets, with every kind of data and some refusals.
fn dialog() -> Vec<u8> {
    let mut octets =
        b"EHLO client.test\r\nMAIL FROM:<a@sender.test> BODY=8BITMIME SIZE=200\r\nRCPT TO:<b@example.test>\r\nDATA\r\n".to_vec();
    octets.extend(stuffed(b"Subject: one\r\n\r\n.\r\n..x\r\n\xc3\xa9\r\n"));
    octets.extend_from_slice(b"NOOP\r\nWHAT\r\nRCPT TO:<b@example.test>\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nBDAT 12\r\nSubject: t\r\nBDAT 9 LAST\r\n\r\n.\r\nfour");
    octets.extend_from_slice(b"MAIL FROM:<c@sender.test>\r\nRSET\r\nMAIL FROM:<d@sender.test>\r\nRCPT TO:<e@example.test>\r\nDATA\r\n");
    octets.extend_from_slice(b"Subject: bare\r\n\r\nbare\nnewline\r\n.\r\nVRFY x\r\nQUIT\r\n");
    octets
}

fn replies(client: &mut Client) -> io::Result<Vec<String>> {
    let mut replies = Vec::new();
    loop {
        match client.try_reply() {
            Ok(Reply { lines, .. }) => replies.extend(lines.into_iter().map(without_id)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(replies),
            Err(error) => return Err(error),
        }
    }
}

fn without_id(line: String) -> String {
    match line.strip_prefix("250 2.0.0 Ok: ") {
        Some(id) => format!("250 2.0.0 Ok: ({} characters)", id.len()),
        None => line,
    }
}

#[test]
fn any_split_of_the_octets_gives_the_same_replies() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_connections_per_ip", 1000));
    let dialog = dialog();
    let whole = {
        let mut client = Client::connect(daemon.smtp());
        client.send(&dialog);
        replies(&mut client).unwrap()
    };
    let ends = whole.iter().filter(|line| line.contains("Ok: (")).count();
    assert_eq!(ends, 2, "{whole:?}");
    assert!(whole.iter().any(|line| line.starts_with("550 5.6.0")), "{whole:?}");
    assert!(whole.last().unwrap().starts_with("221 2.0.0"), "{whole:?}");
    let bodies = |requests: Vec<std::sync::Arc<crate::support::Request>>| {
        let mut bodies: Vec<Vec<u8>> = requests.iter().map(|request| request.body.clone()).collect();
        bodies.sort();
        bodies
    };
    let expected = bodies(endpoint.requests());
    assert_eq!(expected.len(), 2);
    endpoint.clear();

    // In two parts, at every octet; the pause lets the first part be read alone.
    let splits = 1..dialog.len();
    let next = std::sync::atomic::AtomicUsize::new(splits.start);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if at >= splits.end {
                        return;
                    }
                    let mut client = Client::connect(daemon.smtp());
                    client.send(&dialog[..at]);
                    wait::tick();
                    client.send(&dialog[at..]);
                    assert_eq!(replies(&mut client).unwrap(), whole, "split at {at}");
                }
            });
        }
    });
    let got = bodies(endpoint.requests());
    assert_eq!(got.len(), 2 * splits.len());
    let half = splits.len();
    assert!(got[..half].iter().all(|body| *body == expected[0]) && got[half..].iter().all(|body| *body == expected[1]));
    endpoint.clear();

    // Octet by octet.
    let mut client = Client::connect(daemon.smtp());
    for octet in &dialog {
        client.send([*octet]);
    }
    assert_eq!(replies(&mut client).unwrap(), whole);
    assert_eq!(bodies(endpoint.requests()), expected);
}

#[test]
fn a_header_block_over_its_limit_is_refused() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_header_size", "4KiB"));
    let fits = [b"X-Long: ".to_vec(), vec![b'x'; 4000], b"\r\n\r\ntext\r\n".to_vec()].concat();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &fits).starts("250 ");
    for over in [b"X-Long: xxxxxxxxxxxxxxxxxxx\r\n".repeat(400), [b"X-Long: ".to_vec(), vec![b'x'; 9000], b"\r\n".to_vec()].concat()] {
        let over = [over, b"\r\ntext\r\n".to_vec()].concat();
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &over).starts("552 5.3.4 ");
    }
    assert_eq!(endpoint.count(), 1);
    // Text without a blank line in front of it is no header, however long it is.
    for text in [b"not a field\r\nReceived: x\r\n".repeat(1000), [vec![b'x'; 300_000], b"\r\n".to_vec()].concat()] {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &text).starts("250 ");
    }
}

#[test]
fn too_many_received_headers_are_a_loop() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_received", 5));
    let with = |count: usize| [b"Received: from a\r\n\tby b\r\n".repeat(count), b"Subject: x\r\n\r\nReceived: x\r\n".to_vec()].concat();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &with(5)).starts("250 ");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &with(6)).starts("554 5.4.6 ");
    assert_eq!(endpoint.count(), 1);
    daemon.admin.wait_for_stat("messages.refused.loop", 1);
}

#[test]
fn bdat_with_a_size_that_is_no_size_closes() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for size in ["x", "-1", "", "99999999999999999999999", "18446744073709551616", "1 FIRST", "0x10", "+5"] {
        let mut client = Client::connect(daemon.smtp());
        client.envelope("a@sender.test", &["b@example.test"]);
        client.expect(&format!("BDAT {size}"), "501 5.5.4 ");
        client.closed();
    }
    assert_eq!(endpoint.count(), 0);
}

#[test]
fn bdat_out_of_order_swallows_its_chunk() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.bdat(b"MAIL FROM:<evil@sender.test>\r\n", true).starts("503 5.5.1 ");
    client.expect("RCPT TO:<b@example.test>", "503 5.5.1 ");
    client.transaction("a@sender.test", &["b@example.test"]);
    client.bdat(b"Subject: x\r\n\r\n", false).starts("250 ");
    // DATA after BDAT in one transaction (RFC 3030 section 3).
    client.expect("DATA", "503 5.5.1 ");
    client.expect("RSET", "250 ");
    client.quit();
    assert_eq!(endpoint.count(), 0);
}

#[track_caller]
fn same(what: &str, got: &[u8], sent: &[u8]) {
    if got != sent {
        let at = got.iter().zip(sent).position(|(a, b)| a != b).unwrap_or(got.len().min(sent.len()));
        let near = |octets: &[u8]| String::from_utf8_lossy(&octets[at.saturating_sub(10)..(at + 20).min(octets.len())]).into_owned();
        panic!("{what}: {} octets for {}, different at {at}: {:?} for {:?}", got.len(), sent.len(), near(got), near(sent));
    }
}
