//! Content transfer encodings (RFC 2045 section 6): decoded leniently, and base64 to base64 without decoding.
//!
//! Base64 ends at its padding, as most decoders have it: what a list appended behind it is no content. Characters
//! outside the alphabet are ignored (section 6.8). Logs nothing, cannot fail.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// No padding asked for, stray bits in the last character ignored.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone).with_decode_allow_trailing_bits(true),
);

/// How much is encoded at a time; a multiple of three.
const BLOCK: usize = 3 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 7bit, 8bit, binary, absent, unknown.
    Identity,
    Base64,
    QuotedPrintable,
}

impl Encoding {
    #[must_use]
    pub fn named(name: &[u8]) -> Self {
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"base64") {
            Self::Base64
        } else if name.eq_ignore_ascii_case(b"quoted-printable") {
            Self::QuotedPrintable
        } else {
            Self::Identity
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
        }
    }

    /// Most octets that `len` encoded ones can decode to.
    #[must_use]
    pub fn decoded_max(self, len: usize) -> usize {
        match self {
            Self::Base64 => len.div_ceil(4) * 3,
            Self::Identity | Self::QuotedPrintable => len,
        }
    }

    /// Most characters that [`Self::to_base64`] can append.
    #[must_use]
    pub fn base64_max(self, len: usize) -> usize {
        match self {
            Self::Base64 => len.saturating_add(4),
            Self::Identity | Self::QuotedPrintable => len.div_ceil(3).saturating_mul(4),
        }
    }

    /// How many octets the encoded ones decode to.
    #[must_use]
    pub fn decoded_len(self, octets: &[u8]) -> usize {
        match self {
            Self::Identity => octets.len(),
            Self::Base64 => {
                let mut characters = 0;
                each_run(octets, |run| characters += run.len());
                // Two characters make an octet, three make two; one alone makes none.
                characters / 4 * 3 + (characters % 4).saturating_sub(1)
            }
            Self::QuotedPrintable => self.decode(octets).len(),
        }
    }

    /// Appends the content as plain base64 without line ends; returns how many octets it stands for.
    pub fn to_base64(self, octets: &[u8], out: &mut Vec<u8>) -> usize {
        match self {
            Self::Base64 => base64_to_base64(octets, out),
            Self::Identity => encode(octets, out),
            Self::QuotedPrintable => encode(&self.decode(octets), out),
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
    let start = out.len();
    each_run(octets, |run| out.extend_from_slice(run));
    let characters = out.len() - start;
    // The last, incomplete group is made canonical: its stray bits go, its padding comes.
    let last = out.len() - characters % 4;
    let tail: Vec<u8> = out.drain(last..).collect();
    let mut rest = Vec::with_capacity(3);
    decode_run(&tail, &mut rest);
    encode(&rest, out);
    characters / 4 * 3 + rest.len()
}

/// Appends what base64 stands for.
pub(super) fn decode_base64(octets: &[u8], out: &mut Vec<u8>) {
    let mut clean = Vec::with_capacity(BLOCK * 4);
    each_run(octets, |run| {
        clean.extend_from_slice(run);
        if clean.len() >= BLOCK {
            let whole = clean.len() - clean.len() % 4;
            decode_run(clean.get(..whole).unwrap_or_default(), out);
            clean.drain(..whole);
        }
    });
    decode_run(&clean, out);
}

/// Characters of the alphabet only, to octets; one character that is left over is less than an octet.
fn decode_run(run: &[u8], out: &mut Vec<u8>) {
    let len = if run.len() % 4 == 1 { run.len() - 1 } else { run.len() };
    // Nothing else can be wrong with them, so this does not fail.
    if let Err(error) = LENIENT.decode_vec(run.get(..len).unwrap_or_default(), out) {
        tracing::error!(%error, "base64 of the alphabet alone was not decoded");
    }
}

/// Calls `take` with the runs of characters of the alphabet, up to the padding.
fn each_run(octets: &[u8], mut take: impl FnMut(&[u8])) {
    let mut rest = octets;
    while !rest.is_empty() {
        let (line, next) = match memchr2(b'\n', b'=', rest) {
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
        match next {
            [b'=', ..] => return,
            [_, after @ ..] => rest = after,
            [] => return,
        }
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

/// Value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::Encoding::{Base64, Identity, QuotedPrintable};
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

    proptest! {
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
            for encoding in [Base64, QuotedPrintable, Identity] {
                let decoded = encoding.decode(octets.as_bytes()).into_owned();
                prop_assert!(decoded.len() <= encoding.decoded_max(octets.len()));
                prop_assert_eq!(decoded.len(), encoding.decoded_len(octets.as_bytes()));
                prop_assert_eq!(to_base64(encoding, octets.as_bytes()), (STANDARD.encode(&decoded), decoded.len()));
            }
        }
    }
}
