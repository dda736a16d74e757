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
mod salvage;

pub(super) use build::{Fate, Part, Plan, build};
pub(super) use salvage::salvage;

use super::disk::{Backend, Disk};
use super::encoding::{self, Reader, Unreadable};
use super::error::{Fault, guarded};
use super::folder::{Files, Span};
use super::index::{Hash, IndexKey, Key, Property, id_of, keys, settled};
use arc_swap::ArcSwap;
use filter::Filter;
use redb::{Builder, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _, TableDefinition};
use std::ops::Range;
use std::path::{Path, PathBuf};
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
/// What redb may keep in memory of one file that is read: the system's page cache has the rest.
const CACHE_OCTETS: usize = 0;

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
        let sum = encoding::checksum(1, &out);
        out.extend_from_slice(&sum);
        out
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
    disk: Arc<dyn Disk>,
    path: PathBuf,
    database: ArcSwap<ReadOnlyDatabase>,
    /// redb reads nothing more behind an error, one that passed included: then the file is opened again.
    has_failed: Arc<AtomicBool>,
}

fn open(disk: &dyn Disk, path: &Path) -> Result<ReadOnlyDatabase, Fault> {
    let backend = Backend(disk.open_to_read(path)?);
    let opened = Builder::new().set_cache_size(CACHE_OCTETS).open_read_only_with_backend(backend);
    opened.map_err(|error| Fault::from(redb::Error::from(error)))
}

/// redb may panic on a damaged file: that is damage.
fn noticed<T>(has_failed: &AtomicBool, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    guarded(work).inspect_err(|_| has_failed.store(true, Ordering::Release))
}

impl StoreFile {
    pub(super) fn open(files: &Files, span: Span) -> Result<Self, Fault> {
        let path = files.of(span);
        let stat = files.disk.stat(&path)?;
        guarded(|| {
            let database = open(&*files.disk, &path)?;
            let (summary, filter) = {
                let txn = database.begin_read().map_err(redb::Error::from)?;
                let about = txn.open_table(ABOUT).map_err(redb::Error::from)?;
                let value = |name| Ok::<_, redb::Error>(about.get(name)?.map(|octets| octets.value().to_vec()).unwrap_or_default());
                (Summary::decode(&value(SUMMARY)?)?, Filter::decode(&value(SETTLED)?))
            };
            if summary.span != span {
                return Err(Fault::Damaged("it does not bear its own name".to_owned()));
            }
            Ok(Self {
                summary,
                octets: stat.backed,
                identity: stat.identity,
                filter,
                disk: Arc::clone(&files.disk),
                path: path.clone(),
                database: ArcSwap::from_pointee(database),
                has_failed: Arc::default(),
            })
        })
    }

    pub(super) fn span(&self) -> Span {
        self.summary.span
    }

    /// Whoever reads next opens the file: what was read last may have failed.
    fn open_again(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Fault> {
        noticed(&self.has_failed, || {
            if self.has_failed.swap(false, Ordering::AcqRel) {
                self.database.store(Arc::new(open(&*self.disk, &self.path)?));
            }
            let txn = self.database.load().begin_read().map_err(redb::Error::from)?;
            Ok(work(&txn)?)
        })
    }

    /// A record's commit number and octets.
    pub(super) fn get(&self, id: u128) -> Result<Option<(u64, Vec<u8>)>, Fault> {
        if id < self.summary.least || id > self.summary.greatest {
            return Ok(None);
        }
        self.read(|txn| {
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
        self.read(|txn| {
            let keys = keys(Property::Webhook, message, &(0..u128::MAX));
            for entry in txn.open_table(INDEX)?.range::<&Key>(&keys.start..&keys.end)? {
                let (key, outcome) = entry?;
                if settled(key.value(), outcome.value()).is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Ids of a property's records, newest first.
    pub(super) fn ids(
        &self,
        property: Property,
        hash: Hash,
        ids: &Range<u128>,
    ) -> Result<impl Iterator<Item = Result<u128, Fault>> + use<>, Fault> {
        let keys = keys(property, hash, ids);
        let mut entries = self.read(|txn| Ok(txn.open_table(INDEX)?.range::<&Key>(&keys.start..&keys.end)?))?;
        let has_failed = Arc::clone(&self.has_failed);
        let mut next = move || {
            let entry = entries.next_back().transpose().map_err(redb::Error::from)?;
            Ok(entry.map(|(key, _)| id_of(key.value())))
        };
        Ok(std::iter::from_fn(move || noticed(&has_failed, &mut next).transpose()))
    }

    /// Every record, by id: its id, its commit number and its octets; ends early when `wanted` says false.
    pub(super) fn each(&self, mut wanted: impl FnMut(u128, u64, &[u8]) -> bool) -> Result<(), Fault> {
        self.read(|txn| {
            for item in txn.open_table(RECORDS)?.range::<u128>(..)? {
                let (id, value) = item?;
                let (commit, octets) = split(value.value()).unwrap_or((0, &[]));
                if !wanted(id.value(), commit, octets) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Records in a range, newest first, each when it is asked for.
    pub(super) fn newest(&self, ids: &Range<u128>) -> Result<impl Iterator<Item = Result<Stored, Fault>> + use<>, Fault> {
        let mut records = self.read(|txn| Ok(txn.open_table(RECORDS)?.range(ids.clone())?))?;
        let has_failed = Arc::clone(&self.has_failed);
        let mut next = move || {
            let record = records.next_back().transpose().map_err(redb::Error::from)?;
            Ok(record.map(|(id, value)| {
                let (commit, octets) = split(value.value()).unwrap_or((0, &[]));
                (id.value(), commit, octets.to_vec())
            }))
        };
        Ok(std::iter::from_fn(move || noticed(&has_failed, &mut next).transpose()))
    }

    /// Ids from a commit number on, in the order of the numbers.
    pub(super) fn commits(&self, from: u64, most: usize) -> Result<Vec<(u64, u128)>, Fault> {
        self.read(|txn| {
            let numbers = txn.open_table(COMMITS)?.range(from..)?.take(most);
            numbers.map(|item| item.map(|(number, id)| (number.value(), id.value())).map_err(redb::Error::from)).collect()
        })
    }
}

/// A value of `records`: the commit number, and the record.
pub(super) fn split(value: &[u8]) -> Option<(u64, &[u8])> {
    value.split_first_chunk().map(|(number, octets)| (u64::from_le_bytes(*number), octets))
}
