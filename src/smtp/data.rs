//! The octets of a message on their way in: dot-un-stuffed in place, end of data found, bare CR and LF judged, size counted. End of
//! data is CRLF.CRLF and nothing else (RFC 5321 section 4.1.1.4): only a real CRLF starts a line, so neither a bare LF nor one that
//! has been normalised can make a dot end the message or be taken off (SMTP smuggling). Logs nothing; a refusal is kept until the end.
//!
//! Ordinary mail passes in two vectorised looks per buffer (LF-dot pairs, bare newlines) and without moving an octet.

use super::Reply;
use super::newline::{self, CR, LF};
use super::reply;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Why the session itself refuses a message whose data came in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Over `max_message_size`.
    Size,
    /// A bare CR or LF under `reject`.
    BareNewline,
    /// What the driver gave to `refuse_data`.
    Other,
}

/// One message's state between two buffers.
#[derive(Debug)]
pub(super) struct Incoming {
    normalize: bool,
    pub(super) size_max: u64,
    /// Un-stuffed octets so far, also those that were not kept.
    size: u64,
    refusal: Option<(Refusal, Reply)>,
    /// DATA: the octets so far end with a real CRLF, or there are none yet.
    line_start: bool,
    /// BDAT: the octets so far end with a CR that is still to be judged.
    pub(super) after_cr: bool,
}

/// Where a buffer stands after a pass: message octets up to `clean`, what is unread up to `filled`.
pub(super) struct Pass {
    pub(super) clean: usize,
    pub(super) filled: usize,
    pub(super) end: bool,
}

/// What a dot at the start of a line means.
enum Dot {
    Absent,
    /// Its successors have not come yet.
    Undecided,
    /// The sender put it there (RFC 5321 section 4.5.2).
    Stuffed,
    /// Dot and CRLF.
    End,
}

static LF_DOT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n."));

impl Incoming {
    pub(super) fn new(normalize: bool, size_max: u64) -> Self {
        Self { normalize, size_max, size: 0, refusal: None, line_start: true, after_cr: false }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn refusal(&self) -> Option<&(Refusal, Reply)> {
        self.refusal.as_ref()
    }

    /// The first refusal wins, but a bare newline gives way to any other: which of them is met first must not depend on how the
    /// octets were split.
    pub(super) fn refuse(&mut self, refusal: Refusal, reply: Reply) {
        let weaker = match self.refusal {
            None => true,
            Some((earlier, _)) => earlier == Refusal::BareNewline && refusal != Refusal::BareNewline,
        };
        if weaker {
            self.refusal = Some((refusal, reply));
        }
    }

    /// A message with a bare newline is kept for its record; any other refusal frees the memory at once.
    pub(super) fn keeps(&self) -> bool {
        matches!(self.refusal, None | Some((Refusal::BareNewline, _)))
    }

    /// Nothing is known against the message, so its newlines still matter.
    pub(super) fn judges_newlines(&self) -> bool {
        self.refusal.is_none()
    }

    pub(super) fn normalizes(&self) -> bool {
        self.normalize
    }

    /// Un-stuffs `buf[clean..filled]`.
    pub(super) fn data(&mut self, buf: &mut [u8], clean: usize, filled: usize) -> Pass {
        let pass = self.unstuff(buf, clean, filled);
        self.count(buf, clean, pass)
    }

    /// Counts what a pass has made clean; drops it where nothing is kept any more.
    pub(super) fn count(&mut self, buf: &mut [u8], clean: usize, pass: Pass) -> Pass {
        self.size = self.size.saturating_add((pass.clean - clean) as u64);
        if self.size > self.size_max {
            self.refuse(Refusal::Size, reply::MESSAGE_TOO_LARGE);
        }
        if self.keeps() {
            return pass;
        }
        buf.copy_within(pass.clean..pass.filled, 0);
        Pass { clean: 0, filled: pass.filled - pass.clean, end: pass.end }
    }

    fn unstuff(&mut self, buf: &mut [u8], clean: usize, filled: usize) -> Pass {
        let (mut read, mut write) = (clean, clean);
        let mut end = false;
        loop {
            match self.dot(buf.get(read..filled).unwrap_or_default()) {
                Dot::Absent => {}
                Dot::Undecided => break,
                Dot::Stuffed => {
                    read += 1;
                    self.line_start = false;
                }
                Dot::End => {
                    read += 3;
                    end = true;
                    break;
                }
            }
            let unread = buf.get(read..filled).unwrap_or_default();
            let length = run_before_dot(unread);
            if length == 0 {
                break;
            }
            // With the octet behind the run, since a CR at the end is only judged by its successor.
            let judged = unread.get(..length + 1).unwrap_or(unread);
            if self.judges_newlines() && newline::bare(judged, false) {
                if self.normalize
                    && let Some(pass) = self.unstuff_normalizing(buf, write, read, filled)
                {
                    return pass;
                }
                self.refuse(Refusal::BareNewline, reply::BARE_NEWLINE);
                continue;
            }
            self.line_start = unread.get(..length).is_some_and(|run| run.ends_with(b"\r\n"));
            if write != read {
                buf.copy_within(read..read + length, write);
            }
            read += length;
            write += length;
        }
        if write != read {
            buf.copy_within(read..filled, write);
        }
        Pass { clean: write, filled: filled - (read - write), end }
    }

    /// As [`Self::unstuff`], octet groups one by one: a bare LF becomes CRLF, a stray CR a space. Neither starts a line in the sense
    /// of the protocol, so a dot behind them is an ordinary octet.
    fn unstuff_normalizing(&mut self, buf: &mut [u8], mut write: usize, read: usize, filled: usize) -> Option<Pass> {
        let mut read = newline::make_room(buf, write, read, filled)?;
        let mut end = false;
        loop {
            let unread = buf.get(read..).unwrap_or_default();
            match self.dot(unread) {
                Dot::Absent => {}
                Dot::Undecided => break,
                Dot::Stuffed => {
                    read += 1;
                    self.line_start = false;
                    continue;
                }
                Dot::End => {
                    read += 3;
                    end = true;
                    break;
                }
            }
            match unread {
                [] | [CR] => break,
                [CR, LF, ..] => {
                    write = newline::put(buf, write, b"\r\n");
                    read += 2;
                    self.line_start = true;
                }
                [CR, ..] => {
                    write = newline::put(buf, write, b" ");
                    read += 1;
                    self.line_start = false;
                }
                [LF, ..] => {
                    write = newline::put(buf, write, b"\r\n");
                    read += 1;
                    self.line_start = false;
                }
                _ => {
                    let run = memchr::memchr2(CR, LF, unread).unwrap_or(unread.len());
                    buf.copy_within(read..read + run, write);
                    read += run;
                    write += run;
                    self.line_start = false;
                }
            }
        }
        let rest = buf.len() - read;
        buf.copy_within(read.., write);
        Some(Pass { clean: write, filled: write + rest, end })
    }

    fn dot(&self, unread: &[u8]) -> Dot {
        if !self.line_start {
            return Dot::Absent;
        }
        match unread {
            [b'.'] | [b'.', CR] => Dot::Undecided,
            [b'.', CR, LF, ..] => Dot::End,
            [b'.', ..] => Dot::Stuffed,
            _ => Dot::Absent,
        }
    }
}

/// How many octets come before the next dot at the start of a line; a CR at the end waits for its successor, so that a CRLF is never
/// cut in two.
fn run_before_dot(unread: &[u8]) -> usize {
    for at in LF_DOT.find_iter(unread) {
        if at > 0 && unread.get(at - 1) == Some(&CR) {
            return at + 1;
        }
    }
    unread.len() - usize::from(unread.last() == Some(&CR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an octet-by-octet reading of the rules gives: the message, what follows it, whether a bare newline was met. `None`: no end.
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
                bare |= matches!(rest[0], b'\r' | b'\n');
                match rest[0] {
                    b'\n' if normalize => message.extend(b"\r\n"),
                    b'\r' if normalize => message.push(b' '),
                    octet => message.push(octet),
                }
                line_start = false;
                at += 1;
            }
        }
        None
    }

    /// Runs the octets through, cut as told; as [`naive`].
    fn cut(wire: &[u8], normalize: bool, cuts: &[usize], size_max: u64) -> Option<(Vec<u8>, Vec<u8>, Option<Refusal>)> {
        let mut incoming = Incoming::new(normalize, size_max);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).chain([wire.len()]).collect();
        cuts.sort_unstable();
        let (mut buf, mut clean, mut from) = (Vec::new(), 0, 0);
        for to in cuts {
            buf.extend_from_slice(&wire[from..to]);
            from = to;
            let filled = buf.len();
            if normalize {
                buf.resize(2 * filled - clean, 0xaa);
            }
            let pass = incoming.data(&mut buf, clean, filled);
            buf.truncate(pass.filled);
            clean = pass.clean;
            if pass.end {
                let mut rest = buf.split_off(clean);
                rest.extend_from_slice(&wire[from..]);
                return Some((buf, rest, incoming.refusal().map(|(refusal, _)| *refusal)));
            }
            assert!(buf.len() - clean <= 2, "only a few octets wait");
        }
        None
    }

    fn every_split(wire: &[u8], normalize: bool) -> Option<(Vec<u8>, Vec<u8>, Option<Refusal>)> {
        let whole = cut(wire, normalize, &[], u64::MAX);
        for at in 0..=wire.len() {
            assert_eq!(cut(wire, normalize, &[at], u64::MAX), whole, "cut at {at}");
        }
        let all: Vec<usize> = (0..wire.len()).collect();
        assert_eq!(cut(wire, normalize, &all, u64::MAX), whole, "octet by octet");
        whole
    }

    #[test]
    fn dots_and_ends() {
        for (wire, message, rest) in [
            (".\r\n", "", ""),
            (".\r\nQUIT\r\n", "", "QUIT\r\n"),
            ("a\r\n.\r\n", "a\r\n", ""),
            ("a\r\n.\r\n.\r\n", "a\r\n", ".\r\n"),
            ("..\r\n.\r\n", ".\r\n", ""),
            ("a\r\n..b\r\n...\r\n.c\r\n.\r\n", "a\r\n.b\r\n..\r\nc\r\n", ""),
            ("a.\r\n.\r\n", "a.\r\n", ""),
            ("a\r\n.\0\r\n.\r\n", "a\r\n\0\r\n", ""),
            ("\r\n\r\n.\r\nNOOP\n", "\r\n\r\n", "NOOP\n"),
            ("\u{ff}\r\n. \r\n.\r\n", "\u{ff}\r\n \r\n", ""),
        ] {
            for normalize in [false, true] {
                let found = every_split(wire.as_bytes(), normalize);
                assert_eq!(found, Some((message.as_bytes().to_vec(), rest.as_bytes().to_vec(), None)), "{wire:?}");
            }
        }
    }

    #[test]
    fn what_looks_like_an_end_is_none() {
        for wire in [
            "a\n.\n",
            "a\n.\r\n",
            "a\r\n.\n",
            "a\r.\r",
            "a\r\n.\r",
            "a\r.\r\n",
            "a\r\n.\r\r\n",
            "a\r\n\0.\r\n",
            "a\r\n.\0\r\n",
            "a\r\n..\r\n",
            ".",
        ] {
            for normalize in [false, true] {
                assert_eq!(every_split(wire.as_bytes(), normalize), None, "{wire:?}");
            }
        }
    }

    #[test]
    fn bare_newlines_are_refused_or_normalised() {
        for (wire, normalised) in [
            ("a\nb\r\n.\r\n", "a\r\nb\r\n"),
            ("a\n.\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\n.\r\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\r\n.\nb\r\n.\r\n", "a\r\n\r\nb\r\n"),
            ("a\r.\rb\r\n.\r\n", "a . b\r\n"),
            ("a\r\n.\rb\r\n.\r\n", "a\r\n b\r\n"),
            ("a\r\n.\r\r\n.\r\n", "a\r\n \r\n"),
            ("a\r\r\n.\r\n", "a \r\n"),
            ("\n.\r\n.\r\n", "\r\n.\r\n"),
            ("\n\n\n\n\r\n.\r\n", "\r\n\r\n\r\n\r\n\r\n"),
            ("a\n..b\r\n.\r\n", "a\r\n..b\r\n"),
        ] {
            let (message, rest, refusal) = every_split(wire.as_bytes(), true).expect("ends");
            assert_eq!((String::from_utf8_lossy(&message), rest.len(), refusal), (normalised.into(), 0, None), "{wire:?}");
            let (_, _, refusal) = every_split(wire.as_bytes(), false).expect("ends");
            assert_eq!(refusal, Some(Refusal::BareNewline), "{wire:?}");
        }
    }

    #[test]
    fn octets_behind_the_end_are_not_judged() {
        let (_, rest, refusal) = every_split(b"a\r\n.\r\nx\ry\n", false).expect("ends");
        assert_eq!((rest, refusal), (b"x\ry\n".to_vec(), None));
    }

    #[test]
    fn size_counts_unstuffed_octets() {
        let wire = b"..234\r\n.\r\n";
        assert_eq!(cut(wire, false, &[], 6), Some((b".234\r\n".to_vec(), Vec::new(), None)));
        assert_eq!(cut(wire, false, &[4], 5), Some((Vec::new(), Vec::new(), Some(Refusal::Size))));
        let grown = b"\n\n\r\n.\r\n";
        assert_eq!(cut(grown, true, &[], 5), Some((Vec::new(), Vec::new(), Some(Refusal::Size))));
    }

    #[test]
    fn a_buffer_without_the_promised_room_refuses_instead_of_writing_past_it() {
        let mut incoming = Incoming::new(true, 100);
        let mut buf = *b"a\nb\r\n.\r\n";
        let pass = incoming.data(&mut buf, 0, 8);
        assert!(pass.end);
        assert_eq!(incoming.refusal().map(|(refusal, _)| *refusal), Some(Refusal::BareNewline));
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\n".to_vec()),
            Just(b".".to_vec()),
            Just(b"\r\n.".to_vec()),
            Just(b"\r\n.\r\n".to_vec()),
            Just(b"\n.".to_vec()),
            Just(b"\0".to_vec()),
            Just(vec![b'x'; 70]),
            prop::collection::vec(any::<u8>(), 0..4),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn as_the_naive_reading(pieces in prop::collection::vec(piece(), 0..30), cuts in prop::collection::vec(any::<usize>(), 0..6),
                normalize: bool, size_max in prop_oneof![Just(u64::MAX), 0u64..200]) {
            let wire = pieces.concat();
            let expected = naive(&wire, normalize).map(|(message, rest, bare)| {
                if message.len() as u64 > size_max {
                    (Vec::new(), rest, Some(Refusal::Size))
                } else {
                    (message, rest, (bare && !normalize).then_some(Refusal::BareNewline))
                }
            });
            prop_assert_eq!(cut(&wire, normalize, &cuts, size_max), expected);
        }
    }
}
