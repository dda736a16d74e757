//! A field of the shape `value; name=value` (RFC 2045 section 5.1, RFC 2183), with the extended parameters of RFC 2231.
//!
//! Tokens, quotes, comments and folding are the MIME parser's (`mail_parser`). What is split over sections or encoded
//! words is put together here before it is decoded, since senders split within characters. Logs nothing; what makes no
//! sense is left out.

use super::charset::{self, Charset};
use super::encoded_word;
use super::transfer::hex;
use mail_parser::{ContentType, HeaderValue, parsers::MessageStream};
use std::borrow::Cow;

/// How much of a field is parsed: long enough for any name, short enough that no parser's habits matter.
const FIELD_MAX: usize = 8 * 1024;

/// Stand for `?` behind `=` and for `*` while the parser is at work, since it would decode each section and each
/// encoded word by itself. Controls are in no field that anybody means.
const SHIELDED_WORD: char = '\u{1}';
const SHIELDED_STAR: char = '\u{2}';

pub(super) struct Parameters {
    value: ContentType<'static>,
}

impl Parameters {
    /// `None` where there is not even a value.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let body = body.get(..FIELD_MAX).unwrap_or(body);
        let mut text = match std::str::from_utf8(body) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => charset::guess(body),
        };
        if text.contains("=?") {
            // Unfolded first: a fold between two words is not part of the name.
            let unfolded = encoded_word::unfold(text.as_bytes());
            text = Cow::Owned(unfolded.replace("=?", &format!("={SHIELDED_WORD}")));
        }
        if text.contains('*') {
            text = Cow::Owned(text.replace('*', SHIELDED_STAR.encode_utf8(&mut [0; 4])));
        }
        let line = format!("{text}\r\n");
        let HeaderValue::ContentType(value) = MessageStream::new(line.as_bytes()).parse_content_type().into_owned() else { return None };
        Some(Self { value })
    }

    /// What stands before the slash.
    pub(super) fn main(&self) -> &str {
        &self.value.c_type
    }

    /// What stands behind it.
    pub(super) fn sub(&self) -> &str {
        self.value.c_subtype.as_deref().unwrap_or_default()
    }

    /// A parameter's value as one trimmed line; `None` if it is empty. The extended form wins (RFC 2231 section 3 has
    /// it beside a plain one for those who do not know it).
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let plain = || self.value.attribute(name).map(|value| encoded_word::decode(restored(value).as_bytes()));
        let value = self.extended(name).or_else(plain)?;
        (!value.is_empty()).then_some(value)
    }

    fn extended(&self, name: &str) -> Option<String> {
        let mut sections: Vec<(u32, bool, String)> = Vec::new();
        for attribute in self.value.attributes().unwrap_or_default() {
            let Some(rest) = attribute.name.strip_prefix(name).and_then(|rest| rest.strip_prefix(SHIELDED_STAR)) else { continue };
            let (number, encoded) = match rest.strip_suffix(SHIELDED_STAR) {
                Some(number) => (number, true),
                // `name*` alone is section 0 and encoded; `name*1` is not encoded.
                None => (rest, rest.is_empty()),
            };
            let Ok(number) = (if number.is_empty() { Ok(0) } else { number.parse() }) else { continue };
            sections.push((number, encoded, restored(&attribute.value)));
        }
        sections.sort_by_key(|(number, ..)| *number);
        let mut charset = None;
        let mut octets = Vec::new();
        let mut expected = 0;
        for (number, encoded, value) in &sections {
            // A section that is missing ends the value; one that is there twice counts once.
            if *number != expected {
                if *number < expected {
                    continue;
                }
                break;
            }
            expected += 1;
            let mut value = value.as_str();
            if *encoded && *number == 0 {
                let mut pieces = value.splitn(3, '\'');
                if let (Some(label), Some(_language), Some(rest)) = (pieces.next(), pieces.next(), pieces.next()) {
                    charset = Charset::named(label.as_bytes());
                    value = rest;
                }
            }
            if *encoded { percent_decode(value.as_bytes(), &mut octets) } else { octets.extend_from_slice(value.as_bytes()) }
        }
        let text = match charset {
            Some(charset) => charset.decode(&octets),
            None => charset::guess(&octets),
        };
        (expected > 0).then(|| encoded_word::unfold(text.as_bytes()))
    }
}

fn restored(value: &str) -> String {
    value.replace(&format!("={SHIELDED_WORD}"), "=?").replace(SHIELDED_STAR, "*")
}

fn percent_decode(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return,
            [b'%', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                after
            }
            [octet, after @ ..] => {
                out.push(*octet);
                after
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Parameters;
    use proptest::prelude::*;

    #[test]
    fn parameters() {
        let table: &[(&[u8], Option<&str>)] = &[
            (b" attachment", None),
            (b" attachment; name=a.txt", Some("a.txt")),
            (b" attachment; NAME = \"a b;c.txt\" ; x=y", Some("a b;c.txt")),
            (b" attachment;\r\n\tname=\"a\\\"b\"", Some("a\"b")),
            (b" attachment; name=\"\"", None),
            (b" attachment; name*=utf-8'en'na%C3%AFve", Some("naïve")),
            (b" attachment; name*=''plain", Some("plain")),
            (b" attachment; name*0=a; name*1=b", Some("ab")),
            (b" attachment; name*1=b; name*0=\"a \"; name*2=c", Some("a bc")),
            (b" attachment; name*0=a; name*2=c", Some("a")),
            (b" attachment; name*1=b", None),
            // The charset stands in the first section only; a character is split over two.
            (b" attachment; name*0*=iso-8859-1''%E9; name*1=\"-\"; name*2*=%E9", Some("é-é")),
            (b" attachment; name*0*=utf-8''caf%C3; name*1*=%A9", Some("café")),
            (b" attachment; name=plain; name*=utf-8''extended", Some("extended")),
            (b" attachment; name*=no-such''%E9", Some("é")),
            (b" attachment; name*=utf-8''100%; x=y", Some("100%")),
            (b" attachment; name=a*b.txt", Some("a*b.txt")),
            (b" attachment; name=\"=?utf-8?Q?caf=C3?=\r\n =?utf-8?Q?=A9?=\"", Some("café")),
            (b" attachment; name==?utf-8?B?Y2Fmw6k=?=", Some("café")),
            (b" attachment; name=caf\xe9", Some("café")),
            ("attachment; name=café".as_bytes(), Some("café")),
        ];
        for (body, expected) in table {
            let name = Parameters::parse(body).and_then(|value| value.get("name"));
            assert_eq!(name.as_deref(), *expected, "{}", body.escape_ascii());
        }
        let value = Parameters::parse(b" Text/Plain (comment); charset=x").unwrap();
        assert_eq!((value.main(), value.sub()), ("text", "plain"));
    }

    proptest! {
        #[test]
        fn any_octets_are_one_line_or_none(body in proptest::collection::vec(any::<u8>(), 0..200), tail in "[a-z*=;'\"%?0-9 \r\n]{0,80}") {
            let body = [&body, tail.as_bytes()].concat();
            if let Some(value) = crate::message::guard::quietly(|| Parameters::parse(&body)).flatten() {
                for name in ["name", "filename", "charset"] {
                    prop_assert!(!value.get(name).unwrap_or_default().contains(['\r', '\n', '\0']));
                }
            }
        }
    }
}
