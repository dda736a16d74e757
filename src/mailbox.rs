//! One mailbox, however it is spelled: the text that stands for all its spellings. Pure; logs nothing, cannot fail.
//!
//! Domains: A-labels in lower case, whether they came as A-labels or U-labels (UTS #46), without a final dot. Local parts: NFC and full Unicode
//! case folding, without the quotes that they do not need.

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizer, DecomposingNormalizer};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

/// Local part and domain; no domain where there is no `@`, as in `postmaster`.
#[must_use]
pub fn split(mailbox: &str) -> (&str, Option<&str>) {
    mailbox.rsplit_once('@').map_or((mailbox, None), |(local, domain)| (local, Some(domain)))
}

/// The same text for every spelling of one mailbox, and for no other mailbox.
#[must_use]
pub fn canonical(mailbox: &str) -> String {
    if is_plain(mailbox) {
        return mailbox.to_ascii_lowercase();
    }
    match split(mailbox) {
        (local_part, Some(name)) => format!("{}@{}", local(local_part), domain(name)),
        (local_part, None) => local(local_part),
    }
}

/// What a sender may mean by one mailbox: the domain's spellings and needless quotes are no matter, but an application may tell its tokens apart
/// by the letters' case.
#[must_use]
pub fn as_named(mailbox: &str) -> String {
    let (local_part, name) = split(mailbox);
    let mut text = unquoted(local_part).into_owned();
    // Told apart by nobody (RFC 5321 section 4.5.1).
    if text.eq_ignore_ascii_case("postmaster") {
        text.make_ascii_lowercase();
    }
    if let Some(name) = name {
        text.push('@');
        text.push_str(&domain(name));
    }
    text
}

/// Nearly every mailbox: no quotes, no literal, no A-label and no final dot, so that its spellings differ by the case of letters only.
fn is_plain(mailbox: &str) -> bool {
    // Without a branch for each octet.
    mailbox.bytes().fold(true, |all, octet| all & octet.is_ascii() & !matches!(octet, b'"' | b'['))
        && !mailbox.ends_with('.')
        && !mailbox.contains("--")
}

/// A local part by itself. Every daemon that receives mail takes `Ann` for `ann`.
#[must_use]
pub fn local(text: &str) -> String {
    fold(&unquoted(text))
}

/// A domain or an address literal by itself.
#[must_use]
pub fn domain(text: &str) -> String {
    let text = text.strip_suffix(is_dot).unwrap_or(text);
    if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let (tag, address) = literal.split_at_checked(5).unwrap_or_default();
        return match address.parse::<Ipv6Addr>() {
            Ok(address) if tag.eq_ignore_ascii_case("ipv6:") => format!("[ipv6:{address}]"),
            Ok(_) | Err(_) => text.to_ascii_lowercase(),
        };
    }
    let lower = text.to_ascii_lowercase();
    if lower.is_ascii() && !lower.contains("xn--") {
        return lower;
    }
    let (unicode, valid) = idna::domain_to_unicode(&lower);
    // What IDNA has no name for is compared as a text. The final sigma is a letter of its own there, but its capital is that of the other.
    let unicode = if valid.is_ok() { unicode.replace('ς', "σ") } else { fold(&lower) };
    idna::domain_to_ascii(&unicode).unwrap_or(unicode)
}

/// A domain as people read it, in U-labels, folded; the same text as [`domain`] where no label is internationalised.
#[must_use]
pub fn unicode_domain(text: &str) -> String {
    let name = domain(text);
    match idna::domain_to_unicode(&name) {
        (unicode, Ok(())) => fold(&unicode),
        (_, Err(_)) => name,
    }
}

/// Unicode's canonical caseless form (the standard's section 3.13), composed.
#[must_use]
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed = DecomposingNormalizer::new_nfd().normalize(text).into_owned();
    let folded = CaseMapper::new().fold_string(&decomposed).into_owned();
    ComposingNormalizer::new_nfc().normalize(&folded).into_owned()
}

/// Whether a text is a whole mailbox, with a domain: nothing less, nothing more.
#[must_use]
pub fn is_whole(text: &str) -> bool {
    let (local, Some(domain)) = split(text) else { return false };
    let domain = domain.strip_suffix(is_dot).unwrap_or(domain);
    let is_literal = || {
        let inside = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inside.is_some_and(|inside| !inside.is_empty() && inside.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-')))
    };
    let is_name = || domain.split(is_dot).all(|label| !label.is_empty() && label.chars().all(in_label));
    let is_local = || !local.is_empty() && local.chars().all(in_local);
    (is_local() || content(local).is_some()) && (is_name() || is_literal())
}

/// A local part without quotes, where what stands in them needs none; else with no more escapes than it needs.
#[must_use]
pub fn unquoted(local: &str) -> Cow<'_, str> {
    let Some(content) = content(local) else { return local.into() };
    if !content.is_empty() && content.chars().all(in_local) {
        return content.into();
    }
    format!("\"{}\"", content.replace('\\', "\\\\").replace('"', "\\\"")).into()
}

/// Printable ASCII as it is; `%`, the comma that separates, blanks and all other octets as `%XX`: nothing in it can end a header line.
#[must_use]
pub fn in_header(text: &str) -> String {
    if text.bytes().fold(true, |all, octet| all & !is_escaped(octet)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if is_escaped(octet) {
            _ = write!(out, "%{octet:02X}");
        } else {
            out.push(char::from(octet));
        }
    }
    out
}

/// So many octets has [`in_header`] of it.
#[must_use]
pub fn len_in_header(text: &str) -> usize {
    text.len() + 2 * text.bytes().filter(|octet| is_escaped(*octet)).count()
}

fn is_escaped(octet: u8) -> bool {
    matches!(octet, b'%' | b',' | ..=b' ' | 0x7f..)
}

/// What a quoted string says; `None` for what is none.
#[must_use]
pub fn content(local: &str) -> Option<String> {
    let mut inside = local.strip_prefix('"')?.strip_suffix('"').filter(|_| local.len() > 1)?.chars();
    let mut content = String::new();
    while let Some(c) = inside.next() {
        content.push(match c {
            '"' => return None,
            '\\' => inside.next()?,
            c if c.is_control() => return None,
            c => c,
        });
    }
    Some(content)
}

/// What IDNA takes for a dot (UTS #46 section 2.3).
#[must_use]
pub fn is_dot(c: char) -> bool {
    matches!(c, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}')
}

/// What a domain's label is made of; the underscore is not in the grammar, but it is in the names of hosts that send mail.
#[must_use]
pub fn in_label(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || is_utf8_letter(c)
}

/// What a local part without quotes is made of: atext (RFC 5322 section 3.2.3, RFC 6532 section 3.2), and dots anywhere, since there are such
/// mailboxes.
#[must_use]
pub fn in_local(c: char) -> bool {
    let symbol = matches!(c, '.' | '!' | '#'..='\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^'..='`' | '{'..='~');
    c.is_ascii_alphanumeric() || symbol || is_utf8_letter(c)
}

fn is_utf8_letter(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_has_one_text() {
        for spellings in [
            &["Ann@Example.COM", "ann@example.com", "\"ann\"@example.com", "\"a\\nn\"@example.com."][..],
            &["u@bücher.example", "u@BÜCHER.example", "u@xn--bcher-kva.example", "U@XN--BCHER-KVA.EXAMPLE", "u@bu\u{308}cher.example"],
            &["νίκος@example.com", "ΝΊΚΟΣ@example.com", "νίκοσ@example.com", "νι\u{301}κος@example.com"],
            &["a@νίκος.example", "a@ΝΊΚΟΣ.example", "a@xn--kxawhkp.example", "a@xn--kxawhku.example"],
            &["jürgen@example.com", "JU\u{308}RGEN@example.com", "JÜRGEN@EXAMPLE.com"],
            &["straße@example.com", "STRASSE@example.com"],
            &["a@[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8:0:0:0:0:0:1]"],
            &["\"a b\"@example.com", "\"A\\ b\"@EXAMPLE.com"],
            &["Postmaster", "postmaster"],
            &["a@mail_out.example.com", "a@MAIL_out.example.com"],
            &["a@例え.テスト", "a@例え。テスト", "a@xn--r8jz45g.xn--zckzah"],
        ] {
            for spelling in spellings {
                assert_eq!(canonical(spelling), canonical(spellings[0]), "{spelling}");
                assert_eq!(canonical(&canonical(spelling)), canonical(spelling), "{spelling}");
            }
        }
        assert_eq!(canonical("U@bücher.example"), "u@xn--bcher-kva.example");
    }

    #[test]
    fn others_have_others() {
        for (one, other) in [
            ("ann@example.com", "ann@example.com.au"),
            ("ann@example.com", "ann+tag@example.com"),
            ("a@straße.example", "a@strasse.example"),
            ("a@bücher.example", "a@bucher.example"),
            ("\"a b\"@example.com", "ab@example.com"),
            ("josé@example.com", "jose@example.com"),
            ("a%40b@example.com", "\"a@b\"@example.com"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn header_values_are_printable_ascii() {
        let table = [
            ("a@b", "a@b"),
            ("100%@b", "100%25@b"),
            ("\"a b\"@c", "\"a%20b\"@c"),
            ("\"a,b\"@c", "\"a%2Cb\"@c"),
            ("é@b", "%C3%A9@b"),
            ("a\r\nX: y\0\u{7f}@b", "a%0D%0AX:%20y%00%7F@b"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!((in_header(text).as_str(), len_in_header(text)), (expected, expected.len()));
        }
    }

    #[test]
    fn what_is_a_whole_mailbox() {
        for text in [
            "a@b",
            "ann+tag@example.com",
            "\"a @ b\"@example.com",
            "a..b@x.example.",
            "ü@bücher.example",
            "a@[192.0.2.1]",
            "a@[IPv6:::1]",
            "'@x.example",
        ] {
            assert!(is_whole(text), "{text}");
        }
        for text in [
            "",
            "o",
            "@",
            "250",
            "example.com",
            "@example.com",
            "ann@",
            "ann@.",
            "a b@example.com",
            "a@b c",
            "a@b,c@d",
            "<a@b",
            "a@[]",
            "a@b..c",
            "\"a@b",
            "a\"b@c",
            "a@b@c",
            "a\n@b",
        ] {
            assert!(!is_whole(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_its_own_canonical_text(local in "[a-zA-ZäÖßςσΣİ.+\"\\\\ ]{1,8}", domain in "([a-zA-ZäÖßςΣ]{1,6}|xn--[a-z0-9-]{1,8})(\\.[a-z]{2,3})?") {
            let once = canonical(&format!("{local}@{domain}"));
            prop_assert_eq!(canonical(&once), once);
        }

        /// However short the way to it.
        #[test]
        fn it_is_made_of_both_parts(local_part in "[a-zA-Z.\"\\\\\\[ -]{1,8}", name in "([a-zA-Z]{1,6}|xn--[a-z0-9-]{1,8}|\\[IPv6:::1\\])(\\.[a-zA-Z]{0,3}){0,2}") {
            prop_assert_eq!(canonical(&format!("{local_part}@{name}")), format!("{}@{}", local(&local_part), domain(&name)));
        }

        #[test]
        fn any_case_and_composition_is_the_same(local in "[a-zäöüéàñ]{1,8}", domain in "[a-zäöüéàñ]{1,8}\\.example") {
            let one = format!("{local}@{domain}");
            let decomposed = DecomposingNormalizer::new_nfd().normalize(&one).to_uppercase();
            prop_assert_eq!(canonical(&one), canonical(&decomposed));
            prop_assert!(is_whole(&one) && is_whole(&decomposed));
        }
    }
}
