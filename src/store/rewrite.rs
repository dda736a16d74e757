//! The store copied into a new file that holds what is live and nothing else, while mail goes on. Logs how long it took.
//!
//! Deleting in redb frees pages without clearing them, so this is the only way in which octets leave the disk. The copy reads pages
//! of the live store in short transactions; what the writer changes meanwhile is noted and brought after. The last of it is brought
//! after by the writer itself, between two batches, which then renames the new file over the old one. Cut off at any point, either
//! the old or the new file stands under the store's name, whole; a left-over new one is removed at the next start.

use super::Step;
use super::commit::{Message, Work, Writer, ask};
use super::error::{Fault, StoreError, guarded};
use super::open;
use super::retention::file_octets;
use super::schema::{BY_LAST, Change, FORMAT, INDEX, INDEX_KEY, JOURNAL, RECORDS, SEGMENTS, STORE_VERSION, UNDELIVERED};
use super::shared::Shared;
use super::tables::{Tables, insert_rising};
use super::tail::Tail;
use crossbeam_channel::Sender;
use redb::{Database, ReadTransaction, WriteTransaction};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Keys that one read transaction copies, and how many such pages make one transaction of the new file.
const PAGE: usize = 1000;
const PAGES_PER_COMMIT: usize = 64;
/// So few changes are left to the writer's pause; so many rounds are tried to get there.
const LAST_CHANGES: usize = 2000;
const ROUNDS: usize = 1000;
const SPARE_OCTETS: u64 = 1 << 20;

/// Whether the new file will find its place beside the old one.
pub(super) fn check_space(shared: &Shared) -> Result<(), StoreError> {
    let files = &shared.files;
    let needed = file_octets(shared.state().live_octets).saturating_add(SPARE_OCTETS);
    let free = files.disk.free_space(files.directory()).map_err(|error| shared.error(error.into()))?;
    if free < needed { Err(StoreError::NoSpace { needed, free }) } else { Ok(()) }
}

/// Rewrites the store; when this returns, the old file is gone.
pub(super) fn rewrite(shared: &Shared, writer: &Sender<Message>) -> Result<(), StoreError> {
    check_space(shared)?;
    let begun = Instant::now();
    let files = &shared.files;
    let before = files.stat().map_or(0, |stat| stat.length);
    let result = ask(writer, |done| Work::Watch { done }).and_then(|()| {
        files.remove_if_there(&files.rewritten())?;
        let new = open::database(files, &files.rewritten())?;
        copy(shared, &new)?;
        shared.tuning.reach(Step::Copied);
        let old = ask(writer, |done| Work::Swap { database: new, done })?;
        guarded(|| {
            drop(old);
            Ok(())
        })
    });
    shared.unwatch();
    match result {
        Ok(()) => {
            let after = files.stat().map_or(0, |stat| stat.length);
            tracing::info!(
                before,
                after,
                took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "the store was rewritten"
            );
            Ok(())
        }
        Err(fault) => {
            if let Err(error) = files.remove_if_there(&files.rewritten()) {
                tracing::warn!(%error, "the unfinished new store file could not be removed");
            }
            Err(shared.error(fault))
        }
    }
}

fn void() -> Fault {
    Fault::Void
}

fn copy(shared: &Shared, new: &Database) -> Result<(), Fault> {
    let tables = [Change::Record(0), Change::Index([0; 36]), Change::Segment(0), Change::Undelivered([0; 16]), Change::ByLast(0)];
    for table in tables {
        let mut from = Some(table);
        while from.is_some() {
            let txn = new.begin_write().map_err(redb::Error::from)?;
            for _ in 0..PAGES_PER_COMMIT {
                let Some(start) = from else { break };
                let page = shared.look(|txn| page(txn, start))?;
                from = if page.len() < PAGE { None } else { page.last().and_then(|(key, _)| next(*key)) };
                let changes = shared.changes().ok_or_else(void)?;
                let changed = shared.look(|txn| changes.iter().map(|key| Ok((*key, value(txn, *key)?))).collect::<Result<Vec<_>, _>>())?;
                put_page(&txn, &page)?;
                for (key, value) in changed {
                    put(&txn, key, value.as_deref())?;
                }
                if shared.stopping.load(Ordering::Acquire) {
                    return Err(Fault::Closing);
                }
            }
            txn.commit().map_err(redb::Error::from)?;
        }
    }
    for _ in 0..ROUNDS {
        let changes = shared.changes().ok_or_else(void)?;
        let few = changes.len() < LAST_CHANGES;
        catch_up(shared, new, &changes)?;
        if few {
            return Ok(());
        }
    }
    Err(Fault::Io("mail comes faster than the store can be rewritten".to_owned()))
}

fn catch_up(shared: &Shared, new: &Database, changes: &[Change]) -> Result<(), Fault> {
    let txn = new.begin_write().map_err(redb::Error::from)?;
    for part in changes.chunks(PAGE) {
        let part = shared.look(|txn| part.iter().map(|key| Ok((*key, value(txn, *key)?))).collect::<Result<Vec<_>, _>>())?;
        for (key, value) in part {
            put(&txn, key, value.as_deref())?;
        }
    }
    txn.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// The key behind another one in the same table.
fn next(key: Change) -> Option<Change> {
    fn after<const N: usize>(mut key: [u8; N]) -> Option<[u8; N]> {
        for octet in key.iter_mut().rev() {
            *octet = octet.wrapping_add(1);
            if *octet != 0 {
                return Some(key);
            }
        }
        None
    }
    match key {
        Change::Record(id) => id.checked_add(1).map(Change::Record),
        Change::ByLast(id) => id.checked_add(1).map(Change::ByLast),
        Change::Index(key) => after(key).map(Change::Index),
        Change::Segment(number) => number.checked_add(1).map(Change::Segment),
        Change::Undelivered(key) => after(key).map(Change::Undelivered),
    }
}

/// Keys and values from a key on, in the order of the table that the key is of.
fn page(txn: &ReadTransaction, from: Change) -> Result<Vec<(Change, Vec<u8>)>, redb::Error> {
    let mut page = Vec::with_capacity(PAGE);
    match from {
        Change::Record(id) => {
            for item in txn.open_table(RECORDS)?.range(id..)?.take(PAGE) {
                let (key, value) = item?;
                page.push((Change::Record(key.value()), value.value().to_vec()));
            }
        }
        Change::Index(key) => {
            for item in txn.open_table(INDEX)?.range::<&[u8; 36]>(&key..)?.take(PAGE) {
                let (key, value) = item?;
                page.push((Change::Index(*key.value()), vec![value.value()]));
            }
        }
        Change::Segment(number) => {
            for item in txn.open_table(SEGMENTS)?.range(number..)?.take(PAGE) {
                let (key, value) = item?;
                page.push((Change::Segment(key.value()), value.value().to_vec()));
            }
        }
        Change::Undelivered(key) => {
            for item in txn.open_table(UNDELIVERED)?.range::<&[u8; 16]>(&key..)?.take(PAGE) {
                let (key, value) = item?;
                page.push((Change::Undelivered(*key.value()), value.value().to_vec()));
            }
        }
        Change::ByLast(id) => {
            for item in txn.open_table(BY_LAST)?.range(id..)?.take(PAGE) {
                let (key, value) = item?;
                page.push((Change::ByLast(key.value()), value.value().to_vec()));
            }
        }
    }
    Ok(page)
}

fn value(txn: &ReadTransaction, key: Change) -> Result<Option<Vec<u8>>, redb::Error> {
    Ok(match key {
        Change::Record(id) => txn.open_table(RECORDS)?.get(id)?.map(|value| value.value().to_vec()),
        Change::Index(key) => txn.open_table(INDEX)?.get(&key)?.map(|value| vec![value.value()]),
        Change::Segment(number) => txn.open_table(SEGMENTS)?.get(number)?.map(|value| value.value().to_vec()),
        Change::Undelivered(key) => txn.open_table(UNDELIVERED)?.get(&key)?.map(|value| value.value().to_vec()),
        Change::ByLast(id) => txn.open_table(BY_LAST)?.get(id)?.map(|value| value.value().to_vec()),
    })
}

/// Puts what [`page`] gave; the large tables by pages that are full.
fn put_page(txn: &WriteTransaction, page: &[(Change, Vec<u8>)]) -> Result<(), redb::Error> {
    match page.first() {
        Some((Change::Record(_), _)) => {
            let records =
                page.iter().filter_map(|(key, value)| if let Change::Record(id) = key { Some((*id, value.as_slice())) } else { None });
            insert_rising(&mut txn.open_table(RECORDS)?, &records.collect::<Vec<_>>())?;
        }
        Some((Change::Index(_), _)) => {
            let entries =
                page.iter().filter_map(|(key, value)| if let Change::Index(key) = key { Some((key, *value.first()?)) } else { None });
            insert_rising(&mut txn.open_table(INDEX)?, &entries.collect::<Vec<_>>())?;
        }
        Some((Change::Segment(_) | Change::Undelivered(_) | Change::ByLast(_), _)) | None => {
            for (key, value) in page {
                put(txn, *key, Some(value))?;
            }
        }
    }
    Ok(())
}

fn put(txn: &WriteTransaction, key: Change, value: Option<&[u8]>) -> Result<(), redb::Error> {
    match (key, value) {
        (Change::Record(id), Some(value)) => drop(txn.open_table(RECORDS)?.insert(id, value)?),
        (Change::Record(id), None) => drop(txn.open_table(RECORDS)?.remove(id)?),
        (Change::Index(key), Some(value)) => drop(txn.open_table(INDEX)?.insert(&key, value.first().copied().unwrap_or_default())?),
        (Change::Index(key), None) => drop(txn.open_table(INDEX)?.remove(&key)?),
        (Change::Segment(number), Some(value)) => drop(txn.open_table(SEGMENTS)?.insert(number, value)?),
        (Change::Segment(number), None) => drop(txn.open_table(SEGMENTS)?.remove(number)?),
        (Change::Undelivered(key), Some(value)) => drop(txn.open_table(UNDELIVERED)?.insert(&key, value)?),
        (Change::Undelivered(key), None) => drop(txn.open_table(UNDELIVERED)?.remove(&key)?),
        (Change::ByLast(id), value) => match value.and_then(<[u8]>::first_chunk::<16>) {
            Some(message) => drop(txn.open_table(BY_LAST)?.insert(id, message)?),
            None => drop(txn.open_table(BY_LAST)?.remove(id)?),
        },
    }
    Ok(())
}

impl Writer {
    /// The pause at the end of a rewrite: the last changes, the summary, and the new file under the store's name.
    pub(super) fn swap(&mut self, new: Database) -> Result<Option<Database>, Fault> {
        let shared = std::sync::Arc::clone(&self.shared);
        let files = &shared.files;
        let changes = shared.changes().ok_or_else(void)?;
        catch_up(&shared, &new, &changes)?;
        let mut state = self.state;
        // What was removed while the copy ran may stand in the new file's free pages.
        state.stale_since_ms = if self.removed { super::shared::now_ms() } else { 0 };
        let txn = new.begin_write().map_err(redb::Error::from)?;
        // Opening makes the tables that had nothing to copy.
        let nothing_new = Tail::default();
        let mut tables = Tables::open(&txn, shared.index_key, &nothing_new, state)?;
        tables.set_meta(FORMAT, &STORE_VERSION.to_le_bytes())?;
        tables.set_meta(INDEX_KEY, &shared.index_key.check())?;
        tables.set_meta(JOURNAL, &self.journal.epoch().to_le_bytes())?;
        let state = tables.finish()?.state;
        txn.commit().map_err(redb::Error::from)?;
        shared.tuning.reach(Step::Synced);
        files.disk.rename(&files.rewritten(), &files.path)?;
        shared.unwatch();
        // From here on the new file is the store, whatever else fails.
        let old = shared.database_mut().replace(new);
        shared.checkpointed.store(false, Ordering::Release);
        self.state = state;
        shared.set_state(state);
        shared.tuning.reach(Step::Renamed);
        files.disk.sync_directory(files.directory())?;
        self.journal.wipe()?;
        self.stat = files.stat()?;
        shared.stats.store.file_bytes.set(self.stat.length);
        Ok(old)
    }
}
