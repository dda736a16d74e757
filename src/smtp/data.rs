//! The octets of a message on their way in: dot-un-stuffed in place, end of data found, bare CR and LF judged, size counted. End of
//! data is CRLF.CRLF and nothing else (RFC 5321 section 4.1.1.4): only a real CRLF starts a line, so neither a bare LF nor one that
//! has been normalised can make a dot end the message or be taken off (SMTP smuggling). Logs nothing; a refusal is kept until the end.
//!
//! Ordinary mail passes in two vectorised looks per buffer (LF-dot pairs, bare newlines) and without moving an octet.

use super::newline::{self, CR, LF};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Why the protocol itself refuses a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Over `max_message_size`.
    Size,
    /// A bare CR or LF under `reject`.
    BareNewline,
}

/// One message's state between two buffers. Whoever keeps the octets and whoever drops them asks it the same, so that size, hash and
/// fields do not depend on which of them it was.
#[derive(Debug)]
pub struct Incoming {
    normalize: bool,
    size_max: u64,
    /// Clean octets so far.
    size: u64,
    too_large: bool,
    pub(super) bare_newline: bool,
    /// DATA: the octets so far end with a real CRLF, or there are none yet.
    line_start: bool,
    /// BDAT: the last octet that was judged is a CR whose successor is not known.
    pub(super) after_cr: bool,
}

/// Where a buffer stands after a pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Pass {
    /// `buf[..clean]` are message octets for good.
    pub clean: usize,
    /// `buf[clean..filled]` wait for their successors (a few octets such as `CR LF .`); behind the end of data they are what follows it.
    pub filled: usize,
    /// End of data.
    pub end: bool,
    /// Nothing is wrong, but each of the waiting octets may become two: call again with a buffer of [`Pass::room`] octets.
    pub cramped: bool,
}

impl Pass {
    /// How long the buffer has to be.
    #[must_use]
    pub fn room(&self) -> usize {
        self.filled + (self.filled - self.clean)
    }
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
    #[must_use]
    pub fn new(normalize: bool, size_max: u64) -> Self {
        Self { normalize, size_max, size: 0, too_large: false, bare_newline: false, line_start: true, after_cr: false }
    }

    /// Message octets so far, un-stuffed.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Which of them is met first depends on how the octets were split, so size always wins.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let newline = || self.bare_newline.then_some(Refusal::BareNewline);
        self.too_large.then_some(Refusal::Size).or_else(newline)
    }

    /// A chunk of that size is to come: one that must make the message too large need not be kept at all.
    pub fn announce(&mut self, size: u64) {
        self.too_large |= self.size.saturating_add(u64::from(self.after_cr)).saturating_add(size) > self.size_max;
    }

    /// Un-stuffs `buf[clean..filled]`: what has been read since the last pass, the waiting octets of that one first.
    pub fn data(&mut self, buf: &mut [u8], clean: usize, filled: usize) -> Pass {
        let filled = filled.min(buf.len());
        let clean = clean.min(filled);
        let pass = self.unstuff(buf, clean, filled);
        self.count(clean, pass)
    }

    /// Counts what a pass has made clean.
    pub(super) fn count(&mut self, clean: usize, pass: Pass) -> Pass {
        self.size = self.size.saturating_add(pass.clean.saturating_sub(clean) as u64);
        self.too_large |= self.size > self.size_max;
        pass
    }

    /// What is bare is refused, and once is enough.
    pub(super) fn judges_newlines(&self) -> bool {
        self.normalize || !self.bare_newline
    }

    pub(super) fn normalizes(&self) -> bool {
        self.normalize
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
                if self.normalize {
                    return self.unstuff_normalizing(buf, write, read, filled);
                }
                self.bare_newline = true;
                continue;
            }
            self.line_start = unread.get(..length).is_some_and(|run| run.ends_with(b"\r\n"));
            if write != read {
                buf.copy_within(read..read + length, write);
            }
            read += length;
            write += length;
        }
        Self::close_gap(buf, write, read, filled, end)
    }

    fn close_gap(buf: &mut [u8], write: usize, read: usize, filled: usize, end: bool) -> Pass {
        if write != read {
            buf.copy_within(read..filled, write);
        }
        Pass { clean: write, filled: filled - (read - write), end, cramped: false }
    }

    /// As [`Self::unstuff`], octet groups one by one: a bare LF becomes CRLF, a stray CR a space. Neither starts a line in the sense
    /// of the protocol, so a dot behind them is an ordinary octet.
    fn unstuff_normalizing(&mut self, buf: &mut [u8], mut write: usize, read: usize, filled: usize) -> Pass {
        let Some(mut read) = newline::make_room(buf, write, read, filled) else {
            return Pass { cramped: true, ..Self::close_gap(buf, write, read, filled, false) };
        };
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
        Pass { clean: write, filled: write + rest, end, cramped: false }
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
            let mut pass = incoming.data(&mut buf, clean, filled);
            if pass.cramped {
                assert!(normalize);
                buf.resize(pass.room(), 0xaa);
                pass = incoming.data(&mut buf, pass.clean, pass.filled);
                assert!(!pass.cramped);
            }
            buf.truncate(pass.filled);
            clean = pass.clean;
            if pass.end {
                let mut rest = buf.split_off(clean);
                rest.extend_from_slice(&wire[from..]);
                assert_eq!(incoming.size(), buf.len() as u64);
                return Some((buf, rest, incoming.refusal()));
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
        assert_eq!(cut(wire, false, &[4], 5), Some((b".234\r\n".to_vec(), Vec::new(), Some(Refusal::Size))));
        let grown = b"\n\n\r\n.\r\n";
        assert_eq!(cut(grown, true, &[], 5), Some((b"\r\n\r\n\r\n".to_vec(), Vec::new(), Some(Refusal::Size))));
    }

    #[test]
    fn a_buffer_that_is_too_short_is_said_to_be() {
        let mut incoming = Incoming::new(true, 100);
        let mut buf = *b"ok\r\na\nb\r\n.\r\n";
        let pass = incoming.data(&mut buf, 0, 12);
        assert_eq!(pass, Pass { clean: 0, filled: 12, end: false, cramped: true });
        assert_eq!((pass.room(), incoming.size()), (24, 0));
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
                    (message, rest, Some(Refusal::Size))
                } else {
                    (message, rest, (bare && !normalize).then_some(Refusal::BareNewline))
                }
            });
            prop_assert_eq!(cut(&wire, normalize, &cuts, size_max), expected);
        }
    }
}
