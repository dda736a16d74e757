//! BDAT (RFC 3030): the command's argument, and a chunk's octets, which are taken as they are but for the newline rule. A CR that ends
//! one chunk and the LF that starts the next are one line end. Logs nothing.

use super::data::{Incoming, Pass};
use super::newline::{self, CR, LF};

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
    /// Takes `buf[clean..filled]`, octets of one chunk (the waiting one of the last pass first); `last`: they are the message's last.
    pub fn chunk(&mut self, buf: &mut [u8], clean: usize, filled: usize, last: bool) -> Pass {
        let filled = filled.min(buf.len());
        let clean = clean.min(filled);
        let octets = buf.get(clean..filled).unwrap_or_default();
        // A CR at the end is nothing yet: the octet behind it says what it is, or the end of the message does.
        let waits = !last && octets.last() == Some(&CR);
        let bare = self.judges_newlines() && (newline::bare(octets, false) || (last && octets.last() == Some(&CR)));
        self.after_cr = waits;
        let pass = if bare && self.normalizes() {
            self.take_normalizing(buf, clean, filled, waits)
        } else {
            self.bare_newline |= bare;
            Pass { clean: filled - usize::from(waits), filled, end: last, cramped: false }
        };
        self.count(clean, Pass { end: last && !pass.cramped, ..pass })
    }

    fn take_normalizing(&mut self, buf: &mut [u8], clean: usize, filled: usize, waits: bool) -> Pass {
        let mut write = clean;
        let Some(mut read) = newline::make_room(buf, write, clean, filled) else {
            return Pass { clean, filled, end: false, cramped: true };
        };
        let stop = buf.len() - usize::from(waits);
        while let unread @ [first, ..] = buf.get(read..stop).unwrap_or_default() {
            match unread {
                [CR, LF, ..] => {
                    write = newline::put(buf, write, b"\r\n");
                    read += 2;
                }
                [LF, ..] => {
                    write = newline::put(buf, write, b"\r\n");
                    read += 1;
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
        if waits {
            newline::put(buf, write, b"\r");
        }
        Pass { clean: write, filled: write + usize::from(waits), end: false, cramped: false }
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
            buf.extend_from_slice(piece);
            let last = index + 1 == pieces.len();
            let filled = buf.len();
            let mut pass = incoming.chunk(&mut buf, clean, filled, last);
            if pass.cramped {
                buf.resize(pass.room(), 0xaa);
                pass = incoming.chunk(&mut buf, pass.clean, pass.filled, last);
            }
            assert!(pass.end == last && !pass.cramped && pass.filled - pass.clean <= usize::from(!last));
            clean = pass.clean;
            buf.truncate(pass.filled);
            assert_eq!(incoming.size(), clean as u64);
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
