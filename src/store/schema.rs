//! The tables of the store, their keys and small values. Logs nothing; what cannot be read is `Unreadable`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | id | encoding.rs |
//! | `index` | keyed hash of one property (16 octets), id | outcome |
//! | `undelivered` | keyed hash of the Webhook-Id | attempts, first and last seen |
//! | `undelivered_by_last` | id of the last attempt | the hash above |
//! | `meta` | `format`, `state`, `index_key` | the store's version; `State`; check of the key |
//!
//! Index keys are hashes under a secret: redb keeps deleted keys as separators, so an address as a key could not be erased.

use super::encoding::{self, Reader, Unreadable, put_number};
use super::redact::{fold, trimmed};
use crate::record::{Outcome, Record};
use redb::TableDefinition;

pub(super) const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
pub(super) const INDEX: TableDefinition<'_, &[u8; 32], u8> = TableDefinition::new("index");
pub(super) const UNDELIVERED: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("undelivered");
pub(super) const BY_LAST: TableDefinition<'_, u128, &[u8; 16]> = TableDefinition::new("undelivered_by_last");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(super) const FORMAT: &str = "format";
pub(super) const STATE: &str = "state";
pub(super) const INDEX_KEY: &str = "index_key";

/// The version of everything above. 1: records without `retry_after`, no `state`.
pub(super) const STORE_VERSION: u32 = 2;

/// Octets that an index entry and a record's key take.
pub(super) const ENTRY_OCTETS: u64 = 33;
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
    pub(super) fn entries(&self, record: &Record) -> Vec<[u8; 32]> {
        let mut hashes = vec![
            self.hash(Property::Sender, &record.sender),
            self.hash(Property::Webhook, &record.webhook_id),
            self.outcome(record.outcome),
        ];
        hashes.extend(record.message_id.iter().map(|id| self.hash(Property::MessageId, id)));
        hashes.extend(record.recipients.iter().map(|recipient| self.hash(Property::Recipient, recipient)));
        hashes.sort_unstable();
        hashes.dedup();
        hashes.into_iter().map(|hash| index_key(hash, record.id.0)).collect()
    }
}

pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Rejected => "rejected",
        Outcome::Deferred => "deferred",
    }
}

pub(super) fn index_key(hash: [u8; 16], id: u128) -> [u8; 32] {
    let mut key = [0; 32];
    let (front, back) = key.split_at_mut(16);
    front.copy_from_slice(&hash);
    // Big-endian, so that entries of one property stand in the order of time.
    back.copy_from_slice(&id.to_be_bytes());
    key
}

pub(super) fn index_id(key: &[u8; 32]) -> u128 {
    key.last_chunk().copied().map_or(0, u128::from_be_bytes)
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
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.newest_id.to_le_bytes().to_vec();
        for number in [self.lead_ms, self.lag_ms, self.live_octets, self.stale_since_ms] {
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
    Index([u8; 32]),
    Undelivered([u8; 16]),
    ByLast(u128),
}
