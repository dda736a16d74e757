//! The one place that changes the tables: a record goes in or out with its index entries, its share of the summary and what it means
//! for its message being undelivered. Logs nothing; errors are redb's.

use super::encoding::{self, Unreadable, outcome_code};
use super::schema::{
    BY_LAST, Change, ENTRY_OCTETS, INDEX, IndexKey, KEY_OCTETS, MESSAGE_OCTETS, MESSAGES, META, Message, Property, RECORDS, SEGMENT,
    SEGMENTS, STATE, Segment, State, Tries, UNDELIVERED,
};
use crate::record::{Outcome, Record};
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

type Result<T> = std::result::Result<T, redb::Error>;

/// All tables, open in one write transaction.
pub(super) struct Tables<'txn> {
    records: Table<'txn, u128, &'static [u8]>,
    index: Table<'txn, &'static [u8; 36], u8>,
    segments: Table<'txn, u32, &'static [u8]>,
    messages: Table<'txn, &'static [u8; 16], &'static [u8; 5]>,
    undelivered: Table<'txn, &'static [u8; 16], &'static [u8]>,
    by_last: Table<'txn, u128, &'static [u8; 16]>,
    meta: Table<'txn, &'static str, &'static [u8]>,
    key: IndexKey,
    /// The segment that records are being put into: written once, at the end.
    filling: Option<(u32, Segment)>,
    pub(super) state: State,
    pub(super) changes: Vec<Change>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction, key: IndexKey, state: State) -> Result<Self> {
        Ok(Self {
            records: txn.open_table(RECORDS)?,
            index: txn.open_table(INDEX)?,
            segments: txn.open_table(SEGMENTS)?,
            messages: txn.open_table(MESSAGES)?,
            undelivered: txn.open_table(UNDELIVERED)?,
            by_last: txn.open_table(BY_LAST)?,
            meta: txn.open_table(META)?,
            key,
            filling: None,
            state,
            changes: Vec::new(),
        })
    }

    pub(super) fn insert(&mut self, record: &Record) -> Result<()> {
        let segment = self.segment();
        self.put(record.id.0, &encoding::encode(record, segment))?;
        self.enter(record, segment)?;
        self.count_in_segment(record.id.0, segment)?;
        self.count_message(record)
    }

    /// Takes a record out, with everything that points to it; whether it was there.
    pub(super) fn remove(&mut self, id: u128) -> Result<bool> {
        let Some(old) = self.records.remove(id)?.map(|octets| octets.value().to_vec()) else {
            return Ok(false);
        };
        self.changes.push(Change::Record(id));
        self.state.live_octets = self.state.live_octets.saturating_sub(KEY_OCTETS + old.len() as u64);
        if let Ok((record, segment)) = encoding::decode_with_segment(id, &old) {
            for entry in self.key.entries(&record, segment) {
                self.leave(entry)?;
            }
            self.leave_segment(segment)?;
            self.leave_message(self.key.hash(Property::Webhook, &record.webhook_id))?;
        }
        // The last attempt that is known of an undelivered message: the message is not known any more.
        let message = self.by_last.get(id)?.map(|hash| *hash.value());
        if let Some(message) = message {
            self.settle(message)?;
        }
        self.by_last.remove(id)?;
        self.changes.push(Change::ByLast(id));
        Ok(true)
    }

    /// The same record with other texts.
    pub(super) fn replace(&mut self, old: &Record, new: &Record) -> Result<()> {
        let stored = self.records.get(new.id.0)?.and_then(|octets| encoding::decode_with_segment(new.id.0, octets.value()).ok());
        let segment = stored.map_or(0, |(_, segment)| segment);
        for entry in self.key.entries(old, segment) {
            self.leave(entry)?;
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

    /// Writes what waits, but for the state: for a step of a work whose end writes that.
    pub(super) fn step(mut self) -> Result<State> {
        self.write_segment()?;
        Ok(self.state)
    }

    /// Writes the state; last in every transaction.
    pub(super) fn finish(mut self) -> Result<(State, Vec<Change>)> {
        self.write_segment()?;
        let octets = self.state.encode();
        self.set_meta(STATE, &octets)?;
        Ok((self.state, self.changes))
    }

    /// Writes a record anew, in the present encoding, and counts it as if it had not been there: for a store whose state or
    /// index is lost or of an older version.
    pub(super) fn count_again(&mut self, record: &Record) -> Result<()> {
        let segment = self.segment();
        let octets = encoding::encode(record, segment);
        self.records.insert(record.id.0, octets.as_slice())?;
        self.state.live_octets = self.state.live_octets.saturating_add(KEY_OCTETS + octets.len() as u64);
        self.enter(record, segment)?;
        self.count_in_segment(record.id.0, segment)?;
        self.count_message(record)
    }

    fn put(&mut self, id: u128, octets: &[u8]) -> Result<()> {
        let old = self.records.insert(id, octets)?.map_or(0, |old| KEY_OCTETS + old.value().len() as u64);
        self.state.live_octets = self.state.live_octets.saturating_sub(old).saturating_add(KEY_OCTETS + octets.len() as u64);
        self.changes.push(Change::Record(id));
        Ok(())
    }

    fn enter(&mut self, record: &Record, segment: u32) -> Result<()> {
        self.state.see(record);
        for entry in self.key.entries(record, segment) {
            if self.index.insert(&entry, outcome_code(record.outcome))?.is_none() {
                self.state.live_octets = self.state.live_octets.saturating_add(ENTRY_OCTETS);
            }
            self.changes.push(Change::Index(entry));
        }
        Ok(())
    }

    fn leave(&mut self, entry: [u8; 36]) -> Result<()> {
        if self.index.remove(&entry)?.is_some() {
            self.state.live_octets = self.state.live_octets.saturating_sub(ENTRY_OCTETS);
        }
        self.changes.push(Change::Index(entry));
        Ok(())
    }

    /// The segment for one more record.
    fn segment(&mut self) -> u32 {
        if self.state.segment_filled >= SEGMENT {
            self.state.segment = self.state.segment.saturating_add(1);
            self.state.segment_filled = 0;
        }
        self.state.segment_filled = self.state.segment_filled.saturating_add(1);
        self.state.segment
    }

    fn count_in_segment(&mut self, id: u128, number: u32) -> Result<()> {
        let old = match self.filling {
            Some((filling, segment)) if filling == number => Some(segment),
            _ => {
                self.write_segment()?;
                self.segments.get(number)?.map(|octets| Segment::decode(octets.value()))
            }
        };
        let old = old.unwrap_or(Segment { least: id, greatest: id, records: 0 });
        let new = Segment { least: old.least.min(id), greatest: old.greatest.max(id), records: old.records.saturating_add(1) };
        self.filling = Some((number, new));
        Ok(())
    }

    fn write_segment(&mut self) -> Result<()> {
        if let Some((number, segment)) = self.filling.take() {
            self.segments.insert(number, segment.encode().as_slice())?;
            self.changes.push(Change::Segment(number));
        }
        Ok(())
    }

    fn leave_segment(&mut self, number: u32) -> Result<()> {
        self.write_segment()?;
        let Some(old) = self.segments.get(number)?.map(|octets| Segment::decode(octets.value())) else {
            return Ok(());
        };
        if old.records > 1 {
            let new = Segment { records: old.records - 1, ..old };
            self.segments.insert(number, new.encode().as_slice())?;
        } else {
            self.segments.remove(number)?;
        }
        self.changes.push(Change::Segment(number));
        Ok(())
    }

    fn count_message(&mut self, record: &Record) -> Result<()> {
        let hash = self.key.hash(Property::Webhook, &record.webhook_id);
        // Nearly always it is the first record of its message: written at once, it is looked for once.
        let first = Message { records: 1, settled: record.outcome != Outcome::Deferred };
        let old = self.messages.insert(&hash, &first.encode())?.map(|octets| Message::decode(*octets.value()));
        let settled = match old {
            None => {
                self.state.live_octets = self.state.live_octets.saturating_add(MESSAGE_OCTETS);
                first.settled
            }
            Some(old) => {
                let settled = old.settled || first.settled;
                self.messages.insert(&hash, &Message { records: old.records.saturating_add(1), settled }.encode())?;
                settled
            }
        };
        self.changes.push(Change::Message(hash));
        if settled { self.settle(hash) } else { self.count_try(record, hash) }
    }

    fn leave_message(&mut self, hash: [u8; 16]) -> Result<()> {
        let Some(old) = self.messages.get(&hash)?.map(|octets| Message::decode(*octets.value())) else {
            return Ok(());
        };
        if old.records > 1 {
            self.messages.insert(&hash, &Message { records: old.records - 1, ..old }.encode())?;
        } else {
            self.messages.remove(&hash)?;
            self.state.live_octets = self.state.live_octets.saturating_sub(MESSAGE_OCTETS);
        }
        self.changes.push(Change::Message(hash));
        Ok(())
    }

    /// One more attempt at a message that none has got through with.
    fn count_try(&mut self, record: &Record, message: [u8; 16]) -> Result<()> {
        let seen = record.date.as_microsecond();
        let id = record.id.0;
        let tries = match self.tries(message)? {
            Some(Ok(old)) => {
                self.by_last.remove(old.last_id)?;
                self.changes.push(Change::ByLast(old.last_id));
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
        self.changes.extend([Change::Undelivered(message), Change::ByLast(tries.last_id)]);
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
        self.changes.push(Change::Undelivered(message));
        if let Ok(old) = old {
            self.by_last.remove(old.last_id)?;
            self.changes.push(Change::ByLast(old.last_id));
        }
        Ok(())
    }
}
