//! DATA: the octets un-stuffed in place, cut anywhere, are what an octet-by-octet reading of RFC 5321 section 4.5.2 gives, in both newline
//! modes; and the end is where that reading finds it, and nowhere else.
//!
//! The first octet: newline mode, size limit; the second the cuts.

use super::{choices, cuts, pieces};
use mailsluice::smtp::{Incoming, Refusal};

/// The message, what follows it, why it is refused.
type Outcome = Option<(Vec<u8>, Vec<u8>, Option<Refusal>)>;

pub fn run(octets: &[u8]) {
    let (choice, octets) = choices(octets);
    let (seed, wire) = choices(octets);
    let normalize = choice & 1 == 1;
    let size_max = if choice & 2 == 2 { u64::from(choice) } else { u64::MAX };
    let expected = naive(wire, normalize).map(|(message, rest, bare)| {
        if message.len() as u64 > size_max {
            (message, rest, Some(Refusal::Size))
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

fn unstuffed(wire: &[u8], normalize: bool, size_max: u64, cuts: &[usize]) -> Outcome {
    let mut incoming = Incoming::new(normalize, size_max);
    let (mut buf, mut clean, mut came) = (Vec::new(), 0, 0);
    for piece in pieces(wire, cuts) {
        buf.extend_from_slice(piece);
        came += piece.len();
        let filled = buf.len();
        let mut pass = incoming.data(&mut buf, clean, filled);
        if pass.cramped {
            buf.resize(pass.room(), 0xaa);
            pass = incoming.data(&mut buf, pass.clean, pass.filled);
            assert!(!pass.cramped, "the room that was asked for");
        }
        buf.truncate(pass.filled);
        clean = pass.clean;
        if pass.end {
            let mut rest = buf.split_off(clean);
            rest.extend_from_slice(&wire[came..]);
            return Some((buf, rest, incoming.refusal()));
        }
        assert!(buf.len() - clean <= 2, "only a few octets wait");
    }
    None
}
