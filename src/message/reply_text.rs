//! The new part of a reply: what its author wrote above or between what he quotes.
//!
//! Rules of thumb, line by line, linear in the text. Logs nothing, cannot fail.

/// The mark under which an application asks for the reply; text above it is the reply.
const MARK: &str = "### Reply Above This Line ###";

/// How "wrote" is said at the end of an attribution line.
const WROTE: [&str; 20] = [
    "wrote",
    "writes",
    "schrieb",
    "a écrit",
    "écrit",
    "escribió",
    "ha scritto",
    "scritto",
    "schreef",
    "escreveu",
    "skrev",
    "kirjoitti",
    "napsal",
    "napsal(a)",
    "napisał",
    "napisał(a)",
    "pisze",
    "написал",
    "пишет",
    "yazdı",
];

/// How an attribution begins, where it is longer than a line.
const OPENERS: [&str; 11] = ["On ", "Am ", "Le ", "El ", "Il ", "Op ", "Em ", "Den ", "W dniu ", "Dne ", "Dnia "];

/// Lines that an attribution may be folded into.
const ATTRIBUTION_MAX: usize = 3;

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
    if let Some(end) = lines.iter().position(|line| ends_reply(line)) {
        lines.truncate(end);
    }
    let mut found = marked || is_reply || lines.len() < all;
    let mut kept: Vec<&str> = Vec::with_capacity(lines.len());
    let mut in_quote = false;
    for line in lines {
        let quoted = line.trim_start().starts_with('>');
        if quoted && !in_quote {
            drop_attribution(&mut kept);
        }
        if quoted {
            found = true;
        } else {
            kept.push(line);
        }
        in_quote = quoted;
    }
    if marked {
        drop_attribution(&mut kept);
    }
    if found { kept.join("\n").trim().to_owned() } else { String::new() }
}

/// The signature's delimiter (RFC 3676 section 4.3; its blank is often lost), and what some put above a whole quoted
/// message.
fn ends_reply(line: &str) -> bool {
    if line == "-- " || line == "--" {
        return true;
    }
    let Some(inner) = line.trim().strip_prefix("--") else { return false };
    let words = inner.trim_matches(|c: char| c == '-' || c.is_whitespace());
    inner.ends_with("--")
        && ["Original Message", "Ursprüngliche Nachricht", "Message d'origine", "Mensaje original", "Messaggio originale"]
            .iter()
            .any(|original| words.eq_ignore_ascii_case(original))
}

/// Drops the lines that say who wrote what is quoted next, if there are any.
fn drop_attribution(kept: &mut Vec<&str>) {
    let end = kept.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
    for count in 1..=ATTRIBUTION_MAX.min(end) {
        let start = end - count;
        let Some(candidate) = kept.get(start..end) else { return };
        if candidate.iter().any(|line| line.trim().is_empty()) {
            return;
        }
        if is_attribution(candidate) {
            // Folded: it goes on upwards to where it begins.
            let folded = |more: usize| {
                let first = start.checked_sub(more)?;
                let lines = kept.get(first..start)?;
                let opens = lines.first().is_some_and(|line| OPENERS.iter().any(|opener| line.starts_with(opener)));
                (opens && lines.iter().all(|line| !line.trim().is_empty())).then_some(first)
            };
            let begins = candidate.first().is_some_and(|line| OPENERS.iter().any(|opener| line.starts_with(opener)));
            let first = if begins { start } else { (1..=ATTRIBUTION_MAX - count).find_map(folded).unwrap_or(start) };
            kept.truncate(first);
            return;
        }
    }
}

/// "… wrote:" with a date or an address in it.
fn is_attribution(lines: &[&str]) -> bool {
    let Some(last) = lines.last() else { return false };
    let Some(sentence) = last.trim_end().strip_suffix(':') else { return false };
    let sentence = sentence.trim_end();
    // The verb comes last in most languages; where it does not, the sentence must at least begin as one.
    let begins = lines.first().is_some_and(|line| OPENERS.iter().any(|opener| line.starts_with(opener)));
    let says = WROTE.iter().any(|verb| {
        sentence.strip_suffix(verb).is_some_and(|before| before.chars().next_back().is_none_or(|c| !c.is_alphanumeric()))
            || (begins && sentence.contains(&format!(" {verb} ")))
    });
    says && lines.iter().any(|line| line.contains('@') || line.bytes().any(|octet| octet.is_ascii_digit()))
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
        ];
        for (plain, expected) in table {
            assert_eq!(reply_text(plain, false), *expected, "{plain:?}");
        }
        assert_eq!(reply_text("Hello\n", true), "Hello");
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
