//! Pages of records, newest first, in short read transactions: one that is held makes the file grow. Logs each damaged record.

use super::encoding::{self, Unreadable};
use super::error::StoreError;
use super::filter::Filter;
use super::id::first_of;
use super::redact::{Address, Needle};
use super::schema::{BY_LAST, GLOBAL, INDEX, Property, RECORDS, SEGMENTS, Segment, Tries, UNDELIVERED, index_id, index_key};
use super::shared::Shared;
use super::{Page, Query, Undelivered, UndeliveredPage};
use crate::record::{Record, RecordId};
use redb::{ReadTransaction, ReadableTable};
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) const LIMIT_MOST: usize = 1000;
const LIMIT_DEFAULT: usize = 100;
/// A page of records that are long ends sooner: octets as they are stored.
const PAGE_OCTETS: usize = 4 << 20;
/// Records that one read transaction looks at.
const STEP: usize = 1000;
/// A search that takes longer gives what it has, with a cursor.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where ids come from, newest first.
#[derive(Clone, Copy)]
enum Source {
    All,
    Index([u8; 16]),
    Undelivered,
}

/// A query as it is carried out.
struct Plan {
    source: Source,
    /// Ids from here...
    low: u128,
    /// ...to below here.
    high: u128,
    filter: Filter,
    undelivered: bool,
    names: Option<Address>,
    /// Of these two, what most records can be left out by without decoding them.
    needle: Option<Needle>,
    /// Octets of what was found.
    octets: usize,
}

impl Plan {
    fn new(shared: &Shared, query: &Query) -> Self {
        let key = &shared.index_key;
        let state = shared.state();
        // The narrowest index comes first.
        let source = if let Some(id) = &query.message_id {
            Source::Index(key.hash(Property::MessageId, id))
        } else if let Some(sender) = &query.sender {
            Source::Index(key.hash(Property::Sender, sender))
        } else if let Some(recipient) = &query.recipient {
            Source::Index(key.hash(Property::Recipient, recipient))
        } else if query.undelivered {
            Source::Undelivered
        } else if let Some(outcome) = query.outcome {
            Source::Index(key.outcome(outcome))
        } else {
            Source::All
        };
        // Ids follow dates but for the store's lead and lag.
        let lag = i64::try_from(state.lag_ms).unwrap_or(i64::MAX);
        let lead = i64::try_from(state.lead_ms).unwrap_or(i64::MAX);
        let low = query.since.map_or(0, |since| first_of(since.as_millisecond().saturating_sub(lag).saturating_sub(2)));
        let high = query.until.map_or(u128::MAX, |until| first_of(until.as_millisecond().saturating_add(lead).saturating_add(2)));
        let filter = Filter::new(query);
        Self {
            source,
            low,
            high: query.cursor.map_or(high, |cursor| high.min(cursor.0)),
            undelivered: query.undelivered,
            needle: filter.needle(),
            filter,
            names: None,
            octets: 0,
        }
    }

    fn matches(&self, record: &Record) -> bool {
        self.filter.takes(record) && self.names.as_ref().is_none_or(|address| address.is_named_by(record))
    }

    /// One transaction's worth: adds what matches and moves `high` down. True while there may be more.
    fn step(
        &mut self,
        shared: &Shared,
        txn: &ReadTransaction,
        newest: &[u128],
        limit: usize,
        found: &mut Vec<Record>,
    ) -> Result<bool, redb::Error> {
        if self.low >= self.high {
            return Ok(false);
        }
        let records = txn.open_table(RECORDS)?;
        let latest = txn.open_table(BY_LAST)?;
        let ids: Vec<u128> = match self.source {
            Source::Undelivered => {
                latest.range(self.low..self.high)?.rev().take(STEP).map(|item| Ok(item?.0.value())).collect::<Result<_, redb::Error>>()?
            }
            Source::Index(hash) => indexed(txn, newest, segments(txn, self.low, self.high)?, hash, self.low..self.high)?,
            Source::All => {
                let mut seen = 0;
                for item in records.range(self.low..self.high)?.rev().take(STEP) {
                    let (id, octets) = item?;
                    seen += 1;
                    if self.take(shared, &latest, id.value(), octets.value(), found)? && self.is_full(limit, found) {
                        return Ok(true);
                    }
                }
                return Ok(seen == STEP);
            }
        };
        let more = ids.len() == STEP;
        for id in ids {
            self.high = id;
            // An index entry whose record was damaged and removed points nowhere.
            let Some(octets) = records.get(id)? else { continue };
            if self.take(shared, &latest, id, octets.value(), found)? && self.is_full(limit, found) {
                return Ok(true);
            }
        }
        Ok(more)
    }

    /// Looks at one record; whether it was taken.
    fn take(
        &mut self,
        shared: &Shared,
        latest: &impl ReadableTable<u128, &'static [u8; 16]>,
        id: u128,
        octets: &[u8],
        found: &mut Vec<Record>,
    ) -> Result<bool, redb::Error> {
        self.high = id;
        if self.needle.as_ref().is_some_and(|needle| !needle.may_be_in(octets)) {
            return Ok(false);
        }
        match encoding::decode(id, octets) {
            Ok(record) if self.matches(&record) && (!self.undelivered || latest.get(id)?.is_some()) => {
                self.octets += octets.len();
                found.push(record);
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(Unreadable) => {
                damaged(shared, id);
                Ok(false)
            }
        }
    }

    fn is_full(&self, limit: usize, found: &[Record]) -> bool {
        found.len() >= limit || self.octets >= PAGE_OCTETS
    }

    fn run(mut self, shared: &Shared, limit: usize) -> Result<Page, StoreError> {
        let limit = if limit == 0 { LIMIT_DEFAULT } else { limit.min(LIMIT_MOST) };
        let begun = Instant::now();
        let mut records = Vec::new();
        loop {
            let newest = self.in_memory(shared);
            if !shared.read(|txn| self.step(shared, txn, &newest, limit, &mut records))? {
                return Ok(Page { records, cursor: None });
            }
            if self.is_full(limit, &records) || begun.elapsed() > PATIENCE {
                return Ok(Page { records, cursor: Some(RecordId(self.high)) });
            }
        }
    }

    /// Ids of the index entries that are in memory; asked before the transaction is opened.
    fn in_memory(&self, shared: &Shared) -> Vec<u128> {
        match self.source {
            Source::Index(hash) if self.low < self.high => shared.tail().ids(hash, self.low, self.high, STEP),
            Source::All | Source::Undelivered | Source::Index(_) => Vec::new(),
        }
    }
}

/// The greatest ids and the numbers of the segments in which there may be ids of a range.
fn segments(txn: &ReadTransaction, low: u128, high: u128) -> Result<Vec<(u128, u32)>, redb::Error> {
    let mut segments = Vec::new();
    for item in txn.open_table(SEGMENTS)?.iter()? {
        let (number, segment) = item?;
        let segment = Segment::decode(segment.value());
        if segment.least < high && segment.greatest >= low {
            segments.push((segment.greatest, number.value()));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Ids of a property from the memory and all these segments, newest first. Segments follow each other in time, but for records that came
/// close together: so one is looked into before an id is taken that it might surpass.
fn indexed(
    txn: &ReadTransaction,
    newest: &[u128],
    mut segments: Vec<(u128, u32)>,
    hash: [u8; 16],
    ids: Range<u128>,
) -> Result<Vec<u128>, redb::Error> {
    let index = txn.open_table(INDEX)?;
    let mut open: Vec<Box<dyn Iterator<Item = Result<u128, redb::StorageError>>>> = Vec::new();
    let mut next = BinaryHeap::new();
    let mut found = Vec::new();
    let mut memory = newest.iter().copied().peekable();
    while found.len() < STEP {
        while let Some(&(greatest, number)) = segments.last()
            && next.peek().is_none_or(|(id, _)| *id < greatest)
        {
            segments.pop();
            let keys = index_key(number, hash, ids.start)..index_key(number, hash, ids.end);
            let entries = index.range::<&[u8; 36]>(&keys.start..&keys.end)?.rev();
            let mut entries = entries.map(|entry| entry.map(|(key, _)| index_id(key.value())));
            if let Some(id) = entries.next() {
                next.push((id?, open.len()));
                open.push(Box::new(entries));
            }
        }
        let from_table = next.peek().map(|(id, _)| *id);
        let Some(id) = memory.peek().copied().max(from_table) else { break };
        found.push(id);
        // One that was being moved stands in both.
        memory.next_if_eq(&id);
        // No two segments hold an entry of the same record and property.
        if next.peek().is_some_and(|(at, _)| *at == id)
            && let Some((_, from)) = next.pop()
            && let Some(id) = open.get_mut(from).and_then(Iterator::next)
        {
            next.push((id?, from));
        }
    }
    Ok(found)
}

fn damaged(shared: &Shared, id: u128) {
    shared.unreadable.fetch_add(1, Ordering::Relaxed);
    tracing::error!(record = %RecordId(id), "a record in the store is damaged and left out");
}

pub(super) fn query(shared: &Shared, query: &Query) -> Result<Page, StoreError> {
    Plan::new(shared, query).run(shared, query.limit)
}

pub(super) fn export(shared: &Shared, address: Address, cursor: Option<RecordId>) -> Result<Page, StoreError> {
    let everything = Query { cursor, ..Query::default() };
    Plan { needle: address.needle(), names: Some(address), ..Plan::new(shared, &everything) }.run(shared, LIMIT_MOST)
}

pub(super) fn record(shared: &Shared, id: RecordId) -> Result<Option<Record>, StoreError> {
    let found = shared.read(|txn| Ok(txn.open_table(RECORDS)?.get(id.0)?.map(|octets| encoding::decode(id.0, octets.value()))))?;
    found.transpose().map_err(|Unreadable| {
        damaged(shared, id.0);
        StoreError::Unreadable(id)
    })
}

pub(super) fn attempts(shared: &Shared, webhook_id: &str) -> Result<Vec<Record>, StoreError> {
    let hash = shared.index_key.hash(Property::Webhook, webhook_id);
    let newest = shared.tail().attempts(hash, STEP);
    shared.read(|txn| {
        let records = txn.open_table(RECORDS)?;
        let mut found = Vec::new();
        let mut sum = 0;
        for id in indexed(txn, &newest, vec![(u128::MAX, GLOBAL)], hash, 0..u128::MAX)? {
            let Some(octets) = records.get(id)? else { continue };
            match encoding::decode(id, octets.value()) {
                Ok(record) if record.webhook_id == webhook_id => found.push(record),
                Ok(_) => {}
                Err(Unreadable) => damaged(shared, id),
            }
            sum += octets.value().len();
            if sum >= PAGE_OCTETS {
                break;
            }
        }
        found.reverse();
        Ok(found)
    })
}

pub(super) fn undelivered(shared: &Shared, cursor: Option<RecordId>, limit: usize) -> Result<UndeliveredPage, StoreError> {
    let limit = if limit == 0 { LIMIT_DEFAULT } else { limit.min(LIMIT_MOST) };
    shared.read(|txn| {
        let records = txn.open_table(RECORDS)?;
        let messages = txn.open_table(UNDELIVERED)?;
        let mut found = Vec::new();
        let (mut looked_at, mut last, mut sum) = (0, None, 0);
        for item in txn.open_table(BY_LAST)?.range(..cursor.map_or(u128::MAX, |cursor| cursor.0))?.rev().take(limit) {
            let (id, message) = item?;
            (looked_at, last) = (looked_at + 1, Some(RecordId(id.value())));
            let tries = messages.get(message.value())?.map(|octets| Tries::decode(octets.value()));
            let record = records.get(id.value())?.map(|octets| {
                sum += octets.value().len();
                encoding::decode(id.value(), octets.value())
            });
            let (Some(Ok(tries)), Some(Ok(record))) = (tries, record) else {
                damaged(shared, id.value());
                continue;
            };
            let time = |us| jiff::Timestamp::from_microsecond(us).unwrap_or(record.date);
            found.push(Undelivered {
                attempts: tries.attempts,
                first_seen: time(tries.first_seen_us),
                last_seen: time(tries.last_seen_us),
                record,
            });
            if sum >= PAGE_OCTETS {
                return Ok(UndeliveredPage { undelivered: found, cursor: last });
            }
        }
        // A damaged one makes the page shorter, it does not end the list.
        Ok(UndeliveredPage { undelivered: found, cursor: last.filter(|_| looked_at == limit) })
    })
}
