//! Where decoded words stand in a field of addresses (RFC 5322 section 3.4), and what they must not become there.
//!
//! A decoded word is a piece of a phrase, of a quoted string or of a comment. Put there as bare text, its comma, its angle bracket or its
//! quotes would be the field's own, and the field would name somebody else. Logs nothing, cannot fail.

/// Fields whose bodies are addresses, by their names in lower case.
const NAMES: [&str; 17] = [
    "from",
    "to",
    "cc",
    "bcc",
    "sender",
    "reply-to",
    "return-path",
    "errors-to",
    "delivered-to",
    "x-original-to",
    "apparently-to",
    "mail-followup-to",
    "mail-reply-to",
    "return-receipt-to",
    "disposition-notification-to",
    "x-original-from",
    "x-sender",
];

/// The field holds addresses.
#[must_use]
pub fn is_named(name: &[u8]) -> bool {
    let name = match name.split_at_checked(7) {
        Some((start, rest)) if start.eq_ignore_ascii_case(b"resent-") => rest,
        _ => name,
    };
    // A form's names make no difference between the two.
    let same = |(ours, theirs): (u8, &u8)| ours == theirs.to_ascii_lowercase() || (ours == b'-' && *theirs == b'_');
    NAMES.iter().any(|known| known.len() == name.len() && known.bytes().zip(name).all(same))
}

/// A place in such a field.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    quoted: bool,
    /// Comments within one another.
    comments: usize,
    /// Between angle brackets.
    address: bool,
    /// Behind a backslash.
    escaped: bool,
}

impl Place {
    /// Where this text, which is no word, leads from here.
    pub(super) fn after(mut self, text: &str) -> Self {
        for octet in text.bytes() {
            if std::mem::take(&mut self.escaped) {
                continue;
            }
            match octet {
                b'\\' if self.quoted || self.comments > 0 => self.escaped = true,
                b'"' if self.comments == 0 => self.quoted = !self.quoted,
                _ if self.quoted => {}
                b'(' => self.comments = self.comments.saturating_add(1),
                b')' => self.comments = self.comments.saturating_sub(1),
                _ if self.comments > 0 => {}
                b'<' => self.address = true,
                b'>' => self.address = false,
                _ => {}
            }
        }
        self
    }

    /// An encoded word here is one: it is no part of an address (RFC 2047 section 5), which neither the brackets nor an `@` beside it may make it.
    pub(super) fn takes_words(self, before: &str, behind: &str) -> bool {
        if self.quoted || self.comments > 0 {
            return !self.escaped;
        }
        !self.address && !before.trim_end().ends_with('@') && !behind.trim_start().starts_with('@')
    }

    /// Appends the text of words so that it is text here.
    pub(super) fn push(self, text: &str, out: &mut String) {
        let escaped = |out: &mut String, specials: &[char]| {
            for c in text.chars() {
                if specials.contains(&c) {
                    out.push('\\');
                }
                out.push(c);
            }
        };
        if self.quoted {
            escaped(out, &['"', '\\']);
        } else if self.comments > 0 {
            escaped(out, &['(', ')', '\\']);
        } else if text.contains(|c| "()<>[]:;@\\,.\"".contains(c)) {
            // Two quotes side by side would be one to some.
            if out.ends_with('"') {
                out.push(' ');
            }
            out.push('"');
            escaped(out, &['"', '\\']);
            out.push('"');
        } else {
            out.push_str(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_named;
    use crate::message::encoded_word::decode_addresses;
    use mail_parser::MessageParser;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for name in ["From", "TO", "resent-from", "Resent-Reply-To", "reply_to"] {
            assert!(is_named(name.as_bytes()), "{name}");
        }
        for name in ["Subject", "Resent-", "From-", "X-From", ""] {
            assert!(!is_named(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn words_in_their_places() {
        let table: &[(&str, &str)] = &[
            ("Ann <ann@a.example>", "Ann <ann@a.example>"),
            ("=?utf-8?Q?Andr=C3=A9?= <a@a.example>", "André <a@a.example>"),
            ("=?utf-8?Q?Doe=2C_Ann?= <ann@a.example>", "\"Doe, Ann\" <ann@a.example>"),
            ("=?utf-8?Q?boss=40corp.example=2C?= <mallory@evil.example>", "\"boss@corp.example,\" <mallory@evil.example>"),
            ("=?utf-8?Q?boss?= =?utf-8?Q?=40corp.example=3E=2C?= <m@evil.example>", "\"boss@corp.example>,\" <m@evil.example>"),
            ("=?utf-8?Q?a=22b=5Cc?= <a@a.example>", "\"a\\\"b\\\\c\" <a@a.example>"),
            ("\"=?utf-8?Q?a=22=2C_b=40c?=\" <a@a.example>", "\"a\\\", b@c\" <a@a.example>"),
            ("a@a.example (=?utf-8?Q?a=29=2C_b=40c?=)", "a@a.example (a\\), b@c)"),
            // No word: a part of an address.
            ("<=?utf-8?Q?boss=40corp.example?=@evil.example>", "<=?utf-8?Q?boss=40corp.example?=@evil.example>"),
            ("=?utf-8?Q?boss=40corp.example=2C?=@evil.example", "=?utf-8?Q?boss=40corp.example=2C?=@evil.example"),
            ("Doe <a@b>, =?utf-8?Q?x=2Cy?= <c@d>", "Doe <a@b>, \"x,y\" <c@d>"),
            ("\"a\\\" =?utf-8?Q?=22?=\" <c@d>", "\"a\\\" \\\"\" <c@d>"),
            ("\"a\"=?utf-8?Q?=2Cb?= <c@d>", "\"a\" \",b\" <c@d>"),
            ("=?utf-8?Q?a=0D=0Ab=3A?= <c@d>", "\"a  b:\" <c@d>"),
            ("=?utf-8?Q?plain_words?= <c@d>", "plain words <c@d>"),
        ];
        for (raw, expected) in table {
            assert_eq!(decode_addresses(raw.as_bytes()), *expected, "{raw}");
        }
    }

    fn addresses(field: &str) -> Vec<String> {
        let message = format!("From: {field}\r\n\r\n");
        let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
        let from = parsed.from().map(|from| from.clone().into_list()).unwrap_or_default();
        from.iter().filter_map(|address| address.address().map(str::to_owned)).collect()
    }

    proptest! {
        /// Whatever words stand before it, the field names who it named.
        #[test]
        fn a_word_is_never_an_address(text in "[ -~é,<>@\"\\\\():;.]{1,30}", second in "[ -~,<>@\"]{0,20}", shape in 0_usize..4) {
            let word = |text: &str| {
                let q: String = text.bytes().map(|octet| format!("={octet:02X}")).collect();
                format!("=?utf-8?Q?{q}?=")
            };
            let (word, second) = (word(&text), word(&second));
            let field = match shape {
                0 => format!("{word} <me@here.example>"),
                1 => format!("{word} {second} <me@here.example>"),
                2 => format!("\"{word}\" <me@here.example>"),
                _ => format!("{word} Name {second} <me@here.example>"),
            };
            prop_assert_eq!(addresses(&decode_addresses(field.as_bytes())), ["me@here.example"], "{}", decode_addresses(field.as_bytes()));
        }
    }
}
