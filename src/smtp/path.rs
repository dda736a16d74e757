//! Paths and mailboxes (RFC 5321 section 4.1.2, RFC 6531 section 3.3). Source routes are accepted and dropped (appendix C); quotes that
//! a local part does not need are taken off, so that one mailbox has one text. Logs nothing; the error says which reply fits.

use super::Reply;
use super::reply;
use crate::mailbox::{self, in_label, in_local, is_dot, unquoted};
use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// With its angle brackets. Nothing else about an address has a limit of its own: addresses that carry another one in their local part
/// (forwarding, tickets) are often longer than what RFC 5321 section 4.5.3.1 makes everybody take.
const PATH_MAX: usize = 1000;

/// A path at the start of an argument.
#[derive(Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// Empty for the null reverse-path.
    pub mailbox: String,
    /// No part of the path, the source route included, needs SMTPUTF8.
    pub ascii: bool,
    /// What stands behind the path.
    pub rest: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    Syntax,
    TooLong,
}

/// `<>`, or a path with a domain.
pub fn reverse(argument: &str) -> Result<Path<'_>, PathError> {
    if let Some(rest) = behind_name(argument).strip_prefix("<>") {
        let ascii = argument.strip_suffix(rest).unwrap_or(argument).is_ascii();
        return complete(Path { mailbox: String::new(), ascii, rest });
    }
    path(argument, false)
}

/// A path with a domain, or `<Postmaster>` in any case without one (RFC 5321 section 4.5.1).
pub fn forward(argument: &str) -> Result<Path<'_>, PathError> {
    path(argument, true)
}

fn path(argument: &str, postmaster: bool) -> Result<Path<'_>, PathError> {
    let path = behind_name(argument);
    // Devices and old programs leave both brackets out.
    let (inside, bracket) = path.strip_prefix('<').map_or((path, ""), |inside| (inside, ">"));
    // Within them, some put blanks.
    let blanks: &[char] = if bracket.is_empty() { &[] } else { &[' ', '\t'] };
    let (local, rest) = local_part(source_route(inside.trim_start_matches(blanks))?)?;
    let (domain, rest) = match rest.strip_prefix('@') {
        Some(rest) => domain_or_literal(rest)?,
        None if postmaster && local.eq_ignore_ascii_case("postmaster") => ("", rest),
        None => return Err(PathError::Syntax),
    };
    let rest = rest.trim_start_matches(blanks).strip_prefix(bracket).ok_or(PathError::Syntax)?;
    // Brackets that are missing are counted too: what is taken without them is taken with them.
    if path.len() - rest.len() + 2 * (1 - bracket.len()) > PATH_MAX {
        return Err(PathError::TooLong);
    }
    let mailbox = if domain.is_empty() { local.into_owned() } else { [&*local, "@", domain].concat() };
    complete(Path { mailbox, ascii: argument.strip_suffix(rest).unwrap_or(argument).is_ascii(), rest })
}

/// Some write the name too, as in a header: `"Ann Doe" <ann@a.example>`.
fn behind_name(argument: &str) -> &str {
    let mut rest = argument;
    loop {
        let behind = match rest.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted).map_or("", |(_, behind)| behind),
            None => take(rest, in_local).1,
        };
        let path = behind.trim_start_matches([' ', '\t']);
        if path.starts_with('<') {
            return path;
        }
        // A word of a name has a blank behind it.
        if behind.len() == rest.len() || path.len() == behind.len() {
            return argument;
        }
        rest = path;
    }
}

/// Nothing but parameters may stand behind a path.
fn complete(path: Path<'_>) -> Result<Path<'_>, PathError> {
    if path.rest.is_empty() || path.rest.starts_with([' ', '\t']) { Ok(path) } else { Err(PathError::Syntax) }
}

/// What is left behind `@a.example,@b.example:`.
fn source_route(inside: &str) -> Result<&str, PathError> {
    let mut rest = inside;
    while let Some(hop) = rest.strip_prefix('@') {
        let (host, after) = take(hop, in_domain);
        if !is_domain(host) {
            return Err(PathError::Syntax);
        }
        if let Some(mailbox) = after.strip_prefix(':') {
            return Ok(mailbox);
        }
        rest = after.strip_prefix(',').filter(|next| next.starts_with('@')).ok_or(PathError::Syntax)?;
    }
    Ok(rest)
}

/// Quoted only where it must be.
fn local_part(inside: &str) -> Result<(Cow<'_, str>, &str), PathError> {
    if let Some(quoted) = inside.strip_prefix('"') {
        return quoted_string(quoted);
    }
    // Dots anywhere: there are such mailboxes, older than the rule.
    let (local, rest) = take(inside, in_local);
    if local.is_empty() { Err(PathError::Syntax) } else { Ok((local.into(), rest)) }
}

/// The part behind an opening quote.
fn quoted_string(inside: &str) -> Result<(Cow<'_, str>, &str), PathError> {
    let mut rest = inside.chars();
    loop {
        match rest.next().ok_or(PathError::Syntax)? {
            '"' => break,
            '\\' => match rest.next() {
                Some(' '..='~') => {}
                _ => return Err(PathError::Syntax),
            },
            c if c == ' ' || c.is_ascii_graphic() || in_local(c) => {}
            _ => return Err(PathError::Syntax),
        }
    }
    let rest = rest.as_str();
    let written = ["\"", inside.get(..inside.len() - rest.len()).unwrap_or_default()].concat();
    Ok((unquoted(&written).into_owned().into(), rest))
}

/// Without the final dot that only names the root.
fn domain_or_literal(inside: &str) -> Result<(&str, &str), PathError> {
    let (domain, rest) = match inside.strip_prefix('[') {
        Some(literal) => {
            let close = literal.find(']').ok_or(PathError::Syntax)?;
            inside.split_at_checked(close + 2).ok_or(PathError::Syntax)?
        }
        None => take(inside, in_domain),
    };
    let domain = domain.strip_suffix(is_dot).unwrap_or(domain);
    if is_domain(domain) || is_address_literal(domain) { Ok((domain, rest)) } else { Err(PathError::Syntax) }
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3); no other tag has been registered.
fn is_address_literal(text: &str) -> bool {
    let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else { return false };
    match address.split_at_checked(5) {
        Some((tag, v6)) if tag.eq_ignore_ascii_case("IPv6:") => v6.parse::<Ipv6Addr>().is_ok(),
        _ => address.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Labels of letters, digits and inner hyphens. The underscore is not in the grammar, but it is in the names of hosts that send mail.
fn is_domain(text: &str) -> bool {
    let labels = |text: &str| text.split(is_dot).all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    // Other characters may stand for dots and hyphens too.
    text.chars().all(in_domain) && labels(text) && (text.is_ascii() || labels(&mailbox::domain(text)))
}

fn in_domain(c: char) -> bool {
    c == '.' || in_label(c)
}

fn take(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

impl PathError {
    pub(super) fn sender_reply(self) -> Reply {
        match self {
            Self::Syntax => reply::SENDER_SYNTAX,
            Self::TooLong => reply::SENDER_PATH_TOO_LONG,
        }
    }

    pub(super) fn recipient_reply(self) -> Reply {
        match self {
            Self::Syntax => reply::RECIPIENT_SYNTAX,
            Self::TooLong => reply::RECIPIENT_PATH_TOO_LONG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mailboxes() {
        for (path, mailbox) in [
            ("<a@b>", "a@b"),
            ("<First.Last@Example.COM>", "First.Last@Example.COM"),
            ("<!#$%&'*+-/=?^_`{|}~@example.com>", "!#$%&'*+-/=?^_`{|}~@example.com"),
            ("<a@mail_out.example.com>", "a@mail_out.example.com"),
            ("<a@1.2.example>", "a@1.2.example"),
            ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
            ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
            ("<a@[ipv6:::ffff:192.0.2.1]>", "a@[ipv6:::ffff:192.0.2.1]"),
            ("<@x.example:a@b.example>", "a@b.example"),
            ("<@x.example,@y.example:a@b.example>", "a@b.example"),
            ("<\"john\"@example.com>", "john@example.com"),
            ("<\"j\\ohn.d\"@example.com>", "john.d@example.com"),
            ("<\"john doe\"@example.com>", "\"john doe\"@example.com"),
            ("<\"a>b@c\"@example.com>", "\"a>b@c\"@example.com"),
            ("<\"a\\\"b\\\\c\"@example.com>", "\"a\\\"b\\\\c\"@example.com"),
            ("<\"a..b\"@example.com>", "a..b@example.com"),
            ("<a..b@example.com>", "a..b@example.com"),
            ("<.a@example.com>", ".a@example.com"),
            ("<a.@example.com>", "a.@example.com"),
            ("<..@example.com>", "..@example.com"),
            ("<a@example.com.>", "a@example.com"),
            ("<@x.example:a@example.com.>", "a@example.com"),
            ("a@example.com", "a@example.com"),
            ("\"a b\"@example.com.", "\"a b\"@example.com"),
            ("<\"\"@example.com>", "\"\"@example.com"),
            ("< a@example.com\t>", "a@example.com"),
            ("\"Doe, Ann <x@y>\" <a@example.com>", "a@example.com"),
            ("Ann M. Doe <a@example.com>", "a@example.com"),
            ("J\u{fc}rgen<a@example.com>", "a@example.com"),
            ("< @x.example:a@example.com. >", "a@example.com"),
            ("<j\u{fc}rgen@m\u{fc}ller.example>", "j\u{fc}rgen@m\u{fc}ller.example"),
        ] {
            for found in [reverse(path), forward(path)] {
                assert_eq!(found, Ok(Path { mailbox: mailbox.into(), ascii: path.is_ascii(), rest: "" }), "{path}");
            }
        }
        assert_eq!(forward("<PostMaster>").map(|path| path.mailbox), Ok("PostMaster".into()));
        assert_eq!(reverse("<PostMaster>"), Err(PathError::Syntax));
        assert_eq!(reverse("<> SIZE=1"), Ok(Path { mailbox: String::new(), ascii: true, rest: " SIZE=1" }));
        assert_eq!(reverse("Mail System <>").map(|path| path.mailbox), Ok(String::new()));
        assert_eq!(forward("<>"), Err(PathError::Syntax));
    }

    #[test]
    fn what_is_no_path() {
        for path in [
            "",
            "<",
            ">",
            "<a@b",
            "a@b>",
            "<a>",
            "<@b>",
            "<a@>",
            "<a@b>x",
            "<>x",
            "<<a@b>>",
            "<a@b@c>",
            "<a b@c>",
            "<a@.b>",
            "<a@b..>",
            "<a@.>",
            "<a@[1.2.3.4].>x",
            "a",
            "a@",
            "postmaster@",
            " a@b",
            "< a b@c >",
            "< >",
            "<@x.example: a@b>",
            "a@b,c@d",
            "\"a@b",
            "<a@b..c>",
            "<a@-b>",
            "<a@b-.c>",
            "<a@b c>",
            "<a@b/c>",
            "<a@[1.2.3]>",
            "<a@[1.2.3.4>",
            "<a@[1.2.3.400]>",
            "<a@[::1]>",
            "<a@[IPv6:1.2.3.4]>",
            "<a@[IPv6:]>",
            "<a@[x:y]>",
            "<a@[]>",
            "<a@[1.2.3.4]b>",
            "<\"a@b>",
            "<\"a\"b@c>",
            "<\"a\"\"b\"@c>",
            "<\"a\\",
            "<\"a\u{7f}\"@b>",
            "<\"\t\"@b>",
            "<\"\\\u{e9}\"@b>",
            "<@a@b>",
            "<@a,b:c@d>",
            "<@a,:c@d>",
            "<@:c@d>",
            "<@a:>",
            "<@a,@b:>",
            "<a\u{85}@b>",
            "<a@b\u{2028}c>",
            "<(a)@b>",
            "Ann, Doe <a@b>",
            "Ann Doe a@b",
            "\"Ann <a@b>",
            "<x> <a@b>",
            "<a@\u{3002}>",
            "<a@b\u{3002}\u{ff0e}c>",
        ] {
            for found in [reverse(path), forward(path)] {
                assert_eq!(found, Err(PathError::Syntax), "{path}");
            }
        }
    }

    #[test]
    fn only_the_path_has_a_length() {
        let octets = |path: String| forward(&path).map(|path| path.mailbox.len());
        for local in ["l", "\u{fc}"] {
            let local = local.repeat((PATH_MAX - 4) / local.len());
            assert_eq!(octets(format!("<{local}@b>")), Ok(PATH_MAX - 2));
            assert_eq!(octets(format!("<{local}@bc>")), Err(PathError::TooLong));
            assert_eq!(octets(format!("{local}@b")), Ok(PATH_MAX - 2));
            assert_eq!(octets(format!("{local}@bc")), Err(PathError::TooLong));
        }
        let domain = ["a"].repeat((PATH_MAX - 3) / 2).join(".");
        assert_eq!(octets(format!("<l@{domain}>")), Ok(domain.len() + 2));
        assert_eq!(octets(format!("<@{}:l@b>", ["a"].repeat(600).join("."))), Err(PathError::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_text_of_a_mailbox_is_its_own_text(path in "<?(@a:)?(\"[ -~]{0,6}\"|[a-z.\u{e9}]{1,5})@[a-z0-9.-]{1,6}>?( .*)?") {
            if let Ok(first) = forward(&path) {
                let again = forward(&format!("<{}>", first.mailbox)).map(|path| path.mailbox);
                prop_assert_eq!(again, Ok(first.mailbox));
            }
        }

        #[test]
        fn no_argument_panics(argument in prop::collection::vec(prop::sample::select("<>@\"\\[]:.,-ab1\u{e9} \tIPv6postmaster".chars().collect::<Vec<_>>()), 0..30)) {
            let argument: String = argument.into_iter().collect();
            for text in [&argument, &format!("<{argument}>"), &format!("<\"{argument}>")] {
                for found in [reverse(text), forward(text)].into_iter().flatten() {
                    prop_assert!(text.ends_with(found.rest));
                }
            }
        }
    }
}
