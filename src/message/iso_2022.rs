//! Charsets that switch between sets by escapes: ISO-2022-JP (with its -1, -2 and -3), -KR, -CN, and HZ (RFC 1468, 1554, 1557, 1922, 1843).
//!
//! The standard's decoder (`encoding_rs`) knows one of them, and gives U+FFFD for the empty runs that encoders leave where one word or line
//! ends and the next begins. So the switching is done here: each run goes to the 8-bit form of its set (EUC), whose tables are `encoding_rs`'s.
//! One pass. Logs nothing, cannot fail: what has no character becomes U+FFFD.

use encoding_rs::{EUC_JP, EUC_KR, Encoding, GBK, ISO_8859_7, WINDOWS_1252};

const ESC: u8 = 0x1b;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;

/// A set of characters that can be switched to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Set {
    Ascii,
    /// Half-width katakana (JIS X 0201).
    Katakana,
    Jis0208,
    Jis0212,
    Gb2312,
    Ksc5601,
    Latin1,
    Greek,
    /// Two octets a character that no table here has (CNS 11643).
    Unknown,
}

impl Set {
    /// The set's 8-bit form, and what stands before each of its characters there.
    fn euc(self) -> Option<(&'static Encoding, &'static [u8])> {
        match self {
            Self::Jis0208 => Some((EUC_JP, b"")),
            Self::Jis0212 => Some((EUC_JP, b"\x8f")),
            Self::Katakana => Some((EUC_JP, b"\x8e")),
            Self::Gb2312 => Some((GBK, b"")),
            Self::Ksc5601 => Some((EUC_KR, b"")),
            Self::Latin1 => Some((WINDOWS_1252, b"")),
            Self::Greek => Some((ISO_8859_7, b"")),
            Self::Ascii | Self::Unknown => None,
        }
    }

    /// Octets of a character.
    fn width(self) -> usize {
        match self {
            Self::Ascii | Self::Katakana | Self::Latin1 | Self::Greek => 1,
            Self::Jis0208 | Self::Jis0212 | Self::Gb2312 | Self::Ksc5601 | Self::Unknown => 2,
        }
    }
}

/// Into which place an escape puts a set: what the octets mean, what they mean between the shifts, what a single shift takes.
enum Place {
    G0,
    G1,
    G2,
}

/// The escape at the start, as its length and its meaning.
fn escape(octets: &[u8]) -> Option<(usize, Place, Set)> {
    let two_octets = |last: u8| match last {
        b'@' | b'B' | b'O' | b'Q' => Set::Jis0208,
        b'D' | b'P' => Set::Jis0212,
        b'A' | b'E' => Set::Gb2312,
        b'C' => Set::Ksc5601,
        _ => Set::Unknown,
    };
    Some(match octets {
        [ESC, b'$', b'(', last, ..] => (4, Place::G0, two_octets(*last)),
        [ESC, b'$', b')', last, ..] => (4, Place::G1, two_octets(*last)),
        [ESC, b'$', b'*' | b'+', _, ..] => (4, Place::G2, Set::Unknown),
        [ESC, b'$', last @ (b'@' | b'A' | b'B'), ..] => (3, Place::G0, two_octets(*last)),
        [ESC, b'(', b'I', ..] => (3, Place::G0, Set::Katakana),
        // ASCII, and the national sets that differ in a few signs.
        [ESC, b'(', b'0'..=b'~', ..] => (3, Place::G0, Set::Ascii),
        [ESC, b')', b'I', ..] => (3, Place::G1, Set::Katakana),
        [ESC, b'.', b'A', ..] => (3, Place::G2, Set::Latin1),
        [ESC, b'.', b'F', ..] => (3, Place::G2, Set::Greek),
        _ => return None,
    })
}

/// Octets that switch sets: without one there is nothing but ASCII.
pub(super) fn switches(octets: &[u8]) -> bool {
    let mut rest = octets;
    while let Some(at) = memchr::memchr(ESC, rest) {
        rest = rest.get(at..).unwrap_or_default();
        if escape(rest).is_some() {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// The word goes on where the one before it stopped: its first escape leads back to ASCII, which it would else never have left.
pub(super) fn continues(word: &[u8]) -> bool {
    let at = memchr::memchr(ESC, word).unwrap_or(0);
    at > 0 && word.get(at + 1..).is_some_and(|rest| rest.starts_with(b"(B") || rest.starts_with(b"(J"))
}

/// Text out of runs.
#[derive(Default)]
struct Runs {
    out: String,
    /// Of one set, in its 8-bit form.
    euc: Vec<u8>,
    encoding: Option<&'static Encoding>,
}

impl Runs {
    fn character(&mut self, set: Set, octets: &[u8]) {
        let Some((encoding, before)) = set.euc() else {
            self.end();
            self.out.push(char::REPLACEMENT_CHARACTER);
            return;
        };
        if self.encoding != Some(encoding) {
            self.end();
            self.encoding = Some(encoding);
        }
        self.euc.extend_from_slice(before);
        self.euc.extend(octets.iter().map(|octet| octet | 0x80));
    }

    fn ascii(&mut self, octet: u8) {
        self.end();
        self.out.push(char::from(octet & 0x7f));
    }

    fn end(&mut self) {
        if let Some(encoding) = self.encoding.take() {
            self.out.push_str(&encoding.decode_without_bom_handling(&self.euc).0);
            self.euc.clear();
        }
    }
}

/// ISO-2022-JP, -KR, -CN and their kin: what the escapes say, whatever the label. `between_shifts` is what stands there before one says so:
/// half-width katakana are an old habit of ISO-2022-JP, the others may forget to name their set in a word.
pub(super) fn decode(between_shifts: Set, octets: &[u8]) -> String {
    let mut runs = Runs::default();
    let (mut g0, mut g1, mut g2, mut shifted) = (Set::Ascii, between_shifts, Set::Unknown, false);
    let mut rest = octets;
    while let Some(first) = rest.first() {
        let set = if shifted { g1 } else { g0 };
        let used = match rest {
            [ESC, b'N', character @ ..] => {
                let width = g2.width().min(character.len());
                runs.character(g2, character.get(..width).unwrap_or_default());
                2 + width
            }
            [ESC, ..] => match escape(rest) {
                Some((len, place, set)) => {
                    match place {
                        Place::G0 => g0 = set,
                        Place::G1 => g1 = set,
                        Place::G2 => g2 = set,
                    }
                    len
                }
                None => {
                    runs.ascii(ESC);
                    1
                }
            },
            [SHIFT_OUT, ..] => {
                shifted = true;
                1
            }
            [SHIFT_IN, ..] => {
                shifted = false;
                1
            }
            // Controls, line ends among them, and blanks are in no set.
            [..=b' ' | 0x7f, ..] => {
                runs.ascii(*first);
                1
            }
            [octet, ..] if set == Set::Ascii => {
                runs.ascii(*octet);
                1
            }
            _ => {
                let width = set.width();
                match rest.get(..width) {
                    Some(character) if character.iter().all(|octet| *octet > b' ') => {
                        runs.character(set, character);
                        width
                    }
                    // Half of a character.
                    _ => {
                        runs.character(Set::Unknown, &[]);
                        1
                    }
                }
            }
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    runs.end();
    runs.out
}

/// HZ: GB 2312 between `~{` and `~}`.
pub(super) fn decode_hz(octets: &[u8]) -> String {
    let mut runs = Runs::default();
    let mut chinese = false;
    let mut rest = octets;
    while let Some(first) = rest.first() {
        let used = match rest {
            [b'~', b'{', ..] => {
                chinese = true;
                2
            }
            [b'~', b'}', ..] => {
                chinese = false;
                2
            }
            [b'~', b'~', ..] if !chinese => {
                runs.ascii(b'~');
                2
            }
            // A line that goes on.
            [b'~', b'\r', b'\n', ..] => 3,
            [b'~', b'\n', ..] => 2,
            [b'\n', ..] => {
                chinese = false;
                runs.ascii(b'\n');
                1
            }
            [high @ 0x21..=0x7e, low @ 0x21..=0x7e, ..] if chinese => {
                runs.character(Set::Gb2312, &[*high, *low]);
                2
            }
            _ => {
                runs.ascii(*first);
                1
            }
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    runs.end();
    runs.out
}

#[cfg(test)]
mod tests {
    use super::{Set, continues, decode_hz, switches};
    use proptest::prelude::*;

    fn decode(octets: &[u8]) -> String {
        super::decode(Set::Katakana, octets)
    }

    #[test]
    fn escapes() {
        let table: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"plain ~ English\r\n", "plain ~ English\r\n"),
            (b"\x1b$B%F%9%H\x1b(B ok", "テスト ok"),
            // Empty runs, both ways to name the set, a run over a line end.
            (b"\x1b$B%F\x1b(B\x1b$B%9%H\x1b(B\x1b(B", "テスト"),
            (b"\x1b$@%F\x1b(J\x1b$(B%9%H", "テスト"),
            (b"\x1b$B%F\r\n%9\x1b(B", "テ\r\nス"),
            (b"\x1b$B%F%\x1b(Bx", "テ\u{fffd}x"),
            // Katakana of half width in each form.
            (b"\x1b(IC=D\x1b(B|\x0eC=D\x0f|", "ﾃｽﾄ|ﾃｽﾄ|"),
            (b"\x1b$(D0!\x1b(B", "丂"),
            // -2: Chinese, Korean, Latin and Greek in between.
            (b"\x1b$AVPND\x1b$(C>\x55\x33\x67\x1b(B", "中文앞녕"),
            (b"\x1b.Acaf\x1bNi\x1b.F\x1bNa", "caféα"),
            // -KR and -CN.
            (b"\x1b$)C\x0eGQ19\x0f ok", "한국 ok"),
            (b"\x1b$)A\x0eDc:C\x0f!\n", "你好!\n"),
            (b"\x1b$)G\x0eD!\x0f.", "\u{fffd}."),
            // Escapes that are none of these.
            (b"\x1b[2J", "\u{1b}[2J"),
            (b"\x1b", "\u{1b}"),
        ];
        for (octets, expected) in table {
            assert_eq!(decode(octets), *expected, "{}", octets.escape_ascii());
        }
        assert!(switches(b"\x1b \x1b$B") && !switches(b"\x1b[0m ~{"));
        assert!(continues(b"%9%H\x1b(B") && !continues(b"\x1b$B%9\x1b(B") && !continues(b"ok"));
    }

    #[test]
    fn tildes() {
        let table: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            (b"~{Dc:C~}, a~~b", "你好, a~b"),
            (b"~{Dc~\n:C~}", "你好"),
            (b"~{Dc\nopen", "你\nopen"),
            (b"~", "~"),
            (b"~{D", "D"),
        ];
        for (octets, expected) in table {
            assert_eq!(decode_hz(octets), *expected, "{}", octets.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_text_no_longer_than_three_for_one(octets in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x1b), Just(b'$'), Just(b'('), Just(b'~')], 0..200)) {
            prop_assert!(decode(&octets).len() <= 3 * octets.len());
            prop_assert!(decode_hz(&octets).len() <= 3 * octets.len());
        }
    }
}
