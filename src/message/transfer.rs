//! Content transfer encodings (RFC 2045 section 6): decoded leniently, and base64 to base64 without decoding.
//!
//! Base64 may come in several pieces, each with its padding, as gateways append to it; what stands behind a padding and is no base64 is no
//! content. Characters outside the alphabet are ignored (section 6.8). Logs nothing, cannot fail.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::memchr;
use std::borrow::Cow;

/// No padding asked for, stray bits in the last character ignored.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone).with_decode_allow_trailing_bits(true),
);

/// How much is encoded at a time; a multiple of three.
const BLOCK: usize = 3 * 1024;

/// How much is looked at to see whether it is what it is said to be.
const SAMPLE: usize = 4 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 7bit, 8bit, binary, absent, unknown.
    Identity,
    Base64,
    QuotedPrintable,
    /// As Unix had it before MIME.
    Uuencode,
}

impl Encoding {
    /// By its name, of letters and digits in lower case, and what it is said of: what is no such encoding is taken as it came.
    #[must_use]
    pub fn of(name: &str, octets: &[u8], is_text: bool) -> Self {
        match name {
            "base64" | "b64" | "base" if is_base64(octets, is_text) => Self::Base64,
            "qp" => Self::QuotedPrintable,
            // "printable" is often misspelt, or another word.
            _ if name.starts_with("quoted") => Self::QuotedPrintable,
            "uuencode" | "uuencoded" | "uue" if uu_lines(octets).is_some() => Self::Uuencode,
            _ => Self::Identity,
        }
    }

    #[must_use]
    pub fn decode(self, octets: &[u8]) -> Cow<'_, [u8]> {
        if self == Self::Identity {
            return Cow::Borrowed(octets);
        }
        let mut out = Vec::with_capacity(self.decoded_max(octets.len()));
        self.decode_into(octets, &mut out);
        Cow::Owned(out)
    }

    /// Appends the content; at most [`Self::decoded_max`] octets.
    pub fn decode_into(self, octets: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Identity => out.extend_from_slice(octets),
            Self::Base64 => decode_base64(octets, out),
            Self::QuotedPrintable => decode_quoted_printable(octets, out),
            Self::Uuencode => decode_uu(octets, out),
        }
    }

    /// Most octets that `len` encoded ones can decode to.
    #[must_use]
    pub fn decoded_max(self, len: usize) -> usize {
        match self {
            Self::Base64 => len.div_ceil(4) * 3,
            Self::Identity | Self::QuotedPrintable | Self::Uuencode => len,
        }
    }

    /// Most characters that [`Self::to_base64`] can append.
    #[must_use]
    pub fn base64_max(self, len: usize) -> usize {
        match self {
            Self::Base64 => len.saturating_add(4),
            Self::Identity | Self::QuotedPrintable | Self::Uuencode => len.div_ceil(3).saturating_mul(4),
        }
    }

    /// How many octets the encoded ones decode to.
    #[must_use]
    pub fn decoded_len(self, octets: &[u8]) -> usize {
        match self {
            Self::Identity => octets.len(),
            Self::Base64 => segments(octets).map(segment_len).sum(),
            Self::QuotedPrintable | Self::Uuencode => self.decode(octets).len(),
        }
    }

    /// Appends the content as plain base64 without line ends; returns how many octets it stands for.
    pub fn to_base64(self, octets: &[u8], out: &mut Vec<u8>) -> usize {
        match self {
            Self::Base64 => base64_to_base64(octets, out),
            Self::Identity => encode(octets, out),
            Self::QuotedPrintable | Self::Uuencode => encode(&self.decode(octets), out),
        }
    }
}

fn encode(octets: &[u8], out: &mut Vec<u8>) -> usize {
    let mut block = [0; BLOCK / 3 * 4];
    for chunk in octets.chunks(BLOCK) {
        // The block has room for any chunk, so this cannot fail.
        let written = STANDARD.encode_slice(chunk, &mut block).unwrap_or_default();
        out.extend_from_slice(block.get(..written).unwrap_or_default());
    }
    octets.len()
}

/// Base64 as it stands in a message to base64 without line ends: where it is as it should be, only lines are copied.
fn base64_to_base64(octets: &[u8], out: &mut Vec<u8>) -> usize {
    let mut all = segments(octets);
    let (first, second) = (all.next().unwrap_or_default(), all.next());
    if second.is_some() {
        return recoded(octets, out);
    }
    let start = out.len();
    each_run(first, |run| out.extend_from_slice(run));
    let characters = out.len() - start;
    // The last, incomplete group is made canonical: its stray bits go, its padding comes.
    let last = out.len() - characters % 4;
    let tail: Vec<u8> = out.drain(last..).collect();
    let mut rest = Vec::with_capacity(3);
    decode_run(&tail, &mut rest);
    encode(&rest, out);
    characters / 4 * 3 + rest.len()
}

/// Several pieces as one, decoded block by block.
fn recoded(octets: &[u8], out: &mut Vec<u8>) -> usize {
    let mut len = 0;
    let mut waiting = Vec::with_capacity(BLOCK * 4);
    decode_blocks(octets, &mut waiting, |waiting| {
        let whole = waiting.len() - waiting.len() % 3;
        len += encode(waiting.get(..whole).unwrap_or_default(), out);
        waiting.drain(..whole);
    });
    len + encode(&waiting, out)
}

/// Appends what base64 stands for.
pub(super) fn decode_base64(octets: &[u8], out: &mut Vec<u8>) {
    decode_blocks(octets, out, |_| {});
}

/// Appends it block by block; `each` sees what is there.
fn decode_blocks(octets: &[u8], out: &mut Vec<u8>, mut each: impl FnMut(&mut Vec<u8>)) {
    let mut clean = Vec::with_capacity(BLOCK * 4);
    for segment in segments(octets) {
        each_run(segment, |run| {
            for piece in run.chunks(BLOCK) {
                clean.extend_from_slice(piece);
                if clean.len() >= BLOCK {
                    let whole = clean.len() - clean.len() % 4;
                    decode_run(clean.get(..whole).unwrap_or_default(), out);
                    clean.drain(..whole);
                    each(out);
                }
            }
        });
        decode_run(&clean, out);
        clean.clear();
        each(out);
    }
}

/// Octets that a piece stands for.
fn segment_len(segment: &[u8]) -> usize {
    let mut characters = 0;
    each_run(segment, |run| characters += run.len());
    // Two characters make an octet, three make two; one alone makes none.
    characters / 4 * 3 + (characters % 4).saturating_sub(1)
}

/// The pieces of base64 that stand one behind another, each without its padding. Behind the first one only what is whole counts.
fn segments(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(octets);
    let mut is_first = true;
    std::iter::from_fn(move || {
        let here = rest.take()?;
        let (segment, behind) = match memchr(b'=', here) {
            Some(end) => here.split_at_checked(end)?,
            None => (here, &[][..]),
        };
        let next = behind.iter().position(|octet| !(*octet == b'=' || octet.is_ascii_whitespace()));
        let (padding, next) = behind.split_at_checked(next.unwrap_or(behind.len()))?;
        rest = (!next.is_empty()).then_some(next);
        if !std::mem::take(&mut is_first) {
            let padding = padding.iter().filter(|octet| **octet == b'=').count();
            let (characters, strays) = count(segment);
            if strays > 0 || padding > 2 || !(characters + padding).is_multiple_of(4) {
                rest = None;
                return None;
            }
        }
        Some(segment)
    })
}

/// Characters of the alphabet, and what does not belong into base64: others, and blanks within a line.
fn count(octets: &[u8]) -> (usize, usize) {
    let (mut characters, mut strays) = (0, 0);
    for line in octets.split(|octet| *octet == b'\n') {
        let line = line.trim_ascii();
        let here = line.iter().filter(|octet| in_alphabet(**octet)).count();
        characters += here;
        strays += line.len() - here;
    }
    (characters, strays)
}

/// What is said to be base64 may be a text as it is: then much of it is outside the alphabet, or what it would decode to is no text.
fn is_base64(octets: &[u8], is_text: bool) -> bool {
    let sample = octets.get(..SAMPLE).unwrap_or(octets);
    let before_padding = memchr(b'=', sample).and_then(|end| sample.get(..end)).unwrap_or(sample);
    let (characters, strays) = count(before_padding);
    if strays > 8 && strays * 8 > characters {
        return false;
    }
    let behind = octets.get(before_padding.len()..).unwrap_or_default();
    let padding = behind.iter().take_while(|octet| **octet == b'=').take(3).count();
    let whole = strays == 0
        && if padding > 0 { (characters + padding).is_multiple_of(4) } else { characters.is_multiple_of(4) || behind.len() > 1 };
    if whole || !is_text {
        return true;
    }
    if strays > 0 && characters < 8 {
        return false;
    }
    let mut decoded = Vec::with_capacity(SAMPLE);
    decode_base64(before_padding, &mut decoded);
    let is_odd = |octet: &u8| (*octet < b' ' && !octet.is_ascii_whitespace() && *octet != 0x1b && *octet != 0) || *octet == 0x7f;
    let controls = decoded.iter().filter(|octet| is_odd(octet)).count();
    // The sample may end within a character.
    let is_utf_8 = std::str::from_utf8(&decoded).err().is_none_or(|error| error.error_len().is_none());
    // Of any octets an eighth are controls; of those that words in lower case stand for, fewer.
    !decoded.is_empty() && controls * 32 <= decoded.len() && (is_utf_8 || decoded.len() > 16 && strays <= 8)
}

/// Characters of the alphabet only, to octets; one character that is left over is less than an octet.
fn decode_run(run: &[u8], out: &mut Vec<u8>) {
    let len = if run.len() % 4 == 1 { run.len() - 1 } else { run.len() };
    // Nothing else can be wrong with them, so this does not fail.
    if let Err(error) = LENIENT.decode_vec(run.get(..len).unwrap_or_default(), out) {
        tracing::error!(%error, "base64 of the alphabet alone was not decoded");
    }
}

/// Calls `take` with the runs of characters of the alphabet.
fn each_run(segment: &[u8], mut take: impl FnMut(&[u8])) {
    let mut rest = segment;
    while !rest.is_empty() {
        let (line, next) = match memchr(b'\n', rest) {
            Some(end) => rest.split_at_checked(end).unwrap_or((rest, &[])),
            None => (rest, &[][..]),
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Without a branch per octet, so that it is done in vectors.
        if line.iter().fold(true, |all, octet| all & in_alphabet(*octet)) {
            take(line);
        } else {
            line.split(|octet| !in_alphabet(*octet)).for_each(&mut take);
        }
        rest = next.get(1..).unwrap_or_default();
    }
}

fn in_alphabet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() | (octet == b'+') | (octet == b'/')
}

/// Quoted-printable (RFC 2045 section 6.7): blanks before a line end are no content, broken escapes stand for themselves.
fn decode_quoted_printable(octets: &[u8], out: &mut Vec<u8>) {
    let mut rest = octets;
    while !rest.is_empty() {
        let (line, next) = match memchr(b'\n', rest) {
            Some(end) => rest.split_at_checked(end + 1).unwrap_or((rest, &[])),
            None => (rest, &[][..]),
        };
        rest = next;
        let content = line.trim_ascii_end();
        match content.strip_suffix(b"=") {
            // A soft line break.
            Some(content) => escapes(content, out),
            None => {
                escapes(content, out);
                out.extend_from_slice(line_end(line));
            }
        }
    }
}

fn line_end(line: &[u8]) -> &[u8] {
    match line {
        [.., b'\r', b'\n'] => b"\r\n",
        [.., b'\n'] => b"\n",
        _ => b"",
    }
}

fn escapes(content: &[u8], out: &mut Vec<u8>) {
    let mut rest = content;
    while let Some(at) = memchr(b'=', rest) {
        let (before, escape) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        rest = match escape {
            [_, high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                after
            }
            _ => {
                out.push(b'=');
                escape.get(1..).unwrap_or_default()
            }
        };
    }
    out.extend_from_slice(rest);
}

/// The lines between `begin` and `end`.
fn uu_lines(octets: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut lines = octets.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.find(|line| {
        let mode = line.strip_prefix(b"begin ").unwrap_or_default();
        mode.iter().take_while(|octet| matches!(octet, b'0'..=b'7')).count() >= 3
    })?;
    Some(lines.take_while(|line| *line != b"end"))
}

/// Each line says how many octets it stands for; four characters are three of them.
fn decode_uu(octets: &[u8], out: &mut Vec<u8>) {
    let value = |character: u8| character.wrapping_sub(b' ') & 0x3f;
    for line in uu_lines(octets).into_iter().flatten() {
        let Some((len, characters)) = line.split_first() else { continue };
        let mut left = usize::from(value(*len));
        for group in characters.chunks(4) {
            let mut bits = 0_u32;
            for at in 0..4 {
                bits = bits << 6 | group.get(at).map_or(0, |character| u32::from(value(*character)));
            }
            // A line that was cut stands for less than it says.
            let here = left.min(3).min(group.len() * 3 / 4);
            out.extend_from_slice(bits.to_be_bytes().get(1..1 + here).unwrap_or_default());
            left -= here;
        }
    }
}

/// Value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::Encoding::{Base64, Identity, QuotedPrintable, Uuencode};
    use super::{Encoding, STANDARD};
    use base64::Engine;
    use proptest::prelude::*;

    fn to_base64(encoding: Encoding, octets: &[u8]) -> (String, usize) {
        let mut out = b"before".to_vec();
        let size = encoding.to_base64(octets, &mut out);
        assert!(out.len() - 6 <= encoding.base64_max(octets.len()));
        (String::from_utf8(out[6..].to_vec()).unwrap(), size)
    }

    #[test]
    fn base64_in_the_wild() {
        let table: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"YWJj", b"abc"),
            (b"YWJj\r\nZGVm\r\n", b"abcdef"),
            (b"YW\r\nJjZ\nGVm", b"abcdef"),
            (b"YWI=", b"ab"),
            (b"YWI", b"ab"),
            (b"YQ==\r\n", b"a"),
            (b"YQ\r\n==", b"a"),
            (b"YR==", b"a"),
            (b"Y", b""),
            (b"YWJjZ", b"abc"),
            (b"Y W J j", b"abc"),
            (b"YW*J\xffj", b"abc"),
            (b"YWI=\r\n____\r\nMailing list", b"ab"),
            (b"YWI=\r\nUnsubscribe\r\n", b"ab"),
            // Several pieces.
            (b"YWI=\r\nY2Q=\r\n", b"abcd"),
            (b"YWI=Y2Q=", b"abcd"),
            (b"YQ==\r\nYWJj\r\nZGVm\r\n", b"aabcdef"),
            (b"YQ==YQ==\r\nYQ==\r\n--\r\nlist", b"aaa"),
            (b"====", b""),
        ];
        for (encoded, expected) in table {
            assert_eq!(Base64.decode(encoded), *expected, "{}", encoded.escape_ascii());
            assert_eq!(to_base64(Base64, encoded), (STANDARD.encode(expected), expected.len()), "{}", encoded.escape_ascii());
        }
    }

    #[test]
    fn quoted_printable_in_the_wild() {
        let table: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"a=20b=C3=a9", "a b\u{e9}".as_bytes()),
            (b"soft=\r\nbreak= \r\nagain=\nlast=", b"softbreakagainlast"),
            (b"trailing \t\r\nblanks  ", b"trailing\r\nblanks"),
            (b"kept=20\r\nlines\n\r\n", b"kept \r\nlines\n\r\n"),
            (b"a=b ==41 =4 =ZZ", b"a=b =A =4 =ZZ"),
        ];
        for (encoded, expected) in table {
            assert_eq!(QuotedPrintable.decode(encoded), *expected, "{}", encoded.escape_ascii());
        }
    }

    #[test]
    fn uu() {
        let table: &[(&[u8], &[u8])] = &[
            (b"begin 644 a.bin\r\n,2&5L;&\\@5V]R;&0A\r\n`\r\nend\r\n", b"Hello World!"),
            (b"text\nbegin 0644 a\n,2&5L;&\\@5V]R;&0A\n \nend\nmore", b"Hello World!"),
            // Without its end, and cut within a line.
            (b"begin 644 a\n,2&5L;&\\@", b"Hello "),
        ];
        for (encoded, expected) in table {
            for name in ["uuencode", "uuencoded", "uue"] {
                assert_eq!(Encoding::of(name, encoded, false), Uuencode);
            }
            assert_eq!(Uuencode.decode(encoded), *expected, "{}", encoded.escape_ascii());
        }
        assert_eq!(Encoding::of("uuencode", b"begin again\n", false), Identity);
    }

    #[test]
    fn what_is_said_to_be_base64() {
        let long = STANDARD.encode([7; 6000]);
        let base64: &[&[u8]] = &[
            b"",
            b"SGVsbG8gd29ybGQhCg==",
            b"SGVsbG8gd29ybGQhCg",
            b"SGVs\r\n bG8g\r\n\td29y\r\n",
            b"SGVsbG8gd29ybGQhCg==\r\n--\r\nA list's own footer, which is no base64 at all.\r\n",
            b"SGVsbG8*gd29ybGQhCg==",
            long.as_bytes(),
        ];
        for octets in base64 {
            assert_eq!(Encoding::of("base64", octets, true), Base64, "{}", octets.escape_ascii());
            assert_eq!(Encoding::of("base64", octets, false), Base64, "{}", octets.escape_ascii());
        }
        let none: &[&[u8]] = &[
            b"Hello, this is plain text.\r\n",
            b"<html><body><p>Hello</p></body></html>",
            b"Hello\r\nworld, again\r\n",
            "Grüße aus Köln, und bis bald!".as_bytes(),
            b"a=b is what I wrote, and c=d",
            b"Ok!",
            b"Lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua ut enim",
        ];
        for octets in none {
            assert_eq!(Encoding::of("base64", octets, true), Identity, "{}", octets.escape_ascii());
        }
        assert_eq!(Encoding::of("base64", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj << /Type /Catalog >>", false), Identity);
        for name in ["7bit", "8bit", "binary", "x-unknown", ""] {
            assert_eq!(Encoding::of(name, b"SGVs", true), Identity);
        }
    }

    proptest! {
        #[test]
        fn pieces_of_base64_are_one(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..5000), 1..5), lines: bool) {
            let encoded: Vec<String> = pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
            let encoded = encoded.join(if lines { "\r\n" } else { "" });
            let whole = pieces.concat();
            // Without a padding between them nobody sees where one ends; then all are one anyway.
            prop_assert!(*Base64.decode(encoded.as_bytes()) == whole);
            prop_assert_eq!(to_base64(Base64, encoded.as_bytes()), (STANDARD.encode(&whole), whole.len()));
        }

        #[test]
        fn what_is_encoded_comes_back(octets in proptest::collection::vec(any::<u8>(), 0..20_000), width in 1_usize..100) {
            let expected = (STANDARD.encode(&octets), octets.len());
            prop_assert_eq!(to_base64(Identity, &octets), expected.clone());
            let lines: Vec<&[u8]> = expected.0.as_bytes().chunks(width).collect();
            let encoded = lines.join(&b"\r\n"[..]);
            prop_assert!(*Base64.decode(&encoded) == octets);
            prop_assert_eq!(to_base64(Base64, &encoded), expected);
        }

        #[test]
        fn any_octets_decode_alike_in_both_ways(octets in "[A-Za-d+/=\r\n *-]{0,200}") {
            for encoding in [Base64, QuotedPrintable, Uuencode, Identity] {
                let decoded = encoding.decode(octets.as_bytes()).into_owned();
                prop_assert!(decoded.len() <= encoding.decoded_max(octets.len()));
                prop_assert_eq!(decoded.len(), encoding.decoded_len(octets.as_bytes()));
                prop_assert_eq!(to_base64(encoding, octets.as_bytes()), (STANDARD.encode(&decoded), decoded.len()));
            }
        }
    }
}
