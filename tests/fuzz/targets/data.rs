//! DATA: the octets un-stuffed in place, cut anywhere, are what an octet-by-octet reading of RFC 5321 section 4.5.2 gives, in both newline
//! modes; and the end is where that reading finds it, and nowhere else.
//!
//! The first octet: newline mode, size limit; the second the cuts.

use super::{choices, cuts, pieces};
use mailsluice::envelope::Peer;
use mailsluice::smtp::{Need, Progress, Refusal, Session, Settings};
use std::sync::Arc;

const ENVELOPE: &[u8] = b"EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";

/// The message, what follows it, why it is refused.
type Outcome = Option<(Vec<u8>, Vec<u8>, Option<Refusal>)>;

pub fn run(octets: &[u8]) {
    let (choice, octets) = choices(octets);
    let (seed, wire) = choices(octets);
    let normalize = choice & 1 == 1;
    let size_max = if choice & 2 == 2 { u64::from(choice) } else { u64::MAX };
    let expected = naive(wire, normalize).map(|(message, rest, bare)| {
        if message.len() as u64 > size_max {
            (Vec::new(), rest, Some(Refusal::Size))
        } else {
            (message, rest, (bare && !normalize).then_some(Refusal::BareNewline))
        }
    });
    assert_eq!(unstuffed(wire, normalize, size_max, &[]), expected, "whole");
    assert_eq!(unstuffed(wire, normalize, size_max, &cuts(seed, wire.len())), expected, "cut");
}

fn naive(wire: &[u8], normalize: bool) -> Option<(Vec<u8>, Vec<u8>, bool)> {
    let (mut message, mut bare, mut line_start, mut at) = (Vec::new(), false, true, 0);
    while at < wire.len() {
        let rest = &wire[at..];
        if line_start && rest[0] == b'.' {
            if rest.starts_with(b".\r\n") {
                return Some((message, rest[3..].to_vec(), bare));
            }
            line_start = false;
            at += 1;
        } else if rest.starts_with(b"\r\n") {
            message.extend(b"\r\n");
            line_start = true;
            at += 2;
        } else {
            match rest[0] {
                b'\n' if normalize => message.extend(b"\r\n"),
                b'\r' if normalize => message.push(b' '),
                octet => message.push(octet),
            }
            bare |= matches!(rest[0], b'\r' | b'\n');
            line_start = false;
            at += 1;
        }
    }
    None
}

fn in_data(normalize: bool, max_message_size: u64) -> Session {
    let settings = Settings {
        hostname: "mx.test".to_owned(),
        postmaster: "postmaster".to_owned(),
        max_message_size,
        max_recipients: 1,
        max_messages: 1,
        max_errors: 1,
        normalize_newlines: normalize,
        offer_starttls: false,
        require_tls: false,
    };
    let mut session = Session::new(Arc::new(settings), Peer { ip: [192, 0, 2, 1].into(), port: 25 });
    let mut out = Vec::new();
    let (used, need) = session.feed(ENVELOPE, &mut out);
    assert_eq!(need, Need::Recipient("b@example.test".to_owned()));
    session.recipient(Ok(()), &mut out);
    let (_, need) = session.feed(&ENVELOPE[used..], &mut out);
    assert_eq!(need, Need::Data);
    session.begin(Ok(()), &mut out);
    session
}

fn unstuffed(wire: &[u8], normalize: bool, size_max: u64, cuts: &[usize]) -> Outcome {
    let mut session = in_data(normalize, size_max);
    let (mut buf, mut clean, mut came, mut out) = (Vec::new(), 0, 0, Vec::new());
    for piece in pieces(wire, cuts) {
        buf.extend_from_slice(piece);
        came += piece.len();
        let filled = buf.len();
        if normalize {
            buf.resize(2 * filled - clean, 0xaa);
        }
        let advance = session.data(&mut buf, clean, filled, &mut out);
        buf.truncate(advance.filled);
        clean = advance.clean;
        if advance.progress != Progress::More {
            let mut rest = buf.split_off(clean);
            rest.extend_from_slice(&wire[came..]);
            return Some((buf, rest, session.refusal()));
        }
        assert!(buf.len() - clean <= 2, "only a few octets wait");
    }
    None
}
