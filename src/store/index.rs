//! Keys of the index: of what a record can be found by. Logs nothing.
//!
//! They are hashes under a secret: redb keeps deleted keys as separators, and a key that is an address could not be erased.

use super::encoding::{self, outcome_code};
use super::redact::{fold, trimmed};
use crate::mailbox;
use crate::record::{Outcome, Record};
use std::borrow::Cow;
use std::ops::Range;

/// Property, its hash, the record's id.
pub(super) type Key = [u8; 33];
pub(super) type Hash = [u8; 16];

/// What an index entry is of.
#[derive(Clone, Copy, PartialEq, Eq)]
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
    pub(super) fn hash(&self, property: Property, value: &str) -> Hash {
        let value: Cow<'_, str> = match property {
            Property::Sender | Property::Recipient => mailbox::canonical(trimmed(value)).into(),
            Property::MessageId => fold(trimmed(value)).into(),
            Property::Webhook | Property::Outcome => value.into(),
        };
        // In one go: a hasher has room for the longest of texts.
        let text = [&[property as u8], value.as_bytes()].concat();
        blake3::keyed_hash(&self.0, &text).as_bytes().first_chunk().copied().unwrap_or_default()
    }

    pub(super) fn outcome(&self, outcome: Outcome) -> Hash {
        let name = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Rejected => "rejected",
            Outcome::Deferred => "deferred",
        };
        self.hash(Property::Outcome, name)
    }

    /// Tells whether a file was indexed under this key, without giving it away.
    pub(super) fn check(&self) -> [u8; 8] {
        encoding::checksum(0, &self.0)
    }

    /// All keys of a record, each once, rising.
    pub(super) fn entries(&self, record: &Record) -> Vec<Key> {
        let id = record.id.0;
        let of = |property, value: &str| key(property, self.hash(property, value), id);
        let mut keys = vec![
            of(Property::Sender, &record.sender),
            of(Property::Webhook, &record.webhook_id),
            key(Property::Outcome, self.outcome(record.outcome), id),
        ];
        keys.extend(record.message_id.iter().map(|message| of(Property::MessageId, message)));
        keys.extend(record.recipients.iter().map(|recipient| of(Property::Recipient, recipient)));
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

pub(super) fn key(property: Property, hash: Hash, id: u128) -> Key {
    let mut key = [0; 33];
    // Big-endian, so that entries of one property stand in the order of time.
    for (octet, value) in key.iter_mut().zip([property as u8].into_iter().chain(hash).chain(id.to_be_bytes())) {
        *octet = value;
    }
    key
}

pub(super) fn keys(property: Property, hash: Hash, ids: &Range<u128>) -> Range<Key> {
    key(property, hash, ids.start)..key(property, hash, ids.end)
}

pub(super) fn id_of(key: &Key) -> u128 {
    key.last_chunk().copied().map_or(0, u128::from_be_bytes)
}

/// The message of an entry that says that an endpoint has taken or refused it.
pub(super) fn settled(key: &Key, outcome: u8) -> Option<Hash> {
    let [property, rest @ ..] = key;
    let settles = *property == Property::Webhook as u8 && outcome != outcome_code(Outcome::Deferred);
    if settles { rest.first_chunk().copied() } else { None }
}
