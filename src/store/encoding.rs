//! One record as octets: our own versioned encoding with a checksum. Logs nothing; whatever the disk gives back is either the
//! record that was written or an `Unreadable`.
//!
//! ```text
//! version u8 | date i64 LE | 4 times, size, status: varint | outcome u8 | texts: varint length + UTF-8 | checksum 8 octets
//! ```
//!
//! The checksum is BLAKE3 over the id and the octets before it, cut to 8: a value that stands under a foreign id is found as well.

use crate::record::{Outcome, Record, RecordId, ServerResponse};

/// What is written now. Version 1 had no `retry_after`; version 2 named a segment of the index behind the version.
pub(super) const VERSION: u8 = 3;
const OLDEST: u8 = 1;
pub(super) const CHECKSUM: usize = 8;

/// The octets are not what was written, or of a version that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode_into(&mut out, record, 0);
    out
}

/// Behind what is there; with so many microseconds more that it waited for the store.
pub(super) fn encode_into(out: &mut Vec<u8>, record: &Record, waited_us: u64) {
    put(out, record, waited_us, VERSION);
}

fn put(out: &mut Vec<u8>, record: &Record, waited_us: u64, version: u8) {
    let start = out.len();
    out.push(version);
    if version == 2 {
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(&record.date.as_microsecond().to_le_bytes());
    let (processing_us, store_us) = (record.processing_time_us.saturating_add(waited_us), record.store_us.saturating_add(waited_us));
    for number in [processing_us, record.queue_us, record.forward_us, store_us, record.size] {
        put_number(out, number);
    }
    put_number(out, u64::from(record.server_response.status));
    out.push(outcome_code(record.outcome));
    put_text(out, &record.sender_ip);
    put_option(out, record.message_id.as_deref());
    put_text(out, &record.sender);
    put_number(out, record.recipients.len() as u64);
    for recipient in &record.recipients {
        put_text(out, recipient);
    }
    put_option(out, record.subject.as_deref());
    put_text(out, &record.server_response.body);
    put_option(out, record.server_response.content_type.as_deref());
    if version >= 2 {
        put_option(out, record.server_response.retry_after.as_deref());
    }
    put_text(out, &record.reply);
    put_option(out, record.tls.as_deref());
    put_text(out, &record.route);
    put_text(out, &record.webhook_id);
    let sum = checksum(record.id.0, out.get(start..).unwrap_or_default());
    out.extend_from_slice(&sum);
}

/// With their checksum behind them.
pub(super) fn summed(key: u128, mut octets: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &octets);
    octets.extend_from_slice(&sum);
    octets
}

/// A record's date in microseconds, unchecked: to leave out what has expired.
pub(super) fn date_us(octets: &[u8]) -> Option<i64> {
    if octets.first() == Some(&VERSION) { octets.get(1..)?.first_chunk().copied().map(i64::from_le_bytes) } else { None }
}

pub(super) fn decode(id: u128, octets: &[u8]) -> Result<Record, Unreadable> {
    let mut rest = Reader(checked(id, octets)?);
    let version = rest.octet()?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(Unreadable);
    }
    if version == 2 {
        rest.octets(4)?;
    }
    let record = rest.record(id, version)?;
    if rest.0.is_empty() { Ok(record) } else { Err(Unreadable) }
}

/// Whether the octets are what was written.
pub(super) fn is_whole(id: u128, octets: &[u8]) -> bool {
    checked(id, octets).is_ok()
}

pub(super) fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Delivered => 0,
        Outcome::Rejected => 1,
        Outcome::Deferred => 2,
    }
}

/// BLAKE3 over a key and its value, cut to 8 octets.
pub(super) fn checksum(id: u128, body: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id.to_be_bytes());
    hasher.update(body);
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

/// What stands before its checksum.
pub(super) fn checked(id: u128, octets: &[u8]) -> Result<&[u8], Unreadable> {
    let (body, sum) = octets.split_last_chunk().ok_or(Unreadable)?;
    if checksum(id, body) == *sum { Ok(body) } else { Err(Unreadable) }
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    // LEB128: seven bits an octet, the least first.
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_option(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            out.push(1);
            put_text(out, text);
        }
    }
}

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn octets(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        self.octets(N)?.try_into().map_err(|_| Unreadable)
    }

    pub(super) fn octet(&mut self) -> Result<u8, Unreadable> {
        self.array::<1>().map(|[octet]| octet)
    }

    pub(super) fn number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let octet = self.octet()?;
            number |= u64::from(octet & 0x7f).checked_shl(shift).ok_or(Unreadable)?;
            if octet & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Unreadable)
    }

    fn text(&mut self) -> Result<String, Unreadable> {
        let length = usize::try_from(self.number()?).map_err(|_| Unreadable)?;
        String::from_utf8(self.octets(length)?.to_vec()).map_err(|_| Unreadable)
    }

    fn option(&mut self) -> Result<Option<String>, Unreadable> {
        match self.octet()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            _ => Err(Unreadable),
        }
    }

    fn outcome(&mut self) -> Result<Outcome, Unreadable> {
        match self.octet()? {
            0 => Ok(Outcome::Delivered),
            1 => Ok(Outcome::Rejected),
            2 => Ok(Outcome::Deferred),
            _ => Err(Unreadable),
        }
    }

    fn record(&mut self, id: u128, version: u8) -> Result<Record, Unreadable> {
        let date = jiff::Timestamp::from_microsecond(i64::from_le_bytes(self.array()?)).map_err(|_| Unreadable)?;
        let processing_time_us = self.number()?;
        let queue_us = self.number()?;
        let forward_us = self.number()?;
        let store_us = self.number()?;
        let size = self.number()?;
        let status = u16::try_from(self.number()?).map_err(|_| Unreadable)?;
        let outcome = self.outcome()?;
        let sender_ip = self.text()?;
        let message_id = self.option()?;
        let sender = self.text()?;
        let recipients = (0..self.number()?).map(|_| self.text()).collect::<Result<Vec<_>, _>>()?;
        let subject = self.option()?;
        let body = self.text()?;
        let content_type = self.option()?;
        let retry_after = if version >= 2 { self.option()? } else { None };
        Ok(Record {
            id: RecordId(id),
            date,
            sender_ip,
            message_id,
            sender,
            recipients,
            subject,
            server_response: ServerResponse { status, body, content_type, retry_after },
            processing_time_us,
            queue_us,
            forward_us,
            store_us,
            outcome,
            reply: self.text()?,
            size,
            tls: self.option()?,
            route: self.text()?,
            webhook_id: self.text()?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    pub(in crate::store) fn any_record() -> impl Strategy<Value = Record> {
        let texts = (
            ".{0,40}",
            proptest::option::of(".{0,60}"),
            ".{0,40}",
            proptest::collection::vec(".{0,40}", 0..5),
            proptest::option::of(".{0,80}"),
        );
        let answer = (
            any::<u16>(),
            ".{0,200}",
            proptest::option::of(".{0,30}"),
            proptest::option::of(".{0,9}"),
            prop_oneof![Just(Outcome::Delivered), Just(Outcome::Rejected), Just(Outcome::Deferred)],
        );
        let numbers = (any::<u128>(), 0i64..4_000_000_000_000_000, any::<[u64; 5]>());
        let rest = (".{0,60}", proptest::option::of(".{0,40}"), ".{0,20}", ".{0,40}");
        (texts, answer, numbers, rest).prop_map(|(texts, answer, numbers, rest)| {
            let [processing_time_us, queue_us, forward_us, store_us, size] = numbers.2;
            Record {
                id: RecordId(numbers.0),
                date: jiff::Timestamp::from_microsecond(numbers.1).unwrap(),
                sender_ip: texts.0,
                message_id: texts.1,
                sender: texts.2,
                recipients: texts.3,
                subject: texts.4,
                server_response: ServerResponse { status: answer.0, body: answer.1, content_type: answer.2, retry_after: answer.3 },
                processing_time_us,
                queue_us,
                forward_us,
                store_us,
                outcome: answer.4,
                reply: rest.0,
                size,
                tls: rest.1,
                route: rest.2,
                webhook_id: rest.3,
            }
        })
    }

    /// As a given version.
    pub(in crate::store) fn encode_as(record: &Record, version: u8) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, record, 0, version);
        out
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(record in any_record()) {
            let octets = encode(&record);
            prop_assert_eq!(date_us(&octets), Some(record.date.as_microsecond()));
            prop_assert_eq!(decode(record.id.0, &octets), Ok(record));
        }

        #[test]
        fn version_2_is_read_as_it_was(record in any_record()) {
            prop_assert_eq!(decode(record.id.0, &encode_as(&record, 2)), Ok(record));
        }

        #[test]
        fn version_1_is_read_without_what_it_had_not(mut record in any_record()) {
            let octets = encode_as(&record, 1);
            record.server_response.retry_after = None;
            prop_assert_eq!(decode(record.id.0, &octets), Ok(record));
        }

        #[test]
        fn a_flipped_bit_is_never_a_record(record in any_record(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut octets = encode(&record);
            let at = at.index(octets.len());
            octets[at] ^= 1 << bit;
            prop_assert_eq!(decode(record.id.0, &octets), Err(Unreadable));
        }

        #[test]
        fn octets_of_any_kind_do_not_panic(octets in proptest::collection::vec(any::<u8>(), 0..300), id in any::<u128>()) {
            prop_assert_eq!(decode(id, &octets), Err(Unreadable));
        }

        #[test]
        fn octets_with_a_right_checksum_do_not_panic(mut octets in proptest::collection::vec(any::<u8>(), 0..300), version in 0u8..5) {
            octets.insert(0, version);
            let sum = checksum(9, &octets);
            octets.extend_from_slice(&sum);
            drop(decode(9, &octets));
        }
    }

    #[test]
    fn a_value_under_a_foreign_id_and_a_newer_version_are_unreadable() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let record = any_record().new_tree(&mut runner).unwrap().current();
        assert_eq!(decode(record.id.0.wrapping_add(1), &encode(&record)), Err(Unreadable));
        assert_eq!(decode(record.id.0, &encode_as(&record, VERSION + 1)), Err(Unreadable));
    }
}
