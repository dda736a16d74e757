//! An SPF record as RFC 7208 section 12 writes it: one error anywhere makes the whole record one (section 4.6). Pure.

use super::macros::{DomainSpec, MacroString};
use ipnet::{Ipv4Net, Ipv6Net};
use mail_auth::SpfResult;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<DomainSpec>,
}

pub(super) struct Directive {
    /// The result if the mechanism matches.
    pub(super) result: SpfResult,
    pub(super) mechanism: Mechanism,
}

pub(super) enum Mechanism {
    All,
    Include(DomainSpec),
    /// Without a name: of the current domain.
    A(Option<DomainSpec>, Prefixes),
    Mx(Option<DomainSpec>, Prefixes),
    Ptr(Option<DomainSpec>),
    Exists(DomainSpec),
    Ip4(Ipv4Net),
    Ip6(Ipv6Net),
}

/// How many bits of an address count.
#[derive(Clone, Copy)]
pub(super) struct Prefixes {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

/// What the TXT records of one name are to SPF.
pub(super) enum Selected {
    None,
    One(Record),
    /// Two of them, or one that is wrong.
    Error,
}

pub(super) fn select<'a>(records: impl Iterator<Item = &'a [u8]>) -> Selected {
    let mut spf = records.filter(|record| is_spf(record));
    match (spf.next(), spf.next()) {
        (None, _) => Selected::None,
        (Some(record), None) => std::str::from_utf8(record).ok().and_then(Record::parse).map_or(Selected::Error, Selected::One),
        (Some(_), Some(_)) => Selected::Error,
    }
}

/// `v=spf1` and then a blank or the end.
fn is_spf(record: &[u8]) -> bool {
    let Some((version, rest)) = record.split_at_checked(6) else { return false };
    version.eq_ignore_ascii_case(b"v=spf1") && matches!(rest.first(), None | Some(b' '))
}

impl Record {
    fn parse(record: &str) -> Option<Self> {
        let (mut directives, mut redirect, mut explanation) = (Vec::new(), None, None);
        for term in record.split(' ').skip(1).filter(|term| !term.is_empty()) {
            match modifier(term) {
                Some((name, value)) if name.eq_ignore_ascii_case("redirect") => {
                    set_once(&mut redirect, DomainSpec::parse(value)?)?;
                }
                // Nobody is told why: the explanation is not looked up, but it may not be wrong.
                Some((name, value)) if name.eq_ignore_ascii_case("exp") => {
                    set_once(&mut explanation, DomainSpec::parse(value)?)?;
                }
                Some((_, value)) => {
                    MacroString::parse(value)?;
                }
                None => directives.push(Directive::parse(term)?),
            }
        }
        Some(Self { directives, redirect })
    }
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// `name=value`, where the name starts with a letter.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let mut octets = name.bytes();
    let starts = octets.next().is_some_and(|first| first.is_ascii_alphabetic());
    (starts && octets.all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'))).then_some((name, value))
}

impl Directive {
    fn parse(term: &str) -> Option<Self> {
        let (result, term) = match term.split_at_checked(1)? {
            ("+", rest) => (SpfResult::Pass, rest),
            ("-", rest) => (SpfResult::Fail, rest),
            ("~", rest) => (SpfResult::SoftFail, rest),
            ("?", rest) => (SpfResult::Neutral, rest),
            _ => (SpfResult::Pass, term),
        };
        Some(Self { result, mechanism: Mechanism::parse(term)? })
    }
}

impl Mechanism {
    fn parse(term: &str) -> Option<Self> {
        let (name, argument) = term.split_at_checked(term.find([':', '/']).unwrap_or(term.len()))?;
        let value = argument.strip_prefix(':');
        match name.to_ascii_lowercase().as_str() {
            "all" => argument.is_empty().then_some(Self::All),
            "include" => Some(Self::Include(DomainSpec::parse(value?)?)),
            "exists" => Some(Self::Exists(DomainSpec::parse(value?)?)),
            "ptr" => Some(Self::Ptr(optional_domain(argument)?)),
            "a" => dual_prefixes(argument).and_then(|(domain, prefixes)| Some(Self::A(optional_domain(domain)?, prefixes))),
            "mx" => dual_prefixes(argument).and_then(|(domain, prefixes)| Some(Self::Mx(optional_domain(domain)?, prefixes))),
            "ip4" => {
                let (address, length) =
                    value?.split_once('/').map_or((value?, Some(32)), |(address, digits)| (address, length(digits, 32)));
                Some(Self::Ip4(Ipv4Net::new(address.parse::<Ipv4Addr>().ok()?, length?).ok()?))
            }
            "ip6" => {
                let (address, length) =
                    value?.split_once('/').map_or((value?, Some(128)), |(address, digits)| (address, length(digits, 128)));
                Some(Self::Ip6(Ipv6Net::new(address.parse::<Ipv6Addr>().ok()?, length?).ok()?))
            }
            _ => None,
        }
    }
}

/// Nothing, or `:` and a domain specification.
#[expect(clippy::option_option, reason = "the outer one is the syntax's, the inner one the record's")]
fn optional_domain(argument: &str) -> Option<Option<DomainSpec>> {
    if argument.is_empty() {
        return Some(None);
    }
    DomainSpec::parse(argument.strip_prefix(':')?).map(Some)
}

/// Takes `/24`, `//64` or `/24//64` off the end.
fn dual_prefixes(argument: &str) -> Option<(&str, Prefixes)> {
    let (mut rest, mut prefixes) = (argument, Prefixes { v4: 32, v6: 128 });
    if let Some((before, digits)) = rest.rsplit_once("//").filter(|(_, digits)| are_digits(digits)) {
        prefixes.v6 = length(digits, 128)?;
        rest = before;
    }
    if let Some((before, digits)) = rest.rsplit_once('/').filter(|(_, digits)| are_digits(digits)) {
        prefixes.v4 = length(digits, 32)?;
        rest = before;
    }
    Some((rest, prefixes))
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())
}

fn length(digits: &str, most: u8) -> Option<u8> {
    let canonical = are_digits(digits) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|&length| canonical && length <= most)
}

#[cfg(test)]
mod tests {
    use super::{Selected, select};

    fn one(record: &str) -> bool {
        matches!(select(std::iter::once(record.as_bytes())), Selected::One(_))
    }

    #[test]
    fn records() {
        for good in [
            "v=spf1",
            "v=spf1 ",
            "v=spf1 -all",
            "v=spf1 a mx ptr ~all",
            "v=spf1 a:x.test/24//64 mx//64 -all",
            "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ?all",
            "v=spf1 include:_spf.x.test redirect=y.test",
            "v=spf1 exists:%{ir}.%{v}._spf.%{d2} -all",
            "v=spf1 exp=e.x.test moo=%{s} -all",
            "V=SPF1 A -ALL",
            "v=spf1 a:%{d}/24 -all",
            "v=spf1 a:foo:bar/baz.test moo.cow_-1=a:b/c",
        ] {
            assert!(one(good), "{good}");
        }
        for bad in [
            "v=spf1 ipv4:192.0.2.1 -all",
            "v=spf1 ip4:192.0.2 -all",
            "v=spf1 ip4:192.0.2.1/33",
            "v=spf1 ip4:192.0.2.1/",
            "v=spf1 ip4",
            "v=spf1 include -all",
            "v=spf1 include: -all",
            "v=spf1 all:x.test",
            "v=spf1 redirect=a.test redirect=b.test",
            "v=spf1 exp=a.test exp=b.test",
            "v=spf1 a/024",
            "v=spf1 a/24/24",
            "v=spf1 a//129",
            "v=spf1 a:x.test:8080",
            "v=spf1 exists:%{z}.x.test",
            "v=spf1 exists:%(i).x.test",
            "v=spf1 moo",
            "v=spf1 -",
            "v=spf1 =all",
            "v=spf1 redirect=",
            "v=spf1 -all\tmx",
        ] {
            assert!(!one(bad), "{bad}");
        }
        assert!(matches!(select([&b"something else"[..], b"v=spf10 nonsense"].into_iter()), Selected::None));
    }

    #[test]
    fn two_are_one_too_many() {
        assert!(matches!(select([&b"v=spf1 -all"[..], b"v=spf1 +all"].into_iter()), Selected::Error));
        assert!(matches!(select([&b"v=spf1 -all"[..], b"verification=1"].into_iter()), Selected::One(_)));
        assert!(matches!(select(std::iter::once(&b"v=spf1 \xff"[..])), Selected::Error));
    }
}
