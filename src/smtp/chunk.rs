//! BDAT (RFC 3030): the command's argument, and a chunk's octets, which are taken as they are but for the newline rule. A CR that ends
//! one chunk and the LF that starts the next are one line end. Logs nothing.

use super::data::{Incoming, Pass, Refusal};
use super::newline::{self, CR, LF};
use super::reply;

/// `BDAT size [LAST]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) size: u64,
    pub(super) last: bool,
}

impl Chunk {
    /// `None` if it is anything else: then nobody knows where the chunk ends.
    pub(super) fn parse(argument: &str) -> Option<Self> {
        let mut words = argument.split_ascii_whitespace();
        let size = words.next().and_then(octets)?;
        match (words.next(), words.next()) {
            (None, _) => Some(Self { size, last: false }),
            (Some(last), None) if last.eq_ignore_ascii_case("LAST") => Some(Self { size, last: true }),
            _ => None,
        }
    }
}

/// Digits only: `+5` is a number to `parse`, but no size to RFC 3030.
fn octets(word: &str) -> Option<u64> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

impl Incoming {
    /// A chunk of that size is to come: one that must make the message too large need not be kept at all.
    pub(super) fn announce(&mut self, size: u64) {
        if self.size().saturating_add(size) > self.size_max {
            self.refuse(Refusal::Size, reply::MESSAGE_TOO_LARGE);
        }
    }

    /// Takes the next `length` octets of a chunk, `buf[clean..clean + length]`; `end`: they are the message's last.
    pub(super) fn chunk(&mut self, buf: &mut [u8], clean: usize, filled: usize, length: usize, end: bool) -> Pass {
        let mut pass = self.take(buf, clean, filled, length);
        if end && self.after_cr {
            self.after_cr = false;
            self.bare_cr(buf, pass.clean);
        }
        pass.end = end;
        self.count(buf, clean, pass)
    }

    fn take(&mut self, buf: &mut [u8], clean: usize, filled: usize, length: usize) -> Pass {
        let octets = buf.get(clean..clean + length).unwrap_or_default();
        let ends_with_cr = octets.last().map_or(self.after_cr, |last| *last == CR);
        if self.judges_newlines() && newline::bare(octets, self.after_cr) {
            if self.normalizes()
                && let Some(pass) = self.take_normalizing(buf, clean, filled, length)
            {
                return pass;
            }
            self.refuse(Refusal::BareNewline, reply::BARE_NEWLINE);
        }
        self.after_cr = ends_with_cr;
        Pass { clean: clean + length, filled, end: false }
    }

    fn take_normalizing(&mut self, buf: &mut [u8], clean: usize, filled: usize, length: usize) -> Option<Pass> {
        let mut write = clean;
        let mut read = newline::make_room(buf, write, clean, filled)?;
        let stop = read + length;
        if self.after_cr && buf.get(read) != Some(&LF) {
            self.bare_cr(buf, write);
            self.after_cr = false;
        }
        while let unread @ [first, ..] = buf.get(read..stop).unwrap_or_default() {
            let after_cr = std::mem::take(&mut self.after_cr);
            match unread {
                [LF, ..] if after_cr => {
                    write = newline::put(buf, write, b"\n");
                    read += 1;
                }
                [LF, ..] => {
                    write = newline::put(buf, write, b"\r\n");
                    read += 1;
                }
                // Kept as it is until the octet behind it is known.
                [CR] | [CR, LF, ..] => {
                    write = newline::put(buf, write, b"\r");
                    read += 1;
                    self.after_cr = true;
                }
                _ if *first == CR => {
                    write = newline::put(buf, write, b" ");
                    read += 1;
                }
                _ => {
                    let run = memchr::memchr2(CR, LF, unread).unwrap_or(unread.len());
                    buf.copy_within(read..read + run, write);
                    read += run;
                    write += run;
                }
            }
        }
        let rest = buf.len() - read;
        buf.copy_within(read.., write);
        Some(Pass { clean: write, filled: write + rest, end: false })
    }

    /// The last clean octet is a CR that no LF follows.
    fn bare_cr(&mut self, buf: &mut [u8], clean: usize) {
        if !self.judges_newlines() {
            return;
        }
        if !self.normalizes() {
            self.refuse(Refusal::BareNewline, reply::BARE_NEWLINE);
        } else if let Some(cr) = clean.checked_sub(1).and_then(|at| buf.get_mut(at)) {
            *cr = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn arguments() {
        let chunk = |size, last| Some(Chunk { size, last });
        for (argument, expected) in [
            ("0", chunk(0, false)),
            ("86", chunk(86, false)),
            ("86 LAST", chunk(86, true)),
            ("0  last", chunk(0, true)),
            ("18446744073709551615", chunk(u64::MAX, false)),
            ("18446744073709551616", None),
            ("", None),
            ("LAST", None),
            ("-1", None),
            ("+1", None),
            ("1x LAST", None),
            ("0x10", None),
            ("5 FIRST", None),
            ("5 LAST LAST", None),
        ] {
            assert_eq!(Chunk::parse(argument), expected, "{argument:?}");
        }
    }

    /// The message and whether it was refused, its octets given in these pieces.
    fn pieces(pieces: &[&[u8]], normalize: bool) -> (Vec<u8>, bool) {
        let mut incoming = Incoming::new(normalize, u64::MAX);
        let (mut buf, mut clean) = (Vec::new(), 0);
        for (index, piece) in pieces.iter().enumerate() {
            // Commands of the next message lie behind the chunk already.
            buf.extend_from_slice(piece);
            buf.extend_from_slice(b"\nNOOP\r");
            let filled = buf.len();
            buf.resize(2 * filled, 0xaa);
            let pass = incoming.chunk(&mut buf, clean, filled, piece.len(), index + 1 == pieces.len());
            assert_eq!(buf.get(pass.clean..pass.filled), Some(&b"\nNOOP\r"[..]));
            clean = pass.clean;
            buf.truncate(clean);
        }
        (buf, incoming.refusal().is_some())
    }

    #[test]
    fn line_ends_over_chunk_borders() {
        for (parts, normalised, bare) in [
            (&["a\r", "\nb"][..], "a\r\nb", false),
            (&["a\r", "", "\nb"], "a\r\nb", false),
            (&["a\r", "b"], "a b", true),
            (&["a\r", "\r\n"], "a \r\n", true),
            (&["a\r", ""], "a ", true),
            (&["a\r"], "a ", true),
            (&["a", "\nb"], "a\r\nb", true),
            (&["a\r\n", "\nb\r", "\n.\r\n"], "a\r\n\r\nb\r\n.\r\n", true),
            (&[".\r\n..\r\n"], ".\r\n..\r\n", false),
            (&["\0\r\n"], "\0\r\n", false),
            (&[""], "", false),
        ] {
            let octets: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            assert_eq!(pieces(&octets, true), (normalised.as_bytes().to_vec(), false), "{parts:?}");
            assert_eq!(pieces(&octets, false), (parts.concat().into_bytes(), bare), "{parts:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_split_is_the_same_message(octets in prop::collection::vec(prop::sample::select(b"\r\n.x\0".to_vec()), 0..40),
                cuts in prop::collection::vec(any::<usize>(), 0..5), normalize: bool) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
            cuts.sort_unstable();
            let mut split = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([octets.len()]) {
                split.push(&octets[from..cut]);
                from = cut;
            }
            let whole = pieces(&[&octets], normalize);
            prop_assert_eq!(&pieces(&split, normalize), &whole);
            prop_assert!(whole.1 || !newline::bare(&whole.0, false));
        }
    }
}
