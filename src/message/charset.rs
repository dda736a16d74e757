//! Octets to text: the one place that decides what charset they are in. What cannot be decoded becomes U+FFFD; nothing here fails or logs.
//!
//! In this order: a byte-order mark; the label, as long as the octets can be what it says; what an HTML text says of itself; UTF-8 if it is
//! valid; a guess (`chardetng`). A label that the octets contradict is none.

use super::guard;
use super::iso_2022::{self, Set};
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, MACINTOSH, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_874, WINDOWS_1252};
use mail_parser::decoders::charsets::map::charset_decoder;
use memchr::{memchr, memchr_iter, memmem};
use std::borrow::Cow;

pub use super::charset_label::Charset;

/// How much of a text is looked at for a guess.
const GUESS_MAX: usize = 64 * 1024;
/// How much of an HTML text is looked at for what it says of itself; the standard for browsers has 1 KiB, and mail programs write more styles.
const META_MAX: usize = 4 * 1024;

impl Charset {
    /// By this charset alone, and whether something was not of it.
    fn lossy<'a>(&self, octets: &'a [u8]) -> (Cow<'a, str>, bool) {
        match self {
            Self::Known(encoding) => encoding.decode_without_bom_handling(octets),
            Self::Ascii => (String::from_utf8_lossy(octets), !octets.is_ascii()),
            Self::Dos(table) => (Cow::Owned(table.decode_string_lossy(octets)), false),
            Self::Iso2022(set) => (Cow::Owned(iso_2022::decode(*set, octets)), !octets.is_ascii()),
            Self::Hz => (Cow::Owned(iso_2022::decode_hz(octets)), !octets.is_ascii()),
            Self::Utf32 => (Cow::Owned(utf_32(octets)), false),
            Self::Utf7 => (Cow::Owned(utf_7(octets)), !octets.is_ascii()),
        }
    }

    /// Text said to be in this charset.
    #[must_use]
    pub fn decode<'a>(&self, octets: &'a [u8]) -> Cow<'a, str> {
        decide(Some(*self), false, octets)
    }
}

/// Text without a (known) charset.
#[must_use]
pub fn guess(octets: &[u8]) -> Cow<'_, str> {
    decide(None, false, octets)
}

/// Text of a part whose charset is declared, unknown or absent.
#[must_use]
pub fn text<'a>(label: Option<&str>, is_html: bool, octets: &'a [u8]) -> Cow<'a, str> {
    decide(label.and_then(|label| Charset::named(label.as_bytes())), is_html, octets)
}

fn decide(named: Option<Charset>, is_html: bool, octets: &[u8]) -> Cow<'_, str> {
    if let Some((marked, text)) = behind_mark(octets) {
        return marked.lossy(text).0;
    }
    let Some(charset) = named else { return unnamed(is_html, octets) };
    let utf_8 = || std::str::from_utf8(octets).ok();
    match charset {
        Charset::Ascii => unnamed(is_html, octets),
        // Latin letters in UTF-8 under an old label: octets that are valid are no accident.
        Charset::Known(encoding) if is_latin(encoding) => match utf_8() {
            Some(text) => Cow::Borrowed(text),
            None if encoding == WINDOWS_1252 && octets.iter().any(|octet| matches!(octet, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d)) => {
                unnamed(is_html, octets)
            }
            None => charset.lossy(octets).0,
        },
        Charset::Known(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => match byte_order(octets) {
            Some(order) => order.decode_without_bom_handling(octets).0,
            None => utf_8().map_or_else(|| charset.lossy(octets).0, Cow::Borrowed),
        },
        Charset::Known(encoding) if utf_8().is_some_and(|text| is_no_accident(text, encoding)) => {
            Cow::Borrowed(utf_8().unwrap_or_default())
        }
        Charset::Iso2022(_) | Charset::Hz | Charset::Utf7 if !octets.is_ascii() => unnamed(is_html, octets),
        Charset::Known(_) | Charset::Dos(_) | Charset::Iso2022(_) | Charset::Hz | Charset::Utf7 | Charset::Utf32 => {
            let (text, malformed) = charset.lossy(octets);
            if malformed && is_wrong(&text, octets) { unnamed(is_html, octets) } else { text }
        }
    }
}

/// Text of another charset is now and then valid UTF-8, but not this: of letters that the charset has two octets for, one that has three; of
/// others, a few. Left out are Thai, whose vowels begin such threes, and the old Macintosh, on which an apostrophe and an accent are such a pair.
fn is_no_accident(text: &str, encoding: &'static Encoding) -> bool {
    let mut foreign = text.chars().filter(|c| !c.is_ascii());
    if encoding.is_single_byte() {
        encoding != WINDOWS_874 && encoding != MACINTOSH && foreign.nth(1).is_some()
    } else {
        foreign.any(|c| c >= '\u{800}')
    }
}

/// So much was not of the charset that it must be another one. A last character that was cut is no sign of that.
fn is_wrong(text: &str, octets: &[u8]) -> bool {
    // Of a few octets among which such are that begin no character, no guess is better.
    let high = octets.iter().filter(|octet| !octet.is_ascii()).take(8).count();
    if high < 8 && octets.iter().any(|octet| *octet >= 0xf8) {
        return false;
    }
    let (mut malformed, mut good) = (0_usize, 0_usize);
    for c in text.chars().filter(|c| !c.is_ascii()) {
        *(if c == char::REPLACEMENT_CHARACTER { &mut malformed } else { &mut good }) += 1;
    }
    let cut = match std::str::from_utf8(octets) {
        Ok(_) => false,
        Err(error) => good > 0 && (error.error_len().is_none() || malformed == 1 && text.ends_with(char::REPLACEMENT_CHARACTER)),
    };
    !cut && malformed * 4 > good
}

fn unnamed(is_html: bool, octets: &[u8]) -> Cow<'_, str> {
    if let Some(order) = byte_order(octets) {
        return order.decode_without_bom_handling(octets).0;
    }
    if let Ok(text) = std::str::from_utf8(octets) {
        // Those charsets have seven bits.
        return if octets.is_ascii() && iso_2022::switches(octets) {
            Cow::Owned(iso_2022::decode(Set::Katakana, octets))
        } else {
            Cow::Borrowed(text)
        };
    }
    if is_html && let Some((text, false)) = meta(octets).map(|charset| charset.lossy(octets)) {
        return text;
    }
    let encoding = detected(octets);
    encoding.decode_without_bom_handling(octets).0
}

fn detected(octets: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(octets.get(..GUESS_MAX).unwrap_or(octets), octets.len() <= GUESS_MAX);
    let guessed = detector.guess(None, Utf8Detection::Deny);
    // Of a few letters among ASCII it cannot tell one Latin alphabet from another; the western one is the likeliest.
    let mut high = octets.iter().filter(|octet| !octet.is_ascii());
    let few = high.clone().nth(4).is_none();
    if few && is_latin(guessed) && high.all(|octet| matches!(octet, 0x80 | 0x91..=0x97 | 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..)) {
        WINDOWS_1252
    } else {
        guessed
    }
}

/// A byte-order mark's charset, and the text behind it.
fn behind_mark(octets: &[u8]) -> Option<(Charset, &[u8])> {
    Some(match octets {
        [0xef, 0xbb, 0xbf, text @ ..] => (Charset::Known(UTF_8), text),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => (Charset::Utf32, octets),
        [0xff, 0xfe, text @ ..] => (Charset::Known(UTF_16LE), text),
        [0xfe, 0xff, text @ ..] => (Charset::Known(UTF_16BE), text),
        _ => return None,
    })
}

/// UTF-16 without a mark shows in the places of its NULs, where some of it is ASCII.
fn byte_order(octets: &[u8]) -> Option<&'static Encoding> {
    let first = memchr(0, octets)?;
    let (mut even, mut odd) = (0_usize, 0_usize);
    for at in memchr_iter(0, octets) {
        *(if at % 2 == 0 { &mut even } else { &mut odd }) += 1;
    }
    // A text that merely has a NUL in it is not meant.
    let many = first < 64 && even.max(odd) > 1 && even.max(odd) * 8 > octets.len() && even.min(odd) * 8 < even.max(odd);
    many.then_some(if odd > even { UTF_16LE } else { UTF_16BE })
}

/// Four octets a character; the mark says in which order, without one the zeros do.
fn utf_32(octets: &[u8]) -> String {
    let little = match octets {
        [0xff, 0xfe, 0, 0, ..] => true,
        [0, 0, 0xfe, 0xff, ..] => false,
        _ => octets.chunks_exact(4).all(|unit| matches!(unit, [_, _, _, 0])),
    };
    let unit = |unit: &[u8]| {
        let unit = <[u8; 4]>::try_from(unit).ok()?;
        char::from_u32(if little { u32::from_le_bytes(unit) } else { u32::from_be_bytes(unit) })
    };
    let text: String = octets.chunks(4).map(|octets| unit(octets).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned)
}

/// As the MIME parser has it, which wants a run of base64 to be closed.
fn utf_7(octets: &[u8]) -> String {
    let run = octets.rsplit(|octet| *octet == b'+').next().unwrap_or_default();
    let open = run.len() < octets.len() && run.iter().all(|octet| octet.is_ascii_alphanumeric() || b"+/".contains(octet));
    let closed: Cow<'_, [u8]> = if open { Cow::Owned([octets, b"-"].concat()) } else { Cow::Borrowed(octets) };
    let decoded = charset_decoder(b"utf-7").and_then(|decoder| guard::quietly(|| decoder(&closed)));
    decoded.unwrap_or_else(|| String::from_utf8_lossy(octets).into_owned())
}

/// One octet a character, and its upper half is for Latin letters.
fn is_latin(encoding: &'static Encoding) -> bool {
    const LATIN: [&str; 12] = [
        "windows-1252",
        "windows-1250",
        "windows-1254",
        "windows-1257",
        "ISO-8859-2",
        "ISO-8859-3",
        "ISO-8859-4",
        "ISO-8859-10",
        "ISO-8859-13",
        "ISO-8859-14",
        "ISO-8859-15",
        "ISO-8859-16",
    ];
    LATIN.contains(&encoding.name())
}

/// What an HTML text says of its own charset: `<meta charset>`, `<meta content="…; charset=">`, `<?xml encoding=`.
fn meta(octets: &[u8]) -> Option<Charset> {
    let lower = octets.get(..META_MAX).unwrap_or(octets).to_ascii_lowercase();
    let value = |tag: &[u8], name: &[u8]| {
        let value = tag.get(memmem::find(tag, name)? + name.len()..)?.trim_ascii_start().strip_prefix(b"=")?;
        Charset::named(value.trim_ascii_start())
    };
    let tags = memchr_iter(b'<', &lower).filter_map(|at| {
        let tag = lower.get(at + 1..)?;
        tag.get(..memchr(b'>', tag)?)
    });
    let mut found = tags.filter_map(|tag| match tag {
        [b'm', b'e', b't', b'a', ..] => value(tag, b"charset"),
        [b'?', b'x', b'm', b'l', ..] => value(tag, b"encoding"),
        _ => None,
    });
    // It could not be read as ASCII if it were in UTF-16.
    found.next().filter(|charset| !matches!(charset, Charset::Known(encoding) if *encoding == UTF_16LE || *encoding == UTF_16BE))
}

#[cfg(test)]
mod tests {
    use super::{Charset, guess, text};
    use proptest::prelude::*;

    #[test]
    fn labels() {
        let table: &[(&[&str], &[u8], &str)] = &[
            (
                &["utf-8", "UTF8", "utf_8", "utf8mb4", "UTF-8N", "cp65001", "unicode-1-1-utf-8", "\"utf-8\"", "'utf-8'", "utf-8;"],
                "é".as_bytes(),
                "é",
            ),
            (
                &[
                    "iso-8859-1",
                    "ISO8859-1",
                    "iso_8859_1",
                    "iso-8859-1:1987",
                    "latin-1",
                    "l1",
                    "cp819",
                    "8859_1",
                    "windows-1252",
                    "cp-1252",
                ],
                b"\xe9",
                "é",
            ),
            (&["us-ascii", "ascii", "ANSI_X3.4-1968", "iso646-us", "x-us-ascii"], b"caf\xe9", "café"),
            (&["us-ascii"], "é".as_bytes(), "é"),
            (&["iso-8859-2", "iso8859_2", "latin2", "ISO-8859-2:1987", "csISOLatin2", "cp912"], b"\xbf\xf3\xb3w", "żółw"),
            (&["windows-1250", "win-1250", "cp1250", "x-cp1250", "ms-1250", "win1250"], b"\xbf\xf3\xb3w", "żółw"),
            (&["ISO-8859-15", "latin-9", "iso885915", "cp28605"], b"\xa4", "€"),
            (&["windows-1251", "cp-1251", "win1251", "x-windows-1251", "ansi-1251_windows-1251"][..4], b"\xcf\xf0", "Пр"),
            (&["koi8-r", "koi8", "csKOI8R", "cp20866"], b"\xf0\xd2", "Пр"),
            (
                &["iso-2022-jp", "x-iso-2022-jp", "iso-2022-jp_esc", "iso-2022-jp-ms", "iso2022jp", "csISO2022JP", "jis", "cp50220"],
                b"\x1b$B%O\x1b(B",
                "ハ",
            ),
            (&["iso-2022-kr", "csISO2022KR"], b"\x1b$)C\x0eGQ19\x0f", "한국"),
            (&["iso-2022-cn", "iso-2022-cn-ext"], b"\x1b$)A\x0eDc:C\x0f", "你好"),
            (&["hz-gb-2312", "hz", "x-hz"], b"~{Dc:C~}", "你好"),
            (&["shift_jis", "cp932", "ms932", "windows-31j", "sjis", "x-sjis", "shift-jis", "MS_Kanji", "ibm-943"], b"\x83n", "ハ"),
            (&["euc-jp", "eucjp", "x-euc-jp", "x-eucjp", "ujis", "euc_jp", "eucJP-ms"], b"\xa5\xcf", "ハ"),
            (
                &["gb2312", "euc-cn", "euc_cn", "gbk", "cp936", "ms936", "gb_2312-80", "x-gbk", "gb18030", "csGB2312", "x-euc-cn"],
                b"\xc4\xe3",
                "你",
            ),
            (&["euc-kr", "ks_c_5601-1987", "cp949", "ms949", "x-windows-949", "ksc5601", "uhc", "euckr"], b"\xc7\xd1", "한"),
            (&["big5", "cp950", "big5-hkscs", "x-big5", "big-5", "cn-big5"], b"\xa4\xa4", "中"),
            (&["tis-620", "tis620", "cp874", "windows-874", "iso-8859-11"], b"\xa1", "ก"),
            (&["utf-16", "utf-16be", "ucs-2"], b"\0A\0b\0c\0d", "Abcd"),
            (&["utf-16", "utf-16le", "unicode"], b"A\0b\0c\0d\0", "Abcd"),
            (&["utf-16"], b"\xfe\xff\0A", "A"),
            (&["utf-32", "ucs-4", "utf-32le", "utf32"], b"\xff\xfe\0\0A\0\0\0\xe9\0\0\0", "Aé"),
            (&["utf-32be", "utf-32"], b"\0\0\0A\0\0\0\xe9", "Aé"),
            (&["utf-7", "unicode-1-1-utf-7", "csUnicode11UTF7", "x-unicode-2-0-utf-7"], b"+ZYc-", "文"),
            (&["ibm850", "cp850", "850", "csPC850Multilingual", "x-ibm850", "cp-850"], b"\x9b", "ø"),
            (&["ibm852", "cp852", "ibm-852"], b"n\x82", "né"),
            (&["cp437", "ibm437", "437", "cspc8codepage437", "CCSID00437"], b"\x82", "é"),
            (&["x-mac-korean"], b"\xc7\xd1", "한"),
            (&["ibm866", "cp866"], b"\x8f", "П"),
            (&["macintosh", "x-mac-roman", "MacRoman"], b"\x8e", "é"),
        ];
        for (labels, octets, expected) in table {
            for label in *labels {
                assert_eq!(text(Some(label), false, octets), *expected, "{label}");
            }
        }
        for label in [
            "no-such-charset",
            "x-user-defined",
            "x-mac-greek",
            "x-mac-centraleurroman",
            "",
            "replacement",
            "x-unknown",
            "default",
            "iso-2022",
            "utf",
            "&#x",
        ] {
            assert!(Charset::named(label.as_bytes()).is_none(), "{label}");
            assert_eq!(text(Some(label), false, "é".as_bytes()), "é");
        }
        assert_eq!(text(Some(&"x".repeat(10_000)), false, b"y"), "y");
    }

    #[test]
    fn labels_that_the_octets_contradict() {
        let table: &[(&str, &[u8], &str)] = &[
            // UTF-8 under another name.
            ("iso-8859-1", "naïve €".as_bytes(), "naïve €"),
            ("iso-8859-2", "żółw".as_bytes(), "żółw"),
            ("iso-2022-jp", "テスト".as_bytes(), "テスト"),
            ("gb2312", "你好，这是一个测试".as_bytes(), "你好，这是一个测试"),
            ("big5", "你好".as_bytes(), "你好"),
            ("shift_jis", "こんにちは世界".as_bytes(), "こんにちは世界"),
            ("euc-kr", "한국어".as_bytes(), "한국어"),
            ("koi8-r", "Привет".as_bytes(), "Привет"),
            ("windows-1255", "שלום".as_bytes(), "שלום"),
            // Of these charsets, though valid.
            ("gbk", b"\xc7\xa1\xd5\xbd", "恰战"),
            ("windows-1251", b"\xd1\x80", "СЂ"),
            ("tis-620", b"\xe1\xa1\xa7\xe1\xa1\xa7", "แกงแกง"),
            ("macintosh", b"l\xd5\x8etat d\xd5\x90tre", "l’état d’être"),
            ("utf-16", "plain".as_bytes(), "plain"),
            // Another name for UTF-8.
            ("utf-8", b"caf\xe9 au lait", "café au lait"),
            ("us-ascii", b"\xcf\xf0\xe8\xe2\xe5\xf2, \xec\xe8\xf0", "Привет, мир"),
            // One slip is not a wrong label, nor is a cut character.
            ("utf-8", "äöü äöü \u{0}".as_bytes(), "äöü äöü \u{0}"),
            ("utf-8", b"\xc3\xa4\xc3\xb6\xc3\xbc\xc3\xa4 \xff \xc3\xa4", "äöüä \u{fffd} ä"),
            ("utf-8", b"a\xff\xfeb", "a\u{fffd}\u{fffd}b"),
            ("utf-8", b"caf\xc3\xa9 caf\xc3", "café caf\u{fffd}"),
            ("gb2312", b"\xc4\xe3\xba\xc3\xc4", "你好\u{fffd}"),
            // A mark says more than a label.
            ("iso-8859-1", b"\xef\xbb\xbfx\xc3\xa9", "xé"),
            ("utf-8", b"\xff\xfeA\0", "A"),
        ];
        for (label, octets, expected) in table {
            assert_eq!(text(Some(label), false, octets), *expected, "{label} {}", octets.escape_ascii());
        }
    }

    #[test]
    fn without_a_label() {
        let table: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"caf\xe9", "café"),
            (b"r\xe9sum\xe9", "résumé"),
            (b"na\xefve", "naïve"),
            (b"\xbf\xf3\xb3w i b\xb3\xeakitne niebo", "żółw i błękitne niebo"),
            (b"Na\xefve.txt \x80 5", "Naïve.txt € 5"),
            (b"Gr\xfc\xdfe aus K\xf6ln", "Grüße aus Köln"),
            (b"\xcf\xf0\xe8\xe2\xe5\xf2", "Привет"),
            (b"\xf0\xd2\xc9\xd7\xc5\xd4, \xcb\xc1\xcb \xc4\xc5\xcc\xc1", "Привет, как дела"),
            (b"\x1b$B%F%9%H\x1b(B", "テスト"),
            ("é \u{1b}$B%F\u{1b}(B".as_bytes(), "é \u{1b}$B%F\u{1b}(B"),
            (b"\xef\xbb\xbfx", "x"),
            (b"a\0b", "a\0b"),
            (b"H\0e\0l\0l\0o\0", "Hello"),
            ("żółw".as_bytes(), "żółw"),
        ];
        for (octets, expected) in table {
            assert_eq!(guess(octets), *expected, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn what_html_says_of_itself() {
        let heads = [
            "<meta charset=iso-8859-2>",
            "<html><head><title>a</title>\r\n<META CHARSET = 'ISO-8859-2' />",
            "<meta name=x><meta http-equiv=\"Content-Type\" content=\"text/html; charset=iso-8859-2\">",
            "<?xml version='1.0' encoding=\"iso-8859-2\"?>",
        ];
        for head in heads {
            let html = [head.as_bytes(), b"<p>\xbf\xf3\xb3w"].concat();
            assert_eq!(text(None, true, &html), format!("{head}<p>żółw"));
            assert_eq!(text(Some("us-ascii"), true, &html), format!("{head}<p>żółw"), "the label says nothing");
            assert!(!text(Some("windows-1252"), true, &html).contains("żółw"), "the label comes first");
        }
        let utf_8 = "<meta charset=iso-8859-2><p>żółw";
        assert_eq!(text(None, true, utf_8.as_bytes()), utf_8, "it was converted on its way");
    }

    proptest! {
        #[test]
        fn any_octets_under_any_label_are_text(label in "[a-zA-Z0-9_:;'\" -]{0,20}", octets in proptest::collection::vec(any::<u8>(), 0..300), html: bool) {
            for label in [label.as_str(), "iso-2022-jp", "hz", "utf-7", "utf-16", "utf-32", "gb18030", "ibm852"] {
                prop_assert!(text(Some(label), html, &octets).len() <= 3 * octets.len());
            }
            prop_assert!(text(None, html, &octets).len() <= 3 * octets.len());
        }

        #[test]
        fn utf_8_stays_what_it_is(words in "[ -~äöüéżПрテ你한]{1,60}") {
            for label in [None, Some("utf-8"), Some("us-ascii"), Some("iso-8859-1"), Some("no-such"), Some("x-iso-2022-jp")] {
                let octets = words.as_bytes();
                // Seven bits may be escapes, eight never are.
                prop_assert_eq!(text(label, false, octets), words.as_str());
            }
        }
    }
}
