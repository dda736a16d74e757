//! What is left out of a record: by `store.redact` before it is written, and an erased address afterwards. Logs nothing, cannot fail.

use super::mention::Mention;
use crate::record::{Outcome, Record, ServerResponse};
use crate::{config, mailbox};

/// Stands where an erased address stood.
pub(super) const ERASED: &str = "[erased]";

/// Takes out what the configuration says is never to be written, neither to the store nor to a log line.
pub fn configured(record: &mut Record, redact: config::Redact) {
    if redact.subject {
        record.subject = None;
    }
    if redact.sender_ip {
        record.sender_ip.clear();
    }
    if redact.response_body {
        record.server_response.body.clear();
        // The reply to a refusal carries the response's text: only its codes stay.
        if record.outcome != Outcome::Delivered {
            record.reply = codes(&record.reply);
        }
    }
}

/// `554 5.7.1` of `554 5.7.1 No such ticket`.
fn codes(reply: &str) -> String {
    let is_code = |word: &&str| word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    reply.split(' ').take(2).take_while(is_code).collect::<Vec<_>>().join(" ")
}

/// A mailbox to look for, however it is spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    canonical: String,
    mention: Mention,
}

impl Address {
    /// Angle brackets and white space around it do not count; `None` for what is not a whole mailbox.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = trimmed(text);
        mailbox::is_whole(text).then(|| {
            let canonical = mailbox::canonical(text);
            Self { mention: Mention::new(&canonical), canonical }
        })
    }

    /// The spelling that stands for all.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    pub(super) fn needle(&self) -> Option<Needle> {
        Needle::new(&self.canonical).filter(|_| !self.canonical.contains("xn--")).map(|needle| Needle { encoded: true, ..needle })
    }

    /// Whether a record names it, as sender or recipient or anywhere in a text.
    #[must_use]
    pub fn is_named_by(&self, record: &Record) -> bool {
        self.is(&record.sender)
            || record.recipients.iter().any(|recipient| self.is(recipient))
            || texts(record).any(|text| self.mention.find(text).is_some())
    }

    fn is(&self, mailbox: &str) -> bool {
        mailbox::canonical(mailbox) == self.canonical
    }

    /// Takes it out of a record; whether anything changed. Another address that only ends or starts like it
    /// (`not-ann@…` for `ann@…`) stays a sender or recipient; in a text every occurrence goes.
    pub fn erase(&self, record: &mut Record) -> bool {
        let mut changed = false;
        for address in std::iter::once(&mut record.sender).chain(&mut record.recipients) {
            if self.is(address) {
                ERASED.clone_into(address);
                changed = true;
            }
        }
        let Record { message_id, subject, server_response, reply, route, sender_ip, tls, webhook_id, .. } = record;
        let ServerResponse { body, content_type, retry_after, .. } = server_response;
        let options = [message_id, subject, content_type, retry_after, tls].into_iter().flatten();
        for text in options.chain([body, reply, route, sender_ip, webhook_id]) {
            // Each round takes an `@` away, however that is written, so it ends.
            while let Some(place) = self.mention.find(text) {
                text.replace_range(place, ERASED);
                changed = true;
            }
        }
        changed
    }
}

/// Every text of a record but its sender and recipients.
fn texts(record: &Record) -> impl Iterator<Item = &str> {
    let response = &record.server_response;
    let options = [&record.message_id, &record.subject, &response.content_type, &response.retry_after, &record.tls];
    let plain = [&response.body, &record.reply, &record.route, &record.sender_ip, &record.webhook_id];
    options.into_iter().flatten().chain(plain).map(String::as_str)
}

/// Without the white space and angle brackets around an address or a Message-ID.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|inner| inner.strip_suffix('>')).unwrap_or(text).trim()
}

/// Letter case taken away.
#[must_use]
pub fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().flat_map(char::to_lowercase).collect() }
}

/// Whether a text has one whose letter case is taken away, in any letter case.
pub(super) fn says(text: &str, folded: &str) -> bool {
    fold(text).contains(folded)
}

/// Letters outside of ASCII whose lower case has one of ASCII.
const ODD: [(char, &str); 2] = [('i', "\u{130}"), ('k', "\u{212a}")];

/// A text of ASCII letters, looked for in a record as it is stored: most records are left out of a search at the speed of memory.
pub(super) struct Needle {
    folded: String,
    /// Where its octet stands that is looked for first: the rest is compared around each place where it is found.
    anchor: usize,
    /// It may also stand there in other letters than its own.
    encoded: bool,
}

impl Needle {
    /// `None` for what has other letters: those can be written in more than one way.
    pub(super) fn new(folded: &str) -> Option<Self> {
        /// The most frequent letters of addresses and texts, the commonest last.
        const FREQUENT: &[u8] = b"wybgfpumhdlcrsnitao.e@";
        let frequency = |octet: u8| FREQUENT.iter().position(|&frequent| frequent == octet).map_or(0, |at| at + 1);
        let (anchor, _) = folded.bytes().enumerate().min_by_key(|&(_, octet)| frequency(octet))?;
        folded.is_ascii().then(|| Self { folded: folded.to_owned(), anchor, encoded: false })
    }

    /// False only if no text of the record has it, in any letter case.
    pub(super) fn may_be_in(&self, octets: &[u8]) -> bool {
        let Some(&first) = self.folded.as_bytes().get(self.anchor) else { return true };
        let found = memchr::memchr2_iter(first, first.to_ascii_uppercase(), octets).any(|at| {
            let start = at.checked_sub(self.anchor);
            let place = start.and_then(|start| octets.get(start..start.checked_add(self.folded.len())?));
            place.is_some_and(|place| place.eq_ignore_ascii_case(self.folded.as_bytes()))
        });
        found
            || ODD.iter().any(|(lower, letter)| self.folded.contains(*lower) && memchr::memmem::find(octets, letter.as_bytes()).is_some())
            || (self.encoded && (memchr::memchr3(b'%', b'\\', b'"', octets).is_some() || may_hold_utf8(octets)))
    }
}

/// Whether two octets stand side by side as in a letter outside of ASCII: case folding and IDNA make ASCII of many of those.
fn may_hold_utf8(octets: &[u8]) -> bool {
    octets.windows(2).any(|pair| matches!(pair, [0xc2..=0xf4, 0x80..=0xbf]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    #[test]
    fn found_in_any_letter_case() {
        for (text, folded, expected) in [
            ("hello ANN@Example.Com!", "ann@example.com", true),
            ("aann@example.com", "ann@example.com", true),
            ("ann@example.co", "ann@example.com", false),
            ("", "a", false),
            ("Ünknown user MÜLLER@example.com", "müller@example.com", true),
            ("größe an ann@example.com", "ann@example.com", true),
            ("İx@example.com", "x@example.com", true),
            ("\u{212a}urt", "kurt", true),
        ] {
            assert_eq!(says(text, folded), expected, "{folded} in {text}");
        }
    }

    proptest! {
        #[test]
        fn erased_is_erased(mut record in super::super::encoding::tests::any_record(), address in "[a-zA-ZäÖ]{1,6}@[a-z]{1,5}\\.[a-z]{2}", upper in any::<bool>(), place in 0usize..6) {
            let written = if upper { address.to_uppercase() } else { address.clone() };
            let percent = || address.bytes().map(|octet| format!("%{octet:02x}")).collect::<String>();
            match place {
                5 => record.subject = Some(percent()),
                0 => record.sender = written,
                1 => record.recipients.push(written),
                2 => record.subject = Some(format!("for {written}{written}")),
                3 => record.message_id = Some(format!("<{written}>")),
                _ => record.server_response.body.push_str(&written),
            }
            let address = Address::new(&format!(" <{address}> ")).unwrap();
            prop_assert!(address.is_named_by(&record));
            prop_assert!(address.needle().is_none_or(|needle| needle.may_be_in(&super::super::encoding::encode(&record))));
            prop_assert!(address.erase(&mut record));
            prop_assert!(!address.is_named_by(&record));
            prop_assert!(!address.erase(&mut record));
        }

        #[test]
        fn a_needle_misses_nothing(record in super::super::encoding::tests::any_record(), text in "[ -~\u{212a}İß]{1,12}", start in 0usize..12, upper in any::<bool>()) {
            let mut record = record;
            record.subject = Some(if upper { format!("ä{text}ö").to_uppercase() } else { text.clone() });
            let wanted: String = fold(&text).chars().skip(start).collect();
            let said = record.subject.as_deref().is_some_and(|subject| !wanted.is_empty() && says(subject, &wanted));
            if let Some(needle) = Needle::new(&wanted) {
                prop_assert!(!said || needle.may_be_in(&super::super::encoding::encode(&record)));
            }
        }
    }

    #[test]
    fn no_other_letter_becomes_ascii() {
        let becomes = |letter: char| letter.to_lowercase().find(char::is_ascii).map(|lower| (lower, letter.to_string()));
        let letters: Vec<_> = ('\u{80}'..=char::MAX).filter_map(becomes).collect();
        assert_eq!(letters, ODD.map(|(lower, letter)| (lower, letter.to_owned())));
    }

    #[test]
    fn a_longer_address_is_another_person() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let mut record = super::super::encoding::tests::any_record().new_tree(&mut runner).unwrap().current();
        record.sender = "bob@example.com".into();
        record.recipients = vec!["b@example.com".into(), "b@example.com.au".into()];
        Address::new("B@example.com").unwrap().erase(&mut record);
        assert_eq!(record.sender, "bob@example.com");
        assert_eq!(record.recipients, [ERASED, "b@example.com.au"]);
    }

    #[test]
    fn only_the_codes_of_a_redacted_reply_stay() {
        for (reply, left) in [("554 5.7.1 secret words", "554 5.7.1"), ("550 no 5.1.1", "550"), ("", ""), ("450 4.3.0", "450 4.3.0")] {
            assert_eq!(codes(reply), left);
        }
    }
}
