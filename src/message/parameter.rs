//! A field of the shape `value; name=value` (RFC 2045 section 5.1, RFC 2183), with the extended parameters of RFC 2231.
//!
//! Unfolded before it is read: a fold is a blank wherever it stands. Tokens are RFC 2045's, and read leniently around them, as senders write:
//! names with blanks and parentheses in no quotes, quotes within quotes, parameters without their semicolon. What is split over sections or
//! encoded words is put together before it is decoded, since senders split within characters. Linear in the field. Logs nothing; what makes
//! no sense is left out.

use super::charset::{self, Charset};
use super::encoded_word;
use super::transfer::hex;
use std::borrow::Cow;

/// How much of a field is read: long enough for any name.
const FIELD_MAX: usize = 8 * 1024;

pub struct Parameters {
    /// What stands before the slash, and behind it.
    main: String,
    sub: String,
    /// Names in lower case.
    list: Vec<(String, Vec<u8>)>,
}

impl Parameters {
    pub fn parse(body: &[u8]) -> Self {
        let unfolded = encoded_word::unfolded_octets(body.get(..FIELD_MAX).unwrap_or(body));
        let mut rest = Rest(&unfolded);
        // Some write the whole value in quotes.
        let whole = rest.0;
        let (mut main, mut sub) = match rest.skip_blanks() {
            Some(b'"') => {
                let quoted = rest.quoted();
                let mut inner = Rest(&quoted);
                (inner.token(), inner.after_slash())
            }
            _ => (rest.token(), rest.after_slash()),
        };
        // Some leave it out, and begin with a parameter.
        if sub.is_empty() && rest.0.starts_with(b"=") {
            (main, sub, rest) = (String::new(), String::new(), Rest(whole));
        }
        let mut list = Vec::new();
        while let Some((name, value)) = rest.parameter() {
            list.push((name, value));
        }
        Self { main, sub, list }
    }

    /// What stands before the slash, in lower case; empty where there is none.
    pub fn main(&self) -> &str {
        &self.main
    }

    /// What stands behind it, in lower case.
    pub fn sub(&self) -> &str {
        &self.sub
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.list.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// A parameter's octets as they came; `None` if they are none.
    pub fn octets(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.list.iter().find(|(known, _)| known == name)?;
        (!value.is_empty()).then_some(value)
    }

    /// A parameter's value as one trimmed line; `None` if it is empty. The extended form wins (RFC 2231 section 3 has
    /// it beside a plain one for those who do not know it).
    pub fn get(&self, name: &str) -> Option<String> {
        let extended = self.extended(name).filter(|value| !value.is_empty());
        let value = extended.or_else(|| self.octets(name).map(encoded_word::decode))?;
        (!value.is_empty()).then_some(value)
    }

    fn extended(&self, name: &str) -> Option<String> {
        let mut sections: Vec<(u32, bool, &[u8])> = Vec::new();
        for (full, value) in &self.list {
            let Some(rest) = full.strip_prefix(name).and_then(|rest| rest.strip_prefix('*')) else { continue };
            let (number, encoded) = match rest.strip_suffix('*') {
                Some(number) => (number, true),
                // `name*` alone is section 0 and encoded; `name*1` is not encoded.
                None => (rest, rest.is_empty()),
            };
            let Ok(number) = (if number.is_empty() { Ok(0) } else { number.parse() }) else { continue };
            sections.push((number, encoded, value));
        }
        sections.sort_by_key(|(number, ..)| *number);
        // Some count from one.
        let first = sections.first().map_or(0, |(number, ..)| (*number).min(1));
        let mut expected = first;
        let mut any_encoded = false;
        let mut charset = None;
        let mut octets = Vec::new();
        for (number, encoded, value) in sections {
            // A section that is missing ends the value; one that is there twice counts once.
            if number != expected {
                if number < expected {
                    continue;
                }
                break;
            }
            any_encoded |= encoded;
            let mut value = value;
            if encoded && number == first {
                let mut pieces = value.splitn(3, |octet| *octet == b'\'');
                match (pieces.next(), pieces.next(), pieces.next()) {
                    (Some(label), Some(_language), Some(rest)) => {
                        charset = Charset::named(label);
                        value = rest;
                    }
                    // Who forgets the language's place.
                    (Some(label), Some(rest), None) if Charset::named(label).is_some() => {
                        charset = Charset::named(label);
                        value = rest;
                    }
                    _ => {}
                }
            }
            expected += 1;
            if encoded { percent_decode(value, &mut octets) } else { octets.extend_from_slice(value) }
        }
        if expected == first {
            return None;
        }
        if !any_encoded {
            // Nothing but cut; some cut within encoded words.
            return Some(encoded_word::decode(&octets));
        }
        let text = charset.map_or_else(|| charset::guess(&octets), |charset| charset.decode(&octets));
        // Some write encoded words into it. What is of another charset already is not decoded twice.
        let words = octets.is_ascii() && text.contains("=?");
        Some(if words { encoded_word::decode(&octets) } else { encoded_word::unfold(text.as_bytes()) })
    }
}

/// What is not yet read of a field.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Blanks and comments; the octet that follows them.
    fn skip_blanks(&mut self) -> Option<u8> {
        loop {
            self.0 = self.0.trim_ascii_start();
            match self.0.first()? {
                b'(' => self.skip_comment(),
                octet => return Some(*octet),
            }
        }
    }

    /// Blanks; a comment only in front of a quoted string, since names that stand in no quotes begin with parentheses too.
    fn skip_to_value(&mut self) {
        self.0 = self.0.trim_ascii_start();
        let mut behind = Rest(self.0);
        if behind.skip_blanks() == Some(b'"') {
            *self = behind;
        }
    }

    fn skip_comment(&mut self) {
        let (mut depth, mut escaped, mut len) = (0_usize, false, 0);
        for octet in self.0 {
            len += 1;
            match octet {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        self.advance(len);
    }

    fn advance(&mut self, len: usize) {
        self.0 = self.0.get(len..).unwrap_or_default();
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = rest;
        taken
    }

    /// In lower case.
    fn token(&mut self) -> String {
        let len = self.0.iter().take_while(|octet| is_of_token(**octet)).count();
        self.take(len).iter().map(|octet| char::from(octet.to_ascii_lowercase())).collect()
    }

    fn after_slash(&mut self) -> String {
        if self.skip_blanks() != Some(b'/') {
            return String::new();
        }
        self.advance(1);
        self.skip_blanks();
        self.token()
    }

    /// The next one, whatever stands before it.
    fn parameter(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            let first = self.skip_blanks()?;
            if !is_of_token(first) {
                self.advance(1);
                continue;
            }
            let name = self.token();
            if self.skip_blanks() != Some(b'=') {
                continue;
            }
            self.advance(1);
            self.skip_to_value();
            let is_text = name.starts_with("filename") || name.starts_with("name");
            let value = match self.0.first() {
                Some(b'"') => self.quoted(),
                _ if is_text => self.text().to_vec(),
                _ => self.word().to_vec(),
            };
            return Some((name, value));
        }
    }

    /// A quoted string. Its end is the quote behind which something ends: senders forget to escape those within.
    fn quoted(&mut self) -> Vec<u8> {
        self.advance(1);
        let mut value = Vec::new();
        loop {
            match self.0 {
                [] => {
                    // Its last quote was escaped by a name that ends in a backslash.
                    if value.last() == Some(&b'"') {
                        value.pop();
                    }
                    return value;
                }
                [b'\\', octet @ (b'"' | b'\\'), rest @ ..] => {
                    // A name that ends in a backslash; the quote behind it is the string's.
                    if *octet == b'"' && ends_here(rest) && !rest.contains(&b'"') {
                        value.push(b'\\');
                        self.0 = rest;
                        return value;
                    }
                    value.push(*octet);
                    self.0 = rest;
                }
                [b'"', rest @ ..] if ends_here(rest) => {
                    self.0 = rest;
                    return value;
                }
                [octet, rest @ ..] => {
                    value.push(*octet);
                    self.0 = rest;
                }
            }
        }
    }

    /// A name in no quotes: up to the semicolon, blanks and parentheses included, but for a comment behind a whole name.
    fn text(&mut self) -> &'a [u8] {
        let len = memchr::memchr(b';', self.0).unwrap_or(self.0.len());
        let text = self.take(len).trim_ascii();
        if let Some(open) = text.strip_suffix(b")").and_then(|_| memchr::memrchr(b'(', text))
            && let Some((before, _)) = text.split_at_checked(open)
            && before.ends_with(b" ")
        {
            let before = before.trim_ascii_end();
            let ending = before.rsplit(|octet| *octet == b'.').next().unwrap_or_default();
            if ending.len() < before.len() && (1..=5).contains(&ending.len()) && ending.iter().all(u8::is_ascii_alphanumeric) {
                return before;
            }
        }
        text
    }

    /// Anything else in no quotes: up to a blank or the semicolon.
    fn word(&mut self) -> &'a [u8] {
        let len = self.0.iter().take_while(|octet| !octet.is_ascii_whitespace() && **octet != b';').count();
        self.take(len)
    }
}

/// Behind a closing quote: the end, a semicolon, a comment, or the next parameter of those who forget the semicolon.
fn ends_here(rest: &[u8]) -> bool {
    let next = rest.trim_ascii_start();
    match next.first() {
        None | Some(b';' | b'(') => true,
        Some(b',') => next.get(1..).unwrap_or_default().trim_ascii().is_empty(),
        Some(_) => {
            let len = next.iter().take_while(|octet| is_of_token(**octet)).count();
            next.len() < rest.len() && len > 0 && next.get(len..).unwrap_or_default().trim_ascii_start().starts_with(b"=")
        }
    }
}

/// RFC 2045 section 5.1: any character but blanks, controls and specials.
fn is_of_token(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&octet)
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

/// A name that a file can have and a strict server takes: no controls, no separators, no way up, bounded.
pub fn file_name(name: &str) -> Option<String> {
    const NAME_MAX: usize = 255;
    let safe = |c: char| if c.is_control() || encoded_word::is_line_control(c) || matches!(c, '/' | '\\') { '_' } else { c };
    let mut name: String = name.trim().chars().map(safe).collect();
    if name.chars().all(|c| c == '.') {
        name = name.replace('.', "_");
    }
    if name.len() > NAME_MAX {
        // What it is called at the beginning, and what it is at the end.
        let ending: Cow<'_, str> = match name.rsplit_once('.') {
            Some((_, ending)) if ending.len() <= 16 => format!(".{ending}").into(),
            _ => "".into(),
        };
        let cut = name.floor_char_boundary(NAME_MAX - ending.len());
        name = format!("{}{ending}", name.get(..cut).unwrap_or_default());
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::{Parameters, file_name};
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
            (b" attachment; name*1=a; name*2=b", Some("ab")),
            (b" attachment; name*2=b", None),
            // The charset stands in the first section only; a character is split over two.
            (b" attachment; name*0*=iso-8859-1''%E9; name*1=\"-\"; name*2*=%E9", Some("é-é")),
            (b" attachment; name*0*=utf-8''caf%C3; name*1*=%A9", Some("café")),
            (b" attachment; name*0*=iso-2022-jp''%1B$B%25F%1B%28B; name*1*=%1B$B%259%1B%28B.pdf", Some("テス.pdf")),
            (b" attachment; name=plain; name*=utf-8''extended", Some("extended")),
            (b" attachment; name*=no-such''%E9", Some("é")),
            (b" attachment; name=plain; name*=utf-8''", Some("plain")),
            (b" attachment; name*=utf-8'caf%C3%A9", Some("café")),
            (b" attachment; name*=it's%20mine", Some("it's mine")),
            (b" attachment; name*=utf-8''100%; x=y", Some("100%")),
            (b" attachment; name*=\"utf-8''quoted%20too\"", Some("quoted too")),
            (b" attachment; name=a*b.txt", Some("a*b.txt")),
            (b" attachment; name=\"=?utf-8?Q?caf=C3?=\r\n =?utf-8?Q?=A9?=\"", Some("café")),
            (b" attachment; name==?utf-8?B?Y2Fmw6k=?=", Some("café")),
            (b" attachment; name*0=\"=?UTF-8?Q?one_and?=\"; name*1=\" =?UTF-8?Q?_two?=\"", Some("one and two")),
            (b" attachment; name*0=\"=?UTF-8?Q?one_\"; name*1=\"two?=\"", Some("one two")),
            (b" attachment; name*0*=\"=?UTF-8?Q?caf=C3=A9?=\"", Some("café")),
            (b" attachment; name=caf\xe9", Some("café")),
            ("attachment; name=café".as_bytes(), Some("café")),
            // Folded anywhere.
            (b" attachment; name=\r\n\t\"a long name.pdf\"", Some("a long name.pdf")),
            (b" attachment;\r\n name\r\n =\r\n a.pdf\r\n ; x=y", Some("a.pdf")),
            (b" attachment; name*0*=\r\n utf-8''caf;\r\n name*1*=\r\n %C3%A9", Some("café")),
            (b" attachment; name=\"a\r\n b\"", Some("a b")),
            // As it should not be written.
            (b" attachment; name=my file (1).pdf; x=y", Some("my file (1).pdf")),
            (b" attachment; name=Scan (1)", Some("Scan (1)")),
            (b" attachment; name=a.txt (a comment)", Some("a.txt")),
            (b" attachment; name=\"a.txt\" (a comment); x=y", Some("a.txt")),
            (b" attachment (comment; name=no) ; name=yes", Some("yes")),
            (b" attachment; (a) name (b) = (c) \"a b.txt\" (d)", Some("a b.txt")),
            (b" attachment; name=(1) a.txt", Some("(1) a.txt")),
            (b" attachment; name=\"a\"b\".pdf\"", Some("a\"b\".pdf")),
            (b" attachment; name=\"a.pdf\" x=y", Some("a.pdf")),
            (b" attachment; name=\"a.pdf\",", Some("a.pdf")),
            (b" attachment name=a.pdf", Some("a.pdf")),
            (b" attachment;; ; name=a.pdf;", Some("a.pdf")),
            (b" attachment; name=\"open.pdf", Some("open.pdf")),
            (b" attachment; name=\"C:\\dir\\a.pdf\"", Some("C:\\dir\\a.pdf")),
            (b" attachment; name=\"a\\\"", Some("a\\")),
            (b" attachment; name=\"a\\\"; x=y", Some("a\\")),
            (b"; name=a.pdf", Some("a.pdf")),
            (b" attachment; =x; name=a.pdf", Some("a.pdf")),
        ];
        for (body, expected) in table {
            assert_eq!(Parameters::parse(body).get("name").as_deref(), *expected, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn values() {
        let table: &[(&[u8], &str, &str)] = &[
            (b" Text/Plain (comment); charset=x", "text", "plain"),
            (b" text / html", "text", "html"),
            (b"\r\n text/html", "text", "html"),
            (b" (a) text (b) / (c) html (d); x=y", "text", "html"),
            (b" multipart/*; boundary=b", "multipart", "*"),
            (b" multipart/x~!%'{}", "multipart", "x~!%'{}"),
            (b" multipart/alternative/; boundary=b", "multipart", "alternative"),
            (b" \"text/html\"; charset=x", "text", "html"),
            (b" text/html charset=x", "text", "html"),
            (b" text/html, text/plain", "text", "html"),
            (b" text", "text", ""),
            (b" /", "", ""),
            (b"", "", ""),
        ];
        for (body, main, sub) in table {
            let value = Parameters::parse(body);
            assert_eq!((value.main(), value.sub()), (*main, *sub), "{}", body.escape_ascii());
        }
        for body in
            [" a/b; boundary=----=_Part:1/2?(3)", " a/b; boundary=\"----=_Part:1/2?(3)\"", " a/b; boundary=\r\n ----=_Part:1/2?(3) ;x=y"]
        {
            assert_eq!(Parameters::parse(body.as_bytes()).octets("boundary"), Some(&b"----=_Part:1/2?(3)"[..]), "{body}");
        }
    }

    #[test]
    fn file_names() {
        let table = [
            ("a.pdf", "a.pdf"),
            (" na\u{ef}ve \u{4f60}.pdf ", "na\u{ef}ve \u{4f60}.pdf"),
            ("a\u{1b}[2J\t\u{7f}\u{85}.pdf", "a_[2J___.pdf"),
            ("..\\..\\a/b", ".._.._a_b"),
            ("x\\", "x_"),
            ("..", "__"),
            (".", "_"),
            (".profile", ".profile"),
        ];
        for (name, expected) in table {
            assert_eq!(file_name(name).as_deref(), Some(expected), "{name:?}");
        }
        assert_eq!(file_name(" "), None);
        let long = file_name(&format!("{}.pdf", "é".repeat(400))).unwrap();
        assert!(long.len() <= 255 && long.len() > 250 && long.ends_with("é.pdf"), "{long}");
        assert_eq!(file_name(&"x".repeat(400)).unwrap().len(), 255);
    }

    proptest! {
        #[test]
        fn any_octets_are_one_line_or_none(body in proptest::collection::vec(any::<u8>(), 0..200), tail in "[a-z*=;'\"%?0-9() \r\n\\\\]{0,80}") {
            let body = [&body, tail.as_bytes()].concat();
            let value = Parameters::parse(&body);
            for name in ["name", "filename", "charset"] {
                let text = value.get(name).unwrap_or_default();
                prop_assert!(!text.contains(['\r', '\n', '\0']));
                prop_assert!(file_name(&text).is_none_or(|name| name.len() <= 255 && !name.contains(['/', '\\']) && !name.contains(char::is_control)));
            }
        }

        /// A name comes back however it was written, and wherever it was folded.
        #[test]
        fn what_is_written_is_read(name in "[a-zé ()';,.&+0-9-]{1,30}", fold in "(|\r\n |\r\n\t)", section in 1_usize..9) {
            let expected = name.trim();
            prop_assume!(!expected.is_empty() && !expected.contains("=?"));
            let quoted = format!(" attachment;{fold} filename={fold}\"{expected}\"");
            let percent = |octets: &[u8]| octets.iter().map(|octet| format!("%{octet:02X}")).collect::<String>();
            let extended = format!(" attachment;{fold} filename*={fold}utf-8''{}", percent(expected.as_bytes()));
            let sections: Vec<String> = expected.as_bytes().chunks(section).enumerate().map(|(at, piece)| {
                let start = if at == 0 { "utf-8''" } else { "" };
                format!(";{fold} filename*{at}*={fold}{start}{}", percent(piece))
            }).collect();
            for body in [quoted, extended, format!(" attachment{}", sections.concat())] {
                let found = Parameters::parse(body.as_bytes()).get("filename");
                prop_assert_eq!(found.as_deref(), Some(expected), "{}", body);
            }
        }
    }
}
