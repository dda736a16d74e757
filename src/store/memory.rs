//! What was acknowledged lately, until a file has it: records as octets, and their index. Logs nothing.

use super::encoding;
use super::index::{Hash, IndexKey, Key, Property, id_of, keys, settled};
use crate::record::Record;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// A record with its commit number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) id: u128,
    pub(super) commit: u64,
    pub(super) octets: Arc<[u8]>,
}

/// Records that one file will have.
#[derive(Debug)]
pub(super) struct Batch {
    /// The numbers up to here are in what was before.
    pub(super) after: u64,
    /// The numbers up to here are in it or belong to nothing.
    pub(super) through: u64,
    pub(super) newest_id: u128,
    pub(super) records: BTreeMap<u128, (u64, Arc<[u8]>)>,
    pub(super) index: BTreeMap<Key, u8>,
    /// In the order of their numbers.
    pub(super) commits: Vec<(u64, u128)>,
    pub(super) octets: usize,
    /// The least date.
    pub(super) oldest_us: i64,
    /// When the first one came.
    pub(super) since: Option<Instant>,
}

impl Batch {
    pub(super) fn new(after: u64) -> Self {
        Self {
            after,
            through: after,
            newest_id: 0,
            records: BTreeMap::new(),
            index: BTreeMap::new(),
            commits: Vec::new(),
            octets: 0,
            oldest_us: i64::MAX,
            since: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.through == self.after
    }

    /// One more; its number is above all that are there.
    pub(super) fn take(&mut self, entry: Entry, record: &Record, key: &IndexKey) {
        let outcome = encoding::outcome_code(record.outcome);
        self.through = self.through.max(entry.commit);
        self.newest_id = self.newest_id.max(entry.id);
        self.octets += entry.octets.len();
        self.oldest_us = self.oldest_us.min(record.date.as_microsecond());
        self.index.extend(key.entries(record).into_iter().map(|key| (key, outcome)));
        self.commits.push((entry.commit, entry.id));
        self.records.insert(entry.id, (entry.commit, entry.octets));
    }

    /// Ids of a property's records, newest first.
    pub(super) fn ids(&self, property: Property, hash: Hash, ids: &Range<u128>) -> impl Iterator<Item = u128> {
        self.index.range(keys(property, hash, ids)).rev().map(|(key, _)| id_of(key))
    }

    /// Whether it has a record by which an endpoint has taken or refused the message.
    pub(super) fn settles(&self, message: Hash) -> bool {
        self.index.range(keys(Property::Webhook, message, &(0..u128::MAX))).any(|(key, outcome)| settled(key, *outcome).is_some())
    }
}
