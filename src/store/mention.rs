//! Where a text names a mailbox: in any letter case, composed or decomposed, with A-labels or U-labels, with quotes or without; also where
//! the text, or a part of it, is percent-encoded or the inside of a JSON string, and so up to three times. Logs nothing, cannot fail.

use crate::mailbox;
use icu_casemap::CaseMapper;
use icu_normalizer::DecomposingNormalizerBorrowed as Normalizer;
use icu_normalizer::properties::CanonicalCombiningClassMapBorrowed as CombiningClass;
use std::ops::Range;

/// A text inside a JSON string inside a URL, and one more.
const LAYERS: usize = 3;

/// A letter, and the octets of the text that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Letter {
    c: char,
    octets: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    canonical: String,
    /// Its folded letters, bare and with quotes around the local part.
    forms: Vec<Vec<char>>,
}

impl Mention {
    /// Of a canonical mailbox.
    pub(super) fn new(canonical: &str) -> Self {
        let (local, domain) = mailbox::split(canonical);
        let quoted = (!local.starts_with('"')).then(|| format!("\"{local}\"@{}", domain.unwrap_or_default()));
        let letters = |text: &str| folded(&plain(text)).into_iter().map(|letter| letter.c).collect();
        Self { canonical: canonical.to_owned(), forms: std::iter::once(letters(canonical)).chain(quoted.as_deref().map(letters)).collect() }
    }

    /// The octets of the first mention.
    pub(super) fn find(&self, text: &str) -> Option<Range<usize>> {
        if !text.contains(['@', '%', '\\']) {
            return None;
        }
        if text.is_ascii() && self.canonical.is_ascii() && !may_be_spelled_otherwise(text) {
            return find_ascii(text, &self.canonical);
        }
        let mut letters = plain(text);
        for _ in 0..LAYERS {
            if let Some(found) = self.find_in(text, &letters) {
                return Some(found);
            }
            letters = decoded(&letters)?;
        }
        self.find_in(text, &letters)
    }

    fn find_in(&self, text: &str, letters: &[Letter]) -> Option<Range<usize>> {
        let folded = folded(letters);
        let places = self.forms.iter().flat_map(|form| {
            let is_here = |window: &&[Letter]| window.iter().map(|letter| letter.c).eq(form.iter().copied());
            folded.windows(form.len()).filter(is_here)
        });
        let octets = places.filter_map(|place| {
            let start = place.iter().map(|letter| letter.octets.start).min()?;
            let end = place.iter().map(|letter| letter.octets.end).max()?;
            Some(start..end)
        });
        // Folding is coarser than the sameness of domains, and half of a letter is none.
        octets.filter(|octets| text.get(octets.clone()).is_some()).find(|octets| {
            let inside = letters.iter().filter(|letter| octets.start <= letter.octets.start && letter.octets.end <= octets.end);
            mailbox::canonical(&inside.map(|letter| letter.c).collect::<String>()) == self.canonical
        })
    }
}

/// Whether an ASCII text may name an ASCII mailbox in another way than by its letters.
fn may_be_spelled_otherwise(text: &str) -> bool {
    text.contains(['%', '\\']) || text.contains("\"@") || find_ascii(text, "xn--").is_some()
}

fn find_ascii(text: &str, lower: &str) -> Option<Range<usize>> {
    let first = lower.bytes().next()?;
    memchr::memchr2_iter(first, first.to_ascii_uppercase(), text.as_bytes()).find_map(|start| {
        let octets = start..start.checked_add(lower.len())?;
        text.get(octets.clone())?.eq_ignore_ascii_case(lower).then_some(octets)
    })
}

fn plain(text: &str) -> Vec<Letter> {
    text.char_indices().map(|(start, c)| Letter { c, octets: start..start.saturating_add(c.len_utf8()) }).collect()
}

/// Letter case, composition and A-labels taken away; full stops of other scripts are those of domains.
fn folded(letters: &[Letter]) -> Vec<Letter> {
    let (normal, case) = (Normalizer::new_nfd(), CaseMapper::new());
    let mut folded = Vec::with_capacity(letters.len());
    for Letter { c, octets } in with_u_labels(letters) {
        if c.is_ascii() || matches!(c, '。' | '．' | '｡') {
            folded.push(Letter { c: if c.is_ascii() { c.to_ascii_lowercase() } else { '.' }, octets });
            continue;
        }
        let decomposed = normal.normalize(c.encode_utf8(&mut [0; 4])).into_owned();
        let caseless = case.fold_string(&decomposed).into_owned();
        folded.extend(normal.normalize(&caseless).chars().map(|c| Letter { c, octets: octets.clone() }));
    }
    // Combining marks have an order of their own among each other.
    let class = CombiningClass::new();
    for marks in folded.chunk_by_mut(|_, next| class.get_u8(next.c) != 0) {
        marks.sort_by_key(|letter| class.get_u8(letter.c));
    }
    folded
}

/// What stands between two letters that no A-label has.
fn with_u_labels(letters: &[Letter]) -> Vec<Letter> {
    let in_label = |letter: &Letter| letter.c.is_ascii_alphanumeric() || letter.c == '-';
    let mut found = Vec::with_capacity(letters.len());
    for run in letters.chunk_by(|one, next| in_label(one) && in_label(next)) {
        let label: String = run.iter().map(|letter| letter.c.to_ascii_lowercase()).collect();
        // In a text an A-label may have a local part's letters, or an escape's, before it.
        let Some(start) = label.find("xn--") else {
            found.extend_from_slice(run);
            continue;
        };
        let (before, encoded) = run.split_at_checked(start).unwrap_or((run, &[]));
        found.extend_from_slice(before);
        let unicode = label.get(start.saturating_add("xn--".len())..).and_then(idna::punycode::decode_to_string);
        match (unicode, encoded.first(), encoded.last()) {
            (Some(unicode), Some(first), Some(last)) => {
                let octets = first.octets.start..last.octets.end;
                found.extend(unicode.chars().map(|c| Letter { c, octets: octets.clone() }));
            }
            _ => found.extend_from_slice(encoded),
        }
    }
    found
}

/// One layer of percent-encoding and of JSON's escapes taken off; `None` where there is none.
fn decoded(letters: &[Letter]) -> Option<Vec<Letter>> {
    let mut decoded = Vec::with_capacity(letters.len());
    let mut rest = letters;
    let mut changed = false;
    while let Some((first, others)) = rest.split_first() {
        let (new, taken) = match first.c {
            '%' => percent(rest),
            '\\' => escape(rest),
            _ => (Vec::new(), 0),
        };
        if new.is_empty() {
            decoded.push(first.clone());
            rest = others;
        } else {
            changed = true;
            decoded.extend(new);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
    changed.then_some(decoded)
}

/// The letters of a run of `%XX`, and how many it was made of. Stops at an octet that belongs to no letter.
fn percent(letters: &[Letter]) -> (Vec<Letter>, usize) {
    const WIDTH: usize = 3;
    let mut octets = Vec::new();
    for triple in letters.chunks_exact(WIDTH) {
        let [Letter { c: '%', .. }, high, low] = triple else { break };
        let (Some(high), Some(low)) = (high.c.to_digit(16), low.c.to_digit(16)) else { break };
        octets.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    let valid = octets.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let new = valid.char_indices().filter_map(|(start, c)| {
        let end = start.checked_add(c.len_utf8())?;
        Some(Letter { c, octets: span(letters.get(start * WIDTH..end * WIDTH)?)? })
    });
    (new.collect(), valid.len() * WIDTH)
}

/// The letter of `\u0040`, `\ud83d\ude00`, `\"`, `\\` or `\/`, and how many it was made of.
fn escape(letters: &[Letter]) -> (Vec<Letter>, usize) {
    let unit = |at: usize| {
        let [Letter { c: '\\', .. }, Letter { c: 'u', .. }, digits @ ..] = letters.get(at..at.checked_add(6)?)? else { return None };
        let number = digits.iter().try_fold(0, |number, digit| Some(number * 16 + digit.c.to_digit(16)?))?;
        u16::try_from(number).ok()
    };
    let units = unit(0).into_iter().flat_map(|first| std::iter::once(first).chain(unit(6)));
    let (c, taken) = match (char::decode_utf16(units).next(), letters.get(1)) {
        (Some(Ok(c)), _) => (c, c.len_utf16() * 6),
        (None, Some(Letter { c: c @ ('"' | '\\' | '/'), .. })) => (*c, 2),
        (None | Some(Err(_)), _) => return (Vec::new(), 0),
    };
    (letters.get(..taken).and_then(span).map(|octets| Letter { c, octets }).into_iter().collect(), taken)
}

fn span(letters: &[Letter]) -> Option<Range<usize>> {
    Some(letters.first()?.octets.start..letters.last()?.octets.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found<'a>(address: &str, text: &'a str) -> Option<&'a str> {
        Mention::new(&mailbox::canonical(address)).find(text).and_then(|place| text.get(place))
    }

    #[test]
    fn every_spelling_is_found_with_its_place() {
        for (address, text, expected) in [
            ("ann@example.com", "hello ANN@Example.Com!", "ANN@Example.Com"),
            ("ann@example.com", "aann@example.com", "ann@example.com"),
            ("ann@example.com", "größe an ann@example.com.", "ann@example.com"),
            ("ann@example.com", "mailto:ann%40example.com?subject", "ann%40example.com"),
            ("ann@example.com", "%61%6e%6E%40%65xample%2Ecom", "%61%6e%6E%40%65xample%2Ecom"),
            ("ann+tag@example.com", "to=ann%2Btag%40example.com&x=%zz", "ann%2Btag%40example.com"),
            ("ann@example.com", r#"{"to":"ann\u0040example.com"}"#, r"ann\u0040example.com"),
            ("ann@example.com", r#"{\"to\":\"\\u0061nn\\u0040example.com\"}"#, r"\\u0061nn\\u0040example.com"),
            ("ann@example.com", "x%5Cu0040 ann%2540example.com", "ann%2540example.com"),
            ("ann@example.com", "\"ann\"@example.com", "\"ann\"@example.com"),
            ("ann@example.com", r#"no \"ann\"@example.com"#, r#"\"ann\"@example.com"#),
            ("\"a b\"@example.com", r#"no "A b"@example.com"#, r#""A b"@example.com"#),
            ("u@bücher.example", "to u@BÜCHER.example", "u@BÜCHER.example"),
            ("u@bücher.example", "to <u@XN--bcher-kva.example>", "u@XN--bcher-kva.example"),
            ("u@xn--bcher-kva.example", "to u@bu\u{308}cher.example", "u@bu\u{308}cher.example"),
            ("u@xn--bcher-kva.example", "q=u%40b%C3%BCcher.example", "u%40b%C3%BCcher.example"),
            ("u@xn--bcher-kva.example", r"to u@b\u00fccher.example", r"u@b\u00fccher.example"),
            ("u@xn--bcher-kva.example", "q=u%40xn--bcher-kva.example", "u%40xn--bcher-kva.example"),
            ("νίκος@example.com", "ΝΊΚΟΣ@example.com", "ΝΊΚΟΣ@example.com"),
            ("ΝΊΚΟΣ@example.com", "νι\u{301}κος@example.com", "νι\u{301}κος@example.com"),
            ("a@νίκος.example", "a@ΝΊΚΟΣ.example", "a@ΝΊΚΟΣ.example"),
            ("kurt@example.com", "\u{212a}urt@example.com", "\u{212a}urt@example.com"),
            ("a@例え.テスト", "a@例え。テスト", "a@例え。テスト"),
            ("strasse@example.com", "Straße@example.com", "Straße@example.com"),
        ] {
            assert_eq!(found(address, text), Some(expected), "{address} in {text}");
        }
    }

    #[test]
    fn others_are_left() {
        for (address, text) in [
            ("ann@example.com", "ann@example.co"),
            ("ann@example.com", "ann at example.com, 100%"),
            ("ann@example.co", "ann@example.cö"),
            ("a@strasse.example", "a@straße.example"),
            ("a@straße.example", "a@strasse.example"),
            ("sx@example.com", "ßx@example.com"),
            ("u@bucher.example", "u@bücher.example u@xn--bcher-kva.example"),
        ] {
            assert_eq!(found(address, text), None, "{address} in {text}");
        }
    }

    fn encoded(text: &str, how: u8) -> String {
        match how {
            0 => text.bytes().map(|octet| format!("%{octet:02X}")).collect(),
            1 => text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
            2 => serde_json::to_string(text).unwrap().trim_matches('"').to_owned(),
            _ => text.to_owned(),
        }
    }

    proptest! {
        #[test]
        fn a_spelling_in_any_three_layers_is_found(local in "[a-zäßσς+.😀]{1,6}", domain in "[a-zäö]{1,6}\\.example", upper in any::<bool>(), a_label in any::<bool>(), layers in proptest::collection::vec(0u8..4, 0..=3), before in "[a-z ü:]{0,5}", behind in "[> ü,]{0,3}") {
            let address = format!("{local}@{domain}");
            let written = if a_label { format!("{local}@{}", mailbox::domain(&domain)) } else { address.clone() };
            let written = if upper { written.to_uppercase() } else { written };
            prop_assume!(mailbox::canonical(&written) == mailbox::canonical(&address));
            let mut text = format!("{before} {written}{behind}");
            for how in layers {
                text = encoded(&text, how);
            }
            prop_assert!(found(&address, &text).is_some(), "{address} in {text}");
        }

        #[test]
        fn never_panics_and_what_is_taken_out_is_gone(text in "(ann@x\\.y|%|\\\\|u00|40|xn--|[äß\u{308}@. \"]|[a-z0-9]){0,30}") {
            let mention = Mention::new("ann@x.y");
            let mut text = text;
            let mut rounds = 0;
            while let Some(place) = mention.find(&text) {
                text.replace_range(place, "[erased]");
                rounds += 1;
                prop_assert!(rounds < 40);
            }
        }
    }
}
