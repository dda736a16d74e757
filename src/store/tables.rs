//! The one place that changes the tables: a record goes in or out with its index entries, its share of the summary and what it means
//! for its message being undelivered. Logs nothing; errors are redb's.

use super::encoding::{self, Unreadable, outcome_code};
use super::schema::{
    BY_LAST, Change, ENTRY_OCTETS, Filling, GLOBAL, INDEX, IndexKey, KEY_OCTETS, META, Moving, Property, RECORDS, SEGMENTS, STATE, Segment,
    State, Tries, UNDELIVERED, index_key,
};
use super::tail::{Tail, TailChanges};
use crate::record::{Outcome, Record};
use redb::{CursorError, Key, ReadableTable, ReadableTableMetadata, Table, Value, WriteTransaction};
use std::ops::Bound;

pub(super) type Result<T> = std::result::Result<T, redb::Error>;

/// All tables, open in one write transaction.
pub(super) struct Tables<'txn> {
    records: Table<'txn, u128, &'static [u8]>,
    index: Table<'txn, &'static [u8; 36], u8>,
    segments: Table<'txn, u32, &'static [u8]>,
    undelivered: Table<'txn, &'static [u8; 16], &'static [u8]>,
    by_last: Table<'txn, u128, &'static [u8; 16]>,
    meta: Table<'txn, &'static str, &'static [u8]>,
    key: IndexKey,
    /// As it was before this transaction.
    tail: &'txn Tail,
    pub(super) state: State,
    /// A rewrite wants to know what changes.
    pub(super) watched: bool,
    changes: Vec<Change>,
    tail_changes: TailChanges,
}

/// What is true when a transaction is durable.
pub(super) struct Outcomes {
    pub(super) state: State,
    pub(super) changes: Vec<Change>,
    pub(super) tail_changes: TailChanges,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction, key: IndexKey, tail: &'txn Tail, state: State) -> Result<Self> {
        Ok(Self {
            records: txn.open_table(RECORDS)?,
            index: txn.open_table(INDEX)?,
            segments: txn.open_table(SEGMENTS)?,
            undelivered: txn.open_table(UNDELIVERED)?,
            by_last: txn.open_table(BY_LAST)?,
            meta: txn.open_table(META)?,
            key,
            tail,
            state,
            watched: false,
            changes: Vec::new(),
            tail_changes: TailChanges::default(),
        })
    }

    /// Moves entries from the memory into the index, and begins a new segment when one has so many entries: first in a transaction
    /// that brings records.
    pub(super) fn advance(&mut self, full: u32) -> Result<()> {
        let is_full = self.state.filling.entries >= full;
        if let Some(Moving { number, .. }) = self.state.moving {
            let entries = self.tail.next_to_move(number, is_full);
            // Those of Webhook-Ids fall anywhere, the others behind all that is there.
            let (anywhere, behind) = entries.split_at(entries.partition_point(|(key, _)| key.starts_with(&GLOBAL.to_be_bytes())));
            for (key, outcome) in anywhere {
                self.put_entry(key, *outcome)?;
            }
            let new = insert_rising(&mut self.index, &behind.iter().map(|(key, outcome)| (key, *outcome)).collect::<Vec<_>>())?;
            self.count_entries(new);
            entries.iter().for_each(|(key, _)| self.note(Change::Index(*key)));
            if self.tail.is_empty_after(number, entries.len()) {
                self.state.moving = None;
            }
            self.tail_changes.set_moved(number, &entries);
        }
        if is_full {
            let Filling { number, segment, .. } = self.state.filling;
            if segment.records > 0 {
                self.segments.insert(number, segment.encode().as_slice())?;
                self.note(Change::Segment(number));
            }
            self.state.moving = Some(Moving { number, least: segment.least });
            self.state.filling = Filling::new(number.saturating_add(1));
        }
        Ok(())
    }

    /// New records, in any order.
    pub(super) fn insert<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<()> {
        let number = records.size_hint().0;
        let mut values = Vec::with_capacity(number);
        self.tail_changes.reserve(number);
        for record in records {
            let segment = self.count_in_segment(record.id.0);
            let octets = encoding::encode(record, segment);
            self.count_octets(&octets);
            values.push((record.id.0, octets));
            self.enter(record, segment)?;
            self.count_message(record)?;
        }
        values.sort_unstable_by_key(|(id, _)| *id);
        values.iter().for_each(|(id, _)| self.note(Change::Record(*id)));
        insert_rising(&mut self.records, &values.iter().map(|(id, octets)| (*id, octets.as_slice())).collect::<Vec<_>>())?;
        Ok(())
    }

    /// Takes a record out, with everything that points to it; whether it was there.
    pub(super) fn remove(&mut self, id: u128) -> Result<bool> {
        let Some(old) = self.records.remove(id)?.map(|octets| octets.value().to_vec()) else {
            return Ok(false);
        };
        self.note(Change::Record(id));
        self.state.live_octets = self.state.live_octets.saturating_sub(KEY_OCTETS + old.len() as u64);
        if let Ok((record, segment)) = encoding::decode_with_segment(id, &old) {
            for entry in self.key.entries(&record, segment) {
                self.leave(entry, segment)?;
            }
            self.leave_segment(segment)?;
        }
        // The last attempt that is known of an undelivered message: the message is not known any more.
        let message = self.by_last.get(id)?.map(|hash| *hash.value());
        if let Some(message) = message {
            self.settle(message)?;
        }
        self.by_last.remove(id)?;
        self.note(Change::ByLast(id));
        Ok(true)
    }

    /// The same record with other texts.
    pub(super) fn replace(&mut self, old: &Record, new: &Record) -> Result<()> {
        let stored = self.records.get(new.id.0)?.and_then(|octets| encoding::decode_with_segment(new.id.0, octets.value()).ok());
        let segment = stored.map_or(0, |(_, segment)| segment);
        for entry in self.key.entries(old, segment) {
            self.leave(entry, segment)?;
        }
        self.put(new.id.0, &encoding::encode(new, segment))?;
        self.enter(new, segment)
    }

    pub(super) fn record(&self, id: u128) -> Result<Option<std::result::Result<Record, Unreadable>>> {
        Ok(self.records.get(id)?.map(|octets| encoding::decode(id, octets.value())))
    }

    /// Ids from `start` on, oldest first, with the record where it can be read.
    pub(super) fn oldest(&self, start: u128, most: usize) -> Result<Vec<(u128, std::result::Result<Record, Unreadable>)>> {
        let range = self.records.range(start..)?.take(most);
        range
            .map(|item| item.map(|(id, octets)| (id.value(), encoding::decode(id.value(), octets.value()))))
            .map(|item| Ok(item?))
            .collect()
    }

    pub(super) fn records(&self) -> Result<u64> {
        Ok(self.records.len()?)
    }

    pub(super) fn undelivered(&self) -> Result<u64> {
        Ok(self.undelivered.len()?)
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.meta.get(name)?.map(|octets| octets.value().to_vec()))
    }

    pub(super) fn set_meta(&mut self, name: &str, octets: &[u8]) -> Result<()> {
        self.meta.insert(name, octets)?;
        Ok(())
    }

    pub(super) fn remove_meta(&mut self, name: &str) -> Result<()> {
        self.meta.remove(name)?;
        Ok(())
    }

    /// The greatest id that has a record.
    pub(super) fn newest(&self) -> Result<u128> {
        Ok(self.records.last()?.map_or(0, |(id, _)| id.value()))
    }

    /// Without writing the state: for a step of a work whose end writes that.
    pub(super) fn step(self) -> Outcomes {
        Outcomes { state: self.state, changes: self.changes, tail_changes: self.tail_changes }
    }

    /// Writes the state; last in every transaction.
    pub(super) fn finish(mut self) -> Result<Outcomes> {
        let octets = self.state.encode();
        self.set_meta(STATE, &octets)?;
        Ok(self.step())
    }

    /// The entries that have to be in memory.
    pub(super) fn load_tail(&self, state: &State) -> Result<Tail> {
        Tail::load(&self.records, self.key, state)
    }

    /// Writes a record anew, in the present encoding, and counts it as if it had not been there: for a store whose state or
    /// index is lost or of an older version.
    pub(super) fn count_again(&mut self, record: &Record) -> Result<()> {
        let segment = self.count_in_segment(record.id.0);
        let octets = encoding::encode(record, segment);
        self.records.insert(record.id.0, octets.as_slice())?;
        self.count_octets(&octets);
        self.enter(record, segment)?;
        self.count_message(record)
    }

    fn note(&mut self, change: Change) {
        if self.watched {
            self.changes.push(change);
        }
    }

    fn put(&mut self, id: u128, octets: &[u8]) -> Result<()> {
        let old = self.records.insert(id, octets)?.map_or(0, |old| KEY_OCTETS + old.value().len() as u64);
        self.state.live_octets = self.state.live_octets.saturating_sub(old);
        self.count_octets(octets);
        self.note(Change::Record(id));
        Ok(())
    }

    fn count_octets(&mut self, record: &[u8]) {
        self.state.live_octets = self.state.live_octets.saturating_add(KEY_OCTETS + record.len() as u64);
    }

    fn enter(&mut self, record: &Record, segment: u32) -> Result<()> {
        self.state.see(record);
        let outcome = outcome_code(record.outcome);
        let entries = self.key.entries(record, segment);
        if self.state.filling.number == segment {
            let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            self.state.filling.entries = self.state.filling.entries.saturating_add(count);
        }
        for entry in entries {
            if self.state.is_in_tail(segment) {
                self.tail_changes.enter(segment, entry, outcome);
            } else {
                self.put_entry(&entry, outcome)?;
                self.note(Change::Index(entry));
            }
        }
        Ok(())
    }

    fn put_entry(&mut self, entry: &[u8; 36], outcome: u8) -> Result<()> {
        let is_new = self.index.insert(entry, outcome)?.is_none();
        self.count_entries(usize::from(is_new));
        Ok(())
    }

    fn count_entries(&mut self, new: usize) {
        self.state.live_octets = self.state.live_octets.saturating_add(ENTRY_OCTETS.saturating_mul(new as u64));
    }

    /// An entry may be in memory, in the table, or in both after a restart.
    fn leave(&mut self, entry: [u8; 36], segment: u32) -> Result<()> {
        if self.index.remove(&entry)?.is_some() {
            self.state.live_octets = self.state.live_octets.saturating_sub(ENTRY_OCTETS);
            self.note(Change::Index(entry));
        }
        if self.state.is_in_tail(segment) {
            self.tail_changes.leave(segment, entry);
        }
        Ok(())
    }

    /// The segment for one more record.
    fn count_in_segment(&mut self, id: u128) -> u32 {
        self.state.filling.segment.take(id);
        self.state.filling.number
    }

    fn leave_segment(&mut self, number: u32) -> Result<()> {
        if self.state.filling.number == number {
            self.state.filling.segment.records = self.state.filling.segment.records.saturating_sub(1);
            return Ok(());
        }
        let Some(old) = self.segments.get(number)?.map(|octets| Segment::decode(octets.value())) else {
            return Ok(());
        };
        if old.records > 1 {
            let new = Segment { records: old.records - 1, ..old };
            self.segments.insert(number, new.encode().as_slice())?;
        } else {
            self.segments.remove(number)?;
        }
        self.note(Change::Segment(number));
        Ok(())
    }

    /// What a record that has been entered means for its message being undelivered.
    fn count_message(&mut self, record: &Record) -> Result<()> {
        let hash = self.key.hash(Property::Webhook, &record.webhook_id);
        if record.outcome != Outcome::Deferred || self.is_settled(hash)? { self.settle(hash) } else { self.count_try(record, hash) }
    }

    /// One of a message's records was taken or refused.
    fn is_settled(&self, hash: [u8; 16]) -> Result<bool> {
        let keys = index_key(GLOBAL, hash, 0)..index_key(GLOBAL, hash, u128::MAX);
        let settles = |outcome| outcome != outcome_code(Outcome::Deferred);
        if self.tail.outcomes(&keys).any(settles) || self.tail_changes.outcomes(&keys).any(settles) {
            return Ok(true);
        }
        for entry in self.index.range::<&[u8; 36]>(&keys.start..&keys.end)? {
            if settles(entry?.1.value()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One more attempt at a message that none has got through with.
    fn count_try(&mut self, record: &Record, message: [u8; 16]) -> Result<()> {
        let seen = record.date.as_microsecond();
        let id = record.id.0;
        let tries = match self.tries(message)? {
            Some(Ok(old)) => {
                self.by_last.remove(old.last_id)?;
                self.note(Change::ByLast(old.last_id));
                Tries {
                    attempts: old.attempts.saturating_add(1),
                    first_seen_us: old.first_seen_us.min(seen),
                    last_seen_us: old.last_seen_us.max(seen),
                    last_id: old.last_id.max(id),
                }
            }
            None | Some(Err(Unreadable)) => Tries { attempts: 1, first_seen_us: seen, last_seen_us: seen, last_id: id },
        };
        self.undelivered.insert(&message, tries.encode().as_slice())?;
        self.by_last.insert(tries.last_id, &message)?;
        self.note(Change::Undelivered(message));
        self.note(Change::ByLast(tries.last_id));
        Ok(())
    }

    fn tries(&self, message: [u8; 16]) -> Result<Option<std::result::Result<Tries, Unreadable>>> {
        Ok(self.undelivered.get(&message)?.map(|octets| Tries::decode(octets.value())))
    }

    /// Not undelivered any more.
    fn settle(&mut self, message: [u8; 16]) -> Result<()> {
        if self.undelivered.is_empty()? {
            return Ok(());
        }
        let Some(old) = self.undelivered.remove(&message)?.map(|octets| Tries::decode(octets.value())) else {
            return Ok(());
        };
        self.note(Change::Undelivered(message));
        if let Ok(old) = old {
            self.by_last.remove(old.last_id)?;
            self.note(Change::ByLast(old.last_id));
        }
        Ok(())
    }
}

/// Inserts in one go what stands side by side in the table: its pages are built once, and full. What is there already is replaced.
/// How many were not there.
pub(super) fn insert_rising<'a, K: Key + 'static, V: Value + 'static>(
    table: &mut Table<'_, K, V>,
    mut entries: &[(K::SelfType<'a>, V::SelfType<'a>)],
) -> Result<usize> {
    let mut new = 0;
    while let Some(((key, value), rest)) = entries.split_first() {
        let mut cursor = table.upper_bound_mut(Bound::Excluded(key))?;
        let mut inserted = 0;
        for (key, value) in entries {
            match cursor.insert_before(key, value) {
                Ok(()) => inserted += 1,
                // Another key lies between, or this one is there.
                Err(CursorError::UnorderedKey) => break,
                Err(error) => return Err(error.into()),
            }
        }
        cursor.close()?;
        new += inserted;
        if inserted == 0 {
            new += usize::from(table.insert(key, value)?.is_none());
            entries = rest;
        } else {
            entries = entries.get(inserted..).unwrap_or_default();
        }
    }
    Ok(new)
}
