//! What charsets are called: by the standard for browsers, and by the names that registries, systems and old programs have for the same. Pure.

use super::iso_2022::Set;
use encoding_rs::{Encoding, ISO_2022_JP, MACINTOSH, REPLACEMENT, WINDOWS_1252, X_USER_DEFINED};
use oem_cp::code_table_type::TableType;

/// Longest label looked at; real ones are below 30.
const LABEL_MAX: usize = 64;

/// A charset that can be decoded.
#[derive(Clone, Copy)]
pub enum Charset {
    Known(&'static Encoding),
    /// What is declared by those who do not know: seven bits say nothing of the eighth.
    Ascii,
    Dos(&'static TableType),
    /// With the set that stands between the shifts until an escape names one.
    Iso2022(Set),
    Hz,
    Utf7,
    Utf32,
}

impl Charset {
    /// `None` for a label nobody knows.
    #[must_use]
    pub fn named(label: &[u8]) -> Option<Self> {
        let label = label.trim_ascii_start();
        let label = label.get(..LABEL_MAX).unwrap_or(label);
        // Quotes around it, and what follows it.
        let label = label.strip_prefix(b"\"").or_else(|| label.strip_prefix(b"'")).unwrap_or(label);
        let len = label.iter().take_while(|octet| octet.is_ascii_alphanumeric() || b"-_.:+".contains(octet)).count();
        let label = label.get(..len)?;
        let mut key = String::with_capacity(len);
        key.extend(label.iter().filter(|octet| octet.is_ascii_alphanumeric()).map(|octet| char::from(octet.to_ascii_lowercase())));
        match Encoding::for_label(label) {
            Some(encoding) if encoding == WINDOWS_1252 && (key.contains("ascii") || key.starts_with("ansi")) => Some(Self::Ascii),
            Some(encoding) if encoding == X_USER_DEFINED => None,
            Some(encoding) if encoding != REPLACEMENT && encoding != ISO_2022_JP => Some(Self::Known(encoding)),
            _ => by_key(&key),
        }
    }

    /// Its words cannot be joined before they are decoded: each begins anew.
    pub(super) fn is_stateful(&self) -> bool {
        matches!(self, Self::Iso2022(_) | Self::Hz | Self::Utf7)
    }
}

/// By what is left of a label without its signs and in lower case: the names that registries, systems and old programs have for the same.
fn by_key(key: &str) -> Option<Charset> {
    const FAMILIES: &[(&str, &str)] = &[
        ("utf8", "utf-8"),
        ("unicode11utf8", "utf-8"),
        ("utf16be", "utf-16be"),
        ("utf16", "utf-16le"),
        ("ucs2", "utf-16le"),
        ("unicode", "utf-16le"),
        ("iso10646ucs2", "utf-16le"),
        ("eucjp", "euc-jp"),
        ("ujis", "euc-jp"),
        ("sjis", "shift_jis"),
        ("shiftjis", "shift_jis"),
        ("mskanji", "shift_jis"),
        ("gb18030", "gb18030"),
        ("euccn", "gbk"),
        ("gb2312", "gbk"),
        ("gbk", "gbk"),
        ("euckr", "euc-kr"),
        ("ksc", "euc-kr"),
        ("kseuc", "euc-kr"),
        ("uhc", "euc-kr"),
        ("korean", "euc-kr"),
        ("big5", "big5"),
        ("bigfive", "big5"),
        ("cnbig5", "big5"),
        ("tis620", "windows-874"),
        ("thai", "windows-874"),
        ("koi8ru", "koi8-u"),
        ("koi8u", "koi8-u"),
        ("koi8", "koi8-r"),
        ("cyrillic", "iso-8859-5"),
        ("greek", "iso-8859-7"),
        ("elot928", "iso-8859-7"),
        ("ecma118", "iso-8859-7"),
        ("hebrew", "iso-8859-8"),
        ("arabic", "iso-8859-6"),
        ("asmo708", "iso-8859-6"),
        ("ecma114", "iso-8859-6"),
        ("maccyrillic", "x-mac-cyrillic"),
        ("macukrain", "x-mac-cyrillic"),
        ("macroman", "macintosh"),
        ("macwestern", "macintosh"),
        ("applemac", "macintosh"),
        // The same but for a few letters.
        ("macturk", "macintosh"),
        ("maciceland", "macintosh"),
        ("macchinesesimp", "gbk"),
        ("macchinesetrad", "big5"),
        ("macjapan", "shift_jis"),
        ("mackorean", "euc-kr"),
        ("latin10", "iso-8859-16"),
        ("latin1", "windows-1252"),
        ("latin7", "iso-8859-13"),
        ("latin8", "iso-8859-14"),
        ("latin9", "iso-8859-15"),
        ("latin0", "iso-8859-15"),
        ("westerneurope", "windows-1252"),
    ];
    // Registered aliases begin with `cs`, what is not registered with `x`.
    let key = key.strip_prefix("cs").or_else(|| key.strip_prefix('x')).unwrap_or(key);
    let latin = |number: &str| Encoding::for_label(format!("iso-8859-{number}").as_bytes()).map(Charset::Known);
    if key.starts_with("usascii") || key.starts_with("ascii") || key.starts_with("iso646") || key == "us" {
        return Some(Charset::Ascii);
    }
    if let Some(rest) = key.strip_prefix("iso2022") {
        let set = match rest.get(..2) {
            Some("kr") => Set::Ksc5601,
            Some("cn") => Set::Gb2312,
            _ => Set::Katakana,
        };
        return (!rest.is_empty()).then_some(Charset::Iso2022(set));
    }
    if matches!(key, "jis" | "jis7" | "jisencoding") {
        return Some(Charset::Iso2022(Set::Katakana));
    }
    if key == "mac" {
        return Some(Charset::Known(MACINTOSH));
    }
    if key == "hz" || key.starts_with("hzgb") {
        return Some(Charset::Hz);
    }
    if key.starts_with("utf7") || key.starts_with("unicode11utf7") || key.starts_with("unicode20utf7") {
        return Some(Charset::Utf7);
    }
    if ["utf32", "ucs4", "iso10646ucs4"].iter().any(|name| key.starts_with(name)) {
        return Some(Charset::Utf32);
    }
    if let Some(rest) = key.strip_prefix("iso8859").or_else(|| key.strip_prefix("8859")).or_else(|| key.strip_prefix("isolatin")) {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        // A year may stand behind the number.
        return rest.get(..if digits > 4 { digits - 4 } else { digits }).and_then(latin);
    }
    if let Some((_, label)) = FAMILIES.iter().find(|(family, _)| key.starts_with(family)) {
        return Encoding::for_label(label.as_bytes()).map(Charset::Known);
    }
    // `cp850`, `pc850multilingual`, `pc8codepage437`, `ccsid00850`: its number, whatever system says it.
    let mut numbers = key.split(|c: char| !c.is_ascii_digit()).filter(|digits| digits.len() >= 3);
    code_page(numbers.next()?.parse().ok()?)
}

/// By the number that Microsoft or IBM gave it.
fn code_page(number: u16) -> Option<Charset> {
    let label = match number {
        819 | 1252 | 28591 => "windows-1252",
        367 | 20127 => return Some(Charset::Ascii),
        813 | 28597 => "iso-8859-7",
        874 | 1162 => "windows-874",
        912 | 28592 => "iso-8859-2",
        932 | 942 | 943 => "shift_jis",
        936 | 1386 | 51936 | 20936 => "gbk",
        949 | 970 | 1363 | 51949 => "euc-kr",
        950 | 951 => "big5",
        1200 => "utf-16le",
        1201 => "utf-16be",
        1250..=1258 => return Encoding::for_label(format!("windows-{number}").as_bytes()).map(Charset::Known),
        10000 => "macintosh",
        10007 => "x-mac-cyrillic",
        12000 | 12001 => return Some(Charset::Utf32),
        20866 | 878 => "koi8-r",
        21866 => "koi8-u",
        20932 | 51932 | 954 => "euc-jp",
        28593..=28606 => return Encoding::for_label(format!("iso-8859-{}", number - 28590).as_bytes()).map(Charset::Known),
        50225 => return Some(Charset::Iso2022(Set::Ksc5601)),
        50227 | 50229 => return Some(Charset::Iso2022(Set::Gb2312)),
        50220..=50222 => return Some(Charset::Iso2022(Set::Katakana)),
        52936 => return Some(Charset::Hz),
        54936 => "gb18030",
        65000 => return Some(Charset::Utf7),
        65001 => "utf-8",
        866 => "ibm866",
        _ => return oem_cp::code_table::DECODING_TABLE_CP_MAP.get(&number).map(Charset::Dos),
    };
    Encoding::for_label(label.as_bytes()).map(Charset::Known)
}
