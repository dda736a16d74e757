//! The tables of the store, their keys and small values. Logs nothing; what cannot be read is `Unreadable`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | id | encoding.rs |
//! | `index` | segment, keyed hash of one property (16 octets), id | outcome |
//! | `segments` | number | least and greatest id, records |
//! | `messages` | keyed hash of the Webhook-Id | records, and whether one of them was taken or refused |
//! | `undelivered` | the same hash | attempts, first and last seen |
//! | `undelivered_by_last` | id of the last attempt | the same hash |
//! | `meta` | `format`, `state`, `index_key` | the store's version; `State`; check of the key |
//!
//! Index keys are hashes under a secret: redb keeps deleted keys as separators, so an address as a key could not be erased. Hashes fall
//! anywhere, and in one large index each entry of a commit would touch another page; so the index is made of segments, each of the
//! entries of some thousand records that came together. Writing stays in the newest, whose pages are at hand; a search asks each.

use super::encoding::{self, Reader, Unreadable, put_number};
use super::redact::{fold, trimmed};
use crate::record::{Outcome, Record};
use redb::TableDefinition;

pub(super) const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
pub(super) const INDEX: TableDefinition<'_, &[u8; 36], u8> = TableDefinition::new("index");
pub(super) const SEGMENTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("segments");
pub(super) const MESSAGES: TableDefinition<'_, &[u8; 16], &[u8; 5]> = TableDefinition::new("messages");
pub(super) const UNDELIVERED: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("undelivered");
pub(super) const BY_LAST: TableDefinition<'_, u128, &[u8; 16]> = TableDefinition::new("undelivered_by_last");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(super) const FORMAT: &str = "format";
pub(super) const STATE: &str = "state";
pub(super) const INDEX_KEY: &str = "index_key";

/// The version of everything above. 1: records without `retry_after`, one index without segments.
pub(super) const STORE_VERSION: u32 = 2;

/// Records whose index entries make one segment: few enough that its pages stay in memory.
pub(super) const SEGMENT: u32 = 16_384;

/// Octets that an index entry, a message and a record's key take.
pub(super) const ENTRY_OCTETS: u64 = 37;
pub(super) const MESSAGE_OCTETS: u64 = 21;
pub(super) const KEY_OCTETS: u64 = 16;

/// What an index entry is of.
#[derive(Clone, Copy)]
pub(super) enum Property {
    Sender = 1,
    Recipient = 2,
    MessageId = 3,
    Webhook = 4,
    Outcome = 5,
}

/// The secret under which index keys are made.
#[derive(Clone, Copy)]
pub(super) struct IndexKey(pub(super) [u8; 32]);

impl IndexKey {
    pub(super) fn hash(&self, property: Property, value: &str) -> [u8; 16] {
        let folded = match property {
            Property::Sender | Property::Recipient | Property::MessageId => fold(trimmed(value)),
            Property::Webhook | Property::Outcome => value.to_owned(),
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[property as u8]);
        hasher.update(folded.as_bytes());
        hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
    }

    pub(super) fn outcome(&self, outcome: Outcome) -> [u8; 16] {
        self.hash(Property::Outcome, outcome_name(outcome))
    }

    /// Tells whether a store was indexed under this key, without giving it away.
    pub(super) fn check(&self) -> [u8; 8] {
        encoding::checksum(0, &self.0)
    }

    /// All index keys of a record, each once.
    pub(super) fn entries(&self, record: &Record, segment: u32) -> Vec<[u8; 36]> {
        let mut hashes = vec![
            self.hash(Property::Sender, &record.sender),
            self.hash(Property::Webhook, &record.webhook_id),
            self.outcome(record.outcome),
        ];
        hashes.extend(record.message_id.iter().map(|id| self.hash(Property::MessageId, id)));
        hashes.extend(record.recipients.iter().map(|recipient| self.hash(Property::Recipient, recipient)));
        hashes.sort_unstable();
        hashes.dedup();
        hashes.into_iter().map(|hash| index_key(segment, hash, record.id.0)).collect()
    }
}

pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Rejected => "rejected",
        Outcome::Deferred => "deferred",
    }
}

pub(super) fn index_key(segment: u32, hash: [u8; 16], id: u128) -> [u8; 36] {
    let mut key = [0; 36];
    // Big-endian, so that entries of one property stand in the order of time.
    for (octet, value) in key.iter_mut().zip(segment.to_be_bytes().into_iter().chain(hash).chain(id.to_be_bytes())) {
        *octet = value;
    }
    key
}

pub(super) fn index_id(key: &[u8; 36]) -> u128 {
    key.last_chunk().copied().map_or(0, u128::from_be_bytes)
}

/// One segment of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Ids are in here; records that went since then do not narrow it.
    pub(super) least: u128,
    pub(super) greatest: u128,
    pub(super) records: u32,
}

impl Segment {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.least.to_le_bytes().to_vec();
        out.extend_from_slice(&self.greatest.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out
    }

    /// One that cannot be read may hold anything.
    pub(super) fn decode(octets: &[u8]) -> Self {
        let mut rest = Reader(octets);
        let mut read = || {
            Ok::<_, Unreadable>(Self {
                least: u128::from_le_bytes(rest.array()?),
                greatest: u128::from_le_bytes(rest.array()?),
                records: u32::from_le_bytes(rest.array()?),
            })
        };
        read().unwrap_or(Self { least: 0, greatest: u128::MAX, records: u32::MAX })
    }
}

/// What is known of the records of one Webhook-Id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) records: u32,
    /// One of them was taken or refused; stays when that one has expired.
    pub(super) settled: bool,
}

impl Message {
    pub(super) fn encode(self) -> [u8; 5] {
        let [a, b, c, d] = self.records.to_le_bytes();
        [a, b, c, d, u8::from(self.settled)]
    }

    pub(super) fn decode([a, b, c, d, settled]: [u8; 5]) -> Self {
        Self { records: u32::from_le_bytes([a, b, c, d]), settled: settled != 0 }
    }
}

/// What the store knows of itself; kept in every commit, so that opening reads no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The greatest id ever given.
    pub(super) newest_id: u128,
    /// The most that an id's time was ahead of its record's date, in milliseconds: how far a query by time looks around.
    pub(super) lead_ms: u64,
    /// The most that it was behind.
    pub(super) lag_ms: u64,
    /// Octets of all keys and values: the measure for `max_size`.
    pub(super) live_octets: u64,
    /// Since when there are octets in the file that should not be; 0: there are none.
    pub(super) stale_since_ms: u64,
    /// The segment that takes new records, and how many it has taken.
    pub(super) segment: u32,
    pub(super) segment_filled: u32,
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.newest_id.to_le_bytes().to_vec();
        for number in
            [self.lead_ms, self.lag_ms, self.live_octets, self.stale_since_ms, u64::from(self.segment), u64::from(self.segment_filled)]
        {
            put_number(&mut out, number);
        }
        let sum = encoding::checksum(0, &out);
        out.extend_from_slice(&sum);
        out
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Self, Unreadable> {
        let (body, sum) = octets.len().checked_sub(8).and_then(|at| octets.split_at_checked(at)).ok_or(Unreadable)?;
        if encoding::checksum(0, body) != sum {
            return Err(Unreadable);
        }
        let mut rest = Reader(body);
        Ok(Self {
            newest_id: u128::from_le_bytes(rest.array()?),
            lead_ms: rest.number()?,
            lag_ms: rest.number()?,
            live_octets: rest.number()?,
            stale_since_ms: rest.number()?,
            segment: u32::try_from(rest.number()?).map_err(|_| Unreadable)?,
            segment_filled: u32::try_from(rest.number()?).map_err(|_| Unreadable)?,
        })
    }

    /// Takes a record's id and date into account.
    pub(super) fn see(&mut self, record: &Record) {
        self.newest_id = self.newest_id.max(record.id.0);
        let id_ms = i128::try_from(super::id::milliseconds(record.id.0)).unwrap_or(i128::MAX);
        let ahead = id_ms - i128::from(record.date.as_millisecond());
        self.lead_ms = self.lead_ms.max(u64::try_from(ahead.max(0)).unwrap_or(u64::MAX));
        self.lag_ms = self.lag_ms.max(u64::try_from((-ahead).max(0)).unwrap_or(u64::MAX));
    }
}

/// How often a message was tried that no endpoint has taken or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) attempts: u64,
    pub(super) first_seen_us: i64,
    pub(super) last_seen_us: i64,
    pub(super) last_id: u128,
}

impl Tries {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.last_id.to_le_bytes().to_vec();
        out.extend_from_slice(&self.first_seen_us.to_le_bytes());
        out.extend_from_slice(&self.last_seen_us.to_le_bytes());
        put_number(&mut out, self.attempts);
        let sum = encoding::checksum(1, &out);
        out.extend_from_slice(&sum);
        out
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Self, Unreadable> {
        let (body, sum) = octets.len().checked_sub(8).and_then(|at| octets.split_at_checked(at)).ok_or(Unreadable)?;
        if encoding::checksum(1, body) != sum {
            return Err(Unreadable);
        }
        let mut rest = Reader(body);
        Ok(Self {
            last_id: u128::from_le_bytes(rest.array()?),
            first_seen_us: i64::from_le_bytes(rest.array()?),
            last_seen_us: i64::from_le_bytes(rest.array()?),
            attempts: rest.number()?,
        })
    }
}

/// One key that a transaction touched, for the rewrite that runs beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Record(u128),
    Index([u8; 36]),
    Segment(u32),
    Message([u8; 16]),
    Undelivered([u8; 16]),
    ByLast(u128),
}
