//! Recipient to route: globs over the canonical mailbox, first match wins. What names a domain or one mailbox is looked up; of the other
//! globs only those are tried of which the rarest piece stands in the mailbox, and one automaton finds all pieces in one pass.

use crate::config::{Route, hostname};
use crate::mailbox::{self, canonical, fold, unicode_domain};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The routes in their order, and the way to the first that takes a mailbox.
pub struct Routes {
    routes: Vec<Arc<Route>>,
    index: Arc<Index>,
}

/// From what a glob says to the number of its route; of several the least.
#[derive(Default)]
struct Index {
    mailboxes: HashMap<Box<str>, usize>,
    /// `*@domain`.
    domains: HashMap<Box<str>, usize>,
    /// `*`.
    all: Option<usize>,
    stars: Option<Stars>,
}

/// Globs with other stars, by a piece that each has between its stars.
struct Stars {
    pieces: AhoCorasick,
    /// By the number of the piece, in the order of the routes.
    globs: Vec<Vec<(usize, Box<str>)>>,
}

impl Routes {
    #[must_use]
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let globs = routes.iter().enumerate().flat_map(|(number, route)| route.recipients.iter().map(move |glob| (number, glob.as_str())));
        Self { index: Arc::new(Index::of(globs)), routes: routes.to_vec() }
    }

    /// Others with the same globs in the same order.
    #[must_use]
    pub fn with(&self, routes: &[Arc<Route>]) -> Self {
        Self { index: Arc::clone(&self.index), routes: routes.to_vec() }
    }

    /// The first route one of whose globs matches the mailbox, however that is written.
    #[must_use]
    pub fn find(&self, mailbox: &str) -> Option<&Arc<Route>> {
        self.routes.get(self.index.find(mailbox)?)
    }

    /// Routes that no mailbox comes to, each with the one in front that takes theirs. A glob is looked up as if it were a mailbox: what takes it,
    /// its stars included, takes whatever they could stand for.
    pub fn idle(&self) -> impl Iterator<Item = (&Arc<Route>, &Arc<Route>)> {
        self.routes.iter().enumerate().filter_map(|(number, route)| {
            let takers = route.recipients.iter().map(|glob| self.index.find(glob).filter(|taker| *taker < number));
            let takers: Option<Vec<usize>> = takers.collect();
            Some((route, self.routes.get(*takers?.first()?)?))
        })
    }

    /// The domains that globs name in full, in lower case.
    #[must_use]
    pub fn domains(&self) -> BTreeSet<String> {
        let globs = self.routes.iter().flat_map(|route| &route.recipients);
        let domains = globs.filter_map(|glob| mailbox::split(glob).1).map(|domain| domain.trim_end_matches('.').to_ascii_lowercase());
        domains.filter(|domain| domain.contains('.') && hostname::is_domain(domain)).collect()
    }

    /// What `postmaster` without a domain stands for (RFC 5321 section 4.5.1): itself where a glob takes that, else the one at this host,
    /// else the one at the first domain that a glob names.
    #[must_use]
    pub fn postmaster(&self, hostname: &str) -> String {
        const BARE: &str = "postmaster";
        let mut globs = self.routes.iter().flat_map(|route| &route.recipients);
        let named = globs.find_map(|glob| mailbox::split(glob).1.filter(|domain| !domain.is_empty() && !domain.contains('*')));
        let at = |domain: &str| [BARE, "@", domain].concat();
        [Some(BARE.to_owned()), Some(at(hostname)), named.map(at)]
            .into_iter()
            .flatten()
            .find(|mailbox| self.index.find(mailbox).is_some())
            .unwrap_or_else(|| BARE.to_owned())
    }
}

impl Index {
    /// Globs in the order of their routes.
    fn of<'a>(globs: impl Iterator<Item = (usize, &'a str)>) -> Self {
        let mut index = Self::default();
        let mut others = Vec::new();
        for (number, glob) in globs {
            // Nearly every glob where there are many.
            if let Some(domain) = glob.strip_prefix("*@").filter(|domain| !domain.is_empty() && is_plain_domain(domain)) {
                index.domains.entry(domain.to_ascii_lowercase().into()).or_insert(number);
                continue;
            }
            let forms = forms(glob);
            match forms.as_slice() {
                [all] if all == "*" => {
                    index.all.get_or_insert(number);
                }
                [mailbox] if !mailbox.contains('*') => {
                    index.mailboxes.entry(mailbox.as_str().into()).or_insert(number);
                }
                [glob] if let Some(domain) = glob.strip_prefix("*@").filter(|domain| !domain.contains(['*', '@'])) => {
                    index.domains.entry(domain.into()).or_insert(number);
                }
                _ => others.extend(forms.into_iter().map(|glob| (number, glob))),
            }
        }
        index.stars = Stars::of(others);
        index
    }

    fn find(&self, mailbox: &str) -> Option<usize> {
        let text = canonical(mailbox);
        let domain = mailbox::split(&text).1;
        let of_domain = domain.and_then(|domain| self.domains.get(domain));
        let first = [self.mailboxes.get(&*text).copied(), of_domain.copied(), self.all].into_iter().flatten().min();
        let Some(stars) = &self.stars else { return first };
        let first = stars.before(first, &text);
        match unicode_form(&text) {
            Some(unicode) => stars.before(first, &unicode),
            None => first,
        }
    }
}

impl Stars {
    fn of(globs: Vec<(usize, String)>) -> Option<Self> {
        let mut often: HashMap<&str, u32> = HashMap::new();
        for piece in globs.iter().flat_map(|(_, glob)| pieces(glob)) {
            *often.entry(piece).or_default() += 1;
        }
        let mut names: Vec<&str> = Vec::new();
        let mut by_piece: Vec<Vec<(usize, Box<str>)>> = Vec::new();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for (number, glob) in &globs {
            // A glob without any is nothing but stars.
            let rarest = pieces(glob).min_by_key(|piece| (often.get(piece), usize::MAX - piece.len())).unwrap_or_default();
            let at = *numbers.entry(rarest).or_insert_with(|| {
                names.push(rarest);
                by_piece.push(Vec::new());
                names.len() - 1
            });
            if let Some(of_piece) = by_piece.get_mut(at) {
                of_piece.push((*number, glob.as_str().into()));
            }
        }
        // Building fails beyond 2^31 states only, which no file holds.
        let pieces = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).match_kind(MatchKind::Standard).build(names).ok()?;
        (!globs.is_empty()).then_some(Self { pieces, globs: by_piece })
    }

    /// The number of the first route that takes this text, if it comes before the one already found.
    fn before(&self, found: Option<usize>, text: &str) -> Option<usize> {
        let mut first = found;
        for piece in self.pieces.find_overlapping_iter(text) {
            let globs = self.globs.get(piece.pattern().as_usize()).map(Vec::as_slice).unwrap_or_default();
            let earlier = globs.iter().take_while(|(number, _)| first.is_none_or(|first| *number < first));
            first = earlier.into_iter().find(|(_, glob)| matches(glob.as_bytes(), text.as_bytes())).map(|(number, _)| *number).or(first);
        }
        first
    }
}

/// A name whose only other spellings are those in capitals.
fn is_plain_domain(domain: &str) -> bool {
    domain.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.'))
        && !domain.ends_with('.')
        && !domain.contains("--")
}

/// What stands between the stars.
fn pieces(glob: &str) -> impl Iterator<Item = &str> {
    glob.split('*').filter(|piece| !piece.is_empty())
}

/// A glob as the texts of mailboxes are: folded, with its domain as A-labels. Where a star stands within a name that may be
/// internationalised, also with U-labels, as its author read it.
fn forms(glob: &str) -> Vec<String> {
    if !glob.contains('*') {
        return vec![canonical(glob)];
    }
    let (local, domain) = match glob.rsplit_once('@') {
        Some((local, domain)) => ([&*if local.contains('*') { fold(local) } else { mailbox::local(local) }, "@"].concat(), domain),
        None => (String::new(), glob),
    };
    if !domain.contains('*') {
        return vec![local + &mailbox::domain(domain)];
    }
    let by_label = |spelled: fn(&str) -> String| {
        let labels = domain.split('.').map(|label| if label.contains('*') { fold(label) } else { spelled(label) });
        [local.as_str(), &labels.collect::<Vec<_>>().join(".")].concat()
    };
    let mut forms = vec![by_label(mailbox::domain), by_label(unicode_domain)];
    forms.dedup();
    forms
}

/// A canonical text with its domain as people read it, where that is another.
fn unicode_form(text: &str) -> Option<String> {
    let (local, domain) = text.rsplit_once('@')?;
    memchr::memmem::find(domain.as_bytes(), b"xn--")?;
    let unicode = unicode_domain(domain);
    (unicode != domain).then(|| [local, "@", &unicode].concat())
}

/// `*` stands for any octets, also none. Linear in time but for the last star.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // Where to go on if the octets behind the last star do not match.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&octet) = text.get(t) {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                retry = Some((g, t));
            }
            Some(&wanted) if wanted == octet => {
                g += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                g = star;
                t = from + 1;
                retry = Some((star, t));
            }
        }
    }
    glob.iter().skip(g).all(|&octet| octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the index stands for.
    fn walk(globs: &[&str], mailbox: &str) -> Option<usize> {
        let text = canonical(mailbox);
        let texts = [Some(text.clone()), unicode_form(&text)];
        globs.iter().position(|glob| {
            let forms = forms(glob);
            forms.iter().any(|glob| texts.iter().flatten().any(|text| matches(glob.as_bytes(), text.as_bytes())))
        })
    }

    fn find(globs: &[&str], mailbox: &str) -> Option<usize> {
        Index::of(globs.iter().copied().enumerate()).find(mailbox)
    }

    #[test]
    fn globs() {
        let table: &[(&str, &str, bool)] = &[
            ("*@tickets.example.com", "a@tickets.example.com", true),
            ("*@tickets.example.com", "A@TICKETS.example.COM", true),
            ("*@TICKETS.example.com.", "a@tickets.example.com", true),
            ("*@tickets.example.com", "a@tickets.example.com.evil.test", false),
            ("support+*@example.com", "support+42@example.com", true),
            ("support+*@example.com", "support@example.com", false),
            ("Support+*@example.com", "support+@example.com", true),
            ("*", "", true),
            ("*", "postmaster", true),
            ("**", "x@y", true),
            ("a*b*c", "aXXbYYbc", true),
            ("a*b*c", "aXXbYYbcd", false),
            ("[a-z]@example.com", "a@example.com", false),
            ("**@*", "x@y", true),
            ("\"john\"@example.com", "John@example.com", true),
            ("*@b\u{fc}cher.test", "foo@xn--bcher-kva.test", true),
            ("*@xn--bcher-kva.test", "foo@B\u{dc}CHER.test", true),
            ("*@*.b\u{fc}cher.test", "foo@mx.xn--bcher-kva.test", true),
            ("*@*.xn--bcher-kva.test", "foo@mx.b\u{fc}cher.test", true),
            ("*@b\u{fc}*.test", "foo@xn--bcher-kva.test", true),
            ("*@xn--*", "foo@b\u{fc}cher.test", true),
            ("*@b\u{fc}*.test", "foo@bacher.test", false),
            ("*.b\u{fc}cher.test", "foo@mx.xn--bcher-kva.test", true),
            ("j\u{fc}rgen@x.test", "JU\u{308}RGEN@x.test", true),
            ("J\u{dc}*@x.test", "j\u{fc}rgen@x.test", true),
        ];
        for (glob, text, expected) in table {
            assert_eq!(find(&[glob], text).is_some(), *expected, "{glob} on {text}");
            assert_eq!(walk(&[glob], text).is_some(), *expected, "{glob} on {text}, walked");
        }
    }

    #[test]
    fn a_long_run_of_stars_stays_cheap() {
        let glob = "*a".repeat(200);
        let text = "a".repeat(199) + &"b".repeat(4000);
        assert!(!matches(glob.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn many_globs_that_share_a_piece_are_told_apart_by_their_other_one() {
        let globs: Vec<(usize, String)> = (0..20_000).map(|n| (n, format!("user-{n}-*@example.com"))).collect();
        let index = Index::of(globs.iter().map(|(number, glob)| (*number, glob.as_str())));
        let stars = index.stars.as_ref().unwrap();
        assert!(stars.globs.iter().all(|globs| globs.len() == 1));
        assert_eq!(index.find("USER-12345-x@example.com"), Some(12345));
        assert_eq!(index.find("user-20000-x@example.com"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn the_index_gives_what_the_walk_gives(
            globs in prop::collection::vec(prop_oneof![
                "[ab*]{0,3}@(\\*\\.)?[ab\u{fc}A]{1,2}(\\.(xn--tda|\u{fc}|a))?",
                "\\*@([ab\u{fc}]|xn--tda){1,2}",
                "[ab]{1,2}@[ab\u{fc}]",
                "[ab*@.\u{fc}]{1,5}",
            ], 0..12),
            mailboxes in prop::collection::vec("(\"?[abAB\u{fc}\u{dc}]{0,3}\"?)@([ab\u{fc}\u{dc}A]|xn--tda){1,2}(\\.(xn--tda|\u{fc}|a))?", 1..6),
        ) {
            let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
            let index = Index::of(globs.iter().copied().enumerate());
            for mailbox in mailboxes.iter().map(String::as_str).chain(["postmaster", ""]) {
                prop_assert_eq!(index.find(mailbox), walk(&globs, mailbox), "{:?} {}", globs, mailbox);
            }
        }
    }
}
