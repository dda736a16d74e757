//! The syntax of an SPF record (RFC 7208 section 12). The library skips terms it does not know; the RFC says that one of them
//! makes the whole record an error (section 4.6), and that two records are one too many (section 4.5). Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What the TXT records of one name are to SPF.
#[must_use]
pub(super) fn is_well_formed<'a>(records: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut spf = records.filter(|record| is_spf(record));
    match (spf.next(), spf.next()) {
        (None, _) => true,
        (Some(record), None) => std::str::from_utf8(record).is_ok_and(record_is_well_formed),
        (Some(_), Some(_)) => false,
    }
}

/// `v=spf1` and then a blank or the end.
fn is_spf(record: &[u8]) -> bool {
    let Some((version, rest)) = record.split_at_checked(6) else { return false };
    version.eq_ignore_ascii_case(b"v=spf1") && matches!(rest.first(), None | Some(b' '))
}

fn record_is_well_formed(record: &str) -> bool {
    let terms = record.split(' ').skip(1).filter(|term| !term.is_empty());
    let (mut redirects, mut explanations) = (0, 0);
    for term in terms {
        let good = match modifier(term) {
            Some((name, value)) => {
                redirects += u32::from(name.eq_ignore_ascii_case("redirect"));
                explanations += u32::from(name.eq_ignore_ascii_case("exp"));
                let known = name.eq_ignore_ascii_case("redirect") || name.eq_ignore_ascii_case("exp");
                is_macro_string(value) && !(known && value.is_empty())
            }
            None => is_mechanism(term),
        };
        if !good {
            return false;
        }
    }
    redirects <= 1 && explanations <= 1
}

/// `name=value`, where the name starts with a letter.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let mut octets = name.bytes();
    let starts = octets.next().is_some_and(|first| first.is_ascii_alphabetic());
    (starts && octets.all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'))).then_some((name, value))
}

fn is_mechanism(term: &str) -> bool {
    let term = term.strip_prefix(['+', '-', '?', '~']).unwrap_or(term);
    let name_end = term.find([':', '/']).unwrap_or(term.len());
    let (name, argument) = term.split_at_checked(name_end).unwrap_or((term, ""));
    match name.to_ascii_lowercase().as_str() {
        "all" => argument.is_empty(),
        "include" | "exists" => argument.strip_prefix(':').is_some_and(is_domain_spec),
        "ptr" => argument.is_empty() || argument.strip_prefix(':').is_some_and(is_domain_spec),
        "a" | "mx" => {
            let (domain, prefixes) = match dual_prefix(argument) {
                Some(at) => argument.split_at_checked(at).unwrap_or((argument, "")),
                None => (argument, ""),
            };
            (domain.is_empty() || domain.strip_prefix(':').is_some_and(is_domain_spec)) && is_dual_prefix(prefixes)
        }
        "ip4" => argument.strip_prefix(':').is_some_and(|network| is_network::<Ipv4Addr>(network, 32)),
        "ip6" => argument.strip_prefix(':').is_some_and(|network| is_network::<Ipv6Addr>(network, 128)),
        _ => false,
    }
}

/// Where `/24`, `//64` or `/24//64` starts: at the end of the argument, and not inside of a macro.
fn dual_prefix(argument: &str) -> Option<usize> {
    let behind_macros = argument.rfind('}').map_or(0, |at| at + 1);
    argument.get(behind_macros..)?.find('/').map(|at| at + behind_macros)
}

fn is_dual_prefix(prefixes: &str) -> bool {
    if prefixes.is_empty() {
        return true;
    }
    let (v4, v6) = match prefixes.split_once("//") {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (prefixes, None),
    };
    let v4 = v4.is_empty() || v4.strip_prefix('/').is_some_and(|length| is_length(length, 32));
    v4 && v6.is_none_or(|length| is_length(length, 128))
}

fn is_length(digits: &str, most: u8) -> bool {
    let canonical = digits == "0" || !digits.starts_with('0');
    canonical && digits.bytes().all(|octet| octet.is_ascii_digit()) && digits.parse::<u8>().is_ok_and(|n| n <= most)
}

fn is_network<A: std::str::FromStr>(network: &str, most: u8) -> bool {
    match network.split_once('/') {
        Some((address, length)) => address.parse::<A>().is_ok() && is_length(length, most),
        None => network.parse::<A>().is_ok(),
    }
}

fn is_domain_spec(text: &str) -> bool {
    !text.is_empty() && is_macro_string(text) && (text.ends_with('}') || text.contains('.'))
}

/// `%{d}`, `%%`, `%_`, `%-` and visible characters (section 7.1).
fn is_macro_string(text: &str) -> bool {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        if !before.bytes().all(|octet| octet.is_ascii_graphic()) {
            return false;
        }
        rest = if let Some(plain) = after.strip_prefix(['%', '_', '-']) {
            plain
        } else {
            let Some((expansion, plain)) = after.strip_prefix('{').and_then(|open| open.split_once('}')) else { return false };
            if !is_expansion(expansion) {
                return false;
            }
            plain
        };
    }
    rest.bytes().all(|octet| octet.is_ascii_graphic())
}

/// A letter, digits, `r`, delimiters.
fn is_expansion(expansion: &str) -> bool {
    let mut characters = expansion.chars();
    let letter = characters.next().is_some_and(|letter| "slodiphcrtv".contains(letter.to_ascii_lowercase()));
    let rest = characters.as_str().trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix(['r', 'R']).unwrap_or(rest);
    letter && rest.chars().all(|c| ".-+,/_=".contains(c))
}

#[cfg(test)]
mod tests {
    use super::is_well_formed;

    fn one(record: &str) -> bool {
        is_well_formed(std::iter::once(record.as_bytes()))
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
        ] {
            assert!(one(good), "{good}");
        }
        for bad in [
            "v=spf1 ipv4:192.0.2.1 -all",
            "v=spf1 ip4:192.0.2 -all",
            "v=spf1 ip4:192.0.2.1/33",
            "v=spf1 include -all",
            "v=spf1 include: -all",
            "v=spf1 all:x.test",
            "v=spf1 redirect=a.test redirect=b.test",
            "v=spf1 a/024",
            "v=spf1 exists:%{z}.x.test",
            "v=spf1 exists:%(i).x.test",
            "v=spf1 moo",
            "v=spf1 redirect=",
        ] {
            assert!(!one(bad), "{bad}");
        }
        assert!(one("something else"), "no SPF record at all is no error of one");
        assert!(one("v=spf10 nonsense"));
    }

    #[test]
    fn two_are_one_too_many() {
        let records = ["v=spf1 -all".as_bytes(), b"v=spf1 +all"];
        assert!(!is_well_formed(records.into_iter()));
        let records = ["v=spf1 -all".as_bytes(), b"verification=1"];
        assert!(is_well_formed(records.into_iter()));
    }
}
