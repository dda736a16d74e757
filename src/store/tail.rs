//! The newest index entries, in memory until their segment is full; then they are moved into the table in the order of their keys, some
//! with each commit. Hashes fall anywhere: written as they come, each would make a commit copy a page of its own.
//!
//! Nothing is lost with the memory: a record names its segment, and the state says from which id on records of the two segments stand that
//! may be in here. An entry that is moved once more is the same entry. Logs nothing.

use super::schema::{GLOBAL, IndexKey, State, index_id, index_key};
use super::{encoding, tables};
use redb::{ReadableTable, Table};
use std::collections::BTreeMap;
use std::ops::Range;

/// An index key and the outcome that stands with it.
pub(super) type Entry = ([u8; 36], u8);

/// What a transaction does to the tail; done when it is durable.
#[derive(Default)]
pub(super) struct TailChanges {
    /// In their order: an entry of a segment's records that came or, without an outcome, went.
    entries: Vec<(u32, [u8; 36], Option<u8>)>,
    /// Moved into the table, of this segment.
    moved: Vec<[u8; 36]>,
    moved_from: u32,
}

impl TailChanges {
    /// Room for the entries of so many records with one recipient each.
    pub(super) fn reserve(&mut self, records: usize) {
        self.entries.reserve(records.saturating_mul(5));
    }

    pub(super) fn enter(&mut self, segment: u32, key: [u8; 36], outcome: u8) {
        self.entries.push((segment, key, Some(outcome)));
    }

    pub(super) fn leave(&mut self, segment: u32, key: [u8; 36]) {
        self.entries.push((segment, key, None));
    }

    pub(super) fn set_moved(&mut self, segment: u32, moved: &[Entry]) {
        self.moved_from = segment;
        self.moved.extend(moved.iter().map(|(key, _)| *key));
    }

    /// Outcomes of entries in a range that this transaction has made.
    pub(super) fn outcomes(&self, keys: &Range<[u8; 36]>) -> impl Iterator<Item = u8> {
        self.entries.iter().filter(move |(_, key, _)| keys.contains(key)).filter_map(|(_, _, outcome)| *outcome)
    }
}

/// Entries that no table has yet, by the segment of their records: of the one that is filling, and of the one before while it is moved.
#[derive(Debug, Default)]
pub(super) struct Tail {
    parts: BTreeMap<u32, BTreeMap<[u8; 36], u8>>,
    /// Entries of the transaction before: twice as many are moved with the next, so that one segment has gone before the next is full.
    pace: usize,
}

/// Moved with a transaction besides.
const MOVED_LEAST: usize = 8;

impl Tail {
    /// What a store that is opened has in it.
    pub(super) fn load(records: &Table<'_, u128, &'static [u8]>, key: IndexKey, state: &State) -> tables::Result<Self> {
        let mut tail = Self::default();
        for item in records.range(state.tail_least()..)? {
            let (id, octets) = item?;
            // Records of other segments, come late, are not decoded.
            if !encoding::segment(octets.value()).is_some_and(|segment| state.is_in_tail(segment)) {
                continue;
            }
            // A damaged one cannot be found by its properties any more; whoever meets it says so.
            if let Ok((record, segment)) = encoding::decode_with_segment(id.value(), octets.value()) {
                let outcome = encoding::outcome_code(record.outcome);
                tail.parts.entry(segment).or_default().extend(key.entries(&record, segment).into_iter().map(|entry| (entry, outcome)));
            }
        }
        Ok(tail)
    }

    /// The next ones to be moved, in the order of their keys; all that are left of the segment if the next is full.
    pub(super) fn next_to_move(&self, segment: u32, next_is_full: bool) -> Vec<Entry> {
        let most = if next_is_full { usize::MAX } else { self.pace.saturating_mul(2).saturating_add(MOVED_LEAST) };
        self.parts.get(&segment).into_iter().flatten().take(most).map(|(key, outcome)| (*key, *outcome)).collect()
    }

    pub(super) fn is_empty_after(&self, segment: u32, moved: usize) -> bool {
        self.parts.get(&segment).is_none_or(|part| part.len() <= moved)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.values().map(BTreeMap::len).sum()
    }

    pub(super) fn apply(&mut self, changes: &TailChanges) {
        if let Some(part) = self.parts.get_mut(&changes.moved_from) {
            for key in &changes.moved {
                part.remove(key);
            }
        }
        for (segment, key, outcome) in &changes.entries {
            let part = self.parts.entry(*segment).or_default();
            match outcome {
                Some(outcome) => part.insert(*key, *outcome),
                None => part.remove(key),
            };
        }
        self.parts.retain(|_, part| !part.is_empty());
        self.pace = changes.entries.len();
    }

    /// Outcomes of the records of one Webhook-Id.
    pub(super) fn outcomes(&self, keys: &Range<[u8; 36]>) -> impl Iterator<Item = u8> {
        self.parts.values().flat_map(move |part| part.range(keys.clone())).map(|(_, outcome)| *outcome)
    }

    /// Ids of a property's records, newest first.
    pub(super) fn ids(&self, hash: [u8; 16], low: u128, high: u128, most: usize) -> Vec<u128> {
        self.newest(most, |segment| index_key(segment, hash, low)..index_key(segment, hash, high))
    }

    /// Ids of the records of one Webhook-Id, newest first.
    pub(super) fn attempts(&self, hash: [u8; 16], most: usize) -> Vec<u128> {
        self.newest(most, |_| index_key(GLOBAL, hash, 0)..index_key(GLOBAL, hash, u128::MAX))
    }

    fn newest(&self, most: usize, keys: impl Fn(u32) -> Range<[u8; 36]>) -> Vec<u128> {
        let parts = self.parts.iter();
        let mut ids: Vec<_> =
            parts.flat_map(|(segment, part)| part.range(keys(*segment)).rev().take(most)).map(|(key, _)| index_id(key)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids
    }
}
