//! The tables of the store, their keys and small values. Logs nothing; what cannot be read is `Unreadable`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | id | encoding.rs |
//! | `index` | segment, keyed hash of one property (16 octets), id | outcome |
//! | `segments` | number | least and greatest id, records |
//! | `undelivered` | keyed hash of the Webhook-Id | attempts, first and last seen |
//! | `undelivered_by_last` | id of the last attempt | the same hash |
//! | `meta` | `format`, `state`, `index_key`, `journal` | the store's version; `State`; check of the key; journal.rs |
//!
//! Index keys are hashes under a secret: redb keeps deleted keys as separators, so an address as a key could not be erased. Hashes fall
//! anywhere, and in one large index each entry of a commit would touch another page; so the index is made of segments, each of the
//! entries of some thousand records that came together. The newest is in memory (tail.rs) and is written in one go of rising keys; a
//! search asks each. Only the entries of Webhook-Ids stand together, in a segment of their own: they are asked with every attempt that
//! is put off.

use super::encoding::{self, Reader, Unreadable, put_number};
use super::redact::{fold, trimmed};
use crate::record::{Outcome, Record};
use redb::TableDefinition;

pub(super) const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
pub(super) const INDEX: TableDefinition<'_, &[u8; 36], u8> = TableDefinition::new("index");
pub(super) const SEGMENTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("segments");
pub(super) const UNDELIVERED: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("undelivered");
pub(super) const BY_LAST: TableDefinition<'_, u128, &[u8; 16]> = TableDefinition::new("undelivered_by_last");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(super) const FORMAT: &str = "format";
pub(super) const STATE: &str = "state";
pub(super) const INDEX_KEY: &str = "index_key";
pub(super) const JOURNAL: &str = "journal";

/// The version of everything above. 1: records without `retry_after`, one index without segments. 2: the newest segment in the table,
/// a table of what was known of each Webhook-Id. 3: no journal.
pub(super) const STORE_VERSION: u32 = 4;
pub(super) const WITHOUT_JOURNAL: u32 = 3;

/// Index entries that make a segment full: some 10 000 records, 4 MiB of memory.
pub(super) const SEGMENT: u32 = 65_536;
/// The segment of the Webhook-Ids; others are numbered from 1.
pub(super) const GLOBAL: u32 = 0;

/// Octets that an index entry and a record's key take.
pub(super) const ENTRY_OCTETS: u64 = 37;
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
            Property::Sender | Property::Recipient => crate::mailbox::canonical(trimmed(value)),
            Property::MessageId => fold(trimmed(value)),
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
        let mut hashes = vec![self.hash(Property::Sender, &record.sender), self.outcome(record.outcome)];
        hashes.extend(record.message_id.iter().map(|id| self.hash(Property::MessageId, id)));
        hashes.extend(record.recipients.iter().map(|recipient| self.hash(Property::Recipient, recipient)));
        hashes.sort_unstable();
        hashes.dedup();
        let message = index_key(GLOBAL, self.hash(Property::Webhook, &record.webhook_id), record.id.0);
        hashes.into_iter().map(|hash| index_key(segment, hash, record.id.0)).chain([message]).collect()
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
        Self::read(&mut Reader(octets)).unwrap_or(Self { least: 0, greatest: u128::MAX, records: u32::MAX })
    }

    fn read(octets: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Ok(Self {
            least: u128::from_le_bytes(octets.array()?),
            greatest: u128::from_le_bytes(octets.array()?),
            records: u32::from_le_bytes(octets.array()?),
        })
    }

    /// One more record.
    pub(super) fn take(&mut self, id: u128) {
        self.least = self.least.min(id);
        self.greatest = self.greatest.max(id);
        self.records = self.records.saturating_add(1);
    }
}

/// The segment that takes new records; its entries are in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    pub(super) number: u32,
    pub(super) segment: Segment,
    /// That it has taken.
    pub(super) entries: u32,
}

impl Filling {
    pub(super) const fn new(number: u32) -> Self {
        Self { number, segment: Segment { least: u128::MAX, greatest: 0, records: 0 }, entries: 0 }
    }
}

impl Default for Filling {
    fn default() -> Self {
        Self::new(GLOBAL + 1)
    }
}

/// A segment that is full and is being moved into the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moving {
    pub(super) number: u32,
    /// None of its records has a smaller id.
    pub(super) least: u128,
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
    pub(super) filling: Filling,
    pub(super) moving: Option<Moving>,
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.newest_id.to_le_bytes().to_vec();
        for number in [self.lead_ms, self.lag_ms, self.live_octets, self.stale_since_ms] {
            put_number(&mut out, number);
        }
        let Filling { number, segment, entries } = &self.filling;
        put_number(&mut out, u64::from(*number));
        put_number(&mut out, u64::from(*entries));
        out.extend_from_slice(&segment.encode());
        if let Some(Moving { number, least }) = &self.moving {
            put_number(&mut out, u64::from(*number));
            out.extend_from_slice(&least.to_le_bytes());
        }
        let sum = encoding::checksum(0, &out);
        out.extend_from_slice(&sum);
        out
    }

    fn checked(octets: &[u8]) -> Result<Reader<'_>, Unreadable> {
        let (body, sum) = octets.len().checked_sub(8).and_then(|at| octets.split_at_checked(at)).ok_or(Unreadable)?;
        if encoding::checksum(0, body) == sum { Ok(Reader(body)) } else { Err(Unreadable) }
    }

    /// The first field alone, which every version has.
    pub(super) fn newest_id(octets: &[u8]) -> Result<u128, Unreadable> {
        Ok(u128::from_le_bytes(Self::checked(octets)?.array()?))
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = Self::checked(octets)?;
        Ok(Self {
            newest_id: u128::from_le_bytes(rest.array()?),
            lead_ms: rest.number()?,
            lag_ms: rest.number()?,
            live_octets: rest.number()?,
            stale_since_ms: rest.number()?,
            filling: {
                let (number, entries) = (rest.small_number()?, rest.small_number()?);
                Filling { number, segment: Segment::read(&mut rest)?, entries }
            },
            moving: if rest.0.is_empty() {
                None
            } else {
                Some(Moving { number: rest.small_number()?, least: u128::from_le_bytes(rest.array()?) })
            },
        })
    }

    /// Whether records of a segment have their entries in memory, or some of them.
    pub(super) fn is_in_tail(&self, segment: u32) -> bool {
        self.filling.number == segment || self.moving.is_some_and(|moving| moving.number == segment)
    }

    /// Records whose entries are in memory have ids from here on.
    pub(super) fn tail_least(&self) -> u128 {
        self.moving.map_or(self.filling.segment.least, |moving| moving.least.min(self.filling.segment.least))
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
    Undelivered([u8; 16]),
    ByLast(u128),
}
