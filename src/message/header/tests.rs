//! The scan beside a reading line by line, in any pieces.

use super::{Head, RAW_MAX, Scan, head, message_id_text, subject_text};
use proptest::prelude::*;

type Found = (Option<Vec<u8>>, Option<Vec<u8>>, u32, Head);

/// The scan of these pieces; the message goes after so many of them.
fn scan(pieces: &[&[u8]], goes_after: usize) -> Found {
    let (mut scan, mut message) = (Scan::default(), Vec::new());
    for (n, piece) in pieces.iter().enumerate() {
        if n == goes_after {
            scan.take_apart(&message);
        }
        scan.feed(piece);
        message.extend_from_slice(piece);
    }
    scan.end();
    let octets: &[u8] = if goes_after < pieces.len() { b"" } else { &message };
    (scan.message_id(octets).map(<[u8]>::to_vec), scan.subject(octets).map(<[u8]>::to_vec), scan.received(), scan.head())
}

fn trimmed(name: &[u8]) -> &[u8] {
    &name[..name.iter().rposition(|octet| !matches!(octet, b' ' | b'\t')).map_or(0, |last| last + 1)]
}

/// The same line by line.
fn reference(message: &[u8]) -> Found {
    let (mut id, mut subject, mut received) = (None, None, 0);
    let mark = if message.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let (mut at, mut fields): (usize, Vec<Vec<u8>>) = (mark, Vec::new());
    let (mut doubt, mut apart) = (None, Vec::new());
    let given_up = |at| Head { end: at, body: at };
    let head = loop {
        let rest = &message[at..];
        let Some(line) = rest.split_inclusive(|octet| *octet == b'\n').next() else { break given_up(doubt.unwrap_or(at)) };
        if doubt.is_some_and(|doubt| at >= doubt + 2048) {
            break given_up(doubt.unwrap());
        }
        let colon = line.iter().position(|octet| *octet == b':');
        let name = colon.map(|colon| trimmed(&line[..colon])).unwrap_or_default();
        let is_field = !name.is_empty() && name.len() <= 998 && name.iter().all(|octet| octet.is_ascii_graphic() || !octet.is_ascii());
        let is = |start: &[u8]| name.len() >= start.len() && name[..start.len()].eq_ignore_ascii_case(start);
        let came = |name: &[u8]| {
            fields.iter().any(|field| trimmed(field.split(|octet| *octet == b':').next().unwrap()).eq_ignore_ascii_case(name))
        };
        let sure = super::OF_HEADERS_ONLY.iter().any(|start| is(start))
            || super::ONCE.iter().any(|once| name.eq_ignore_ascii_case(once) && !came(once));
        let mbox = [b"From ".as_slice(), b"From\t", b">From ", b">From\t"].iter().any(|start| line.starts_with(start));
        let open = |last: &Vec<u8>| last[..8.min(last.len())].eq_ignore_ascii_case(b"content-") && last.trim_ascii_end().ends_with(b";");
        let run =
            &line[..line.iter().position(|octet| !octet.is_ascii_graphic() && octet.is_ascii() || *octet == b':').unwrap_or(line.len())];
        let blanks = line[run.len()..].iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        let equals =
            !run.is_empty() && (run[..64.min(run.len())].contains(&b'=') || blanks > 0 && line.get(run.len() + blanks) == Some(&b'='));
        if matches!(line, b"\n" | b"\r\n") {
            // Behind what was passed over it ends nothing.
            let ends = doubt.is_none() && (!fields.is_empty() || at == mark);
            break if ends { Head { end: at, body: at + line.len() } } else { given_up(doubt.unwrap_or(at)) };
        } else if let (b' ' | b'\t', Some(last)) = (line[0], fields.last_mut()) {
            if doubt.is_none() {
                last.extend_from_slice(line);
            }
        } else if is_field && !matches!(line[0], b' ' | b'\t') {
            apart.push(line.to_vec());
            if doubt.is_none() || sure {
                doubt = None;
                fields.append(&mut apart);
            }
        } else if fields.is_empty() {
            if !(mbox || matches!(line[0], b' ' | b'\t')) {
                break given_up(at);
            }
        } else if doubt.is_none() && equals && open(fields.last().unwrap()) {
            fields.last_mut().unwrap().extend_from_slice(line);
        } else {
            doubt = doubt.or(Some(at));
            if line.starts_with(b"--") {
                break given_up(doubt.unwrap());
            }
        }
        at += line.len();
    };
    let head = if fields.is_empty() && head.end == head.body { Head { end: 0, body: 0 } } else { head };
    for field in fields {
        let colon = field.iter().position(|octet| *octet == b':').unwrap();
        let body = &field[colon + 1..];
        let body = body.strip_suffix(b"\n").unwrap_or(body);
        let body = body.strip_suffix(b"\r").unwrap_or(body).to_vec();
        match trimmed(&field[..colon]).to_ascii_lowercase().as_slice() {
            b"message-id" => id = id.or(Some(body)),
            b"subject" => subject = subject.or(Some(body)),
            b"received" => received += 1,
            _ => {}
        }
    }
    (id, subject, received, head)
}

#[test]
fn blocks() {
    type Expected<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, u32, usize, usize);
    let table: &[(&str, Expected<'_>)] = &[
        ("", (None, None, 0, 0, 0)),
        ("\r\nSubject: body\r\n", (None, None, 0, 0, 2)),
        ("\nSubject: body\n", (None, None, 0, 0, 1)),
        ("Subject: a\r\n\r\nSubject: b\r\n", (None, Some(b" a"), 0, 12, 14)),
        ("subject:a\nMESSAGE-ID:b\n\nx", (Some(b"b"), Some(b"a"), 0, 23, 24)),
        ("Subject: one\r\nSubject: two\r\n\r\n", (None, Some(b" one"), 0, 28, 30)),
        ("Subject:\r\nSubject: two\r\n\r\n", (None, Some(b""), 0, 24, 26)),
        ("Subject \t : a\r\n\r\n", (None, Some(b" a"), 0, 15, 17)),
        ("Subject: a\r\n b\r\n\tc\r\nX: y\r\n\r\n", (None, Some(b" a\r\n b\r\n\tc"), 0, 26, 28)),
        ("Subject: a\r\n \r\n\r\n", (None, Some(b" a\r\n "), 0, 15, 17)),
        ("Subject: no end", (None, Some(b" no end"), 0, 15, 15)),
        ("Subject: header only\r\n", (None, Some(b" header only"), 0, 22, 22)),
        ("Subjects: x\r\nX-Subject: y\r\n\r\n", (None, None, 0, 27, 29)),
        ("X: a\r\n Subject: folded\r\n\r\n", (None, None, 0, 24, 26)),
        ("Received: a\r\n b\r\nRECEIVED:c\r\nReceived-SPF: d\r\nreceived :e\r\n\r\n", (None, None, 3, 59, 61)),
        ("Received: a\r\n\r\nReceived: b\r\n", (None, None, 1, 13, 15)),
        ("X: a\rSubject: b\r\n\r\n", (None, None, 0, 17, 19)),
        // The first line that is no field is text, and so is what follows it.
        ("Subject", (None, None, 0, 0, 0)),
        ("X: a\r\nSubject", (None, None, 0, 6, 6)),
        ("just\r\ntext\r\n", (None, None, 0, 0, 0)),
        ("no colon\r\nMessage-Id: <a@b>\r\n\r\n", (None, None, 0, 0, 0)),
        ("X: a\r\ntext: with: colons\r\nReceived by hand: x\r\n\r\n", (None, None, 0, 26, 26)),
        ("\rSubject: b\r\n\r\n", (None, None, 0, 0, 0)),
        (": no name\r\nSubject: b\r\n\r\n", (None, None, 0, 0, 0)),
        // What stands in front of some messages.
        ("From a@b Mon\r\nSubject: c\r\n\r\n", (None, Some(b" c"), 0, 26, 28)),
        ("\u{feff}Subject: c\r\n\r\n", (None, Some(b" c"), 0, 15, 17)),
        ("\u{feff}From a@b Mon\nFrom : d\nSubject: c\n\n", (None, Some(b" c"), 0, 36, 37)),
        ("Subject: c\r\nFrom a@b Mon\r\n\r\n", (None, Some(b" c"), 0, 12, 12)),
        ("From a@b Mon\r\ntext\r\n", (None, None, 0, 0, 0)),
        (" folded\r\nSubject: b\r\n\r\n", (None, Some(b" b"), 0, 21, 23)),
        ("    \r\n\t X: y\r\nSubject: b\r\n c\r\n\r\n", (None, Some(b" b\r\n c"), 0, 30, 32)),
        (" text\r\n\r\nSubject: b\r\n\r\n", (None, None, 0, 0, 0)),
        ("From a@b Mon\r\n\r\nSubject: b\r\n\r\n", (None, None, 0, 0, 0)),
        (" text\r\n more", (None, None, 0, 0, 0)),
        (">From a@b Mon\r\nSubject: c\r\n\r\n", (None, Some(b" c"), 0, 27, 29)),
        // Junk in the middle; and texts without a blank line above them.
        ("Subject: c\r\njunk\r\nX-Y: z\r\n\r\n", (None, Some(b" c"), 0, 26, 28)),
        ("Subject: c\r\njunk\r\n more\r\nFrom: a\r\n\r\n", (None, Some(b" c"), 0, 34, 36)),
        ("From: a\r\nlong\r\nSubject: c\r\n\r\n", (None, Some(b" c"), 0, 27, 29)),
        ("From: a\r\ntext\r\nFrom: b\r\nNote: c\r\n\r\nX-Y: z", (None, None, 0, 9, 9)),
        ("Subject: c\r\ntext\r\n\r\nX-Y: z\r\n\r\n", (None, Some(b" c"), 0, 12, 12)),
        ("Subject: c\r\n--b\r\nContent-Type: d\r\n\r\n", (None, Some(b" c"), 0, 12, 12)),
        ("Subject: c\r\n: none\r\nX-Y: z\r\n\r\n", (None, Some(b" c"), 0, 28, 30)),
        // A fold that has lost its blank.
        ("Content-Type: a;\r\nb=\"c\"\r\nSubject: d\r\n\r\n", (None, Some(b" d"), 0, 37, 39)),
        ("Content-Type: a;\nb=c; \nd = \"e f\"\n\n", (None, None, 0, 33, 34)),
        ("Content-Type: a\r\nb=\"c\"\r\n\r\n", (None, None, 0, 17, 17)),
        ("Subject: a;\r\nb=c\r\n\r\n", (None, Some(b" a;"), 0, 13, 13)),
    ];
    for (message, (id, subject, received, end, body)) in table {
        let expected = (id.map(<[u8]>::to_vec), subject.map(<[u8]>::to_vec), *received, Head { end: *end, body: *body });
        assert_eq!(scan(&[message.as_bytes()], 1), expected, "{message:?}");
        assert_eq!(reference(message.as_bytes()), expected, "{message:?}");
    }
}

#[test]
fn blocks_of_parts() {
    for (message, end, body) in [
        ("A: b\r\n\r\nbody", 6, 8),
        ("A: b\r\n--delimiter\r\n\r\n", 6, 6),
        ("--delimiter\r\n\r\n", 0, 0),
        ("A: b\r\n--other\r\n\r\nbody", 6, 6),
        ("A: b\r\n--other: c\r\n\r\nbody", 18, 20),
    ] {
        for before in ["", "x", "A: b\n"] {
            let message = [before, message].concat();
            let found = head(message.as_bytes(), before.len(), |at| message.as_bytes()[at..].starts_with(b"--delimiter"));
            assert_eq!(found, Head { end: before.len() + end, body: before.len() + body }, "{message:?}");
        }
    }
}

/// A mail without a blank line is no header: three hundred kilobytes of text are no header field, nor are lines of log.
#[test]
fn text_is_no_header() {
    let long = "x".repeat(300_000);
    assert_eq!(scan(&[long.as_bytes()], 1).3, Head { end: 0, body: 0 });
    let log = format!("Subject: log\r\n{}", "it was\r\nReceived: nothing\r\n".repeat(200));
    assert_eq!((scan(&[log.as_bytes()], 1).2, scan(&[log.as_bytes()], 1).3), (0, Head { end: 14, body: 14 }));
}

#[test]
fn no_more_of_a_field_is_looked_at_than_matters() {
    let message = format!("Subject: {}\r\n\r\n", "x".repeat(1 << 20));
    for pieces in [vec![message.as_bytes()], message.as_bytes().chunks(1000).collect()] {
        for goes_after in [0, 1, 2, pieces.len()] {
            let subject = scan(&pieces, goes_after).1.unwrap();
            assert_eq!(subject.len(), RAW_MAX, "{goes_after}");
            assert_eq!(subject_text(&subject).len(), 998);
        }
    }
}

#[test]
fn texts() {
    assert_eq!(message_id_text(b" <a@b> "), "<a@b>");
    assert_eq!(message_id_text(b"\r\n <a@b>"), "<a@b>");
    assert_eq!(message_id_text(b"<\xe9@b>\0"), "<\u{e9}@b>\u{fffd}");
    assert_eq!(subject_text(b" =?utf-8?q?a=0D=0AX:_b?="), "a  X: b", "no line break out of an encoded word");
    assert_eq!(subject_text(b" =?utf-8?q?=1B[2J?="), " [2J", "no escape sequence for a terminal either");
    let cut = subject_text("é".repeat(600).as_bytes());
    assert_eq!((cut.len(), cut.chars().count()), (998, 499));
    let cut = subject_text(format!("a{}", "é".repeat(600)).as_bytes());
    assert_eq!(cut.len(), 997);
    assert_eq!(message_id_text(&[b'x'; 5000]).len(), 998);
}

/// Octets in which the interesting cases are frequent.
fn header_like() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 18] = [
        b"Subject",
        b"message-id",
        b"Received",
        b"From ",
        b"\xef\xbb\xbf",
        b": ",
        b":",
        b":",
        b" ",
        b"\t",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"x",
        b"\xe9",
        b"\0",
        b"-",
    ];
    let piece = proptest::sample::select(&PIECES[..]);
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn agrees_with_the_reference_in_any_pieces(message in prop_oneof![header_like(), proptest::collection::vec(any::<u8>(), 0..400)],
            cuts in proptest::collection::vec(any::<usize>(), 0..8), goes_after in 0_usize..10) {
        let expected = reference(&message);
        prop_assert_eq!(&scan(&[&message], 1), &expected);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (message.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut pieces, mut from) = (Vec::new(), 0);
        for cut in cuts.into_iter().chain([message.len()]) {
            pieces.push(&message[from..cut]);
            from = cut;
        }
        prop_assert_eq!(&scan(&pieces, goes_after), &expected);
        let each: Vec<&[u8]> = message.chunks(1).collect();
        prop_assert_eq!(&scan(&each, goes_after), &expected);
    }

    #[test]
    fn texts_are_one_short_line(raw in prop_oneof![header_like(), proptest::collection::vec(any::<u8>(), 0..3000)]) {
        for text in [message_id_text(&raw), subject_text(&raw)] {
            prop_assert!(text.len() <= 998);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
