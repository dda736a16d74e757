//! Header text: unfolding (RFC 5322 section 2.2.3) and encoded words (RFC 2047, RFC 2231 section 5).
//!
//! Adjacent words of one charset are joined before they are decoded, since senders split characters over words. A word of an unknown
//! charset is decoded by a guess; one that is malformed stays as it came. In a field of addresses a decoded word that holds what addresses
//! are made of stands quoted (section 6.2: such a field is parsed before its words are decoded). One pass, linear in the octets. Logs nothing,
//! cannot fail.

use super::charset::{self, Charset};
use super::transfer::{decode_base64, hex};
use super::{address_field, iso_2022};
use memchr::{memchr, memchr2, memmem};
use std::borrow::Cow;

/// Longest charset and language part looked at.
const LABEL_MAX: usize = 80;

/// Unfolded, decoded, trimmed; U+0000 becomes U+FFFD, and what would break the line a space.
#[must_use]
pub fn decode(raw: &[u8]) -> String {
    let unfolded = unfolded_octets(raw);
    let octets = unfolded.trim_ascii();
    // No word without one of these, which few fields have.
    if memchr(b'?', octets).is_none() {
        return safe(charset::guess(octets)).into_owned();
    }
    let mut out = String::with_capacity(octets.len());
    let mut words = Words::new(octets);
    // Where the text that is not yet written starts.
    let mut plain = 0;
    while let Some(run) = words.next_run(|_| true) {
        out.push_str(&charset::guess(octets.get(plain..run.start).unwrap_or_default()));
        out.push_str(&run.text);
        plain = words.at;
    }
    out.push_str(&charset::guess(octets.get(plain..).unwrap_or_default()));
    safe(Cow::Owned(out)).into_owned()
}

/// As [`decode`], of a field that holds addresses.
#[must_use]
pub fn decode_addresses(raw: &[u8]) -> String {
    let unfolded = unfolded_octets(raw);
    let octets = unfolded.trim_ascii();
    // Characters first: what is read as an address afterwards is this text, not its octets.
    let text = charset::guess(octets);
    if memchr(b'?', text.as_bytes()).is_none() {
        return safe(text).into_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut words = Words::new(text.as_bytes());
    let mut place = address_field::Place::default();
    // Where the text that is not yet written starts, and up to where `place` has come.
    let (mut plain, mut seen) = (0, 0);
    while let Some(run) = words.next_run(|word| {
        place = place.after(text.get(seen..word.start).unwrap_or_default());
        seen = word.start;
        place.takes_words(text.get(..word.start).unwrap_or_default(), text.get(word.end..).unwrap_or_default())
    }) {
        out.push_str(text.get(plain..run.start).unwrap_or_default());
        place.push(&safe(Cow::Owned(run.text)), &mut out);
        plain = words.at;
        seen = words.at;
    }
    out.push_str(text.get(plain..).unwrap_or_default());
    safe(Cow::Owned(out)).into_owned()
}

/// Unfolded and trimmed only, as valid UTF-8.
#[must_use]
pub fn unfold(raw: &[u8]) -> String {
    safe(charset::guess(unfolded_octets(raw).trim_ascii())).into_owned()
}

/// Characters that end a line somewhere: in a log, a reply, a header, a script.
#[must_use]
pub fn is_line_control(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn safe(text: Cow<'_, str>) -> Cow<'_, str> {
    // Only octets that start none of those characters: seen without a branch per octet.
    if text.bytes().fold(true, |all, octet| all & ((octet >= b' ') | (octet == b'\t')) & (octet != 0xc2) & (octet != 0xe2)) {
        return text;
    }
    if !text.contains(|c| c == '\0' || is_line_control(c)) {
        return text;
    }
    let replaced = text.chars().map(|c| match c {
        '\0' => '\u{fffd}',
        c if is_line_control(c) => ' ',
        c => c,
    });
    Cow::Owned(replaced.collect())
}

/// Without the line ends of folding; a line end that folds nothing becomes a blank.
pub(super) fn unfolded_octets(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr2(b'\r', b'\n', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr2(b'\r', b'\n', rest) {
        let (before, end) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        rest = match end {
            [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] | [b'\r', after @ ..] => after,
            _ => &[],
        };
        if !matches!(rest.first(), Some(b' ' | b'\t')) {
            out.push(b' ');
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Words side by side, decoded.
struct Run {
    start: usize,
    text: String,
}

struct Word<'a> {
    start: usize,
    /// Behind it.
    end: usize,
    label: &'a [u8],
    base64: bool,
    text: &'a [u8],
}

impl Word<'_> {
    fn decode_into(&self, out: &mut Vec<u8>) {
        if self.base64 { decode_base64(self.text, out) } else { decode_q(self.text, out) }
    }
}

/// Words of one charset side by side, not yet decoded.
struct Pending<'a> {
    label: &'a [u8],
    charset: Option<Charset>,
    octets: Vec<u8>,
}

impl<'a> Pending<'a> {
    fn new(word: &Word<'a>) -> Self {
        let mut octets = Vec::new();
        word.decode_into(&mut octets);
        Self { label: word.label, charset: Charset::named(word.label), octets }
    }

    fn text(&self) -> Cow<'_, str> {
        self.charset.map_or_else(|| charset::guess(&self.octets), |charset| charset.decode(&self.octets))
    }

    /// Takes the next word's octets in, if they can be decoded with those that are here.
    fn join(&mut self, next: Self) -> Option<Self> {
        let stateful = self.charset.is_some_and(|charset| charset.is_stateful());
        if !self.label.eq_ignore_ascii_case(next.label) || (stateful && !iso_2022::continues(&next.octets)) {
            return Some(next);
        }
        self.octets.extend_from_slice(&next.octets);
        None
    }
}

/// Finds encoded words from left to right.
struct Words<'a> {
    octets: &'a [u8],
    /// Behind the last word.
    at: usize,
    /// First `?=` at or behind the place last asked for, so that it is searched once; `None`: there is no other.
    close: Option<usize>,
}

impl<'a> Words<'a> {
    fn new(octets: &'a [u8]) -> Self {
        Self { octets, at: 0, close: Some(0) }
    }

    /// The next word of those that may be `taken`, and all that stand beside it: blanks between two are not part of the text (RFC 2047
    /// section 6.2); also none at all is seen.
    fn next_run(&mut self, mut taken: impl FnMut(&Word<'a>) -> bool) -> Option<Run> {
        let mut from = self.at;
        let first = loop {
            let word = self.next_word(from)?;
            if taken(&word) {
                break word;
            }
            from = word.end;
        };
        self.at = first.end;
        let mut text = String::new();
        let mut pending = Pending::new(&first);
        while let Some(next) = self.word_beside() {
            self.at = next.end;
            if let Some(next) = pending.join(Pending::new(&next)) {
                text.push_str(&pending.text());
                pending = next;
            }
        }
        text.push_str(&pending.text());
        Some(Run { start: first.start, text })
    }

    fn word_beside(&mut self) -> Option<Word<'a>> {
        let rest = self.octets.get(self.at..)?;
        let start = self.at + rest.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        if self.octets.get(start..)?.starts_with(b"=?") { self.word_at(start) } else { None }
    }

    fn next_word(&mut self, mut from: usize) -> Option<Word<'a>> {
        loop {
            let start = from + memmem::find(self.octets.get(from..)?, b"=?")?;
            match self.word_at(start) {
                Some(word) => return Some(word),
                None => from = start + 2,
            }
        }
    }

    fn word_at(&mut self, start: usize) -> Option<Word<'a>> {
        let inner = self.octets.get(start + 2..)?;
        let label_end = memchr(b'?', inner.get(..LABEL_MAX).unwrap_or(inner))?;
        let (label, rest) = inner.split_at_checked(label_end)?;
        let base64 = match rest {
            [b'?', b'b' | b'B', b'?', ..] => true,
            [b'?', b'q' | b'Q', b'?', ..] => false,
            _ => return None,
        };
        // RFC 2231 section 5: `charset*language`.
        let label = label.split(|octet| *octet == b'*').next().unwrap_or_default();
        let label = label.trim_ascii();
        if !label.iter().all(|octet| octet.is_ascii_graphic()) {
            return None;
        }
        let text_start = start + 2 + label_end + 3;
        let Some(close) = self.close_behind(text_start) else { return self.cut_word_at(start, label, base64, text_start) };
        let text = self.octets.get(text_start..close)?;
        // A word that opens before this one closes: this one was cut off.
        if memmem::find(text, b"=?").is_some() {
            return None;
        }
        Some(Word { start, end: close + 2, label, base64, text })
    }

    /// A field that was cut ends within its last word; of that, what is whole.
    fn cut_word_at(&self, start: usize, label: &'a [u8], base64: bool, text_start: usize) -> Option<Word<'a>> {
        let text = self.octets.get(text_start..)?;
        let text = text.strip_suffix(b"?").unwrap_or(text);
        Charset::named(label)?;
        let whole = if base64 {
            // Four characters are three octets.
            text.get(..text.len() / 4 * 4)?
        } else {
            match text {
                [whole @ .., b'='] | [whole @ .., b'=', _] => whole,
                whole => whole,
            }
        };
        let is_text = |octet: &u8| octet.is_ascii_graphic() && *octet != b'?';
        (!whole.is_empty() && text.iter().all(is_text)).then_some(Word { start, end: self.octets.len(), label, base64, text: whole })
    }

    fn close_behind(&mut self, at: usize) -> Option<usize> {
        if self.close? < at {
            self.close = memmem::find(self.octets.get(at..).unwrap_or_default(), b"?=").map(|found| at + found);
        }
        self.close
    }
}

/// The Q encoding; blanks and broken escapes within it stand for themselves.
fn decode_q(text: &[u8], out: &mut Vec<u8>) {
    // What is decoded is never longer.
    out.reserve(text.len());
    let mut rest = text;
    while let Some(at) = memchr2(b'_', b'=', rest) {
        let (plain, special) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        rest = match special {
            [b'_', after @ ..] => {
                out.push(b' ');
                after
            }
            [b'=', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                after
            }
            [octet, after @ ..] => {
                out.push(*octet);
                after
            }
            [] => return,
        }
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::{decode, unfold};
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    #[test]
    fn words() {
        let table: &[(&[u8], &str)] = &[
            (b"", ""),
            (b" plain text ", "plain text"),
            (b"=?utf-8?q?caf=C3=A9?=", "café"),
            (b"=?UTF-8?B?Y2Fmw6k=?=", "café"),
            (b"=?utf-8?B?Y2Fmw6k?=", "café"),
            (b"=?iso-8859-1*fr?Q?caf=e9?= au lait", "café au lait"),
            (b"a =?utf-8?q?b?= c", "a b c"),
            (b"=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
            (b"=?utf-8?q?a?=\r\n =?utf-8?q?b?=", "ab"),
            (b"=?utf-8?q?a?==?utf-8?q?b?=", "ab"),
            (b"=?utf-8?q?a_?= =?iso-8859-1?q?b?=", "a b"),
            (b"=?utf-8?q?a?= x =?utf-8?q?b?=", "a x b"),
            // A character split over two words, in either encoding and over both.
            (b"=?utf-8?Q?caf=C3?= =?utf-8?Q?=A9?=", "café"),
            (b"=?utf-8?B?Y2Fmww==?= =?UTF-8?B?qQ==?=", "café"),
            (b"=?utf-8?B?Y2Fmww==?= =?utf-8*en?Q?=A9?=", "café"),
            (b"=?iso-2022-jp?B?GyRCJU8bKEI=?=", "ハ"),
            // Each begins anew, unless it ends what the one before it has begun.
            (b"=?ISO-2022-JP?B?GyRCJUYbKEI=?= =?ISO-2022-JP?B?GyRCJTklSBsoQg==?=", "テスト"),
            (b"=?ISO-2022-JP?B?GyRCJUY=?= =?ISO-2022-JP?Q?ok?=", "テok"),
            (b"=?ISO-2022-JP?B?GyRCJUYl?= =?ISO-2022-JP?B?OSVIGyhC?=", "テスト"),
            (b"=?iso-2022-kr?B?GyQpQw5HUQ8=?= =?iso-2022-kr?B?GyQpQw4xOQ8=?=", "한국"),
            (b"=?iso-2022-kr?B?DkdRMTkP?=", "한국"),
            (b"=?utf-8 ?Q?=C3=A9?=", "é"),
            (b"=?hz-gb-2312?Q?=7E{Dc=7E}?= =?hz-gb-2312?Q?=7E{:C=7E}?=", "你好"),
            (b"=?utf-7?Q?+ZYc?= =?utf-7?Q?a?=", "文a"),
            (b"=?utf-8?Q?with blanks inside?=", "with blanks inside"),
            (b"=?utf-8?Q?what? yes?=", "what? yes"),
            (b"=?utf-8?Q?100=_=zz=?=", "100= =zz="),
            (b"=?utf-8?Q?folded\r\n inside?=", "folded inside"),
            (b"=?utf-8?B?Y2Fm\r\n w6k=?=", "café"),
            (b"=?utf-8?Q??=", ""),
            (b"=?utf-8?B?!!!?=", ""),
            // What is no word stays.
            (b"=?no-such?Q?a=20b?= c", "a b c"),
            (b"=?X-Unknown?B?Y2Fm6Q==?=", "caf\u{e9}"),
            (b"=?utf-8?X?a?=", "=?utf-8?X?a?="),
            (b"a =?utf-8?Q?cut_=C3=A9=", "a cut é"),
            (b"=?utf-8?Q?cut=C", "cut"),
            (b"=?utf-8?B?Y2Fmw6k", "caf"),
            (b"=?utf-8?Q?cut?", "cut"),
            (b"=?utf-8?Q?a?= =?utf-8?Q?cut_", "acut "),
            (b"=?utf-8?Q?is it", "=?utf-8?Q?is it"),
            (b"=?utf-8?Q?", "=?utf-8?Q?"),
            (b"=?no-such?Q?open", "=?no-such?Q?open"),
            (b"=?utf-8?Q?cut =?utf-8?Q?whole?=", "=?utf-8?Q?cut whole"),
            (b"=?=?=?", "=?=?=?"),
            (b"1 =? 2 ?= 3", "1 =? 2 ?= 3"),
            // Raw 8-bit text.
            ("r\u{e9}sum\u{e9}".as_bytes(), "r\u{e9}sum\u{e9}"),
            (b"r\xe9sum\xe9", "résumé"),
            (b"r\xe9 =?utf-8?Q?=C3=A9?= \xe9", "ré é é"),
            (b"=?utf-8?Q?=C3=A9=FF=C3=A9=C3=A9=C3=A9?=", "é\u{fffd}ééé"),
            (b"=?utf-8?Q?caf=E9?=", "café"),
            // Line ends and NUL.
            (b"a\r\n\tb\r\n c", "a\tb c"),
            (b"a\rb\nc", "a b c"),
            (b"a\0b =?utf-8?Q?=00=0D=0A=E2=80=A8?=", "a\u{fffd}b \u{fffd}   "),
        ];
        for (raw, expected) in table {
            assert_eq!(decode(raw), *expected, "{}", raw.escape_ascii());
        }
        assert_eq!(unfold(b" <a\r\n =?utf-8?Q?b?=> "), "<a =?utf-8?Q?b?=>");
    }

    #[test]
    fn a_mebibyte_of_half_words_takes_linear_time() {
        let hostile: &[&[u8]] = &[b"=?", b"=?utf-8?Q?", b"=?utf-8?Q?x?=", b"?=", b"=?utf-8?Q?a =?", b"=?x?Q?a?=", b"\r\n "];
        let start = Instant::now();
        for piece in hostile {
            let mut raw = piece.repeat(1024 * 1024 / piece.len());
            assert!(decode(&raw).len() <= raw.len());
            raw.extend_from_slice(b"?=");
            assert!(decode(&raw).len() <= raw.len());
        }
        // Quadratic would be hours; the bound is wide for a busy machine.
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    proptest! {
        #[test]
        fn any_octets_decode_to_one_line(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!decode(&raw).contains(['\r', '\n', '\0']));
        }

        #[test]
        fn what_is_encoded_in_pieces_comes_back(text in "[^\\p{Cc}\u{85}\u{2028}\u{2029}\u{feff}]{1,60}", cut in 1_usize..20, q: bool) {
            let mut raw = Vec::new();
            // Cut between octets, not characters.
            for piece in text.as_bytes().chunks(cut) {
                raw.extend_from_slice(if q { b" =?utf-8?Q?" } else { b" =?utf-8?B?" });
                if q {
                    for octet in piece {
                        raw.extend_from_slice(format!("={octet:02X}").as_bytes());
                    }
                } else {
                    use base64::Engine;
                    raw.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(piece).as_bytes());
                }
                raw.extend_from_slice(b"?=");
            }
            prop_assert_eq!(decode(&raw), text);
        }
    }
}
