//! Who a message says it is from: the addresses of its From fields, read by RFC 5322's grammar and its obsolete forms. Where a field is
//! written so that programs read it differently, every address that one of them may see is given: what has two domains has no author whose
//! policy it could pass. Pure.

use crate::message::{encoded_word, field, header};
use mail_auth::AuthenticatedMessage;

/// Addresses looked at.
const ADDRESSES_MAX: usize = 100;

/// Those of the fields that the library finds, and of those that the application gets, as it gets them: lines that are no field may stand
/// between, and in a charset that switches sets a quote or a bracket is half of a letter.
pub(super) fn of_message(parsed: &AuthenticatedMessage<'_>, message: &[u8]) -> Vec<String> {
    let block = message.get(..header::head(message, 0, |_| false).end).unwrap_or_default();
    let texts: Vec<_> =
        field::fields(block).filter(|field| is_from(field.name)).map(|field| encoded_word::decode_addresses(field.body)).collect();
    let mut found = addresses(parsed.headers.iter().copied());
    for address in texts.iter().flat_map(|text| of_field(text)).take(ADDRESSES_MAX) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// The addresses of all From fields, unfolded, without comments and white space.
fn addresses<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<String> {
    let from = fields.filter(|(name, _)| is_from(name));
    from.flat_map(|(_, value)| of_field(&String::from_utf8_lossy(value))).take(ADDRESSES_MAX).collect()
}

fn is_from(name: &[u8]) -> bool {
    name.trim_ascii().eq_ignore_ascii_case(b"from")
}

/// A piece of a field, comments and folds left out.
#[derive(Debug, PartialEq)]
enum Token {
    Quoted(String),
    Plain(char),
    Blank,
}

fn of_field(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    // What stands outside of angle brackets in this address, and what within.
    let (mut outside, mut inside) = (Vec::new(), None::<Vec<Token>>);
    let mut angles = false;
    for token in tokens(value).into_iter().chain([Token::Plain(',')]) {
        match (token, &mut inside) {
            (Token::Plain('<'), None) => inside = Some(Vec::new()),
            // A bracket within brackets begins again, as most programs read it; what came before is an address to others.
            (Token::Plain('<'), Some(address)) => found.extend(specs(&std::mem::take(address))),
            (Token::Plain('>'), Some(address)) => {
                found.extend(specs(&std::mem::take(address)));
                inside = None;
                angles = true;
            }
            (token, Some(address)) => address.push(token),
            (Token::Plain(',' | ';'), None) => {
                let text = std::mem::take(&mut outside);
                if !std::mem::take(&mut angles) {
                    found.extend(specs(&text));
                }
            }
            // A group's name ends.
            (Token::Plain(':'), None) => outside.clear(),
            (token, None) => outside.push(token),
        }
    }
    if let Some(unclosed) = inside {
        found.extend(specs(&unclosed));
    }
    found
}

fn tokens(value: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = value.chars();
    let mut comment = 0_usize;
    while let Some(c) = rest.next() {
        match c {
            '\\' if comment > 0 => _ = rest.next(),
            '(' => {
                comment += 1;
                tokens.push(Token::Blank);
            }
            ')' if comment > 0 => comment -= 1,
            _ if comment > 0 => {}
            '"' => {
                let mut text = String::new();
                while let Some(c) = rest.next().filter(|c| *c != '"') {
                    text.extend(if c == '\\' { rest.next() } else { Some(c) });
                }
                tokens.push(Token::Quoted(text));
            }
            c if c.is_whitespace() => tokens.push(Token::Blank),
            c => tokens.push(Token::Plain(c)),
        }
    }
    tokens
}

/// The addr-spec of these tokens: one address, more where there are more domains, none without any. A source route is left out.
fn specs(tokens: &[Token]) -> Vec<String> {
    let route = tokens.iter().find(|token| **token != Token::Blank) == Some(&Token::Plain('@'));
    let from = if route { tokens.iter().position(|token| *token == Token::Plain(':')).map_or(0, |at| at + 1) } else { 0 };
    // Several of them within one pair of brackets are several to some, and the comma is no part of a domain to anybody.
    tokens.get(from..).unwrap_or_default().split(|token| *token == Token::Plain(',')).flat_map(spec).collect()
}

fn spec(tokens: &[Token]) -> Vec<String> {
    let mut pieces = tokens.split(|token| *token == Token::Plain('@'));
    let local = pieces.next().unwrap_or_default();
    let text = |tokens: &[Token]| {
        let text = |token: &Token| match token {
            Token::Quoted(text) => text.clone(),
            Token::Plain(c) => c.to_string(),
            Token::Blank => String::new(),
        };
        // An `@` in quotes is no separator to whoever takes the address apart.
        tokens.iter().map(text).collect::<String>().replace('@', "%40")
    };
    let local = text(local);
    pieces.map(text).map(|domain| format!("{local}@{}", domain.trim_end_matches('.').to_lowercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields() {
        for (value, expected) in [
            ("a@good.example", &["a@good.example"][..]),
            (" Alice <a@Good.Example>\r\n", &["a@good.example"]),
            ("\"Bob, <x@y.example>\" <a@good.example>", &["a@good.example"]),
            ("a@good(x).example", &["a@good.example"]),
            ("a(\\)b (nested) c)@good.example (b@evil.example)", &["a@good.example"]),
            ("a @ good . example", &["a@good.example"]),
            ("a@good\r\n .example", &["a@good.example"]),
            ("<a@good.example><b@evil.example>", &["a@good.example", "b@evil.example"]),
            ("<a@good.example> <b@evil.example>", &["a@good.example", "b@evil.example"]),
            ("<a@good.example, b@evil.example>", &["a@good.example", "b@evil.example"]),
            ("a@good.example, B <b@evil.example>", &["a@good.example", "b@evil.example"]),
            ("Group: a@good.example, b@good.example;", &["a@good.example", "b@good.example"]),
            ("<@relay.example,@other.example:a@good.example>", &["a@good.example"]),
            ("<a@good.example@evil.example>", &["a@good.example", "a@evil.example"]),
            ("<b@evil.example <a@good.example>>", &["b@evil.example", "a@good.example"]),
            ("<a@good.example", &["a@good.example"]),
            ("<a@good.example,<b@evil.example>", &["a@good.example", "b@evil.example"]),
            ("\"a@b\"@good.example", &["a%40b@good.example"]),
            ("a@good.example.", &["a@good.example"]),
            ("x@evil.example <a@good.example>", &["a@good.example"]),
            ("nobody", &[]),
            ("undisclosed:;", &[]),
            ("", &[]),
        ] {
            let fields = [(&b"Subject"[..], &b"x@y"[..]), (&b"FROM "[..], value.as_bytes())];
            assert_eq!(addresses(fields.into_iter()), expected, "{value}");
        }
        let two = [(&b"From"[..], &b"a@x"[..]), (&b"From"[..], &b"b@y"[..])];
        assert_eq!(addresses(two.into_iter()), ["a@x", "b@y"]);
    }

    /// What is behind a line that is no field counts as soon as the application gets it.
    #[test]
    fn of_messages() {
        for (message, expected) in [
            ("From: a@x\r\nSubject: b\r\n\r\nFrom: c@y\r\n", &["a@x"][..]),
            ("From: a@x\r\njunk\r\nFrom: b@y\r\nX-Z: c\r\n\r\n", &["a@x", "b@y"]),
            ("Subject: a\r\njunk\r\nFrom: b@y\r\n\r\n", &["b@y"]),
            ("From: a@x\r\nFrom: a@x\r\n\r\n", &["a@x", "a@x"]),
            // To who reads octets the first is in quotes.
            ("From: \u{1b}$B!\"\u{1b}(B) <a@x> \u{1b}$B!\"\u{1b}(B) <b@y>\r\n\r\n", &["b@y", "a@x"]),
            ("From: =?utf-8?Q?a=40x=2C?= <b@y>\r\n\r\n", &["b@y"]),
        ] {
            let parsed = AuthenticatedMessage::parse(message.as_bytes()).unwrap();
            assert_eq!(of_message(&parsed, message.as_bytes()), expected, "{message:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_panics_and_every_address_has_a_domain(value in "[<>@,:;()\"\\\\ab. \u{e9}]{0,40}") {
            for address in addresses([(&b"From"[..], value.as_bytes())].into_iter()) {
                prop_assert!(address.matches('@').count() == 1, "{}", address);
            }
        }
    }
}
