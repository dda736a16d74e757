//! Domain specifications of SPF and the macros in them (RFC 7208 section 7). Pure.

use std::borrow::Cow;
use std::net::IpAddr;

/// Octets of a name (section 7.3).
const NAME_MAX: usize = 253;
/// A name is expanded from its right until it has so many octets: what is left of them section 7.3 cuts anyway.
const EXPANSION_MAX: usize = 2 * NAME_MAX;

/// A `macro-string`, parsed.
pub(super) struct MacroString {
    parts: Vec<Part>,
    ends_in_macro: bool,
}

enum Part {
    Literal(Box<str>),
    Macro(Macro),
}

struct Macro {
    letter: char,
    /// An upper-case letter: the value is escaped as in a URL.
    escape: bool,
    /// How many of the parts on the right stay.
    keep: usize,
    reverse: bool,
    delimiters: Box<str>,
}

/// `domain-spec`: a macro-string that ends in a macro or in a top label.
pub(super) struct DomainSpec(MacroString);

/// What the macro letters stand for, but for `d` and `p`, which change.
pub(super) struct Values<'a> {
    pub(super) ip: IpAddr,
    pub(super) helo: &'a str,
    pub(super) local: &'a str,
    pub(super) sender_domain: &'a str,
}

impl MacroString {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut ends_in_macro = false;
        let mut literal = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            rest = rest.strip_prefix(first)?;
            ends_in_macro = first == '%';
            if first != '%' {
                first.is_ascii_graphic().then(|| literal.push(first))?;
                continue;
            }
            let kind = rest.chars().next()?;
            rest = rest.strip_prefix(kind)?;
            match kind {
                '%' => literal.push('%'),
                '_' => literal.push(' '),
                '-' => literal.push_str("%20"),
                '{' => {
                    let (expansion, after) = rest.split_once('}')?;
                    rest = after;
                    parts.push(Part::Literal(std::mem::take(&mut literal).into_boxed_str()));
                    parts.push(Part::Macro(Macro::parse(expansion)?));
                }
                _ => return None,
            }
        }
        parts.push(Part::Literal(literal.into_boxed_str()));
        Some(Self { parts, ends_in_macro })
    }

    fn macros(&self) -> impl Iterator<Item = &Macro> {
        self.parts.iter().filter_map(|part| if let Part::Macro(one) = part { Some(one) } else { None })
    }
}

impl Macro {
    /// A letter, digits, `r`, delimiters: what stands between the braces.
    fn parse(text: &str) -> Option<Self> {
        let letter = text.chars().next()?;
        let rest = text.strip_prefix(letter)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, rest) = rest.split_at_checked(digits)?;
        let keep = if digits.is_empty() { usize::MAX } else { digits.parse().unwrap_or(usize::MAX) };
        let reversed = rest.strip_prefix(['r', 'R']);
        let delimiters = reversed.unwrap_or(rest);
        let good = "slodiphcrtv".contains(letter.to_ascii_lowercase()) && keep > 0 && delimiters.chars().all(|c| ".-+,/_=".contains(c));
        good.then(|| Self {
            letter: letter.to_ascii_lowercase(),
            escape: letter.is_ascii_uppercase(),
            keep,
            reverse: reversed.is_some(),
            delimiters: if delimiters.is_empty() { "." } else { delimiters }.into(),
        })
    }

    fn transform(&self, value: &str) -> String {
        let mut parts: Vec<&str> = value.split(|c| self.delimiters.contains(c)).collect();
        if self.reverse {
            parts.reverse();
        }
        let kept = parts.get(parts.len().saturating_sub(self.keep)..).unwrap_or_default().join(".");
        if self.escape { escaped(&kept) } else { kept }
    }
}

/// RFC 3986: all but the unreserved characters.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
    out
}

impl DomainSpec {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parsed = MacroString::parse(text)?;
        // `c`, `r` and `t` stand in explanations only (section 7.2).
        let macros_good = parsed.macros().all(|one| !matches!(one.letter, 'c' | 'r' | 't'));
        let end_good = parsed.ends_in_macro || ends_in_macro_or_top_label(&parsed);
        (macros_good && end_good).then_some(Self(parsed))
    }

    /// Whether the name cannot be told without asking who the client is.
    pub(super) fn needs_validated_name(&self) -> bool {
        self.0.macros().any(|one| one.letter == 'p')
    }

    /// The name, at most as long as a name may be. None where a local part would stand in it that no name can carry
    /// (RFC 8616 section 4).
    pub(super) fn expand(&self, values: &Values<'_>, domain: &str, validated: &str) -> Option<String> {
        if !values.local.is_ascii() && self.0.macros().any(|one| matches!(one.letter, 's' | 'l')) {
            return None;
        }
        let (mut pieces, mut octets) = (Vec::new(), 0);
        for part in self.0.parts.iter().rev() {
            let piece = match part {
                Part::Literal(text) => Cow::Borrowed(&**text),
                Part::Macro(one) => one.transform(&values.of(one.letter, domain, validated)).into(),
            };
            octets += piece.len();
            pieces.push(piece);
            if octets > EXPANSION_MAX {
                break;
            }
        }
        pieces.reverse();
        let mut name = pieces.concat();
        if name.ends_with('.') {
            name.pop();
        }
        // Labels go from the left until it fits.
        if let Some(surplus) = name.len().checked_sub(NAME_MAX + 1) {
            let dot = name.bytes().skip(surplus).position(|octet| octet == b'.')? + surplus;
            name.drain(..=dot);
        }
        Some(name)
    }
}

/// The last part is a macro with nothing behind it, or text that ends in `.toplabel`.
fn ends_in_macro_or_top_label(parsed: &MacroString) -> bool {
    let Some(Part::Literal(last)) = parsed.parts.last() else { return false };
    if last.is_empty() {
        return parsed.parts.len() > 1;
    }
    let last = last.strip_suffix('.').unwrap_or(last);
    last.rsplit_once('.').is_some_and(|(_, label)| is_top_label(label))
}

/// Letters, digits and inner hyphens, and not digits alone.
fn is_top_label(label: &str) -> bool {
    let good = label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    let digits = label.bytes().all(|octet| octet.is_ascii_digit());
    good && !digits && !label.starts_with('-') && !label.ends_with('-')
}

impl Values<'_> {
    fn of<'v>(&'v self, letter: char, domain: &'v str, validated: &'v str) -> Cow<'v, str> {
        match letter {
            's' => format!("{}@{}", self.local, self.sender_domain).into(),
            'l' => self.local.into(),
            'o' => self.sender_domain.into(),
            'd' => domain.into(),
            'i' => dotted(self.ip).into(),
            'p' => validated.into(),
            'h' => self.helo.into(),
            'v' => if self.ip.is_ipv4() { "in-addr" } else { "ip6" }.into(),
            _ => "".into(),
        }
    }
}

/// Four numbers, or 32 digits, with dots between them.
fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let digits = format!("{:032x}", ip.to_bits());
            digits.chars().map(String::from).collect::<Vec<_>>().join(".")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DomainSpec, MacroString, Values};

    fn expanded(spec: &str) -> String {
        let values = Values {
            ip: "192.0.2.3".parse().expect("an address"),
            helo: "mx.example.org",
            local: "strong-bad",
            sender_domain: "email.example.com",
        };
        DomainSpec::parse(spec).expect(spec).expand(&values, "email.example.com", "mx.example.org").expect(spec)
    }

    /// The examples of RFC 7208 section 7.4.
    #[test]
    fn examples_of_the_rfc() {
        for (spec, name) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
            ("%{d2}.trusted-domains.example.net.", "example.com.trusted-domains.example.net"),
            ("%{S}.x.test", "strong-bad%40email.example.com.x.test"),
        ] {
            assert_eq!(expanded(spec), name, "{spec}");
        }
    }

    #[test]
    fn syntax() {
        for bad in
            ["", "museum", "museum.", "a.1", "a.b-", "%{d}com", "%{z}.test", "%{d0}", "%(i).test", "%", "a%.test", "%{c}.test", "a.\u{e9}"]
        {
            assert!(DomainSpec::parse(bad).is_none(), "{bad}");
        }
        for good in ["a.test", "a.test.", "%{h}", "a.%%", "foo:bar/baz.test", "a..test", "1.a1"] {
            assert!(DomainSpec::parse(good).is_some(), "{good}");
        }
        assert!(MacroString::parse("%{t} museum").is_none(), "blanks part terms");
        assert!(MacroString::parse("%{t}museum").is_some());
    }

    /// A specification of thousands of macros neither grows without a bound nor loses its right side.
    #[test]
    fn long_expansions_keep_their_right_side() {
        let name = expanded(&format!("{}x.test", "%{d}.".repeat(5000)));
        assert!(name.len() <= 253 && name.ends_with(".example.com.x.test") && !name.starts_with('.'), "{name}");
        // 253 octets stay as they are; of one more the first label goes.
        let longest = format!("{}test", "a.".repeat(124)) + "x";
        assert_eq!((longest.len(), expanded(&longest)), (253, longest.clone()));
        assert_eq!(expanded(&format!("b{longest}")), longest.split_once('.').expect("a dot").1);
        assert_eq!(expanded(&format!("bcd.{longest}")), longest);
    }
}
