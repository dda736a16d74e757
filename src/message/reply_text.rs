//! The new part of a reply: what its author wrote above or between what he quotes.
//!
//! What mail programs put around a quoted message is known by its shape: an attribution has a date, an address or a verb, and a colon; a header
//! block has labels, one under another. The words are a table's (`reply_words`). Line by line, linear in the text. Logs nothing, cannot fail.

use super::reply_words::{DEVICES, DEVICES_OF_MINE, LABELS, Label, MACHINES, OPENERS, ORIGINAL, SOMEBODY, WROTE};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The mark under which an application asks for the reply; text above it is the reply.
const MARK: &str = "### Reply Above This Line ###";

/// Lines that an attribution may be folded into, and octets of all of them.
const ATTRIBUTION_MAX: usize = 4;
const ATTRIBUTION_LEN: usize = 500;

/// The reply in `plain` (LF line ends), trimmed; empty if there is none. A text in which nothing is marked, quoted or
/// signed is one only if the message says of itself that it answers another (`is_reply`).
#[must_use]
pub fn reply_text(plain: &str, is_reply: bool) -> String {
    let (text, marked) = match memchr::memmem::find(plain.as_bytes(), MARK.as_bytes()) {
        // The mark may stand in a quoted line.
        Some(at) => (plain.get(..at).unwrap_or_default(), true),
        None => (plain, false),
    };
    let mut lines: Vec<&str> = text.split('\n').collect();
    if marked {
        // What is left of the mark's own line is a quote character at most.
        lines.pop();
    }
    let all = lines.len();
    lines.truncate(end_of_reply(&lines));
    let mut found = marked || is_reply || lines.len() < all;
    let mut kept: Vec<&str> = Vec::with_capacity(lines.len());
    let mut quote = None;
    for line in lines {
        let sign = quote_sign(line);
        // A bar is a quote's sign only below an attribution: tables have bars too.
        let quoted = match sign {
            Some('>') => true,
            Some(_) => quote == sign || attribution(&kept, Below::Quote).is_some(),
            None => false,
        };
        if quoted && quote.is_none() {
            drop_attribution(&mut kept);
        }
        if quoted {
            found = true;
        } else {
            kept.push(line);
        }
        quote = if quoted { sign } else { None };
    }
    if marked {
        drop_attribution(&mut kept);
    }
    found |= drop_trailing(&mut kept);
    if found { kept.join("\n").trim().to_owned() } else { String::new() }
}

/// What follows an attribution.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Quote,
    /// A whole message, not quoted: the attribution must say more of itself.
    Text,
}

fn quote_sign(line: &str) -> Option<char> {
    line.trim_start().chars().next().filter(|sign| matches!(sign, '>' | '|'))
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

/// Where the reply ends: at a signature, a header block, or an attribution with its message unquoted.
fn end_of_reply(lines: &[&str]) -> usize {
    // Lines that say something, of those above.
    let mut any_text = false;
    for (at, line) in lines.iter().enumerate() {
        if is_blank(line) {
            continue;
        }
        if any_text && is_between_quote_signs(line) {
            return at;
        }
        if quote_sign(line) == Some('>') {
            continue;
        }
        if ends_reply(line) || is_header_block(lines.get(at..).unwrap_or_default()) {
            return at;
        }
        if any_text && let Some(first) = unquoted_attribution(lines, at) {
            // Nothing above it: the answer is below.
            if lines.iter().take(first).any(|line| !is_blank(line) && quote_sign(line) != Some('>')) {
                return first;
            }
        }
        any_text = true;
    }
    lines.len()
}

/// Where an attribution begins whose last line is here, and below which a message stands as it is.
fn unquoted_attribution(lines: &[&str], at: usize) -> Option<usize> {
    let line = bare(lines.get(at)?);
    if !(line.ends_with([':', '：', '-']) || line.contains("GMT")) {
        return None;
    }
    let below = lines.get(at + 1..)?.iter().find(|line| !is_blank(line))?;
    if quote_sign(below).is_some() {
        return None;
    }
    attribution(lines.get(..=at)?, Below::Text)
}

/// `>>> Name 11/30/2026 3:12 PM >>>`, above a whole message.
fn is_between_quote_signs(line: &str) -> bool {
    let inner = bare(line).strip_prefix(">>>").and_then(|line| line.strip_suffix(">>>"));
    inner.is_some_and(|inner| !inner.contains(">>>") && dates(inner) == (true, true))
}

/// The signature's delimiter (RFC 3676 section 4.3; its blank is often lost, or has become another one), and what stands above a whole
/// message.
fn ends_reply(line: &str) -> bool {
    if line.trim_end() == "--" {
        return true;
    }
    let line = bare(line).trim_matches('*');
    let words = line.trim_matches(|c: char| is_rule(c) || c == '=' || c.is_whitespace());
    let framed = line.chars().take(2).filter(|c| is_rule(*c)).count() == 2 && line.chars().rev().take(2).all(is_rule);
    (framed || words.ends_with(':')) && {
        let words = normal(words.trim_end_matches([':', ' ']));
        ORIGINAL.contains(&words.as_str())
            && (framed
                || words.starts_with("begin")
                || words.starts_with("anfang")
                || words.starts_with("début")
                || words.starts_with("in"))
    }
}

fn is_rule(c: char) -> bool {
    matches!(c, '-' | '_' | '\u{2010}'..='\u{2015}')
}

/// A line without blanks and marks of direction around it.
fn bare(line: &str) -> &str {
    line.trim_matches(|c: char| c.is_whitespace() || is_mark(c))
}

/// It is not seen, and only says in which direction others are written.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// In lower case, with plain apostrophes, blanks and digits, without marks.
fn normal(text: &str) -> String {
    let plain = |c: char| match c {
        '’' | '‘' | '´' | '`' => '\'',
        c if c.is_whitespace() => ' ',
        // Arabic, Persian, and of Devanagari.
        '\u{660}'..='\u{669}' => digit(c, '\u{660}'),
        '\u{6f0}'..='\u{6f9}' => digit(c, '\u{6f0}'),
        '\u{966}'..='\u{96f}' => digit(c, '\u{966}'),
        c => c,
    };
    // A dot is left over of a capital İ.
    text.chars().filter(|c| !is_mark(*c)).map(plain).flat_map(char::to_lowercase).filter(|c| *c != '\u{307}').collect()
}

fn digit(c: char, zero: char) -> char {
    char::from_digit(u32::from(c) - u32::from(zero), 10).unwrap_or(c)
}

/// What the line's label says, and what stands behind it.
fn label(line: &str) -> Option<(Label, &str)> {
    static ALL: OnceLock<HashMap<&str, Label>> = OnceLock::new();
    let line = bare(line).trim_start_matches('*');
    let (name, value) = line.split_once([':', '：'])?;
    if name.len() > 60 {
        return None;
    }
    let name = normal(name.trim().trim_matches('*').trim());
    let label = ALL
        .get_or_init(|| LABELS.iter().flat_map(|(label, names)| names.iter().map(|name| (*name, *label))).collect())
        .get(name.as_str())?;
    Some((*label, value))
}

/// Labels one under another: who, when, to whom, about what.
fn is_header_block(lines: &[&str]) -> bool {
    let Some((first, _)) = lines.first().and_then(|line| label(line)) else { return false };
    if first == Label::Other {
        return false;
    }
    let (mut seen, mut address, mut strays) = ([false; 4], false, 0);
    for line in lines.iter().take(12) {
        match label(line) {
            Some((kind, value)) => {
                strays = 0;
                address |= kind == Label::From && value.contains('@');
                if let Some(seen) = seen.get_mut(kind as usize) {
                    *seen = true;
                }
            }
            // A value that goes on, or a blank line between.
            None if strays < 2 => strays += 1,
            None => break,
        }
    }
    let kinds = seen.iter().filter(|seen| **seen).count();
    seen.first() == Some(&true) && (kinds == 4 || kinds == 3 && address)
}

/// Drops the lines that say who wrote what is quoted next, if there are any.
fn drop_attribution(kept: &mut Vec<&str>) {
    if let Some(first) = attribution(kept, Below::Quote) {
        kept.truncate(first);
    }
}

/// Where the attribution begins that ends the lines. It may be folded; it begins where it reads as a beginning.
fn attribution(lines: &[&str], below: Below) -> Option<usize> {
    let end = lines.iter().rposition(|line| !is_blank(line))? + 1;
    let (mut least, mut len) = (None, 0);
    for count in 1..=ATTRIBUTION_MAX.min(end) {
        let first = end - count;
        let candidate = lines.get(first..end)?;
        let top = candidate.first()?;
        len += top.len() + 1;
        if is_blank(top) || len > ATTRIBUTION_LEN || quote_sign(top) == Some('>') && !top.trim_start().starts_with("> ") {
            break;
        }
        // Without a date or an address it is none, unless it is a line of its own above a quote.
        if (count > 1 || below == Below::Text)
            && !candidate.iter().any(|line| line.bytes().any(|octet| octet == b'@' || octet.is_ascii_digit()))
        {
            continue;
        }
        let sentence = normal(&candidate.join(" "));
        match Attribution::read(sentence.trim()).judge(below) {
            Some(true) => return Some(first),
            Some(false) => least = least.or(Some(first)),
            None => {}
        }
    }
    least
}

/// What can be said of a sentence that may be an attribution.
struct Attribution<'a> {
    sentence: &'a str,
    /// It ends in a colon.
    colon: bool,
    /// It says that somebody wrote, and whether that is the last thing it says.
    wrote: bool,
    wrote_last: bool,
    date: bool,
    time: bool,
    address: bool,
}

impl<'a> Attribution<'a> {
    fn read(sentence: &'a str) -> Self {
        let bare = sentence.trim_end_matches(|c: char| matches!(c, ':' | '：' | '-') || c.is_whitespace());
        let is_word = |before: Option<char>, after: Option<char>, verb: &str| {
            let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            // Where words are not set apart, nothing shows where they begin.
            verb.chars().next().is_some_and(|c| c >= '\u{e00}') || !(letter(before) || letter(after))
        };
        let (mut wrote, mut wrote_last) = (false, false);
        for verb in WROTE {
            let Some(at) = bare.rfind(verb) else { continue };
            let (before, rest) = bare.split_at_checked(at).unwrap_or_default();
            let after = rest.get(verb.len()..).unwrap_or_default();
            if is_word(before.chars().next_back(), after.chars().next(), verb) {
                wrote = true;
                wrote_last |= after.is_empty();
            }
        }
        let (date, time) = dates(sentence);
        let colon = sentence.ends_with([':', '：']);
        Self { sentence, colon, wrote, wrote_last, date, time, address: has_address(sentence) }
    }

    fn opens(&self) -> bool {
        OPENERS.iter().any(|opener| self.sentence.starts_with(opener))
    }

    /// It begins as one does: by a word that does, or by a date.
    fn begins(&self) -> bool {
        let balanced = self.sentence.matches('<').count() == self.sentence.matches('>').count();
        let early = self.sentence.chars().take(24).any(|c| c.is_ascii_digit());
        let dated = self.date || self.time;
        balanced && self.date && (early || self.address) || self.opens() && dated
    }

    /// Whether it is an attribution; if so, whether it is whole.
    fn judge(&self, below: Below) -> Option<bool> {
        // Zoho's, and Gmail's of old.
        let framed = self.sentence.starts_with("---") && self.sentence.ends_with("---") && self.wrote && self.date;
        let stamped = self.date && self.time && self.sentence.contains(" gmt") && self.sentence.starts_with(|c: char| c.is_ascii_digit());
        if framed || stamped {
            return Some(true);
        }
        let dated = self.date || self.time;
        let bare = self.sentence.trim_end_matches(|c: char| c == ':' || c.is_whitespace());
        let is_one = match below {
            Below::Quote if !self.colon => self.address && self.date && self.sentence.starts_with(|c: char| c.is_ascii_digit()),
            Below::Quote => {
                self.address && dated
                    || self.wrote_last && (self.address || dated)
                    || self.wrote && (self.opens() && dated || self.date && self.time)
                    || self.wrote && self.sentence.contains('<') && self.address
                    || self.address && bare.ends_with('>')
                    || self.wrote_last && bare.split(' ').count() <= 5 && !self.is_of_somebody_known()
            }
            Below::Text if !self.colon => false,
            Below::Text => {
                let full = self.date && self.time;
                full && self.address && (self.wrote || self.begins())
                    || self.date && self.address && self.wrote && self.opens()
                    || self.wrote_last && self.address && self.sentence.contains('<') && self.sentence.len() < 120
                    || full && self.wrote && self.opens() && self.sentence.len() < 120 && !self.is_of_somebody_known()
            }
        };
        is_one.then(|| self.begins())
    }

    /// "You wrote" is said by people, not by programs.
    fn is_of_somebody_known(&self) -> bool {
        let mut words = self.sentence.split(|c: char| !c.is_alphabetic());
        words.any(|word| SOMEBODY.contains(&word))
    }
}

/// Something with an `@` in its middle.
fn has_address(sentence: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '"'));
    sentence.match_indices('@').any(|(at, _)| {
        let (before, behind) = sentence.split_at_checked(at).unwrap_or_default();
        is_part(before.chars().next_back()) && is_part(behind.chars().nth(1))
    })
}

/// Whether there is a date (a year, or numbers with signs between), and a time.
fn dates(sentence: &str) -> (bool, bool) {
    let (mut date, mut time) = (false, false);
    let mut numbers: Vec<(&str, &str)> = Vec::new();
    let mut rest = sentence;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (between, from) = rest.split_at_checked(at).unwrap_or_default();
        let len = from.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = from.split_at_checked(len).unwrap_or_default();
        numbers.push((between, number));
        rest = after;
    }
    for (at, (between, number)) in numbers.iter().enumerate() {
        date |= number.len() == 4 && (number.starts_with("19") || number.starts_with("20"));
        let before = at.checked_sub(1).and_then(|before| numbers.get(before));
        if let Some((first_between, first)) = before {
            let joined = |sign: &str| matches!(sign, "/" | "-" | "." | ". ");
            time |= matches!(*between, ":" | "." | "h" | " h ") && number.len() == 2 && first.len() <= 2;
            date |= at >= 2 && joined(between) && joined(first_between);
        }
    }
    (date, time)
}

/// Drops phones' signatures and lines of signs at the end; whether there was a signature.
fn drop_trailing(kept: &mut Vec<&str>) -> bool {
    let mut signed = false;
    while let Some(line) = kept.last().map(|line| line.trim()) {
        let signs = line.chars().all(|c| matches!(c, '-' | '_' | '=' | '*' | '#' | '~' | '+' | '–' | '—' | 'ᐧ') || c.is_whitespace());
        let of_device = is_of_device(line);
        if !(signs || of_device) {
            break;
        }
        signed |= of_device;
        kept.pop();
    }
    signed
}

fn is_of_device(line: &str) -> bool {
    if line.chars().count() > 110 {
        return false;
    }
    let line = normal(line.trim_matches(|c: char| matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | '*' | '_') || c.is_whitespace()));
    let of_mine = || DEVICES_OF_MINE.iter().find_map(|start| line.strip_prefix(start));
    DEVICES.iter().any(|start| line.starts_with(start))
        || of_mine().is_some_and(|rest| MACHINES.iter().any(|machine| rest.contains(machine)))
        || line.ends_with(" from mobile")
        // "Get Outlook for iOS" in any language.
        || line.contains("outlook") && (line.contains("ios") || line.contains("android")) && line.split(' ').count() <= 7
}

#[cfg(test)]
mod tests {
    use super::reply_text;
    use proptest::prelude::*;

    #[test]
    fn replies() {
        let table: &[(&str, &str)] = &[
            // Nothing that says "reply".
            ("", ""),
            ("Hello\n", ""),
            // The mark.
            ("New\n\n### Reply Above This Line ###\nOld\n", "New"),
            ("New\n\n> ### Reply Above This Line ###\n> Old\n", "New"),
            ("New\n\nOn Mon, 1 Jan 2024, App <a@b> wrote:\n> ### Reply Above This Line ###\n> Old\n", "New"),
            ("### Reply Above This Line ###\nOld\n", ""),
            // Quotes and attributions.
            ("New\n\nOn Mon, 1 Jan 2024 at 10:00, A B <a@b> wrote:\n> Old\n> Old\n", "New"),
            ("New\n\nOn Mon, 1 Jan 2024 at 10:00, A B <a@b> wrote:\n\n> Old\n", "New"),
            ("New\n\nOn Mon, 1 Jan 2024 at 10:00, A Long Name\n<a@b> wrote:\n> Old\n", "New"),
            ("New\n\nOn Mon, 1 Jan 2024 at 10:00, A B <a@b>\nwrote:\n> Old\n", "New"),
            ("Neu\n\nAm 01.01.2024 um 10:00 schrieb A B:\n> Alt\n", "Neu"),
            ("Nouveau\n\nLe 1 janv. 2024 à 10:00, A B <a@b> a écrit :\n> Vieux\n", "Nouveau"),
            ("> Old question\n\nNew answer\n\n> Second\n\nAnother\n", "New answer\n\n\nAnother"),
            ("On 1 Jan, a@b wrote:\n> Old\n", ""),
            ("> Old\n", ""),
            // A colon before a quote is not always an attribution.
            ("You said:\n> Old\nNew\n", "You said:\nNew"),
            ("I wrote this in 2020. It says:\n> Old\n", "I wrote this in 2020. It says:"),
            // Signatures.
            ("New\n-- \nMe\n", "New"),
            ("New\n--\nMe\n> Old\n", "New"),
            ("-- \nMe\n", ""),
            // A whole message below.
            ("New\n\n-----Original Message-----\nFrom: a@b\nOld\n", "New"),
            ("New\n---------- Forwarded\nOld\n", ""),
            ("New\n\n*From:* A B\n*Sent:* 2016-01-27\n*To:* c@d\n*Subject:* x\n\nOld\n", "New"),
            ("New\n________________________________\nVon: A B <a@b>\nDatum: 5. Januar 2026 um 15:04\nBetreff: x\n\nAlt\n", "New"),
            ("New\n\nBegin forwarded message:\n\nFrom: a@b\nOld\n", "New"),
            ("New\n\n------- Mensaje original -------\nOld\n", "New"),
            // Unquoted, below or above.
            ("New\n\nOn Wed, Sep 25, 2013, at 03:57 PM, a_b wrote:\n\nOld\n", "New"),
            ("New\n\n2016-03-03 17:21 GMT+01:00 A B\n\nOld\n", "New"),
            ("New\n\n---- On Tue, 22 Dec 2015 14:17:36 +0530 A B<a@b> wrote ----\n\nOld\n", "New"),
            // Folded, and right below the text.
            ("New\nOp 16 aug. 2014 05:13 schreef \"a\" <a@b> het\nvolgende geschreven:\n\n> Old\n", "New"),
            ("New\n\nLe 4 janv. 2016 19:03, \"A B\"\n<a@b>\na \u{e9}crit :\n\n> Old\n", "New"),
            ("New\n\n2013/7/20 A B <a@b>\n\n| Old\n| Old\n", "New"),
            // Phones.
            ("New\n\nSent from my phone\n\n> Old\n", "New"),
            ("New\n\n(Von meinem Mobilger\u{e4}t gesendet)\n", "New"),
        ];
        for (plain, expected) in table {
            assert_eq!(reply_text(plain, false), *expected, "{plain:?}");
        }
        assert_eq!(reply_text("Hello\n", true), "Hello");
    }

    /// What people write themselves stays whole, though it looks a little like what programs write.
    #[test]
    fn own_words_stay() {
        let texts = [
            "Please book the trip.\nFrom: Berlin\nTo: Paris\nDate: Monday\nThanks",
            "On Monday 5 January 2026 you wrote:\n\nthe price is 5\n\nThat is not right.",
            "See below.\n\nOn 5 January 2026 at 10:30 you wrote:\nthe price is 5.\nThat is not right.",
            "The report says the following:\nAll is well since 2020.\nSee you",
            "I met Ann <ann@a.example> on 5 January 2026.\nShe wrote: all is well.",
            "Meeting at 10:30 on 2026-01-05, please write to ann@a.example:\n- agenda\n- people",
            "| a | b |\n|---|---|\n| 1 | 2 |\nA table.",
            "I sent from my office a letter that you will find in the annex, and what else was asked for, but not all that you wanted from me, I fear.\nBye",
            "Subject: what we said\nis not what we did",
            "A: yes\nB: no\nC: maybe",
            "```\n# a comment\n####\n```\nEnd.",
            "From what I see, it works:\nyes",
            "It works.\nFrom my point of view, that is all.",
            "Das geht.\nVon meinem Standpunkt aus ist alles gut.",
        ];
        for text in texts {
            assert_eq!(reply_text(text, true), text);
            assert_eq!(reply_text(text, false), "", "{text:?}");
        }
    }

    /// Each language's attribution, folded where programs fold: not before the date.
    #[test]
    fn attributions_folded_anywhere() {
        let attributions = [
            "On Mon, Jan 5, 2026 at 3:04 PM Support Team <help@b.example> wrote:",
            "Am Mo., 5. Jan. 2026 um 15:04 Uhr schrieb Support Team <help@b.example>:",
            "Le lun. 5 janv. 2026 \u{e0} 15:04, Support Team <help@b.example> a \u{e9}crit :",
            "El lun, 5 ene 2026 a las 15:04, Support Team (<help@b.example>) escribi\u{f3}:",
            "Il giorno lun 5 gen 2026 alle ore 15:04 Support Team <help@b.example> ha scritto:",
            "2026-01-05 15:04 GMT+02:00 Support Team <help@b.example>:",
            "Den m\u{e5}n 5 jan. 2026 kl 15:04 skrev Support Team <help@b.example>:",
        ];
        for attribution in attributions {
            for (at, _) in attribution.match_indices(' ').filter(|(at, _)| *at > 24) {
                let (before, behind) = attribution.split_at(at);
                let folded = format!("{before}\n{}", behind.trim_start());
                for text in [format!("Yes.\n\n{folded}\n\n> old\n"), format!("Yes.\n\n{attribution}\n> old\n> old\n")] {
                    assert_eq!(reply_text(&text, true), "Yes.", "{text}");
                }
            }
        }
    }

    /// Of one kind, each longer than the one before: what is linear stays so.
    #[test]
    fn much_of_anything_takes_linear_time() {
        let start = std::time::Instant::now();
        for piece in [
            "On 1 a@b wrote:\n> a\n",
            "From: a@b\n",
            "From: a@b",
            "wrote:",
            "\n",
            "a:\n",
            "> ",
            "| a\n",
            "-- ",
            "1:",
            "20261 ",
            "@a",
            "Sent from my\n",
        ] {
            let text = piece.repeat(256 * 1024 / piece.len());
            assert!(reply_text(&text, true).len() <= text.len());
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn is_made_of_the_text(plain in "[a> \n:1@-]{0,80}", is_reply: bool) {
            let reply = reply_text(&plain, is_reply);
            for line in reply.split('\n') {
                prop_assert!(plain.contains(line));
                prop_assert!(!line.trim_start().starts_with('>'));
            }
        }
    }
}
