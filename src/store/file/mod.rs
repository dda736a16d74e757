//! A file of records: written once, by `build`, and from the moment it bears its name only read. Logs nothing.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | id | commit number u64 LE, and encoding.rs |
//! | `commits` | commit number | id |
//! | `index` | index.rs | outcome |
//! | `about` | `summary`, `settled` | `Summary`; filter.rs |

mod build;
mod filter;
mod reading;
mod salvage;

pub(super) use build::{Fate, Part, Plan, build};
pub(super) use salvage::{salvage, whole};

use super::encoding::{self, Reader, Unreadable};
use super::error::Fault;
use super::folder::{Files, Span};
use super::index::{Hash, IndexKey, Key, Property, id_of, keys, settled};
use filter::Filter;
use reading::{Between, Order, Reading};
use redb::{StorageBackend, TableDefinition};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
const COMMITS: TableDefinition<'_, u64, u128> = TableDefinition::new("commits");
const INDEX: TableDefinition<'_, &[u8; 33], u8> = TableDefinition::new("index");
const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");
const SUMMARY: &str = "summary";
const SETTLED: &str = "settled";

/// The version of everything above; to 4 a store was one file.
pub(super) const VERSION: u32 = 5;

/// All of a table.
const ALL: Between<u128> = (Bound::Unbounded, Bound::Unbounded);

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) span: Span,
    pub(super) records: u64,
    /// Ids are in here; `least` above `greatest` if there are none.
    pub(super) least: u128,
    pub(super) greatest: u128,
    /// Dates are in here.
    pub(super) oldest_us: i64,
    pub(super) newest_us: i64,
    /// The most that an id's time is ahead of its record's date, in milliseconds, and behind it: how far a query by time looks around.
    pub(super) lead_ms: u64,
    pub(super) lag_ms: u64,
    /// The greatest id that had been given.
    pub(super) newest_id: u128,
    pub(super) key_check: [u8; 8],
}

impl Summary {
    pub(super) fn new(span: Span, newest_id: u128, key: &IndexKey) -> Self {
        Self {
            span,
            records: 0,
            least: u128::MAX,
            greatest: 0,
            oldest_us: i64::MAX,
            newest_us: i64::MIN,
            lead_ms: 0,
            lag_ms: 0,
            newest_id,
            key_check: key.check(),
        }
    }

    pub(super) fn take(&mut self, id: u128, date_us: i64) {
        self.records += 1;
        self.least = self.least.min(id);
        self.greatest = self.greatest.max(id);
        self.newest_id = self.newest_id.max(id);
        self.oldest_us = self.oldest_us.min(date_us);
        self.newest_us = self.newest_us.max(date_us);
        let id_ms = i128::try_from(super::id::milliseconds(id)).unwrap_or(i128::MAX);
        let ahead = id_ms - i128::from(date_us.div_euclid(1000));
        self.lead_ms = self.lead_ms.max(u64::try_from(ahead.max(0)).unwrap_or(u64::MAX));
        self.lag_ms = self.lag_ms.max(u64::try_from((-ahead).max(0)).unwrap_or(u64::MAX));
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for number in [self.span.first, self.span.last, self.records, self.lead_ms, self.lag_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for id in [self.least, self.greatest, self.newest_id] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        for date in [self.oldest_us, self.newest_us] {
            out.extend_from_slice(&date.to_le_bytes());
        }
        out.extend_from_slice(&self.key_check);
        encoding::summed(1, out)
    }

    fn decode(octets: &[u8]) -> Result<Self, Fault> {
        let damaged = |Unreadable| Fault::Damaged("what a file says of itself".to_owned());
        let mut rest = Reader(encoding::checked(1, octets).map_err(damaged)?);
        let version = rest.array().map(u32::from_le_bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(Fault::Newer(version));
        }
        Self::read(&mut rest).map_err(damaged)
    }

    fn read(rest: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let span = Span { first: u64::from_le_bytes(rest.array()?), last: u64::from_le_bytes(rest.array()?) };
        let records = u64::from_le_bytes(rest.array()?);
        let (lead_ms, lag_ms) = (u64::from_le_bytes(rest.array()?), u64::from_le_bytes(rest.array()?));
        let (least, greatest) = (u128::from_le_bytes(rest.array()?), u128::from_le_bytes(rest.array()?));
        let newest_id = u128::from_le_bytes(rest.array()?);
        let (oldest_us, newest_us) = (i64::from_le_bytes(rest.array()?), i64::from_le_bytes(rest.array()?));
        Ok(Self { span, records, least, greatest, oldest_us, newest_us, lead_ms, lag_ms, newest_id, key_check: rest.array()? })
    }
}

/// A record's id, its commit number and its octets.
type Stored = (u128, u64, Vec<u8>);

/// An open file.
pub(super) struct StoreFile {
    pub(super) summary: Summary,
    /// That it takes on the disk.
    pub(super) octets: u64,
    pub(super) identity: (u64, u64),
    filter: Filter,
    reading: Arc<Reading>,
    /// A reader met damage, and nobody has looked since.
    suspected: AtomicBool,
    /// He met it, the keeper looked through all of it, and found none: what he cannot read nobody will.
    cleared: AtomicBool,
}

impl StoreFile {
    pub(super) fn open(files: &Files, span: Span) -> Result<Self, Fault> {
        let path = files.of(span);
        let stat = files.disk.stat(&path)?;
        let (reading, (summary, filter)) = Reading::open(files.disk.open_to_read(&path)?, |txn| {
            let about = txn.open_table(ABOUT)?;
            let value = |name| Ok::<_, redb::Error>(about.get(name)?.map(|octets| octets.value().to_vec()).unwrap_or_default());
            Ok((value(SUMMARY)?, value(SETTLED)?))
        })?;
        let (summary, filter) = (Summary::decode(&summary)?, Filter::decode(&filter));
        if summary.span != span {
            return Err(Fault::Damaged("it does not bear its own name".to_owned()));
        }
        Ok(Self {
            summary,
            octets: stat.backed,
            identity: stat.identity,
            filter,
            reading: Arc::new(reading),
            suspected: AtomicBool::new(false),
            cleared: AtomicBool::new(false),
        })
    }

    pub(super) fn span(&self) -> Span {
        self.summary.span
    }

    /// Its octets, whatever redb makes of them.
    pub(super) fn octets_of(&self) -> &dyn StorageBackend {
        &*self.reading.file
    }

    /// A reader met damage. Whether that is news.
    pub(super) fn suspect(&self) -> bool {
        !self.suspected.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_suspected(&self) -> bool {
        self.suspected.load(Ordering::Acquire)
    }

    pub(super) fn is_cleared(&self) -> bool {
        self.cleared.load(Ordering::Acquire)
    }

    /// Has the keeper look through it; damage is an error.
    pub(super) fn looked_through(&self, look: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
        let was_suspected = self.suspected.swap(false, Ordering::AcqRel);
        let looked = look();
        match &looked {
            Ok(()) => self.cleared.store(was_suspected, Ordering::Release),
            Err(_) => self.suspected.store(true, Ordering::Release),
        }
        looked
    }

    /// Somebody goes through its entries.
    pub(super) fn is_read(&self) -> bool {
        Arc::strong_count(&self.reading) > 1
    }

    fn records(&self, ids: Between<u128>, order: Order) -> impl Iterator<Item = Result<(u128, Vec<u8>), Fault>> + use<> {
        self.reading.entries(
            order,
            ids,
            |txn, ids| Ok(txn.open_table(RECORDS)?.range::<u128>(*ids)?),
            |id, value| (id.value(), value.value().to_vec()),
        )
    }

    fn index(&self, keys: Between<Key>, order: Order) -> impl Iterator<Item = Result<(Key, u8), Fault>> + use<> {
        self.reading.entries(
            order,
            keys,
            |txn, keys| Ok(txn.open_table(INDEX)?.range::<&Key>((keys.0.as_ref(), keys.1.as_ref()))?),
            |key, outcome| (*key.value(), outcome.value()),
        )
    }

    /// A record's commit number and octets.
    pub(super) fn get(&self, id: u128) -> Result<Option<(u64, Vec<u8>)>, Fault> {
        if id < self.summary.least || id > self.summary.greatest {
            return Ok(None);
        }
        self.reading.read(|txn| {
            Ok(txn.open_table(RECORDS)?.get(id)?.and_then(|value| split(value.value()).map(|(n, octets)| (n, octets.to_vec()))))
        })
    }

    /// Whether a message may have been settled by one of its records.
    pub(super) fn may_settle(&self, message: Hash) -> bool {
        self.summary.records > 0 && self.filter.may_hold(message)
    }

    pub(super) fn settles(&self, message: Hash) -> Result<bool, Fault> {
        if !self.may_settle(message) {
            return Ok(false);
        }
        for entry in self.index(between(keys(Property::Webhook, message, &(0..u128::MAX))), Order::Rising) {
            let (key, outcome) = entry?;
            if settled(&key, outcome).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ids of a property's records, newest first.
    pub(super) fn ids(&self, property: Property, hash: Hash, ids: &Range<u128>) -> impl Iterator<Item = Result<u128, Fault>> + use<> {
        let entries = self.index(between(keys(property, hash, ids)), Order::Falling);
        entries.map(|entry| entry.map(|(key, _)| id_of(&key)))
    }

    /// Every record, by id, each when it is asked for.
    pub(super) fn all(&self) -> impl Iterator<Item = Result<Stored, Fault>> + use<> {
        self.records(ALL, Order::Rising).map(|record| record.map(stored))
    }

    /// Records in a range, newest first.
    pub(super) fn newest(&self, ids: &Range<u128>) -> impl Iterator<Item = Result<Stored, Fault>> + use<> {
        self.records(between(ids.clone()), Order::Falling).map(|record| record.map(stored))
    }

    /// Ids from a commit number on, in the order of the numbers.
    pub(super) fn commits(&self, from: u64, most: usize) -> Result<Vec<(u64, u128)>, Fault> {
        self.reading.read(|txn| {
            let numbers = txn.open_table(COMMITS)?.range(from..)?.take(most);
            numbers.map(|item| item.map(|(number, id)| (number.value(), id.value())).map_err(redb::Error::from)).collect()
        })
    }
}

fn between<K>(range: Range<K>) -> Between<K> {
    (Bound::Included(range.start), Bound::Excluded(range.end))
}

fn stored((id, mut value): (u128, Vec<u8>)) -> Stored {
    let commit = split(&value).map_or(0, |(commit, _)| commit);
    value.drain(..value.len().min(8));
    (id, commit, value)
}

/// A value of `records`: the commit number, and the record.
pub(super) fn split(value: &[u8]) -> Option<(u64, &[u8])> {
    value.split_first_chunk().map(|(number, octets)| (u64::from_le_bytes(*number), octets))
}
