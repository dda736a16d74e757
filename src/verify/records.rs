//! The TXT records of DKIM keys and DMARC policies, looked at before the library sees them: it takes some that the standards do not, and
//! errs at some that they have a rule for. Pure.

use std::collections::HashSet;

/// Tag and value, in their order (RFC 6376 section 3.2); `None` for what is no list of tags.
fn tags(text: &[u8]) -> Option<Vec<(&str, &str)>> {
    let text = std::str::from_utf8(text).ok()?;
    let blank: &[char] = &[' ', '\t', '\r', '\n'];
    let mut tags = Vec::new();
    for tag in text.trim_end_matches(blank).trim_end_matches(';').split(';') {
        let (name, value) = tag.split_once('=')?;
        tags.push((name.trim_matches(blank), value.trim_matches(blank)));
    }
    Some(tags)
}

/// Whether a DKIM key may verify the mail that we accept signatures of: for mail, and for SHA-256 (RFC 6376 sections 3.6.1 and 6.1.2).
pub(super) fn is_key_for_mail(text: &[u8]) -> bool {
    let Some(tags) = tags(text) else { return false };
    let mut names = HashSet::new();
    if !tags.iter().all(|(name, _)| names.insert(*name)) {
        return false;
    }
    // The version is optional, but it stands first.
    let version_good = tags.iter().position(|(name, _)| *name == "v").is_none_or(|at| at == 0 && tags.first() == Some(&("v", "DKIM1")));
    let lists = |wanted: &str, any_of: &[&str]| {
        let value = tags.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        value.is_none_or(|list| list.split(':').any(|item| any_of.iter().any(|word| item.trim().eq_ignore_ascii_case(word))))
    };
    version_good && lists("s", &["*", "email"]) && lists("h", &["sha256"])
}

/// The one policy among a domain's TXT records, with nothing in it that has no meaning; `None` where DMARC does not apply: there is none, or
/// more than one (RFC 7489 section 6.6.3, RFC 9989 section 4.10).
pub(super) fn policy<'a>(records: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut policies = records.filter(|text| is_policy(text));
    let only = policies.next()?;
    if policies.next().is_some() {
        return None;
    }
    effective(only)
}

/// `v` stands first, and its value is of that very case.
fn is_policy(text: &[u8]) -> bool {
    let first = text.split(|&octet| octet == b';').next().unwrap_or_default();
    let Some(equals) = memchr::memchr(b'=', first) else { return false };
    let (name, value) = first.split_at_checked(equals).unwrap_or_default();
    name.trim_ascii() == b"v" && value.get(1..).unwrap_or_default().trim_ascii() == b"DMARC1"
}

/// What is not known or not well-formed counts as absent; but a policy that cannot be read is none at all, unless somebody is named who
/// wants to hear of it: then it asks for nothing.
fn effective(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let all: Vec<(String, &str)> = text
        .split(';')
        .filter_map(|tag| tag.split_once('='))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let first = |wanted: &str| all.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let one_of =
        |name: &str, words: &[&'static str]| first(name).map(|value| words.iter().copied().find(|word| value.eq_ignore_ascii_case(word)));
    const POLICIES: [&str; 3] = ["none", "quarantine", "reject"];
    let of_policies = [("p", one_of("p", &POLICIES)), ("sp", one_of("sp", &POLICIES)), ("np", one_of("np", &POLICIES))];
    let readable = matches!(of_policies, [(_, Some(Some(_))), ..]) && of_policies.iter().all(|(_, word)| *word != Some(None));
    if !readable && !first("rua").is_some_and(|list| list.split(',').any(|uri| is_uri(uri.trim()))) {
        return None;
    }
    let mut kept = String::from("v=DMARC1");
    if readable {
        for (name, word) in of_policies {
            kept.extend(word.flatten().map(|word| format!("; {name}={word}")));
        }
    } else {
        kept.push_str("; p=none");
    }
    for (name, words) in [("adkim", ["r", "s"]), ("aspf", ["r", "s"]), ("psd", ["y", "n"]), ("t", ["y", "n"])] {
        kept.extend(one_of(name, &words).flatten().map(|word| format!("; {name}={word}")));
    }
    Some(kept)
}

/// With the `!10m` behind it that RFC 7489 had.
fn is_uri(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|uri| uri.scheme() != "mailto" || uri.path().contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (text, good) in [
            ("p=MII", true),
            ("v=DKIM1; p=MII", true),
            (" v = DKIM1 ;\tk=rsa; p=MII; ", true),
            ("v=DKIM1; s=email; h=sha1:sha256; p=MII", true),
            ("v=DKIM1; s=tlsrpt : email; p=MII", true),
            ("v=DKIM1; s=*; p=MII", true),
            ("v=DKIM1; n=a=b; x=unknown; p=MII==", true),
            ("v=DKIM1; s=tlsrpt; p=MII", false),
            ("v=DKIM1; s=; p=MII", false),
            ("v=DKIM1; h=sha1; p=MII", false),
            ("v=DKIM1; h=SHA256; p=MII", true),
            ("k=rsa; v=DKIM1; p=MII", false),
            ("v=dkim1; p=MII", false),
            ("v=DKIM2; p=MII", false),
            ("v=DKIM1; p=MII; p=MIJ", false),
            ("v=DKIM1; p=MII; junk", false),
            ("", false),
        ] {
            assert_eq!(is_key_for_mail(text.as_bytes()), good, "{text}");
        }
        assert!(!is_key_for_mail(b"v=DKIM1; p=\xff"));
    }

    #[test]
    fn policies() {
        for (records, expected) in [
            (&[][..], None),
            (&["v=spf1 -all"], None),
            (&["v=DMARC1; p=reject"], Some("v=DMARC1; p=reject")),
            (&["v=spf1 -all", " v = DMARC1 ; p = Reject ;sp=none;;"], Some("v=DMARC1; p=reject; sp=none")),
            (&["v=DMARC1; p=reject", "v=DMARC1; p=none"], None),
            (&["v=DMARC1; p=reject", "v=DMARC1"], None),
            (&["v=DMARC1; p=reject", "v=dmarc1; p=none"], Some("v=DMARC1; p=reject")),
            (&["v=dmarc1; p=reject"], None),
            (&["V=DMARC1; p=reject"], None),
            (&["v=DMARC10; p=reject"], None),
            (&["p=reject; v=DMARC1"], None),
            (&["v=DMARC1"], None),
            (&["v=DMARC1; rua=mailto:a@b.test"], Some("v=DMARC1; p=none")),
            (&["v=DMARC1; p=rejct; rua=mailto:a@b.test!10m,junk; adkim=s"], Some("v=DMARC1; p=none; adkim=s")),
            (&["v=DMARC1; p=rejct; rua=junk"], None),
            (&["v=DMARC1; p=rejct; rua="], None),
            (&["v=DMARC1; p=rejct"], None),
            (&["v=DMARC1; p=reject; sp=junk; rua=https://b.test/r"], Some("v=DMARC1; p=none")),
            (&["v=DMARC1; p=reject; sp=junk"], None),
            (
                &["v=DMARC1; p=reject; adkim=x; aspf=S; fo=junk; ruf=junk; pct=50; t=y; psd=n"],
                Some("v=DMARC1; p=reject; aspf=s; psd=n; t=y"),
            ),
        ] {
            assert_eq!(policy(records.iter().map(|text| text.as_bytes())).as_deref(), expected, "{records:?}");
        }
    }
}
