//! Octets in a named charset to text. What cannot be decoded becomes U+FFFD; nothing here fails or logs.
//!
//! The labels are the WHATWG's (`encoding_rs`), a few of the wild beside them, and what the MIME parser knows on top
//! (UTF-7, the old DOS code pages).

use super::guard;
use encoding_rs::{Encoding, REPLACEMENT, UTF_16BE, UTF_16LE, WINDOWS_1252};
use mail_parser::decoders::charsets::{DecoderFnc, map::charset_decoder};
use std::borrow::Cow;

/// Longest label looked at; real ones are below 30.
const LABEL_MAX: usize = 64;

/// A charset that can be decoded.
#[derive(Clone, Copy)]
pub enum Charset {
    Known(&'static Encoding),
    /// Only the MIME parser's tables have it.
    Parser(DecoderFnc),
}

impl Charset {
    /// `None` for a label nobody knows.
    #[must_use]
    pub fn named(label: &[u8]) -> Option<Self> {
        let label = label.trim_ascii();
        if label.is_empty() || label.len() > LABEL_MAX {
            return None;
        }
        let standard = Encoding::for_label(label).or_else(|| Encoding::for_label(alias(label)?));
        match standard {
            // The standard maps what it thinks dangerous in browsers to "replacement"; a message may still be read.
            Some(encoding) if encoding != REPLACEMENT => Some(Self::Known(encoding)),
            _ => charset_decoder(label).map(Self::Parser),
        }
    }

    #[must_use]
    pub fn decode<'a>(&self, octets: &'a [u8]) -> Cow<'a, str> {
        match self {
            // Latin-1 and ASCII are what is declared by those who do not know: octets that are UTF-8 are no accident.
            Self::Known(encoding) if *encoding == WINDOWS_1252 => guess(octets),
            // Either byte order may hide behind the label (RFC 2781 section 4.3); the mark decides.
            Self::Known(encoding) if *encoding == UTF_16LE || *encoding == UTF_16BE => encoding.decode(octets).0,
            Self::Known(encoding) => encoding.decode_with_bom_removal(octets).0,
            Self::Parser(decoder) => match guard::quietly(|| decoder(octets)) {
                Some(text) => Cow::Owned(text),
                None => String::from_utf8_lossy(octets),
            },
        }
    }
}

/// Text without a (known) charset: UTF-8 if it is valid, else windows-1252, which gives every octet a character.
#[must_use]
pub fn guess(octets: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(octets) {
        Ok(text) => Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(octets).0,
    }
}

/// Text of a part whose charset is declared, unknown or absent.
#[must_use]
pub fn text<'a>(label: Option<&str>, octets: &'a [u8]) -> Cow<'a, str> {
    match label.and_then(|label| Charset::named(label.as_bytes())) {
        Some(charset) => charset.decode(octets),
        None => guess(octets),
    }
}

/// Labels seen in mail that the standard lacks.
fn alias(label: &[u8]) -> Option<&'static [u8]> {
    const ALIASES: &[(&[u8], &[u8])] = &[
        (b"utf8mb4", b"utf-8"),
        (b"utf_8", b"utf-8"),
        (b"cp65001", b"utf-8"),
        (b"cp932", b"shift_jis"),
        (b"ms932", b"shift_jis"),
        (b"cp936", b"gbk"),
        (b"ms936", b"gbk"),
        (b"cp949", b"euc-kr"),
        (b"ms949", b"euc-kr"),
        (b"cp950", b"big5"),
        (b"cp874", b"windows-874"),
        (b"latin-1", b"iso-8859-1"),
        (b"iso-8859-1-windows-3.1-latin-1", b"windows-1252"),
        (b"cp-1251", b"windows-1251"),
        (b"cp-1252", b"windows-1252"),
        (b"win-1251", b"windows-1251"),
        (b"win1251", b"windows-1251"),
    ];
    ALIASES.iter().find(|(from, _)| from.eq_ignore_ascii_case(label)).map(|(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::{guess, text};

    #[test]
    fn labels() {
        let table: &[(&str, &[u8], &str)] = &[
            ("utf-8", "é".as_bytes(), "é"),
            ("UTF8", b"\xef\xbb\xbfx", "x"),
            ("utf-8", b"a\xffb", "a\u{fffd}b"),
            ("iso-8859-1", b"\xe9", "é"),
            ("ISO-8859-15", b"\xa4", "€"),
            ("us-ascii", "é".as_bytes(), "é"),
            ("us-ascii", b"\xe9", "é"),
            ("windows-1251", b"\xcf\xf0", "Пр"),
            ("koi8-r", b"\xf0\xd2", "Пр"),
            ("iso-2022-jp", b"\x1b$B%O\x1b(B", "ハ"),
            ("shift_jis", b"\x83n", "ハ"),
            ("cp932", b"\x83n", "ハ"),
            ("gb2312", b"\xc4\xe3", "你"),
            ("utf-16", b"\xfe\xff\0A", "A"),
            ("utf-7", b"+ZYc-", "文"),
            ("ibm850", b"\x9b", "ø"),
            ("no-such-charset", b"\xe9", "é"),
            ("", "é".as_bytes(), "é"),
        ];
        for (label, octets, expected) in table {
            assert_eq!(text(Some(label), octets), *expected, "{label}");
        }
        assert_eq!(text(None, b"caf\xe9"), "café");
        assert_eq!(guess("\u{feff}x".as_bytes()), "x");
        assert_eq!(text(Some(&"x".repeat(10_000)), b"y"), "y");
    }
}
